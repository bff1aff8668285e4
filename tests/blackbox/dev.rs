//! `hourmark dev` whose nodes are killed and brought back by hand.

use crate::support::{eventually, free_ports, request, turn};
use std::fs::File;
use std::process::{Child, Command, Stdio};

/// Ends a process that a test has started, whatever comes.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn children(process: u32) -> Vec<u32> {
    let path = format!("/proc/{process}/task/{process}/children");
    let listed = Command::new("pgrep").args(["-P", &process.to_string()]).output();
    let text = std::fs::read_to_string(path).unwrap_or_else(|_| String::from_utf8(listed.unwrap().stdout).unwrap());
    text.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

fn kill(process: u32) {
    assert!(Command::new("kill").args(["-KILL", &process.to_string()]).status().unwrap().success());
}

#[test]
fn a_node_that_was_brought_back_counts_and_outlives_the_others() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let told = || std::fs::read_to_string(&log).unwrap();
    // Two of each node, ten apart.
    let port = free_ports(12);
    let data = directory.path().join("data").display().to_string();
    let arguments = ["dev", "--nodes", "2", "--base-port", &port.to_string(), "--data-dir", &data];
    let mut command = Command::new(env!("CARGO_BIN_EXE_hourmark"));
    command.args(arguments).stdin(Stdio::null()).stdout(File::create(directory.path().join("out")).unwrap());
    let mut dev = Ended(command.stderr(File::create(&log).unwrap()).spawn().unwrap());
    let is_up = || std::fs::read_to_string(directory.path().join("out")).unwrap().contains("2 nodes are up");
    eventually("two nodes", || is_up().then_some(()));

    // The first to be killed is whichever: the message says how to bring it back.
    let process = dev.0.id();
    kill(children(process)[0]);
    let command =
        eventually("the way back", || Some(told().split_once("Bring it back:\n  ")?.1.lines().next()?.to_owned()));
    let words: Vec<&str> = command.split(' ').collect();
    let null = || File::create("/dev/null").unwrap();
    let mut back = Ended(Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).stderr(null()).spawn().unwrap());
    let address = words[words.iter().position(|word| *word == "--http-addr").unwrap() + 1];
    eventually("its answer", || request(address, "GET", "/v1/cluster", &[], &[]).filter(|answer| answer.status == 200));

    kill(children(process)[0]);
    eventually("what is left", || told().contains("1 of 2 are left").then_some(()));
    eventually("that it waits", || told().contains("run on their own").then_some(()));
    assert!(dev.0.try_wait().unwrap().is_none());
    back.0.kill().unwrap();
    back.0.wait().unwrap();
    let status = eventually("its end", || dev.0.try_wait().unwrap());
    assert!(status.code() == Some(1) && told().contains("no node is left"), "{}", told());
}
