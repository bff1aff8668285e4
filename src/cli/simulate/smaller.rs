//! `--shrink`: from a run that fails to one with as few faults as still fail in the same way.

use super::Arguments;
use super::apart::{self, Workspace};
use super::here;
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output;
use simulation::Report;
use simulation::schedule::{Plan, file};
use std::path::PathBuf;

/// Shrinks a plan that fails; writes the rest to `--save`, or to a file of its own name.
pub async fn run(arguments: &Arguments, plan: &Plan) -> Outcome {
    let workspace = Workspace::new()?;
    let first = apart::run(&workspace, "first", plan, None, arguments).await?;
    let Some(kind) = kind(&first) else {
        return output::print(&format!("{}nothing to shrink: everything held\n", here::line(&first)));
    };
    eprintln!("{}", here::violation(&first));
    let mut shrinking = simulation::Shrinking::new(plan);
    while let Some(candidate) = shrinking.candidate() {
        let report = apart::run(&workspace, "next", &candidate, None, arguments).await?;
        let still_fails = self::kind(&report).as_ref() == Some(&kind);
        eprintln!(
            "{} faults, {} ms of load: {}",
            candidate.steps.len(),
            candidate.load_ms,
            if still_fails { "still fails" } else { "holds" }
        );
        shrinking.learn(candidate, still_fails);
    }
    let smallest = shrinking.smallest();
    let path =
        arguments.save.clone().unwrap_or_else(|| PathBuf::from(format!("{}-{}.jsonl", plan.scenario, plan.seed)));
    here::write(&path, &file::write(smallest))?;
    output::print(&format!(
        "{} of {} faults are left:\n{}",
        smallest.steps.len(),
        plan.steps.len(),
        file::write(smallest)
    ))?;
    let again = format!("hourmark simulate --schedule {} --verbose", super::quoted(&path));
    Err(Failure::new(
        Exit::Failed,
        format!("{} does not hold\nTo see it again: {again}", first.violated.unwrap_or_default()),
    ))
}

/// Letters of a violation's detail that tell one kind from another.
const KIND_CHARS: usize = 40;

/// In which way a run failed: the invariant, and how what was seen begins, without its numbers.
fn kind(report: &Report) -> Option<(String, String)> {
    let words = report.detail.chars().filter(|letter| !letter.is_ascii_digit());
    Some((report.violated.clone()?, words.take(KIND_CHARS).collect()))
}
