//! One direction of a connection: a stream of bytes in order, part of it on the way, part of it arrived.

use bytes::Bytes;
use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

/// Bytes that may be on the way or unread before the writer has to wait, as a kernel's buffers.
const WINDOW_BYTES: usize = 256 * 1024;

/// What travels.
#[derive(Debug, Clone)]
pub(super) enum Segment {
    /// Bytes of the stream.
    Data(Bytes),
    /// The writer has closed its side.
    End,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// Arrived and not read.
    arrived: VecDeque<Bytes>,
    /// Sent while the way was cut, or behind such a segment.
    pub held: VecDeque<Segment>,
    /// When the last segment sent so far arrives: none overtakes it.
    pub last_arrival: Duration,
    /// Bytes on the way, held or unread.
    outstanding_bytes: usize,
    is_ended: bool,
    is_reset: bool,
    /// The process that read it is gone: what arrives is answered with a reset.
    pub is_abandoned: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What a reader finds.
pub(super) enum Found {
    /// Bytes.
    Bytes(Bytes),
    /// The end of the stream.
    End,
    /// The connection is broken.
    Reset,
    /// Nothing yet.
    Nothing,
}

impl Pipe {
    /// Bytes that the writer may send now.
    pub fn room(&self) -> usize {
        WINDOW_BYTES.saturating_sub(self.outstanding_bytes)
    }

    pub fn is_reset(&self) -> bool {
        self.is_reset
    }

    /// Counts bytes as under way.
    pub fn sent(&mut self, bytes: usize) {
        self.outstanding_bytes += bytes;
    }

    pub fn wait_for_room(&mut self, waker: &Waker) {
        self.writer = Some(waker.clone());
    }

    /// A segment has arrived; returns who waited for it.
    pub fn receive(&mut self, segment: Segment) -> Option<Waker> {
        match segment {
            Segment::Data(bytes) => self.arrived.push_back(bytes),
            Segment::End => self.is_ended = true,
        }
        self.reader.take()
    }

    /// Takes what has arrived, at most `bytes_max`. Returns the writer if it waited for room.
    pub fn read(&mut self, bytes_max: usize, waker: &Waker) -> (Found, Option<Waker>) {
        let Some(front) = self.arrived.front_mut() else {
            let found = match (self.is_reset, self.is_ended) {
                (true, _) => Found::Reset,
                (false, true) => Found::End,
                (false, false) => {
                    self.reader = Some(waker.clone());
                    Found::Nothing
                }
            };
            return (found, None);
        };
        let taken = front.split_to(front.len().min(bytes_max));
        if front.is_empty() {
            self.arrived.pop_front();
        }
        self.outstanding_bytes -= taken.len();
        (Found::Bytes(taken), self.writer.take())
    }

    /// Breaks it; returns who waited.
    pub fn reset(&mut self) -> [Option<Waker>; 2] {
        self.is_reset = true;
        self.held.clear();
        [self.reader.take(), self.writer.take()]
    }
}
