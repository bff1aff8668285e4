//! Builds every room from configuration and environment, starts and stops them in order. The only place that knows all
//! rooms; what a room needs of another is joined here.

mod admin;
mod append;
mod host;
mod housekeeping;
mod partition;
#[cfg(feature = "planted-bugs")]
mod planted;
mod reads;
mod settings;

use crate::admin::Starting;
use crate::aggregate::{self, Aggregation};
use crate::config::Config;
use crate::http::{self, Door, Limits};
use crate::ingest::{self, Intake};
use crate::metrics::Metrics;
use crate::query::{self, Leader, Query};
use crate::rollup::{self, Engine, Policy, Store};
use admin::NodeSource;
use append::ClusterAppend;
use cluster::environment::Environment;
use cluster::{Cluster, log::LogConfig};
use host::ProductHost;
use partition::LedPartition;
use reads::{ClusterPartitions, OpenReads, StoreReads};
use settings::ClusterSettings;
use std::sync::Arc;
use std::time::Duration;

/// Where a node serves, once it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// What people call it.
    pub node_name: String,
    /// `host:port` for clients, with the real port.
    pub http_address: String,
    /// `host:port` for other nodes, with the real port.
    pub cluster_address: String,
}

/// Why a node did not start or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration does not fit the world: another cluster's directory, an address that is none.
    #[error("{0}")]
    Configuration(String),
    /// The world does not let the node run: port in use, directory not writable or in use, fatal failure.
    #[error("{0}")]
    Failed(String),
}

/// How long requests under way may take after the node was told to stop.
const HTTP_GRACE: Duration = Duration::from_secs(5);

/// Runs a node until `shutdown` completes; calls `ready` once it serves.
pub async fn run(
    config: Config,
    environment: Environment,
    engine: Engine,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(&Ready),
) -> Result<(), Error> {
    #[cfg(feature = "planted-bugs")]
    let environment = planted::environment(environment);
    tokio::pin!(shutdown);
    let started = tokio::select! {
        started = Node::start(&config, &environment, engine) => started?,
        // Nothing is acked yet, and what is on the disk is whole at every moment.
        () = &mut shutdown => {
            environment.tasks.shutdown();
            return Ok(());
        }
    };
    ready(&started.ready);
    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        reason = environment.tasks.failed() => Err(Error::Failed(reason)),
    };
    if outcome.is_ok() {
        started.stop().await;
    }
    environment.tasks.shutdown();
    outcome
}

/// The rooms of a node that serves.
struct Node {
    ready: Ready,
    cluster: Cluster,
    aggregation: Aggregation,
    store: Store,
    server: http::Server,
}

impl Node {
    async fn start(config: &Config, environment: &Environment, engine: Engine) -> Result<Node, Error> {
        let metrics = Metrics::new();
        let door = Door::listen(environment, &config.http_addr).await.map_err(|error| {
            Error::Failed(format!("listening for HTTP on {}: {error}; choose another --http-addr", config.http_addr))
        })?;
        let http_address = door.address().to_owned();
        let starting = Starting::default();
        let server = door.serve(starting.clone().routes(metrics.clone()), Limits::default());
        let policy = Policy { interval: config.write_out_interval, ..Policy::default() };
        let host =
            Arc::new(ProductHost::new(environment.clone(), engine, policy, metrics.store.clone(), starting.clone()));
        let cluster = Cluster::start(environment.clone(), cluster_config(config, &http_address), host.clone()).await;
        let cluster = cluster.map_err(|error| start_error(config, &error))?;
        let settings =
            ClusterSettings::decode(&cluster.settings()).map_err(|error| Error::Failed(error.to_string()))?;
        let store = host.store_when_there_is_room(&settings).await;
        let store = store.map_err(|error| Error::Failed(format!("opening the store: {error}")))?;
        let aggregation = start_aggregation(config, environment, &cluster, &store, settings, &metrics).await?;
        housekeeping::start(environment, &cluster, &store, &aggregation);
        let stored: Arc<dyn query::StoredReads> =
            Arc::new(StoreReads { store: store.clone(), tasks: environment.tasks.clone() });
        #[cfg(feature = "planted-bugs")]
        let stored = planted::stored(stored);
        let open = OpenReads { cluster: cluster.clone(), aggregation: aggregation.clone() };
        let lateness = Duration::from_millis(settings.lateness_ms);
        host.answer_by(Leader::new(stored.clone(), Arc::new(open), settings.sketch(), lateness));
        let query_settings = query::Settings {
            sketch: settings.sketch(),
            lateness,
            cache_bytes_max: config.cache_bytes,
            ..query::Settings::default()
        };
        let query = Query::new(partitions(&cluster), stored, query_settings, metrics.query.clone());
        let append = append(&cluster, environment);
        let intake = Intake::new(environment, append, ingest_settings(config), metrics.ingest.clone());
        let source = NodeSource {
            cluster: cluster.clone(),
            query: query.clone(),
            store: store.clone(),
            settings,
            environment: environment.clone(),
        };
        let admin = crate::admin::room(Arc::new(source), metrics);
        let rooms = [ingest::room(intake), query::room(query), admin];
        server.switch(http::assemble(rooms));
        let ready = Ready { node_name: cluster.node_name(), http_address, cluster_address: cluster.cluster_address() };
        Ok(Node { ready, cluster, aggregation, store, server })
    }

    /// Stops taking requests, hands over what is led, writes out what is not yet on the disk.
    async fn stop(self) {
        if !self.server.shutdown(HTTP_GRACE).await {
            tracing::warn!("some requests were still under way and are cut off");
        }
        self.cluster.shutdown().await;
        self.aggregation.shutdown().await;
        if let Err(error) = self.store.close().await {
            tracing::warn!(%error, "the store was not written out; the log holds what is missing");
        }
    }
}

async fn start_aggregation(
    config: &Config,
    environment: &Environment,
    cluster: &Cluster,
    store: &Store,
    settings: ClusterSettings,
    metrics: &Metrics,
) -> Result<Aggregation, Error> {
    #[cfg(feature = "planted-bugs")]
    let settings = planted::sketches(settings);
    let lateness = Duration::from_millis(settings.lateness_ms);
    let bounds = aggregate::Settings::new(settings.sketch(), lateness, config.checkpoint_interval);
    let (found, stored) = (cluster.clone(), store.clone());
    let find: aggregate::FindPartition = Arc::new(move |id| {
        let (replica, state) = (found.replica(id)?, stored.find(id)?);
        let partition: Arc<dyn aggregate::Partition> = Arc::new(LedPartition { replica, state });
        #[cfg(feature = "planted-bugs")]
        let partition = planted::partition(partition);
        Some(partition)
    });
    let led = cluster.leaderships();
    Aggregation::start(environment.clone(), bounds, metrics.aggregate.clone(), find, led)
        .await
        .map_err(|error| Error::Failed(format!("starting the aggregation: {error}")))
}

fn cluster_config(config: &Config, http_address: &str) -> cluster::Config {
    let is_named = !config.node_name.is_empty();
    cluster::Config {
        node_name: if is_named { config.node_name.clone() } else { config.first_name() },
        keeps_name: !is_named,
        http_address: http_address.to_owned(),
        cluster_address: config.cluster_addr.clone(),
        join: config.join.clone(),
        partitions: config.partitions,
        replication_factor: u8::try_from(config.replication_factor).unwrap_or(u8::MAX),
        settings: ClusterSettings::of(config).encode(),
        replace_after: config.replace_after,
        heartbeat_interval: config.heartbeat_interval,
        election_timeout_min: config.election_timeout_min,
        election_timeout_max: config.election_timeout_max,
        log: LogConfig {
            segment_bytes: config.segment_bytes as u64,
            bytes_max: config.log_bytes_max as u64,
            ..LogConfig::default()
        },
        store_directory: Some(rollup::DIRECTORY.into()),
        ..cluster::Config::default()
    }
}

#[cfg(not(feature = "planted-bugs"))]
fn append(cluster: &Cluster, _: &Environment) -> Arc<dyn ingest::Append> {
    Arc::new(ClusterAppend(cluster.clone()))
}

#[cfg(feature = "planted-bugs")]
fn append(cluster: &Cluster, environment: &Environment) -> Arc<dyn ingest::Append> {
    planted::append(ClusterAppend(cluster.clone()), environment.tasks.clone())
}

#[cfg(not(feature = "planted-bugs"))]
fn partitions(cluster: &Cluster) -> Arc<dyn query::Partitions> {
    Arc::new(ClusterPartitions(cluster.clone()))
}

#[cfg(feature = "planted-bugs")]
fn partitions(cluster: &Cluster) -> Arc<dyn query::Partitions> {
    planted::leaders(ClusterPartitions(cluster.clone()))
}

fn ingest_settings(config: &Config) -> ingest::Settings {
    ingest::Settings {
        body_bytes_max: config.body_bytes_max,
        in_flight_bytes_max: config.inflight_bytes_max as u64,
        deadline: config.request_deadline,
        future_max: config.max_future,
        age_max: config.event_age_max,
        ..ingest::Settings::default()
    }
}

/// What a user has to change is a configuration error, everything else a failure.
fn start_error(config: &Config, error: &cluster::Error) -> Error {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    match error {
        cluster::Error::InUse => {
            let why = "is in use by another process; stop that one, or choose another --data-dir";
            Error::Failed(format!("the data directory {} {why}", config.data_dir))
        }
        cluster::Error::Listen { .. } => Error::Failed(format!("{text}; choose another --cluster-addr")),
        cluster::Error::IdentityMissing { .. } | cluster::Error::Mixed { .. } => {
            Error::Configuration(format!("data_dir {}: {text}", config.data_dir))
        }
        cluster::Error::IdentityDamaged(_) => Error::Failed(format!("data_dir {}: {text}", config.data_dir)),
        cluster::Error::Config(_) | cluster::Error::OtherCluster { .. } | cluster::Error::Refused(_) => {
            Error::Configuration(text)
        }
        _ => Error::Failed(text),
    }
}

#[cfg(test)]
mod tests;
