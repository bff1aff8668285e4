//! Bugs in what replicas apply.

use super::has;
use crate::domain::Hour;
use crate::format::Entry;
use async_trait::async_trait;
use bytes::Bytes;
use cluster::{Committed, Durable, LogPosition, Payload, Snapshot, SnapshotChunks, StateMachine};
use std::io;
use std::sync::{Arc, Mutex};

/// A replica's state machine, with the bug of this process. `seed`: what differs between nodes.
pub fn machine(machine: Arc<dyn StateMachine>, seed: u64) -> Arc<dyn StateMachine> {
    match () {
        () if has("purge-too-far") => Arc::new(PurgeTooFar { machine, applied: Mutex::default() }),
        () if has("never-purges") => Arc::new(NeverPurges { opened: Mutex::new(machine.durable()), machine }),
        () if has("diverging-replica") => {
            Arc::new(Changed { machine, change: diverge, is_hit: seed.is_multiple_of(2) })
        }
        () if has("lost-quarantine") => Arc::new(Changed { machine, change: lose_quarantine, is_hit: true }),
        () if has("early-week") => Arc::new(Changed { machine, change: early_week, is_hit: true }),
        () if has("shifted-hour") => Arc::new(Changed { machine, change: shift_hour, is_hit: true }),
        () => machine,
    }
}

/// Says that everything applied is durable.
struct PurgeTooFar {
    machine: Arc<dyn StateMachine>,
    applied: Mutex<Option<LogPosition>>,
}

#[async_trait]
impl StateMachine for PurgeTooFar {
    fn durable(&self) -> Durable {
        let durable = self.machine.durable();
        let applied = *self.applied.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Durable { position: durable.position.and(applied.or(durable.position)), ..durable }
    }

    fn apply(&self, entry: Committed) -> io::Result<Bytes> {
        let position = entry.position;
        let answer = self.machine.apply(entry)?;
        *self.applied.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(position);
        Ok(answer)
    }

    fn admits(&self, payload: &Bytes) -> bool {
        self.machine.admits(payload)
    }

    async fn snapshot(&self) -> io::Result<Snapshot> {
        self.machine.snapshot().await
    }

    async fn install(&self, durable: Durable, chunks: Box<dyn SnapshotChunks>) -> io::Result<()> {
        self.machine.install(durable, chunks).await
    }
}

/// Goes on telling what was durable when it was opened.
struct NeverPurges {
    machine: Arc<dyn StateMachine>,
    opened: Mutex<Durable>,
}

#[async_trait]
impl StateMachine for NeverPurges {
    fn durable(&self) -> Durable {
        self.opened.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn apply(&self, entry: Committed) -> io::Result<Bytes> {
        self.machine.apply(entry)
    }

    fn admits(&self, payload: &Bytes) -> bool {
        self.machine.admits(payload)
    }

    async fn snapshot(&self) -> io::Result<Snapshot> {
        self.machine.snapshot().await
    }

    async fn install(&self, durable: Durable, chunks: Box<dyn SnapshotChunks>) -> io::Result<()> {
        self.machine.install(durable, chunks).await?;
        *self.opened.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = self.machine.durable();
        Ok(())
    }
}

/// Applies something else than the log holds.
struct Changed {
    machine: Arc<dyn StateMachine>,
    change: fn(Entry) -> Entry,
    is_hit: bool,
}

#[async_trait]
impl StateMachine for Changed {
    fn durable(&self) -> Durable {
        self.machine.durable()
    }

    fn apply(&self, mut entry: Committed) -> io::Result<Bytes> {
        if let Payload::Data(payload) = &entry.payload
            && self.is_hit
            && let Ok(decoded) = Entry::decode(payload)
        {
            entry.payload = Payload::Data((self.change)(decoded).encode());
        }
        self.machine.apply(entry)
    }

    fn admits(&self, payload: &Bytes) -> bool {
        self.machine.admits(payload)
    }

    async fn snapshot(&self) -> io::Result<Snapshot> {
        self.machine.snapshot().await
    }

    async fn install(&self, durable: Durable, chunks: Box<dyn SnapshotChunks>) -> io::Result<()> {
        self.machine.install(durable, chunks).await
    }
}

/// One millisecond of event time more than on other nodes.
fn diverge(entry: Entry) -> Entry {
    match entry {
        Entry::Checkpoint(checkpoint) => {
            Entry::Checkpoint(crate::format::Checkpoint { watermark_ms: checkpoint.watermark_ms + 1, ..checkpoint })
        }
        other => other,
    }
}

fn lose_quarantine(entry: Entry) -> Entry {
    match entry {
        Entry::Checkpoint(checkpoint) => {
            Entry::Checkpoint(crate::format::Checkpoint { quarantined: Vec::new(), ..checkpoint })
        }
        other => other,
    }
}

/// The first hour of a week (weeks begin as the epoch did, on Thursdays) goes to the hour before, where a checkpoint does not have that one too.
fn early_week(entry: Entry) -> Entry {
    match entry {
        Entry::Checkpoint(mut checkpoint) => {
            let mut before = None;
            for (app, hour, _) in &mut checkpoint.deltas {
                let earlier = Hour(hour.0.saturating_sub(1));
                if hour.0.is_multiple_of(168) && before != Some((app.clone(), earlier)) {
                    *hour = earlier;
                }
                before = Some((app.clone(), *hour));
            }
            Entry::Checkpoint(checkpoint)
        }
        other => other,
    }
}

/// The last rollup of every eleventh checkpoint goes to the next hour.
fn shift_hour(entry: Entry) -> Entry {
    match entry {
        Entry::Checkpoint(mut checkpoint) if checkpoint.through.is_multiple_of(11) => {
            if let Some((_, hour, _)) = checkpoint.deltas.last_mut() {
                hour.0 += 1;
            }
            Entry::Checkpoint(checkpoint)
        }
        other => other,
    }
}
