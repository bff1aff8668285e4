//! What processes have used, as Linux tells it under `/proc`. Elsewhere, and of processes of others, nothing is known.

use std::path::Path;
use std::time::Duration;

/// Ticks of CPU time a second: fixed on Linux, whatever the kernel's own clock.
const TICKS_PER_SECOND: u64 = 100;

/// What a process has used since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// CPU time, user and system.
    pub cpu: Duration,
    /// The most memory it ever held.
    pub memory_bytes_max: u64,
    /// Bytes it had the disk write.
    pub written_bytes: u64,
}

impl Usage {
    /// Of a process that runs.
    pub fn of(process: u32) -> Option<Usage> {
        let directory = Path::new("/proc").join(process.to_string());
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).ok();
        Some(Usage {
            cpu: cpu(&read("stat")?)?,
            memory_bytes_max: field(&read("status")?, "VmHWM:")? * 1024,
            written_bytes: read("io").and_then(|text| field(&text, "write_bytes:")).unwrap_or_default(),
        })
    }

    /// Of this process.
    pub fn own() -> Usage {
        Usage::of(std::process::id()).unwrap_or_default()
    }

    /// CPU time and written bytes since `before`; the memory stays the most ever held.
    pub fn since(self, before: Usage) -> Usage {
        Usage {
            cpu: self.cpu.saturating_sub(before.cpu),
            memory_bytes_max: self.memory_bytes_max,
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
        }
    }
}

/// `utime` and `stime`, the 14th and 15th field. The second one, the name, may hold spaces and parentheses.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "17 (a) b (c) S 1 1 1 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 8 0 1";
        assert_eq!(cpu(stat), Some(Duration::from_secs(2)));
        assert_eq!(field("a: 1\nVmHWM:\t  2048 kB\n", "VmHWM:"), Some(2048));
        assert!(Usage::own().memory_bytes_max > 0 || !Path::new("/proc/self").exists());
    }
}
