//! Segment files, off the way of appends: makes the next one ahead of need, recycles or removes those that nobody needs.
//!
//! A segment goes when it is the oldest, no group has an entry in it, and what dropped the last one is synced. It becomes
//! a spare unless there are enough, so a log in balance writes no zeros and changes no size.
//!
//! A full disk is no failure: [`super::Log::space`] says so, and it is tried again until there is space.

use super::Shared;
use super::segment::Segment;
use super::state::Chore;
use crate::environment::Disk;
use std::io;
use std::sync::Arc;

/// Runs until the log is closed or fails.
pub(super) async fn run(shared: &Arc<Shared>) {
    loop {
        let chore = {
            let mut state = shared.lock();
            if state.check_open().is_err() {
                return;
            }
            state.next_chore()
        };
        let Some(chore) = chore else {
            shared.chores.notified().await;
            continue;
        };
        match work(shared, chore).await {
            Ok(None) => {}
            Ok(Some(spare)) => {
                let mut state = shared.lock();
                state.spares.push_back(Arc::new(spare));
                state.is_disk_full = false;
                shared.room.notify_waiters();
            }
            Err(error) if is_disk_full(&error) => {
                let was_full = std::mem::replace(&mut shared.lock().is_disk_full, true);
                if !was_full {
                    tracing::error!(%error, "disk is full: the log's next segment cannot be made, appends are refused");
                }
                shared.room.notify_waiters();
                let _ = tokio::time::timeout(shared.config.retry_after, shared.chores.notified()).await;
            }
            Err(error) => shared.fail(format!("a log segment could not be made or removed: {error}")),
        }
    }
}

/// Whether an error says that there is no space, now.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

async fn work(shared: &Arc<Shared>, chore: Chore) -> io::Result<Option<Segment>> {
    let salt = shared.environment.entropy.next_u64();
    let shared = Arc::clone(shared);
    let tasks = shared.environment.tasks.clone();
    tasks.blocking(move || work_blocking(&*shared.environment.disk, &shared.config, chore, salt)).await
}

fn work_blocking(disk: &dyn Disk, config: &super::LogConfig, chore: Chore, salt: u64) -> io::Result<Option<Segment>> {
    let directory = &config.directory;
    let (segment, generation) = match chore {
        Chore::Prepare(generation) => {
            return Segment::create(disk, directory, generation, config.segment_bytes, salt).map(Some);
        }
        Chore::Release(segment, generation) => (segment, generation),
    };
    // Whoever still reads from the file keeps it; it must not be overwritten then.
    match (Arc::try_unwrap(segment), generation) {
        (Ok(segment), Some(generation)) => segment.recycle(disk, directory, generation, salt).map(Some),
        (Ok(segment), None) => segment.remove(disk, directory).map(|()| None),
        (Err(shared), _) => shared.remove(disk, directory).map(|()| None),
    }
}
