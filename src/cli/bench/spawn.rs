//! A cluster of the bench's own: separate processes on this machine, gone when the bench is done.

use crate::cli::dev::{Directory, Event, Fleet, Plan};
use crate::cli::failure::{Exit, Failure};
use std::path::PathBuf;

/// How to start it.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct Spawn {
    /// Start so many nodes as processes of their own, and stop them at the end, instead of using --server
    #[arg(long, value_name = "NODES", value_parser = clap::value_parser!(u16).range(1..=9))]
    pub spawn: Option<u16>,
    /// HTTP port of the first node that is started; the others follow 10 apart
    #[arg(long, value_name = "PORT", default_value_t = 3700, value_parser = clap::value_parser!(u16).range(1024..=65000))]
    pub base_port: u16,
    /// Where the nodes that are started keep their data [default: a temporary directory, removed at the end]
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub data_dir: Option<PathBuf>,
    /// Further flags of `hourmark start` for the nodes that are started
    #[arg(last = true, value_name = "FLAGS")]
    pub node_flags: Vec<String>,
}

/// What is being measured: where it serves, and its processes if they are ours.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// URLs of the nodes.
    pub servers: Vec<String>,
    /// Ids of their processes, in the same order; none if somebody else runs them.
    pub processes: Vec<u32>,
    /// Where they keep their data, if they are ours.
    pub directory: Option<PathBuf>,
}

impl Spawn {
    /// Runs `work` on a new cluster of `nodes` nodes. A signal or the death of a node ends it.
    pub async fn with<T, F>(&self, nodes: u16, work: impl FnOnce(Cluster) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let directory = Directory::open(self.data_dir.as_deref(), nodes)?;
        let outcome = self.within(&directory, nodes, work).await;
        directory.close();
        outcome
    }

    async fn within<T, F>(
        &self,
        directory: &Directory,
        nodes: u16,
        work: impl FnOnce(Cluster) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let plan =
            |number| Plan { flags: self.node_flags.clone(), ..Plan::numbered(number, self.base_port, directory) };
        let plans: Vec<Plan> = (1..=nodes).map(plan).collect();
        let mut fleet = Fleet::new(&plans)?;
        // Whoever measures does not want leaders to move meanwhile.
        let is_ready = match fleet.start(&plans, directory.is_fresh()).await {
            Ok(true) => fleet.become_even().await,
            not_ready => not_ready,
        };
        let outcome = match is_ready {
            Ok(true) => {
                let cluster = Cluster {
                    servers: plans.iter().map(Plan::url).collect(),
                    processes: fleet.process_ids(),
                    directory: Some(directory.path().to_owned()),
                };
                tokio::select! {
                    outcome = work(cluster) => outcome,
                    event = fleet.event() => Err(ended(&event, &plans)),
                }
            }
            Ok(false) => Err(ended(&Event::Signal, &plans)),
            Err(failure) => Err(failure),
        };
        if directory.is_temporary() {
            fleet.kill().await;
        } else {
            fleet.stop().await;
        }
        outcome
    }
}

fn ended(event: &Event, plans: &[Plan]) -> Failure {
    let message = match event {
        Event::Signal => "interrupted".to_owned(),
        Event::Death(dead) => format!("{} ended while it was measured; see its lines above", plans[*dead].name),
    };
    Failure::new(Exit::Failed, message)
}
