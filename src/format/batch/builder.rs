//! Events to batches: names become numbers, events are grouped by them with a counting sort, then written column by column.

use super::names::Names;
use super::{SCALES, VERSION};
use crate::domain::{EventTime, ResponseTime};
use crate::format::codec::{self, VARINT_BYTES_MAX, put_bytes, put_varint, write_varint, zigzag};
use bytes::Bytes;

/// Collects events and encodes them, as one batch or one for each share of the apps.
#[derive(Default)]
pub struct BatchBuilder {
    names: Names,
    /// How many events each app has.
    counts: Vec<u32>,
    /// In order of arrival.
    events: Vec<Event>,
    /// Where events are grouped; what it holds is of no meaning between two batches.
    grouped: Vec<Grouped>,
}

/// An event, by the number of its app.
#[derive(Clone, Copy)]
struct Event {
    app: u32,
    time: EventTime,
    value: ResponseTime,
}

/// Time and response time of an event whose app is known by its place.
pub(super) type Grouped = (EventTime, ResponseTime);

impl BatchBuilder {
    /// Adds an event. `app_id` must be one ([`crate::domain::AppId::check`]).
    pub fn add(&mut self, app_id: &str, time: EventTime, value: ResponseTime) {
        let app = self.names.number(app_id.as_bytes());
        self.push(app, time, value);
    }

    /// Adds an event of an app that has events here already; false, and nothing added, if it has none.
    #[inline]
    pub fn add_known(&mut self, app_id: &[u8], time: EventTime, value: ResponseTime) -> bool {
        let found = self.names.find(app_id);
        if let Some(app) = found {
            self.push(app, time, value);
        }
        found.is_some()
    }

    /// How many events it holds.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Bytes of memory that it holds on to, empty or not.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.names.memory_bytes()
            + self.counts.capacity() * size_of::<u32>()
            + self.events.capacity() * size_of::<Event>()
            + self.grouped.capacity() * size_of::<Grouped>()
    }

    /// Encodes all events and leaves the builder empty.
    pub fn finish(&mut self) -> Bytes {
        let mut batches = self.finish_by(|_| 0);
        batches.pop().map_or_else(|| encode(&[], &[], 0), |(_, _, batch)| batch)
    }

    /// Encodes a batch for each share that has events, and leaves the builder empty: share, number of events, batch,
    /// ascending by share. `share_of` tells the share of an app.
    pub fn finish_by(&mut self, share_of: impl Fn(&str) -> u16) -> Vec<(u16, u32, Bytes)> {
        let apps = (0u32..).take(self.names.len());
        let share = |app| share_of(std::str::from_utf8(self.names.name(app)).expect("only texts are taken in"));
        let mut order: Vec<(u16, u32)> = apps.map(|app| (share(app), app)).collect();
        order.sort_unstable();
        self.group(&order);
        let mut rest = &self.grouped[..self.events.len()];
        let mut batches = Vec::new();
        for apps in order.chunk_by(|one, other| one.0 == other.0) {
            let directory: Vec<(&[u8], u32)> =
                apps.iter().map(|(_, app)| (self.names.name(*app), self.counts[*app as usize])).collect();
            let count: u32 = directory.iter().map(|(_, count)| count).sum();
            let (events, others) = rest.split_at(count as usize);
            rest = others;
            batches.push((apps[0].0, count, encode(&directory, events, self.names.total_bytes())));
        }
        self.clear();
        batches
    }

    /// Forgets all events, but keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.names.clear();
        self.counts.clear();
        self.events.clear();
    }

    #[inline]
    fn push(&mut self, app: u32, time: EventTime, value: ResponseTime) {
        match self.counts.get_mut(app as usize) {
            Some(count) => *count += 1,
            None => self.counts.push(1),
        }
        self.events.push(Event { app, time, value });
    }

    /// Groups the events app by app in this order (a counting sort: stable, one pass).
    fn group(&mut self, order: &[(u16, u32)]) {
        let mut starts = vec![0u32; self.counts.len()];
        let mut start = 0;
        for (_, app) in order {
            starts[*app as usize] = start;
            start += self.counts[*app as usize];
        }
        if self.grouped.len() < self.events.len() {
            self.grouped.resize(self.events.len(), (EventTime(0), ResponseTime(0)));
        }
        for Event { app, time, value } in &self.events {
            let place = &mut starts[*app as usize];
            self.grouped[*place as usize] = (*time, *value);
            *place += 1;
        }
    }
}

/// One batch of these apps, with their events app by app. `names_bytes`: at least what all names take.
pub(super) fn encode(directory: &[(&[u8], u32)], events: &[Grouped], names_bytes: usize) -> Bytes {
    let scale = scale_of(events);
    let mut out = codec::begin(VERSION);
    out.reserve(names_bytes + directory.len() * 4 + events.len() * 6);
    out.push(u8::try_from(scale).expect("a scale index"));
    put_varint(&mut out, directory.len() as u128);
    for (name, count) in directory {
        put_bytes(&mut out, name);
        put_varint(&mut out, u128::from(*count));
    }
    let mut before = 0;
    put_column(&mut out, events, |(time, _)| {
        let time = time.0.cast_signed();
        let delta = zigzag(time.wrapping_sub(before));
        before = time;
        delta
    });
    put_values(&mut out, events, scale);
    codec::seal(out)
}

/// Divisors that are known when it is compiled make divisions cheap.
fn put_values(out: &mut Vec<u8>, events: &[Grouped], scale: usize) {
    match scale {
        6 => put_column(out, events, |(_, value)| value.0 / SCALES[6]),
        5 => put_column(out, events, |(_, value)| value.0 / SCALES[5]),
        4 => put_column(out, events, |(_, value)| value.0 / SCALES[4]),
        3 => put_column(out, events, |(_, value)| value.0 / SCALES[3]),
        2 => put_column(out, events, |(_, value)| value.0 / SCALES[2]),
        1 => put_column(out, events, |(_, value)| value.0 / SCALES[1]),
        _ => put_column(out, events, |(_, value)| value.0),
    }
}

/// Appends a varint for each event.
#[inline]
fn put_column(out: &mut Vec<u8>, events: &[Grouped], mut number: impl FnMut(&Grouped) -> u64) {
    /// Room is made for so many at a time.
    const STEP: usize = 64;
    let mut column = [0; STEP * VARINT_BYTES_MAX];
    for events in events.chunks(STEP) {
        let mut end = 0;
        for event in events {
            end += write_varint(&mut column[end..], number(event));
        }
        out.extend_from_slice(&column[..end]);
    }
}

/// The largest scale that divides all values.
fn scale_of(events: &[Grouped]) -> usize {
    fn divides<const UNIT: u64>(events: &[Grouped]) -> bool {
        events.iter().all(|(_, value)| value.0.is_multiple_of(UNIT))
    }
    let divides: [fn(&[Grouped]) -> bool; 7] = [
        divides::<{ SCALES[0] }>,
        divides::<{ SCALES[1] }>,
        divides::<{ SCALES[2] }>,
        divides::<{ SCALES[3] }>,
        divides::<{ SCALES[4] }>,
        divides::<{ SCALES[5] }>,
        divides::<{ SCALES[6] }>,
    ];
    divides.iter().rposition(|divides| divides(events)).expect("one divides everything")
}
