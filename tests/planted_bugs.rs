//! The simulator finds bugs that were planted on purpose, and finds none where none was. The table is in `docs/simulation.md`.

#![allow(clippy::unwrap_used, reason = "a test that cannot run the binary fails")]

use std::process::Command;

/// A bug, the scenario that meets it soonest, the seeds until it must have been found there, and one of the invariants that
/// find it.
const BUGS: &[(&str, &str, u64, &str)] = &[
    ("ack-before-commit", "split-and-crash", 1, "receipts-stable"),
    ("append-twice", "lossy-network", 2, "receipts-stable"),
    ("forgetful-receipt", "split-and-crash", 1, "receipts-stable"),
    ("no-sync", "blackout", 1, "stays-up"),
    ("ignored-sync-error", "fsync-fails", 2, "stays-up"),
    ("no-directory-sync", "torn-tail", 1, "stays-up"),
    ("fatal-full-disk", "disk-full", 1, "stays-up"),
    ("purge-too-far", "split-and-crash", 6, "purged-behind-durable"),
    ("diverging-replica", "split-and-crash", 1, "replicas-identical"),
    ("lost-quarantine", "poison-entry", 1, "stays-up"),
    ("shifted-hour", "split-and-crash", 3, "unknown-at-most-once"),
    ("coarse-sketch", "split-and-crash", 1, "quantiles-bounded"),
    ("counts-duplicates", "flapping-link", 2, "nothing-unsent"),
    ("drops-events", "split-and-crash", 2, "fresh-reads"),
    ("stuck-after-takeover", "leader-isolated", 1, "serves-again"),
    ("leader-restore", "blackout", 1, "led-once"),
    ("no-read-barrier", "leader-isolated", 1, "fresh-reads"),
];

/// The invariants that do not hold in any of these seeds.
fn broken(scenario: &str, seeds: u64, bug: &str) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hourmark"));
    command.args(["simulate", "--scenario", scenario, "--seed", &format!("1..{seeds}"), "-o", "json"]);
    let ran = command.env("HOURMARK_PLANT", bug).output().unwrap();
    let reports = String::from_utf8_lossy(&ran.stdout).into_owned();
    let reports = reports.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    reports.filter_map(|report| report["violated"].as_str().map(str::to_owned)).collect()
}

#[test]
fn every_planted_bug_is_found_by_an_invariant() {
    for (bug, scenario, seeds, invariant) in BUGS {
        let found = broken(scenario, *seeds, bug);
        assert!(found.iter().any(|name| name == invariant), "{bug}: {found:?} in {seeds} seeds of {scenario}");
    }
}

#[test]
fn without_a_bug_everything_holds() {
    assert_eq!(broken("split-and-crash", 3, "none"), Vec::<String>::new());
}
