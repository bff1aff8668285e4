//! The settings of a node's cluster part, each with unit, default, limit and reason.

use crate::log::LogConfig;
use bytes::Bytes;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of a node. `Config::default()` is a node that makes a cluster of its own.
#[derive(Debug, Clone)]
pub struct Config {
    /// What people call the node. Default `node`.
    pub node_name: String,
    /// Whether a node that has run before keeps the name it had then, rather than take `node_name`.
    pub keeps_name: bool,
    /// Where clients reach the node; opaque here, told to everyone who asks for the status.
    pub http_address: String,
    /// Where the node listens for other nodes, `host:port`; port 0 takes a free one. Default `127.0.0.1:3601`.
    pub cluster_address: String,
    /// Where other nodes reach this one, if that is not what it listens on. Default: the address it listens on.
    pub cluster_advertise: Option<String>,
    /// Members to ask for entry, `host:port` each. Empty on a fresh directory makes a new cluster. Where the node already
    /// belongs to a cluster, they are asked whether it is the same one.
    pub join: Vec<String>,
    /// Partitions of a new cluster, 1 to 1024; fixed at creation. Default 3: each is a Raft group with a cost of its own,
    /// and one for each node of the usual cluster lets all of them lead.
    pub partitions: u16,
    /// Replicas of each partition, as far as there are nodes; of a new cluster, 1 to 7. Default 3: one node may fail.
    pub replication_factor: u8,
    /// Product settings of a new cluster; opaque here, the same on every node for ever.
    pub settings: Bytes,
    /// How often a leader says that it lives. Default 200 ms. Must be below half of `election_timeout_min`.
    pub heartbeat_interval: Duration,
    /// Shortest wait of a follower beyond the lease before it asks for votes. Default 600 ms: ten times a slow fsync.
    pub election_timeout_min: Duration,
    /// Longest such wait, and the lease itself: a follower that heard from its leader refuses others for so long. Default
    /// 800 ms. A failed leader is replaced after `election_timeout_max` + `election_timeout_min..election_timeout_max`,
    /// that is 1.3 to 1.6 s, and within 3 s also where candidates collide once; less would take a stalled disk or a busy
    /// machine for a failure.
    pub election_timeout_max: Duration,
    /// How long a request to another node may stay without an answer before the connection counts as dead. Default 3 s:
    /// far above a slow fsync of a full window of appends.
    pub stall_timeout: Duration,
    /// How long a replica may take to install a snapshot that it has received. Default 10 min: rebuilding a large store.
    pub install_timeout: Duration,
    /// How often nodes tell each other what they lead, and the steward looks for work. Default 500 ms.
    pub report_interval: Duration,
    /// After how long without a sign a node counts as not alive. Default 2.5 s: five reports.
    pub alive_timeout: Duration,
    /// After how long a silence a node's share of the partitions goes to others, if enough others are there; `None`: never by
    /// itself. Default 10 min: longer than a restart, shorter than a second failure is likely.
    pub replace_after: Option<Duration>,
    /// Largest payload of one append in bytes. Default 13 MiB, which is also the largest: frames and records have
    /// room for that.
    pub payload_bytes_max: usize,
    /// Bytes of appends under way per partition at its leader; more wait. Default 64 MiB.
    pub append_bytes_in_flight_max: usize,
    /// Entries kept in the log behind what every restart needs, so that a follower that was away for a moment needs no
    /// snapshot. Default 128.
    pub log_entries_kept: u64,
    /// Bytes of entries that a leader keeps for members that are alive but behind, although its own state does not need
    /// them; beyond that they are purged, and the member gets a snapshot. Default 512 MiB per partition.
    pub log_bytes_held_max: u64,
    /// The write-ahead log.
    pub log: LogConfig,
    /// Where the product keeps its state, relative to the data directory: with files there it is not a fresh one.
    pub store_directory: Option<PathBuf>,
}

/// The largest payload of one append in bytes, whatever the configuration says.
pub const PAYLOAD_BYTES_MAX: usize = 13 * 1024 * 1024;

impl Default for Config {
    fn default() -> Self {
        Config {
            node_name: "node".to_owned(),
            keeps_name: false,
            http_address: String::new(),
            cluster_address: "127.0.0.1:3601".to_owned(),
            cluster_advertise: None,
            join: Vec::new(),
            partitions: 3,
            replication_factor: 3,
            settings: Bytes::new(),
            heartbeat_interval: Duration::from_millis(200),
            election_timeout_min: Duration::from_millis(500),
            election_timeout_max: Duration::from_millis(800),
            stall_timeout: Duration::from_secs(3),
            install_timeout: Duration::from_secs(600),
            report_interval: Duration::from_millis(500),
            alive_timeout: Duration::from_millis(2500),
            replace_after: Some(Duration::from_secs(600)),
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            append_bytes_in_flight_max: 64 * 1024 * 1024,
            log_entries_kept: 128,
            log_bytes_held_max: 512 * 1024 * 1024,
            log: LogConfig::default(),
            store_directory: None,
        }
    }
}

impl Config {
    /// Checks every limit; the message names the setting and what is allowed.
    pub fn validate(&self) -> Result<(), String> {
        let rules = [
            ((1..=1024).contains(&self.partitions), "partitions must be 1 to 1024"),
            ((1..=7).contains(&self.replication_factor), "replication_factor must be 1 to 7"),
            (!self.heartbeat_interval.is_zero(), "heartbeat_interval must be above zero"),
            (
                self.heartbeat_interval * 2 < self.election_timeout_min,
                "heartbeat_interval must be below half of election_timeout_min",
            ),
            (
                self.election_timeout_min < self.election_timeout_max,
                "election_timeout_min must be below election_timeout_max",
            ),
            (self.stall_timeout >= self.election_timeout_max, "stall_timeout must be at least election_timeout_max"),
            (self.alive_timeout > self.report_interval, "alive_timeout must be above report_interval"),
            (
                self.replace_after.is_none_or(|after| after >= self.alive_timeout),
                "replace_after must be at least alive_timeout",
            ),
            (
                (1..=PAYLOAD_BYTES_MAX).contains(&self.payload_bytes_max),
                "payload_bytes_max must be 1 to 13631488 bytes",
            ),
            (
                self.append_bytes_in_flight_max >= self.payload_bytes_max,
                "append_bytes_in_flight_max must be at least payload_bytes_max",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, message)) => Err((*message).to_owned()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        Config::default().validate().unwrap();
    }

    #[test]
    fn a_heartbeat_too_slow_for_elections_is_refused() {
        let config = Config { heartbeat_interval: Duration::from_millis(300), ..Config::default() };
        assert_eq!(config.validate().unwrap_err(), "heartbeat_interval must be below half of election_timeout_min");
    }
}
