//! The simulator finds bugs that were planted on purpose, and finds none where none was. The table is in `docs/simulation.md`.

#![allow(clippy::unwrap_used, reason = "a test that cannot run the binary fails")]

use std::process::Command;

/// A bug is found within this many seeds. Most are found by the first few: the rest is room for what another change of
/// the product or of the simulator moves from one seed to the next.
const SEEDS: u64 = 200;

/// A bug, the scenario that meets it soonest, and the invariant that must find it there.
const BUGS: &[(&str, &str, &str)] = &[
    ("ack-before-commit", "split-and-crash", "receipts-stable"),
    ("append-twice", "lossy-network", "receipts-stable"),
    ("forgetful-receipt", "split-and-crash", "receipts-stable"),
    ("no-sync", "blackout", "stays-up"),
    ("ignored-sync-error", "fsync-fails", "stays-up"),
    ("no-directory-sync", "torn-tail", "stays-up"),
    ("fatal-full-disk", "disk-full", "stays-up"),
    ("purge-too-far", "split-and-crash", "purged-behind-durable"),
    ("diverging-replica", "split-and-crash", "replicas-identical"),
    ("lost-quarantine", "poison-entry", "stays-up"),
    ("shifted-hour", "split-and-crash", "unknown-at-most-once"),
    ("coarse-sketch", "split-and-crash", "quantiles-bounded"),
    ("counts-duplicates", "flapping-link", "nothing-unsent"),
    ("drops-events", "split-and-crash", "fresh-reads"),
    ("stuck-after-takeover", "leader-isolated", "serves-again"),
    ("lost-entry", "split-and-crash", "log-matching"),
    ("leader-restore", "blackout", "led-once"),
    ("no-read-barrier", "leader-isolated", "fresh-reads"),
    ("confirms-anyone", "leader-returns", "fresh-reads"),
    ("answers-again", "late-flood", "fresh-reads"),
    ("ignores-after", "split-and-crash", "fresh-reads"),
    ("early-week", "late-flood", "counted-once"),
    ("rounded-ranges", "poison-entry", "exact-numbers"),
    ("young-revisions", "split-and-crash", "monotone"),
    ("late-sync", "blackout", "leader-complete"),
    ("lost-acks", "poison-entry", "conserved"),
    ("never-purges", "follower-away", "bounded"),
];

/// The invariant that does not hold in one run, if there is one.
fn broken(scenario: &str, seed: u64, bug: &str) -> Option<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hourmark"));
    command.args(["simulate", "--scenario", scenario, "--seed", &seed.to_string(), "-o", "json"]);
    let ran = command.env("HOURMARK_PLANT", bug).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    report["violated"].as_str().map(str::to_owned)
}

#[test]
fn every_planted_bug_is_found_by_an_invariant() {
    for (bug, scenario, invariant) in BUGS {
        let found = (1..=SEEDS).find(|seed| broken(scenario, *seed, bug).as_deref() == Some(invariant));
        let Some(seed) = found else { panic!("{bug}: {SEEDS} seeds of {scenario} do not break {invariant}") };
        println!("{bug}: {invariant} of {scenario}, seed {seed}");
    }
}

#[test]
fn every_invariant_finds_a_bug() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hourmark"));
    let listed = command.args(["simulate", "--list", "-o", "json"]).output().unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let invariants = listed.as_array().unwrap().iter().filter(|row| row["kind"] == "invariant");
    for name in invariants.map(|row| row["name"].as_str().unwrap()) {
        assert!(BUGS.iter().any(|(_, _, invariant)| *invariant == name), "no bug is found by {name}");
    }
}

#[test]
fn without_a_bug_everything_holds() {
    for seed in 1..=3 {
        assert_eq!(broken("split-and-crash", seed, "none"), None);
    }
}
