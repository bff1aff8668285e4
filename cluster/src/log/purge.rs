//! Segment files, off the way of appends: makes the next one ahead of need, recycles or removes those that nobody needs.
//!
//! A segment goes when it is the oldest, no group has an entry in it, and what dropped the last one is synced. It becomes
//! a spare unless there are enough, so a log in balance writes no zeros and changes no size.
//!
//! The next segment is filled at twice the pace of the current one, so that zeros are a part of what the disk has to do and
//! never all of it; where nothing is written, slowly.
//!
//! A full disk is no failure: [`super::Log::space`] says so, and it is tried again until there is space.

use super::Shared;
use super::segment::{Draft, Segment, remove_temporary};
use super::state::Chore;
use crate::environment::Disk;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Pause between pieces of a segment that is ahead of its need: 64 MiB take three seconds at least.
const FILL_PAUSE: Duration = Duration::from_millis(50);

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
    match chore {
        Chore::Prepare(generation) => {
            let prepared = prepare(shared, generation, salt).await;
            if matches!(prepared, Ok(Some(_))) {
                return prepared;
            }
            let removed = blocking(shared, remove_temporary).await;
            prepared.and_then(|prepared| removed.map(|()| prepared))
        }
        Chore::Release(segment, generation) => {
            blocking(shared, move |disk, directory| release(disk, directory, segment, generation, salt)).await
        }
    }
}

/// The next segment; `None` if the log is closed meanwhile.
async fn prepare(shared: &Arc<Shared>, generation: u64, salt: u64) -> io::Result<Option<Segment>> {
    let bytes = shared.bounds.segment_bytes;
    let mut begun: Option<Draft> = None;
    loop {
        let step = move |disk: &dyn Disk, directory: &Path| {
            let mut draft = begun.map_or_else(|| Draft::begin(disk, directory, bytes), Ok)?;
            draft.fill_some()?;
            if draft.is_filled() {
                return draft.finish(disk, directory, generation, salt).map(Step::Whole);
            }
            Ok(Step::Part(draft))
        };
        let draft = match blocking(shared, step).await? {
            Step::Whole(segment) => return Ok(Some(segment)),
            Step::Part(draft) => draft,
        };
        let is_ahead = {
            let state = shared.lock();
            if state.check_open().is_err() {
                return Ok(None);
            }
            state.is_ahead(draft.filled())
        };
        if is_ahead {
            sleep(FILL_PAUSE).await;
        }
        begun = Some(draft);
    }
}

/// How far a segment is.
enum Step {
    Part(Draft),
    Whole(Segment),
}

/// Does what blocks, with the disk and the log's directory.
async fn blocking<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&dyn Disk, &Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let shared = Arc::clone(shared);
    let tasks = shared.environment.tasks.clone();
    tasks.blocking(move || work(&*shared.environment.disk, &shared.config.directory)).await
}

fn release(
    disk: &dyn Disk,
    directory: &Path,
    segment: Arc<Segment>,
    generation: Option<u64>,
    salt: u64,
) -> io::Result<Option<Segment>> {
    // Whoever still reads from the file keeps it; it must not be overwritten then.
    match (Arc::try_unwrap(segment), generation) {
        (Ok(segment), Some(generation)) => segment.recycle(disk, directory, generation, salt).map(Some),
        (Ok(segment), None) => segment.remove(disk, directory).map(|()| None),
        (Err(shared), _) => shared.remove(disk, directory).map(|()| None),
    }
}
