//! The simulator: what it once found stays mended, the same seed gives the same run, and its command line works.

#![allow(clippy::unwrap_used, reason = "a test that cannot run the binary fails")]

use std::path::Path;
use std::process::{Command, Output};

fn simulate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hourmark"));
    command.current_dir(env!("CARGO_TARGET_TMPDIR")).arg("simulate").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Every file in `simulation/regressions` is a run that failed before its cause was mended.
#[test]
fn what_was_found_once_stays_mended() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("simulation/regressions");
    let paths: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(paths.len() >= 10, "{} regressions are left", paths.len());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for some in paths.chunks(paths.len().div_ceil(threads)) {
            scope.spawn(move || {
                for path in some {
                    let ran = simulate(&["--schedule", path.to_str().unwrap()]);
                    assert!(ran.status.success(), "{}: {}{}", path.display(), text(&ran.stdout), text(&ran.stderr));
                }
            });
        }
    });
}

#[test]
fn the_same_seed_gives_the_same_trace_in_two_processes() {
    let ran = simulate(&["--scenario", "split-and-crash", "--seed", "3", "--check-determinism", "-o", "json"]);
    assert!(ran.status.success(), "{}{}", text(&ran.stdout), text(&ran.stderr));
}

#[test]
fn a_run_is_saved_replayed_and_shown() {
    let ran = simulate(&[
        "--scenario",
        "lone-node",
        "--seed",
        "2",
        "--save",
        "lone.jsonl",
        "--html",
        "lone.html",
        "-o",
        "json",
    ]);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let again = simulate(&["--schedule", "lone.jsonl", "-o", "json"]);
    assert_eq!(text(&ran.stdout), text(&again.stdout));
    let page = std::fs::read_to_string(Path::new(env!("CARGO_TARGET_TMPDIR")).join("lone.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("lone-node"));
}

#[test]
fn wrong_usage_is_told_with_exit_code_2() {
    for arguments in [
        &["--scenario", "no-such"][..],
        &["--schedule", "no-such.jsonl", "--scenario", "swarm"],
        &["--seed", "5..3"],
        &["--runs", "2", "--html", "x.html"],
        &["--runs", "2", "--shrink"],
    ] {
        assert_eq!(simulate(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn scenarios_invariants_and_situations_are_listed() {
    let listed = text(&simulate(&["--list", "-o", "csv"]).stdout);
    for line in ["scenario,pause-leader,", "invariant,fresh-reads,", "situation,torn_tail_cut,"] {
        assert!(listed.contains(line), "{line} in {listed}");
    }
}
