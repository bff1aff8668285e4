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

use super::codec::{self, Error, Reader, put_bytes, put_varint, unzigzag, zigzag};
use crate::domain::{AppId, EventTime, ResponseTime};
use bytes::Bytes;
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

const LAYOUT: &str = "batch";
const VERSION: u8 = 1;

/// Largest batch in bytes. The usual body of 16 MiB makes less than 3 MiB for all partitions together; only a body of
/// many long app ids of one partition goes beyond, and is refused as too large.
pub const BATCH_BYTES_MAX: usize = 4 << 20;

/// Units that values may be scaled by: 1 ns to 1 ms.
const SCALES: [u64; 7] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000];

/// Collects events and encodes them.
#[derive(Default)]
pub struct BatchBuilder {
    /// Indexes of `apps`, by the hash of their name.
    index: HashTable<u32>,
    apps: Vec<AppGroup>,
    /// The app ids, one after the other.
    names: String,
    /// Group, time and value of each event, in order of arrival.
    events: Vec<(u32, EventTime, ResponseTime)>,
    /// The group of the last event: lines of one app tend to follow each other.
    last: Option<u32>,
}

struct AppGroup {
    hash: u64,
    name: std::ops::Range<u32>,
    events: u32,
}

impl BatchBuilder {
    /// Adds an event. `app_id` must be one ([`AppId::check`]).
    pub fn add(&mut self, app_id: &str, time: EventTime, value: ResponseTime) {
        let group = match self.last {
            Some(last) if self.name(last) == app_id => last,
            _ => self.group_of(app_id),
        };
        self.last = Some(group);
        self.apps[group as usize].events += 1;
        self.events.push((group, time, value));
    }

    /// How many events it holds.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Encodes all events and leaves the builder empty.
    pub fn finish(&mut self) -> Bytes {
        let scale = scale_of(&self.events);
        let mut out = codec::begin(VERSION);
        out.reserve(self.names.len() + self.apps.len() * 4 + self.events.len() * 10);
        out.push(u8::try_from(scale).expect("a scale index"));
        put_varint(&mut out, self.apps.len() as u128);
        let mut starts = Vec::with_capacity(self.apps.len());
        let mut start = 0;
        for app in &self.apps {
            put_bytes(&mut out, &self.names.as_bytes()[app.name.start as usize..app.name.end as usize]);
            put_varint(&mut out, u128::from(app.events));
            starts.push(start);
            start += app.events as usize;
        }
        let grouped = self.grouped(starts);
        let mut before = 0;
        for (time, _) in &grouped {
            let time = time.0.cast_signed();
            put_varint(&mut out, u128::from(zigzag(time.wrapping_sub(before))));
            before = time;
        }
        for (_, value) in &grouped {
            put_varint(&mut out, u128::from(value.0 / SCALES[scale]));
        }
        self.clear();
        codec::seal(out)
    }

    fn name(&self, group: u32) -> &str {
        let name = &self.apps[group as usize].name;
        &self.names[name.start as usize..name.end as usize]
    }

    fn group_of(&mut self, app_id: &str) -> u32 {
        let hash = index_hash(app_id);
        let found = self.index.find(hash, |group| self.name(*group) == app_id).copied();
        found.unwrap_or_else(|| {
            let group = u32::try_from(self.apps.len()).expect("fewer apps than u32::MAX");
            let start = u32::try_from(self.names.len()).expect("names of one request");
            self.names.push_str(app_id);
            let end = u32::try_from(self.names.len()).expect("names of one request");
            self.apps.push(AppGroup { hash, name: start..end, events: 0 });
            self.index.insert_unique(hash, group, |group| self.apps[*group as usize].hash);
            group
        })
    }

    /// The events app by app (a counting sort: stable, one pass).
    fn grouped(&self, mut starts: Vec<usize>) -> Vec<(EventTime, ResponseTime)> {
        let mut grouped = vec![(EventTime(0), ResponseTime(0)); self.events.len()];
        for (group, time, value) in &self.events {
            let place = &mut starts[*group as usize];
            grouped[*place] = (*time, *value);
            *place += 1;
        }
        grouped
    }

    fn clear(&mut self) {
        self.index.clear();
        self.apps.clear();
        self.names.clear();
        self.events.clear();
        self.last = None;
    }
}

/// The hash of an app id for the index.
///
/// Not the plain one: its low bits are the slot, and the apps of one builder are those of one partition's slots. A table
/// that places by the low bits would crowd them into a few places (measured with a sixth of the slots and 1,000 apps: 49 ns
/// a look-up, 8 ns with the halves swapped).
fn index_hash(app_id: &str) -> u64 {
    xxh3_64(app_id.as_bytes()).rotate_left(32)
}

/// The largest scale that divides all values.
fn scale_of(events: &[(u32, EventTime, ResponseTime)]) -> usize {
    let mut scale = SCALES.len() - 1;
    for (_, _, value) in events {
        while value.0 % SCALES[scale] != 0 {
            scale -= 1;
        }
        if scale == 0 {
            break;
        }
    }
    scale
}

/// A checked batch.
pub struct Batch<'a> {
    scale: u64,
    apps: usize,
    directory: Reader<'a>,
    times: Reader<'a>,
    values: Reader<'a>,
    events: u64,
}

impl<'a> Batch<'a> {
    /// Checks the whole batch: after this, folding it cannot fail.
    pub fn decode(bytes: &'a [u8]) -> Result<Batch<'a>, Error> {
        if bytes.len() > BATCH_BYTES_MAX {
            return Err(Error::TooLarge(LAYOUT, BATCH_BYTES_MAX));
        }
        let mut reader = codec::open(LAYOUT, VERSION, bytes)?;
        let scale = *SCALES.get(usize::from(reader.byte()?)).ok_or(reader.invalid("scale"))?;
        let apps = reader.length()?;
        let directory = reader.clone();
        let mut events = 0u64;
        for _ in 0..apps {
            AppId::check(reader.text()?).map_err(|_| reader.invalid("app id"))?;
            let count = reader.varint()?;
            events = events.checked_add(count).ok_or(reader.invalid("count"))?;
            if count == 0 || events > reader.remaining() as u64 {
                return Err(reader.invalid("count"));
            }
        }
        let times = reader.clone();
        check_times(&mut reader, events)?;
        let values = reader.clone();
        for _ in 0..events {
            let value = reader.varint()?.checked_mul(scale);
            if value.is_none_or(|value| value > ResponseTime::MAX.0) {
                return Err(reader.invalid("value"));
            }
        }
        reader.end()?;
        Ok(Batch { scale, apps, directory, times, values, events })
    }

    /// How many events it holds.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Hands over each app with its events.
    pub fn for_each_app(mut self, mut fold: impl FnMut(&'a str, &mut dyn Iterator<Item = (EventTime, ResponseTime)>)) {
        const CHECKED: &str = "decode has read all of it";
        let mut before = 0i64;
        for _ in 0..self.apps {
            let app_id = self.directory.text().expect(CHECKED);
            let count = self.directory.varint().expect(CHECKED);
            let mut events = (0..count).map(|_| {
                before = before.wrapping_add(unzigzag(self.times.varint().expect(CHECKED)));
                let value = self.values.varint().expect(CHECKED) * self.scale;
                (EventTime(before.cast_unsigned()), ResponseTime(value))
            });
            fold(app_id, &mut events);
            // What the fold left over still stands before the next app's events.
            events.for_each(drop);
        }
    }
}

fn check_times(reader: &mut Reader<'_>, events: u64) -> Result<(), Error> {
    let end = EventTime::end().0;
    let mut before = 0i64;
    for _ in 0..events {
        before = before.wrapping_add(unzigzag(reader.varint()?));
        if before.cast_unsigned() >= end {
            return Err(reader.invalid("time"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::golden;
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
            events.extend(group.map(|(time, value)| (app.to_owned(), time.0, value.0)));
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
