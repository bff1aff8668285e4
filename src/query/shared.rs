//! One read for all who wait to ask the same.
//!
//! A read answers only questions that came before it began. So who asks while one is under way waits for the next one, and
//! shares it with all who have come by then. One of them makes it, the others only take what it finds:
//!
//! ```text
//!   questions:  a     b   c           d
//!               │     │   │           │
//!   reads:      ├── a ────┼──┤        │
//!                            ├── b, c ┼──┤
//!                                        ├── d ──┤
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// After so long in line a question is read on its own, as if nobody else had asked: a read that hangs, or fails at the end of
/// its reader's time, holds up nobody for longer. A read takes some milliseconds, under full load some tens.
const PATIENCE: Duration = Duration::from_millis(100);

/// Reads under way, one at a time for each key, besides those of who lost patience.
///
/// A key is in the map exactly as long as one of its callers reads or has been told to.
pub struct SharedReads<K: Ord + Clone, V: Clone> {
    /// Who waits until the read under way has ended, in the order of coming.
    lines: Mutex<BTreeMap<K, Line<V>>>,
}

type Line<V> = VecDeque<oneshot::Sender<Turn<V>>>;

/// What becomes of one who waited.
enum Turn<V> {
    /// Another one has read.
    Answered(V),
    /// It is the one to read.
    Read,
}

impl<K: Ord + Clone, V: Clone> Default for SharedReads<K, V> {
    fn default() -> SharedReads<K, V> {
        SharedReads { lines: Mutex::default() }
    }
}

impl<K: Ord + Clone, V: Clone> SharedReads<K, V> {
    /// What `read` finds, or what the same question of another caller finds in a read that began after this call.
    ///
    /// `read` is called once at most, when it is to begin. An error is nobody's but the reader's own: the others, who may have more time
    /// left, read again. Dropping the future hands on what it was to do.
    pub async fn get<E, F>(&self, key: &K, read: impl FnOnce() -> F) -> Result<V, E>
    where
        F: Future<Output = Result<V, E>>,
    {
        if let Some(mut waiting) = self.line_up(key) {
            match timeout(PATIENCE, waiting.turn()).await {
                Ok(Turn::Answered(value)) => return Ok(value),
                Ok(Turn::Read) => {}
                Err(_) => {
                    drop(waiting);
                    return read().await;
                }
            }
        }
        // Nothing is awaited between the turn and here: from now on `reading` hands it on.
        let mut reading = Reading::begin(self, key);
        let value = read().await?;
        reading.answer(&value);
        Ok(value)
    }

    /// A place in line, if a read is under way; otherwise one is now, the caller's.
    fn line_up<'r>(&'r self, key: &'r K) -> Option<Waiting<'r, K, V>> {
        let mut lines = self.lock();
        let Some(line) = lines.get_mut(key) else {
            lines.insert(key.clone(), Line::new());
            return None;
        };
        let (sender, turn) = oneshot::channel();
        line.push_back(sender);
        Some(Waiting { reads: self, key, turn })
    }

    /// Has the next in line read, `first` before all others. Runs where a future is dropped, so it takes a missing key for an
    /// empty line rather than panic.
    fn pass_on(&self, key: &K, mut first: Line<V>) {
        let mut lines = self.lock();
        let line = lines.entry(key.clone()).or_default();
        first.append(line);
        *line = first;
        while let Some(next) = line.pop_front() {
            // Who has gone away takes no turn.
            if next.send(Turn::Read).is_ok() {
                return;
            }
        }
        lines.remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, Line<V>>> {
        self.lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One who waits; hands its turn on if it goes away.
struct Waiting<'r, K: Ord + Clone, V: Clone> {
    reads: &'r SharedReads<K, V>,
    key: &'r K,
    turn: oneshot::Receiver<Turn<V>>,
}

impl<K: Ord + Clone, V: Clone> Waiting<'_, K, V> {
    async fn turn(&mut self) -> Turn<V> {
        (&mut self.turn).await.expect("whoever reads answers or passes on, also when dropped")
    }
}

impl<K: Ord + Clone, V: Clone> Drop for Waiting<'_, K, V> {
    fn drop(&mut self) {
        self.turn.close();
        if let Ok(Turn::Read) = self.turn.try_recv() {
            self.reads.pass_on(self.key, Line::new());
        }
    }
}

/// A read under way; passes on when it ends, however it does.
struct Reading<'r, K: Ord + Clone, V: Clone> {
    reads: &'r SharedReads<K, V>,
    key: &'r K,
    /// Who came before it began, and is not answered yet.
    companions: Line<V>,
}

impl<'r, K: Ord + Clone, V: Clone> Reading<'r, K, V> {
    /// All who are in line by now come along.
    fn begin(reads: &'r SharedReads<K, V>, key: &'r K) -> Reading<'r, K, V> {
        let companions = reads.lock().get_mut(key).map(std::mem::take);
        let companions = companions.expect("a key stays while somebody reads or is told to");
        Reading { reads, key, companions }
    }

    fn answer(&mut self, value: &V) {
        if !self.companions.is_empty() {
            tracing::debug!(others = self.companions.len(), "a read answers others, too");
        }
        for companion in self.companions.drain(..) {
            // One who has gone away wants no answer.
            let _ = companion.send(Turn::Answered(value.clone()));
        }
    }
}

impl<K: Ord + Clone, V: Clone> Drop for Reading<'_, K, V> {
    fn drop(&mut self) {
        let unanswered = std::mem::take(&mut self.companions);
        self.reads.pass_on(self.key, unanswered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use futures::future::{BoxFuture, Either, select};
    use proptest::prelude::*;
    use proptest::test_runner::TestCaseError;
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeSet;
    use std::future::{pending, poll_fn};
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::task::Poll;
    use tokio::task::{JoinSet, yield_now};
    use tokio::time::Instant;

    type Reads = SharedReads<u8, u32>;
    type Asked<'r> = BoxFuture<'r, Result<u32, &'static str>>;

    /// A question whose read, should it come to that, is done by `sender`.
    fn ask(reads: &Reads) -> (oneshot::Sender<Result<u32, &'static str>>, Asked<'_>) {
        let (sender, receiver) = oneshot::channel();
        (sender, reads.get(&7, || async { receiver.await.unwrap() }).boxed())
    }

    /// A question that is being read, and two that came meanwhile.
    fn ask_three(reads: &Reads) -> [(oneshot::Sender<Result<u32, &'static str>>, Asked<'_>); 3] {
        let mut three = [ask(reads), ask(reads), ask(reads)];
        assert!(three.iter_mut().all(|(_, question)| question.now_or_never().is_none()));
        three
    }

    #[tokio::test]
    async fn who_comes_while_a_read_is_under_way_shares_the_next_one() {
        let reads = Reads::default();
        let [(finish_first, first), (finish_second, mut second), (_, mut third)] = ask_three(&reads);
        finish_first.send(Ok(1)).unwrap();
        assert_eq!(first.now_or_never(), Some(Ok(1)));
        assert!((&mut third).now_or_never().is_none(), "the first read began before it asked");
        assert!((&mut second).now_or_never().is_none());
        let (finish_fourth, mut fourth) = ask(&reads);
        assert!((&mut fourth).now_or_never().is_none());
        finish_second.send(Ok(2)).unwrap();
        assert_eq!(second.now_or_never(), Some(Ok(2)));
        assert_eq!(third.now_or_never(), Some(Ok(2)));
        finish_fourth.send(Ok(3)).unwrap();
        assert_eq!(fourth.now_or_never(), Some(Ok(3)));
        assert!(reads.lock().is_empty());
    }

    #[tokio::test]
    async fn an_error_is_the_readers_own() {
        let reads = Reads::default();
        let [(finish_first, first), (finish_second, second), (finish_third, third)] = ask_three(&reads);
        finish_first.send(Ok(1)).unwrap();
        assert_eq!(first.now_or_never(), Some(Ok(1)));
        finish_second.send(Err("late")).unwrap();
        assert_eq!(second.now_or_never(), Some(Err("late")));
        finish_third.send(Ok(3)).unwrap();
        assert_eq!(third.now_or_never(), Some(Ok(3)));
        assert!(reads.lock().is_empty());
    }

    #[tokio::test]
    async fn other_keys_do_not_wait() {
        let reads = Reads::default();
        let (_finish, mut first) = ask(&reads);
        assert!((&mut first).now_or_never().is_none());
        assert_eq!(reads.get(&8, || async { Ok::<_, ()>(8) }).now_or_never(), Some(Ok(8)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_waited_too_long_reads_alone_and_the_others_wait_on() {
        let reads = Reads::default();
        let (finish_first, mut hanging) = ask(&reads);
        assert!((&mut hanging).now_or_never().is_none());
        let begin = Instant::now();
        assert_eq!(reads.get(&7, || async { Ok::<_, ()>(2) }).await, Ok(2));
        let waited = begin.elapsed();
        assert!(waited < Duration::from_secs(1), "{waited:?}");
        let (finish_third, mut third) = ask(&reads);
        assert!((&mut third).now_or_never().is_none());
        finish_first.send(Err("late")).unwrap();
        assert_eq!(hanging.now_or_never(), Some(Err("late")));
        finish_third.send(Ok(3)).unwrap();
        assert_eq!(third.await, Ok(3));
        assert_eq!(begin.elapsed(), waited, "it was told to read at once");
        assert!(reads.lock().is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn in_a_crowd_everyone_is_answered_by_a_read_that_began_later() {
        let (reads, time) = (Arc::new(SharedReads::default()), Arc::new(AtomicU64::new(0)));
        let ask = async |reads: Arc<SharedReads<u64, u64>>, time: Arc<AtomicU64>, asker: u64| {
            let mut shared = 0;
            for question in 0..1000 {
                let since = time.fetch_add(1, Ordering::SeqCst) + 1;
                let has_read = AtomicBool::new(false);
                let key = question % 2;
                let answer = reads.get(&key, || async {
                    has_read.store(true, Ordering::Relaxed);
                    let began = time.load(Ordering::SeqCst);
                    yield_now().await;
                    if began.is_multiple_of(11) { Err(()) } else { Ok(began) }
                });
                let goes_away = async {
                    match (question + asker) % 5 {
                        0 => yield_now().await,
                        _ => pending().await,
                    }
                };
                match select(pin!(answer), pin!(goes_away)).await {
                    Either::Left((Ok(began), _)) => {
                        assert!(began >= since);
                        shared += u32::from(!has_read.load(Ordering::Relaxed));
                    }
                    Either::Left((Err(()), _)) => {
                        assert!(has_read.load(Ordering::Relaxed), "an error is the reader's own")
                    }
                    Either::Right(_) => {}
                }
            }
            shared
        };
        let askers: JoinSet<u32> = (0..8).map(|asker| ask(reads.clone(), time.clone(), asker)).collect();
        let shared = askers.join_all().await;
        assert!(shared.iter().sum::<u32>() > 1000, "{shared:?}");
        assert!(reads.lock().is_empty());
    }

    /// Counts questions and beginnings of reads, and knows which reads may end.
    #[derive(Default)]
    struct Script {
        time: Cell<u32>,
        may_end: RefCell<BTreeSet<usize>>,
    }

    impl Script {
        fn tick(&self) -> u32 {
            self.time.set(self.time.get() + 1);
            self.time.get()
        }

        /// The read of a question: says when it began.
        async fn read(&self, question: usize) -> Result<u32, &'static str> {
            let began = self.tick();
            poll_fn(|_| if self.may_end.borrow().contains(&question) { Poll::Ready(()) } else { Poll::Pending }).await;
            Ok(began)
        }
    }

    /// Lets everyone go on who can; who is answered must be so by a read that began after the question.
    fn go_on<F: Future<Output = Result<u32, &'static str>> + Unpin>(
        asked: &mut [Option<(u32, F)>],
    ) -> Result<(), TestCaseError> {
        for place in asked {
            if let Some((since, question)) = place
                && let Some(result) = question.now_or_never()
            {
                prop_assert!(result.is_ok_and(|began| began > *since), "a read from before the question answered it");
                *place = None;
            }
        }
        Ok(())
    }

    proptest! {
        /// Whoever goes away whenever, everybody else is answered, and by a read that began after the question.
        #[test]
        fn everyone_is_answered_by_a_read_that_began_later(
            steps in prop::collection::vec((0..5_u8, 0..8_usize), 0..60),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let _entered = runtime.enter();
            let (script, reads) = (Script::default(), Reads::default());
            let mut asked = Vec::new();
            for (step, number) in steps {
                match step {
                    0 | 1 => {
                        let read = script.read(asked.len());
                        asked.push(Some((script.tick(), reads.get(&7, || read).boxed_local())));
                        let newest = asked.len() - 1;
                        go_on(&mut asked[newest..])?;
                    }
                    // Goes away, perhaps when it was to read and had not begun.
                    2 if number < asked.len() => asked[number] = None,
                    3 if number < asked.len() => {
                        script.may_end.borrow_mut().insert(number);
                        go_on(&mut asked[number..=number])?;
                    }
                    4 => go_on(&mut asked)?,
                    _ => {}
                }
            }
            script.may_end.borrow_mut().extend(0..asked.len());
            for _ in 0..=asked.len() {
                go_on(&mut asked)?;
            }
            prop_assert!(asked.iter().all(Option::is_none), "somebody waits in vain");
            drop(asked);
            prop_assert!(reads.lock().is_empty());
        }
    }
}
