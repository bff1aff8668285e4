//! One run, in this process.

use super::{Arguments, command_again, node};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::{self, Format};
use simulation::schedule::{Plan, file};
use simulation::{Report, Watching};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::rc::Rc;

/// Runs a plan and tells what came of it.
pub fn run(arguments: &Arguments, plan: &Plan) -> Outcome {
    if let Some(path) = &arguments.save {
        write(path, &file::write(plan))?;
    }
    let sink = arguments.trace.as_deref().map(create).transpose()?;
    let watching = Watching { is_verbose: arguments.verbose, keeps_timeline: arguments.html.is_some(), sink };
    let (report, marks) = simulation::run(plan, &(Rc::new(node::start) as simulation::StartNode), watching);
    if let Some(path) = &arguments.html {
        write(path, &simulation::page(plan, &report, &marks))?;
    }
    if arguments.output.format() == Format::Json {
        let line = serde_json::to_string(&report).expect("reports hold nothing that JSON cannot");
        output::print(&(line + "\n"))?;
        return told(arguments, plan, &report);
    }
    output::print(&line(&report))?;
    if !report.held() && !arguments.verbose {
        eprintln!("{}", report.last_lines.join("\n"));
    }
    told(arguments, plan, &report)
}

/// A failure that says how to see it again, where something did not hold.
fn told(arguments: &Arguments, plan: &Plan, report: &Report) -> Outcome {
    if report.held() {
        return Ok(());
    }
    let message = format!("{}\nTo see it again: {}", violation(report), command_again(arguments, plan));
    Err(Failure::new(Exit::Failed, message))
}

/// A run in a line.
pub fn line(report: &Report) -> String {
    let Report { scenario, seed, trace, records, simulated_s, acked_events, retried, faults, .. } = report;
    let outcome = match &report.violated {
        None => "held".to_owned(),
        Some(invariant) => format!("BROKEN {invariant}"),
    };
    format!(
        "{scenario} {seed}: {outcome}; {faults} faults, {simulated_s:.1} s simulated, {acked_events} events acked, {retried} \
         requests sent again, trace {trace} of {records} records\n"
    )
}

/// What did not hold.
pub fn violation(report: &Report) -> String {
    let invariant = report.violated.as_deref().unwrap_or("nothing");
    format!("{} {}: {invariant} does not hold: {}", report.scenario, report.seed, report.detail)
}

/// Writes a file that was asked for.
pub fn write(path: &Path, text: &str) -> Outcome {
    std::fs::write(path, text).map_err(|error| Failure::io(format!("writing {}", path.display()), &error))
}

fn create(path: &Path) -> Result<Box<dyn Write>, Failure> {
    let file =
        std::fs::File::create(path).map_err(|error| Failure::io(format!("creating {}", path.display()), &error))?;
    Ok(Box::new(BufWriter::new(file)))
}
