//! Replicas that restart, write out and install snapshots at different times come to the same state: the model's.

use super::disk::Crash;
use super::world::{Event, Log, PlainPart, Replica, events};
use crate::domain::{MS_PER_HOUR, Verdict};
use crate::format::EventsEntry;
use crate::rollup::CheckpointAnswer;
use crate::rollup::identities::Limits;
use bytes::Bytes;
use cluster::{Payload, StateMachine};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
enum Step {
    /// A new entry of an edge, after some hours.
    Events {
        edge: u128,
        hours: u64,
        parts: Vec<PlainPart>,
    },
    /// An entry is appended again.
    Again(prop::sample::Index),
    Membership,
    Blank,
    Garbage(Vec<u8>),
    /// An aggregator folds a share of what is behind `consumed`, and may set an entry aside.
    Checkpoint {
        share: prop::sample::Index,
        poisoned: Option<prop::sample::Index>,
        is_early: bool,
    },
    /// The last checkpoint is appended again: an aggregator that did not learn its outcome.
    StaleCheckpoint,
    WriteOut(usize),
    Restart(usize, Crash),
    /// The first takes over the state of the second.
    Install(usize, usize),
}

const REPLICAS: usize = 3;

fn part(sequences: u64) -> impl Strategy<Value = PlainPart> {
    let identity = prop::option::weighted(0.8, (0u8..4, 0..sequences, 0u64..2));
    let value = prop_oneof![3 => 0u64..2_000_000_000, 1 => Just(0u64), 1 => 0u64..=100_000_000_000_000_000];
    let event = (0u8..4, 0u8..3, value).prop_map(|event: Event| event);
    (identity, prop::collection::vec(event, 0..30))
}

fn step(sequences: u64, hours: u64) -> impl Strategy<Value = Step> {
    let parts = prop::collection::vec(part(sequences), 0..5);
    let replica = || 0..REPLICAS;
    prop_oneof![
        12 => (0u128..3, 0..=hours, parts).prop_map(|(edge, hours, parts)| Step::Events { edge, hours, parts }),
        3 => any::<prop::sample::Index>().prop_map(Step::Again),
        1 => Just(Step::Membership),
        1 => Just(Step::Blank),
        1 => prop::collection::vec(any::<u8>(), 0..9).prop_map(Step::Garbage),
        5 => (any::<prop::sample::Index>(), prop::option::weighted(0.2, any::<prop::sample::Index>()), prop::bool::weighted(0.2))
            .prop_map(|(share, poisoned, is_early)| Step::Checkpoint { share, poisoned, is_early }),
        2 => Just(Step::StaleCheckpoint),
        3 => replica().prop_map(Step::WriteOut),
        2 => (replica(), prop_oneof![Just(Crash::Kill), Just(Crash::PowerCut)])
            .prop_map(|(replica, crash)| Step::Restart(replica, crash)),
        1 => (replica(), replica()).prop_map(|(to, from)| Step::Install(to, from)),
    ]
}

/// The plain rule of exactly once, without forgetting.
#[derive(Default)]
struct PlainIdentities {
    edges: BTreeMap<(u128, u64), u64>,
    producers: BTreeMap<(String, u64), (u64, u64)>,
}

impl PlainIdentities {
    fn verdicts(&mut self, offset: u64, entry: &EventsEntry) -> Option<Vec<Verdict>> {
        if self.edges.contains_key(&(entry.edge, entry.edge_sequence)) {
            return None;
        }
        self.edges.insert((entry.edge, entry.edge_sequence), offset);
        let judge = |identity: &crate::domain::Identity| {
            let key = (identity.producer.as_str().to_owned(), identity.sequence.0);
            match self.producers.get(&key) {
                None => {
                    self.producers.insert(key, (identity.body_hash, offset));
                    Verdict::Accepted
                }
                Some((hash, first)) if *hash == identity.body_hash => {
                    Verdict::Duplicate { offset: *first, limits: identity.limits }
                }
                Some(_) => Verdict::Reused,
            }
        };
        let mut judge = judge;
        Some(entry.parts.iter().map(|part| part.identity.as_ref().map_or(Verdict::Accepted, &mut judge)).collect())
    }
}

struct Run {
    log: Log,
    replicas: Vec<Replica>,
    entries: Vec<EventsEntry>,
    now_ms: u64,
    plain: Option<PlainIdentities>,
    last_checkpoint: Option<crate::format::Checkpoint>,
}

impl Run {
    fn new(limits: &Limits, plain: Option<PlainIdentities>) -> Run {
        Run {
            log: Log::default(),
            replicas: (0..REPLICAS).map(|_| Replica::new(limits)).collect(),
            entries: Vec::new(),
            now_ms: 1_000_000 * MS_PER_HOUR,
            plain,
            last_checkpoint: None,
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Events { edge, hours, parts } => {
                self.now_ms += hours * MS_PER_HOUR;
                let entry = events(edge, self.entries.len() as u64, self.now_ms, &parts);
                self.entries.push(entry.clone());
                self.events(&entry);
            }
            Step::Again(index) if !self.entries.is_empty() => {
                let entry = index.get(&self.entries).clone();
                self.events(&entry);
            }
            Step::Membership => {
                let members = format!("members {}", self.log.entries.len());
                self.log.push(Payload::Membership(members.into()));
            }
            Step::Blank => {
                self.log.push(Payload::Blank);
            }
            Step::Garbage(bytes) => {
                self.log.push(Payload::Data(Bytes::from([&[9][..], &bytes].concat())));
            }
            Step::Checkpoint { share, poisoned, is_early } => self.checkpoint(share, poisoned, is_early),
            Step::StaleCheckpoint => {
                if let Some(stale) = self.last_checkpoint.clone() {
                    let offset = self.log.push_checkpoint(&stale);
                    self.log.feed(&self.replicas[0]);
                    assert_eq!(self.log.checkpoint_answer(offset), CheckpointAnswer::Skipped);
                }
            }
            Step::WriteOut(replica) => {
                let state = &self.replicas[replica].state;
                state.write_out().await.unwrap();
                assert_eq!(state.durable().position.map(|position| position.offset), state.consumed().through);
            }
            Step::Restart(replica, crash) => {
                let durable = self.replicas[replica].state.durable();
                self.replicas[replica].restart(crash);
                assert_eq!(self.replicas[replica].state.durable(), durable);
            }
            Step::Install(to, from) if to != from => {
                let (to, from) = (&self.replicas[to], &self.replicas[from]);
                to.install_from(from).await;
                assert_eq!(to.state.durable().position.map(|at| at.offset), from.state.consumed().through);
            }
            Step::Again(_) | Step::Install(..) => {}
        }
        for replica in &self.replicas {
            self.log.feed(replica);
        }
    }

    fn events(&mut self, entry: &EventsEntry) {
        let offset = self.log.push_events(entry);
        self.log.feed(&self.replicas[0]);
        if let Some(plain) = &mut self.plain
            && let Some(verdicts) = plain.verdicts(offset.0, entry)
        {
            assert_eq!(self.log.verdicts(offset).parts, verdicts);
        }
    }

    fn checkpoint(&mut self, share: prop::sample::Index, poisoned: Option<prop::sample::Index>, is_early: bool) {
        let replica = &self.replicas[0];
        let Some(applied) = replica.state.applied() else { return };
        let from = replica.state.consumed().through.map_or(0, |consumed| consumed.0 + 1);
        if from > applied.0 {
            return;
        }
        let pick =
            |index: prop::sample::Index, to: u64| from + index.index(usize::try_from(to - from + 1).unwrap()) as u64;
        let base = replica.state.consumed().through.map(|consumed| consumed.0);
        let through = pick(share, applied.0);
        let poisoned: BTreeSet<u64> = poisoned.map(|index| pick(index, through)).into_iter().collect();
        let checkpoint = self.log.fold(replica, base, through, &poisoned);
        if is_early && through < applied.0 {
            // Nobody proposes the second before the first is applied; if someone did, it would never count.
            let second = self.log.fold(replica, Some(through), applied.0, &BTreeSet::new());
            self.log.push_checkpoint(&second);
        }
        replica.state.check(&checkpoint).unwrap();
        let offset = self.log.push_checkpoint(&checkpoint);
        self.log.feed(&self.replicas[0]);
        assert_eq!(self.log.checkpoint_answer(offset), CheckpointAnswer::Applied);
        self.last_checkpoint = Some(checkpoint);
    }

    async fn judge(&mut self) {
        for replica in &self.replicas {
            self.log.compare(replica);
            let digest = replica.state.verify().await.unwrap();
            assert_eq!(digest, self.replicas[0].state.digest());
        }
    }
}

fn run(limits: &Limits, plain: Option<PlainIdentities>, steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut run = Run::new(limits, plain);
        let all = steps.len();
        for (number, step) in steps.into_iter().enumerate() {
            run.step(step).await;
            if number % 8 == 7 || number + 1 == all {
                run.judge().await;
            }
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replicas_come_to_the_models_state_whatever_happens_to_them(steps in prop::collection::vec(step(12, 1), 1..60)) {
        run(&Limits::default(), Some(PlainIdentities::default()), steps);
    }

    /// Tables of a few sequences and days between entries: everything is forgotten sooner or later, on all replicas by the
    /// same entries.
    #[test]
    fn forgetting_depends_on_the_log_alone(steps in prop::collection::vec(step(40, 30), 1..90)) {
        let limits =
            Limits { sequences_min: 4, remembered_max: 44, edge_span: 3, edges_max: 2 };
        run(&limits, None, steps);
    }
}
