//! A run as a page: nodes as lanes, who led what, what struck, what clients were told.

use crate::schedule::{Plan, file};
use crate::{Mark, Report};
use serde::Serialize;

const PAGE: &str = include_str!("timeline.html");

#[derive(Serialize)]
struct Shown<'a> {
    report: &'a Report,
    marks: &'a [Mark],
    nodes: u64,
    partitions: u16,
    plan: String,
}

/// A page that needs nothing from anywhere else.
pub fn page(plan: &Plan, report: &Report, marks: &[Mark]) -> String {
    let shown =
        Shown { report, marks, nodes: plan.nodes_in_the_end(), partitions: plan.partitions, plan: file::write(plan) };
    let data = serde_json::to_string(&shown).expect("reports hold nothing that JSON cannot");
    // Nothing in the data may end the script that holds it.
    PAGE.replace("/*DATA*/", &data.replace("</", "<\\/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_holds_the_run_and_no_way_out_of_its_script() {
        let report = Report {
            scenario: "mine".into(),
            seed: 7,
            violated: Some("fresh-reads".into()),
            detail: "</script>".into(),
            trace: "0".into(),
            records: 1,
            simulated_s: 1.0,
            acked_events: 0,
            retried: 0,
            faults: 0,
            situations: Default::default(),
            last_lines: Vec::new(),
        };
        let page = page(&Plan::new("mine", 7, 1000), &report, &[]);
        assert!(page.contains("fresh-reads") && page.contains("<\\/script>"));
        assert!(!page.contains("/*DATA*/") && !page.contains("https:") && !page.contains("src="));
    }
}
