//! Events of a file instead of made-up ones.

use super::workload::Event;
use crate::cli::failure::{Exit, Failure};
use crate::cli::send::Source;
use hourmark::domain::TimeLimits;
use hourmark::ingest::ndjson::Parser;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

/// The events of a file and the names of their apps.
pub struct Replay {
    /// Names by number.
    pub apps: Vec<String>,
    /// All events in the file's order.
    pub events: Vec<Event>,
}

/// Reads a file of NDJSON, plain or compressed. A line that is no event is a failure: what it would add to is unknown.
pub fn read(path: &Path) -> Result<Replay, Failure> {
    let failed = |error| Failure::io(format!("reading {}", path.display()), &error);
    let mut text = Vec::new();
    Source::open(Some(path)).map_err(failed)?.reader.read_to_end(&mut text).map_err(failed)?;
    let (mut parser, mut numbers) = (Parser::new(TimeLimits::NONE), BTreeMap::new());
    let mut replay = Replay { apps: Vec::new(), events: Vec::new() };
    let (mut rest, mut line_number) = (&text[..], 0u64);
    while !rest.is_empty() {
        let (line, next) = parser.first_line(rest);
        (rest, line_number) = (next, line_number + 1);
        match line {
            Ok(None) => {}
            Ok(Some(event)) => {
                let app = *numbers.entry(event.app_id.to_string()).or_insert_with(|| {
                    replay.apps.push(event.app_id.to_string());
                    u32::try_from(replay.apps.len() - 1).expect("fewer apps than 2^32")
                });
                replay.events.push(Event { app, time: event.time, value: event.response_time });
            }
            Err(reason) => {
                let message = format!("{} line {line_number}: {reason}", path.display());
                return Err(Failure::new(Exit::Failed, message));
            }
        }
    }
    Ok(replay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_events_and_a_bad_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        let line = |app: &str| format!("{{\"app_id\":\"{app}\",\"timestamp\":5,\"response_time_ms\":1.5}}\n");
        std::fs::write(&path, line("b") + "\n" + &line("a") + &line("b")).unwrap();
        let replay = read(&path).unwrap();
        assert_eq!(replay.apps, ["b", "a"]);
        assert_eq!(replay.events.iter().map(|event| event.app).collect::<Vec<_>>(), [0, 1, 0]);
        std::fs::write(&path, line("b") + "x\n").unwrap();
        let failure = read(&path).err().unwrap();
        assert!(failure.message.contains("line 2"), "{}", failure.message);
    }
}
