//! `hourmark dev`: a real cluster of separate node processes in one terminal.
//!
//! Each node is this same binary with `start`. A node's stdin is a pipe from here: when it closes, the node comes to a good
//! end, whether we stop it or are killed ourselves. Nodes are in process groups of their own, so that a Ctrl-C in the
//! terminal reaches only this process, which then stops them in order.

mod banner;
mod child;
mod directory;

use super::cluster_view;
use super::failure::{Exit, Failure, Outcome};
use super::output;
use super::signals::Signals;
use child::{Child, Plan};
use cluster::environment::{Tasks, ThreadPool};
use directory::Directory;
use futures::future::join_all;
use hourmark::client::Client;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a node may take to hand over and flush before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the cluster is asked whether it is whole.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How often the wait for a whole cluster is explained.
const EXPLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Run a whole cluster on this machine, to try things out
///
/// Starts separate node processes, waits until they have found each other, and prints where they are and what to type
/// next. Ctrl-C stops all of them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  hourmark dev                        three nodes, data thrown away at the end
  hourmark dev --data-dir cluster     data kept: the next start goes on where this one ended
  hourmark dev --nodes 1
  hourmark dev -- --max-future off    settings of `hourmark start` for every node

Node i serves HTTP on port 3600 + 10·(i-1), other nodes on the port after it. To see what a failure
does, kill a node's process: the cluster goes on, and the command to bring it back is printed.")]
pub struct Arguments {
    /// How many nodes
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Keep the data here [default: a temporary directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// HTTP port of the first node
    #[arg(long, value_name = "PORT", default_value_t = 3600, value_parser = clap::value_parser!(u16).range(1024..=65000))]
    base_port: u16,
    /// Show all the nodes' log lines, not only warnings
    #[arg(short, long)]
    verbose: bool,
    /// Further flags of `hourmark start`, for every node
    #[arg(last = true, value_name = "FLAGS")]
    node_flags: Vec<String>,
}

/// Runs the cluster until it is told to stop.
pub async fn run(arguments: &Arguments) -> Outcome {
    let directory = Directory::open(arguments.data_dir.as_deref(), arguments.nodes)?;
    let outcome = run_in(&directory, arguments).await;
    directory.close();
    outcome
}

async fn run_in(directory: &Directory, arguments: &Arguments) -> Outcome {
    let plans: Vec<_> = (1..=arguments.nodes).map(|number| plan(arguments, directory, number)).collect();
    for plan in &plans {
        plan.check_ports()?;
    }
    let mut dev = Dev {
        signals: Signals::new()?,
        tasks: Tasks::new(Arc::new(ThreadPool)),
        children: Vec::new(),
        client: Client::new(&plans.iter().map(Plan::url).collect::<Vec<_>>())?,
    };
    let outcome = dev.live(&plans, directory).await;
    dev.stop().await;
    outcome
}

fn plan(arguments: &Arguments, directory: &Directory, number: u16) -> Plan {
    let http_port = arguments.base_port + 10 * (number - 1);
    Plan {
        name: format!("node-{number}"),
        http_port,
        join_port: (number > 1).then_some(arguments.base_port + 1),
        data_dir: directory.of_node(number),
        flags: arguments.node_flags.clone(),
        is_verbose: arguments.verbose,
    }
}

/// The running cluster.
struct Dev {
    signals: Signals,
    tasks: Tasks,
    children: Vec<Child>,
    client: Client,
}

/// What ends a wait for the cluster.
enum Event {
    Signal,
    /// The child with this index has ended.
    Death(usize),
}

impl Dev {
    async fn live(&mut self, plans: &[Plan], directory: &Directory) -> Outcome {
        if !self.start(plans, directory).await? || !self.become_whole().await? {
            return Ok(());
        }
        output::print(&banner::text(plans, directory))?;
        loop {
            match self.event().await {
                Event::Signal => return Ok(()),
                Event::Death(dead) => {
                    let child = self.children.remove(dead);
                    eprintln!("{}", banner::death(&child.plan, &child.ended(), self.children.len(), plans.len()));
                    if self.children.is_empty() {
                        return Err(Failure::new(Exit::Failed, "no node is left"));
                    }
                }
            }
        }
    }

    /// Starts the nodes; false if a signal came first. In a fresh directory the first node has to serve before others can
    /// join it; in one that was used before, a majority is needed before any node serves.
    async fn start(&mut self, plans: &[Plan], directory: &Directory) -> Result<bool, Failure> {
        for (index, plan) in plans.iter().enumerate() {
            self.children.push(Child::spawn(plan, &self.tasks)?);
            if index > 0 || !directory.is_fresh() {
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

    /// Waits until the cluster is whole; false if a signal came first.
    async fn become_whole(&mut self) -> Result<bool, Failure> {
        let mut explain_at = Instant::now() + EXPLAIN_INTERVAL;
        loop {
            let view = tokio::select! {
                view = cluster_view::ask(&self.client, Duration::from_secs(2)) => view,
                event = next_event(&mut self.signals, &self.children) => return self.early_end(event),
            };
            let missing = match view {
                Ok(view) => match cluster_view::missing(&view, self.children.len()) {
                    None => return Ok(true),
                    Some(missing) => missing,
                },
                Err(error) => error.to_string(),
            };
            if Instant::now() >= explain_at {
                eprintln!("still waiting for the cluster to become whole: {missing}");
                explain_at += EXPLAIN_INTERVAL;
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

    async fn event(&mut self) -> Event {
        next_event(&mut self.signals, &self.children).await
    }

    /// Stops all nodes: asks them, and kills those that take too long or when a second signal comes.
    async fn stop(&mut self) {
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
        for child in &mut self.children {
            child.kill();
        }
        join_all(self.children.iter().map(Child::wait)).await;
    }
}

async fn next_event(signals: &mut Signals, children: &[Child]) -> Event {
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
