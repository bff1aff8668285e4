//! Blocking work takes simulated time: it is done inline after a pause that the seed decides. And an aggregator's tasks may
//! hang.

use super::entropy::SeededEntropy;
use cluster::environment::{Entropy, TaskRunner};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// How long a node's disk takes; clones are the same disk's. Mostly quick, now and then slow, as a busy disk is.
#[derive(Debug, Clone, Default)]
pub struct DiskPace(Arc<Pace>);

#[derive(Debug, Default)]
struct Pace {
    /// Longest pause of ordinary work, in ms.
    quick_ms: AtomicU64,
    /// Longest pause of one in sixteen, in ms: beyond a heartbeat, leaders lose elections.
    slow_ms: AtomicU64,
    /// What a fault adds to each, in ms.
    extra_ms: AtomicU64,
    is_held: watch::Sender<bool>,
}

/// One in so many is slow.
const SLOW_ONE_IN: u64 = 16;

impl DiskPace {
    /// A disk whose work takes up to `quick_ms`, sometimes up to `slow_ms`; both at least 1.
    pub fn new(quick_ms: u64, slow_ms: u64) -> DiskPace {
        let pace = DiskPace::default();
        pace.0.quick_ms.store(quick_ms.max(1), Ordering::Relaxed);
        pace.0.slow_ms.store(slow_ms.max(1), Ordering::Relaxed);
        pace
    }

    /// Makes everything take so much longer.
    pub fn set_extra_ms(&self, extra_ms: u64) {
        self.0.extra_ms.store(extra_ms, Ordering::Relaxed);
    }

    /// Makes everything wait, or go on.
    pub fn hold(&self, is_held: bool) {
        self.0.is_held.send_replace(is_held);
    }

    async fn until_released(&self) {
        // The sender lives as long as the pace.
        let _ = self.0.is_held.subscribe().wait_for(|is_held| !is_held).await;
    }

    fn pause(&self, draw: u64) -> Duration {
        let longest = if draw.is_multiple_of(SLOW_ONE_IN) { &self.0.slow_ms } else { &self.0.quick_ms };
        let drawn = (draw >> 8) % longest.load(Ordering::Relaxed).max(1);
        Duration::from_millis(1 + drawn + self.0.extra_ms.load(Ordering::Relaxed))
    }
}

/// Whether the tasks that a node's aggregators wait for hang; clones are the same node's.
#[derive(Debug, Clone, Default)]
pub struct AggregatorTasks(Arc<watch::Sender<bool>>);

/// What the product calls them: without both, an aggregator stands still.
const NAMES: [&str; 2] = ["aggregator waker", "checkpoint proposal"];

impl AggregatorTasks {
    /// Makes those that begin from now on hang, or lets all go on.
    pub fn hang(&self, hang: bool) {
        self.0.send_replace(hang);
    }

    async fn until_released(mut hangs: watch::Receiver<bool>) {
        // The sender lives as long as the node.
        let _ = hangs.wait_for(|hangs| !hangs).await;
    }
}

/// Runs a node's tasks: blocking work at its disk's pace, and its aggregators' tasks unless they hang.
pub struct SimulatedTasks {
    pace: DiskPace,
    aggregator_tasks: AggregatorTasks,
    entropy: SeededEntropy,
}

impl SimulatedTasks {
    /// The pauses that `seed` draws.
    pub fn new(pace: DiskPace, aggregator_tasks: AggregatorTasks, seed: u64) -> SimulatedTasks {
        SimulatedTasks { pace, aggregator_tasks, entropy: SeededEntropy::new(seed ^ 0x0005_10FD_15C0) }
    }
}

impl TaskRunner for SimulatedTasks {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let pause = self.pace.pause(self.entropy.next_u64());
        let pace = self.pace.clone();
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            pace.until_released().await;
            work();
        })
    }

    fn hold(&self, name: &'static str) -> Option<BoxFuture<'static, ()>> {
        let hangs = self.aggregator_tasks.0.subscribe();
        (NAMES.contains(&name) && *hangs.borrow()).then(|| AggregatorTasks::until_released(hangs).boxed())
    }
}
