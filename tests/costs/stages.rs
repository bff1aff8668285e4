//! One hot stage over and over, for whoever counts instructions or time: `stages STAGE ROUNDS`.
//!
//! Each round takes the same 10,000 events (1,000 apps, Zipf, one request's worth) through one stage; everything else is
//! done before. The cost of a round is the difference between two runs with different numbers of rounds.

use bytes::Bytes;
use cluster::PartitionId;
use hourmark::aggregate::{Acceptance, Watermark, WindowTable};
use hourmark::domain::{AppId, EventTime, Hour, ResponseTime, SLOTS, SketchConfig, TimeLimits, slot_of};
use hourmark::format::{Batch, BatchBuilder, Checkpoint, Entry, EventsEntry, Part, StoredRollup, Tally};
use hourmark::ingest::{Kind, Request};
use hourmark::rollup::RecentRow;
use std::hint::black_box;
use std::time::Duration;

const EVENTS: usize = 10_000;
const PARTITIONS: u16 = 6;
const START_MS: u64 = 1_795_378_503_123;

/// App, time and response time of an event.
type Event = (String, EventTime, ResponseTime);

/// Events as one request of a busy service has them: 1,000 apps, Zipf with exponent 1.1, a minute and a half of time,
/// response times in steps of 0.01 ms around 20 ms. The same on every machine.
fn events() -> Vec<Event> {
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let sums: Vec<f64> = (1..=1000u32)
        .scan(0.0, |sum, rank| {
            *sum += f64::from(rank).powf(-1.1);
            Some(*sum)
        })
        .collect();
    let event = |index: usize| {
        let point = next() as f64 / (1u64 << 31) as f64 * sums[999];
        let app = sums.partition_point(|sum| *sum <= point);
        let time = START_MS + index as u64 * 9 - next() % 2000;
        let spread: u64 = (0..4).map(|_| next() % 1000).sum();
        (format!("b12345-{app:04}"), EventTime(time), ResponseTime((1 + spread * spread / 2000) * 10_000))
    };
    (0..EVENTS).map(event).collect()
}

fn lines(events: &[Event]) -> Vec<u8> {
    let line = |(app, time, value): &Event| {
        let (whole, hundredths) = (value.0 / 1_000_000, value.0 / 10_000 % 100);
        let number = format!("{whole}.{hundredths:02}");
        let number = number.trim_end_matches('0').trim_end_matches('.');
        format!("{{\"app_id\":\"{app}\",\"timestamp\":\"{time}\",\"response_time_ms\":{number}}}\n")
    };
    events.iter().map(line).collect::<String>().into_bytes()
}

fn slots() -> Vec<PartitionId> {
    (0..SLOTS).map(|slot| PartitionId(slot % PARTITIONS)).collect()
}

fn batch(events: &[Event]) -> Bytes {
    let mut builder = BatchBuilder::default();
    events.iter().for_each(|(app, time, value)| builder.add(app, *time, *value));
    builder.finish()
}

/// The events of one partition, as its leader gets them.
fn entry(events: &[Event]) -> EventsEntry {
    let own: Vec<Event> =
        events.iter().filter(|(app, _, _)| slot_of(app).is_multiple_of(PARTITIONS)).cloned().collect();
    let part = Part { identity: None, events: u32::try_from(own.len()).unwrap_or(0), batch: batch(&own) };
    EventsEntry { edge: 1, edge_sequence: 1, stamp_ms: u64::MAX, parts: vec![part] }
}

fn parse(rounds: u64) {
    let (body, slots) = (lines(&events()), slots());
    for _ in 0..rounds {
        let request = Request::read(black_box(&body), Kind::Lines, TimeLimits::NONE, &slots);
        assert_eq!(black_box(request).map_or(0, |request| request.rejections.count), 0);
    }
}

fn encode(rounds: u64) {
    let events = events();
    for _ in 0..rounds {
        assert!(!black_box(batch(black_box(&events))).is_empty());
    }
}

fn decode(rounds: u64) {
    let batch = batch(&events());
    for _ in 0..rounds {
        let events = Batch::decode(black_box(&batch)).map(|batch| batch.events());
        assert_eq!(black_box(events), Ok(EVENTS as u64));
    }
}

/// Six entries of one partition a round, so that the events are about as many as in the other stages.
fn fold(rounds: u64) {
    let bytes = Entry::Events(entry(&events())).encode();
    let (mut table, config) = (WindowTable::default(), SketchConfig::default());
    let mut watermark = Watermark::new(0, Duration::from_secs(3600).as_millis() as u64);
    for _ in 0..rounds * 6 {
        let Ok(Entry::Events(entry)) = Entry::decode(black_box(&bytes)) else { panic!("it was just encoded") };
        let folded = table.fold(&entry, &Acceptance::All, &mut watermark, &config);
        assert_eq!(black_box(folded), Ok(()));
    }
}

/// A checkpoint of six entries of one partition, as each replica merges it into its rows.
fn merge(rounds: u64) {
    let (mut table, config) = (WindowTable::default(), SketchConfig::default());
    let (mut watermark, entry) = (Watermark::new(0, 0), entry(&events()));
    (0..6).for_each(|_| assert_eq!(table.fold(&entry, &Acceptance::All, &mut watermark, &config), Ok(())));
    let deltas = table.deltas(&config);
    let key = |app: &AppId, hour: Hour| format!("{app}{}", hour.0).into_bytes();
    let empty = |tail: Vec<u8>| (RecentRow::new(&tail, StoredRollup::default()), tail);
    let mut rows: Vec<_> = deltas.iter().map(|(app, hour, _)| empty(key(app, *hour))).collect();
    let checkpoint =
        Checkpoint { base: None, through: 0, watermark_ms: 0, tally: Tally::default(), deltas, quarantined: vec![] };
    let bytes = Entry::Checkpoint(checkpoint).encode();
    for _ in 0..rounds {
        let Ok(Entry::Checkpoint(checkpoint)) = Entry::decode(black_box(&bytes)) else { panic!("it was just encoded") };
        for ((row, tail), (_, _, delta)) in rows.iter_mut().zip(checkpoint.deltas) {
            *row = row.with(tail, delta, &config);
        }
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (stage, rounds) = (arguments.next(), arguments.next().and_then(|rounds| rounds.parse().ok()));
    let rounds = rounds.unwrap_or(100);
    let begun = tokio::time::Instant::now();
    match stage.as_deref() {
        Some("parse") => parse(rounds),
        Some("encode") => encode(rounds),
        Some("decode") => decode(rounds),
        Some("fold") => fold(rounds),
        Some("merge") => merge(rounds),
        _ => {
            eprintln!("stages parse|encode|decode|fold|merge [ROUNDS]");
            return;
        }
    }
    let ns = begun.elapsed().as_nanos() / u128::from(rounds.max(1)) / EVENTS as u128;
    eprintln!("{ns} ns an event (of {EVENTS} a round)");
}
