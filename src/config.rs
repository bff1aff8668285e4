//! Every setting of a node, once: its name, type, unit, default, limit and the reason for them.
//!
//! A setting has one name in four spellings: `max_future` in `hourmark.toml` and in [`Config`], `--max-future` on the
//! command line, `HOURMARK_MAX_FUTURE` in the environment. The first that is given wins, in the order flag, environment,
//! file, default. The help of `hourmark start` and `docs/configuration.md` are printed from [`SETTINGS`].

mod settings;
mod units;

pub use settings::{SETTINGS, Setting};
pub use units::{format_bytes, format_duration, parse_bytes, parse_duration};

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The settings of one node. [`SETTINGS`] says what each means.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where the node keeps everything it must not lose.
    pub data_dir: String,
    /// `host:port` for clients; port 0 takes a free one.
    pub http_addr: String,
    /// `host:port` for the other nodes; port 0 takes a free one.
    pub cluster_addr: String,
    /// Cluster addresses of members of the cluster to enter; empty starts a cluster of its own.
    pub join: Vec<String>,
    /// What people call the node; empty is the name it had before, or else [`Config::first_name`].
    pub node_name: String,
    /// How far ahead of this node's clock an event may be; `None` is no limit.
    pub max_future: Option<Duration>,
    /// How far behind this node's clock an event may be; `None` is no limit.
    pub event_age_max: Option<Duration>,
    /// How long after its end an hour counts as open for late events.
    pub lateness: Duration,
    /// Shares of the log; fixed when the cluster is created.
    pub partitions: u16,
    /// Copies of each partition, as far as there are nodes; fixed when the cluster is created.
    pub replication_factor: u16,
    /// Bound of a quantile's relative error; fixed when the cluster is created.
    pub relative_accuracy: f64,
    /// Largest body of one request after decompression.
    pub body_bytes_max: usize,
    /// Bodies and batches that may be held in memory at once.
    pub inflight_bytes_max: usize,
    /// How long a request may wait for a leader, a majority or an answer.
    pub request_deadline: Duration,
    /// How often an aggregator writes its progress into the log.
    pub checkpoint_interval: Duration,
    /// How often changed rollups are made durable in the store.
    pub write_out_interval: Duration,
    /// Size of one file of the log.
    pub segment_bytes: usize,
    /// After how long a silence a node's share goes to others; `None` is never.
    pub replace_after: Option<Duration>,
    /// Bytes of the log's files beyond which old entries should go.
    pub log_bytes_max: usize,
    /// How often a leader tells its followers that it lives.
    pub heartbeat_interval: Duration,
    /// Shortest silence of a leader after which a follower stands for election.
    pub election_timeout_min: Duration,
    /// Longest such silence; each follower draws its own between the two.
    pub election_timeout_max: Duration,
    /// Memory for answers to repeated questions.
    pub cache_bytes: usize,
    /// Threads that serve requests and take part in the log; 0 is one a core, and two at least.
    pub threads: u16,
    /// Which messages are logged, in the syntax of `RUST_LOG`.
    pub log_filter: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            data_dir: "hourmark-data".into(),
            http_addr: "127.0.0.1:3600".into(),
            cluster_addr: "127.0.0.1:3601".into(),
            join: Vec::new(),
            node_name: String::new(),
            max_future: Some(Duration::from_secs(600)),
            event_age_max: None,
            lateness: Duration::from_secs(3600),
            partitions: 3,
            replication_factor: 3,
            relative_accuracy: 0.01,
            body_bytes_max: 16 << 20,
            inflight_bytes_max: 256 << 20,
            request_deadline: Duration::from_secs(10),
            checkpoint_interval: Duration::from_secs(2),
            write_out_interval: Duration::from_secs(60),
            segment_bytes: 64 << 20,
            replace_after: Some(Duration::from_secs(600)),
            log_bytes_max: 1 << 30,
            heartbeat_interval: Duration::from_millis(200),
            election_timeout_min: Duration::from_millis(500),
            election_timeout_max: Duration::from_millis(800),
            cache_bytes: 64 << 20,
            threads: 0,
            log_filter: crate::telemetry::FILTER_DEFAULT.into(),
        }
    }
}

/// What was given on the command line: a setting's name and its values (one, or several for a list).
pub type Flags = BTreeMap<&'static str, Vec<String>>;

/// A configuration that a node must not be started with. The message names the setting and the next step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file is not readable.
    #[error("--config {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file is not TOML.
    #[error("--config {}: not a TOML file: {source}", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: toml::de::Error,
    },
    /// The configuration file names a setting that does not exist.
    #[error("--config {}: unknown setting `{name}`; `hourmark start --help` lists all settings", path.display())]
    UnknownSetting {
        /// The file.
        path: PathBuf,
        /// What it names.
        name: String,
    },
    /// A value that its setting does not take.
    #[error("{name} = {value:?} (from {origin}): {why}")]
    Value {
        /// The setting.
        name: &'static str,
        /// What was given.
        value: String,
        /// The flag, variable or file it came from.
        origin: String,
        /// What the setting takes.
        why: String,
    },
    /// Settings that do not go together.
    #[error("{0}")]
    Conflict(String),
}

impl Config {
    /// Collects the settings: `flags` over the `environment` (a variable's value by its name) over the TOML file `file` over
    /// the defaults, and [validates](Config::validate) them.
    ///
    /// A variable set to the empty text counts as not set. A list is replaced as a whole, not added to.
    pub fn load(
        flags: &Flags,
        environment: impl Fn(&str) -> Option<String>,
        file: Option<&Path>,
    ) -> Result<Config, Error> {
        let mut config = Config::default();
        if let Some(path) = file {
            config.take_file(path)?;
        }
        for setting in SETTINGS {
            let variable = setting.variable();
            if let Some(value) = environment(&variable).filter(|value| !value.is_empty()) {
                config.take(setting, &[value], &variable)?;
            }
            if let Some(values) = flags.get(setting.name) {
                config.take(setting, values, &setting.flag())?;
            }
        }
        config.validate()?;
        Ok(config)
    }

    /// What a node is called that was given no name and had none before.
    pub fn first_name(&self) -> String {
        let port = self.http_addr.rsplit_once(':').map_or("0", |(_, port)| port);
        format!("node-{port}")
    }

    /// Checks what the limits of single settings cannot: that the settings go together.
    pub fn validate(&self) -> Result<(), Error> {
        let conflict = |text: String| Err(Error::Conflict(text));
        let Config { http_addr, cluster_addr, .. } = self;
        if http_addr == cluster_addr && !http_addr.ends_with(":0") {
            return conflict(format!("http_addr and cluster_addr are both {http_addr}: give them different ports"));
        }
        if is_unspecified(cluster_addr) {
            return conflict(format!(
                "cluster_addr = {cluster_addr}: other nodes dial this address, so name the one that they reach this node \
                 at, such as 10.0.0.5:3601"
            ));
        }
        if !self.join.is_empty() && self.join.iter().all(|member| member == cluster_addr) {
            return conflict(format!(
                "join names only this node itself ({cluster_addr}): name another member, or leave join out to start a \
                 cluster of its own"
            ));
        }
        if self.inflight_bytes_max < self.body_bytes_max {
            return conflict(format!(
                "inflight_bytes_max = {} is below body_bytes_max = {}: no large body could ever enter; raise the first",
                format_bytes(self.inflight_bytes_max),
                format_bytes(self.body_bytes_max)
            ));
        }
        if self.log_bytes_max < 4 * self.segment_bytes {
            return conflict(format!(
                "log_bytes_max = {} is below four times segment_bytes = {}: the log could not shrink by whole files; raise \
                 the first or lower the second",
                format_bytes(self.log_bytes_max),
                format_bytes(self.segment_bytes)
            ));
        }
        if self.election_timeout_min <= self.heartbeat_interval * 2 {
            return conflict(format!(
                "election_timeout_min = {} is not above twice heartbeat_interval = {}: one lost heartbeat would depose \
                 a leader; raise the first or lower the second",
                format_duration(self.election_timeout_min),
                format_duration(self.heartbeat_interval)
            ));
        }
        if self.election_timeout_max.as_millis() * 2 < self.election_timeout_min.as_millis() * 3 {
            return conflict(format!(
                "election_timeout_max = {} is below one and a half times election_timeout_min = {}: candidates would keep \
                 splitting the vote; raise the first",
                format_duration(self.election_timeout_max),
                format_duration(self.election_timeout_min)
            ));
        }
        Ok(())
    }

    fn take_file(&mut self, path: &Path) -> Result<(), Error> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
        let table: toml::Table = text.parse().map_err(|source| Error::NotToml { path: path.to_owned(), source })?;
        for (name, value) in &table {
            let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) else {
                return Err(Error::UnknownSetting { path: path.to_owned(), name: name.clone() });
            };
            self.take(setting, &toml_texts(value), &path.display().to_string())?;
        }
        Ok(())
    }

    fn take(&mut self, setting: &Setting, values: &[String], origin: &str) -> Result<(), Error> {
        setting.set(self, values).map_err(|why| Error::Value {
            name: setting.name,
            value: values.join(","),
            origin: origin.to_owned(),
            why,
        })
    }
}

/// The values of a TOML key as the texts that a flag would have.
fn toml_texts(value: &toml::Value) -> Vec<String> {
    match value {
        toml::Value::String(text) => vec![text.clone()],
        toml::Value::Array(values) => values.iter().flat_map(toml_texts).collect(),
        other => vec![other.to_string()],
    }
}

/// Whether an address means "every interface", which nobody can dial.
fn is_unspecified(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

/// `docs/configuration.md`, printed from [`SETTINGS`].
pub fn documentation() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         <!-- Printed from src/config.rs; `UPDATE=1 cargo test -p hourmark --lib configuration_page` rewrites it. -->\n\n\
         Every setting of a node can be given in four places. The first that is there wins:\n\n\
         1. a flag of `hourmark start`: `--max-future 30m`\n\
         2. an environment variable: `HOURMARK_MAX_FUTURE=30m`\n\
         3. a key of the TOML file that `--config` (or `HOURMARK_CONFIG`) names: `max_future = \"30m\"`\n\
         4. the default\n\n\
         Defaults work untouched; most nodes need `data_dir`, the two addresses and `join`. A wrong or unknown setting is\n\
         refused at the start with exit code 2 and a message that names it. Durations are whole numbers with a unit (`ns`,\n\
         `us`, `ms`, `s`, `m`, `h`, `d`), which may be joined: `1h30m`. Sizes are whole numbers of bytes or with `KiB`, `MiB`,\n\
         `GiB`. A list is given by repeating its flag, with commas in the variable, or as a TOML array; an empty variable\n\
         counts as not set.\n",
    );
    for setting in SETTINGS {
        let default = setting.default_text();
        let default = if default.is_empty() { setting.empty_default.to_owned() } else { format!("`{default}`") };
        write!(
            page,
            "\n## `{}`\n\n`{}` · `{}`\n\n{}\n\n- Takes: {}\n- Default: {default}\n- Why: {}\n",
            setting.name,
            setting.flag(),
            setting.variable(),
            setting.what,
            setting.limit(),
            setting.why
        )
        .expect("writing to a String cannot fail");
    }
    page
}

#[cfg(test)]
mod tests;
