//! The writer: takes all that waits, writes it with one write and one fsync, then answers in order.
//!
//! While one batch is being synced the next gathers, so the more groups write, the more one fsync commits. A failed write
//! or fsync is never tried again: the kernel may have dropped the pages, and a second fsync would say `Ok` over lost data.
//! The log fails for good, and the node stops.

use super::Shared;
use super::state::Queued;
use std::io;
use tokio::time::Instant;

/// Runs until the log is closed or fails.
pub(super) async fn run(shared: &Shared) {
    loop {
        let (batch, synced, is_closing) = {
            let mut state = shared.lock();
            if state.failure.is_some() {
                drop(state);
                return shared.abandon();
            }
            let is_due = state.is_urgent || state.is_closing;
            let batch = if is_due { state.take() } else { Vec::new() };
            (batch, state.synced_lsn, state.is_closing)
        };
        if !batch.is_empty() {
            write(shared, batch, synced).await;
        } else if !is_closing {
            rest(shared).await;
        } else if !shared.mark() {
            return;
        }
    }
}

/// Waits for work; after a short while without any, marks the last write as synced.
async fn rest(shared: &Shared) {
    let has_something_to_write = {
        let state = shared.lock();
        state.is_unmarked || !state.queue.is_empty()
    };
    let work = shared.work.notified();
    if !has_something_to_write {
        work.await;
    } else if tokio::time::timeout(shared.config.mark_after, work).await.is_err() {
        shared.mark();
    }
}

async fn write(shared: &Shared, batch: Vec<Queued>, synced: u64) {
    let begin = Instant::now();
    let (batch, written) = shared
        .environment
        .tasks
        .blocking(move || {
            let written = write_batch(&batch, synced);
            (batch, written)
        })
        .await;
    shared.note_activity(begin.elapsed());
    let lsn = batch.last().expect("a batch has a record").header.lsn;
    let payload_bytes = batch.iter().map(|queued| queued.payload.len()).sum();
    // Lets go of the segments before one of them may be recycled.
    let waiting: Vec<_> = batch.into_iter().filter_map(|queued| queued.done).collect();
    if let Err(error) = &written {
        shared.fail(format!("the log could not be written: {error}"));
        waiting.into_iter().for_each(|done| done(Err(io::Error::new(error.kind(), error.to_string()))));
        return;
    }
    if shared.lock().note_synced(lsn, payload_bytes) {
        shared.chores.notify_one();
    }
    shared.room.notify_waiters();
    waiting.into_iter().for_each(|done| done(Ok(())));
}

/// Writes records, segment by segment: a segment is synced before the next one begins.
fn write_batch(batch: &[Queued], mut synced: u64) -> io::Result<()> {
    for records in batch.chunk_by(|one, next| one.header.generation == next.header.generation) {
        records[0].segment.write(records, synced)?;
        synced = records[records.len() - 1].header.lsn;
    }
    Ok(())
}
