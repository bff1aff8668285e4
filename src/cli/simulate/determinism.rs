//! Whether a plan gives the same trace twice.

use super::Arguments;
use super::apart::{self, Workspace};
use crate::cli::failure::Failure;
use simulation::Report;
use simulation::schedule::Plan;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

/// Runs a plan in two processes and compares all that they recorded; a difference is reported as a violation.
pub async fn run(workspace: &Workspace, name: &str, plan: &Plan, arguments: &Arguments) -> Result<Report, Failure> {
    let traces = [1, 2].map(|turn| workspace.file(&format!("{name}-{turn}.trace")));
    let mut report = apart::run(workspace, name, plan, Some(&traces[0]), arguments).await?;
    apart::run(workspace, name, plan, Some(&traces[1]), arguments).await?;
    let difference = first_difference(&traces[0], &traces[1]);
    let difference = difference.map_err(|error| Failure::io("comparing traces", &error))?;
    for trace in &traces {
        // The directory goes in the end anyway.
        let _ = std::fs::remove_file(trace);
    }
    if let Some((record, one, other)) = difference {
        report.violated = Some("deterministic".to_owned());
        report.detail = format!("record {record} is {one:?} the first time and {other:?} the second");
    }
    Ok(report)
}

/// The first record that differs, and both forms of it.
fn first_difference(one: &Path, other: &Path) -> io::Result<Option<(u64, String, String)>> {
    let mut files = [BufReader::new(std::fs::File::open(one)?), BufReader::new(std::fs::File::open(other)?)];
    for record in 1.. {
        let mut lines = [Vec::new(), Vec::new()];
        for (file, line) in files.iter_mut().zip(&mut lines) {
            file.read_until(b'\n', line)?;
        }
        let [one, other] = &lines;
        if one != other {
            let shown = |line: &[u8]| String::from_utf8_lossy(line).chars().take(200).collect::<String>();
            return Ok(Some((record, shown(one), shown(other))));
        }
        if one.is_empty() {
            break;
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_record_that_differs_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (one, same) = (file("one", "a\nb\nc\n"), file("same", "a\nb\nc\n"));
        let (other, longer) = (file("other", "a\nx\nc\n"), file("longer", "a\nb\nc\nd\n"));
        assert_eq!(first_difference(&one, &same).unwrap(), None);
        assert_eq!(first_difference(&one, &other).unwrap(), Some((2, "b\n".to_owned(), "x\n".to_owned())));
        assert_eq!(first_difference(&one, &longer).unwrap(), Some((4, String::new(), "d\n".to_owned())));
    }
}
