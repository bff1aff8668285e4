//! The command line as scripts see it: help texts, exit codes, stdout and stderr of the built binary against a fake node.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;

use fake::Fake;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// What a run of the binary left behind.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }

    /// `accepted`, `duplicate` and `rejected` of `send`.
    fn counts(&self) -> [u64; 3] {
        let sum = self.json();
        ["accepted", "duplicate", "rejected"].map(|name| sum[name].as_u64().unwrap())
    }
}

/// Runs the binary with no setting from outside.
async fn hourmark(arguments: &[&str], stdin: &[u8]) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hourmark"))
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // The binary may end without reading all of it.
    let _ = pipe.write_all(stdin).await;
    drop(pipe);
    let output = child.wait_with_output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn file(directory: &tempfile::TempDir, name: &str, content: &[u8]) -> String {
    let path = directory.path().join(name);
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

/// `count` events, one per line.
fn events(count: usize) -> String {
    (0..count).map(|i| format!("{{\"app_id\":\"a\",\"timestamp\":{i},\"response_time_ms\":1}}\n")).collect()
}

/// Where nobody listens.
fn nobody() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[tokio::test]
async fn help_texts_are_the_golden_ones() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help");
    for (name, arguments) in [
        ("hourmark", &["--help"][..]),
        ("start-short", &["start", "-h"]),
        ("start", &["start", "--help"]),
        ("dev", &["dev", "--help"]),
        ("send", &["send", "--help"]),
        ("query", &["query", "--help"]),
        ("status", &["status", "--help"]),
        ("verify", &["verify", "--help"]),
        ("bench", &["bench", "--help"]),
        ("bench-query", &["bench", "query", "--help"]),
        ("bench-local", &["bench", "local", "--help"]),
        ("drain", &["drain", "--help"]),
        ("remove", &["remove", "--help"]),
        ("completions", &["completions", "--help"]),
    ] {
        let ran = hourmark(arguments, b"").await;
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
        let path: PathBuf = golden.join(format!("{name}.txt"));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &ran.stdout).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(ran.stdout, expected, "run with UPDATE=1 to rewrite {}", path.display());
    }
}

#[tokio::test]
async fn wrong_usage_and_configuration_exit_with_2_and_name_the_culprit() {
    let directory = tempfile::tempdir().unwrap();
    let config = file(&directory, "hourmark.toml", b"max_futur = \"1m\"\n");
    for (arguments, part) in [
        (&["fly"][..], "fly"),
        (&["query"], "APP"),
        (&["query", "a", "-o", "xml"], "xml"),
        (&["send", "/no/such/file"], "/no/such/file"),
        (&["send", "-", "--timeout", "soon"], "soon"),
        (&["send", "-", "--resume-at", "3"], "--producer"),
        (&["send", "-", "--format", "binary", "--body-bytes", "5MiB"], "4MiB"),
        (&["status", "--server", "https://a:1"], "https"),
        (&["start", "--config", &config], "max_futur"),
        (&["start", "--max-future", "10"], "max_future"),
        (&["start", "--cluster-addr", "0.0.0.0:3601"], "cluster_addr"),
        (&["start", "--log-filter", "cluster=loudly"], "log_filter"),
        (&["dev", "--nodes", "0"], "--nodes"),
    ] {
        let ran = hourmark(arguments, b"").await;
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(part), "{arguments:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "");
    }
}

#[tokio::test]
async fn a_port_in_use_stops_dev_before_it_starts_anything() {
    // The second node's HTTP port is taken, the first one's are free, and stay so: systems take no ports as low as these for outgoing
    // connections, which other tests make all the time.
    let bind = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).ok();
    let (port, _taken) = (28_200..32_000)
        .find_map(|port| {
            [port - 10, port - 9].into_iter().all(|port| bind(port).is_some()).then(|| Some((port, bind(port)?)))?
        })
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().display().to_string();
    let ran = hourmark(&["dev", "--base-port", &(port - 10).to_string(), "--data-dir", &data_dir], b"").await;
    assert_eq!(ran.code, 1);
    assert_eq!(std::fs::read_dir(&data_dir).unwrap().count(), 0);
    assert!(
        ran.stderr.contains(&format!("port {port} for node-2")) && ran.stderr.lines().count() == 1,
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn a_completion_script_knows_the_commands() {
    let ran = hourmark(&["completions", "bash"], b"").await;
    assert_eq!(ran.code, 0);
    assert!(ran.stdout.contains("--max-future") && ran.stdout.contains("completions"));
}

#[tokio::test]
async fn without_a_node_the_exit_code_is_4() {
    let server = nobody();
    for arguments in [
        &["status", "--server", &server, "--timeout", "300ms"][..],
        &["query", "a", "--server", &server, "--timeout", "300ms"],
        &["send", "-", "--server", &server, "--timeout", "300ms"],
    ] {
        let ran = hourmark(arguments, b"{}\n").await;
        assert_eq!(ran.code, 4, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(&server), "{}", ran.stderr);
    }
}

#[tokio::test]
async fn sending_nothing_succeeds() {
    let fake = Fake::start().await;
    for stdin in [&b""[..], b"\n \n\r\n"] {
        let ran = hourmark(&["send", "--server", &fake.address, "-o", "json"], stdin).await;
        assert_eq!((ran.code, ran.counts()), (0, [0, 0, 0]), "{}", ran.stderr);
    }
}

#[tokio::test]
async fn plain_compressed_and_piped_input_is_the_same_to_send() {
    let fake = Fake::start().await;
    let directory = tempfile::tempdir().unwrap();
    let plain = events(1000);
    let zstd = file(&directory, "events.zst", &zstd::encode_all(plain.as_bytes(), 1).unwrap());
    let raw = file(&directory, "events", plain.as_bytes());
    for (path, compress) in [(raw.as_str(), "zstd"), (&zstd, "none"), ("-", "gzip")] {
        let arguments =
            ["send", path, "--server", &fake.address, "-o", "csv", "--body-bytes", "5KiB", "--compress", compress];
        let ran = hourmark(&arguments, plain.as_bytes()).await;
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let line = ran.stdout.lines().nth(1).unwrap();
        assert!(line.starts_with(&format!("1000,0,0,{},", plain.len())), "{line}");
        assert_eq!(fake.take_events(), 1000);
    }
}

#[tokio::test]
async fn rejected_lines_carry_the_files_line_numbers_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let mut lines: Vec<String> = events(500).lines().map(str::to_owned).collect();
    for bad in [3, 77, 499] {
        lines[bad - 1] = "bad".into();
    }
    lines[99] = String::new();
    lines[199] = "x".repeat((1 << 20) + 3);
    let path = file(&directory, "events", lines.join("\n").as_bytes());
    let rejects = directory.path().join("rejects").display().to_string();
    for format in ["ndjson", "binary"] {
        let fake = Fake::start().await;
        let common = ["send", &path, "--server", &fake.address, "--body-bytes", "1KiB", "--format", format];

        let ran = hourmark(&[&common[..], &["-o", "json"]].concat(), b"").await;
        assert_eq!((ran.code, ran.counts()), (1, [495, 0, 4]));
        let told: Vec<_> =
            ran.stderr.lines().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            told,
            ["line 3 invalid_json", "line 77 invalid_json", "line 200 line_too_long", "line 499 invalid_json"]
        );
        assert_eq!(fake.take_events(), 495);

        let ran = hourmark(&[&common[..], &["--rejects", &rejects]].concat(), b"").await;
        assert_eq!((ran.code, ran.stderr.as_str()), (1, ""));
        let written: Vec<serde_json::Value> = std::fs::read_to_string(&rejects)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(written.iter().map(|row| row["line"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 77, 200, 499]);
        assert_eq!(written[2]["code"], "line_too_long");
    }
}

#[tokio::test]
async fn more_bad_lines_than_an_answer_lists_by_itself_are_all_told() {
    let fake = Fake::start().await;
    let ran = hourmark(&["send", "--server", &fake.address, "-o", "json"], &b"x\n".repeat(40_000)).await;
    assert_eq!((ran.code, ran.counts()), (1, [0, 0, 40_000]));
    assert_eq!(ran.stderr.lines().count(), 40_000);
    assert!(ran.stderr.ends_with("line 40000: invalid_json: not JSON\n"));
}

#[tokio::test]
async fn lost_answers_and_busy_or_dead_servers_cost_nothing_and_count_once() {
    for format in ["ndjson", "binary"] {
        let fake = Fake::start().await;
        fake.lose_answers(3);
        fake.refuse(3, 429);
        let servers = format!("{},{}", nobody(), fake.address);
        let flags = ["-o", "json", "--body-bytes", "1KiB", "--connections", "3", "--format", format];
        let arguments = [&["send", "--server", &servers], &flags[..]].concat();
        let ran = hourmark(&arguments, events(2000).as_bytes()).await;
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let [accepted, duplicate, rejected] = ran.counts();
        assert!(duplicate > 0, "no answer was lost");
        assert_eq!((accepted + duplicate, rejected), (2000, 0));
        assert_eq!(fake.take_events(), 2000);
    }
}

#[tokio::test]
async fn a_run_that_failed_midway_goes_on_without_counting_twice() {
    for format in ["ndjson", "binary"] {
        let fake = Fake::start().await;
        fake.refuse_from(5, 503);
        let input = events(2000);
        let common = ["send", "--server", &fake.address, "-o", "json", "--body-bytes", "1KiB", "--connections", "2"];
        let ran = hourmark(&[&common[..], &["--timeout", "1s", "--format", format]].concat(), input.as_bytes()).await;
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        let sent_before = ran.counts()[0];
        assert!(sent_before > 0 && sent_before < 2000);
        let hint: Vec<_> =
            ran.stderr.lines().find(|line| line.contains("--producer")).unwrap().split_whitespace().collect();

        fake.refuse_from(usize::MAX, 503);
        let again: Vec<&str> = common[..5].iter().chain(&hint).copied().collect();
        let ran = hourmark(&again, input.as_bytes()).await;
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert_eq!(ran.counts()[0] + sent_before, 2000);
        assert_eq!(fake.take_events(), 2000);
    }
}

#[tokio::test]
async fn a_refusal_for_good_is_not_repeated() {
    let fake = Fake::start().await;
    fake.refuse(1, 413);
    let ran = hourmark(&["send", "--server", &fake.address], events(1).as_bytes()).await;
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("lines 1 to 1 of stdin") && ran.stderr.contains("413"), "{}", ran.stderr);
}

#[tokio::test]
async fn query_pages_through_hours_and_merges_days_on_the_server() {
    let fake = Fake::start().await;
    let common = ["query", "check out/1", "--server", &fake.address];
    let ran = hourmark(&[&common[..], &["-o", "csv"]].concat(), b"").await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let hours: Vec<_> = ran.stdout.lines().skip(1).map(|line| &line[..13]).collect();
    assert_eq!(hours, ["2026-11-22T22", "2026-11-22T23", "2026-11-23T00"]);

    let ran = hourmark(&[&common[..], &["--step", "day", "--from", "2026-11-22T22"]].concat(), b"").await;
    let ranges: Vec<_> = ran.json()["days"].as_array().unwrap().iter().map(|day| day["asked"].clone()).collect();
    assert_eq!(ranges, ["2026-11-22T22..2026-11-23", "2026-11-23..2026-11-24"]);

    let ran = hourmark(&[&common[..], &["--step", "total", "--to", "2026-11-23"]].concat(), b"").await;
    assert_eq!(ran.json()["asked"], "..2026-11-23");
}

#[tokio::test]
async fn query_says_what_is_not_there_and_exits_with_3() {
    let fake = Fake::start().await;
    for (app, part) in [("nobody", "no app"), ("idle", "idle has no events to 2026-11-22")] {
        let ran = hourmark(&["query", app, "--to", "2026-11-22", "--server", &fake.address], b"").await;
        assert_eq!((ran.code, ran.stdout.as_str()), (3, ""));
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
}

#[tokio::test]
async fn status_and_verify_read_every_node() {
    let fake = Fake::start().await;
    let ran = hourmark(&["status", "--server", &fake.address, "-o", "json"], b"").await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let status = ran.json();
    assert_eq!(status["nodes"][0]["disk_used_bytes"], 4711);
    assert_eq!(status["partitions"][0]["behind"], 2);

    let ran = hourmark(&["verify", "--server", &fake.address, "-o", "csv"], b"").await;
    let table =
        "partition,node,consumed_offset,events,counted,duplicate,quarantined,pending,digest\n0,1,40,12,6,2,1,3,abc\n";
    assert_eq!((ran.code, ran.stdout.as_str()), (0, table));
    assert_eq!(ran.stderr, "all replicas are identical, and every event is accounted for\n");
}
