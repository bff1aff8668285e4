//! Snapshots that another node sends: refused and the old state stands, or installed whole, and then every row of it can be
//! read, its apps can be listed, and the next snapshot carries the same.

#![no_main]

use async_trait::async_trait;
use bytes::Bytes;
use cluster::{Durable, LogPosition, NodeId, Offset, PartitionId, SnapshotChunks, StateMachine, Term};
use futures::FutureExt;
use fuzz::{SKETCH, block_on, environment, piece, seal};
use hourmark::metrics::Metrics;
use hourmark::rollup::{Engine, Policy, Store};
use libfuzzer_sys::fuzz_target;
use simulation::environment::SimulatedDisk;
use std::collections::VecDeque;
use std::io;

/// Where the snapshot of the corpus stands.
const POSITION: LogPosition = LogPosition { term: Term(1), leader: NodeId(1), offset: Offset(5) };

struct Chunks(VecDeque<Bytes>);

#[async_trait]
impl SnapshotChunks for Chunks {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        Ok(self.0.pop_front())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    let mut chunks = VecDeque::new();
    while let Some(content) = piece(&mut rest) {
        chunks.push_back(seal(content));
    }
    block_on(install(Chunks(chunks)));
});

async fn install(chunks: Chunks) {
    let environment = environment(&SimulatedDisk::new(1));
    let metrics = Metrics::new();
    let store =
        Store::open(&environment, Engine::Journal, SKETCH.clone(), Policy::default(), metrics.store.clone()).await;
    let store = store.expect("an empty disk is a fresh store");
    let state = store.partition(PartitionId(0)).await.expect("a fresh state");
    let before = state.digest();
    let durable = Durable { position: Some(POSITION), membership: None };
    match state.install(durable.clone(), Box::new(chunks)).await {
        Err(_) => assert_eq!(state.digest(), before),
        Ok(()) => {
            assert_eq!(state.durable(), durable);
            state.reader().apps("", None, 1000).expect("apps of a state that was just installed");
            let installed = state.digest();
            let mut captured = state.snapshot().await.expect("a state that was just installed");
            let mut chunks = VecDeque::new();
            while let Some(chunk) = captured.chunks.next().await.expect("a row that was just installed") {
                chunks.push_back(chunk);
            }
            let other = store.partition(PartitionId(1)).await.expect("a fresh state");
            other.install(durable, Box::new(Chunks(chunks))).await.expect("what a node sends another one takes");
            assert_eq!(other.digest(), installed);
        }
    }
    assert_eq!(environment.tasks.failed().now_or_never(), None);
}
