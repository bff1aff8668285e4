//! A batch: events in columns, grouped by app. What travels from the node that parsed them to every replica's log.
//!
//! | field | size | meaning |
//! |---|---|---|
//! | version | 1 | 1 |
//! | checksum | 4 | CRC32C of the version and of all that follows, little endian |
//! | scale | 1 | 0..=6: values are in units of 10^scale ns |
//! | apps | varint | how many groups follow in the directory |
//! | directory | per app | length (varint) and bytes of the app id, number of its events (varint, at least 1) |
//! | times | per event | ms since the epoch, difference to the one before (first: to 0), zigzag varint; app by app |
//! | values | per event | response time in units of the scale, varint; app by app |
//!
//! Within an app, events stand in the order they were added. The builder puts each app into the directory once; a reader
//! does not rely on it and hands the groups over one by one.

mod builder;
mod names;
mod split;

pub use builder::BatchBuilder;

use super::codec::{self, Error, Reader, unzigzag};
use crate::domain::{AppId, EventTime, ResponseTime};

const LAYOUT: &str = "batch";
const VERSION: u8 = 1;

/// Largest batch in bytes. The usual body of 16 MiB makes less than 3 MiB for all partitions together; only a body of
/// many long app ids of one partition goes beyond, and is refused as too large.
pub const BATCH_BYTES_MAX: usize = 4 << 20;

/// Units that values may be scaled by: 1 ns to 1 ms.
const SCALES: [u64; 7] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000];

/// A checked batch.
pub struct Batch<'a> {
    apps: usize,
    directory: Reader<'a>,
    events: Vec<(EventTime, ResponseTime)>,
}

impl<'a> Batch<'a> {
    /// Checks and reads the whole batch: after this, folding it cannot fail.
    pub fn decode(bytes: &'a [u8]) -> Result<Batch<'a>, Error> {
        if bytes.len() > BATCH_BYTES_MAX {
            return Err(Error::TooLarge(LAYOUT, BATCH_BYTES_MAX));
        }
        let mut reader = codec::open(LAYOUT, VERSION, bytes)?;
        let scale = *SCALES.get(usize::from(reader.byte()?)).ok_or(reader.invalid("scale"))?;
        let apps = reader.length()?;
        let directory = reader.clone();
        let mut count = 0u64;
        for _ in 0..apps {
            AppId::check(reader.text()?).map_err(|_| reader.invalid("app id"))?;
            let events = reader.varint()?;
            count = count.checked_add(events).ok_or(reader.invalid("count"))?;
            if events == 0 || count > reader.remaining() as u64 {
                return Err(reader.invalid("count"));
            }
        }
        let mut events = take_times(&mut reader, count)?;
        take_values(&mut reader, &mut events, scale)?;
        reader.end()?;
        Ok(Batch { apps, directory, events })
    }

    /// How many events it holds.
    pub fn events(&self) -> u64 {
        self.events.len() as u64
    }

    /// All events, app by app.
    pub fn times(&self) -> impl Iterator<Item = EventTime> + '_ {
        self.events.iter().map(|(time, _)| *time)
    }

    /// Hands over each app with its events.
    pub fn for_each_app(self, mut fold: impl FnMut(&'a str, &[(EventTime, ResponseTime)])) {
        let mut rest = &self.events[..];
        self.for_each_group(|app_id, count| {
            let (events, others) = rest.split_at(count);
            rest = others;
            fold(app_id, events);
        });
    }

    /// Hands over each app with the number of its events.
    fn for_each_group(&self, mut take: impl FnMut(&'a str, usize)) {
        const CHECKED: &str = "decode has read all of it";
        let mut directory = self.directory.clone();
        for _ in 0..self.apps {
            let app_id = directory.text().expect(CHECKED);
            take(app_id, directory.length().expect(CHECKED));
        }
    }
}

/// The column of times; values are zero yet. `count` is at most the number of bytes that are left.
fn take_times(reader: &mut Reader<'_>, count: u64) -> Result<Vec<(EventTime, ResponseTime)>, Error> {
    let end = EventTime::end().0;
    let count = usize::try_from(count).map_err(|_| reader.invalid("count"))?;
    let mut events = Vec::with_capacity(count);
    let mut before = 0i64;
    for _ in 0..count {
        before = before.wrapping_add(unzigzag(reader.varint()?));
        if before.cast_unsigned() >= end {
            return Err(reader.invalid("time"));
        }
        events.push((EventTime(before.cast_unsigned()), ResponseTime(0)));
    }
    Ok(events)
}

fn take_values(reader: &mut Reader<'_>, events: &mut [(EventTime, ResponseTime)], scale: u64) -> Result<(), Error> {
    let most = ResponseTime::MAX.0 / scale;
    for (_, value) in events {
        let scaled = reader.varint()?;
        if scaled > most {
            return Err(reader.invalid("value"));
        }
        *value = ResponseTime(scaled * scale);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::golden;
    use bytes::Bytes;
    use proptest::prelude::*;

    type Events = Vec<(String, u64, u64)>;

    fn encode(events: &Events) -> Bytes {
        let mut builder = BatchBuilder::default();
        for (app, time, value) in events {
            builder.add(app, EventTime(*time), ResponseTime(*value));
        }
        builder.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Events, Error> {
        let mut events = Vec::new();
        Batch::decode(bytes)?.for_each_app(|app, group| {
            events.extend(group.iter().map(|(time, value)| (app.to_owned(), time.0, value.0)));
        });
        Ok(events)
    }

    fn events() -> impl Strategy<Value = Events> {
        let time = 0u64..EventTime::end().0;
        let value = (0u64..=100_000_000_000, 0usize..7).prop_map(|(value, scale)| value * SCALES[scale]);
        prop::collection::vec(("[a-c]{1,2}", time, value), 0..100)
    }

    #[test]
    fn layout_never_changes() {
        let events = vec![
            ("checkout".to_owned(), 1_795_464_903_123, 12_750_000),
            ("search".to_owned(), 1_795_464_903_125, 900_000),
            ("checkout".to_owned(), 1_795_464_903_001, 0),
        ];
        golden::check("batch-v1", &encode(&events));
        assert_eq!(decode(&golden::read("batch-v1")).unwrap()[2], events[1]);
    }

    proptest! {
        #[test]
        fn events_come_back_grouped_by_app(events in events()) {
            let bytes = encode(&events);
            let mut expected = Vec::new();
            let mut seen = Vec::new();
            for (app, _, _) in &events {
                if !seen.contains(app) {
                    seen.push(app.clone());
                    expected.extend(events.iter().filter(|event| event.0 == *app).cloned());
                }
            }
            prop_assert_eq!(decode(&bytes), Ok(expected));
        }

        #[test]
        fn any_flipped_bit_is_refused(events in events(), place: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = encode(&events).to_vec();
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_behind_a_good_checksum_are_read_without_panic(bytes: Vec<u8>) {
            let mut sealed = codec::begin(VERSION);
            sealed.extend_from_slice(&bytes);
            let _ = decode(&codec::seal(sealed));
        }
    }
}
