//! Takes frames off a stream.
//!
//! Small frames share one read of up to [`HEAD_BYTES`]; each is copied into a buffer of its own size, so that whoever
//! keeps a payload keeps nothing else alive. Of a larger frame only what came with that read is copied; the rest is read
//! into the frame's own buffer, which is handed out in slices. Large buffers are taken up again once nobody uses them: with
//! 16 to 32 MiB of payloads held by a cache that saved 20 % of the kernel's time (256 KiB and 1 MiB frames over loopback).

use super::frame::{FrameError, FrameLimits, PRELUDE_BYTES, Prelude};
use super::limits::Limits;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// Bytes read at once where no large frame is expected.
const HEAD_BYTES: usize = 8 * 1024;
/// From this size on a buffer is worth keeping.
const LARGE_BYTES: usize = 64 * 1024;

/// One frame as it arrived, checksums verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Received {
    pub prelude: Prelude,
    pub header: Bytes,
    pub body: Bytes,
}

impl Received {
    /// All bytes of the frame.
    pub(super) fn len(&self) -> usize {
        PRELUDE_BYTES + self.prelude.payload_bytes()
    }

    /// The body as a message holds it: no slice where it is empty.
    pub(super) fn body(self) -> Vec<Bytes> {
        if self.body.is_empty() { Vec::new() } else { vec![self.body] }
    }
}

/// Why no further frame can be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Malformed(#[from] FrameError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("connection was closed")]
    Closed,
    #[error("no frame came for {0:?}")]
    Idle(Duration),
    #[error("a frame made no progress for {0:?}")]
    Stalled(Duration),
}

/// Takes frames off one stream.
pub(super) struct FrameReader<R> {
    stream: R,
    head: BytesMut,
    buffers: Arc<Buffers>,
    stall_timeout: Duration,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(stream: R, limits: &Limits, buffers: &Arc<Buffers>) -> Self {
        FrameReader {
            stream,
            head: BytesMut::with_capacity(HEAD_BYTES),
            buffers: buffers.clone(),
            stall_timeout: limits.stall_timeout,
        }
    }

    /// The stream, wherever reading has got to.
    #[cfg(test)]
    pub(super) fn into_inner(self) -> R {
        self.stream
    }

    /// Waits for the next frame, for at most `idle` until its first byte. Not safe to cancel: a cancelled read leaves the
    /// stream inside a frame.
    pub(super) async fn next(&mut self, limits: FrameLimits, idle: Duration) -> Result<Received, ReadError> {
        while self.head.len() < PRELUDE_BYTES {
            let is_started = !self.head.is_empty();
            let patience = if is_started { self.stall_timeout } else { idle };
            // Moves what is left of the last read to the front; nobody else holds this buffer, so it is never replaced.
            self.head.reserve(HEAD_BYTES - self.head.len());
            let read = timeout(patience, self.stream.read_buf(&mut self.head)).await;
            match read {
                Ok(Ok(0)) if is_started => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(Ok(0)) => return Err(ReadError::Closed),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(_) if is_started => return Err(ReadError::Stalled(patience)),
                Err(_) => return Err(ReadError::Idle(patience)),
            }
        }
        let prelude = self.head.first_chunk().expect("the loop above read a whole prelude");
        let prelude = Prelude::decode(prelude, limits)?;
        self.head.advance(PRELUDE_BYTES);
        let payload = self.payload(prelude.payload_bytes()).await?;
        let (header, body) = prelude.split(payload)?;
        Ok(Received { prelude, header, body })
    }

    async fn payload(&mut self, length: usize) -> Result<Bytes, ReadError> {
        let at_hand = length.min(self.head.len());
        if at_hand == length {
            let payload = Bytes::copy_from_slice(&self.head[..length]);
            self.head.advance(length);
            return Ok(payload);
        }
        let mut payload = self.buffers.take(length);
        payload.put_slice(&self.head[..at_hand]);
        self.head.advance(at_hand);
        while payload.len() < length {
            let missing = length - payload.len();
            // The buffer may have more room than the frame needs; what follows the frame is not its.
            let mut rest = (&mut payload).limit(missing);
            match timeout(self.stall_timeout, self.stream.read_buf(&mut rest)).await {
                Ok(Ok(0)) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Err(ReadError::Stalled(self.stall_timeout)),
            }
        }
        Ok(self.buffers.hand_out(payload))
    }
}

/// Large buffers that were handed out by all readers of a node, oldest first, to be used again when their last slice is
/// gone.
///
/// Frames differ in size tenfold, as rounds hold more or fewer entries: a buffer waits for a frame that it fits. A much smaller
/// one would hold more memory than whoever counts its bytes knows of.
pub(super) struct Buffers {
    handed_out: Mutex<HandedOut>,
    bytes_max: usize,
}

#[derive(Default)]
struct HandedOut {
    buffers: VecDeque<Buffer>,
    /// Their capacities together.
    bytes: usize,
}

struct Buffer {
    content: Bytes,
    capacity: usize,
}

impl Buffers {
    pub(super) fn new(bytes_max: usize) -> Arc<Buffers> {
        Arc::new(Buffers { handed_out: Mutex::default(), bytes_max })
    }

    /// An empty buffer with room for `length` bytes; a large one has room for twice as many at most.
    fn take(&self, length: usize) -> BytesMut {
        if length < LARGE_BYTES {
            return BytesMut::with_capacity(length);
        }
        // Rounded up, so that frames of nearly one size fit each other's buffers.
        self.handed_out().take(length).unwrap_or_else(|| BytesMut::with_capacity(length.next_multiple_of(LARGE_BYTES)))
    }

    /// Hands out a buffer, and remembers it.
    fn hand_out(&self, buffer: BytesMut) -> Bytes {
        let (capacity, content) = (buffer.capacity(), buffer.freeze());
        if capacity >= LARGE_BYTES {
            let mut handed_out = self.handed_out();
            handed_out.bytes += capacity;
            handed_out.buffers.push_back(Buffer { content: content.clone(), capacity });
            while handed_out.bytes > self.bytes_max {
                handed_out.remove(0);
            }
        }
        content
    }

    fn handed_out(&self) -> MutexGuard<'_, HandedOut> {
        self.handed_out.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl HandedOut {
    /// Of those that nobody holds any more and that fit, the newest: it is the warmest.
    fn take(&mut self, length: usize) -> Option<BytesMut> {
        let fits = |buffer: &Buffer| (length..=2 * length).contains(&buffer.capacity) && buffer.content.is_unique();
        let place = self.buffers.iter().rposition(fits)?;
        let mut buffer = self.remove(place)?.try_into_mut().ok()?;
        buffer.clear();
        Some(buffer)
    }

    fn remove(&mut self, place: usize) -> Option<Bytes> {
        let Buffer { content, capacity } = self.buffers.remove(place)?;
        self.bytes -= capacity;
        Some(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GroupId;
    use crate::transport::frame::{Frame, FrameType, Payload};
    use crate::transport::stats::Counters;
    use crate::transport::writer::write_frames;
    use proptest::prelude::*;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::{AsyncWrite, ReadBuf};

    const HOUR: Duration = Duration::from_secs(3600);

    /// Takes and gives a few bytes at a time, as sockets do; counts on `is_vectored`.
    struct Trickle {
        bytes: VecDeque<u8>,
        steps: Vec<usize>,
        step: usize,
        is_vectored: bool,
    }

    impl Trickle {
        fn new(steps: Vec<usize>, is_vectored: bool) -> Trickle {
            Trickle { bytes: VecDeque::new(), steps, step: 0, is_vectored }
        }

        fn step(&mut self) -> usize {
            self.step += 1;
            self.steps[self.step % self.steps.len()]
        }
    }

    impl AsyncRead for Trickle {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let count = self.step().min(buffer.remaining()).min(self.bytes.len());
            let bytes: Vec<u8> = self.bytes.drain(..count).collect();
            buffer.put_slice(&bytes);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Trickle {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let count = self.step().min(bytes.len());
            self.bytes.extend(&bytes[..count]);
            Poll::Ready(Ok(count))
        }
        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let count = self.step();
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(count).collect();
            self.bytes.extend(&bytes);
            Poll::Ready(Ok(bytes.len()))
        }
        fn is_write_vectored(&self) -> bool {
            self.is_vectored
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
    }

    fn frame(id: u64, header: usize, body: &[usize]) -> Frame {
        let body = body.iter().map(|length| Bytes::from(vec![id as u8; *length])).collect();
        Frame::new(FrameType::Response, GroupId::METADATA, id, Payload::new(Bytes::from(vec![1; header]), body))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn frames_pass_however_the_stream_cuts_them(
            shapes in prop::collection::vec((0..3000_usize, prop::collection::vec(0..40_000_usize, 0..4)), 1..8),
            steps in prop::collection::vec(1..20_000_usize, 1..10),
            is_vectored: bool,
        ) {
            let mut stream = Trickle::new(steps, is_vectored);
            let counters = Counters::default();
            let frames = shapes.iter().enumerate().map(|(id, (header, body))| frame(id as u64, *header, body)).collect();
            block_on(write_frames(&mut stream, frames, HOUR, &counters)).unwrap();
            prop_assert_eq!(counters.read().bytes_out, stream.bytes.len() as u64);

            let limits = Limits::default();
            let mut reader = FrameReader::new(stream, &limits, &Buffers::new(0));
            for (id, (header, body)) in shapes.iter().enumerate() {
                let received = block_on(reader.next(limits.of_nodes(), HOUR)).unwrap();
                prop_assert_eq!(received.prelude.id, id as u64);
                prop_assert_eq!(&received.header[..], &vec![1; *header][..]);
                prop_assert_eq!(&received.body[..], &vec![id as u8; body.iter().sum()][..]);
            }
            prop_assert!(matches!(block_on(reader.next(limits.of_nodes(), HOUR)), Err(ReadError::Closed)));
        }

        #[test]
        fn any_bytes_end_in_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), is_version_1: bool) {
            let mut stream = Trickle::new(vec![50], false);
            stream.bytes.extend(&bytes);
            if let (true, Some(first)) = (is_version_1, stream.bytes.front_mut()) {
                *first = 1;
            }
            let limits = Limits::default();
            prop_assert!(block_on(FrameReader::new(stream, &limits, &Buffers::new(0)).next(limits.of_nodes(), HOUR)).is_err());
        }
    }

    fn hand_out(buffers: &Buffers, length: usize) -> Bytes {
        let mut buffer = buffers.take(length);
        buffer.resize(length, 0);
        buffers.hand_out(buffer)
    }

    /// How many are remembered, and what they take.
    fn remembered(buffers: &Buffers) -> (usize, usize) {
        let handed_out = buffers.handed_out();
        (handed_out.buffers.len(), handed_out.bytes)
    }

    #[test]
    fn large_buffer_is_used_again_when_its_last_slice_is_gone() {
        let buffers = Buffers::new(10 * LARGE_BYTES);
        let first = hand_out(&buffers, LARGE_BYTES + 10);
        let address = first.as_ptr();
        let slice = first.slice(5..9);
        drop(first);
        let second = hand_out(&buffers, LARGE_BYTES + 10);
        assert_ne!(second.as_ptr(), address, "a slice of the first is still held");
        assert_eq!(remembered(&buffers), (2, 4 * LARGE_BYTES));
        drop(slice);
        let third = hand_out(&buffers, 2 * LARGE_BYTES);
        assert_eq!(third.as_ptr(), address, "a little larger fits too");
        assert_eq!(remembered(&buffers), (2, 4 * LARGE_BYTES), "it is the same buffer, remembered once");
        drop((third, second));
        assert_eq!(hand_out(&buffers, 2 * LARGE_BYTES).as_ptr(), address, "the newest");
    }

    #[test]
    fn buffer_waits_for_a_frame_that_it_fits() {
        let buffers = Buffers::new(100 * LARGE_BYTES);
        let [small, large] = [1, 8].map(|times| hand_out(&buffers, times * LARGE_BYTES).as_ptr());
        for _ in 0..3 {
            assert_eq!(hand_out(&buffers, 8 * LARGE_BYTES).as_ptr(), large);
            assert_eq!(hand_out(&buffers, LARGE_BYTES).as_ptr(), small);
        }
        assert_eq!(remembered(&buffers), (2, 9 * LARGE_BYTES));
        hand_out(&buffers, 3 * LARGE_BYTES);
        assert_eq!(remembered(&buffers), (3, 12 * LARGE_BYTES), "one is too small, the other more than twice as large");
    }

    #[test]
    fn kept_buffers_are_bounded_by_what_they_take() {
        let buffers = Buffers::new(6 * LARGE_BYTES);
        let _held: Vec<Bytes> = (0..10).map(|_| hand_out(&buffers, LARGE_BYTES + 1)).collect();
        assert_eq!(remembered(&buffers), (3, 6 * LARGE_BYTES));
        hand_out(&buffers, LARGE_BYTES - 1);
        assert_eq!(remembered(&buffers), (3, 6 * LARGE_BYTES), "small ones are not worth it");
    }

    #[test]
    fn small_payload_keeps_nothing_else_alive() {
        let mut stream = Trickle::new(vec![8000], true);
        let counters = Counters::default();
        block_on(write_frames(&mut stream, vec![frame(1, 10, &[20]), frame(2, 0, &[])], HOUR, &counters)).unwrap();
        let limits = Limits::default();
        let received =
            block_on(FrameReader::new(stream, &limits, &Buffers::new(0)).next(limits.of_nodes(), HOUR)).unwrap();
        drop(received.header);
        assert_eq!(received.body.try_into_mut().unwrap().capacity(), 20);
    }
}
