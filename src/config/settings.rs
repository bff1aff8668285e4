//! The table of settings: everything about each one but its default, which is [`Config::default`].

use super::Config;
use super::units::{format_bytes, format_duration, parse_bytes, parse_duration};
use std::ops::RangeInclusive;
use std::time::Duration;

/// One setting of a node.
#[derive(Debug)]
pub struct Setting {
    /// Its key in the configuration file, snake_case.
    pub name: &'static str,
    /// What it decides, one sentence or two.
    pub what: &'static str,
    /// Why the default and the limits are what they are.
    pub why: &'static str,
    /// What an empty default means, in words.
    pub empty_default: &'static str,
    /// Whether a first-time user needs to know it.
    pub is_basic: bool,
    kind: Kind,
}

/// A setting's type, its field in [`Config`] and its limits.
#[derive(Debug)]
enum Kind {
    Text(fn(&mut Config) -> &mut String),
    Address(fn(&mut Config) -> &mut String),
    Addresses(fn(&mut Config) -> &mut Vec<String>),
    Duration(fn(&mut Config) -> &mut Duration, RangeInclusive<Duration>),
    DurationOrOff(fn(&mut Config) -> &mut Option<Duration>, RangeInclusive<Duration>),
    Bytes(fn(&mut Config) -> &mut usize, RangeInclusive<usize>),
    Integer(fn(&mut Config) -> &mut u16, RangeInclusive<u16>),
    Ratio(fn(&mut Config) -> &mut f64, RangeInclusive<f64>),
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const MONTH: Duration = Duration::from_secs(30 * 86_400);
const CENTURIES: Duration = Duration::from_secs(100_000 * 86_400);
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// The smallest file of the log: an entry takes at most a quarter of one, and a checkpoint that does not fit would never
/// get into the log.
const SEGMENT_BYTES_MIN: usize = 56 * MIB;
const _: () = assert!(SEGMENT_BYTES_MIN / 4 >= crate::format::ENTRY_BYTES_MAX + 1024);

/// Every setting, in the order that help and documentation list them.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "data_dir",
        what: "The directory that holds the node's identity, log and rollups. Created when missing; used by one process at a time.",
        why: "a directory below the working directory needs no rights and is easy to find; a service names one that outlives it",
        empty_default: "",
        is_basic: true,
        kind: Kind::Text(|config| &mut config.data_dir),
    },
    Setting {
        name: "http_addr",
        what: "Address for clients: events, queries, metrics, dashboard.",
        why: "loopback, because there is no login: open it to a network on purpose; 3600 is the seconds of an hour",
        empty_default: "",
        is_basic: true,
        kind: Kind::Address(|config| &mut config.http_addr),
    },
    Setting {
        name: "cluster_addr",
        what: "Address for the other nodes, which dial it as it stands here.",
        why: "loopback for a first try; on several machines it must be an address that the others reach, so 0.0.0.0 is refused",
        empty_default: "",
        is_basic: true,
        kind: Kind::Address(|config| &mut config.cluster_addr),
    },
    Setting {
        name: "join",
        what: "Cluster addresses of members of the cluster to enter; any one that answers will do. A node that already belongs \
               to a cluster goes back to it.",
        why: "a fresh directory without it starts a cluster of its own, the shortest way to a first answer",
        empty_default: "none: a fresh node starts its own cluster",
        is_basic: true,
        kind: Kind::Addresses(|config| &mut config.join),
    },
    Setting {
        name: "node_name",
        what: "What status, logs and the dashboard call this node.",
        why: "the port tells the nodes of one machine apart",
        empty_default: "the name it had before; at first `node-` and the port of `http_addr`",
        is_basic: true,
        kind: Kind::Text(|config| &mut config.node_name),
    },
    Setting {
        name: "max_future",
        what: "How far ahead of this node's clock an event may be; later ones are refused with `timestamp_in_future`.",
        why: "clocks of services differ by seconds; an hour that has not begun is a fault of the sender. `off` is for replaying \
              made-up data: such events then count, and still never seal another app's hour",
        empty_default: "",
        is_basic: true,
        kind: Kind::DurationOrOff(|config| &mut config.max_future, Duration::ZERO..=CENTURIES),
    },
    Setting {
        name: "event_age_max",
        what: "How old an event may be by this node's clock; older ones are refused with `timestamp_out_of_range`.",
        why: "late events amend old hours, so history can be loaded at any time; a limit guards against senders with lost clocks",
        empty_default: "",
        is_basic: false,
        kind: Kind::DurationOrOff(|config| &mut config.event_age_max, HOUR..=CENTURIES),
    },
    Setting {
        name: "lateness",
        what: "How long after its end an hour stays `open`. Events after that are counted all the same: the hour becomes `amended`.",
        why: "most events arrive within minutes, and an hour later few readers still wait for more",
        empty_default: "",
        is_basic: false,
        kind: Kind::Duration(|config| &mut config.lateness, Duration::ZERO..=MONTH),
    },
    Setting {
        name: "partitions",
        what: "Shares of the log, spread over the nodes by app. Taken when the cluster is created; ignored by nodes that join.",
        why: "one per node of a three-node cluster; each more makes entries smaller and costs CPU for each of them. One folds some \
              ten million events a second, so that more are needed only where more than three nodes are to lead. `dev` and \
              `bench --spawn` make one where that many leaders outnumber the cores",
        empty_default: "",
        is_basic: false,
        kind: Kind::Integer(|config| &mut config.partitions, 1..=1024),
    },
    Setting {
        name: "replication_factor",
        what: "Nodes that keep each partition, as far as there are that many. Taken when the cluster is created.",
        why: "with three, any one node can be lost without losing an event or a minute of service; even numbers add cost and \
              no safety",
        empty_default: "",
        is_basic: false,
        kind: Kind::Integer(|config| &mut config.replication_factor, 1..=7),
    },
    Setting {
        name: "relative_accuracy",
        what: "Bound of the relative error of a quantile: 0.01 is 1 %. Count, sum, average, minimum and maximum are exact. \
               Taken when the cluster is created.",
        why: "1 % is far below the noise of response times, and at 1 % a sketch spans 1 ns to three years without ever \
              collapsing, which a finer one could not",
        empty_default: "",
        is_basic: false,
        kind: Kind::Ratio(|config| &mut config.relative_accuracy, 0.01..=0.1),
    },
    Setting {
        name: "body_bytes_max",
        what: "Largest body of one request, after decompression; larger ones are refused with 413.",
        why: "some 150,000 events; larger bodies gain no speed and hold memory longer. At least two lines of the longest kind",
        empty_default: "",
        is_basic: false,
        kind: Kind::Bytes(|config| &mut config.body_bytes_max, 2 * MIB..=GIB),
    },
    Setting {
        name: "inflight_bytes_max",
        what: "Memory that requests being worked on may hold together; beyond it they are refused with 429 and `Retry-After`.",
        why: "many large bodies at once, well below the memory of a small machine",
        empty_default: "",
        is_basic: false,
        kind: Kind::Bytes(|config| &mut config.inflight_bytes_max, 2 * MIB..=64 * GIB),
    },
    Setting {
        name: "request_deadline",
        what: "How long a request may wait for a leader, a majority or an answer before it is refused with 503.",
        why: "longer than an election, shorter than the patience of most clients",
        empty_default: "",
        is_basic: false,
        kind: Kind::Duration(|config| &mut config.request_deadline, SECOND..=Duration::from_secs(300)),
    },
    Setting {
        name: "checkpoint_interval",
        what: "How often an aggregator writes its progress into the log, when there is any.",
        why: "bounds what a new leader folds again to two seconds of events (six with tens of thousands of apps, because each app \
              of a checkpoint costs); rarer saves little",
        empty_default: "",
        is_basic: false,
        kind: Kind::Duration(|config| &mut config.checkpoint_interval, Duration::from_millis(50)..=MINUTE),
    },
    Setting {
        name: "write_out_interval",
        what: "How often changed rollups are made durable in the store; until then the log holds what they came from.",
        why: "a row that changes all the time is written once a minute; the price is a minute of log to read at a restart",
        empty_default: "",
        is_basic: false,
        kind: Kind::Duration(|config| &mut config.write_out_interval, Duration::from_millis(100)..=HOUR),
    },
    Setting {
        name: "segment_bytes",
        what: "Size of one file of the log; the log shrinks and grows by whole files.",
        why: "large enough that making files is rare, small enough that space comes back soon; a quarter of it must hold the \
              largest entry",
        empty_default: "",
        is_basic: false,
        kind: Kind::Bytes(|config| &mut config.segment_bytes, SEGMENT_BYTES_MIN..=GIB),
    },
    Setting {
        name: "log_bytes_max",
        what: "Bytes of the log's files beyond which old entries should go: what they hold is then made durable in the store \
               ahead of its time. The log grows beyond it only while a partition has no leader or a replica cannot follow.",
        why: "minutes of events at full load, so that writing out stays rare; small against any disk",
        empty_default: "",
        is_basic: false,
        kind: Kind::Bytes(|config| &mut config.log_bytes_max, 4 * SEGMENT_BYTES_MIN..=1024 * GIB),
    },
    Setting {
        name: "replace_after",
        what: "After how long a silence a node's replicas are made anew on other nodes, where enough others live. `off`: never by \
               itself.",
        why: "longer than a restart or an upgrade takes, shorter than a second failure is likely; a node that is back takes its \
              share again",
        empty_default: "",
        is_basic: false,
        kind: Kind::DurationOrOff(|config| &mut config.replace_after, Duration::from_secs(5)..=CENTURIES),
    },
    Setting {
        name: "heartbeat_interval",
        what: "How often a leader tells its followers that it lives.",
        why: "several fit into the shortest election timeout, so one lost heartbeat changes nothing",
        empty_default: "",
        is_basic: false,
        kind: Kind::Duration(
            |config| &mut config.heartbeat_interval,
            Duration::from_millis(10)..=Duration::from_secs(10),
        ),
    },
    Setting {
        name: "election_timeout_min",
        what: "Shortest silence of a leader after which a follower stands for election.",
        why: "above the pauses of a busy machine, low enough that writes go on within three seconds of a leader's death",
        empty_default: "",
        is_basic: false,
        kind: Kind::Duration(|config| &mut config.election_timeout_min, Duration::from_millis(50)..=MINUTE),
    },
    Setting {
        name: "election_timeout_max",
        what: "Longest such silence: each follower draws its own between the two.",
        why: "the spread lets one candidate win before the next stands",
        empty_default: "",
        is_basic: false,
        kind: Kind::Duration(
            |config| &mut config.election_timeout_max,
            Duration::from_millis(100)..=Duration::from_secs(120),
        ),
    },
    Setting {
        name: "cache_bytes",
        what: "Memory for answers to repeated questions; 0 is none.",
        why: "some twenty thousand rollups and as many finished answers",
        empty_default: "",
        is_basic: false,
        kind: Kind::Bytes(|config| &mut config.cache_bytes, 0..=64 * GIB),
    },
    Setting {
        name: "threads",
        what: "Threads that serve requests and take part in the log; 0 is one a core, and two at least.",
        why: "work that blocks or takes long has threads of its own; nodes that share a machine do better with its cores divided, two threads each at least, as `dev` and `bench --spawn` do",
        empty_default: "",
        is_basic: false,
        kind: Kind::Integer(|config| &mut config.threads, 0..=1024),
    },
    Setting {
        name: "log_filter",
        what: "Which messages are logged to stderr, in the syntax of RUST_LOG: `warn`, `info,cluster=debug`. `history=debug` adds the way \
               of each entry; a release has nothing below `debug`.",
        why: "tells of elections, joins and refusals, is silent per request, and hears libraries only when they warn",
        empty_default: "",
        is_basic: false,
        kind: Kind::Text(|config| &mut config.log_filter),
    },
];

impl Setting {
    /// Its flag, `--max-future`.
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }

    /// Its environment variable, `HOURMARK_MAX_FUTURE`.
    pub fn variable(&self) -> String {
        format!("HOURMARK_{}", self.name.to_uppercase())
    }

    /// Its default as one would write it; empty where there is none, see [`Setting::empty_default`].
    pub fn default_text(&self) -> String {
        let mut config = Config::default();
        match &self.kind {
            Kind::Text(field) | Kind::Address(field) => field(&mut config).clone(),
            Kind::Addresses(field) => field(&mut config).join(","),
            Kind::Duration(field, _) => format_duration(*field(&mut config)),
            Kind::DurationOrOff(field, _) => field(&mut config).map_or("off".into(), format_duration),
            Kind::Bytes(field, _) => format_bytes(*field(&mut config)),
            Kind::Integer(field, _) => field(&mut config).to_string(),
            Kind::Ratio(field, _) => field(&mut config).to_string(),
        }
    }

    /// What values it takes, in words.
    pub fn limit(&self) -> String {
        let durations = |range: &RangeInclusive<Duration>| {
            format!("{} to {}", format_duration(*range.start()), format_duration(*range.end()))
        };
        match &self.kind {
            Kind::Text(_) => "a text that is not empty".into(),
            Kind::Address(_) => "`host:port`; port 0 takes a free one".into(),
            Kind::Addresses(_) => "a list of `host:port`".into(),
            Kind::Duration(_, range) => format!("a duration from {}", durations(range)),
            Kind::DurationOrOff(_, range) => format!("a duration from {}, or `off`", durations(range)),
            Kind::Bytes(_, range) => {
                format!("a size from {} to {}", format_bytes(*range.start()), format_bytes(*range.end()))
            }
            Kind::Integer(_, range) => format!("a whole number from {} to {}", range.start(), range.end()),
            Kind::Ratio(_, range) => format!("a number from {} to {}", range.start(), range.end()),
        }
    }

    /// The word for its value in help texts.
    pub fn placeholder(&self) -> &'static str {
        match &self.kind {
            Kind::Text(_) if self.name == "data_dir" => "DIR",
            Kind::Text(_) => "TEXT",
            Kind::Address(_) | Kind::Addresses(_) => "HOST:PORT",
            Kind::Duration(..) | Kind::DurationOrOff(..) => "DURATION",
            Kind::Bytes(..) => "SIZE",
            Kind::Integer(..) | Kind::Ratio(..) => "NUMBER",
        }
    }

    /// Whether its value is a number or a quantity: then a minus before it is a wrong value, not another flag.
    pub fn is_quantity(&self) -> bool {
        !matches!(self.kind, Kind::Text(_) | Kind::Address(_) | Kind::Addresses(_))
    }

    /// Whether it takes several values.
    pub fn is_list(&self) -> bool {
        matches!(self.kind, Kind::Addresses(_))
    }

    /// Reads `values` into its field; the error says what the setting takes.
    pub(super) fn set(&self, config: &mut Config, values: &[String]) -> Result<(), String> {
        if self.is_list() {
            return self.set_list(config, values);
        }
        match values {
            [text] => self.set_one(config, text.trim()).ok_or_else(|| format!("takes {}", self.limit())),
            _ => Err(format!("takes one value: {}", self.limit())),
        }
    }

    fn set_list(&self, config: &mut Config, values: &[String]) -> Result<(), String> {
        let Kind::Addresses(field) = &self.kind else { unreachable!("only addresses are a list") };
        let addresses: Vec<String> =
            values.iter().flat_map(|value| value.split(',')).map(|address| address.trim().to_owned()).collect();
        match addresses.iter().find(|address| port(address).is_none_or(|port| port == 0)) {
            Some(address) => Err(format!("{address:?} is not host:port, such as 10.0.0.5:3601")),
            None => {
                *field(config) = addresses;
                Ok(())
            }
        }
    }

    fn set_one(&self, config: &mut Config, text: &str) -> Option<()> {
        match &self.kind {
            Kind::Text(field) => *field(config) = (!text.is_empty()).then(|| text.to_owned())?,
            Kind::Address(field) => *field(config) = port(text).map(|_| text.to_owned())?,
            Kind::Addresses(_) => return None,
            Kind::Duration(field, range) => *field(config) = within(parse_duration(text)?, range)?,
            Kind::DurationOrOff(field, _) if text == "off" => *field(config) = None,
            Kind::DurationOrOff(field, range) => *field(config) = Some(within(parse_duration(text)?, range)?),
            Kind::Bytes(field, range) => *field(config) = within(parse_bytes(text)?, range)?,
            Kind::Integer(field, range) => *field(config) = within(text.parse().ok()?, range)?,
            Kind::Ratio(field, range) => *field(config) = within(text.parse().ok()?, range)?,
        }
        Some(())
    }
}

fn within<T: PartialOrd>(value: T, range: &RangeInclusive<T>) -> Option<T> {
    range.contains(&value).then_some(value)
}

/// The port of `host:port`, where the text is one.
fn port(address: &str) -> Option<u16> {
    let (host, port) = address.rsplit_once(':')?;
    let is_host = !host.is_empty() && !host.contains(['/', ' ']) && (host.starts_with('[') || !host.contains(':'));
    if is_host { port.parse().ok() } else { None }
}
