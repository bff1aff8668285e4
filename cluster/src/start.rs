//! From a directory and a configuration to a node that serves.

use crate::config::Config;
use crate::environment::{Environment, Listener};
use crate::error::Error;
use crate::hosting;
use crate::membership::command::{Command, NodeAddress, Outcome};
use crate::membership::directory;
use crate::membership::identity::{self, Identity};
use crate::membership::join::{self, Answer, Ask};
use crate::membership::machine::{self, Machine};
use crate::membership::state::Standing;
use crate::membership::steward;
use crate::node::{Door, Node};
use crate::partition::{self, Replica};
use crate::raft::{self, GroupContext};
use crate::transport::{self, Limits, Transport};
use crate::{ClusterId, GroupId, Host, NodeId, StateMachine, log, space};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long a member that a restarted node asks may take: it only confirms what is known.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one attempt to decide something may take.
const DECISION_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a node that waits says so.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who this node is, and whether its cluster is still being made.
struct Who {
    cluster: ClusterId,
    node: NodeId,
    is_founding: bool,
}

/// Starts a node.
pub async fn start(environment: Environment, config: Config, host: Arc<dyn Host>) -> Result<Arc<Node>, Error> {
    config.validate().map_err(Error::Config)?;
    let config = Arc::new(config);
    environment.disk.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => Error::InUse,
        _ => disk("locking the data directory")(error),
    })?;
    raft::spool::remove_leftovers(&environment).await.map_err(disk("removing what a transfer left behind"))?;
    let listener = listen(&environment, &config).await?;
    let found = directory::look(&environment, &config).await?;
    let address = own_address(&config, &*listener, found.address())?;
    let who = identify(&environment, &config, found.identity, &address, &*host).await?;
    let machine = Machine::new(&environment, who.node, found.metadata);
    let node = assemble(&environment, &config, host, listener, machine, &who, address).await?;
    let opened = timeout_by_failure(&node, open_metadata(&node, &who)).await;
    opened?;
    let opening = timeout_by_failure(&node, hosting::open_all(&node, who.is_founding)).await?;
    if who.is_founding {
        let member = Identity::Member { cluster: who.cluster, node: who.node };
        identity::write(&environment, member).await.map_err(disk("writing the identity"))?;
    }
    node.spawn("report", steward::report(node.clone()));
    node.spawn("decide", steward::decide(node.clone()));
    node.spawn("hosting", hosting::keep(node.clone(), opening));
    node.spawn("space", space::keep(node.clone()));
    node.spawn("announce", announce(node.clone()));
    Ok(node)
}

/// Runs a step of the start, unless the node has to stop meanwhile.
async fn timeout_by_failure<T>(node: &Node, step: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::select! {
        biased;
        done = step => done,
        reason = node.environment().tasks.failed() => Err(Error::Stopped(reason)),
    }
}

fn disk(action: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Disk { action, source }
}

async fn listen(environment: &Environment, config: &Config) -> Result<Box<dyn Listener>, Error> {
    let address = config.cluster_address.clone();
    environment.network.listen(&address).await.map_err(|source| Error::Listen { address, source })
}

fn own_address(config: &Config, listener: &dyn Listener, last: Option<&NodeAddress>) -> Result<NodeAddress, Error> {
    let cluster = match &config.cluster_advertise {
        Some(advertised) => advertised.clone(),
        None => listener.local_address().map_err(disk("asking for the address listened on"))?,
    };
    let name = last.filter(|_| config.keeps_name).map_or(&config.node_name, |last| &last.name).clone();
    let address = NodeAddress { name, http: config.http_address.clone(), cluster };
    if let Some(last) = last.filter(|last| (&last.http, &last.cluster) != (&address.http, &address.cluster)) {
        tracing::warn!(
            was_http = last.http,
            was_cluster = last.cluster,
            http = address.http,
            cluster = address.cluster,
            "this node had other addresses when it last ran; if that is not meant, start it with --http-addr and \
             --cluster-addr as before"
        );
    }
    Ok(address)
}

/// Finds out who this node is; on a fresh directory that is decided here, and written down before anything else.
async fn identify(
    environment: &Environment,
    config: &Config,
    known: Option<Identity>,
    address: &NodeAddress,
    host: &dyn Host,
) -> Result<Who, Error> {
    let write = |identity| identity::write(environment, identity);
    let entry = match known {
        Some(Identity::Founding { cluster }) => return Ok(Who { cluster, node: NodeId(1), is_founding: true }),
        Some(Identity::Member { cluster, node }) => {
            confirm(environment, config, cluster, node, address).await?;
            return Ok(Who { cluster, node, is_founding: false });
        }
        None if config.join.is_empty() => {
            let cluster = ClusterId(environment.entropy.next_u128());
            write(Identity::Founding { cluster }).await.map_err(disk("writing the identity"))?;
            return Ok(Who { cluster, node: NodeId(1), is_founding: true });
        }
        Some(Identity::Entering { entry }) => entry,
        None => {
            let entry = environment.entropy.next_u128().max(1);
            write(Identity::Entering { entry }).await.map_err(disk("writing the identity"))?;
            entry
        }
    };
    if config.join.is_empty() {
        let reason = "this data directory was about to enter a cluster: say again which member to join";
        return Err(Error::Config(reason.to_owned()));
    }
    let entered = join::enter(environment, &config.join, entry, address.clone(), host).await;
    let (cluster, node) = entered.map_err(Error::Refused)?;
    write(Identity::Member { cluster, node }).await.map_err(disk("writing the identity"))?;
    tracing::info!(%cluster, %node, "entered the cluster");
    Ok(Who { cluster, node, is_founding: false })
}

/// Asks the members to join, where there are any, whether they are of the same cluster, and tells one of them where this
/// node is now. Members that do not answer do not matter.
async fn confirm(
    environment: &Environment,
    config: &Config,
    own: ClusterId,
    id: NodeId,
    node: &NodeAddress,
) -> Result<(), Error> {
    for address in config.join.iter().filter(|address| **address != node.cluster) {
        let announce = Ask::Announce { cluster: own, id, node: node.clone() };
        match join::ask(environment, address, &announce, CONFIRM_TIMEOUT).await {
            Ok((other, _)) if other != own => {
                return Err(Error::OtherCluster { own, other, address: address.clone() });
            }
            Ok((_, Answer::Refused)) => {
                return Err(Error::Refused(format!("node {id} has left cluster {own} and must not come back")));
            }
            Ok((_, Answer::Noted | Answer::Entered(_))) => return Ok(()),
            Ok((_, Answer::NotNow)) => {}
            Err(error) => tracing::debug!(%address, %error, "a member to join did not answer"),
        }
    }
    Ok(())
}

/// Opens log and metadata and starts to listen to the other nodes.
async fn assemble(
    environment: &Environment,
    config: &Arc<Config>,
    host: Arc<dyn Host>,
    listener: Box<dyn Listener>,
    machine: Machine,
    who: &Who,
    address: NodeAddress,
) -> Result<Arc<Node>, Error> {
    let log = crate::log::Log::open(environment, config.log.clone()).await?;
    let machine = Arc::new(machine);
    let metadata = log.group(GroupId::METADATA);
    if machine.durable().position.is_some() && metadata.state().last.is_none() {
        return Err(Error::LogLost);
    }
    if partition::has_lost_store(&metadata, &*machine) {
        return Err(Error::MetadataLost);
    }
    let door = Arc::new(Door::default());
    door.know(&machine);
    let identity = transport::Identity { cluster: who.cluster, node: who.node };
    let transport = Transport::start(environment, identity, listener, door.clone(), door.clone(), Limits::default());
    let context =
        GroupContext { environment: environment.clone(), config: config.clone(), node: who.node, log, transport };
    let node = Arc::new(Node::new(who.cluster, address, context, machine, host));
    door.open(&node);
    Ok(node)
}

/// Opens the metadata group and waits until this node knows its cluster.
async fn open_metadata(node: &Arc<Node>, who: &Who) -> Result<(), Error> {
    let replica = hosting::open(node, GroupId::METADATA, node.machine.clone()).await?;
    node.spawn("metadata", persist(node.clone(), replica.clone()));
    if who.is_founding {
        let initialized = replica.inner.group.initialize().await;
        initialized.map_err(|source| Error::Open { group: GroupId::METADATA, source })?;
        found(node).await?;
    }
    node.host().starting("no member of the cluster has told it what the cluster is yet");
    let mut states = node.machine.watch();
    loop {
        let known = states.wait_for(|state| state.cluster.is_some() && state.nodes.contains_key(&node.id()));
        match timeout(PATIENCE, known).await {
            Ok(Ok(state)) if state.standing(node.id()) == Standing::Left => {
                return Err(Error::Refused(format!("node {} has left the cluster and must not come back", node.id())));
            }
            Ok(_) => return Ok(()),
            Err(_) => tracing::warn!("still waiting for the cluster's metadata from the other nodes"),
        }
    }
}

/// Proposes the cluster itself.
async fn found(node: &Arc<Node>) -> Result<(), Error> {
    let config = node.config();
    let command = Command::Create {
        cluster: node.cluster,
        settings: config.settings.clone(),
        partitions: config.partitions,
        replication_factor: config.replication_factor,
        node: node.address.clone(),
    };
    match decide(node, &command).await {
        Outcome::Done => Ok(()),
        outcome => Err(Error::Refused(format!("the cluster could not be made: {outcome:?}"))),
    }
}

/// Proposes to the metadata group until there is an outcome.
async fn decide(node: &Arc<Node>, command: &Command) -> Outcome {
    loop {
        let deadline = Instant::now() + DECISION_TIMEOUT;
        let appended = node.append(GroupId::METADATA, machine::encode_command(command), deadline).await;
        match appended.map(|appended| machine::decode_outcome(&appended.answer)) {
            Ok(Ok(outcome)) => return outcome,
            Ok(Err(error)) => tracing::warn!(%error, "the metadata group's answer is not understood"),
            Err(error) => {
                node.host().starting(&format!("the metadata group does not decide: {error}"));
                tracing::warn!(%error, "the metadata group does not decide; asking again");
            }
        }
        sleep(PATIENCE / 10).await;
    }
}

/// Writes the metadata down whenever it has changed.
async fn persist(node: Arc<Node>, replica: Replica) {
    loop {
        match node.machine.persist_next().await {
            Ok(()) => replica.durable_moved(),
            Err(error) if log::is_disk_full(&error) => {
                tracing::error!(%error, "the metadata was not written: the disk is full; it is tried again");
                sleep(PATIENCE / 5).await;
            }
            Err(error) => return node.environment().tasks.fail(format!("writing the metadata failed: {error}")),
        }
    }
}

/// Tells the cluster where this node is, if it has moved.
async fn announce(node: Arc<Node>) {
    let known = node.state().nodes.get(&node.id()).map(|known| known.address.clone());
    if known.as_ref() != Some(&node.address) {
        let outcome = decide(&node, &Command::UpdateNode { id: node.id(), node: node.address.clone() }).await;
        tracing::info!(?outcome, "told the cluster where this node is now");
    }
}
