//! Many runs, side by side, and what they reached together.

use super::apart::{self, Workspace};
use super::{Arguments, command_again, determinism, here};
use crate::cli::cores;
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::{self, Format};
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use simulation::Report;
use simulation::coverage::SITUATIONS;
use simulation::scenarios::SCENARIOS;
use simulation::schedule::Plan;
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use tokio::sync::Semaphore;

/// A campaign of fewer runs of the swarm is not expected to reach everything: the rarest situations come once in 70 runs.
const REACHES_ALL_FROM: usize = 500;

/// What all runs so far came to.
#[derive(Default)]
struct Sum {
    runs: usize,
    broken: Vec<(Report, String)>,
    simulated_s: f64,
    acked_events: u64,
    faults: u64,
    /// In how many runs each situation was reached.
    reached: BTreeMap<String, u64>,
}

/// Runs all plans; fails where one was broken, or where a required situation was never reached.
pub async fn run(arguments: &Arguments, plans: Vec<Plan>) -> Outcome {
    let workspace = Workspace::new()?;
    // Other scenarios are of one kind of trouble each.
    let is_swarm = |plan: &&Plan| plan.scenario == SCENARIOS[0].name;
    let is_campaign = arguments.schedule.is_none() && plans.iter().filter(is_swarm).count() >= REACHES_ALL_FROM;
    let bar = bar(plans.len());
    let jobs = arguments.jobs.map_or_else(cores, |jobs| usize::try_from(jobs).unwrap_or(1));
    // A long run does not keep the next ones from starting, though reports come in the order of the plans.
    let turns = Semaphore::new(jobs);
    let runs = plans.iter().enumerate().map(|(number, plan)| {
        let (workspace, turns, name) = (&workspace, &turns, number.to_string());
        async move {
            let _turn = turns.acquire().await.expect("it is never closed");
            let report = match arguments.check_determinism {
                true => determinism::run(workspace, &name, plan, arguments).await,
                false => apart::run(workspace, &name, plan, None, arguments).await,
            };
            report.map(|report| (report, command_again(arguments, plan)))
        }
    });
    let mut running = futures::stream::iter(runs).buffered(plans.len().max(1));
    let mut sum = Sum::default();
    while let Some(ran) = running.next().await {
        let (report, again) = ran?;
        bar.suspend(|| tell(arguments, &report, &again))?;
        sum.add(report, again);
        bar.inc(1);
        bar.set_message(format!("{} broken, {} simulated", sum.broken.len(), sum.simulated()));
    }
    bar.finish_and_clear();
    sum.finish(arguments, is_campaign)
}

fn tell(arguments: &Arguments, report: &Report, again: &str) -> Outcome {
    if arguments.output.format() == Format::Json {
        let line = serde_json::to_string(report).expect("reports hold nothing that JSON cannot");
        return output::print(&(line + "\n"));
    }
    output::print(&here::line(report))?;
    if !report.held() {
        eprintln!("{}\n{}\n  to see it again: {again}", report.last_lines.join("\n"), here::violation(report));
    }
    Ok(())
}

impl Sum {
    fn add(&mut self, report: Report, again: String) {
        self.runs += 1;
        self.simulated_s += report.simulated_s;
        self.acked_events += report.acked_events;
        self.faults += report.faults;
        for name in report.situations.keys() {
            *self.reached.entry(name.clone()).or_default() += 1;
        }
        if !report.held() {
            self.broken.push((report, again));
        }
    }

    fn finish(self, arguments: &Arguments, is_campaign: bool) -> Outcome {
        match arguments.output.format() {
            // Standard output holds a report a line, and nothing else.
            Format::Json => eprint!("{}", self.text()),
            _ => output::print(&self.text())?,
        }
        if !self.broken.is_empty() {
            let list: Vec<_> =
                self.broken.iter().map(|(report, again)| format!("  {}: {again}", violated(report))).collect();
            let message = format!("{} of {} runs are broken:\n{}", self.broken.len(), self.runs, list.join("\n"));
            return Err(Failure::new(Exit::Failed, message));
        }
        let missing = self.missing();
        if is_campaign && !missing.is_empty() {
            let message = format!("never reached: {}", missing.join(", "));
            return Err(Failure::new(Exit::Failed, message));
        }
        Ok(())
    }

    /// How long all runs took together, in simulated time.
    fn simulated(&self) -> String {
        let minutes = self.simulated_s / 60.0;
        if minutes < 100.0 { format!("{minutes:.1} min") } else { format!("{:.1} h", minutes / 60.0) }
    }

    fn missing(&self) -> Vec<&'static str> {
        let required = SITUATIONS.iter().filter(|situation| situation.is_required);
        required.map(|situation| situation.name).filter(|name| !self.reached.contains_key(*name)).collect()
    }

    fn text(&self) -> String {
        let reached = SITUATIONS.iter().map(|situation| {
            let runs = self.reached.get(situation.name).copied().unwrap_or(0);
            format!("  {runs:>6} runs  {}: {}\n", situation.name, situation.about)
        });
        format!(
            "{} runs, {} broken; {} simulated, {} events acked, {} faults\nSituations:\n{}",
            self.runs,
            self.broken.len(),
            self.simulated(),
            self.acked_events,
            self.faults,
            reached.collect::<String>()
        )
    }
}

fn violated(report: &Report) -> &str {
    report.violated.as_deref().unwrap_or("nothing")
}

fn bar(runs: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} runs, {eta} left, {msg}");
    ProgressBar::new(runs as u64).with_style(style.expect("the template is right"))
}
