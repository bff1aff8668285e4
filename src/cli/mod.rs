//! The whole command line in one screen; one subcommand, one file.
//!
//! Data goes to stdout, all else to stderr. Exit codes: see [`failure::Exit`].

mod bench;
mod body_format;
mod cluster_view;
mod completions;
mod connection;
mod dev;
mod failure;
mod nodes;
mod output;
mod query;
mod send;
mod signals;
#[cfg(feature = "simulation")]
mod simulate;
mod start;
mod status;
mod verify;

use clap::{Parser, Subcommand};
use failure::{Failure, Outcome};
use std::process::ExitCode;
use tokio::runtime::Builder;

/// Response-time events in; exact counts, averages, extremes and quantiles per app and hour out
///
/// Services send events {app_id, timestamp, response_time_ms} to any node. Any node answers, for every app and every UTC
/// hour, with count, average, minimum, maximum, median and any other quantile: while the hour runs, after it ended, and
/// after late events. Every acked event is on disk on a majority of its replicas and counts exactly once.
#[derive(Debug, Parser)]
#[command(name = "hourmark", version, after_help = EXAMPLES, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  hourmark dev                            a three-node cluster on this machine, to try things out
  hourmark send events.ndjson             send events, with safe retries
  hourmark query checkout --from 2026-11-22
  hourmark status

Exit codes: 0 done, 1 the work failed, 2 wrong usage or configuration, 3 not found, 4 unavailable";

#[derive(Debug, Subcommand)]
enum Command {
    Start(start::Arguments),
    Dev(dev::Arguments),
    Send(send::Arguments),
    Query(query::Arguments),
    Status(status::Arguments),
    Verify(verify::Arguments),
    Drain(nodes::DrainArguments),
    Remove(nodes::RemoveArguments),
    Bench(Box<bench::Arguments>),
    #[cfg(feature = "simulation")]
    Simulate(simulate::Arguments),
    Completions(completions::Arguments),
}

/// How many cores this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Does what the process's arguments say.
pub fn run() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Start(arguments) => start::run(&arguments),
        Command::Dev(arguments) => block_on(dev::run(&arguments)),
        Command::Send(arguments) => block_on(send::run(&arguments)),
        Command::Query(arguments) => block_on(query::run(&arguments)),
        // One task drives all connections: on the thread that waits for them, no other has to be woken.
        Command::Bench(arguments) => block_on_runtime(&mut Builder::new_current_thread(), bench::run(&arguments)),
        Command::Status(arguments) => block_on(status::run(&arguments)),
        Command::Verify(arguments) => block_on(verify::run(&arguments)),
        Command::Drain(arguments) => block_on(nodes::drain(&arguments)),
        Command::Remove(arguments) => block_on(nodes::remove(&arguments)),
        #[cfg(feature = "simulation")]
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Runs a client's work. What still blocks when it is done, such as a read from a terminal, is left behind.
fn block_on(work: impl Future<Output = Outcome>) -> Outcome {
    block_on_runtime(Builder::new_multi_thread().worker_threads(2), work)
}

fn block_on_runtime(builder: &mut Builder, work: impl Future<Output = Outcome>) -> Outcome {
    let runtime = builder.enable_all().build().map_err(|error| Failure::io("starting the runtime", &error))?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
