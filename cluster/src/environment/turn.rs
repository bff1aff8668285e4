//! Taking turns with other tasks.

use std::future::poll_fn;
use std::task::Poll;

/// Lets the tasks that are ready on this thread run first, each once: what they hand over can be taken along then. Another thread that
/// has nothing to do may go on with the caller sooner.
///
/// It looks at no socket and no timer, as `tokio::task::yield_now` does. On a busy thread that is much quicker: there a look is taken after
/// 61 tasks, however long they take. Where what arrives meanwhile is worth that wait, and between the parts of long work, `yield_now`
/// is right.
pub async fn next_turn() {
    let mut has_waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        // A task that wakes itself goes behind those that are ready.
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tasks of the test's own")]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn a_task_that_is_always_ready_runs_once_a_turn() {
        let runs = Arc::new(AtomicUsize::new(0));
        let counter = runs.clone();
        let busy = tokio::spawn(poll_fn(move |context| {
            counter.fetch_add(1, Ordering::Relaxed);
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        let waiting = tokio::spawn(async move {
            next_turn().await;
            let before = runs.load(Ordering::Relaxed);
            for _ in 0..10 {
                next_turn().await;
            }
            runs.load(Ordering::Relaxed) - before
        });
        assert_eq!(waiting.await.unwrap(), 10);
        busy.abort();
    }
}
