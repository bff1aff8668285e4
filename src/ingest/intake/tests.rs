//! Whole requests against a log with faults: what is answered, and what counts.

use super::*;
use crate::domain::slot_of;
use crate::ingest::testing::{FakeLog, Fault, NOON_MS, PARTITIONS, environment};
use crate::ingest::{Overloaded, Reason};
use crate::metrics::Metrics;

struct Site {
    log: Arc<FakeLog>,
    intake: Intake,
    metrics: IngestMetrics,
}

impl Site {
    fn new() -> Site {
        Site::with(Settings::default())
    }

    fn with(settings: Settings) -> Site {
        Site::of(Arc::default(), settings)
    }

    /// A site with a limit to the future, by its setting or, all the same, by its clock.
    fn ahead(log: &Arc<FakeLog>, minutes: u64) -> Site {
        let future_max = Some(Duration::from_secs(60 * minutes));
        Site::of(log.clone(), Settings { future_max, ..Settings::default() })
    }

    fn of(log: Arc<FakeLog>, settings: Settings) -> Site {
        let metrics = Metrics::new().ingest;
        let environment = environment();
        // Sites that share a log are different edges.
        (0..log.appends()).for_each(|_| _ = environment.entropy.next_u64());
        let intake = Intake::new(&environment, log.clone(), settings, metrics.clone());
        Site { log, intake, metrics }
    }

    async fn send(&self, lines: &str) -> Result<Receipt, Error> {
        self.send_as(lines, None).await
    }

    async fn send_as(&self, lines: &str, producer: Option<(&str, u64)>) -> Result<Receipt, Error> {
        let bytes = Bytes::from(lines.to_owned());
        let mut permit = self.intake.admit()?;
        permit.grow(bytes.len())?;
        let body = Body { kind: Kind::Lines, encoding: Encoding::Identity, bytes };
        let producer = producer.map(|(producer, sequence)| (ProducerId::new(producer).unwrap(), Sequence(sequence)));
        self.intake.accept(body, producer, permit).await
    }

    /// How often each event counts, seen over all of them; 1 is right.
    fn times_counted(&self) -> Vec<u64> {
        let mut times: Vec<u64> = self.log.events().into_values().collect();
        times.dedup();
        times
    }
}

/// One event each of `apps` apps.
fn lines(apps: u64) -> String {
    (0..apps).map(|app| line(&format!("app-{app}"), NOON_MS + app)).collect()
}

fn line(app_id: &str, time_ms: u64) -> String {
    format!("{{\"app_id\":\"{app_id}\",\"timestamp\":{time_ms},\"response_time_ms\":{time_ms}e-3}}\n")
}

/// A name whose home is `partition`.
fn producer_at(partition: u16) -> String {
    (0..).map(|number| format!("producer-{number}")).find(|name| slot_of(name) % PARTITIONS == partition).unwrap()
}

/// An app that lives in `partition`.
fn app_at(partition: u16) -> String {
    (0..).map(|number| format!("app-{number}")).find(|name| slot_of(name) % PARTITIONS == partition).unwrap()
}

#[tokio::test(start_paused = true)]
async fn every_event_counts_once_and_the_token_names_its_partitions() {
    let site = Site::new();
    let receipt = site.send(&format!("{}x\n", lines(100))).await.unwrap();
    assert_eq!((receipt.accepted, receipt.duplicate, receipt.rejections.count), (100, 0, 1));
    assert_eq!(receipt.rejections.listed, [(101, Reason::InvalidJson)]);
    assert_eq!(receipt.token.to_string(), "0.10-1.10-2.10-3.10-4.10-5.10");
    assert_eq!(site.log.events().len(), 100);
    assert_eq!(site.times_counted(), [1]);
    assert_eq!((site.metrics.accepted.get(), site.metrics.rejected.get()), (100, 1));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_for_a_request_without_events_and_identity() {
    let site = Site::new();
    assert_eq!(site.send("").await.unwrap(), Receipt::default());
    let receipt = site.send("x\ny\n").await.unwrap();
    assert_eq!((receipt.accepted, receipt.rejections.count, receipt.token), (0, 2, Token::default()));
    assert_eq!(site.log.appends(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_sequence_is_taken_by_its_first_body_whatever_is_in_it() {
    let good = line(&app_at(4), NOON_MS);
    for (first, second) in [("", "x\n"), ("x\n", &good[..]), (&good[..], ""), (&good[..], "x\n")] {
        let site = Site::new();
        let once = site.send_as(first, Some(("p", 1))).await.unwrap();
        let other = site.send_as(second, Some(("p", 1))).await;
        assert!(matches!(other, Err(Error::SequenceReused)), "{first:?}, then {second:?}");
        let again = site.send_as(first, Some(("p", 1))).await.unwrap();
        assert_eq!((again.duplicate, again.rejections), (once.accepted, once.rejections));
    }
}

#[tokio::test(start_paused = true)]
async fn the_home_partition_is_asked_first_even_without_events_for_it() {
    let site = Site::new();
    let (producer, body) = (producer_at(2), line(&app_at(4), NOON_MS));
    let receipt = site.send_as(&body, Some((&producer, 1))).await.unwrap();
    assert_eq!(receipt.token.to_string(), "4.10");
    let part = |partition| site.log.partition(partition, |partition| partition.entries[0].parts[0].clone());
    assert_eq!((part(2).events, part(4).events), (0, 1));
    assert_eq!(part(2).identity, part(4).identity);

    site.log.partition(2, |partition| partition.faults.extend([Fault::Refused; 1000]));
    let appends = site.log.partition(4, |partition| partition.appends.len());
    assert!(matches!(site.send_as(&body, Some((&producer, 2))).await, Err(Error::Append(_))));
    assert_eq!(site.log.partition(4, |partition| partition.appends.len()), appends);
}

#[tokio::test(start_paused = true)]
async fn a_request_sent_again_is_a_duplicate_with_the_same_token() {
    let site = Site::new();
    let first = site.send_as(&lines(100), Some(("p", 1))).await.unwrap();
    site.send(&lines(100).replace("app-", "other-")).await.unwrap();
    let second = site.send_as(&lines(100), Some(("p", 1))).await.unwrap();
    assert_eq!((second.accepted, second.duplicate), (0, 100));
    assert_eq!(second.token, first.token);
    assert_eq!(site.times_counted(), [1]);
    assert_eq!(site.metrics.duplicate.get(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_fills_in_what_the_first_one_missed() {
    let site = Site::new();
    let producer = producer_at(0);
    site.log.partition(3, |partition| partition.faults.extend([Fault::Refused; 1000]));
    assert!(matches!(site.send_as(&lines(100), Some((&producer, 1))).await, Err(Error::Append(_))));
    let missing = 100 - site.log.events().len() as u64;
    assert!((1..100).contains(&missing));
    site.log.partition(3, |partition| partition.faults.clear());
    let receipt = site.send_as(&lines(100), Some((&producer, 1))).await.unwrap();
    assert_eq!((receipt.accepted, receipt.duplicate), (missing, 100 - missing));
    assert_eq!(site.log.events().len(), 100);
    assert_eq!(site.times_counted(), [1]);
}

/// It is stored: a repeat may come after an update.
#[tokio::test(start_paused = true)]
async fn the_hash_of_a_body_is_xxh3_of_its_bytes_whatever_its_size() {
    let site = Site::new();
    for text in ["", "x", &lines(1), &lines(100), &lines(5000), &format!("{}x", lines(5000))] {
        for kind in [Kind::Lines, Kind::Json, Kind::Batch] {
            let body = Text { kind, bytes: Bytes::from(text.to_owned()) };
            let (_, hash) = site.intake.read(body, TimeLimits::NONE, site.log.slots()).await.unwrap();
            assert_eq!(hash, xxhash_rust::xxh3::xxh3_64(text.as_bytes()), "{kind:?} of {} bytes", text.len());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeat_is_read_with_the_time_limits_of_the_first() {
    let early: String = (0..50).map(|app| line(&format!("app-{app}"), NOON_MS + 1_800_000)).collect();
    let body = format!("{}{early}x\n", lines(50));
    for (first, second, accepted) in [(10, 60, 50), (60, 10, 100)] {
        let log = Arc::default();
        let first = Site::ahead(&log, first).send_as(&body, Some(("p", 1))).await.unwrap();
        assert_eq!((first.accepted, first.duplicate, first.rejections.count), (accepted, 0, 101 - accepted));
        let again = Site::ahead(&log, second).send_as(&body, Some(("p", 1))).await.unwrap();
        assert_eq!(again, Receipt { accepted: 0, duplicate: accepted, ..first });
        assert_eq!(log.events().len() as u64, accepted);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_first_attempt_missed_is_filled_in_with_its_time_limits() {
    let log = Arc::new(FakeLog::default());
    let producer = producer_at(0);
    let early: String = (0..50).map(|app| line(&format!("early-{app}"), NOON_MS + 1_800_000)).collect();
    let body = format!("{}{early}", lines(50));
    log.partition(3, |partition| partition.faults.extend([Fault::Refused; 1000]));
    let first = Site::ahead(&log, 10).send_as(&body, Some((&producer, 1))).await;
    assert!(matches!(first, Err(Error::Append(_))));
    log.partition(3, |partition| partition.faults.clear());
    let again = Site::ahead(&log, 60).send_as(&body, Some((&producer, 1))).await.unwrap();
    assert_eq!((again.accepted + again.duplicate, again.rejections.count), (50, 50));
    assert_eq!(log.events().len(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_came_too_early_as_a_whole_stays_refused() {
    let log = Arc::new(FakeLog::default());
    let body = line("a", NOON_MS + 1_800_000);
    let first = Site::ahead(&log, 10).send_as(&body, Some(("p", 1))).await.unwrap();
    assert_eq!((first.accepted, first.rejections.count), (0, 1));
    assert_eq!(Site::ahead(&log, 60).send_as(&body, Some(("p", 1))).await.unwrap(), first);
    assert_eq!(Site::ahead(&log, 60).send_as(&body, Some(("p", 2))).await.unwrap().accepted, 1);
    assert_eq!(log.events().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn refusals_of_the_home_partition_stop_the_request() {
    let site = Site::new();
    let producer = producer_at(1);
    site.send_as(&lines(10), Some((&producer, 7))).await.unwrap();
    let appends = || site.log.partition(5, |partition| partition.appends.len());
    let before = appends();
    let reused = site.send_as(&lines(50), Some((&producer, 7))).await;
    assert!(matches!(reused, Err(Error::SequenceReused)), "{reused:?}");
    site.log.partition(1, |partition| partition.sequences_from = 100);
    let expired = site.send_as(&lines(50), Some((&producer, 99))).await;
    assert!(matches!(expired, Err(Error::SequenceExpired)), "{expired:?}");
    site.log.partition(1, |partition| partition.is_table_full = true);
    let full = site.send_as(&lines(50), Some((&producer, 100))).await;
    assert!(matches!(full, Err(Error::TooManyProducers)), "{full:?}");
    assert_eq!(appends(), before);
    assert_eq!(site.log.events().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_the_answer_comes_at_the_deadline() {
    let site = Site::new();
    for partition in 0..PARTITIONS {
        site.log.partition(partition, |partition| partition.faults.extend([Fault::Hangs; 100]));
    }
    let begin = Instant::now();
    assert!(matches!(site.send(&lines(10)).await, Err(Error::Append(AppendError::Unavailable(_)))));
    assert_eq!(begin.elapsed(), Settings::default().deadline);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_told_at_once() {
    let site = Site::new();
    site.log.partition(3, |partition| partition.faults.push_back(Fault::DiskFull));
    let begin = Instant::now();
    let refused = site.send_as(&lines(100), Some(("p", 1))).await;
    assert!(matches!(refused, Err(Error::Append(AppendError::DiskFull))), "{refused:?}");
    assert_eq!(begin.elapsed(), Duration::ZERO);
    let again = site.send_as(&lines(100), Some(("p", 1))).await.unwrap();
    assert_eq!((again.accepted + again.duplicate, site.log.events().len()), (100, 100));
}

#[tokio::test(start_paused = true)]
async fn partitions_fail_and_recover_on_their_own() {
    let site = Site::new();
    for partition in 0..PARTITIONS {
        let faults = [Fault::Lost, Fault::Refused, Fault::Hangs].into_iter().cycle().skip(partition.into()).take(4);
        site.log.partition(partition, |partition| partition.faults.extend(faults));
    }
    let receipt = site.send(&lines(100)).await.unwrap();
    assert_eq!(receipt.accepted, 100);
    assert_eq!(site.log.events().len(), 100);
    assert_eq!(site.times_counted(), [1]);
    assert_eq!(site.metrics.append_retries.get(), 4 * u64::from(PARTITIONS));
}

#[tokio::test(start_paused = true)]
async fn clock_limits_hold_only_where_they_are_set() {
    let body = [NOON_MS - 3_600_000, NOON_MS - 3_600_001, NOON_MS + 600_000, NOON_MS + 600_001]
        .map(|time_ms| line("a", time_ms))
        .concat();
    let verdicts = async |future_max, age_max| {
        let site = Site::with(Settings { future_max, age_max, ..Settings::default() });
        site.send(&body).await.unwrap().rejections.listed
    };
    let hour = Duration::from_secs(3600);
    let (old, early) = ((2, Reason::TimestampOutOfRange), (4, Reason::TimestampInFuture));
    assert_eq!(verdicts(Settings::default().future_max, Some(hour)).await, [old, early]);
    assert_eq!(verdicts(Settings::default().future_max, None).await, [early]);
    assert_eq!(verdicts(None, None).await, []);
    assert_eq!(verdicts(Some(Duration::MAX), Some(Duration::MAX)).await, []);
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_held_until_the_answer_and_then_given_back() {
    let site = Site::with(Settings { in_flight_bytes_max: 1000, ..Settings::default() });
    for partition in 0..PARTITIONS {
        site.log.partition(partition, |partition| partition.faults.push_back(Fault::Hangs));
    }
    let body = lines(10);
    let (slow, refused) = tokio::join!(site.send(&body), async {
        tokio::task::yield_now().await;
        assert_eq!(site.metrics.in_flight_bytes.get(), body.len() as u64);
        site.send(&body).await
    });
    assert_eq!(slow.unwrap().accepted, 10);
    assert!(matches!(refused, Err(Error::Overloaded(Overloaded))));
    while site.metrics.in_flight_bytes.get() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(site.send(&body).await.unwrap().accepted, 10);
}

#[tokio::test]
async fn a_large_compressed_body_is_read_like_any_other() {
    let site = Site::new();
    let body = lines(50_000);
    let compressed = zstd::encode_all(body.as_bytes(), 1).unwrap();
    let mut permit = site.intake.admit().unwrap();
    permit.grow(compressed.len()).unwrap();
    let body = Body { kind: Kind::Lines, encoding: Encoding::Zstd, bytes: compressed.into() };
    assert_eq!(site.intake.accept(body, None, permit).await.unwrap().accepted, 50_000);
    assert_eq!(site.log.events().len(), 50_000);
}
