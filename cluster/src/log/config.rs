//! The log's settings.

use super::Error;
use super::record::ALIGNMENT;
use super::state::Bounds;
use crate::environment::BLOCK_BYTES;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of a node's log.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Where the segments lie, relative to the data directory.
    pub directory: PathBuf,
    /// Size of a segment file, a multiple of 8 from 4096 on; rounded down to one of 4096. A quarter of it bounds a record, and
    /// the state of all groups (some 200 bytes each). Default 64 MiB: large enough that a new one is begun at most a few times
    /// a second, small enough to zero-fill ahead of need within seconds.
    pub segment_bytes: u64,
    /// Bytes of segments in use beyond which old entries should go, at least four segments. Default 1 GiB: old entries are
    /// then made unneeded half of that at a time, which at full load happens every few minutes.
    pub bytes_max: u64,
    /// Segments that are no longer needed are kept as spares up to this many, at least 1. Default 4: what is purged at once
    /// need not be zero-filled again, and an idle node holds at most 256 MiB more than it needs.
    pub spares_max: usize,
    /// Payloads kept in memory for reading, all groups together. Default 16 MiB, more than the largest entry: what
    /// replication and the aggregator read is almost always what was just written, and memory that is kept here cannot be
    /// received into again.
    pub cache_bytes_max: usize,
    /// Bytes that may wait for the disk; beyond them appends wait. Default 32 MiB: about 40 ms of a fast disk.
    pub queue_bytes_max: usize,
    /// After so long without a write, a mark says that the last write was synced. Default 20 ms.
    pub mark_after: Duration,
    /// After so long a full disk is tried again. Default 500 ms.
    pub retry_after: Duration,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            directory: PathBuf::from("log"),
            segment_bytes: 64 << 20,
            bytes_max: 1 << 30,
            spares_max: 4,
            cache_bytes_max: 16 << 20,
            queue_bytes_max: 32 << 20,
            mark_after: Duration::from_millis(20),
            retry_after: Duration::from_millis(500),
        }
    }
}

/// The smallest segment: room for the state of a few groups and for a reserve.
const SEGMENT_BYTES_MIN: u64 = 4096;
/// The largest segment: it is read into memory as a whole when the log opens.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Segments that the bound allows at least: half of them can go while the other half fills.
const SEGMENTS_MIN: u64 = 4;

impl LogConfig {
    /// The bounds that these settings mean, if they are sound.
    pub(super) fn check(&self) -> Result<Bounds, Error> {
        let is_within = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes);
        if !is_within || !self.segment_bytes.is_multiple_of(ALIGNMENT as u64) {
            return Err(Error::Setting { name: "segment_bytes", bounds: "a multiple of 8 from 4096 to 1073741824" });
        }
        if self.bytes_max < SEGMENTS_MIN * self.segment_bytes {
            return Err(Error::Setting { name: "bytes_max", bounds: "at least four segments" });
        }
        Ok(Bounds {
            segment_bytes: self.segment_bytes - self.segment_bytes % BLOCK_BYTES as u64,
            bytes_max: self.bytes_max,
            spares_max: self.spares_max.max(1),
            cache_bytes_max: self.cache_bytes_max,
            queue_bytes_max: self.queue_bytes_max,
        })
    }
}
