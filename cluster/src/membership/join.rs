//! How a node enters a cluster, and how a node that has moved says so.
//!
//! A node that wants to enter draws an entry number, writes it down, and asks any member. The member proposes it to the
//! metadata group; the answer is the node's id, for this entry number always the same one. So neither a lost answer nor a
//! crash of either side leaves a node behind that does not exist.

use super::command::{Command, NodeAddress, Outcome};
use crate::environment::Environment;
use crate::transport::{CallError, Request, call_stranger};
use crate::{ClusterId, GroupId, Host, NodeId, message, raft};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long one member may take to answer: an election may be under way there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The first and the longest wait before the members are asked again.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// A node wants to enter.
    Enter { entry: u128, node: NodeAddress },
    /// A member says where it is now.
    Announce { cluster: ClusterId, id: NodeId, node: NodeAddress },
}

/// What a member answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The node is in.
    Entered(NodeId),
    /// The address is noted.
    Noted,
    /// The cluster cannot decide now: ask again.
    NotNow,
    /// The cluster has decided against it.
    Refused,
}

impl Ask {
    /// What has to be proposed to the metadata group of `cluster`, if anything.
    pub fn command(self, cluster: ClusterId) -> Option<Command> {
        match self {
            Ask::Enter { entry, node } => Some(Command::AddNode { entry, node }),
            Ask::Announce { cluster: own, id, node } => (own == cluster).then_some(Command::UpdateNode { id, node }),
        }
    }
}

impl Answer {
    /// The answer that an outcome means.
    pub fn of(outcome: Outcome) -> Answer {
        match outcome {
            Outcome::Node(id) => Answer::Entered(id),
            Outcome::Done => Answer::Noted,
            Outcome::Refused => Answer::Refused,
        }
    }
}

/// Asks one member.
pub async fn ask(
    environment: &Environment,
    address: &str,
    ask: &Ask,
    timeout: Duration,
) -> Result<(ClusterId, Answer), String> {
    let header = raft::encode(ask);
    let request = Request { kind: message::JOIN, group: GroupId::METADATA, header, body: Vec::new() };
    let answered = call_stranger(environment, address, request, Instant::now() + timeout).await;
    let (identity, response) = answered.map_err(|error: CallError| error.to_string())?;
    let answer: Answer = raft::decode(&response.header).map_err(|error| error.to_string())?;
    Ok((identity.cluster, answer))
}

/// Enters the cluster of the members at `addresses`, asking them in turn until one lets the node in. An error says that
/// the cluster refuses.
pub async fn enter(
    environment: &Environment,
    addresses: &[String],
    entry: u128,
    node: NodeAddress,
    host: &dyn Host,
) -> Result<(ClusterId, NodeId), String> {
    let question = Ask::Enter { entry, node };
    let mut wait = RETRY_MIN;
    loop {
        for address in addresses {
            match ask(environment, address, &question, ANSWER_TIMEOUT).await {
                Ok((cluster, Answer::Entered(id))) => return Ok((cluster, id)),
                Ok((cluster, Answer::Refused)) => {
                    return Err(format!("cluster {cluster} at {address} does not let this node in"));
                }
                Ok(_) => {
                    host.starting(&format!("the cluster of {address} cannot let this node in yet"));
                    tracing::warn!(%address, "the cluster cannot let this node in yet; asking again");
                }
                Err(error) => {
                    host.starting(&format!("no answer from {address}, a member to join: {error}"));
                    tracing::warn!(%address, %error, "no answer from the member to join; asking again");
                }
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}
