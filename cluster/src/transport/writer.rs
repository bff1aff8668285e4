//! Puts frames onto a stream, many in one system call.

use super::frame::Frame;
use super::stats::Counters;
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Pieces up to this size are copied next to their prelude: cheaper than one more slice in the system call.
const COPIED_BYTES_MAX: usize = 1024;
/// Slices in one vectored write. Linux takes up to 1024; beyond 64 there is nothing left to win.
const SLICES_MAX: usize = 64;

/// Writes frames in order; `stall_timeout` bounds how long the peer may take nothing.
pub(super) async fn write_frames<W: AsyncWrite + Unpin>(
    stream: &mut W,
    frames: Vec<Frame>,
    stall_timeout: Duration,
    counters: &Counters,
) -> io::Result<()> {
    // A stream that writes one slice at a time is better served with one piece.
    let copied_max = if stream.is_write_vectored() { COPIED_BYTES_MAX } else { usize::MAX };
    let mut pieces = gather(frames, copied_max);
    while !pieces.is_empty() {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = pieces.len().min(SLICES_MAX);
        for (slice, piece) in slices.iter_mut().zip(&pieces) {
            *slice = IoSlice::new(piece);
        }
        let written = patient(stall_timeout, stream.write_vectored(&slices[..count])).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        counters.bytes_out.add(written);
        advance(&mut pieces, written);
    }
    patient(stall_timeout, stream.flush()).await
}

async fn patient<T>(stall_timeout: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(stall_timeout, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The bytes of the frames in few pieces: small parts joined, large ones as they are. No piece is empty.
fn gather(frames: Vec<Frame>, copied_max: usize) -> VecDeque<Bytes> {
    let mut pieces = VecDeque::new();
    let mut joined = BytesMut::new();
    for frame in frames {
        joined.extend_from_slice(&frame.prelude);
        for part in frame.parts() {
            if part.len() <= copied_max {
                joined.extend_from_slice(&part);
            } else {
                pieces.push_back(joined.split().freeze());
                pieces.push_back(part);
            }
        }
    }
    pieces.push_back(joined.freeze());
    pieces.retain(|piece: &Bytes| !piece.is_empty());
    pieces
}

fn advance(pieces: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(piece) = pieces.front_mut() {
        if written < piece.len() {
            piece.advance(written);
            return;
        }
        written -= piece.len();
        pieces.pop_front();
    }
    assert_eq!(written, 0, "a stream wrote more than it was given");
}
