//! Takes frames off a stream.
//!
//! Small frames share one read of up to [`HEAD_BYTES`]; each is copied into a buffer of its own size, so that whoever
//! keeps a payload keeps nothing else alive. Of a larger frame only what came with that read is copied; the rest is read
//! into the frame's own buffer, which is handed out in slices. Large buffers are taken up again once nobody uses them:
//! fresh pages cost more than the copy (measured with 1 MiB frames: a third of all CPU).

use super::frame::{FrameError, FrameLimits, PRELUDE_BYTES, Prelude};
use super::limits::Limits;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io;
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
    buffers: Buffers,
    stall_timeout: Duration,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(stream: R, limits: &Limits) -> Self {
        FrameReader {
            stream,
            head: BytesMut::with_capacity(HEAD_BYTES),
            buffers: Buffers::new(limits.receive_buffers_bytes_max),
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
        let payload = payload.freeze();
        self.buffers.keep(&payload);
        Ok(payload)
    }
}

/// Large buffers that were handed out, oldest first, to be used again when their last slice is gone.
///
/// Payloads are let go roughly in the order they came (logged, applied, out of the caches), so the oldest is the one to
/// look at.
struct Buffers {
    handed_out: VecDeque<Bytes>,
    bytes: usize,
    bytes_max: usize,
}

impl Buffers {
    fn new(bytes_max: usize) -> Self {
        Buffers { handed_out: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// An empty buffer with room for `length` bytes.
    fn take(&mut self, length: usize) -> BytesMut {
        if length < LARGE_BYTES {
            return BytesMut::with_capacity(length);
        }
        while self.handed_out.front().is_some_and(Bytes::is_unique) {
            let Some(oldest) = self.pop() else { break };
            if let Ok(mut buffer) = oldest.try_into_mut()
                && buffer.capacity() >= length
            {
                buffer.clear();
                return buffer;
            }
        }
        // Rounded up, so that frames of nearly one size fit each other's buffers.
        BytesMut::with_capacity(length.next_multiple_of(LARGE_BYTES))
    }

    /// Remembers a buffer that is handed out.
    fn keep(&mut self, buffer: &Bytes) {
        if !(LARGE_BYTES..=self.bytes_max).contains(&buffer.len()) {
            return;
        }
        self.bytes += buffer.len();
        self.handed_out.push_back(buffer.clone());
        while self.bytes > self.bytes_max {
            self.pop();
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        let oldest = self.handed_out.pop_front()?;
        self.bytes -= oldest.len();
        Some(oldest)
    }
}
