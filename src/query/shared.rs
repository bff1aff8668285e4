//! One read for all who ask the same at the same time.
//!
//! A read answers only questions that came before it began. So who asks while one is under way waits for the next one, and
//! shares it with all who have come by then. One of them makes it; the others only take its result:
//!
//! ```text
//!   questions: a        b  c              d
//!   reads:     ├── a ───┼──────┤
//!                       └ wait ├─ b, c ───┼──┤
//!                                         └──├─ d ──┤
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use tokio::sync::oneshot;

/// Reads under way, one at a time for each key.
pub struct SharedReads<K: Ord + Clone, V: Clone> {
    /// Who waits until the read under way has ended, in the order of coming.
    waiting: Mutex<BTreeMap<K, VecDeque<Waiter<V>>>>,
}

type Waiter<V> = oneshot::Sender<Turn<V>>;

/// What becomes of one who waited.
enum Turn<V> {
    /// Another one has read.
    Answered(V),
    /// It is the one to read.
    Read,
}

impl<K: Ord + Clone, V: Clone> Default for SharedReads<K, V> {
    fn default() -> SharedReads<K, V> {
        SharedReads { waiting: Mutex::default() }
    }
}

impl<K: Ord + Clone, V: Clone> SharedReads<K, V> {
    /// What `read` finds, or what another caller's finds that began after this call; reads of one key must be alike.
    ///
    /// An error is nobody's but the reader's own: the others, who may have more time left, read again. Dropping the future hands
    /// on what it was to do.
    pub async fn get<E>(&self, key: K, read: impl Future<Output = Result<V, E>>) -> Result<V, E> {
        if let Some(mut place) = self.line_up(&key)
            && let Turn::Answered(value) = place.turn().await
        {
            return Ok(value);
        }
        let companions = self.lock().get_mut(&key).map(std::mem::take).unwrap_or_default();
        let mut reading = Reading { reads: self, key, companions };
        let value = read.await?;
        reading.answer(&value);
        Ok(value)
    }

    /// A place in the line, if a read is under way; otherwise one is now, the caller's.
    fn line_up(&self, key: &K) -> Option<Place<'_, K, V>> {
        let mut waiting = self.lock();
        let Some(line) = waiting.get_mut(key) else {
            waiting.insert(key.clone(), VecDeque::new());
            return None;
        };
        let (sender, turn) = oneshot::channel();
        line.push_back(sender);
        Some(Place { reads: self, key: key.clone(), turn })
    }

    /// Has the next in line read, `first` before all others.
    fn pass_on(&self, key: &K, mut first: VecDeque<Waiter<V>>) {
        let mut waiting = self.lock();
        let Some(line) = waiting.get_mut(key) else { return };
        first.append(line);
        *line = first;
        while let Some(next) = line.pop_front() {
            // Who has gone away takes no turn.
            if next.send(Turn::Read).is_ok() {
                return;
            }
        }
        waiting.remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, VecDeque<Waiter<V>>>> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One who waits; hands its turn on if it goes away.
struct Place<'r, K: Ord + Clone, V: Clone> {
    reads: &'r SharedReads<K, V>,
    key: K,
    turn: oneshot::Receiver<Turn<V>>,
}

impl<K: Ord + Clone, V: Clone> Place<'_, K, V> {
    async fn turn(&mut self) -> Turn<V> {
        (&mut self.turn).await.expect("whoever reads answers or passes on, also when dropped")
    }
}

impl<K: Ord + Clone, V: Clone> Drop for Place<'_, K, V> {
    fn drop(&mut self) {
        self.turn.close();
        if let Ok(Turn::Read) = self.turn.try_recv() {
            self.reads.pass_on(&self.key, VecDeque::new());
        }
    }
}

/// A read under way; passes on when it ends, however it does.
struct Reading<'r, K: Ord + Clone, V: Clone> {
    reads: &'r SharedReads<K, V>,
    key: K,
    /// Who came before it began, and is not answered yet.
    companions: VecDeque<Waiter<V>>,
}

impl<K: Ord + Clone, V: Clone> Reading<'_, K, V> {
    fn answer(&mut self, value: &V) {
        for companion in self.companions.drain(..) {
            // One who has gone away wants no answer.
            let _ = companion.send(Turn::Answered(value.clone()));
        }
    }
}

impl<K: Ord + Clone, V: Clone> Drop for Reading<'_, K, V> {
    fn drop(&mut self) {
        let unanswered = std::mem::take(&mut self.companions);
        self.reads.pass_on(&self.key, unanswered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use proptest::prelude::*;
    use proptest::test_runner::TestCaseError;
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeSet;
    use std::future::poll_fn;
    use std::task::Poll;

    type Reads = SharedReads<u8, u32>;
    type Asked<'r> = BoxFuture<'r, Result<u32, &'static str>>;

    /// A question whose read, should it come to that, is done by `sender`.
    fn ask(reads: &Reads) -> (oneshot::Sender<Result<u32, &'static str>>, Asked<'_>) {
        let (sender, receiver) = oneshot::channel();
        (sender, reads.get(7, async { receiver.await.unwrap() }).boxed())
    }

    #[test]
    fn who_comes_while_a_read_is_under_way_shares_the_next_one() {
        let reads = Reads::default();
        let (finish_first, mut first) = ask(&reads);
        assert!((&mut first).now_or_never().is_none());
        let (finish_second, mut second) = ask(&reads);
        let (_, mut third) = ask(&reads);
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
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

    #[test]
    fn an_error_is_the_readers_own() {
        let reads = Reads::default();
        let (finish_first, mut first) = ask(&reads);
        assert!((&mut first).now_or_never().is_none());
        let (finish_second, mut second) = ask(&reads);
        let (finish_third, mut third) = ask(&reads);
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        finish_first.send(Ok(1)).unwrap();
        assert_eq!(first.now_or_never(), Some(Ok(1)));
        finish_second.send(Err("late")).unwrap();
        assert_eq!(second.now_or_never(), Some(Err("late")));
        finish_third.send(Ok(3)).unwrap();
        assert_eq!(third.now_or_never(), Some(Ok(3)));
        assert!(reads.lock().is_empty());
    }

    #[test]
    fn other_keys_do_not_wait() {
        let reads = Reads::default();
        let (_finish, mut first) = ask(&reads);
        assert!((&mut first).now_or_never().is_none());
        assert_eq!(reads.get(8, async { Ok::<_, ()>(8) }).now_or_never(), Some(Ok(8)));
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
            let (script, reads) = (Script::default(), Reads::default());
            let mut asked = Vec::new();
            for (step, number) in steps {
                match step {
                    0 | 1 => {
                        asked.push(Some((script.tick(), reads.get(7, script.read(asked.len())).boxed_local())));
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
