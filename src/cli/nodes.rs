//! `hourmark drain` and `hourmark remove`: letting a node go.

use super::cluster_view::{self, ClusterView, NodeView};
use super::connection::{Connection, timeout};
use super::failure::{Exit, Failure, Outcome};
use hourmark::admin::NodeChange;
use hourmark::client::{Client, Method};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often is looked how far a node is.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How long one question or order may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Move everything that a node holds to other nodes
///
/// Leaderships go first, then replicas, one by one, each once its successor has caught up; the node serves all the while.
/// Returns when the node holds nothing. Where fewer nodes than the replication factor are left, partitions have fewer
/// replicas from then on.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  hourmark drain node-3                           then: hourmark remove node-3
  hourmark drain 3 --undo                         let it take its share again")]
pub struct DrainArguments {
    /// The node's number or name, as `hourmark status` shows it
    node: String,
    /// Let the node take its share again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    connection: Connection,
    /// Stop waiting after so long; the node goes on draining
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = timeout)]
    timeout: Duration,
}

/// Let a node go for good
///
/// The node stops and its data directory never enters the cluster again. A node that holds something is refused: drain it
/// first. A node that is lost, disk and all, is forced away; its replicas are made anew from those of the others.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  hourmark remove node-3                          a node that was drained
  hourmark remove 3 --force                       a node that is lost")]
pub struct RemoveArguments {
    /// The node's number or name, as `hourmark status` shows it
    node: String,
    /// Also if the node still holds something
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Drains, and shows how far it is.
pub async fn drain(arguments: &DrainArguments) -> Outcome {
    let client = arguments.connection.client()?;
    let view = cluster_view::ask(&client, PATIENCE).await?;
    let node = find(&view, &arguments.node)?;
    let method = if arguments.undo { Method::Delete } else { Method::Put };
    let _: NodeChange = client.order(method, &format!("/v1/nodes/{}/drain", node.id), PATIENCE).await?;
    if arguments.undo {
        eprintln!("node {} ({}) takes its share again", node.id, node.name);
        return Ok(());
    }
    wait_until_empty(&client, node, arguments.timeout).await
}

/// Removes.
pub async fn remove(arguments: &RemoveArguments) -> Outcome {
    let client = arguments.connection.client()?;
    let view = cluster_view::ask(&client, PATIENCE).await?;
    let node = find(&view, &arguments.node)?;
    let path = format!("/v1/nodes/{}?force={}", node.id, arguments.force);
    let _: NodeChange = client.order(Method::Delete, &path, PATIENCE).await?;
    eprintln!("node {} ({}) has left the cluster", node.id, node.name);
    Ok(())
}

async fn wait_until_empty(client: &Client, node: &NodeView, patience: Duration) -> Outcome {
    let give_up = Instant::now() + patience;
    let mut told = None;
    loop {
        let view = cluster_view::ask(client, PATIENCE).await?;
        let held = held(&view, node.id);
        if held == 0 {
            eprintln!("node {} ({}) holds nothing any more: hourmark remove {}", node.id, node.name, node.id);
            return Ok(());
        }
        if told != Some(held) {
            eprintln!("node {} ({}) holds {held} of {} partitions", node.id, node.name, view.partitions.len());
            told = Some(held);
        }
        if Instant::now() >= give_up {
            let message =
                format!("node {} still holds {held} partitions; it goes on draining, see hourmark status", node.id);
            return Err(Failure::new(Exit::Failed, message));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// In how many partitions a node takes part, or may: a partition without a leader does not say.
fn held(view: &ClusterView, node: u64) -> usize {
    let holds = |partition: &&cluster_view::PartitionView| {
        partition.leader.is_none() || partition.voters.contains(&node) || partition.learners.contains(&node)
    };
    view.partitions.iter().filter(holds).count()
}

/// The node of that number, or else the only one of that name.
fn find<'a>(view: &'a ClusterView, text: &str) -> Result<&'a NodeView, Failure> {
    let by_id = view.nodes.iter().find(|node| text.parse() == Ok(node.id));
    let mut by_name = view.nodes.iter().filter(|node| node.name == text);
    match (by_id, by_name.next(), by_name.next()) {
        (Some(node), _, _) | (None, Some(node), None) => Ok(node),
        (None, Some(_), Some(_)) => {
            Err(Failure::new(Exit::Usage, format!("several nodes are called {text:?}: say the number")))
        }
        (None, None, _) => {
            let known: Vec<_> = view.nodes.iter().map(|node| format!("{} ({})", node.id, node.name)).collect();
            Err(Failure::new(Exit::NotFound, format!("there is no node {text:?}; there are {}", known.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> ClusterView {
        let node = |id: u64, name: &str| serde_json::json!({"id": id, "name": name, "http_addr": "h", "cluster_addr": "c", "alive": true});
        let partition = |id: u16, leader: Option<u64>, voters: &[u64], learners: &[u64]| serde_json::json!({"id": id, "leader": leader, "replicas": voters, "voters": voters, "learners": learners, "term": 1});
        serde_json::from_value(serde_json::json!({
            "cluster_id": "c",
            "nodes": [node(1, "a"), node(2, "b"), node(3, "b"), node(4, "1")],
            "partitions": [partition(0, Some(1), &[1, 2], &[3]), partition(1, Some(2), &[2], &[]), partition(2, None, &[], &[])],
        }))
        .unwrap()
    }

    #[test]
    fn a_node_is_found_by_number_or_by_a_name_of_its_own() {
        let view = view();
        assert_eq!(find(&view, "a").unwrap().id, 1);
        assert_eq!(find(&view, "1").unwrap().id, 1);
        assert_eq!(find(&view, "b").unwrap_err().exit, Exit::Usage);
        assert_eq!(find(&view, "z").unwrap_err().exit, Exit::NotFound);
    }

    #[test]
    fn a_node_holds_what_it_votes_in_or_learns_and_perhaps_what_nobody_leads() {
        assert_eq!((1..=4).map(|node| held(&view(), node)).collect::<Vec<_>>(), [2, 3, 2, 1]);
    }
}
