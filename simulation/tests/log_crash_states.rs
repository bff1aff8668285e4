//! Every state that a crash can leave a log in, enumerated: nothing acknowledged is lost, nothing is invented.
//!
//! A scripted workload runs on a disk that records what is done to it. For every prefix of that trace, every way of
//! tearing what was not synced by then gives a disk that a power cut could have left. The log must open on each of them,
//! and hold what some prefix of the calls had led to: not shorter than what was acknowledged, not longer than what was
//! called. On some of them the opening itself is cut, or the log goes on and is cut again.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

mod support;

use bytes::Bytes;
use cluster::environment::Environment;
use cluster::log::{Error, Log, LogConfig, Record};
use cluster::{GroupId, Offset};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use simulation::environment::{Operation, SECTOR_BYTES, SimulatedDisk, Tear};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use support::{Change, Model, Models, config, content, environment, position, turns};
use tokio::sync::oneshot;

/// In the trace: `k` changes were called.
const CALLED: u64 = 1 << 32;

/// Opens a log with segments of this size.
async fn open(disk: &SimulatedDisk, segment_bytes: u64) -> Result<(Environment, Log), Error> {
    let environment = environment(disk);
    let config = LogConfig { segment_bytes, bytes_max: 4 * segment_bytes, ..config() };
    let log = Log::open(&environment, config).await?;
    Ok((environment, log))
}

/// The changes that were called, and what should be in the log after each number of them.
#[derive(Clone)]
struct History {
    segment_bytes: u64,
    changes: Vec<(GroupId, Change)>,
    after: Vec<Models>,
}

impl History {
    fn new(segment_bytes: u64, start: Models) -> History {
        History { segment_bytes, changes: Vec::new(), after: vec![start] }
    }

    fn now(&self) -> &Models {
        self.after.last().unwrap()
    }

    fn push(&mut self, group: GroupId, change: &Change) {
        let mut models = self.now().clone();
        models.entry(group).or_default().apply(change);
        models.retain(|_, model| *model != Model::default());
        self.after.push(models);
        self.changes.push((group, change.clone()));
    }

    fn calls(&self) -> u64 {
        self.after.len() as u64 - 1
    }
}

/// Draws calls, makes them, and notes in the trace what was called and what was acknowledged.
struct Workload {
    disk: SimulatedDisk,
    log: Log,
    random: StdRng,
    history: Arc<Mutex<History>>,
    term: u64,
}

impl Workload {
    fn new(disk: &SimulatedDisk, log: &Log, seed: u64, history: History) -> Workload {
        let start = history.now();
        let terms = start.values().filter_map(|model| Some(model.state.last?.term.0));
        let term = terms.max().unwrap_or(0) + 1;
        let history = Arc::new(Mutex::new(history));
        Workload { disk: disk.clone(), log: log.clone(), random: StdRng::seed_from_u64(seed), history, term }
    }

    fn called(&self, group: GroupId, change: &Change) -> u64 {
        let mut history = self.history.lock().unwrap();
        history.push(group, change);
        self.disk.note(CALLED + history.calls());
        history.calls()
    }

    fn model(&self, group: GroupId) -> Model {
        self.history.lock().unwrap().now().get(&group).cloned().unwrap_or_default()
    }

    async fn run(&mut self, steps: usize) {
        let mut acknowledged = Vec::new();
        for _ in 0..steps {
            let group = GroupId(self.random.random_range(0..3));
            match self.random.random_range(0..20) {
                0..9 => acknowledged.push(self.append(group).await),
                9..11 => self.vote(group).await,
                11 => self.truncate(group).await,
                12 => self.purge(group).await,
                13 => self.sweep().await,
                14 => self.reset_or_jump(group).await,
                15 | 16 => self.commit(group).await,
                17 => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
                _ => {
                    for done in acknowledged.drain(..) {
                        let () = done.await.unwrap();
                    }
                }
            }
        }
        for done in acknowledged {
            let () = done.await.unwrap();
        }
    }

    async fn append(&mut self, group: GroupId) -> oneshot::Receiver<()> {
        self.term += u64::from(self.random.random_range(0..5) == 0);
        let last = self.model(group).state.last;
        let from = last.map_or(self.random.random_range(0..3), |last| last.offset.0 + 1);
        let mut records = Vec::new();
        for offset in from..from + self.random.random_range(1..4) {
            let is_large = self.log.payload_bytes_max() > 1000 && self.random.random_range(0..12) == 0;
            let most = if is_large { self.log.payload_bytes_max() } else { 300 };
            let mut payload = vec![0; self.random.random_range(0..most)];
            self.random.fill_bytes(&mut payload);
            records.push(Record { position: position(self.term, offset), kind: 7, payload: Bytes::from(payload) });
        }
        let (sender, done) = oneshot::channel();
        // Whoever waited may have been cut.
        self.submit(group, records, |()| sender.send(()).unwrap_or(())).await;
        done
    }

    async fn submit(&self, group: GroupId, records: Vec<Record>, done: impl FnOnce(()) + Send + 'static) {
        let first = records[0].clone();
        let called = records.iter().map(|record| self.called(group, &Change::Entry(record.clone()))).last().unwrap();
        let disk = self.disk.clone();
        let on_disk = move |result: io::Result<()>| {
            result.unwrap();
            disk.note(called);
            done(());
        };
        self.log.group(group).append(records, Box::new(on_disk)).await.unwrap();
        let offset = first.position.offset;
        let read = self.log.group(group).read(offset..offset.next(), 0).await.unwrap();
        assert_eq!(read, [first], "readable on return");
    }

    async fn vote(&mut self, group: GroupId) {
        let vote = self.random.next_u64().to_le_bytes().to_vec();
        let called = self.called(group, &Change::Vote(vote.clone()));
        self.log.group(group).save_vote(vote.into()).await.unwrap();
        self.disk.note(called);
    }

    async fn truncate(&mut self, group: GroupId) {
        let model = self.model(group);
        let kept = self.random.random_range(0..=model.entries.len());
        let last = kept.checked_sub(1).map(|at| model.entries[at].position).or(model.state.purged);
        self.called(group, &Change::Truncate(last));
        self.log.group(group).truncate_after(last).await.unwrap();
    }

    async fn purge(&mut self, group: GroupId) {
        let model = self.model(group);
        if model.entries.is_empty() {
            return;
        }
        let upto = model.entries[self.random.random_range(0..model.entries.len())].position;
        self.called(group, &Change::Purge(upto));
        self.log.group(group).purge(upto).await.unwrap();
    }

    /// Purges almost everything, so that segments go.
    async fn sweep(&mut self) {
        for group in (0..3).map(GroupId) {
            if let [.., upto, _] = &self.model(group).entries[..] {
                self.called(group, &Change::Purge(upto.position));
                self.log.group(group).purge(upto.position).await.unwrap();
            }
        }
    }

    /// Makes a change that another log went through, with other bytes of the same length and in another term.
    async fn repeat(&mut self, group: GroupId, change: &Change) {
        let model = self.model(group);
        let here = |offset: Offset| model.entries.iter().map(|entry| entry.position).find(|here| here.offset == offset);
        match change {
            Change::Entry(record) => {
                let offset = model.state.last.map_or(record.position.offset, |last| last.offset.next());
                let payload: Vec<u8> = record.payload.iter().map(|byte| !byte).collect();
                let record = Record { position: position(self.term, offset.0), kind: 7, payload: payload.into() };
                self.submit(group, vec![record], |_| {}).await;
            }
            Change::Truncate(Some(last)) => {
                if let Some(last) = here(last.offset) {
                    self.called(group, &Change::Truncate(Some(last)));
                    self.log.group(group).truncate_after(Some(last)).await.unwrap();
                }
            }
            Change::Purge(upto) => {
                if let Some(upto) = here(upto.offset) {
                    self.called(group, &Change::Purge(upto));
                    self.log.group(group).purge(upto).await.unwrap();
                }
            }
            Change::Committed(_) => self.commit(group).await,
            Change::Reset => {
                self.called(group, change);
                self.log.group(group).reset().await.unwrap();
            }
            Change::Vote(_) | Change::Truncate(None) => self.vote(group).await,
        }
    }

    async fn reset_or_jump(&mut self, group: GroupId) {
        if self.random.random() {
            self.called(group, &Change::Reset);
            self.log.group(group).reset().await.unwrap();
            return;
        }
        let last = self.model(group).state.last.map_or(0, |last| last.offset.0);
        let upto = position(self.term, last + self.random.random_range(1..5));
        self.called(group, &Change::Purge(upto));
        self.log.group(group).purge(upto).await.unwrap();
    }

    async fn commit(&mut self, group: GroupId) {
        let committed = self.model(group).entries.last().map(|record| record.position);
        self.called(group, &Change::Committed(committed));
        self.log.group(group).save_committed(committed).await.unwrap();
    }
}

/// What the trace says about a moment: how many changes were acknowledged, and how many called.
#[derive(Clone, Copy, Default, Debug)]
struct Bounds {
    acknowledged: u64,
    called: u64,
}

impl Bounds {
    fn note(&mut self, operation: &Operation) {
        match operation {
            Operation::Note(note) if *note > CALLED => self.called = note - CALLED,
            // A note may be older than one before it: a vote's is put down only when its caller wakes.
            Operation::Note(note) => self.acknowledged = self.acknowledged.max(*note),
            _ => {}
        }
    }
}

/// Every way of tearing what is not synced; more of them the smaller it is.
fn tears(disk: &SimulatedDisk, seed: u64) -> Vec<Tear> {
    let (count, bytes) = (disk.unsynced_count(), disk.unsynced_bytes());
    if count == 0 {
        return vec![Tear::Nothing];
    }
    let mut tears = vec![Tear::Nothing, Tear::Everything];
    let fine = (8..bytes.min(SECTOR_BYTES)).step_by(8);
    let coarse = (SECTOR_BYTES..bytes).step_by(SECTOR_BYTES as usize / 4);
    tears.extend(fine.chain(coarse).map(Tear::Prefix));
    if count > 1 {
        tears.extend((1..(1 << count.min(4)) - 1).map(Tear::Subset));
    }
    for seed in (0..4).map(|number| seed * 4 + number) {
        tears.push(Tear::Shred { seed, grain: SECTOR_BYTES, garbage: false });
        tears.push(Tear::Shred { seed, grain: 8, garbage: seed % 2 == 0 });
    }
    tears
}

/// Opens the log and finds the number of changes that led to what is in it.
async fn recover(disk: &SimulatedDisk, bounds: Bounds, history: &History, what: &str) -> usize {
    let (environment, log) = match open(disk, history.segment_bytes).await {
        Ok(opened) => opened,
        Err(error) => panic!("{what}: {error}"),
    };
    let found = content(&log).await.unwrap();
    environment.tasks.shutdown();
    let allowed = bounds.acknowledged as usize..=bounds.called as usize;
    let states = &history.after[allowed.clone()];
    match states.iter().rposition(|models| *models == found) {
        Some(at) => allowed.start() + at,
        None => panic!(
            "{what}: not what {allowed:?} calls lead to:\n{}\nafter the last:\n{}\nacknowledged:\n{}",
            shown(&found),
            shown(&states[states.len() - 1]),
            shown(&states[0])
        ),
    }
}

fn shown(models: &Models) -> String {
    let groups = models.iter().map(|(group, model)| {
        let entries: Vec<_> =
            model.entries.iter().map(|entry| (entry.position.to_string(), entry.payload.len())).collect();
        format!("  {}: {:?} {entries:?}", group.0, model.state)
    });
    groups.collect::<Vec<_>>().join("\n")
}

/// Cuts the opening of a crashed log at each of its operations.
async fn cut_recovery(crashed: &SimulatedDisk, bounds: Bounds, history: &History, what: &str) -> usize {
    let disk = crashed.fork();
    disk.record();
    recover(&disk, bounds, history, what).await;
    let trace = disk.recorded();
    let disk = crashed.fork();
    let mut states = 0;
    for (number, operation) in trace.iter().enumerate() {
        disk.apply(operation);
        let shred = Tear::Shred { seed: number as u64, grain: 8, garbage: true };
        for tear in [Tear::Nothing, Tear::Everything, shred] {
            let torn = disk.fork().crash_with(tear);
            recover(&torn, bounds, history, &format!("{what}, opening cut after {operation:?}, {tear:?}")).await;
            states += 1;
        }
    }
    states
}

/// What a second life does.
#[derive(Clone, Copy, Debug)]
enum Life {
    /// Anything.
    Random,
    /// What the first life had done next, with other bytes: remains of the first life stand where they could be mistaken.
    Repeated,
}

/// Goes on with a crashed log, then cuts the power again at every operation.
async fn go_on(crashed: &SimulatedDisk, at: usize, life: Life, seed: u64, first: &History, what: &str) -> usize {
    let disk = crashed.fork();
    disk.record();
    let (environment, log) = open(&disk, first.segment_bytes).await.unwrap();
    let mut workload = Workload::new(&disk, &log, seed, History::new(first.segment_bytes, first.after[at].clone()));
    match life {
        Life::Random => workload.run(6).await,
        Life::Repeated => {
            for (group, change) in first.changes[at..].iter().take(12) {
                workload.repeat(*group, change).await;
            }
            turns(20).await;
        }
    }
    environment.tasks.shutdown();
    let history = workload.history.lock().unwrap().clone();
    let trace = disk.recorded();
    let disk = crashed.fork();
    let mut bounds = Bounds::default();
    let mut states = 0;
    for (number, operation) in trace.iter().enumerate() {
        disk.apply(operation);
        bounds.note(operation);
        for garbage in [false, true] {
            let tear = Tear::Shred { seed: number as u64, grain: 8, garbage };
            let torn = disk.fork().crash_with(tear);
            recover(&torn, bounds, &history, &format!("{what}, {life:?} until {number}, {tear:?}")).await;
            states += 1;
        }
    }
    states
}

/// Opens a crashed log and drops its entries, so that its old segments go; nothing else may go with them.
async fn outlive(crashed: &SimulatedDisk, at: usize, first: &History, what: &str) {
    let disk = crashed.fork();
    let (environment, log) = open(&disk, first.segment_bytes).await.unwrap();
    let mut models = first.after[at].clone();
    for (group, model) in &mut models {
        if let Some(last) = model.state.last {
            model.apply(&Change::Purge(last));
            log.group(*group).purge(last).await.unwrap();
        }
    }
    let group = GroupId(7);
    let vote = Change::Vote(vec![7]);
    models.entry(group).or_default().apply(&vote);
    log.group(group).save_vote(Bytes::from_static(&[7])).await.unwrap();
    turns(30).await;
    log.close().await;
    environment.tasks.shutdown();
    let (environment, log) = open(&disk.crash_with(Tear::Nothing), first.segment_bytes).await.unwrap();
    assert_eq!(shown(&content(&log).await.unwrap()), shown(&models), "{what}, outlived");
    environment.tasks.shutdown();
}

/// Kills the process alone, opens the log, and cuts the power before anything more was written: what was found stays.
async fn outlast(disk: &SimulatedDisk, bounds: Bounds, history: &History, what: &str) {
    let disk = disk.fork();
    let at = recover(&disk, bounds, history, &format!("{what}, killed")).await as u64;
    let bounds = Bounds { acknowledged: at, called: at };
    recover(&disk.crash_with(Tear::Nothing), bounds, history, &format!("{what}, killed, opened and cut")).await;
}

/// How many states were checked, and how often the workload had recycled a segment.
async fn enumerate(seed: u64, steps: usize) -> (usize, usize) {
    // Of one block, and of several: then what a torn write or an older generation left is not all gone with the next write.
    let segment_bytes = if seed % 4 < 2 { 4096 } else { 4 * 4096 };
    let disk = SimulatedDisk::new(seed);
    disk.record();
    let (environment, log) = open(&disk, segment_bytes).await.unwrap();
    let mut workload = Workload::new(&disk, &log, seed, History::new(segment_bytes, Models::new()));
    workload.run(steps).await;
    log.close().await;
    environment.tasks.shutdown();
    let history = workload.history.lock().unwrap().clone();
    let trace = disk.recorded();

    let disk = SimulatedDisk::new(seed);
    let mut bounds = Bounds::default();
    let mut states = 0;
    for (number, operation) in trace.iter().enumerate() {
        disk.apply(operation);
        bounds.note(operation);
        outlast(&disk, bounds, &history, &format!("seed {seed}, after operation {number}")).await;
        for tear in tears(&disk, number as u64) {
            let what = format!("seed {seed}, after operation {number} ({tear:?})");
            let crashed = disk.fork().crash_with(tear);
            let at = recover(&crashed.fork(), bounds, &history, &what).await;
            states += 1;
            if states % 97 == 0 {
                states += cut_recovery(&crashed, bounds, &history, &what).await;
            }
            if states % 3 == 0 {
                outlive(&crashed, at, &history, &what).await;
                states += 1;
            }
            if states % 23 == 0 {
                let life = if states % 2 == 0 { Life::Random } else { Life::Repeated };
                states += go_on(&crashed, at, life, number as u64, &history, &what).await;
            }
        }
    }
    assert_eq!(bounds.called, history.calls());
    let recycled = trace
        .iter()
        .filter(|operation| matches!(operation, Operation::Rename(from, ..) if *from != Path::new("log/next.tmp")));
    (states, recycled.count())
}

#[tokio::test(start_paused = true)]
async fn every_crash_state_recovers_to_what_was_called() {
    let (mut states, mut recycled) = (0, 0);
    for seed in 0..32 {
        let (more, recycled_more) = enumerate(seed, 80).await;
        states += more;
        recycled += recycled_more;
    }
    println!("{states} crash states, {recycled} segments recycled");
    assert!(states >= 10_000, "{states} crash states are too few to mean anything");
    assert!(recycled >= 20, "only {recycled} segments were recycled");
}
