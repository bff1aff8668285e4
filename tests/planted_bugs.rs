//! The simulator finds bugs that were planted on purpose, and finds none where none was.

use std::process::Command;

/// Seeds until a planted bug must have been found.
const SEEDS: u64 = 4;

fn holds(seed: u64, bug: &str) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hourmark"));
    let ran = command.args(["simulate", "--seed", &seed.to_string()]).env("HOURMARK_PLANT", bug).output().unwrap();
    eprintln!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    ran.status.success()
}

#[test]
fn an_ack_before_the_commit_is_found() {
    assert!((1..=SEEDS).any(|seed| !holds(seed, "ack-before-commit")), "none of {SEEDS} seeds found it");
}

#[test]
fn without_a_bug_the_same_seed_holds() {
    assert!(holds(1, "none"));
}
