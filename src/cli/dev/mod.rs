//! `hourmark dev`: a real cluster of separate node processes in one terminal.
//!
//! Each node is this same binary with `start`. A node's stdin is a pipe from here: when it closes, the node comes to a good
//! end, whether we stop it or are killed ourselves. Nodes are in process groups of their own, so that a Ctrl-C in the
//! terminal reaches only this process, which then stops them in order.

mod banner;
mod child;
mod directory;
mod fleet;

pub use child::Plan;
pub use directory::Directory;
pub use fleet::{Event, Fleet};

use super::failure::{Exit, Failure, Outcome};
use super::output;
use std::path::PathBuf;
use std::time::Duration;

/// How often it is looked whether nodes are left that are not this process's own.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

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
    let plans: Vec<_> = (1..=arguments.nodes).map(|number| plan(arguments, &directory, number)).collect();
    let (outcome, left) = run_in(&directory, &plans).await;
    if left == 0 {
        directory.close();
    } else {
        eprintln!("{left} nodes that were brought back run on, with the data in {}", directory.path().display());
    }
    outcome
}

/// Runs the cluster; says how many nodes are left that are not this process's to stop.
async fn run_in(directory: &Directory, plans: &[Plan]) -> (Outcome, usize) {
    let mut fleet = match Fleet::new(plans) {
        Ok(fleet) => fleet,
        Err(failure) => return (Err(failure), 0),
    };
    let outcome = live(&mut fleet, plans, directory).await;
    fleet.stop().await;
    (outcome, fleet.present(plans).await)
}

fn plan(arguments: &Arguments, directory: &Directory, number: u16) -> Plan {
    Plan {
        is_verbose: arguments.verbose,
        flags: arguments.node_flags.clone(),
        ..Plan::numbered(number, arguments.base_port, directory)
    }
}

async fn live(fleet: &mut Fleet, plans: &[Plan], directory: &Directory) -> Outcome {
    if !fleet.start(plans, directory.is_fresh()).await? {
        return Ok(());
    }
    output::print(&banner::text(plans, directory))?;
    loop {
        let event = tokio::select! {
            event = fleet.event() => Some(event),
            () = tokio::time::sleep(LOOK_INTERVAL), if fleet.running() == 0 => None,
        };
        let dead = match event {
            Some(Event::Signal) => return Ok(()),
            Some(Event::Death(dead)) => Some(fleet.bury(dead)),
            None => None,
        };
        let left = fleet.present(plans).await;
        if let Some(child) = dead {
            eprintln!("{}", banner::death(&child.plan, &child.ended(), left, plans.len()));
            if left > 0 && fleet.running() == 0 {
                eprintln!("{left} nodes that were brought back run on their own; Ctrl-C ends this command, not them");
            }
        }
        if left == 0 {
            return Err(Failure::new(Exit::Failed, "no node is left"));
        }
    }
}
