//! `hourmark simulate`: whole clusters in a simulated world, decided by one number.
//!
//! A run needs a process of its own to give the trace of its seed (tokio numbers its tasks per process), so several runs are
//! this same command started several times.

use super::failure::{Exit, Failure, Outcome};
use super::output;
use futures::future::LocalBoxFuture;
use hourmark::config::Config;
use hourmark::node;
use hourmark::rollup::Engine;
use simulation::{NodeStart, Options, SCENARIOS, Scenario};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

/// Run clusters in a simulated world
///
/// Runs nodes of this very program on a simulated network, disk and clock, with clients, splits and power cuts, all decided by
/// the seed; then heals everything and checks that each acked event is counted exactly once. The same seed gives the same
/// trace, byte for byte. Exit code 1: something did not hold; the command to see it again is printed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  hourmark simulate --seed 7
  hourmark simulate --seed 1 --runs 20 --check-determinism    seeds 1 to 20, each twice
  hourmark simulate --seed 7 --verbose                        every step on stderr")]
pub struct Arguments {
    /// Decides everything about a run
    #[arg(long, value_name = "NUMBER")]
    seed: u64,
    /// Which kind of faults
    #[arg(long, value_name = "NAME", value_parser = scenario, default_value = SCENARIOS[0].name)]
    scenario: Scenario,
    /// How many seeds, from --seed on
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// How many nodes
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=5))]
    nodes: u64,
    /// Run each seed twice and compare the traces
    #[arg(long)]
    check_determinism: bool,
    /// Print every step to stderr
    #[arg(short, long)]
    verbose: bool,
}

fn scenario(name: &str) -> Result<Scenario, String> {
    let known =
        || SCENARIOS.iter().map(|scenario| format!("\n  {}: {}", scenario.name, scenario.about)).collect::<String>();
    SCENARIOS.iter().find(|scenario| scenario.name == name).copied().ok_or_else(|| format!("there are:{}", known()))
}

/// Runs one seed here, or several in processes of their own.
pub fn run(arguments: &Arguments) -> Outcome {
    if arguments.runs == 1 && !arguments.check_determinism { run_here(arguments) } else { run_each(arguments) }
}

fn run_here(arguments: &Arguments) -> Outcome {
    let Arguments { seed, scenario, nodes, verbose, .. } = arguments;
    let options = Options { seed: *seed, scenario: *scenario, nodes: *nodes, is_verbose: *verbose };
    match simulation::run(&options, &(Rc::new(start_node) as simulation::StartNode)) {
        Ok(outcome) => output::print(&format!(
            "seed {seed} {}: held; trace {:016x} of {} records, {:.1} s simulated, {} events acked, {} requests sent again\n",
            scenario.name,
            outcome.trace.hash,
            outcome.trace.events,
            outcome.simulated.as_secs_f64(),
            outcome.acked_events,
            outcome.retried
        )),
        Err(failure) => {
            output::print(&format!(
                "seed {seed} {}: broken; trace {:016x} of {} records\n",
                scenario.name, failure.trace.hash, failure.trace.events
            ))?;
            if !verbose {
                eprintln!("{}", failure.last_lines.join("\n"));
            }
            let again =
                format!("hourmark simulate --seed {seed} --scenario {} --nodes {nodes} --verbose", scenario.name);
            Err(Failure::new(Exit::Failed, format!("seed {seed}: {}\nTo see it again: {again}", failure.reason)))
        }
    }
}

/// A node of the product. Small files and frequent write-outs, so that a short run meets what takes production hours.
fn start_node(start: NodeStart) -> LocalBoxFuture<'static, Result<(), String>> {
    let config = Config {
        data_dir: ".".into(),
        http_addr: start.http_address,
        cluster_addr: start.cluster_address,
        join: start.join,
        node_name: start.name,
        segment_bytes: 256 << 10,
        log_bytes_max: 2 << 20,
        write_out_interval: Duration::from_secs(5),
        ..Config::default()
    };
    Box::pin(async move {
        let ended = node::run(config, start.environment, Engine::Journal, std::future::pending(), |_| {}).await;
        ended.map_err(|error| error.to_string())
    })
}

fn run_each(arguments: &Arguments) -> Outcome {
    let mut broken = Vec::new();
    for seed in (0..arguments.runs).map(|run| arguments.seed.wrapping_add(run)) {
        let (line, mut held) = run_apart(arguments, seed)?;
        output::print(&line)?;
        if arguments.check_determinism {
            let (again, _) = run_apart(arguments, seed)?;
            if again != line {
                eprint!("seed {seed} gave another trace the second time:\n  {line}  {again}");
                held = false;
            }
        }
        if !held {
            broken.push(seed.to_string());
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failed,
        format!("{} of {} seeds failed: {}", broken.len(), arguments.runs, broken.join(", ")),
    ))
}

/// Runs one seed in a process of its own: its line on stdout, and whether everything held.
fn run_apart(arguments: &Arguments, seed: u64) -> Result<(String, bool), Failure> {
    let failed = |error| Failure::io(format!("running seed {seed}"), &error);
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["simulate", "--seed", &seed.to_string(), "--scenario", arguments.scenario.name]);
    command.args(["--nodes", &arguments.nodes.to_string()]);
    if arguments.verbose {
        command.arg("--verbose");
    }
    let ran = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(failed)?;
    Ok((String::from_utf8_lossy(&ran.stdout).into_owned(), ran.status.success()))
}
