//! What a sync of the disk takes: the floor under every ack.

use super::latency::{Latencies, Summary};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use tokio::time::Instant;

const ROUNDS: u64 = 200;
const BYTES: usize = 64 * 1024;

/// Writes 64 KiB and syncs them, again and again, into a file of `directory` that was written before, as the log does.
pub fn measure(directory: &Path) -> io::Result<Summary> {
    let path = directory.join("fsync-probe");
    let file = File::create(&path)?;
    let block = vec![0x5a; BYTES];
    for round in 0..ROUNDS {
        file.write_all_at(&block, round * BYTES as u64)?;
    }
    file.sync_all()?;
    let mut latencies = Latencies::default();
    for round in 0..ROUNDS {
        let begun = Instant::now();
        file.write_all_at(&block, round * BYTES as u64)?;
        file.sync_data()?;
        latencies.add(begun.elapsed());
    }
    std::fs::remove_file(&path)?;
    Ok(latencies.summary())
}
