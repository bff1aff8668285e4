//! From a body to a receipt: read, send each partition its part, add up what became of them.
//!
//! **What a receipt promises.** Every event in `accepted` is fsynced on a majority of its partition's replicas and counts
//! once, every one in `duplicate` was counted before. Without a receipt the outcome is unknown: some, all or none of the
//! events may count. A request with an identity may then be sent again, to any node, and counts once.
//!
//! **Requests with an identity.** The producer's home partition is asked first, with a part of no events if need be, and it
//! alone decides between new, sent before, reused and expired. The others get their parts only if it has not refused, and
//! get them again if the request is sent again: wherever a first attempt stopped, a second one fills in what is missing.

use super::admission::{Admission, Overloaded, Permit};
use super::append::{Append, AppendError};
use super::batcher::{Batcher, Outcome};
use super::body::{self, Encoding, InflateError, Kind};
use super::ndjson::TimeLimits;
use super::request::{BatchTooLarge, PartitionEvents, Rejections, Request};
use crate::domain::{EventTime, Identity, ProducerId, Sequence, Verdict};
use crate::format::{Part, Token};
use crate::metrics::IngestMetrics;
use bytes::Bytes;
use cluster::environment::Environment;
use cluster::{Offset, PartitionId};
use futures::future::try_join_all;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

/// Bodies up to this size are read on the spot: 32 KiB are 400 events, some 50 µs.
const INLINE_BYTES_MAX: usize = 32 * 1024;

/// The bounds of taking events in.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes of a request's body, before and after decompression. 16 MiB are some 190,000 events: larger requests gain
    /// nothing, and lose more when they fail.
    pub body_bytes_max: usize,
    /// Bytes of all bodies under way, after decompression. 128 MiB: at 1 GB/s, a tenth of a second's worth.
    pub in_flight_bytes_max: u64,
    /// Requests under way at a time.
    pub in_flight_requests_max: u64,
    /// How long a request's events may take to become durable, from its last byte on: longer than an election, shorter
    /// than the patience of most clients.
    pub deadline: Duration,
    /// How far ahead of this node's clock an event may be; `None` is no limit.
    pub future_max: Option<Duration>,
    /// How old an event may be by this node's clock; `None` is no limit.
    pub age_max: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            body_bytes_max: 16 << 20,
            in_flight_bytes_max: 128 << 20,
            in_flight_requests_max: 2048,
            deadline: Duration::from_secs(10),
            future_max: Some(Duration::from_secs(600)),
            age_max: None,
        }
    }
}

/// A request's body as it came in.
#[derive(Debug, Clone)]
pub struct Body {
    /// How it writes its events.
    pub kind: Kind,
    /// How it is compressed.
    pub encoding: Encoding,
    /// Its bytes.
    pub bytes: Bytes,
}

/// What became of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Events that count from now on.
    pub accepted: u64,
    /// Events that were counted before.
    pub duplicate: u64,
    /// Lines that were refused.
    pub rejections: Rejections,
    /// What an answer must include to include these events.
    pub token: Token,
}

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The body could not be decompressed within its bounds.
    #[error(transparent)]
    Inflate(#[from] InflateError),
    /// The node has no room for it now; nothing was stored.
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    /// More than one partition's batch may hold; nothing was stored.
    #[error(transparent)]
    BatchTooLarge(#[from] BatchTooLarge),
    /// The sequence was used for another body; nothing was stored.
    #[error("this producer used the sequence before, with another body")]
    SequenceReused,
    /// The sequence is older than what is remembered; nothing was stored.
    #[error("this producer's sequence is older than what is remembered of it")]
    SequenceExpired,
    /// As many producers are remembered as can be; nothing was stored.
    #[error("too many producers were active lately")]
    TooManyProducers,
    /// Not all events are known to be durable: the outcome is unknown.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Takes events in. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    shared: Arc<Shared>,
}

struct Shared {
    environment: Environment,
    append: Arc<dyn Append>,
    settings: Settings,
    metrics: IngestMetrics,
    admission: Admission,
    edge: u128,
    batchers: Mutex<BTreeMap<PartitionId, Batcher>>,
}

impl Intake {
    /// Opens for events. Partitions get their tasks with their first events.
    pub fn new(
        environment: &Environment,
        append: Arc<dyn Append>,
        settings: Settings,
        metrics: IngestMetrics,
    ) -> Intake {
        let level = metrics.in_flight_bytes.clone();
        let admission = Admission::new(settings.in_flight_bytes_max, settings.in_flight_requests_max, level);
        let edge = environment.entropy.next_u128();
        let environment = environment.clone();
        let batchers = Mutex::default();
        Intake { shared: Arc::new(Shared { environment, append, settings, metrics, admission, edge, batchers }) }
    }

    /// Lets a request in, before its body is read. Whoever reads the body grows the permit first.
    pub fn admit(&self) -> Result<Permit, Overloaded> {
        self.shared.admission.admit()
    }

    /// The bounds in force.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    pub(super) fn metrics(&self) -> &IngestMetrics {
        &self.shared.metrics
    }

    /// Takes a request whose body `permit` has room for; returns when its events are durable.
    pub async fn accept(
        &self,
        body: Body,
        producer: Option<(ProducerId, Sequence)>,
        permit: Permit,
    ) -> Result<Receipt, Error> {
        let deadline = Instant::now() + self.shared.settings.deadline;
        let slots = self.shared.append.slots();
        let (request, body_hash, permit) = self.read(body, slots.clone(), permit).await?;
        let mut receipt = Receipt { rejections: request.rejections, ..Receipt::default() };
        let delivery = Delivery {
            intake: self,
            identity: producer.map(|(producer, sequence)| Identity { producer, sequence, body_hash }),
            deadline,
            permit: Arc::new(permit),
        };
        delivery.deliver(request.partitions, &slots, &mut receipt).await?;
        let metrics = self.metrics();
        metrics.accepted.inc_by(receipt.accepted);
        metrics.duplicate.inc_by(receipt.duplicate);
        metrics.rejected.inc_by(receipt.rejections.count);
        Ok(receipt)
    }

    /// Reads a body, off the async threads if it is more than a little.
    async fn read(
        &self,
        body: Body,
        slots: Arc<[PartitionId]>,
        mut permit: Permit,
    ) -> Result<(Request, u64, Permit), Error> {
        let is_small = body.bytes.len() <= INLINE_BYTES_MAX && body.encoding == Encoding::Identity;
        let limits = self.time_limits();
        let bytes_max = self.shared.settings.body_bytes_max;
        let received = self.metrics().bytes.clone();
        let read = move || -> Result<_, Error> {
            let bytes = body::inflate(body.bytes, body.encoding, bytes_max, &mut permit)?;
            received.inc_by(bytes.len() as u64);
            let request = Request::read(&bytes, body.kind, limits, &slots)?;
            Ok((request, xxh3_64(&bytes), permit))
        };
        if is_small { read() } else { self.shared.environment.tasks.blocking(read).await }
    }

    fn time_limits(&self) -> TimeLimits {
        let now = self.shared.environment.clock.since_epoch();
        let ms = |time: Duration| EventTime(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let Settings { future_max, age_max, .. } = self.shared.settings;
        TimeLimits {
            earliest: age_max.map_or(TimeLimits::NONE.earliest, |age| ms(now.saturating_sub(age))),
            latest: future_max.map_or(TimeLimits::NONE.latest, |ahead| ms(now.saturating_add(ahead))),
        }
    }

    fn batcher(&self, partition: PartitionId) -> Batcher {
        let shared = &self.shared;
        let mut batchers = shared.batchers.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || {
            let (append, metrics) = (shared.append.clone(), shared.metrics.clone());
            Batcher::start(&shared.environment, append, partition, shared.edge, metrics)
        };
        batchers.entry(partition).or_insert_with(start).clone()
    }
}

/// One request on its way to its partitions.
struct Delivery<'a> {
    intake: &'a Intake,
    identity: Option<Identity>,
    deadline: Instant,
    permit: Arc<Permit>,
}

impl Delivery<'_> {
    async fn deliver(
        &self,
        mut partitions: BTreeMap<PartitionId, PartitionEvents>,
        slots: &[PartitionId],
        receipt: &mut Receipt,
    ) -> Result<(), Error> {
        if partitions.is_empty() {
            return Ok(());
        }
        if let Some(identity) = &self.identity {
            let home = slots[usize::from(identity.producer.slot())];
            let events = partitions.remove(&home).unwrap_or_default();
            let count = events.events;
            receipt.add(home, count, self.send(home, events).await?)?;
        }
        let others = partitions.into_iter().map(|(partition, events)| async move {
            let count = events.events;
            self.send(partition, events).await.map(|outcome| (partition, count, outcome))
        });
        for (partition, count, outcome) in try_join_all(others).await? {
            receipt.add(partition, count, outcome)?;
        }
        Ok(())
    }

    async fn send(&self, partition: PartitionId, events: PartitionEvents) -> Result<Outcome, AppendError> {
        let PartitionEvents { events, batch } = events;
        let part = Part { identity: self.identity.clone(), events, batch };
        self.intake.batcher(partition).send(part, self.deadline, self.permit.clone()).await
    }
}

impl Receipt {
    fn add(&mut self, partition: PartitionId, events: u32, outcome: Outcome) -> Result<(), Error> {
        match outcome.verdict {
            Verdict::Accepted => self.accepted += u64::from(events),
            Verdict::Duplicate { .. } => self.duplicate += u64::from(events),
            Verdict::Reused => return Err(Error::SequenceReused),
            Verdict::Expired => return Err(Error::SequenceExpired),
            Verdict::TableFull => return Err(Error::TooManyProducers),
        }
        if events > 0 {
            self.token.add(partition, Offset(outcome.offset));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
