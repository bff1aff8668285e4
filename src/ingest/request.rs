//! A whole request, read: one batch for each partition that it has events for, and what was refused.

use super::body::{self, Kind, Take, Text};
use super::ndjson::{Event, Parser, check_time};
use super::reason::Reason;
use crate::domain::{EventTime, ResponseTime, TimeLimits, slot_of};
use crate::format::{BATCH_BYTES_MAX, Batch, BatchBuilder};
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
}

impl Rejections {
    fn add(&mut self, line: u64, reason: Reason) {
        self.count += 1;
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
        Request::read_with(&mut BatchBuilder::default(), body, kind, limits, slots, |_| ())
    }

    /// [`Request::read`] with the memory of a builder. What that holds is forgotten; it is empty on return.
    ///
    /// `look` is shown the body in order, by blocks, each just before it is read: what else has to see every byte then costs a
    /// large body of lines one way from memory instead of two. A body of another kind is one block.
    pub fn read_with(
        builder: &mut BatchBuilder,
        body: &[u8],
        kind: Kind,
        limits: TimeLimits,
        slots: &[PartitionId],
        mut look: impl FnMut(&[u8]),
    ) -> Result<Request, BatchTooLarge> {
        builder.clear();
        let partition_of = |app_id: &str| slots[usize::from(slot_of(app_id))].0;
        let (batches, rejections) = match kind {
            Kind::Lines => read_text(builder, body, Text::Lines, limits, partition_of, look),
            Kind::Json => read_text(builder, body, Text::Json, limits, partition_of, look),
            Kind::Batch if body.len() > BATCH_BYTES_MAX => return Err(BatchTooLarge { bytes: body.len() }),
            Kind::Batch => {
                look(body);
                read_batch(body, limits, partition_of)
            }
        };
        let mut partitions = BTreeMap::new();
        for (partition, events, batch) in batches {
            if batch.len() > BATCH_BYTES_MAX {
                return Err(BatchTooLarge { bytes: batch.len() });
            }
            partitions.insert(PartitionId(partition), PartitionEvents { events, batch });
        }
        Ok(Request { partitions, rejections })
    }
}

/// Partition, number of events, batch.
type Batches = Vec<(u16, u32, Bytes)>;

/// Nothing of the body counts.
fn refused(reason: Reason) -> (Batches, Rejections) {
    let mut rejections = Rejections::default();
    rejections.add(1, reason);
    (Vec::new(), rejections)
}

fn read_text(
    builder: &mut BatchBuilder,
    body: &[u8],
    text: Text,
    limits: TimeLimits,
    partition_of: impl Fn(&str) -> u16,
    look: impl FnMut(&[u8]),
) -> (Batches, Rejections) {
    let mut reading = Reading { builder, rejections: Rejections::default(), look };
    let mut parser = Parser::new(limits);
    match body::read(body, text, &mut parser, &mut reading) {
        Ok(()) => (reading.builder.finish_by(partition_of), reading.rejections),
        Err(reason) => {
            reading.builder.clear();
            refused(reason)
        }
    }
}

/// A batch that a client made is checked whole; its events have the numbers of their places in it, from 1.
fn read_batch(body: &[u8], limits: TimeLimits, partition_of: impl Fn(&str) -> u16) -> (Batches, Rejections) {
    if body.is_empty() {
        return (Vec::new(), Rejections::default());
    }
    let Ok(batch) = Batch::decode(body) else { return refused(Reason::InvalidBatch) };
    let mut rejections = Rejections::default();
    for (number, time) in (1..).zip(batch.times()) {
        if let Err(reason) = check_time(&limits, time.0) {
            rejections.add(number, reason);
        }
    }
    (batch.split_by(partition_of, |time| check_time(&limits, time.0).is_ok()), rejections)
}

/// What has been read of a body so far.
struct Reading<'b, L> {
    builder: &'b mut BatchBuilder,
    rejections: Rejections,
    look: L,
}

impl<'a, L: FnMut(&[u8])> Take<'a> for &mut Reading<'_, L> {
    fn block(&mut self, bytes: &[u8]) {
        (self.look)(bytes);
    }

    #[inline]
    fn take_known(&mut self, app_id: &[u8], time: EventTime, response_time: ResponseTime) -> bool {
        self.builder.add_known(app_id, time, response_time)
    }

    fn take(&mut self, line: u64, verdict: Result<Event<'a>, Reason>) {
        match verdict {
            Ok(event) => self.builder.add(&event.app_id, event.time, event.response_time),
            Err(reason) => self.rejections.add(line, reason),
        }
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
            all.extend(events.iter().map(|(time, value)| (app_id.to_owned(), time.0, value.0)));
        });
        all
    }

    #[test]
    fn a_batch_is_read_as_its_lines_are() {
        let lines: Vec<_> = (0..300).map(|i| (format!("app-{}", i % 17), 1000 + i, i * i)).collect();
        let text: Vec<String> = lines.iter().map(|(app, time, value)| line(app, *time, *value)).collect();
        let mut batch = BatchBuilder::default();
        for (app, time, value) in &lines {
            batch.add(app, EventTime(*time), ResponseTime(value * 1_000_000));
        }
        let batch = batch.finish();
        let limits = TimeLimits { latest: EventTime(1200), ..TimeLimits::NONE };
        for (limits, refused) in [(TimeLimits::NONE, 0), (limits, 99)] {
            let of = |body: &[u8], kind| Request::read(body, kind, limits, &slots(4)).unwrap();
            let (from_text, from_batch) = (of(text.join("\n").as_bytes(), Kind::Lines), of(&batch, Kind::Batch));
            assert_eq!(from_batch.partitions, from_text.partitions);
            assert_eq!((from_batch.rejections.count, from_text.rejections.count), (refused, refused));
        }
        let request = Request::read(&batch, Kind::Batch, limits, &slots(4)).unwrap();
        let (number, reason) = request.rejections.listed[0];
        let mut times = Batch::decode(&batch).unwrap().times().map(|time| time.0).collect::<Vec<_>>().into_iter();
        assert_eq!(times.position(|time| time > 1200).unwrap() as u64 + 1, number);
        assert_eq!(reason, Reason::TimestampInFuture);
    }

    #[test]
    fn what_is_no_batch_counts_nothing() {
        let mut builder = BatchBuilder::default();
        builder.add("a", EventTime(1), ResponseTime(1));
        let good = builder.finish();
        let empty = Request::read(&[], Kind::Batch, TimeLimits::NONE, &slots(4)).unwrap();
        assert_eq!(empty, Request::default());
        for damaged in [&good[..good.len() - 1], &b"{}"[..], &[1]] {
            let request = Request::read(damaged, Kind::Batch, TimeLimits::NONE, &slots(4)).unwrap();
            assert!(request.partitions.is_empty());
            assert_eq!(request.rejections.listed, [(1, Reason::InvalidBatch)]);
        }
        let large = vec![1; BATCH_BYTES_MAX + 1];
        assert!(Request::read(&large, Kind::Batch, TimeLimits::NONE, &slots(4)).is_err());
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
    fn every_byte_is_shown_once_and_in_order_whatever_is_read() {
        let lines: Vec<String> = (0..5000).map(|i| line(&format!("app-{}", i % 17), i, i)).collect();
        let spaced = format!("{}{}", " ".repeat(200_000), lines.join("\n"));
        let mut batch = BatchBuilder::default();
        (0..300).for_each(|time| batch.add("a", EventTime(time), ResponseTime(time)));
        let batch = batch.finish();
        let bodies = [
            (lines.join("\n").as_bytes(), Kind::Lines, 5000),
            (spaced.as_bytes(), Kind::Lines, 5000),
            (format!("[{}]", lines.join(",")).as_bytes(), Kind::Json, 5000),
            (format!("[{},", lines[0]).as_bytes(), Kind::Json, 0),
            (&batch, Kind::Batch, 300),
            (&[], Kind::Batch, 0),
        ]
        .map(|(body, kind, events)| (body.to_vec(), kind, events));
        for (body, kind, events) in bodies {
            let mut shown = Vec::new();
            let look = |block: &[u8]| shown.extend_from_slice(block);
            let builder = &mut BatchBuilder::default();
            let request = Request::read_with(builder, &body, kind, TimeLimits::NONE, &slots(4), look).unwrap();
            assert!(shown == body, "{kind:?} of {events}");
            assert_eq!(request.events(), events);
        }
    }

    #[test]
    fn lines_of_a_large_body_keep_their_numbers() {
        let text = |number: u64| if number.is_multiple_of(700) { "x".to_owned() } else { line("a", number, number) };
        let lines: Vec<String> = (1..=5000).map(text).collect();
        let request = read(&lines.join("\n"), Kind::Lines, 4).unwrap();
        assert_eq!(request.events(), 4993);
        let refused: Vec<_> = (1..=7).map(|times| (times * 700, Reason::InvalidJson)).collect();
        assert_eq!(request.rejections.listed, refused);
    }

    #[test]
    fn a_flawed_array_leaves_no_events() {
        let body = format!("[{},", line("a", 0, 1));
        let request = read(&body, Kind::Json, 4).unwrap();
        assert_eq!(request.partitions, BTreeMap::new());
        assert_eq!(request.rejections.listed, [(1, Reason::InvalidJson)]);
    }

    #[test]
    fn a_builder_carries_nothing_over() {
        let (mut builder, limits, slots) = (BatchBuilder::default(), TimeLimits::NONE, slots(4));
        let long: Vec<String> = (0..300).map(|i| line(&format!("long-{i}"), i, i)).collect();
        let (long, flawed) = (long.join("\n"), format!("[{},", line("a", 0, 1)));
        let short = format!("{}\n{}", line("a", 7, 1), line("long-3", 8, 2));
        for (body, kind) in [(&long, Kind::Lines), (&short, Kind::Lines), (&flawed, Kind::Json), (&short, Kind::Lines)]
        {
            let again = Request::read_with(&mut builder, body.as_bytes(), kind, limits, &slots, |_| ());
            assert_eq!(again, Request::read(body.as_bytes(), kind, limits, &slots));
            assert!(builder.is_empty());
        }
        builder.add("left", EventTime(1), ResponseTime(1));
        let again = Request::read_with(&mut builder, short.as_bytes(), Kind::Lines, limits, &slots, |_| ()).unwrap();
        assert_eq!(again.events(), 2);
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
