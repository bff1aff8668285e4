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
    let mut plan: Plan = serde_json::from_str(first).map_err(|error| format!("line {}: {error}", number + 1))?;
    for (number, line) in lines {
        let step: Step = serde_json::from_str(line).map_err(|error| format!("line {}: {error}", number + 1))?;
        plan.steps.push(step);
    }
    plan.validate()?;
    Ok(plan.sorted())
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
    fn a_wrong_line_is_named() {
        let text = write(&Plan::new("mine", 7, 1000)) + "# a comment\n{\"at_ms\":1,\"fault\":\"pauze\"}\n";
        assert!(read(&text).unwrap_err().starts_with("line 3: unknown variant `pauze`"));
        assert_eq!(read("\n"), Err("the file is empty".to_owned()));
    }
}
