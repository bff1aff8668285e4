//! Entries under faults: what counts, how often, and who is told what.

use super::*;
use crate::domain::{EventTime, Identity, ProducerId, ResponseTime, Sequence, TimeLimits};
use crate::format::BatchBuilder;
use crate::ingest::testing::{FakeLog, Fault, NOON_MS, environment, permit};
use crate::metrics::Metrics;
use std::sync::atomic::Ordering;

struct Bench {
    log: Arc<FakeLog>,
    batcher: Batcher,
    metrics: IngestMetrics,
}

impl Bench {
    fn new(faults: &[Fault]) -> Bench {
        let log = Arc::new(FakeLog::default());
        log.partition(0, |partition| partition.faults.extend(faults));
        let metrics = Metrics::new().ingest;
        let batcher = Batcher::start(&environment(), log.clone(), PartitionId(0), 7, metrics.clone());
        Bench { log, batcher, metrics }
    }

    async fn send(&self, part: Part, seconds: u64) -> Result<Outcome, AppendError> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        self.batcher.send(part, deadline, Arc::new(permit())).await
    }

    /// Sends parts at the same time; their outcomes in the same order.
    async fn send_all(&self, parts: Vec<Part>) -> Vec<Result<Outcome, AppendError>> {
        futures::future::join_all(parts.into_iter().map(|part| self.send(part, 10))).await
    }

    /// When each append came in.
    fn append_times(&self, begin: Instant) -> Vec<Duration> {
        self.log.partition(0, |partition| partition.appends.iter().map(|(time, _)| *time - begin).collect())
    }

    /// Parts of each entry that counts.
    fn entries(&self) -> Vec<usize> {
        self.log.partition(0, |partition| partition.entries.iter().map(|entry| entry.parts.len()).collect())
    }
}

fn part(value: u64) -> Part {
    let mut builder = BatchBuilder::default();
    builder.add("a", EventTime(value), ResponseTime(value));
    Part { identity: None, events: 1, batch: builder.finish() }
}

fn large_part(events: u32) -> Part {
    let mut builder = BatchBuilder::default();
    for event in 0..events {
        builder.add("a", EventTime(u64::from(event) * 7_919_000_017 % 9_000_000_000_000), ResponseTime(u64::MAX >> 8));
    }
    Part { identity: None, events, batch: builder.finish() }
}

fn identified(sequence: u64, body_hash: u64) -> Part {
    let producer = ProducerId::new("p").unwrap();
    Part {
        identity: Some(Identity { producer, sequence: Sequence(sequence), body_hash, limits: TimeLimits::NONE }),
        ..part(sequence)
    }
}

const FIRST: Result<Outcome, AppendError> = Ok(Outcome { verdict: Verdict::Accepted, offset: 10 });

#[tokio::test(start_paused = true)]
async fn a_part_alone_is_appended_at_once() {
    let bench = Bench::new(&[]);
    let begin = Instant::now();
    assert_eq!(bench.send(part(1), 10).await, FIRST);
    assert_eq!(begin.elapsed(), Duration::ZERO);
    bench.log.partition(0, |partition| {
        let entry = &partition.entries[0];
        assert_eq!((entry.edge, entry.edge_sequence, entry.stamp_ms), (7, 0, NOON_MS));
        assert_eq!(entry.parts, [part(1)]);
    });
}

#[tokio::test(start_paused = true)]
async fn parts_that_come_while_the_log_is_busy_share_an_entry() {
    let bench = Bench::new(&[]);
    bench.log.latency_us.store(3_000, Ordering::Relaxed);
    let after = async |ms, parts: std::ops::Range<u64>| {
        sleep(Duration::from_millis(ms)).await;
        bench.send_all(parts.map(part).collect()).await
    };
    let (first, second, others) = tokio::join!(after(0, 0..1), after(1, 1..2), after(2, 2..10));
    assert!([first, second, others].into_iter().flatten().all(|outcome| outcome.is_ok()));
    assert_eq!(bench.entries(), [1, 9]);
}

#[tokio::test(start_paused = true)]
async fn a_part_waits_no_longer_than_its_age_while_the_log_is_slow() {
    let bench = Bench::new(&[Fault::Late(Duration::from_secs(1)); 3]);
    let begin = Instant::now();
    let after = async |ms| {
        sleep(Duration::from_millis(ms)).await;
        bench.send(part(ms), 10).await.unwrap()
    };
    tokio::join!(after(0), after(1), after(2), after(3));
    let ms = Duration::from_millis;
    assert_eq!(bench.append_times(begin), [ms(0), AGE_MAX]);
    assert_eq!(bench.entries(), [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_with_its_bytes_does_not_wait() {
    let second = Fault::Late(Duration::from_secs(1));
    let bench = Bench::new(&[second; 4]);
    let large = large_part(25_000);
    assert!(large.batch.len() > ENTRY_BYTES_TARGET);
    let begin = Instant::now();
    let outcomes = bench.send_all(vec![large.clone(), large.clone(), large, part(1)]).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(bench.append_times(begin), [Duration::ZERO, Duration::ZERO, Duration::ZERO, AGE_MAX]);
    assert_eq!(bench.entries(), [1, 1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_with_the_same_bytes_and_count_once() {
    let bench = Bench::new(&[Fault::Refused, Fault::Lost, Fault::Garbled, Fault::Hangs, Fault::Lost, Fault::Refused]);
    assert_eq!(bench.send(part(1), 10).await, FIRST);
    assert_eq!(bench.metrics.append_retries.get(), 6);
    assert_eq!(bench.entries(), [1]);
    bench.log.partition(0, |partition| {
        assert_eq!(partition.appends.len(), 7);
        assert!(partition.appends.iter().all(|(_, bytes)| *bytes == partition.appends[0].1));
        let pauses: Vec<u128> = partition.appends.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_millis()).collect();
        assert!((5..=11).contains(&pauses[0]) && (10..=21).contains(&pauses[1]), "{pauses:?}");
        assert!(pauses[3] >= ATTEMPT_MAX.as_millis(), "{pauses:?}");
    });
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_the_outcome_is_unknown_and_tries_end() {
    let bench = Bench::new(&[Fault::Refused; 1000]);
    let begin = Instant::now();
    assert!(matches!(bench.send(part(1), 5).await, Err(AppendError::Unavailable(_))));
    assert!(begin.elapsed() <= Duration::from_secs(5));
    let tries = bench.log.appends();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.log.appends(), tries);
    bench.log.partition(0, |partition| partition.faults.clear());
    assert_eq!(bench.send(part(2), 5).await, FIRST);
}

#[tokio::test(start_paused = true)]
async fn an_entry_lives_as_long_as_its_most_patient_part() {
    let bench = Bench::new(&[Fault::Hangs]);
    let (hasty, patient) = tokio::join!(bench.send(part(1), 1), bench.send(part(2), 9));
    assert!(hasty.is_err());
    assert_eq!(patient, FIRST);
    assert_eq!(bench.entries(), [2]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_too_large_is_not_tried_again() {
    let bench = Bench::new(&[Fault::TooLarge]);
    assert_eq!(bench.send(part(1), 10).await, Err(AppendError::TooLarge));
    assert_eq!(bench.log.appends(), 1);
}

#[tokio::test(start_paused = true)]
async fn each_part_gets_its_own_verdict() {
    let bench = Bench::new(&[]);
    bench.log.partition(0, |partition| partition.sequences_from = 3);
    assert_eq!(bench.send(identified(5, 1), 10).await, FIRST);
    let outcomes = bench.send_all(vec![identified(5, 1), identified(5, 2), identified(2, 1), identified(6, 1)]).await;
    let verdicts = [
        Verdict::Duplicate { offset: 10, limits: TimeLimits::NONE },
        Verdict::Reused,
        Verdict::Expired,
        Verdict::Accepted,
    ];
    let offsets = [10, 11, 11, 11];
    let expected = verdicts.into_iter().zip(offsets).map(|(verdict, offset)| Ok(Outcome { verdict, offset }));
    assert_eq!(outcomes, expected.collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn only_so_many_entries_are_under_way() {
    let bench = Bench::new(&[Fault::Late(Duration::from_secs(1)); 100]);
    let large = large_part(25_000);
    let begin = Instant::now();
    let outcomes = bench.send_all(vec![large; 20]).await;
    assert!(outcomes.iter().all(Result::is_ok));
    let times = bench.append_times(begin);
    let started = |at| times.iter().filter(|time| **time == Duration::from_secs(at)).count();
    assert_eq!([started(0), started(1), started(2)], [IN_FLIGHT_MAX, IN_FLIGHT_MAX, 20 - 2 * IN_FLIGHT_MAX]);
}

#[tokio::test(start_paused = true)]
async fn sequences_do_not_run_away_from_an_entry_that_hangs() {
    let bench = Bench::new(&[Fault::Hangs]);
    let begin = Instant::now();
    let others = async {
        sleep(Duration::from_millis(1)).await;
        for value in 1..2 * SEQUENCE_SPAN_MAX {
            bench.send(part(value), 10).await.unwrap();
        }
    };
    let (hung, ()) = tokio::join!(bench.send(part(0), 10), others);
    assert!(hung.is_ok());
    let sequence = |bytes: &Bytes| match Entry::decode(bytes).unwrap() {
        Entry::Events(entry) => entry.edge_sequence,
        Entry::Checkpoint(_) => unreachable!(),
    };
    bench.log.partition(0, |partition| {
        let while_hung = partition.appends.iter().filter(|(time, _)| *time < begin + ATTEMPT_MAX);
        assert_eq!(while_hung.map(|(_, bytes)| sequence(bytes)).max(), Some(SEQUENCE_SPAN_MAX - 1));
        assert_eq!(partition.entries.len() as u64, 2 * SEQUENCE_SPAN_MAX);
    });
}

#[tokio::test(start_paused = true)]
async fn parts_that_nobody_waits_for_are_not_sent() {
    let second = Fault::Late(Duration::from_secs(1));
    let bench = Bench::new(&[second; IN_FLIGHT_MAX]);
    let large = large_part(25_000);
    let patient = bench.send_all(vec![large; IN_FLIGHT_MAX]);
    let hasty = async {
        tokio::task::yield_now().await;
        let deadline = Instant::now() + Duration::from_millis(500);
        bench.batcher.send(part(1), deadline, Arc::new(permit())).await
    };
    let (outcomes, hasty) = tokio::join!(patient, hasty);
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(hasty, Err(too_late()));
    assert_eq!(bench.send(part(2), 10).await.unwrap().offset, 10 + IN_FLIGHT_MAX as u64);
    assert_eq!(bench.log.appends(), IN_FLIGHT_MAX + 1);
}
