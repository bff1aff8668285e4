//! Named, owned tasks, and the lane for blocking work.
//!
//! A panic in a task, or [`Tasks::fail`], stops the node: a half-dead node is worse than a dead one. Whoever runs the
//! node waits on [`Tasks::failed`] next to its own work.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};

/// Blocking work.
pub type Work = Box<dyn FnOnce() + Send>;

/// How the tasks and the blocking work of a node are run.
pub trait TaskRunner: Send + Sync + 'static {
    /// Runs blocking `work` to its end, off the async threads; the future completes after it.
    fn run(&self, work: Work) -> BoxFuture<'static, ()>;

    /// Like [`TaskRunner::run`], but everything else goes before `work`.
    fn run_in_background(&self, work: Work) -> BoxFuture<'static, ()> {
        self.run(work)
    }

    /// What a task called `name` waits for before it begins; nothing, unless the simulator makes it hang.
    fn hold(&self, _name: &'static str) -> Option<BoxFuture<'static, ()>> {
        None
    }
}

/// Tokio's pool of threads for blocking work, and a few threads of low priority for what may wait.
#[derive(Debug, Default)]
pub struct ThreadPool {
    background: OnceLock<mpsc::Sender<Work>>,
}

/// How much background threads stand back, on Linux: a third of another thread's share while both want to run. Less would let
/// what is written out fall behind for good where a node has no time to spare.
#[cfg(target_os = "linux")]
const BACKGROUND_NICE: i32 = 5;

impl ThreadPool {
    /// The queue of the background threads, which end with it.
    fn background(&self) -> &mpsc::Sender<Work> {
        self.background.get_or_init(|| {
            let (sender, receiver) = mpsc::channel::<Work>();
            let receiver = Arc::new(Mutex::new(receiver));
            // Beside many threads of low priority the others get little, too. Two at least: writing out takes seconds, and what
            // is merged does not wait for it.
            let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().div_ceil(2).max(2));
            for _ in 0..threads {
                let receiver = receiver.clone();
                let thread = std::thread::Builder::new().name("background".to_owned());
                thread.spawn(move || work_in_background(&receiver)).expect("the system starts a thread");
            }
            sender
        })
    }
}

fn work_in_background(works: &Mutex<mpsc::Receiver<Work>>) {
    // Of this thread alone. Where the system refuses, the work runs like any other.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::getpriority_process(None)
        .and_then(|nice| rustix::process::setpriority_process(None, nice + BACKGROUND_NICE));
    let next = || works.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv();
    while let Ok(work) = next() {
        work();
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the door to blocking work")]
impl TaskRunner for ThreadPool {
    fn run(&self, work: Work) -> BoxFuture<'static, ()> {
        let done = tokio::task::spawn_blocking(work);
        Box::pin(async move {
            if let Err(error) = done.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        })
    }

    fn run_in_background(&self, work: Work) -> BoxFuture<'static, ()> {
        let (sender, outcome) = oneshot::channel();
        let work = move || {
            // The receiver is gone only when the caller was dropped: then nobody wants the result.
            let _ = sender.send(std::panic::catch_unwind(AssertUnwindSafe(work)));
        };
        self.background().send(Box::new(work)).expect("the threads live as long as their queue");
        Box::pin(async move {
            if let Ok(Err(panic)) = outcome.await {
                std::panic::resume_unwind(panic);
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
        self.run(work, |work| self.runner.run(work)).await
    }

    /// Like [`Tasks::blocking`], for what takes milliseconds and more and may wait for everything else.
    pub async fn background<T, W>(&self, work: W) -> T
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        self.run(work, |work| self.runner.run_in_background(work)).await
    }

    async fn run<T, W>(&self, work: W, run: impl FnOnce(Work) -> BoxFuture<'static, ()>) -> T
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let run = run(Box::new(move || {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn background_work_gives_its_result_and_its_panic() {
        let tasks = Tasks::new(Arc::new(ThreadPool::default()));
        assert_eq!(tasks.background(|| 7).await, 7);
        let panicking = AssertUnwindSafe(tasks.background(|| panic!("in the background"))).catch_unwind().await;
        assert_eq!(panic_text(&*panicking.unwrap_err()), "in the background");
        assert_eq!(tasks.background(|| 8).await, 8, "its threads go on");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn background_work_stands_back_and_other_blocking_work_does_not() {
        let tasks = Tasks::new(Arc::new(ThreadPool::default()));
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let own = nice();
        assert_eq!(tasks.background(nice).await, (own + BACKGROUND_NICE).min(19));
        assert_eq!(tasks.blocking(nice).await, own);
    }
}
