//! Requests at a cluster: as fast as it answers over so many connections, or at a rate.
//!
//! At a rate, request `i` is due at `start + i / rate` whether or not a connection is free then, and its latency counts from
//! that moment: a server that stalls is charged for every request that it kept from being sent ("coordinated omission",
//! Gil Tene). Without a rate each connection sends its next request when it has its answer, and latency counts from there.

use super::latency::Latencies;
use super::wire::{Answer, Wire};
use crate::cli::failure::{Exit, Failure, Outcome};
use bytes::Bytes;
use futures::future::try_join_all;
use std::cell::{Cell, RefCell};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Pause before the first repetition of a request; it doubles with each one.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What is asked.
pub trait Work {
    /// Appends the head of request `index` and gives its body. Asked again for a repetition.
    fn request(&self, connection: usize, index: usize, host: &str, head: &mut Vec<u8>) -> Bytes;

    /// Takes the answer; an error ends the run.
    fn answer(&self, index: usize, answer: &Answer, latency: Duration) -> Outcome;
}

/// How requests are made.
#[derive(Debug, Clone)]
pub struct Drive {
    /// `host:port` of each server; connections are dealt to them in turn.
    pub servers: Vec<String>,
    /// Connections, each with one request under way at a time.
    pub connections: usize,
    /// Requests a second; as many as are answered if there is none.
    pub rate: Option<f64>,
    /// How long one request is repeated until it is given up, and the run with it.
    pub patience: Duration,
}

/// How a run went.
#[derive(Debug, Default)]
pub struct Ran {
    /// From when a request was due to its answer.
    pub latencies: Latencies,
    /// Requests that had to be repeated: no answer, or "later".
    pub retries: u64,
    /// From the first request due to the last answer.
    pub elapsed: Duration,
}

/// State of a run that its connections share.
struct Run<'a, W> {
    drive: &'a Drive,
    work: &'a W,
    start: Instant,
    next: Cell<usize>,
    first: usize,
    end: usize,
    until: Option<Instant>,
    ran: RefCell<Ran>,
}

impl Drive {
    /// Makes the requests of `indexes`; none that would begin after `within`.
    pub async fn run(
        &self,
        work: &impl Work,
        indexes: std::ops::Range<usize>,
        within: Option<Duration>,
    ) -> Result<Ran, Failure> {
        let start = Instant::now();
        let run = Run {
            drive: self,
            work,
            start,
            next: Cell::new(indexes.start),
            first: indexes.start,
            end: indexes.end,
            until: within.map(|within| start + within),
            ran: RefCell::default(),
        };
        try_join_all((0..self.connections).map(|connection| run.connection(connection))).await?;
        let mut ran = run.ran.into_inner();
        ran.elapsed = start.elapsed();
        Ok(ran)
    }
}

impl<W: Work> Run<'_, W> {
    async fn connection(&self, connection: usize) -> Outcome {
        let mut line = Line { server: connection % self.drive.servers.len(), wire: None, head: Vec::new() };
        while let Some(index) = self.take() {
            let due = match self.drive.rate {
                Some(rate) => self.start + Duration::from_secs_f64((index - self.first) as f64 / rate),
                None => Instant::now(),
            };
            if self.until.is_some_and(|until| due >= until) {
                break;
            }
            if self.drive.rate.is_some() {
                sleep_until(due).await;
            }
            let answer = self.persist(&mut line, connection, index).await?;
            let latency = due.elapsed();
            self.ran.borrow_mut().latencies.add(latency);
            self.work.answer(index, &answer, latency)?;
        }
        Ok(())
    }

    fn take(&self) -> Option<usize> {
        let index = self.next.get();
        self.next.set(index + 1);
        (index < self.end).then_some(index)
    }

    /// Repeats a request, at one server after the other, until one gives an answer that is not "later".
    async fn persist(&self, line: &mut Line, connection: usize, index: usize) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let mut backoff = BACKOFF_MIN;
        loop {
            let server = &self.drive.servers[line.server];
            let why = match line.ask(server, |host, head| self.work.request(connection, index, host, head)).await {
                Ok(answer) if !matches!(answer.status, 408 | 429 | 500..) => return Ok(answer),
                Ok(answer) => format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)),
                Err(error) => {
                    line.wire = None;
                    error.to_string()
                }
            };
            self.ran.borrow_mut().retries += 1;
            if begun.elapsed() + backoff >= self.drive.patience {
                let waited = self.drive.patience.as_secs();
                return Err(Failure::new(Exit::Unavailable, format!("{server}: no answer within {waited} s: {why}")));
            }
            line.server = (line.server + 1) % self.drive.servers.len();
            if self.drive.servers.len() > 1 {
                line.wire = None;
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }
}

/// A connection and the server that it goes to.
struct Line {
    server: usize,
    wire: Option<Wire>,
    head: Vec<u8>,
}

impl Line {
    async fn ask(
        &mut self,
        server: &str,
        request: impl FnOnce(&str, &mut Vec<u8>) -> Bytes,
    ) -> std::io::Result<Answer> {
        let wire = match &mut self.wire {
            Some(wire) => wire,
            none => none.insert(Wire::connect(server).await?),
        };
        self.head.clear();
        let body = request(server, &mut self.head);
        wire.ask(&mut self.head, &body).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::environment::{Network as _, Tasks, TcpNetwork, ThreadPool};
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Counts answers by what they say.
    #[derive(Default)]
    struct Asked(RefCell<Vec<(usize, String)>>);

    impl Work for Asked {
        fn request(&self, _: usize, index: usize, host: &str, head: &mut Vec<u8>) -> Bytes {
            head.extend_from_slice(format!("GET /{index} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes());
            Bytes::new()
        }

        fn answer(&self, index: usize, answer: &Answer, _: Duration) -> Outcome {
            self.0.borrow_mut().push((index, String::from_utf8(answer.body.to_vec()).unwrap()));
            Ok(())
        }
    }

    /// A server that says "later" to the first request of each connection but the first connection's.
    async fn server(tasks: &Tasks) -> String {
        let listener = TcpNetwork.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_address().unwrap();
        let inner = tasks.clone();
        tasks.spawn("server", async move {
            for number in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                inner.spawn("connection", async move {
                    let (mut request, mut is_later) = ([0; 1024], number > 0);
                    while matches!(stream.read(&mut request).await, Ok(count) if count > 0) {
                        let status = if std::mem::take(&mut is_later) { "503 Later" } else { "200 OK" };
                        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok");
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn every_request_is_answered_once_also_after_later() {
        let tasks = Tasks::new(Arc::new(ThreadPool::default()));
        let drive = Drive {
            servers: vec![server(&tasks).await],
            connections: 3,
            rate: Some(1000.0),
            patience: Duration::from_secs(10),
        };
        let asked = Asked::default();
        let ran = drive.run(&asked, 5..25, None).await.unwrap();
        let mut answers = asked.0.into_inner();
        answers.sort_unstable();
        let expected: Vec<_> = (5..25).map(|index| (index, "ok".to_owned())).collect();
        assert_eq!(answers, expected);
        assert_eq!((ran.latencies.count(), ran.retries), (20, 2));
        assert!(ran.elapsed >= Duration::from_millis(19), "the last is due after 19 ms");
    }
}
