//! `hourmark status`: nodes, partitions, leaders, how far each is behind, disk.

use super::cluster_view::{self, ClusterView, NodeView, PartitionView};
use super::connection::{Connection, timeout};
use super::failure::{Exit, Failure, Outcome};
use super::output::{self, Format, Output, Table, json};
use futures::future::join_all;
use hourmark::admin::Standing;
use hourmark::client::Client;
use hourmark::config::format_bytes;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a single node may take to tell about itself, when another has told about the cluster.
const NODE_PATIENCE: Duration = Duration::from_secs(2);

/// Show nodes, partitions, leaders, lag and disk
///
/// `behind` is how many log entries the slowest live replica of a partition has still to apply; `lag_events` how many
/// events are on disk but not yet part of stored rollups (questions see them all the same). CSV lists the partitions
/// only; JSON has everything. Exit code 4: some partition has no leader with a majority.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  hourmark status
  hourmark status -o json --server http://10.0.0.5:3600")]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
    /// Give up after so long
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = timeout)]
    timeout: Duration,
}

/// Asks and prints.
pub async fn run(arguments: &Arguments) -> Outcome {
    let client = arguments.connection.client()?;
    let view = cluster_view::ask(&client, arguments.timeout).await?;
    let format = arguments.output.format();
    let own_views = own_views(&view).await;
    let status = Status::new(&view, &own_views);
    output::print(&match format {
        Format::Table => status.to_text(),
        Format::Json => json(&status),
        Format::Csv => status.partitions_table().to_csv(),
    })?;
    let (all, led) = (view.partitions.len(), cluster_view::led(&view));
    if led == all {
        return Ok(());
    }
    let message = format!(
        "{} of {all} partitions have no leader with a majority behind it: they take no writes, and only `consistency=local` \
         reads them",
        all - led
    );
    Err(Failure::new(Exit::Unavailable, message))
}

/// What each node that answers tells about itself, by its number.
async fn own_views(view: &ClusterView) -> BTreeMap<u64, ClusterView> {
    let views = view.nodes.iter().filter(|node| node.alive).map(|node| async move {
        let client = Client::new(std::slice::from_ref(&node.http_addr)).ok()?;
        Some((node.id, cluster_view::ask(&client, NODE_PATIENCE).await.ok()?))
    });
    join_all(views).await.into_iter().flatten().collect()
}

/// A cluster's state, as it is printed.
#[derive(Debug, Serialize)]
struct Status {
    cluster_id: String,
    nodes: Vec<NodeStatus>,
    partitions: Vec<PartitionStatus>,
}

#[derive(Debug, Serialize)]
struct NodeStatus {
    id: u64,
    name: String,
    http_addr: String,
    cluster_addr: String,
    alive: bool,
    standing: Standing,
    leads: usize,
    replicas: usize,
    disk_used_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct PartitionStatus {
    id: u16,
    leader: Option<u64>,
    replicas: Vec<u64>,
    term: u64,
    commit_offset: Option<u64>,
    consumed_offset: Option<u64>,
    lag_events: Option<u64>,
    behind: Option<u64>,
}

impl Status {
    fn new(view: &ClusterView, own_views: &BTreeMap<u64, ClusterView>) -> Status {
        let node = |node: &NodeView| NodeStatus {
            id: node.id,
            name: node.name.clone(),
            http_addr: node.http_addr.clone(),
            cluster_addr: node.cluster_addr.clone(),
            alive: node.alive,
            standing: node.standing,
            leads: view.partitions.iter().filter(|partition| partition.leader == Some(node.id)).count(),
            replicas: view.partitions.iter().filter(|partition| partition.replicas.contains(&node.id)).count(),
            disk_used_bytes: own_views.get(&node.id).and_then(|own| own.disk_used_bytes),
        };
        Status {
            cluster_id: view.cluster_id.clone(),
            nodes: view.nodes.iter().map(node).collect(),
            partitions: view.partitions.iter().map(|partition| PartitionStatus::new(partition, own_views)).collect(),
        }
    }

    fn to_text(&self) -> String {
        let alive = self.nodes.iter().filter(|node| node.alive).count();
        let led = self.partitions.iter().filter(|partition| partition.leader.is_some()).count();
        format!(
            "cluster {}: {alive} of {} nodes alive, {led} of {} partitions led\n\n{}\n{}",
            self.cluster_id,
            self.nodes.len(),
            self.partitions.len(),
            self.nodes_table().to_text(),
            self.partitions_table().to_text()
        )
    }

    fn nodes_table(&self) -> Table {
        let mut table = Table::new(["node", "name", "http_addr", "cluster_addr", "alive", "leads", "replicas", "disk"]);
        table.rows.extend(self.nodes.iter().map(|node| {
            let disk = node.disk_used_bytes.and_then(|bytes| usize::try_from(bytes).ok());
            vec![
                node.id.to_string(),
                node.name.clone(),
                node.http_addr.clone(),
                node.cluster_addr.clone(),
                match (node.alive, node.standing) {
                    (true, Standing::Draining) => "draining",
                    (true, _) => "yes",
                    (false, Standing::Away) => "replaced",
                    (false, _) => "no",
                }
                .to_owned(),
                node.leads.to_string(),
                node.replicas.to_string(),
                disk.map_or(String::new(), rounded_bytes),
            ]
        }));
        table
    }

    fn partitions_table(&self) -> Table {
        let header =
            ["partition", "leader", "replicas", "term", "commit_offset", "consumed_offset", "lag_events", "behind"];
        let mut table = Table::new(header);
        let number = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
        table.rows.extend(self.partitions.iter().map(|partition| {
            let replicas: Vec<_> = partition.replicas.iter().map(u64::to_string).collect();
            vec![
                partition.id.to_string(),
                partition.leader.map_or("none".to_owned(), |leader| leader.to_string()),
                replicas.join(" "),
                partition.term.to_string(),
                number(partition.commit_offset),
                number(partition.consumed_offset),
                number(partition.lag_events),
                number(partition.behind),
            ]
        }));
        table
    }
}

impl PartitionStatus {
    fn new(partition: &PartitionView, own_views: &BTreeMap<u64, ClusterView>) -> PartitionStatus {
        let of = |node: &u64| own_views.get(node)?.partitions.iter().find(|own| own.id == partition.id);
        // Of the views taken a moment apart, the furthest.
        let views = || std::iter::once(partition).chain(partition.replicas.iter().filter_map(of));
        let commit_offset = views().filter_map(|view| view.commit_offset).max();
        let slowest = partition.replicas.iter().filter_map(|node| of(node)?.applied_offset).min();
        PartitionStatus {
            id: partition.id,
            leader: partition.leader,
            replicas: partition.replicas.clone(),
            term: partition.term,
            commit_offset,
            consumed_offset: partition.consumed_offset,
            lag_events: partition.lag_events,
            behind: commit_offset.zip(slowest).map(|(commit, applied)| commit.saturating_sub(applied)),
        }
    }
}

/// Bytes for people: whole units of which there are at least ten.
fn rounded_bytes(bytes: usize) -> String {
    let unit = [1 << 30, 1 << 20, 1 << 10].into_iter().find(|unit| bytes >= 10 * unit).unwrap_or(1);
    format_bytes(bytes / unit * unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn view(applied: u64, disk: Option<u64>) -> ClusterView {
        let view = json!({
            "cluster_id": "c0ffee", "settings": {}, "disk_used_bytes": disk,
            "nodes": [
                {"id": 1, "name": "node-1", "http_addr": "127.0.0.1:3600", "cluster_addr": "127.0.0.1:3601", "alive": true},
                {"id": 2, "name": "node-2", "http_addr": "127.0.0.1:3610", "cluster_addr": "127.0.0.1:3611", "alive": false},
            ],
            "partitions": [
                {"id": 0, "leader": 1, "replicas": [1, 2], "term": 3, "commit_offset": 100, "consumed_offset": 90,
                 "lag_events": 12, "applied_offset": applied},
                {"id": 1, "leader": null, "replicas": [2], "term": 4},
            ],
        });
        serde_json::from_value(view).unwrap()
    }

    #[test]
    fn status_shows_leaders_lag_and_disk() {
        let own = BTreeMap::from([(1, view(100, Some(12 << 20))), (2, view(93, None))]);
        assert_eq!(
            Status::new(&view(100, None), &own).to_text(),
            "cluster c0ffee: 1 of 2 nodes alive, 1 of 2 partitions led\n\n\
             node  name    http_addr       cluster_addr    alive  leads  replicas  disk\n   \
                1  node-1  127.0.0.1:3600  127.0.0.1:3601  yes        1         1  12MiB\n   \
                2  node-2  127.0.0.1:3610  127.0.0.1:3611  no         0         2\n\n\
             partition  leader  replicas  term  commit_offset  consumed_offset  lag_events  behind\n        \
                     0  1       1 2          3            100               90          12       7\n        \
                     1  none    2            4\n"
        );
    }

    #[test]
    fn a_cluster_that_tells_only_the_contracts_fields_is_shown_too() {
        let status = Status::new(&view(100, None), &BTreeMap::new());
        assert_eq!(status.partitions[0].behind, None);
        assert!(status.to_text().contains("node-2"));
    }

    #[test]
    fn bytes_are_rounded_down_to_units_that_say_enough() {
        assert_eq!(rounded_bytes(12 << 20 | 4711), "12MiB");
        assert_eq!(rounded_bytes(9 << 20), "9MiB");
        assert_eq!(rounded_bytes((9 << 20) + 5000), "9220KiB");
        assert_eq!(rounded_bytes(5), "5B");
    }
}
