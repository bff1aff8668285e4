//! A log in memory that does to appends what networks and elections do, and counts what counts.

use super::admission::{Admission, Permit};
use super::append::{Append, AppendError};
use crate::domain::{Identity, SLOTS, TimeLimits, Verdict, Verdicts};
use crate::format::{Batch, Entry, EventsEntry};
use crate::metrics::Level;
use async_trait::async_trait;
use bytes::Bytes;
use cluster::PartitionId;
use cluster::environment::{Clock, Entropy, Environment, SystemDisk, Tasks, TcpNetwork, ThreadPool};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What happens to the next append of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Refused, nothing written.
    Refused,
    /// Written, but the answer is lost.
    Lost,
    /// Never answered, nothing written.
    Hangs,
    /// Larger than the log takes.
    TooLarge,
    /// The leader has no room.
    DiskFull,
    /// The node is far ahead of the leader.
    ClockSkew,
    /// Written, and answered with nonsense.
    Garbled,
    /// Written and answered late.
    Late(Duration),
}

/// A partition's log and the state that answers appends.
#[derive(Default)]
pub struct Partition {
    /// When each append came in, and its bytes.
    pub appends: Vec<(Instant, Bytes)>,
    /// The entries that count, in order.
    pub entries: Vec<EventsEntry>,
    /// Consumed one by one; without any left, appends succeed.
    pub faults: VecDeque<Fault>,
    /// Producers' sequences below this are expired.
    pub sequences_from: u64,
    /// Every identity is refused.
    pub is_table_full: bool,
    edges: BTreeMap<(u128, u64), Verdicts>,
    identities: BTreeMap<(String, u64), (u64, TimeLimits, u64)>,
}

/// The log: six partitions, slot by slot in turn.
#[derive(Default)]
pub struct FakeLog {
    partitions: Mutex<BTreeMap<PartitionId, Partition>>,
    /// How long an append takes, in microseconds.
    pub latency_us: AtomicU64,
}

pub const PARTITIONS: u16 = 6;

impl FakeLog {
    /// Looks at, or sets up, one partition.
    pub fn partition<T>(&self, partition: u16, look: impl FnOnce(&mut Partition) -> T) -> T {
        look(self.lock().entry(PartitionId(partition)).or_default())
    }

    /// Everything that counts: app, time, value, how often.
    pub fn events(&self) -> BTreeMap<(String, u64, u64), u64> {
        let mut events = BTreeMap::new();
        for entry in self.lock().values().flat_map(|partition| &partition.entries) {
            for part in entry.parts.iter().filter(|part| part.events > 0) {
                Batch::decode(&part.batch).unwrap().for_each_app(|app_id, group| {
                    for (time, value) in group {
                        *events.entry((app_id.to_owned(), time.0, value.0)).or_default() += 1;
                    }
                });
            }
        }
        events
    }

    /// Appends that came in at all partitions.
    pub fn appends(&self) -> usize {
        self.lock().values().map(|partition| partition.appends.len()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Partition>> {
        self.partitions.lock().unwrap()
    }
}

impl Partition {
    fn apply(&mut self, bytes: &Bytes) -> Verdicts {
        let Entry::Events(mut entry) = Entry::decode(bytes).unwrap() else { panic!("not events") };
        let key = (entry.edge, entry.edge_sequence);
        if let Some(verdicts) = self.edges.get(&key) {
            return verdicts.clone();
        }
        let offset = 10 + self.entries.len() as u64;
        let parts: Vec<Verdict> = entry.parts.iter().map(|part| self.judge(part.identity.as_ref(), offset)).collect();
        let mut verdicts = parts.iter();
        entry.parts.retain(|_| verdicts.next() == Some(&Verdict::Accepted));
        self.entries.push(entry);
        self.edges.entry(key).or_insert(Verdicts { offset, parts }).clone()
    }

    fn judge(&mut self, identity: Option<&Identity>, offset: u64) -> Verdict {
        let Some(identity) = identity else { return Verdict::Accepted };
        let key = (identity.producer.as_str().to_owned(), identity.sequence.0);
        match self.identities.get(&key) {
            _ if self.is_table_full => Verdict::TableFull,
            _ if identity.sequence.0 < self.sequences_from => Verdict::Expired,
            Some((hash, ..)) if *hash != identity.body_hash => Verdict::Reused,
            Some((_, limits, offset)) => Verdict::Duplicate { offset: *offset, limits: *limits },
            None => {
                self.identities.insert(key, (identity.body_hash, identity.limits, offset));
                Verdict::Accepted
            }
        }
    }
}

#[async_trait]
impl Append for FakeLog {
    fn slots(&self) -> Arc<[PartitionId]> {
        (0..SLOTS).map(|slot| PartitionId(slot % PARTITIONS)).collect()
    }

    async fn append(&self, partition: PartitionId, entry: Bytes, _: Instant) -> Result<Bytes, AppendError> {
        let unavailable = || AppendError::Unavailable("planted".to_owned());
        let fault = self.partition(partition.0, |partition| {
            partition.appends.push((Instant::now(), entry.clone()));
            partition.faults.pop_front()
        });
        match fault {
            Some(Fault::Refused) => return Err(unavailable()),
            Some(Fault::TooLarge) => return Err(AppendError::TooLarge),
            Some(Fault::DiskFull) => return Err(AppendError::DiskFull),
            Some(Fault::ClockSkew) => return Err(AppendError::ClockSkew),
            Some(Fault::Hangs) => std::future::pending().await,
            _ => sleep(Duration::from_micros(self.latency_us.load(Ordering::Relaxed))).await,
        }
        let verdicts = self.partition(partition.0, |partition| partition.apply(&entry));
        match fault {
            Some(Fault::Lost) => return Err(unavailable()),
            Some(Fault::Garbled) => return Ok(Bytes::from_static(b"\xff")),
            Some(Fault::Late(by)) => sleep(by).await,
            _ => {}
        }
        Ok(postcard::to_allocvec(&verdicts).unwrap().into())
    }
}

/// 2026-11-22T12:00:00Z.
pub const NOON_MS: u64 = 1_795_348_800_000;

struct Noon;
impl Clock for Noon {
    fn since_epoch(&self) -> Duration {
        Duration::from_millis(NOON_MS)
    }
}

struct Counting(AtomicU64);
impl Entropy for Counting {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }
}

/// An environment whose clock stands at noon and whose random numbers are the same in each run.
pub fn environment() -> Environment {
    Environment {
        network: Arc::new(TcpNetwork),
        disk: Arc::new(SystemDisk::new(std::env::temp_dir()).unwrap()),
        clock: Arc::new(Noon),
        entropy: Arc::new(Counting(AtomicU64::new(1))),
        tasks: Tasks::new(Arc::new(ThreadPool::default())),
    }
}

/// A permit of a budget that nobody else uses.
pub fn permit() -> Permit {
    Admission::new(1 << 30, 1 << 20, Level::default()).admit().unwrap()
}
