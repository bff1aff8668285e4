//! A whole request, read: one batch for each partition that it has events for, and what was refused.

use super::body::{self, Kind};
use super::ndjson::Parser;
use super::reason::Reason;
use crate::domain::{TimeLimits, slot_of};
use crate::format::{BATCH_BYTES_MAX, BatchBuilder};
use bytes::Bytes;
use cluster::PartitionId;
use std::collections::BTreeMap;

/// Refused lines that can be listed in an answer; the rest is only counted. As many as `hourmark send` puts into a body.
pub const REJECTIONS_LISTED_MAX: usize = 16_384;

/// The events of one request that go to one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartitionEvents {
    /// How many there are.
    pub events: u32,
    /// Their [batch](crate::format::Batch); empty if there are none.
    pub batch: Bytes,
}

/// The lines that were refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rejections {
    /// How many.
    pub count: u64,
    /// Number and reason of the first [`REJECTIONS_LISTED_MAX`].
    pub listed: Vec<(u64, Reason)>,
    /// Whether other limits of event time could have spared one.
    pub depend_on_time: bool,
}

impl Rejections {
    fn add(&mut self, line: u64, reason: Reason) {
        self.count += 1;
        self.depend_on_time |= matches!(reason, Reason::TimestampInFuture | Reason::TimestampOutOfRange);
        if self.listed.len() < REJECTIONS_LISTED_MAX {
            self.listed.push((line, reason));
        }
    }
}

/// A request that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Partitions without events are not in it.
    pub partitions: BTreeMap<PartitionId, PartitionEvents>,
    /// What was refused.
    pub rejections: Rejections,
}

/// A request has more events for one partition than a batch may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the events for one partition take {bytes} bytes, more than {BATCH_BYTES_MAX}")]
pub struct BatchTooLarge {
    /// What they take.
    pub bytes: usize,
}

impl Request {
    /// Reads a decompressed body. `slots`: the partition of each slot.
    ///
    /// Events of usual names take a tenth of their line in a batch, but an app id is kept as it is: a body of nothing but
    /// long names that are all different can exceed a batch if one partition gets all of them. It is refused here, where
    /// the client can still be told.
    pub fn read(body: &[u8], kind: Kind, limits: TimeLimits, slots: &[PartitionId]) -> Result<Request, BatchTooLarge> {
        let mut builders: Vec<BatchBuilder> = Vec::new();
        let mut rejections = Rejections::default();
        let mut parser = Parser::new(limits);
        let outcome = body::read(body, kind, &mut parser, |line, verdict| match verdict {
            Ok(event) => {
                let partition = usize::from(slots[usize::from(slot_of(&event.app_id))].0);
                if partition >= builders.len() {
                    builders.resize_with(partition + 1, BatchBuilder::default);
                }
                builders[partition].add(&event.app_id, event.time, event.response_time);
            }
            Err(reason) => rejections.add(line, reason),
        });
        if let Err(reason) = outcome {
            let mut rejections = Rejections::default();
            rejections.add(1, reason);
            return Ok(Request { partitions: BTreeMap::new(), rejections });
        }
        let mut partitions = BTreeMap::new();
        for (partition, builder) in (0..).map(PartitionId).zip(&mut builders) {
            if !builder.is_empty() {
                partitions.insert(partition, PartitionEvents::finish(builder)?);
            }
        }
        Ok(Request { partitions, rejections })
    }
}

impl PartitionEvents {
    fn finish(builder: &mut BatchBuilder) -> Result<PartitionEvents, BatchTooLarge> {
        let events = u32::try_from(builder.len()).expect("a body has fewer than 2^32 lines");
        let batch = builder.finish();
        if batch.len() > BATCH_BYTES_MAX {
            return Err(BatchTooLarge { bytes: batch.len() });
        }
        Ok(PartitionEvents { events, batch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::SLOTS;
    use crate::format::Batch;

    impl Request {
        fn events(&self) -> u64 {
            self.partitions.values().map(|part| u64::from(part.events)).sum()
        }
    }

    fn line(app_id: &str, time: u64, response_time: u64) -> String {
        format!(r#"{{"app_id":"{app_id}","timestamp":{time},"response_time_ms":{response_time}}}"#)
    }

    fn slots(partitions: u16) -> Vec<PartitionId> {
        (0..SLOTS).map(|slot| PartitionId(slot % partitions)).collect()
    }

    fn read(body: &str, kind: Kind, partitions: u16) -> Result<Request, BatchTooLarge> {
        Request::read(body.as_bytes(), kind, TimeLimits::NONE, &slots(partitions))
    }

    fn events(batch: &[u8]) -> Vec<(String, u64, u64)> {
        let mut all = Vec::new();
        Batch::decode(batch).unwrap().for_each_app(|app_id, events| {
            all.extend(events.map(|(time, value)| (app_id.to_owned(), time.0, value.0)));
        });
        all
    }

    #[test]
    fn each_event_goes_to_the_partition_of_its_app() {
        let lines: Vec<String> = (0..100).map(|i| line(&format!("app-{}", i % 10), i, i)).collect();
        let request = read(&lines.join("\n"), Kind::Lines, 4).unwrap();
        assert_eq!(request.events(), 100);
        assert_eq!(request.rejections, Rejections::default());
        let mut seen = 0;
        for (partition, part) in &request.partitions {
            let events = events(&part.batch);
            assert_eq!(events.len(), part.events as usize);
            seen += events.len();
            for (app_id, time, value) in events {
                assert_eq!(slot_of(&app_id) % 4, partition.0);
                assert_eq!((app_id, value), (format!("app-{}", time % 10), time * 1_000_000));
            }
        }
        assert_eq!(seen, 100);
    }

    #[test]
    fn all_rejections_are_counted_and_the_first_ones_listed() {
        let bad = REJECTIONS_LISTED_MAX + 50;
        let body = format!("{}\n{}\n{}", line("a", 0, 1), "x\n".repeat(bad), line("a", 0, 1));
        let request = read(&body, Kind::Lines, 4).unwrap();
        assert_eq!((request.events(), request.rejections.count), (2, bad as u64));
        let expected: Vec<_> = (0..REJECTIONS_LISTED_MAX as u64).map(|line| (line + 2, Reason::InvalidJson)).collect();
        assert!(request.rejections.listed == expected);
    }

    #[test]
    fn a_flawed_array_leaves_no_events() {
        let body = format!("[{},", line("a", 0, 1));
        let request = read(&body, Kind::Json, 4).unwrap();
        assert_eq!(request.partitions, BTreeMap::new());
        assert_eq!(request.rejections.listed, [(1, Reason::InvalidJson)]);
    }

    #[test]
    fn long_names_that_are_all_different_may_be_too_much_for_one_partition() {
        let lines: Vec<String> = (0..50_000).map(|i| line(&format!("{i:0256}"), i, i)).collect();
        let body = lines.join("\n");
        assert!(body.len() < 16 << 20);
        assert!(read(&body, Kind::Lines, 1).unwrap_err().bytes > BATCH_BYTES_MAX);
        assert_eq!(read(&body, Kind::Lines, 4).unwrap().events(), 50_000);
    }

    #[test]
    fn short_names_fit_a_batch_however_many() {
        let mut body = String::new();
        for i in 0.. {
            // Times that jump and values with all digits are the most an event can take.
            let line = line(&format!("{i:x}"), i * 7_919_000_017 % 9_000_000_000_000, i * 77_777_777 % 99_999_999_999);
            if body.len() + line.len() >= 16 << 20 {
                break;
            }
            body.push_str(&line);
            body.push('\n');
        }
        let request = read(&body, Kind::Lines, 1).unwrap();
        assert!(request.events() > 190_000);
        assert!(request.partitions[&PartitionId(0)].batch.len() < BATCH_BYTES_MAX);
    }
}
