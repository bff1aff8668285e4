//! Named, owned tasks, and the lane for blocking work.
//!
//! A panic in a task, or [`Tasks::fail`], stops the node: a half-dead node is worse than a dead one. Whoever runs the
//! node waits on [`Tasks::failed`] next to its own work.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};

/// How the tasks and the blocking work of a node are run.
pub trait TaskRunner: Send + Sync + 'static {
    /// Runs blocking `work` to its end, off the async threads; the future completes after it.
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;

    /// What a task called `name` waits for before it begins; nothing, unless the simulator makes it hang.
    fn hold(&self, _name: &'static str) -> Option<BoxFuture<'static, ()>> {
        None
    }
}

/// Tokio's pool of threads for blocking work.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThreadPool;

#[allow(clippy::disallowed_methods, reason = "this is the door to blocking work")]
impl TaskRunner for ThreadPool {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let done = tokio::task::spawn_blocking(work);
        Box::pin(async move {
            if let Err(error) = done.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        })
    }
}

/// Spawns and owns the tasks of one node. Cheap to clone; all clones own the same tasks.
#[derive(Clone)]
pub struct Tasks {
    runner: Arc<dyn TaskRunner>,
    failure: Arc<watch::Sender<Option<String>>>,
    running: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Tasks {
    /// No tasks yet; `runner` runs them.
    pub fn new(runner: Arc<dyn TaskRunner>) -> Tasks {
        Tasks { runner, failure: Arc::new(watch::channel(None).0), running: Arc::default() }
    }

    /// Spawns a task that lives until it ends, the handle is aborted or the node shuts down. A panic in it stops the node
    /// with `name` in the message.
    #[allow(clippy::disallowed_methods, reason = "this is the door to tasks")]
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks = self.clone();
        let hold = self.runner.hold(name);
        let handle = tokio::spawn(async move {
            if let Some(hold) = hold {
                hold.await;
            }
            if let Err(panic) = AssertUnwindSafe(future).catch_unwind().await {
                tasks.fail(format!("task {name} panicked: {}", panic_text(&*panic)));
            }
        });
        let mut running = self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if running.len() == running.capacity() {
            running.retain(|task| !task.is_finished());
        }
        running.push(handle.abort_handle());
        handle
    }

    /// Runs blocking work (files, compression) off the async threads and waits for its result.
    pub async fn blocking<T, W>(&self, work: W) -> T
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let run = self.runner.run(Box::new(move || {
            // The receiver is gone only when the caller was dropped: then nobody wants the result.
            let _ = sender.send(work());
        }));
        run.await;
        receiver.await.expect("blocking work runs to its end before its future completes")
    }

    /// Stops the node: something happened after which it must not go on (failed fsync, damaged state, broken invariant).
    /// The first reason is kept.
    pub fn fail(&self, reason: String) {
        tracing::error!(%reason, "node stops");
        self.failure.send_if_modified(|failure| {
            let is_first = failure.is_none();
            failure.get_or_insert(reason);
            is_first
        });
    }

    /// Waits until the node has to stop, and says why.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.subscribe();
        let reason = failure.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Aborts every task that still runs.
    pub fn shutdown(&self) {
        for task in self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).drain(..) {
            task.abort();
        }
    }
}

/// The message of a panic, where it has one.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
