//! Bodies of lines: every line has one verdict, however it is reached.
//!
//! A body is read whole, where forms are learned from the lines before; then each line alone; then each line with a field before
//! it that only the exact reader understands. All three must say the same.

#![no_main]

use fuzz::LIMITS;
use hourmark::format::Batch;
use hourmark::ingest::{Kind, Reason, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let whole = read(body);
    let mut numbered = Vec::new();
    let mut events = 0;
    for (number, line) in (1..).zip(body.split(|byte| *byte == b'\n')) {
        let alone = read(line);
        events += count(&alone);
        numbered.extend(alone.rejections.listed.iter().map(|(_, reason)| (number, *reason)));
        check_slowly(line, &alone);
    }
    assert_eq!(whole.rejections.listed, numbered);
    assert_eq!(count(&whole), events);
    // The same bytes as JSON: one object, or an array of them.
    let json = Request::read(body, Kind::Json, LIMITS, &slots()).expect("a body as small as this");
    assert!(json.rejections.count + count(&json) <= 1 + body.len() as u64);
});

/// A field with an escape in its name is nothing that the quick ways read, and nothing that the rules know.
fn check_slowly(line: &[u8], alone: &Request) {
    let Some(rest) = line.strip_prefix(b"{") else { return };
    if !matches!(rest.trim_ascii_start().first(), Some(b'"')) {
        return;
    }
    let slow = read(&[b"{\"\\u0078\":[],", rest].concat());
    assert_eq!(reasons(alone), reasons(&slow));
    assert_eq!(events_of(alone), events_of(&slow));
}

fn read(body: &[u8]) -> Request {
    Request::read(body, Kind::Lines, LIMITS, &slots()).expect("a body as small as this")
}

fn slots() -> Vec<cluster::PartitionId> {
    (0..cluster::SLOTS).map(|slot| cluster::PartitionId((slot % 3) as u16)).collect()
}

fn reasons(request: &Request) -> Vec<Reason> {
    request.rejections.listed.iter().map(|(_, reason)| *reason).collect()
}

fn count(request: &Request) -> u64 {
    request.partitions.values().map(|partition| u64::from(partition.events)).sum()
}

/// Every event of every partition, decoded again.
fn events_of(request: &Request) -> Vec<(u16, Vec<u64>, Vec<u8>)> {
    let decoded = request.partitions.iter().map(|(partition, events)| {
        let batch = Batch::decode(&events.batch).expect("what was made here can be read here");
        (partition.0, batch.times().map(|time| time.0).collect(), events.batch.to_vec())
    });
    decoded.collect()
}
