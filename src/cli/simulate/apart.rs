//! One run, in a process of its own.

use super::Arguments;
use crate::cli::failure::Failure;
use simulation::Report;
use simulation::schedule::{Plan, file};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// How long a run may take in real time: one that stands still in simulated time has failed too.
const RUN_WITHIN: Duration = Duration::from_secs(900);

/// A directory for the files of one campaign, removed in the end.
pub struct Workspace(PathBuf);

impl Workspace {
    /// Makes one.
    pub fn new() -> Result<Workspace, Failure> {
        let path = std::env::temp_dir().join(format!("hourmark-simulate-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| Failure::io(format!("making {}", path.display()), &error))?;
        Ok(Workspace(path))
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // What is left behind lies in the directory for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a plan and returns its report. `name` tells the files of runs apart; `trace`: where to write all that was recorded.
pub async fn run(
    workspace: &Workspace,
    name: &str,
    plan: &Plan,
    trace: Option<&Path>,
    arguments: &Arguments,
) -> Result<Report, Failure> {
    let failed = |error| Failure::io(format!("running {} {}", plan.scenario, plan.seed), &error);
    let schedule = workspace.file(&format!("{name}.jsonl"));
    super::here::write(&schedule, &file::write(plan))?;
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["simulate", "--output", "json", "--schedule"]).arg(&schedule);
    if let Some(trace) = trace {
        command.arg("--trace").arg(trace);
    }
    // With --verbose, each run prints its steps, and the report is what it ends with.
    if arguments.verbose {
        command.arg("--verbose").stderr(Stdio::inherit());
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    let report = match tokio::time::timeout(RUN_WITHIN, command.output()).await {
        Ok(ran) => {
            let ran = ran.map_err(failed)?;
            serde_json::from_slice(&ran.stdout)
                .unwrap_or_else(|_| lost(plan, &format!("the run ended: {}: {}", ran.status, tail(&ran.stderr))))
        }
        Err(_) => lost(plan, "the run stands still"),
    };
    // The directory goes in the end anyway.
    let _ = std::fs::remove_file(&schedule);
    Ok(report)
}

/// The end of what a run had to say.
fn tail(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("; ")
}

/// The report of a run that could not make one.
fn lost(plan: &Plan, detail: &str) -> Report {
    Report {
        scenario: plan.scenario.clone(),
        seed: plan.seed,
        violated: Some("run-ends".to_owned()),
        detail: detail.to_owned(),
        trace: String::new(),
        records: 0,
        simulated_s: 0.0,
        acked_events: 0,
        retried: 0,
        faults: plan.steps.len() as u64,
        situations: Default::default(),
        last_lines: Vec::new(),
    }
}
