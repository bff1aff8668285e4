//! A cluster of node processes on this machine: started, watched, stopped.

use super::child::{Child, Plan, Share};
use crate::cli::cluster_view::{self, ClusterView};
use crate::cli::cores;
use crate::cli::failure::{Exit, Failure};
use crate::cli::signals::Signals;
use cluster::environment::{Tasks, ThreadPool};
use futures::future::join_all;
use hourmark::client::{Client, Error};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a node may take to hand over and flush before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the cluster is asked whether it is whole.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How long a node that may have been brought back may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(300);

/// How often the wait for a whole cluster is explained.
const EXPLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// How long leaders may take to be spread over the nodes; they are asked to every two seconds.
const EVEN_MAX: Duration = Duration::from_secs(15);

/// A cluster of node processes.
pub struct Fleet {
    signals: Signals,
    tasks: Tasks,
    children: Vec<Child>,
    client: Client,
}

/// What ends a wait for the cluster.
#[derive(Debug)]
pub enum Event {
    /// The user wants it to end.
    Signal,
    /// The child with this index has ended.
    Death(usize),
}

impl Fleet {
    /// Nothing runs yet. Refuses ports that are in use.
    pub fn new(plans: &[Plan]) -> Result<Fleet, Failure> {
        for plan in plans {
            plan.check_ports()?;
        }
        Ok(Fleet {
            signals: Signals::new()?,
            tasks: Tasks::new(Arc::new(ThreadPool::default())),
            children: Vec::new(),
            client: Client::new(&plans.iter().map(Plan::url).collect::<Vec<_>>())?,
        })
    }

    /// How many nodes have not been buried.
    pub fn running(&self) -> usize {
        self.children.len()
    }

    /// How many of the planned nodes are there: our own, and those that somebody brought back. A node that waits for its
    /// cluster is there too.
    pub async fn present(&self, plans: &[Plan]) -> usize {
        let is_there = plans.iter().map(|plan| async move {
            let is_ours = self.children.iter().any(|child| child.plan.name == plan.name && child.is_running());
            is_ours || answers(plan).await
        });
        join_all(is_there).await.into_iter().filter(|is_there| *is_there).count()
    }

    /// The processes' ids, in the order of their plans.
    pub fn process_ids(&self) -> Vec<u32> {
        self.children.iter().map(Child::process_id).collect()
    }

    /// Takes out a child that has ended.
    pub fn bury(&mut self, dead: usize) -> Child {
        self.children.remove(dead)
    }

    /// Starts the nodes and waits until they are one whole cluster; false if a signal came first.
    pub async fn start(&mut self, plans: &[Plan], is_fresh: bool) -> Result<bool, Failure> {
        let nodes = plans.len();
        Ok(self.start_nodes(plans, is_fresh).await?
            && self.wait_until("whole", Duration::MAX, |view| cluster_view::missing(view, nodes)).await?)
    }

    /// Waits until no node leads much more than another, if that comes soon; false if a signal came first.
    pub async fn become_even(&mut self) -> Result<bool, Failure> {
        self.wait_until("even", EVEN_MAX, cluster_view::uneven).await
    }

    /// Starts the nodes; false if a signal came first. In a fresh directory the first node has to serve before others can
    /// join it; in one that was used before, a majority is needed before any node serves.
    async fn start_nodes(&mut self, plans: &[Plan], is_fresh: bool) -> Result<bool, Failure> {
        let share = Share::of(cores(), plans.len());
        for (index, plan) in plans.iter().enumerate() {
            self.children.push(Child::spawn(plan, share, &self.tasks)?);
            if index > 0 || !is_fresh {
                continue;
            }
            let mut ready = self.children[0].ready();
            let event = tokio::select! {
                Ok(_) = ready.wait_for(|is_ready| *is_ready) => continue,
                event = self.event() => event,
            };
            return self.early_end(event);
        }
        Ok(true)
    }

    /// Waits until nothing keeps the cluster from being what is wanted, `patience` at most; false if a signal came first.
    async fn wait_until(
        &mut self,
        wanted: &str,
        patience: Duration,
        missing: impl Fn(&ClusterView) -> Option<String>,
    ) -> Result<bool, Failure> {
        let begun = Instant::now();
        let mut explain_after = EXPLAIN_INTERVAL;
        loop {
            let view = tokio::select! {
                view = cluster_view::ask(&self.client, Duration::from_secs(2)) => view,
                event = next_event(&mut self.signals, &self.children) => return self.early_end(event),
            };
            let missing = match view {
                Ok(view) => match missing(&view) {
                    None => return Ok(true),
                    Some(missing) => missing,
                },
                Err(error) => error.to_string(),
            };
            if begun.elapsed() >= patience {
                return Ok(true);
            }
            if begun.elapsed() >= explain_after {
                eprintln!("still waiting for the cluster to become {wanted}: {missing}");
                explain_after += EXPLAIN_INTERVAL;
            }
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                event = self.event() => return self.early_end(event),
            }
        }
    }

    /// What a signal or a death means before the cluster is whole.
    fn early_end(&self, event: Event) -> Result<bool, Failure> {
        let Event::Death(dead) = event else { return Ok(false) };
        let child = &self.children[dead];
        let exit = if child.ended().code() == Some(2) { Exit::Usage } else { Exit::Failed };
        let name = &child.plan.name;
        Err(Failure::new(
            exit,
            format!("{name} ended before the cluster was whole ({}); see its lines above", child.ended()),
        ))
    }

    /// Waits for a signal or the death of a node.
    pub async fn event(&mut self) -> Event {
        next_event(&mut self.signals, &self.children).await
    }

    /// Stops all nodes: asks them, and kills those that take too long or when a second signal comes.
    pub async fn stop(&mut self) {
        self.children.retain(Child::is_running);
        if self.children.is_empty() {
            return;
        }
        eprintln!("stopping {} nodes; a second Ctrl-C stops them at once", self.children.len());
        for child in &mut self.children {
            child.ask_to_stop();
        }
        let all_ended = join_all(self.children.iter().map(Child::wait));
        tokio::select! {
            _ = all_ended => return,
            () = tokio::time::sleep(STOP_TIMEOUT) => eprintln!("nodes still run after {} s: killing them", STOP_TIMEOUT.as_secs()),
            () = self.signals.next() => {}
        }
        self.kill().await;
    }

    /// Ends all nodes at once, for a cluster whose data nobody wants any more.
    pub async fn kill(&mut self) {
        for child in &mut self.children {
            child.kill();
        }
        join_all(self.children.iter().map(Child::wait)).await;
    }
}

/// Whether anybody answers where this node would serve.
async fn answers(plan: &Plan) -> bool {
    let Ok(client) = Client::new(&[plan.url()]) else { return false };
    match cluster_view::ask(&client, ANSWER_TIMEOUT).await {
        Err(Error::Unavailable { was_reached, .. }) => was_reached,
        _ => true,
    }
}

async fn next_event(signals: &mut Signals, children: &[Child]) -> Event {
    if children.is_empty() {
        signals.next().await;
        return Event::Signal;
    }
    let deaths = children.iter().enumerate().map(|(index, child)| {
        Box::pin(async move {
            child.wait().await;
            index
        })
    });
    tokio::select! {
        () = signals.next() => Event::Signal,
        (dead, _, _) = futures::future::select_all(deaths) => Event::Death(dead),
    }
}
