//! From a body to a receipt: read, send each partition its part, add up what became of them.
//!
//! **What a receipt promises.** Every event in `accepted` is fsynced on a majority of its partition's replicas and counts
//! once, every one in `duplicate` was counted before. Without a receipt the outcome is unknown: some, all or none of the
//! events may count. A request with an identity may then be sent again, to any node, and counts once.
//!
//! **Requests with an identity.** The producer's home partition is asked first, with a part of no events if need be, and it
//! alone decides between new, sent before, reused and expired. The others get their parts only if it has not refused, and
//! get them again if the request is sent again: wherever a first attempt stopped, a second one fills in what is missing.
//! Which event times are taken depends on the clock, so the home partition remembers those of the first attempt, and a
//! repeat is read with them: the same lines are refused, and what is a duplicate was counted.

use super::admission::{Admission, Overloaded, Permit};
use super::append::{Append, AppendError};
use super::batcher::{Batcher, Outcome};
use super::body::{self, Encoding, InflateError, Kind};
use super::buffers::{Buffers, Builders};
use super::request::{BatchTooLarge, PartitionEvents, Rejections, Request};
use crate::domain::{EventTime, Identity, ProducerId, Sequence, TimeLimits, Verdict};
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
use xxhash_rust::xxh3::Xxh3Default;

/// Bodies up to this size are read on the spot: 32 KiB are 400 events, some 50 µs.
const INLINE_BYTES_MAX: usize = 32 * 1024;

/// The bounds of taking events in.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes of a request's body, before and after decompression. 16 MiB are some 190,000 events: larger requests gain
    /// nothing, and lose more when they fail.
    pub body_bytes_max: usize,
    /// Bytes of all bodies under way, after decompression. 256 MiB: at 1 GB/s, a quarter of a second's worth.
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
            in_flight_bytes_max: 256 << 20,
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
    /// The sequence was used for another body; nothing of this one was stored.
    #[error("this producer used the sequence before, with another body")]
    SequenceReused,
    /// The sequence is older than what is remembered. Whether it was counted is not known any more; it was not now.
    #[error("this producer's sequence is older than what is remembered of it")]
    SequenceExpired,
    /// A partition remembers as many producers as it can. Events of other partitions may count; trying again is safe.
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
    buffers: Buffers,
    builders: Builders,
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
        let (batchers, buffers, builders) = Default::default();
        let shared = Shared { environment, append, settings, metrics, admission, buffers, builders, edge, batchers };
        Intake { shared: Arc::new(shared) }
    }

    /// Lets a request in, before its body is read. Whoever reads the body grows the permit first.
    pub fn admit(&self) -> Result<Permit, Overloaded> {
        self.shared.admission.admit()
    }

    /// The bounds in force.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Memory for bodies.
    pub(super) fn buffers(&self) -> &Buffers {
        &self.shared.buffers
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
        let limits = self.time_limits();
        let (text, permit) = self.inflate(body, permit).await?;
        let again = producer.map(|producer| (producer, text.clone(), slots.clone()));
        let (request, body_hash) = self.read(text, limits, slots).await?;
        let identified = again.map(|((producer, sequence), text, slots)| {
            let identity = Identity { producer, sequence, body_hash, limits };
            Identified { identity, text, slots }
        });
        let delivery = Delivery { intake: self, deadline, permit: Arc::new(permit) };
        let receipt = delivery.deliver(request, identified).await?;
        let metrics = self.metrics();
        metrics.accepted.inc_by(receipt.accepted);
        metrics.duplicate.inc_by(receipt.duplicate);
        metrics.rejected.inc_by(receipt.rejections.count);
        Ok(receipt)
    }

    /// Decompresses a body, off the async threads if it is compressed.
    async fn inflate(&self, body: Body, mut permit: Permit) -> Result<(Text, Permit), Error> {
        let bytes_max = self.shared.settings.body_bytes_max;
        let is_plain = body.encoding == Encoding::Identity;
        let inflate = move || -> Result<_, Error> {
            let bytes = body::inflate(body.bytes, body.encoding, bytes_max, &mut permit)?;
            Ok((Text { kind: body.kind, bytes }, permit))
        };
        let (text, permit) = if is_plain { inflate() } else { self.shared.environment.tasks.blocking(inflate).await }?;
        self.metrics().bytes.inc_by(text.bytes.len() as u64);
        Ok((text, permit))
    }

    /// Reads a body and hashes it, off the async threads if it is more than a little.
    async fn read(
        &self,
        text: Text,
        limits: TimeLimits,
        slots: Arc<[PartitionId]>,
    ) -> Result<(Request, u64), BatchTooLarge> {
        let is_small = text.bytes.len() <= INLINE_BYTES_MAX;
        let shared = Arc::clone(&self.shared);
        let read = move || {
            let Text { kind, bytes } = text;
            let mut hasher = Xxh3Default::new();
            let look = |block: &[u8]| hasher.update(block);
            let request =
                shared.builders.with(|builder| Request::read_with(builder, &bytes, kind, limits, &slots, look))?;
            Ok((request, hasher.digest()))
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

/// A decompressed body.
#[derive(Clone)]
struct Text {
    kind: Kind,
    bytes: Bytes,
}

/// What makes a request known, and what it takes to read it once more.
struct Identified {
    identity: Identity,
    text: Text,
    slots: Arc<[PartitionId]>,
}

/// One request on its way to its partitions.
struct Delivery<'a> {
    intake: &'a Intake,
    deadline: Instant,
    permit: Arc<Permit>,
}

impl Delivery<'_> {
    async fn deliver(&self, mut request: Request, identified: Option<Identified>) -> Result<Receipt, Error> {
        let mut receipt = Receipt::default();
        let mut identity = None;
        if let Some(identified) = identified {
            identity = Some(self.ask_home(&mut request, identified, &mut receipt).await?);
        }
        let mut others = request.partitions.into_iter().map(|(partition, events)| {
            let (count, sent) = (events.events, self.send(partition, events, identity.clone()));
            async move { sent.await.map(|outcome| (partition, count, outcome)) }
        });
        // Small requests have one part, and nothing to join.
        let outcomes = match others.len() {
            1 => vec![others.next().expect("there is one").await?],
            _ => try_join_all(others).await?,
        };
        for (partition, count, outcome) in outcomes {
            receipt.add(partition, count, outcome)?;
        }
        receipt.rejections = request.rejections;
        Ok(receipt)
    }

    /// Asks the home partition; takes its part out of the request and returns whom the other parts are from.
    async fn ask_home(
        &self,
        request: &mut Request,
        identified: Identified,
        receipt: &mut Receipt,
    ) -> Result<Identity, Error> {
        let Identified { mut identity, text, slots } = identified;
        let home = slots[usize::from(identity.producer.slot())];
        let events = request.partitions.get(&home).cloned().unwrap_or_default();
        let outcome = self.send(home, events, Some(identity.clone())).await?;
        if let Verdict::Duplicate { limits, .. } = outcome.verdict
            && limits != identity.limits
        {
            (*request, _) = self.intake.read(text, limits, slots).await?;
            identity.limits = limits;
        }
        let count = request.partitions.remove(&home).map_or(0, |events| events.events);
        receipt.add(home, count, outcome)?;
        Ok(identity)
    }

    async fn send(
        &self,
        partition: PartitionId,
        events: PartitionEvents,
        identity: Option<Identity>,
    ) -> Result<Outcome, AppendError> {
        let PartitionEvents { events, batch } = events;
        let part = Part { identity, events, batch };
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
