//! When entries are applied, and what they leave over is done.

use super::*;
use crate::environment::TaskRunner;
use crate::raft::types::Data;
use crate::{LogPosition, NodeId, Snapshot, Term};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Runs blocking work where it is asked for.
struct Inline;

impl TaskRunner for Inline {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        work();
        Box::pin(std::future::ready(()))
    }
}

/// Writes down what is done when, in ms. An entry of four bytes leaves four steps over, one without any leaves nothing.
#[derive(Clone)]
struct Diary(Arc<Mutex<Vec<(u64, u128)>>>, Instant);

impl Diary {
    fn write(&self, offset: Offset) {
        self.0.lock().unwrap().push((offset.0, self.1.elapsed().as_millis()));
    }

    fn read(&self) -> Vec<(u64, u128)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

struct Steps(Diary, Offset, usize);

impl Rest for Steps {
    fn remaining(&self) -> usize {
        self.2
    }

    fn step(&mut self) -> io::Result<Option<Bytes>> {
        self.0.write(self.1);
        self.2 -= 1;
        Ok((self.2 == 0).then(Bytes::new))
    }
}

#[async_trait]
impl StateMachine for Diary {
    fn durable(&self) -> Durable {
        Durable::default()
    }

    fn pace(&self, payload: &Bytes) -> Pace {
        if payload.is_empty() { Pace::Quick } else { Pace::Long }
    }

    fn apply(&self, entry: Committed) -> io::Result<Bytes> {
        self.write(entry.position.offset);
        Ok(Bytes::new())
    }

    fn begin(&self, entry: Committed) -> io::Result<Begun> {
        let Payload::Data(payload) = &entry.payload else { panic!("data was applied") };
        Ok(Begun::Rest(Box::new(Steps(self.clone(), entry.position.offset, payload.len()))))
    }

    async fn snapshot(&self) -> io::Result<Snapshot> {
        Err(io::Error::other("nobody asks"))
    }

    async fn install(&self, _: Durable, _: Box<dyn SnapshotChunks>) -> io::Result<()> {
        Err(io::Error::other("nobody asks"))
    }
}

fn entry(offset: u64, payload: &'static [u8]) -> Entry {
    Entry { payload: EntryPayload::Normal(Data(Bytes::from_static(payload))), ..blank(offset) }
}

fn blank(offset: u64) -> Entry {
    let position = LogPosition { term: Term(1), leader: NodeId(1), offset: Offset(offset) };
    Entry { log_id: log_id(position), payload: EntryPayload::Blank }
}

#[tokio::test(start_paused = true)]
async fn what_an_entry_leaves_over_is_spread_and_done_at_once_where_the_next_waits() {
    let diary = Diary(Arc::default(), Instant::now());
    let tasks = Tasks::new(Arc::new(Inline));
    let applier = Applier::new(GroupId(1), Arc::new(diary.clone()), tasks).unwrap();
    let turn = &mut *applier.turn().await.unwrap();

    applier.apply_one(turn, entry(0, b"long"), None).await.unwrap();
    sleep(Duration::from_millis(1200)).await;
    assert_eq!(diary.read(), [(0, 0); 4], "nothing says how long the next will be in coming");

    applier.apply_one(turn, entry(1, b"long"), None).await.unwrap();
    sleep(Duration::from_millis(250)).await;
    applier.apply_one(turn, entry(2, b""), None).await.unwrap();
    sleep(Duration::from_millis(1550)).await;
    let within_a_third = [(1, 1200), (1, 1300), (1, 1400), (2, 1450), (1, 1500)];
    assert_eq!(diary.read(), within_a_third, "other entries are applied meanwhile");

    applier.apply_one(turn, entry(3, b"long"), None).await.unwrap();
    sleep(Duration::from_millis(10)).await;
    applier.apply_one(turn, entry(4, b"long"), None).await.unwrap();
    turn.rests.wait().await;
    assert_eq!(diary.read()[..5], [(3, 3000), (3, 3010), (3, 3010), (3, 3010), (4, 3010)]);

    sleep(Duration::from_secs(60)).await;
    applier.apply_one(turn, entry(5, b"long"), None).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(diary.read(), [(5, 63_010), (5, 63_260), (5, 63_510), (5, 63_760)], "a second at most");
}

#[tokio::test(start_paused = true)]
async fn a_leader_begins_and_a_machine_is_let_go_of_with_nothing_left_to_do() {
    let diary = Diary(Arc::default(), Instant::now());
    let tasks = Tasks::new(Arc::new(Inline));
    let applier = Applier::new(GroupId(1), Arc::new(diary.clone()), tasks).unwrap();
    let mut turn = applier.turn().await.unwrap();
    applier.apply_one(&mut turn, entry(0, b"long"), None).await.unwrap();
    sleep(Duration::from_secs(3)).await;
    applier.apply_one(&mut turn, entry(1, b"long"), None).await.unwrap();
    applier.apply_one(&mut turn, blank(2), None).await.unwrap();
    assert_eq!(diary.read()[4..], [(1, 3000), (1, 3000), (1, 3000), (1, 3000), (2, 3000)]);

    sleep(Duration::from_secs(3)).await;
    applier.apply_one(&mut turn, entry(3, b"long"), None).await.unwrap();
    drop(turn);
    applier.let_go().await;
    assert_eq!(diary.read(), [(3, 6000); 4]);
    assert!(applier.turn().await.is_err());
}
