//! Rebuilding a replica whose store is gone or damaged: its log no longer holds what the store has lost, so another
//! replica's state is fetched before the group is opened.
//!
//! The log itself is intact, votes and all; only entries that the fetched state covers, or that contradict it, are dropped.

use crate::log::GroupLog;
use crate::raft::spool::Spool;
use crate::raft::{self, GroupContext};
use crate::transport::{Lane, Reply, Request, Response, Transport};
use crate::{Durable, GroupId, LogPosition, NodeId, SnapshotChunks, StateMachine, message};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long the other replica may take to capture its state.
const CAPTURE_TIMEOUT: Duration = Duration::from_secs(30);

/// A transfer nobody has asked for in so long is dropped.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Asks for the next chunk of a transfer; the first opens it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Fetch {
    transfer: u64,
    sequence: u64,
}

/// The answer; the chunk is the message's body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Fetched {
    /// The transfer is open; the state is at this position.
    Opened { position: Option<LogPosition>, membership: Option<Bytes> },
    /// A chunk.
    Chunk,
    /// There are no more chunks.
    End,
    /// There is no such transfer, or the state cannot be read: ask another replica, or begin again.
    Lost,
}

/// Whether the log has been purged of entries that `machine`'s durable state does not have.
pub fn has_lost_store(log: &GroupLog, machine: &dyn StateMachine) -> bool {
    let durable = machine.durable().position;
    log.state().purged.is_some_and(|purged| durable.is_none_or(|durable| durable.offset < purged.offset))
}

/// Fetches the state of a group from one of its other replicas and installs it, so that the group can be opened.
pub async fn fetch(
    context: &GroupContext,
    group: GroupId,
    machine: &Arc<dyn StateMachine>,
    from: NodeId,
) -> io::Result<()> {
    let log = context.log.group(group);
    let mut transfer = Transfer {
        transport: context.transport.clone(),
        from,
        group,
        id: context.environment.entropy.next_u64(),
        sequence: 0,
        timeout: CAPTURE_TIMEOUT.max(context.config.stall_timeout),
    };
    let (opened, _) = transfer.next().await?;
    let Fetched::Opened { position: Some(position), membership } = opened else {
        return Err(io::Error::other("the other replica has no state to give"));
    };
    if log.state().purged.is_some_and(|purged| position.offset < purged.offset) {
        return Err(io::Error::other("the other replica's state is older than this log"));
    }
    let mut spool = Spool::create(&context.environment, group, transfer.id).await?;
    transfer.timeout = context.config.stall_timeout;
    loop {
        match transfer.next().await? {
            (Fetched::Chunk, chunk) => spool.push(chunk).await?,
            (Fetched::End, _) => break,
            _ => return Err(io::Error::other("the other replica has dropped the transfer")),
        }
    }
    machine.install(Durable { position: Some(position), membership }, Box::new(spool)).await?;
    drop_contradictions(&log, position).await?;
    log.purge(position).await
}

/// Drops the log where it holds another entry at the state's position: what follows it there was never committed, and
/// what precedes it is in the state. Also called whenever a group opens, because a crash may come right after the state
/// was installed.
pub async fn drop_contradictions(log: &GroupLog, position: LogPosition) -> io::Result<()> {
    let held = log.position(position.offset);
    if held.is_some_and(|held| held != position) {
        log.truncate_after(log.state().purged).await?;
        log.purge(position).await?;
    }
    Ok(())
}

/// The asking end of a transfer.
struct Transfer {
    transport: Transport,
    from: NodeId,
    group: GroupId,
    id: u64,
    sequence: u64,
    timeout: Duration,
}

impl Transfer {
    async fn next(&mut self) -> io::Result<(Fetched, Bytes)> {
        let header = raft::encode(&Fetch { transfer: self.id, sequence: self.sequence });
        let request = Request { kind: message::FETCH_SNAPSHOT, group: self.group, header, body: Vec::new() };
        let deadline = Instant::now() + self.timeout;
        let response = self.transport.call(self.from, Lane::Bulk, request, deadline).await.map_err(io::Error::other)?;
        self.sequence += 1;
        let fetched = raft::decode(&response.header)?;
        Ok((fetched, response.body.into_iter().next().unwrap_or_default()))
    }
}

/// The giving end of all transfers of a node: at most one for each asking node and group.
#[derive(Clone, Default)]
pub struct Donors {
    open: Arc<Mutex<BTreeMap<(NodeId, GroupId), Donor>>>,
}

struct Donor {
    transfer: u64,
    next: u64,
    chunks: Box<dyn SnapshotChunks>,
    used: Instant,
}

impl Donors {
    /// Drops transfers that nobody asks for any more: what they captured is kept in memory.
    pub async fn sweep(&self) {
        let now = Instant::now();
        self.open.lock().await.retain(|_, donor| now - donor.used < IDLE_MAX);
    }

    /// Answers one request for a chunk of the state that `machine` holds.
    pub async fn serve(&self, from: NodeId, request: Request, machine: Arc<dyn StateMachine>, reply: Reply) {
        let served = match raft::decode(&request.header) {
            Ok(fetch) => self.next((from, request.group), fetch, &machine).await,
            Err(error) => Err(error),
        };
        let (fetched, chunk) = served.unwrap_or_else(|error| {
            tracing::warn!(%from, group = %request.group, %error, "a state could not be given to another replica");
            (Fetched::Lost, None)
        });
        reply.send(Response { header: raft::encode(&fetched), body: chunk.into_iter().collect() });
    }

    async fn next(
        &self,
        key: (NodeId, GroupId),
        fetch: Fetch,
        machine: &Arc<dyn StateMachine>,
    ) -> io::Result<(Fetched, Option<Bytes>)> {
        let now = Instant::now();
        if fetch.sequence == 0 {
            let snapshot = machine.snapshot().await?;
            let Durable { position, membership } = snapshot.durable;
            let donor = Donor { transfer: fetch.transfer, next: 1, chunks: snapshot.chunks, used: now };
            self.open.lock().await.insert(key, donor);
            return Ok((Fetched::Opened { position, membership }, None));
        }
        let mut open = self.open.lock().await;
        let is_next = |donor: &&mut Donor| donor.transfer == fetch.transfer && donor.next == fetch.sequence;
        let Some(donor) = open.get_mut(&key).filter(is_next) else { return Ok((Fetched::Lost, None)) };
        donor.used = now;
        donor.next += 1;
        match donor.chunks.next().await? {
            Some(chunk) => Ok((Fetched::Chunk, Some(chunk))),
            None => {
                open.remove(&key);
                Ok((Fetched::End, None))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use crate::log::{Log, LogConfig, Record};
    use crate::{Offset, Snapshot, Term};
    use async_trait::async_trait;

    fn at(term: u64, offset: u64) -> LogPosition {
        LogPosition { term: Term(term), leader: NodeId(1), offset: Offset(offset) }
    }

    #[tokio::test]
    async fn a_log_that_contradicts_the_state_is_dropped_and_any_other_stays() {
        let directory = tempfile::tempdir().unwrap();
        let environment = Environment::system(directory.path()).unwrap();
        let config = LogConfig { segment_bytes: 1 << 20, ..LogConfig::default() };
        let log = Log::open(&environment, config).await.unwrap().group(GroupId(1));
        let entries = (0..6).map(|offset| Record { position: at(1, offset), kind: 1, payload: Bytes::new() });
        log.append(entries.collect(), Box::new(|_| {})).await.unwrap();
        for position in [at(1, 3), at(1, 5), at(2, 9)] {
            drop_contradictions(&log, position).await.unwrap();
            assert_eq!((log.state().purged, log.state().last), (None, Some(at(1, 5))));
        }
        drop_contradictions(&log, at(2, 3)).await.unwrap();
        assert_eq!((log.state().purged, log.state().last), (Some(at(2, 3)), Some(at(2, 3))));
    }

    /// A state whose snapshots have no end.
    struct Endless(Arc<()>);

    #[async_trait]
    impl StateMachine for Endless {
        fn durable(&self) -> Durable {
            Durable::default()
        }

        fn apply(&self, _: crate::Committed) -> io::Result<Bytes> {
            Ok(Bytes::new())
        }

        async fn snapshot(&self) -> io::Result<Snapshot> {
            Ok(Snapshot { durable: Durable::default(), chunks: Box::new(Endless(self.0.clone())) })
        }

        async fn install(&self, _: Durable, _: Box<dyn SnapshotChunks>) -> io::Result<()> {
            Ok(())
        }
    }

    #[async_trait]
    impl SnapshotChunks for Endless {
        async fn next(&mut self) -> io::Result<Option<Bytes>> {
            Ok(Some(Bytes::from_static(b"chunk")))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_transfer_that_nobody_asks_for_any_more_is_dropped() {
        let (donors, held) = (Donors::default(), Arc::new(()));
        let machine: Arc<dyn StateMachine> = Arc::new(Endless(held.clone()));
        let key = (NodeId(2), GroupId(1));
        donors.next(key, Fetch { transfer: 7, sequence: 0 }, &machine).await.unwrap();
        tokio::time::advance(IDLE_MAX / 2).await;
        donors.sweep().await;
        let (fetched, _) = donors.next(key, Fetch { transfer: 7, sequence: 1 }, &machine).await.unwrap();
        assert_eq!((fetched, Arc::strong_count(&held)), (Fetched::Chunk, 3));
        tokio::time::advance(IDLE_MAX).await;
        donors.sweep().await;
        assert_eq!(Arc::strong_count(&held), 2, "the captured state is let go of");
    }
}
