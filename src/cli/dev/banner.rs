//! What `hourmark dev` tells people: where the cluster is, what to type next, what a death means.

use super::child::Plan;
use super::directory::Directory;
use cluster::environment::{Clock as _, SystemClock};
use std::process::ExitStatus;

/// The way this program was called, so that pasted commands find it again.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "hourmark".into())
}

/// Printed once the cluster is whole.
pub fn text(plans: &[Plan], directory: &Directory) -> String {
    let now = jiff::Timestamp::from_millisecond(SystemClock.now_ms().cast_signed()).unwrap_or_default();
    compose(plans, &directory.sentence(), &program(), &now.to_string())
}

fn compose(plans: &[Plan], data: &str, program: &str, now: &str) -> String {
    let (first, last) = (&plans[0], &plans[plans.len() - 1]);
    let addresses: String = plans.iter().map(|plan| format!("  {:<10}  {}\n", plan.name, plan.url())).collect();
    let nodes = if plans.len() == 1 { "one node is".to_owned() } else { format!("{} nodes are", plans.len()) };
    format!(
        "\n{nodes} up and ready for events; {data}\n\n{addresses}  dashboard   {url}/\n\n\
         Send an event:\n  \
         curl -sS {url}/v1/events -H 'Content-Type: application/x-ndjson' -d '{{\"app_id\":\"checkout\",\"timestamp\":\"{now}\",\"response_time_ms\":12.75}}'\n\
         Send a file of them:\n  {program} send events.ndjson --server {url}\n\
         Ask for an app's hours:\n  {program} query checkout --server {last_url}\n\
         Look at the cluster:\n  {program} status --server {url}\n\n\
         Ctrl-C stops all nodes.\n",
        url = first.url(),
        last_url = last.url(),
    )
}

/// Printed when a node has ended by itself.
pub fn death(plan: &Plan, status: &ExitStatus, left: usize, all: usize) -> String {
    let consequence = if left * 2 > all {
        format!("the cluster goes on with {left} of {all}")
    } else {
        format!("{left} of {all} are left: no majority, writes wait until one is back")
    };
    let command: Vec<_> = plan.arguments().iter().map(|argument| quoted(argument)).collect();
    format!("{} ended ({status}); {consequence}. Bring it back:\n  {} {}", plan.name, program(), command.join(" "))
}

/// An argument as a shell reads it back.
fn quoted(argument: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+".contains(c);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    fn plan(number: u16) -> Plan {
        Plan {
            name: format!("node-{number}"),
            http_port: 3590 + 10 * number,
            join_port: (number > 1).then_some(3601),
            data_dir: format!("/tmp/a b/node-{number}").into(),
            flags: vec!["--max-future".into(), "off".into()],
            is_verbose: false,
        }
    }

    #[test]
    fn the_banner_holds_addresses_and_commands_to_paste() {
        let text =
            compose(&[plan(1), plan(2)], "data in d, kept", "target/release/hourmark", "2026-11-22T20:15:03.123Z");
        for part in [
            "2 nodes are up",
            "node-1      http://127.0.0.1:3600\n",
            "node-2      http://127.0.0.1:3610\n",
            "dashboard   http://127.0.0.1:3600/\n",
            r#"-d '{"app_id":"checkout","timestamp":"2026-11-22T20:15:03.123Z","response_time_ms":12.75}'"#,
            "target/release/hourmark query checkout --server http://127.0.0.1:3610\n",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }

    #[test]
    fn a_death_tells_the_consequence_and_the_way_back() {
        let killed = ExitStatus::from_raw(9);
        let text = death(&plan(2), &killed, 2, 3);
        assert!(text.contains("node-2 ended (signal: 9 (SIGKILL)); the cluster goes on with 2 of 3"), "{text}");
        assert!(text.ends_with(
            " start --data-dir '/tmp/a b/node-2' --http-addr 127.0.0.1:3610 --cluster-addr 127.0.0.1:3611 --node-name node-2 \
             --join 127.0.0.1:3601 --max-future off"
        ));
        assert!(death(&plan(2), &killed, 1, 3).contains("no majority"));
    }
}
