//! One task a partition: joins the parts of many requests into one entry of the log, and sees the entry through.
//!
//! ```text
//!  requests ──parts──▶ inbox ──▶ queue ── closes on bytes, age, or because the log is idle ──▶ entry (edge, sequence)
//!                                                                                                │ append, again and
//!  requests ◀──────────── verdict of each part ◀──────────────────────────────────────────────────┘ again: same bytes
//! ```
//!
//! - Linger is natural: with few entries under way the next one closes as soon as every task that is ready has run,
//!   otherwise it fills until one lands, it has its bytes, or it has its age. A quiet node adds no latency, a busy one
//!   writes large entries.
//! - An entry is encoded once. Whatever goes wrong, the same bytes are appended again, so (edge, sequence) tells every
//!   replica that it has seen them.
//! - The sequences of entries that are not done span fewer than [`SEQUENCE_SPAN_MAX`]: a replica remembers that many.

#[cfg(test)]
mod tests;

use super::admission::Permit;
use super::append::{Append, AppendError};
use crate::domain::{Verdict, Verdicts};
use crate::format::{ENTRY_BYTES_TARGET, Entry, EventsEntry, PARTS_MAX, Part};
use crate::metrics::IngestMetrics;
use bytes::Bytes;
use cluster::PartitionId;
use cluster::environment::Environment;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// Entries of one partition under way at a time. 8 keep a leader's pipeline full over a round trip of several fsyncs.
const IN_FLIGHT_MAX: usize = 8;
/// Entries under way beside which another may follow at once. The leader joins small ones that wait for the same round, so
/// they need not wait here as well; beyond these a part gains more from company.
const UNHURRIED_MAX: usize = 4;
/// How long a part waits for company at most: a few fsyncs on a machine that is not overloaded.
const AGE_MAX: Duration = Duration::from_millis(20);
/// Entry sequences of an edge that a replica tells apart.
const SEQUENCE_SPAN_MAX: u64 = 1024;
/// Parts that wait for their entry; further requests wait at the inbox, each until its deadline.
const WAITING_MAX: usize = 1024;
/// How long one try of an append may take. Elections are over by then, and a try that hung has its successor.
const ATTEMPT_MAX: Duration = Duration::from_secs(3);
/// Pause after the first failed try; it doubles with each one.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// The longest pause between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Bytes of a part in the header of its entry, besides its producer's name.
const PART_HEADER_BYTES: usize = 32;

const _: () = assert!(UNHURRIED_MAX < IN_FLIGHT_MAX && IN_FLIGHT_MAX as u64 <= SEQUENCE_SPAN_MAX);

/// What became of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Whether its events count.
    pub verdict: Verdict,
    /// The offset that an answer must have reached to include them.
    pub offset: u64,
}

/// Sends parts to one partition. Cheap to clone; the task ends with the last clone.
#[derive(Clone)]
pub struct Batcher {
    inbox: mpsc::Sender<Waiting>,
}

/// A part on its way into an entry.
struct Waiting {
    part: Part,
    since: Instant,
    client: Client,
}

/// Whoever waits for a part.
struct Client {
    deadline: Instant,
    reply: oneshot::Sender<Result<Outcome, AppendError>>,
    /// Held until the part is done, also where its client has gone.
    _permit: Arc<Permit>,
}

impl Waiting {
    fn bytes(&self) -> usize {
        let producer = self.part.identity.as_ref().map_or(0, |identity| identity.producer.as_str().len());
        self.part.batch.len() + producer + PART_HEADER_BYTES
    }

    fn is_wanted(&self, now: Instant) -> bool {
        now < self.client.deadline && !self.client.reply.is_closed()
    }
}

impl Batcher {
    /// Starts the task for `partition`. `edge` is this node in this life; no other has it.
    pub fn start(
        environment: &Environment,
        append: Arc<dyn Append>,
        partition: PartitionId,
        edge: u128,
        metrics: IngestMetrics,
    ) -> Batcher {
        let (inbox, arrivals) = mpsc::channel(WAITING_MAX);
        let sender = Sender { environment: environment.clone(), append, partition, metrics };
        let queue = Queue { edge, parts: VecDeque::new(), bytes: 0, sequence: 0, in_flight: BTreeSet::new() };
        environment.tasks.spawn("ingest batcher", run(sender, queue, arrivals));
        Batcher { inbox }
    }

    /// Sends a part and waits for what became of it, until `deadline` at most. Dropping the future does not recall it.
    pub async fn send(&self, part: Part, deadline: Instant, permit: Arc<Permit>) -> Result<Outcome, AppendError> {
        let (reply, outcome) = oneshot::channel();
        let client = Client { deadline, reply, _permit: permit };
        let waiting = Waiting { part, since: Instant::now(), client };
        let sent = async {
            self.inbox.send(waiting).await.map_err(|_| gone())?;
            outcome.await.map_err(|_| gone())?
        };
        timeout_at(deadline, sent).await.unwrap_or_else(|_| Err(too_late()))
    }
}

fn gone() -> AppendError {
    AppendError::Unavailable("the node is stopping".to_owned())
}

fn too_late() -> AppendError {
    AppendError::Unavailable("no answer before the deadline".to_owned())
}

/// Takes parts in and entries out until nobody can send parts any more and all entries are done.
async fn run(sender: Sender, mut queue: Queue, mut arrivals: mpsc::Receiver<Waiting>) {
    let mut flights = FuturesUnordered::new();
    let mut arrived = Vec::new();
    let mut is_open = true;
    while is_open || !queue.parts.is_empty() || !flights.is_empty() {
        if queue.may_close(Instant::now()) {
            // Requests that are being read at this moment come along.
            yield_now().await;
            while queue.parts.len() < WAITING_MAX
                && let Ok(waiting) = arrivals.try_recv()
            {
                queue.push(waiting);
            }
        }
        while queue.may_close(Instant::now()) {
            if let Some(load) = queue.close(Instant::now(), sender.environment.clock.now_ms()) {
                flights.push(sender.see_through(load));
            }
        }
        let ripe_at = queue.ripe_at();
        tokio::select! {
            biased;
            Some(sequence) = flights.next() => queue.landed(sequence),
            count = arrivals.recv_many(&mut arrived, WAITING_MAX), if is_open && queue.parts.len() < WAITING_MAX => {
                is_open = count > 0;
                arrived.drain(..).for_each(|waiting| queue.push(waiting));
            }
            () = sleep_until(ripe_at.unwrap_or_else(Instant::now)), if ripe_at.is_some() => {}
        }
    }
}

/// Parts without an entry, and which entries are under way.
struct Queue {
    edge: u128,
    parts: VecDeque<Waiting>,
    bytes: usize,
    /// Of the next entry.
    sequence: u64,
    /// Sequences of entries under way.
    in_flight: BTreeSet<u64>,
}

/// An entry with those who wait for it.
struct Load {
    sequence: u64,
    entry: Bytes,
    clients: Vec<Client>,
}

impl Queue {
    fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.bytes();
        self.parts.push_back(waiting);
    }

    fn landed(&mut self, sequence: u64) {
        assert!(self.in_flight.remove(&sequence), "entry {sequence} landed twice");
    }

    fn has_room(&self) -> bool {
        let span = self.in_flight.first().map_or(0, |oldest| self.sequence - oldest);
        self.in_flight.len() < IN_FLIGHT_MAX && span < SEQUENCE_SPAN_MAX
    }

    /// When the parts have waited long enough; `None` if there is none, or no room for their entry.
    fn ripe_at(&self) -> Option<Instant> {
        let oldest = self.parts.front().filter(|_| self.has_room())?.since;
        Some(oldest + AGE_MAX)
    }

    fn may_close(&self, now: Instant) -> bool {
        let is_due = self.in_flight.len() < UNHURRIED_MAX || self.bytes >= ENTRY_BYTES_TARGET;
        self.ripe_at().is_some_and(|ripe_at| is_due || ripe_at <= now)
    }

    /// Makes an entry of the oldest parts; those that nobody waits for any more are left out. `None` if all are.
    fn close(&mut self, now: Instant, stamp_ms: u64) -> Option<Load> {
        let (mut parts, mut clients, mut bytes) = (Vec::new(), Vec::new(), 0);
        while bytes < ENTRY_BYTES_TARGET
            && parts.len() < PARTS_MAX
            && let Some(next) = self.parts.pop_front()
        {
            self.bytes -= next.bytes();
            if next.is_wanted(now) {
                bytes += next.bytes();
                parts.push(next.part);
                clients.push(next.client);
            }
        }
        if parts.is_empty() {
            return None;
        }
        let sequence = self.sequence;
        self.sequence += 1;
        self.in_flight.insert(sequence);
        let entry = EventsEntry { edge: self.edge, edge_sequence: sequence, stamp_ms, parts };
        Some(Load { sequence, entry: Entry::Events(entry).encode(), clients })
    }
}

/// Appends entries of one partition.
#[derive(Clone)]
struct Sender {
    environment: Environment,
    append: Arc<dyn Append>,
    partition: PartitionId,
    metrics: IngestMetrics,
}

impl Sender {
    /// Appends an entry until it is answered or nobody waits for it any more; tells everyone; returns its sequence.
    fn see_through(&self, load: Load) -> impl Future<Output = u64> + use<> {
        let sender = self.clone();
        async move {
            let begin = Instant::now();
            let verdicts = sender.append(&load).await;
            sender.metrics.append_seconds.observe(begin.elapsed().as_secs_f64());
            for (index, client) in load.clients.into_iter().enumerate() {
                let outcome = verdicts.as_ref().map(|verdicts| outcome(verdicts, index)).map_err(Clone::clone);
                // Whoever does not wait any more does not need it.
                let _ = client.reply.send(outcome);
            }
            load.sequence
        }
    }

    async fn append(&self, load: &Load) -> Result<Verdicts, AppendError> {
        let deadline = load.clients.iter().map(|client| client.deadline).max().expect("an entry has parts");
        let mut backoff = BACKOFF_MIN;
        loop {
            let attempt_deadline = deadline.min(Instant::now() + ATTEMPT_MAX);
            let error = match self.attempt(load, attempt_deadline).await {
                Err(error @ AppendError::Unavailable(_)) => error,
                Err(AppendError::ClockSkew) => {
                    self.metrics.clock_skew.inc();
                    return Err(AppendError::ClockSkew);
                }
                done => return done,
            };
            // Half of the pause is drawn at random, so that nodes that failed together do not come back together.
            let spread = u64::try_from(backoff.as_micros() / 2).expect("a pause of at most a second");
            let pause = backoff / 2 + Duration::from_micros(self.environment.entropy.next_u64() % (spread + 1));
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            tracing::debug!(partition = %self.partition, sequence = load.sequence, %error, "append again");
            self.metrics.append_retries.inc();
            sleep(pause).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn attempt(&self, load: &Load, deadline: Instant) -> Result<Verdicts, AppendError> {
        let append = self.append.append(self.partition, load.entry.clone(), deadline);
        let answer = timeout_at(deadline, append).await.unwrap_or_else(|_| Err(too_late()))?;
        match postcard::from_bytes::<Verdicts>(&answer) {
            Ok(verdicts) if verdicts.parts.len() == load.clients.len() => Ok(verdicts),
            _ => Err(AppendError::Unavailable("the answer does not fit the entry".to_owned())),
        }
    }
}

fn outcome(verdicts: &Verdicts, part: usize) -> Outcome {
    let verdict = verdicts.parts[part];
    let offset = match verdict {
        Verdict::Duplicate { offset, .. } => offset,
        Verdict::Accepted | Verdict::Reused | Verdict::Expired | Verdict::TableFull => verdicts.offset,
    };
    Outcome { verdict, offset }
}
