//! Plans as files: JSON lines, the plan first, then one fault a line.
//!
//! Made to be read and edited: a line can be changed, moved or deleted. Empty lines and lines that begin with `#` are
//! skipped.

use super::{Plan, Step};

/// Writes a plan.
pub fn write(plan: &Plan) -> String {
    let mut text = json(plan);
    for step in &plan.steps {
        text += "\n";
        text += &json(step);
    }
    text + "\n"
}

/// Reads a plan; the error names the line.
pub fn read(text: &str) -> Result<Plan, String> {
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let (number, first) = lines.next().ok_or("the file is empty")?;
    let mut plan: Plan = serde_json::from_str(first).map_err(|error| flaw(number, &error))?;
    for (number, line) in lines {
        let step: Step = serde_json::from_str(line).map_err(|error| flaw(number, &error))?;
        plan.steps.push(step);
    }
    plan.validate()?;
    Ok(plan.sorted())
}

/// What is wrong with a line; its JSON has no lines of its own.
fn flaw(number: usize, error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rfind(" at line ").map_or(&*text, |end| &text[..end]);
    format!("line {}: {what}", number + 1)
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plans hold nothing that JSON cannot")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Fault, Who, swarm};

    #[test]
    fn what_was_written_is_read() {
        for seed in 0..300 {
            let plan = swarm::plan(seed);
            assert_eq!(read(&write(&plan)), Ok(plan));
        }
    }

    #[test]
    fn a_fault_is_a_line_that_people_can_read() {
        let plan = Plan::new("mine", 7, 1000).at(5, Fault::Pause { who: Who::Leader { leader_of: 1 }, ms: 900 });
        let text = write(&plan);
        assert_eq!(text.lines().nth(1), Some(r#"{"at_ms":5,"fault":"pause","who":{"leader_of":1},"ms":900}"#));
    }

    #[test]
    fn a_plan_that_makes_no_sense_is_refused() {
        let plan = |change: fn(&mut Plan)| {
            let mut plan = Plan::new("mine", 7, 1000).at(5, Fault::Pause { who: Who::Node(1), ms: 900 });
            change(&mut plan);
            read(&write(&plan)).err()
        };
        assert_eq!(plan(|_| {}), None);
        for change in [
            (|plan| plan.world.skew_ms = u64::MAX) as fn(&mut Plan),
            |plan| plan.world.loss_permille = 1001,
            |plan| plan.world.disk_ms = (2, 1),
            |plan| plan.world.checkpoint_ms = 0,
            |plan| plan.load.late_ms = u64::MAX,
            |plan| plan.load.producers = u64::MAX,
            |plan| plan.load_ms = 0,
            |plan| plan.load_ms = 4,
            |plan| plan.steps[0].fault = Fault::Pause { who: Who::Node(4), ms: 1 },
            |plan| plan.steps[0].fault = Fault::Pause { who: Who::Leader { leader_of: 2 }, ms: 1 },
            |plan| plan.steps[0].fault = Fault::Pause { who: Who::Node(1), ms: u64::MAX },
            |plan| plan.steps[0].fault = Fault::ClockJump { who: Who::Node(1), by_ms: i64::MIN, ms: 1 },
            |plan| plan.steps[0].fault = Fault::Loss { permille: 5000, ms: 1 },
            |plan| plan.steps[0].fault = Fault::Halves { nodes: 0, ms: 1 },
        ] {
            assert!(plan(change).is_some());
        }
    }

    #[test]
    fn a_wrong_line_is_named() {
        let text = write(&Plan::new("mine", 7, 1000)) + "# a comment\n{\"at_ms\":1,\"fault\":\"pauze\"}\n";
        assert!(read(&text).unwrap_err().starts_with("line 3: unknown variant `pauze`"));
        assert_eq!(read("\n"), Err("the file is empty".to_owned()));
    }
}
