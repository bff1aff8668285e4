//! `hourmark simulate`: whole clusters in a simulated world, decided by one number.
//!
//! A run needs a process of its own to give the trace of its seed (tokio numbers its tasks per process), so several runs are
//! this same command started several times.

mod apart;
mod campaign;
mod determinism;
mod here;
mod node;
mod seeds;
mod smaller;

use super::failure::{Exit, Failure, Outcome};
use super::output::{self, Format, Output, Table};
use seeds::Seeds;
use simulation::scenarios::{self, SCENARIOS};
use simulation::schedule::{Plan, file};
use std::path::{Path, PathBuf};

/// Runs of one campaign at most: their plans are held in memory.
const RUNS_MAX: usize = 100_000;

/// Run clusters in a simulated world
///
/// Runs nodes of this very program on a simulated network, disks and clocks, with clients, and strikes them with faults; then
/// mends everything. All the while it holds what clients were told, and what the nodes say of their logs, against what must
/// hold. The seed decides everything: the same seed gives the same run, byte for byte. Exit code 1: something did not hold;
/// the command to see it again is printed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  hourmark simulate --seed 7                                  one run
  hourmark simulate --runs 200 --jobs 2                       many, each with faults of its own
  hourmark simulate --list                                    what scenarios there are
  hourmark simulate --scenario pause-leader --seed 1..20
  hourmark simulate --seed 7 --html run.html                  the run as a picture
  hourmark simulate --seed 7 --save faults.jsonl              its faults as a file, to be edited
  hourmark simulate --schedule faults.jsonl --verbose         and run again
  hourmark simulate --seed 7 --shrink                         as few faults as still fail")]
pub struct Arguments {
    /// Decides everything about a run; `A..B` runs all from A to B
    #[arg(long, value_name = "N|A..B", default_value = "1")]
    seed: Seeds,
    /// Which kind of run, see --list; `all` runs each of them
    #[arg(long, value_name = "NAME", default_value = SCENARIOS[0].name, value_parser = scenario, conflicts_with = "schedule")]
    scenario: String,
    /// Run what a file says instead; --save writes one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "runs"])]
    schedule: Option<PathBuf>,
    /// How many seeds, from --seed on
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// How many runs at the same time [default: one a core]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=256))]
    jobs: Option<u64>,
    /// How many nodes, instead of as many as the scenario has
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=7))]
    nodes: Option<u64>,
    /// Show all scenarios, what must hold, and what situations are counted
    #[arg(long)]
    list: bool,
    /// Leave out faults as long as the run still fails; writes the rest to a file
    #[arg(long, conflicts_with_all = ["html", "trace", "check_determinism"])]
    shrink: bool,
    /// Run each seed twice and compare the traces
    #[arg(long, conflicts_with_all = ["html", "trace", "save"])]
    check_determinism: bool,
    /// Write the run's world and faults to a file
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Write the run as a page for a browser
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write everything that was recorded to a file
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print every step to stderr
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    output: Output,
}

fn scenario(name: &str) -> Result<String, String> {
    if name == "all" || scenarios::find(name).is_some() {
        return Ok(name.to_owned());
    }
    let known: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    Err(format!("there are: all, {}", known.join(", ")))
}

/// Does what was asked.
pub fn run(arguments: &Arguments) -> Outcome {
    if arguments.list {
        return list(arguments.output.format());
    }
    if arguments.runs > 1 && arguments.seed.is_range() {
        return Err(Failure::new(Exit::Usage, "--runs counts from one --seed on: give one seed, or the range alone"));
    }
    let plans = plans(arguments)?;
    let single = match &plans[..] {
        [single] => Some(single),
        _ => None,
    };
    if single.is_none() && (arguments.html.is_some() || arguments.save.is_some() || arguments.trace.is_some()) {
        return Err(Failure::new(Exit::Usage, "--html, --save and --trace are for one run: give one --seed"));
    }
    match single {
        Some(plan) if arguments.shrink => super::block_on(smaller::run(arguments, plan)),
        Some(plan) if !arguments.check_determinism => here::run(arguments, plan),
        _ if arguments.shrink => Err(Failure::new(Exit::Usage, "--shrink is for one run: give one --seed")),
        _ => super::block_on(campaign::run(arguments, plans)),
    }
}

/// What is to be run.
fn plans(arguments: &Arguments) -> Result<Vec<Plan>, Failure> {
    let mut plans = Vec::new();
    if let Some(path) = &arguments.schedule {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::io(format!("reading --schedule {}", path.display()), &error))?;
        let plan = file::read(&text);
        plans.push(plan.map_err(|error| Failure::new(Exit::Usage, format!("--schedule {}: {error}", path.display())))?);
    } else {
        let chosen =
            SCENARIOS.iter().filter(|scenario| arguments.scenario == "all" || arguments.scenario == scenario.name);
        for scenario in chosen {
            plans.extend(arguments.seed.all(arguments.runs).take(RUNS_MAX + 1).map(scenario.plan));
            if plans.len() > RUNS_MAX {
                return Err(Failure::new(
                    Exit::Usage,
                    format!("one campaign has {RUNS_MAX} runs at most: give fewer seeds"),
                ));
            }
        }
    }
    for plan in &mut plans {
        plan.nodes = arguments.nodes.unwrap_or(plan.nodes);
        plan.validate().map_err(|error| Failure::new(Exit::Usage, error))?;
    }
    Ok(plans)
}

/// The command that runs a plan again.
fn command_again(arguments: &Arguments, plan: &Plan) -> String {
    let nodes = arguments.nodes.map(|nodes| format!(" --nodes {nodes}")).unwrap_or_default();
    // Two runs side by side would mix their lines.
    let how = if arguments.check_determinism { "--check-determinism" } else { "--verbose" };
    let planted = std::env::var("HOURMARK_PLANT").ok().filter(|_| cfg!(feature = "planted-bugs"));
    let planted = planted.map(|bug| format!("HOURMARK_PLANT={bug} ")).unwrap_or_default();
    match &arguments.schedule {
        Some(path) => format!("{planted}hourmark simulate --schedule {}{nodes} {how}", quoted(path)),
        None => format!("{planted}hourmark simulate --scenario {} --seed {}{nodes} {how}", plan.scenario, plan.seed),
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+:@%".contains(letter);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn list(format: Format) -> Outcome {
    let mut table = Table::new(["kind", "name", "about"]);
    let mut row =
        |kind: &str, name: &str, about: &str| table.rows.push([kind, name, about].map(str::to_owned).to_vec());
    SCENARIOS.iter().for_each(|scenario| row("scenario", scenario.name, scenario.about));
    simulation::INVARIANTS.iter().for_each(|(name, source)| row("invariant", name, source));
    simulation::coverage::SITUATIONS.iter().for_each(|situation| row("situation", situation.name, situation.about));
    match format {
        Format::Table => output::print(&table.to_text()),
        Format::Csv => output::print(&table.to_csv()),
        Format::Json => output::print(&output::json(&as_objects(&table))),
    }
}

fn as_objects(table: &Table) -> Vec<serde_json::Value> {
    let object = |row: &Vec<String>| table.header.iter().cloned().zip(row.iter().cloned().map(Into::into)).collect();
    table.rows.iter().map(object).map(serde_json::Value::Object).collect()
}
