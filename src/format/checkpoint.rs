//! A checkpoint: what a stretch of the log adds to the stored rollups.
//!
//! A sealed layout (version 1, CRC32C) of:
//!
//! | field | size | meaning |
//! |---|---|---|
//! | base | varint | 0 = nothing consumed yet, else the offset it builds on plus one |
//! | through | varint | the offset it reaches |
//! | watermark | varint | event time reached, ms since the epoch |
//! | counted, duplicate, quarantined | varints | what became of the stretch's events |
//! | apps | varint | how many follow, ascending by app id |
//! | app | each | app id (length, bytes), number of hours (varint), then per hour: hours since the epoch as difference to the hour before (first: to 0; varint), a [rollup](super::rollup) |
//! | quarantined entries | varint | how many follow |
//! | quarantined entry | each | offset (varint), events (varint), reason and payload (length, bytes) |

use super::codec::{self, Error, Reader, put_bytes, put_varint};
use super::rollup;
use crate::domain::{AppId, Hour, Rollup};
use bytes::Bytes;

/// How many times the bytes of its batch an event takes in a checkpoint, at most. The least favourable batch is one of short
/// app ids with an event each and values of whole milliseconds: id, count, time and value take six bytes there, and
/// fourteen as a delta, which names the hour and has its value in nanoseconds.
pub const DELTA_RATIO: usize = 3;

const LAYOUT: &str = "checkpoint";
const VERSION: u8 = 1;

/// What a stretch of the log adds to the stored rollups.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Checkpoint {
    /// The `consumed` offset that it builds on, `None` for the empty state. Applied only where that is the stored one.
    pub base: Option<u64>,
    /// The `consumed` offset that it reaches.
    pub through: u64,
    /// Event time reached, ms since the epoch.
    pub watermark_ms: u64,
    /// What became of the events in between.
    pub tally: Tally,
    /// What to merge, ascending by app and hour, each pair once.
    pub deltas: Vec<(AppId, Hour, Rollup)>,
    /// Entries that could not be folded.
    pub quarantined: Vec<Quarantined>,
}

/// What became of the events of a stretch of the log. All three together are the events in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// In rollups.
    pub counted: u64,
    /// In parts that do not count: retries and refused parts.
    pub duplicate: u64,
    /// In quarantined entries.
    pub quarantined: u64,
}

/// An entry that could not be folded, set aside whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Where it stood in the log.
    pub offset: u64,
    /// Events in it.
    pub events: u64,
    /// Why.
    pub reason: String,
    /// Its bytes.
    pub payload: Bytes,
}

impl Tally {
    /// All events.
    pub fn total(self) -> u64 {
        self.counted + self.duplicate + self.quarantined
    }
}

impl Checkpoint {
    /// Writes it.
    pub fn encode(&self) -> Bytes {
        let mut out = codec::begin(VERSION);
        put_varint(&mut out, self.base.map_or(0, |base| u128::from(base) + 1));
        for number in
            [self.through, self.watermark_ms, self.tally.counted, self.tally.duplicate, self.tally.quarantined]
        {
            put_varint(&mut out, u128::from(number));
        }
        let apps = self.deltas.chunk_by(|one, other| one.0 == other.0);
        put_varint(&mut out, apps.clone().count() as u128);
        for hours in apps {
            put_bytes(&mut out, hours[0].0.as_str().as_bytes());
            put_varint(&mut out, hours.len() as u128);
            let mut before = 0;
            for (_, hour, delta) in hours {
                put_varint(&mut out, u128::from(hour.0 - before));
                before = hour.0;
                rollup::put(&mut out, delta);
            }
        }
        put_varint(&mut out, self.quarantined.len() as u128);
        for entry in &self.quarantined {
            put_varint(&mut out, u128::from(entry.offset));
            put_varint(&mut out, u128::from(entry.events));
            put_bytes(&mut out, entry.reason.as_bytes());
            put_bytes(&mut out, &entry.payload);
        }
        codec::seal(out)
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Checkpoint, Error> {
        let mut reader = CheckpointReader::new(bytes)?;
        let mut deltas = Vec::new();
        while let Some((app, hour, delta)) = reader.next_delta()? {
            deltas.push((app.clone(), hour, delta));
        }
        Ok(Checkpoint { deltas, ..reader.finish()? })
    }

    /// What stands before the deltas, and the rest unread.
    fn open(bytes: &[u8]) -> Result<(Checkpoint, Reader<'_>), Error> {
        let mut reader = codec::open(LAYOUT, VERSION, bytes)?;
        let base = reader.varint()?.checked_sub(1);
        let (through, watermark_ms) = (reader.varint()?, reader.varint()?);
        let tally = Tally { counted: reader.varint()?, duplicate: reader.varint()?, quarantined: reader.varint()? };
        Ok((Checkpoint { base, through, watermark_ms, tally, ..Checkpoint::default() }, reader))
    }
}

/// Reads a checkpoint's deltas one by one, because all of them together are large, and then the rest of it. Until
/// [`CheckpointReader::finish`] has found all of it sound, what was read means nothing.
pub struct CheckpointReader<B> {
    bytes: B,
    /// How many bytes at the end have not been read.
    unread: usize,
    head: Checkpoint,
    apps_left: usize,
    /// The app whose hours are being read.
    app: Option<AppId>,
    hours_left: usize,
    /// The last hour of it that was read.
    hour: Option<Hour>,
}

impl<B: AsRef<[u8]>> CheckpointReader<B> {
    /// Checks the checksum, and reads what stands before the deltas.
    pub fn new(bytes: B) -> Result<CheckpointReader<B>, Error> {
        let (head, mut reader) = Checkpoint::open(bytes.as_ref())?;
        let apps_left = reader.length()?;
        let unread = reader.remaining();
        Ok(CheckpointReader { bytes, unread, head, apps_left, app: None, hours_left: 0, hour: None })
    }

    /// How many bytes have not been read.
    pub fn remaining(&self) -> usize {
        self.unread
    }

    /// The next delta, `None` behind the last.
    pub fn next_delta(&mut self) -> Result<Option<(&AppId, Hour, Rollup)>, Error> {
        let mut reader = reader_at(&self.bytes, self.unread);
        if self.hours_left == 0 {
            let Some(apps_left) = self.apps_left.checked_sub(1) else { return Ok(None) };
            let app = AppId::new(reader.text()?).map_err(|_| reader.invalid("app id"))?;
            if self.app.as_ref().is_some_and(|before| *before >= app) {
                return Err(reader.invalid("order of apps"));
            }
            (self.apps_left, self.app, self.hour) = (apps_left, Some(app), None);
            self.hours_left = reader.length()?;
        }
        self.hours_left = self.hours_left.checked_sub(1).ok_or(reader.invalid("number of hours"))?;
        let hour = u64::from(self.hour.map_or(0, |before| before.0)).checked_add(reader.varint()?);
        let hour = hour.and_then(|hour| u32::try_from(hour).ok()).map(Hour);
        let hour = hour.filter(|hour| self.hour.is_none_or(|before| before < *hour)).ok_or(reader.invalid("hour"))?;
        self.hour = Some(hour);
        let delta = rollup::take(&mut reader)?;
        self.unread = reader.remaining();
        Ok(self.app.as_ref().map(|app| (app, hour, delta)))
    }

    /// What stands before deltas and quarantined entries, which are left out.
    pub fn head(&self) -> &Checkpoint {
        &self.head
    }

    /// All but the deltas, once the last of them has been read.
    pub fn finish(&self) -> Result<Checkpoint, Error> {
        let mut reader = reader_at(&self.bytes, self.unread);
        let count = reader.length()?;
        if count > reader.remaining() {
            return Err(reader.invalid("number of quarantined entries"));
        }
        let quarantined = (0..count).map(|_| take_quarantined(&mut reader)).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Checkpoint { quarantined, ..self.head.clone() })
    }
}

/// Reads on where `unread` bytes are left.
fn reader_at<B: AsRef<[u8]>>(bytes: &B, unread: usize) -> Reader<'_> {
    let bytes = bytes.as_ref();
    Reader::new(LAYOUT, &bytes[bytes.len() - unread..])
}

fn take_quarantined(reader: &mut Reader<'_>) -> Result<Quarantined, Error> {
    Ok(Quarantined {
        offset: reader.varint()?,
        events: reader.varint()?,
        reason: reader.text()?.to_owned(),
        payload: Bytes::copy_from_slice(reader.bytes()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{EventTime, MS_PER_HOUR, ResponseTime};
    use crate::format::rollup::tests::rollup_of;
    use crate::format::{BatchBuilder, golden};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn checkpoint() -> Checkpoint {
        let app = |name| AppId::new(name).unwrap();
        Checkpoint {
            base: Some(41),
            through: 99,
            watermark_ms: 1_795_464_903_123,
            tally: Tally { counted: 4, duplicate: 2, quarantined: 1 },
            deltas: vec![
                (app("a"), Hour(498_739), rollup_of(&[5, 7])),
                (app("a"), Hour(498_740), rollup_of(&[0])),
                (app("b"), Hour(0), rollup_of(&[1_000_000])),
            ],
            quarantined: vec![Quarantined {
                offset: 77,
                events: 1,
                reason: "batch: checksum".to_owned(),
                payload: Bytes::from_static(b"\x01\x02"),
            }],
        }
    }

    #[test]
    fn layout_never_changes() {
        golden::check("checkpoint-v1", &checkpoint().encode());
        assert_eq!(Checkpoint::decode(&golden::read("checkpoint-v1")), Ok(checkpoint()));
    }

    #[test]
    fn any_flipped_bit_is_refused() {
        let good = checkpoint().encode();
        for place in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.to_vec();
                bytes[place] ^= 1 << bit;
                assert!(Checkpoint::decode(&bytes).is_err(), "byte {place}, bit {bit}");
            }
        }
    }

    #[test]
    fn unordered_deltas_are_refused() {
        let mut unordered = checkpoint();
        unordered.deltas.swap(1, 2);
        assert!(Checkpoint::decode(&unordered.encode()).is_err());
    }

    fn deltas() -> impl Strategy<Value = Vec<(AppId, Hour, Rollup)>> {
        let values = prop::collection::vec(0u64..1 << 56, 0..90);
        prop::collection::btree_map(("[a-c]{1,3}", any::<u32>()), values, 0..12).prop_map(|deltas| {
            let delta = |((app, hour), values): ((String, u32), Vec<u64>)| {
                (AppId::new(&app).unwrap(), Hour(hour), rollup_of(&values))
            };
            deltas.into_iter().map(delta).collect()
        })
    }

    /// What a run of events takes as a batch and as a checkpoint of its own.
    fn sizes(events: &[(String, u64, u64)]) -> (usize, usize) {
        let mut batch = BatchBuilder::default();
        let mut values: BTreeMap<(AppId, Hour), Vec<u64>> = BTreeMap::new();
        for (app, time, value) in events {
            let time = EventTime(*time);
            batch.add(app, time, ResponseTime(*value));
            values.entry((AppId::new(app).unwrap(), time.hour())).or_default().push(*value);
        }
        let deltas = values.into_iter().map(|((app, hour), values)| (app, hour, rollup_of(&values))).collect();
        (batch.finish().len(), Checkpoint { deltas, ..Checkpoint::default() }.encode().len())
    }

    #[test]
    fn the_deltas_of_a_batch_stay_within_their_ratio() {
        const MS: u64 = 1_000_000;
        let now = 1_795_464_903_123;
        // One byte each: nothing makes an event smaller in a batch.
        let app = |index: usize| char::from(b'!' + u8::try_from(index).unwrap()).to_string();
        let mut worst = 0;
        for apps in [1, 20, 60] {
            for hours in [1, 2, 9] {
                for values in [1, 2, 65] {
                    for unit in [1, MS] {
                        let events: Vec<_> = (0..apps * hours * values)
                            .map(|index| {
                                let (hour, value) = (index % hours, index % values);
                                (
                                    app(index % apps),
                                    now + hour as u64 * MS_PER_HOUR,
                                    value as u64 * 127 / values as u64 * unit,
                                )
                            })
                            .collect();
                        let (batch, checkpoint) = sizes(&events);
                        assert!(checkpoint <= DELTA_RATIO * batch, "{batch} bytes became {checkpoint}");
                        worst = worst.max(checkpoint * 100 / batch);
                    }
                }
            }
        }
        // Were it far below, the ratio would be too cautious.
        assert!(worst > 150, "{worst} %");
    }

    proptest! {
        #[test]
        fn checkpoints_round_trip(
            base: Option<u32>,
            numbers: [u64; 5],
            deltas in deltas(),
            quarantined in prop::collection::vec((any::<u64>(), any::<u64>(), ".{0,20}", any::<Vec<u8>>()), 0..3),
        ) {
            let [through, watermark_ms, counted, duplicate, quarantined_events] = numbers;
            let set_aside = |(offset, events, reason, payload): (u64, u64, String, Vec<u8>)| {
                Quarantined { offset, events, reason, payload: payload.into() }
            };
            let checkpoint = Checkpoint {
                base: base.map(u64::from),
                through,
                watermark_ms,
                tally: Tally { counted, duplicate, quarantined: quarantined_events },
                deltas,
                quarantined: quarantined.into_iter().map(set_aside).collect(),
            };
            let bytes = checkpoint.encode();
            let decoded = Checkpoint::decode(&bytes);
            prop_assert_eq!(decoded.as_ref(), Ok(&checkpoint));
            prop_assert_eq!(decoded.unwrap().encode(), bytes);
        }

        #[test]
        fn any_bytes_behind_a_good_checksum_are_read_without_panic(bytes: Vec<u8>) {
            let mut sealed = codec::begin(VERSION);
            sealed.extend_from_slice(&bytes);
            let _ = Checkpoint::decode(&codec::seal(sealed));
        }
    }
}
