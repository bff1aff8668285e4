//! What the log's tests on a simulated disk share: an environment, a reference model, and how to compare the two.
#![allow(dead_code, reason = "each test uses a part of it")]

use cluster::environment::{Entropy, Environment, SystemClock, TaskRunner, Tasks, TcpNetwork};
use cluster::log::{Error, GroupState, Log, LogConfig, Record};
use cluster::{GroupId, LogPosition, NodeId, Offset, Term};
use futures::future::BoxFuture;
use simulation::environment::SimulatedDisk;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub const SEGMENT_BYTES: u64 = 4096;

/// Runs blocking work after a while and answers a while later, counted in turns of the other tasks.
#[derive(Default)]
struct Turns(AtomicU64);

impl TaskRunner for Turns {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let count = self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            turns(count * 5 % 3).await;
            work();
            turns(count * 7 % 4).await;
        })
    }
}

/// Lets the other tasks run, so many times.
pub async fn turns(count: u64) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

/// Counts, in large steps.
#[derive(Default)]
struct Counter(AtomicU64);

impl Entropy for Counter {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed)
    }
}

pub fn environment(disk: &SimulatedDisk) -> Environment {
    Environment {
        network: Arc::new(TcpNetwork),
        disk: Arc::new(disk.clone()),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(Counter::default()),
        tasks: Tasks::new(Arc::new(Turns::default())),
    }
}

pub fn config() -> LogConfig {
    LogConfig {
        segment_bytes: SEGMENT_BYTES,
        bytes_max: 4 * SEGMENT_BYTES,
        spares_max: 2,
        cache_bytes_max: 1024,
        ..LogConfig::default()
    }
}

pub async fn open(disk: &SimulatedDisk) -> Result<(Environment, Log), Error> {
    let environment = environment(disk);
    let log = Log::open(&environment, config()).await?;
    Ok((environment, log))
}

pub fn position(term: u64, offset: u64) -> LogPosition {
    LogPosition { term: Term(term), leader: NodeId(term % 3 + 1), offset: Offset(offset) }
}

/// One change of one group: what one record says.
#[derive(Debug, Clone)]
pub enum Change {
    Entry(Record),
    Vote(Vec<u8>),
    Committed(Option<LogPosition>),
    Truncate(Option<LogPosition>),
    Purge(LogPosition),
    Reset,
}

/// What a group should hold, kept in the plainest way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub state: GroupState,
    pub entries: Vec<Record>,
}

impl Model {
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Entry(record) => {
                self.entries.push(record.clone());
                self.state.last = Some(record.position);
            }
            Change::Vote(vote) => self.state.vote = Some(vote.clone().into()),
            Change::Committed(committed) => self.state.committed = *committed,
            Change::Truncate(last) => {
                self.entries.retain(|record| last.is_some_and(|last| record.position.offset <= last.offset));
                self.state.last = *last;
            }
            Change::Purge(upto) => {
                self.entries.retain(|record| record.position.offset > upto.offset);
                self.state.purged = Some(*upto);
                self.state.last = self.entries.last().map(|record| record.position).or(Some(*upto));
            }
            Change::Reset => {
                *self = Model {
                    state: GroupState {
                        vote: self.state.vote.take(),
                        dropped: self.state.dropped.max(self.state.last),
                        ..Default::default()
                    },
                    entries: Vec::new(),
                }
            }
        }
    }
}

pub type Models = BTreeMap<GroupId, Model>;

/// Everything that a log holds.
pub async fn content(log: &Log) -> Result<Models, std::io::Error> {
    let mut models = Models::new();
    for id in log.groups() {
        let group = log.group(id);
        let mut entries: Vec<Record> = Vec::new();
        let mut from = Offset(0);
        loop {
            let read = group.read(from..Offset(u64::MAX), 700).await?;
            let Some(last) = read.last() else { break };
            from = last.position.offset.next();
            entries.extend(read);
        }
        models.insert(id, Model { state: group.state(), entries });
    }
    models.retain(|_, model| *model != Model::default());
    Ok(models)
}
