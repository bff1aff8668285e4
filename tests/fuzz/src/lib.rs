//! What the fuzz targets share: checksums put right, so that what lies behind them is reached, and a world without files.

use async_trait::async_trait;
use bytes::Bytes;
use cluster::environment::{Clock, Entropy, Environment, Listener, Network, Stream, TaskRunner, Tasks};
use futures::future::BoxFuture;
use hourmark::domain::{EventTime, SketchConfig, TimeLimits};
use simulation::environment::SimulatedDisk;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// Event times that are taken: 1970 to 2100.
pub const LIMITS: TimeLimits = TimeLimits { earliest: EventTime(0), latest: EventTime(4_102_444_800_000) };

/// Sketches of the default accuracy.
pub static SKETCH: LazyLock<SketchConfig> =
    LazyLock::new(|| SketchConfig::new(0.01).expect("an accuracy that is allowed"));

/// A sealed layout (version, CRC32C, content) with a checksum that fits.
pub fn seal(content: &[u8]) -> Bytes {
    let mut bytes = hourmark::format::codec::begin(1);
    bytes.extend_from_slice(content);
    hourmark::format::codec::seal(bytes)
}

/// Takes a piece of the input whose length stands before it in two bytes; nothing when the input is at its end.
pub fn piece<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = input.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (piece, rest) = rest.split_at(length);
    *input = rest;
    Some(piece)
}

/// Runs something to its end on one thread, in time that only moves when everything waits.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without a thread of its own").block_on(future)
}

/// The doors of a node that has `disk` and hears nobody.
pub fn environment(disk: &SimulatedDisk) -> Environment {
    Environment {
        network: Arc::new(Silence),
        disk: Arc::new(disk.clone()),
        clock: Arc::new(Standing),
        entropy: Arc::new(Counter(AtomicU64::new(0))),
        tasks: Tasks::new(Arc::new(Inline)),
    }
}

struct Silence;

#[async_trait]
impl Network for Silence {
    async fn listen(&self, _: &str) -> io::Result<Box<dyn Listener>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn connect(&self, _: &str) -> io::Result<Box<dyn Stream>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

struct Standing;

impl Clock for Standing {
    fn since_epoch(&self) -> Duration {
        Duration::from_secs(1_795_377_600)
    }
}

struct Counter(AtomicU64);

impl Entropy for Counter {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed)
    }
}

struct Inline;

impl TaskRunner for Inline {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        work();
        Box::pin(std::future::ready(()))
    }
}
