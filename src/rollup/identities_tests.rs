//! Verdicts, and what is forgotten when.

use super::*;
use crate::domain::{EventTime, ProducerId, Sequence};
use crate::format::golden;
use crate::rollup::windows::{Chunk, Window};
use Verdict::{Accepted, Expired, Reused, TableFull};

const HOUR_MS: u64 = MS_PER_HOUR;

fn limits() -> Limits {
    Limits { sequences_min: 4, remembered_max: 60, edge_span: 4, edges_max: 2 }
}

/// A log of entries of one part each, from edges that never repeat themselves.
struct Log {
    identities: Identities,
    offset: u64,
    now_ms: u64,
}

impl Log {
    fn new() -> Log {
        let limits = Limits { edges_max: 1000, ..limits() };
        Log { identities: Identities::new(limits), offset: 0, now_ms: 1000 * HOUR_MS }
    }

    fn entry(&mut self, edge: u128, edge_sequence: u64, identities: Vec<Option<Identity>>) -> Decision {
        self.offset += 1;
        let header = Header { edge, edge_sequence, stamp_ms: self.now_ms, identities };
        self.identities.decide(self.offset, &header)
    }

    fn send(&mut self, producer: &str, sequence: u64, body_hash: u64) -> Verdict {
        let identity = identity(producer, sequence, body_hash);
        let offset = self.offset;
        let decision = self.entry(7, offset, vec![Some(identity)]);
        decision.verdicts().parts[0]
    }
}

const LIMITS: TimeLimits = TimeLimits { earliest: EventTime(0), latest: EventTime(300) };

fn repeat(offset: u64) -> Verdict {
    Verdict::Duplicate { offset, limits: LIMITS }
}

fn identity(producer: &str, sequence: u64, body_hash: u64) -> Identity {
    Identity { producer: ProducerId::new(producer).unwrap(), sequence: Sequence(sequence), body_hash, limits: LIMITS }
}

#[test]
fn a_repeated_request_is_a_duplicate_and_another_body_is_refused() {
    let mut log = Log::new();
    assert_eq!(log.send("p", 10, 1), Accepted);
    assert_eq!(log.send("p", 10, 1), repeat(1));
    assert_eq!(log.send("p", 10, 2), Reused);
    assert_eq!(log.send("q", 10, 2), Accepted, "another producer");
    assert_eq!(log.send("p", 9, 1), Accepted, "any order");
}

#[test]
fn a_sequence_below_what_is_remembered_is_expired_never_accepted() {
    let mut log = Log::new();
    for sequence in [5, 1_000, 7, u64::MAX, 6] {
        assert_eq!(log.send("p", sequence, 0), Accepted);
    }
    assert_eq!(log.send("p", 5, 0), Expired, "the fifth newest");
    assert_eq!(log.send("p", 4, 0), Expired, "never seen, but below");
    assert_eq!(log.send("p", 6, 0), repeat(5));
    assert_eq!(log.send("p", 8, 0), Accepted, "never seen, and above");
    assert_eq!(log.send("p", 6, 0), Expired);
}

#[test]
fn a_sequence_that_comes_as_the_lowest_of_a_full_window_is_expired() {
    let mut log = Log::new();
    for sequence in [10, 11, 12, 13] {
        log.send("p", sequence, 0);
    }
    assert_eq!(log.send("p", 9, 0), Expired, "it would be forgotten at once, and a retry of it would not be known");
    assert_eq!(log.send("p", 9, 0), Expired);
    assert_eq!(log.send("p", 10, 0), repeat(1), "the newest four stay");
    assert_eq!(log.send("p", 14, 0), Accepted);
    assert_eq!(log.send("p", 10, 0), Expired);
    assert_eq!(log.send("p", 11, 0), repeat(2));
}

#[test]
fn a_full_table_refuses_new_producers_until_others_were_silent_for_a_day() {
    let mut log = Log::new();
    for (producer, sequences) in [("a", 4), ("b", 4), ("c", 4)] {
        for sequence in 0..sequences {
            assert_eq!(log.send(producer, sequence, 0), Accepted);
        }
    }
    assert_eq!(log.send("d", 0, 0), TableFull);
    log.now_ms += 20 * HOUR_MS;
    log.send("a", 9, 0);
    log.now_ms += 4 * HOUR_MS;
    assert_eq!(log.send("d", 0, 0), TableFull, "24 hours, but not a whole day for sure");
    log.now_ms += HOUR_MS;
    assert_eq!(log.send("d", 0, 0), Accepted);
    assert_eq!(log.send("a", 9, 0), repeat(14), "it was not silent");
    assert_eq!(log.send("c", 3, 0), repeat(12), "one had to go, the first by name");
    assert_eq!(log.send("b", 3, 0), Accepted, "forgotten");
    assert_eq!(log.send("e", 0, 0), TableFull, "and that filled the room");
}

#[test]
fn a_known_producer_of_a_full_table_goes_on_and_is_refused_before_anything_is_forgotten() {
    let limits = Limits { sequences_min: 1000, edges_max: 1000, ..limits() };
    let mut log = Log { identities: Identities::new(limits), ..Log::new() };
    let verdicts: Vec<_> = (0..200).map(|sequence| log.send("a", sequence, 0)).collect();
    let accepted = verdicts.iter().take_while(|verdict| **verdict == Accepted).count();
    assert!((60..120).contains(&accepted), "beyond a full table, not for ever: {accepted}");
    assert!(verdicts[accepted..].iter().all(|verdict| *verdict == TableFull));
    assert_eq!(log.send("b", 0, 0), TableFull);
    for (sequence, offset) in (0..accepted as u64).zip(1..) {
        assert_eq!(log.send("a", sequence, 0), repeat(offset), "what was accepted stays remembered");
    }
}

#[test]
fn clocks_that_go_back_make_nobody_older() {
    let mut log = Log::new();
    log.send("a", 0, 0);
    log.now_ms -= 500 * HOUR_MS;
    log.send("b", 0, 0);
    assert_eq!(log.identities.clock_ms, 1000 * HOUR_MS);
    assert_eq!(log.identities.producers.oldest().unwrap().0, 1000);
}

#[test]
fn an_entry_that_is_appended_again_gets_the_first_answer() {
    let mut log = Log::new();
    let parts = || vec![None, Some(identity("p", 1, 1)), None];
    let first = log.entry(1, 50, parts());
    assert_eq!(first, Decision::Fresh(Verdicts { offset: 1, parts: vec![Accepted; 3] }));
    assert_eq!(log.entry(1, 50, parts()), Decision::Repeated(first.verdicts().clone()));
    let second = log.entry(1, 51, parts());
    assert_eq!(second.verdicts().parts, [Accepted, repeat(1), Accepted]);
    let again = log.entry(1, 51, parts());
    let told = Verdicts { offset: 3, parts: vec![Accepted, repeat(1), Accepted] };
    assert_eq!(again, Decision::Repeated(told), "told an offset that the first one lies before");
}

#[test]
fn an_entry_that_comes_after_its_edge_has_moved_on_counts_nothing() {
    let mut log = Log::new();
    log.entry(1, 10, vec![None]);
    log.entry(1, 14, vec![None]);
    let late = log.entry(1, 10, vec![None]);
    assert_eq!(late, Decision::Repeated(Verdicts { offset: 3, parts: vec![Expired] }));
    assert!(matches!(log.entry(1, 11, vec![None]), Decision::Fresh(_)), "within the span");
}

#[test]
fn edges_are_bounded_and_silent_ones_make_room() {
    let mut log = Log::new();
    log.identities = Identities::new(limits());
    log.entry(1, 0, vec![None]);
    log.entry(2, 0, vec![None]);
    assert_eq!(log.entry(3, 0, vec![None]).verdicts().parts, [TableFull]);
    log.now_ms += 2 * HOUR_MS;
    assert_eq!(log.entry(2, 1, vec![None]).verdicts().parts, [Accepted]);
    assert_eq!(log.entry(3, 0, vec![None]).verdicts().parts, [Accepted]);
    assert!(matches!(log.entry(2, 1, vec![None]), Decision::Repeated(_)), "it was not silent");
}

#[test]
fn the_digest_is_of_what_is_remembered_not_of_how_it_came_about() {
    let mut log = Log::new();
    let empty = log.identities.digest();
    log.send("a", 1, 1);
    assert_ne!(log.identities.digest(), empty);
    log.identities.producers.evict(b"a");
    log.identities.edges.evict(&7u128.to_be_bytes());
    assert_eq!(log.identities.digest(), empty);
    assert_eq!((log.identities.producers.remembered(), log.identities.edges.remembered()), (0, 0));
}

#[test]
fn layouts_of_windows_never_change() {
    let mut log = Log::new();
    for sequence in [3, 300, 301] {
        log.send("p", sequence, 0x0102_0304_0506_0708);
    }
    log.identities.producers.raise_floor(b"p", 4, 9);
    let window = log.identities.producers.window(b"p").unwrap();
    golden::check("producer-head-v1", &window.encode_head());
    assert_eq!(Window::<First>::decode_head(&golden::read("producer-head-v1")), Ok((4, 1000)));
    golden::check("producer-chunk-v1", &window.chunk(1).unwrap().encode());
    let slots = Chunk::<First>::decode(&golden::read("producer-chunk-v1")).unwrap();
    let first = |offset| First { body_hash: 0x0102_0304_0506_0708, offset, limits: LIMITS };
    assert_eq!(slots, [(44, first(2)), (45, first(3))]);

    let mut parts = vec![Accepted; 300];
    parts.extend([repeat(5), Reused, Expired, TableFull]);
    log.identities.edges.admit(b"edge", 5);
    log.identities.edges.insert(b"edge", 9, Answer::of(&Verdicts { offset: 70_000, parts: parts.clone() }), 70_000);
    golden::check("edge-chunk-v1", &log.identities.edges.window(b"edge").unwrap().chunk(1).unwrap().encode());
    let slots = Chunk::<Answer>::decode(&golden::read("edge-chunk-v1")).unwrap();
    assert_eq!(slots, [(1, Answer::of(&Verdicts { offset: 70_000, parts }))]);
}

#[test]
fn the_largest_rows_fit_a_chunk_of_a_snapshot() {
    let verdicts = [Accepted, Reused].into_iter().cycle().take(PARTS_MAX).collect();
    let mut bytes = Vec::new();
    Answer::of(&Verdicts { offset: u64::MAX, parts: verdicts }).encode(&mut bytes);
    let largest = bytes.len() * usize::try_from(Answer::CHUNK_SEQUENCES).unwrap();
    assert!(largest + 1000 < cluster::SNAPSHOT_CHUNK_BYTES_MAX, "{largest}");
    let mut bytes = Vec::new();
    First {
        body_hash: u64::MAX,
        offset: u64::MAX,
        limits: TimeLimits { earliest: EventTime(u64::MAX), latest: EventTime(u64::MAX) },
    }
    .encode(&mut bytes);
    assert!((bytes.len() + 1) * 256 < 10_000);
}

#[test]
fn a_repeat_of_what_is_forgotten_is_expired() {
    let mut log = Log::new();
    log.send("p", 1, 1);
    let twice = vec![Some(identity("p", 1, 1))];
    assert_eq!(log.entry(1, 50, twice.clone()).verdicts().parts, [repeat(1)]);
    assert_eq!(log.entry(1, 50, twice.clone()).verdicts().parts, [repeat(1)]);
    log.identities.producers.raise_floor(b"p", 2, 4);
    assert_eq!(log.entry(1, 50, twice), Decision::Repeated(Verdicts { offset: 2, parts: vec![Expired] }));
}

proptest::proptest! {
    #[test]
    fn any_bytes_behind_a_good_checksum_are_read_without_panic(bytes: Vec<u8>) {
        use crate::format::codec;
        let mut sealed = codec::begin(1);
        sealed.extend_from_slice(&bytes);
        let sealed = codec::seal(sealed);
        let _ = (Chunk::<First>::decode(&sealed), Chunk::<Answer>::decode(&sealed), Window::<First>::decode_head(&sealed));
    }
}
