//! What applied entries leave over to be done: one at a time, in steps that are spread over time.

use crate::Rest;
use crate::environment::Tasks;
use bytes::Bytes;
use std::io;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// A rest is spread over the time since the one before divided by this: so it is done long before the next, and where
/// entries that leave a rest follow each other closely, none is held up for long.
const DIVISOR: u32 = 3;
/// The longest time that it is spread over.
const TIME_MAX: Duration = Duration::from_secs(1);

/// The rests of a group's entries.
#[derive(Default)]
pub struct Rests {
    under_way: Option<UnderWay>,
    /// When the last one began.
    begun: Option<Instant>,
}

struct UnderWay {
    /// While this is there, it takes its time.
    unhurried: Option<oneshot::Sender<()>>,
    /// Closes when it is done.
    done: oneshot::Receiver<()>,
}

/// The time that a rest may take. It counts as done when this is dropped.
pub struct Leisure {
    time: Duration,
    /// Closes when something waits for the rest.
    hurried: oneshot::Receiver<()>,
    _done: oneshot::Sender<()>,
}

impl Rests {
    /// Waits until nothing is left to do, and lets it take no time.
    pub async fn wait(&mut self) {
        if let Some(rest) = &mut self.under_way {
            rest.unhurried = None;
            let _ = (&mut rest.done).await;
            self.under_way = None;
        }
    }

    /// A rest begins; none before it is under way any more.
    pub fn begin(&mut self) -> Leisure {
        let now = Instant::now();
        let before = self.begun.replace(now);
        let time = before.map_or(Duration::ZERO, |before| ((now - before) / DIVISOR).min(TIME_MAX));
        let (unhurried, hurried) = oneshot::channel();
        let (is_done, done) = oneshot::channel();
        self.under_way = Some(UnderWay { unhurried: Some(unhurried), done });
        Leisure { time, hurried, _done: is_done }
    }
}

impl Leisure {
    /// Does a rest in steps that are spread over the time, or as fast as it goes once something waits for it.
    pub async fn spend(&mut self, tasks: &Tasks, mut rest: Box<dyn Rest>) -> io::Result<Bytes> {
        let (begun, whole) = (Instant::now(), rest.remaining().max(1));
        let mut takes_time = !self.time.is_zero();
        loop {
            let stepped;
            (rest, stepped) = tasks
                .background(move || {
                    let stepped = rest.step();
                    (rest, stepped)
                })
                .await;
            if let Some(answer) = stepped? {
                return Ok(answer);
            }
            if takes_time {
                let share = whole.saturating_sub(rest.remaining()) as f64 / whole as f64;
                takes_time = timeout_at(begun + self.time.mul_f64(share), &mut self.hurried).await.is_err();
            }
        }
    }
}
