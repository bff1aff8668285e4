//! The network: who is there, how good each way is, and what is on the wire.
//!
//! Connections behave as TCP does: bytes arrive in order or not at all; what is lost or held up by a cut is sent again and
//! arrives late; a machine that lost power answers with silence, and with a reset once it is up again and knows nothing of
//! the connection; a process that ends closes its connections.

use super::link::{Link, Quality, retransmission_after_cut};
use super::pipe::{Found, Pipe, Segment};
use super::stream::{SimulatedListener, SimulatedStream};
use super::time;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

/// Connections that wait to be accepted at most.
const BACKLOG_MAX: usize = 1024;

/// How long until a request to connect that was lost is sent again.
const CONNECT_AGAIN: Duration = Duration::from_secs(1);

/// A machine on the network.
pub(super) type MachineId = usize;

/// The network of a world. Clones are the same network.
#[derive(Clone)]
pub struct SharedNetwork(Arc<Mutex<Network>>);

struct Network {
    random: StdRng,
    names: Vec<String>,
    presences: Vec<Presence>,
    links: BTreeMap<(MachineId, MachineId), Link>,
    quality: Quality,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    wire: BTreeMap<(Duration, u64), Arrival>,
    next_arrival: u64,
}

#[derive(Default)]
struct Presence {
    is_up: bool,
    /// Counts power cuts: connections of an older life are unknown to the machine.
    life: u64,
    listeners: BTreeMap<u16, Backlog>,
}

#[derive(Default)]
struct Backlog {
    connections: VecDeque<u64>,
    waker: Option<Waker>,
}

struct Connection {
    ends: [End; 2],
    /// `pipes[i]` leads from `ends[i]` to the other.
    pipes: [Pipe; 2],
    has_lost_segments: bool,
}

#[derive(Clone, Copy)]
struct End {
    machine: MachineId,
    life: u64,
    is_open: bool,
}

enum Arrival {
    Segment(u64, usize, Segment),
    /// What was held up by a cut is sent again.
    Again(u64, usize),
    Reset(u64),
}

impl SharedNetwork {
    /// A network without machines; `quality` is that of every way that has no other.
    pub fn new(seed: u64, quality: Quality) -> SharedNetwork {
        SharedNetwork(Arc::new(Mutex::new(Network {
            random: StdRng::seed_from_u64(seed),
            names: Vec::new(),
            presences: Vec::new(),
            links: BTreeMap::new(),
            quality,
            connections: BTreeMap::new(),
            next_connection: 0,
            wire: BTreeMap::new(),
            next_arrival: 0,
        })))
    }

    /// Adds a machine that is up.
    pub fn add(&self, name: &str) {
        let mut network = self.lock();
        assert!(network.find(name).is_none(), "machine {name} is there already");
        network.names.push(name.to_owned());
        network.presences.push(Presence { is_up: true, ..Presence::default() });
    }

    /// All machines, in the order they were added.
    pub fn names(&self) -> Vec<String> {
        self.lock().names.clone()
    }

    /// A machine loses power: nothing leaves it any more, not even the news.
    pub fn power_off(&self, name: &str) {
        let mut network = self.lock();
        let id = network.id(name);
        let presence = &mut network.presences[id];
        presence.is_up = false;
        presence.life += 1;
        presence.listeners.clear();
    }

    /// It is up again.
    pub fn power_on(&self, name: &str) {
        let mut network = self.lock();
        let id = network.id(name);
        if !std::mem::replace(&mut network.presences[id].is_up, true) {
            network.reset_forgotten(id);
        }
    }

    /// Cuts the way from one machine to another, once more.
    pub fn cut(&self, from: &str, to: &str) {
        self.lock().link(from, to).cuts += 1;
    }

    /// Takes one cut back.
    pub fn mend(&self, from: &str, to: &str) {
        let mut network = self.lock();
        let link = network.link(from, to);
        link.cuts = link.cuts.saturating_sub(1);
        if !link.is_cut() {
            let (from, to) = (network.id(from), network.id(to));
            network.send_again(from, to);
        }
    }

    /// Changes how good a way is; `None` is as good as all others.
    pub fn set_quality(&self, from: &str, to: &str, quality: Option<Quality>) {
        let mut network = self.lock();
        let quality = quality.unwrap_or(network.quality);
        network.link(from, to).quality = quality;
    }

    /// How good ways are that nothing was said of.
    pub fn quality(&self) -> Quality {
        self.lock().quality
    }

    /// When the next thing arrives.
    pub fn next_arrival(&self) -> Option<Duration> {
        self.lock().wire.first_key_value().map(|((at, _), _)| *at)
    }

    /// Delivers everything that arrives up to `now`.
    pub fn deliver(&self, now: Duration) {
        let mut network = self.lock();
        let mut woken = Vec::new();
        while let Some(first) = network.wire.first_entry().filter(|entry| entry.key().0 <= now) {
            let arrival = first.remove();
            network.arrive(arrival, now, &mut woken);
        }
        drop(network);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Listens on a port of a machine.
    pub fn listen(&self, name: &str, port: u16) -> io::Result<SimulatedListener> {
        let mut network = self.lock();
        let id = network.id(name);
        let presence = &mut network.presences[id];
        if presence.listeners.contains_key(&port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        presence.listeners.insert(port, Backlog::default());
        Ok(SimulatedListener::new(self.clone(), id, presence.life, port))
    }

    /// Connects from one machine to a port of another. A request that is lost is sent again for ever: the caller sets the
    /// deadline.
    pub async fn connect(&self, from: &str, to: &str, port: u16) -> io::Result<SimulatedStream> {
        let (from, to) = {
            let network = self.lock();
            let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("there is no machine {to}"));
            (network.id(from), network.find(to).ok_or_else(unknown)?)
        };
        loop {
            let delay = self.lock().delay(from, to, 0);
            tokio::time::sleep(delay).await;
            let connected = self.lock().connect(from, to, port);
            match connected {
                Request::Accepted { connection, waker } => {
                    let stream = SimulatedStream::new(self.clone(), connection, 0);
                    waker.into_iter().for_each(Waker::wake);
                    let delay = self.lock().delay(to, from, 0);
                    tokio::time::sleep(delay).await;
                    return Ok(stream);
                }
                Request::Refused => return Err(io::ErrorKind::ConnectionRefused.into()),
                Request::Lost => tokio::time::sleep(CONNECT_AGAIN).await,
            }
        }
    }

    pub(super) fn name(&self, machine: MachineId) -> String {
        self.lock().names[machine].clone()
    }

    /// The next connection of a listener.
    pub(super) fn accept(&self, machine: MachineId, port: u16, waker: &Waker) -> Option<(SimulatedStream, String)> {
        let mut network = self.lock();
        let backlog = network.presences[machine].listeners.get_mut(&port)?;
        let Some(connection) = backlog.connections.pop_front() else {
            backlog.waker = Some(waker.clone());
            return None;
        };
        let peer = network.connections.get(&connection).map(|found| network.names[found.ends[0].machine].clone());
        drop(network);
        Some((SimulatedStream::new(self.clone(), connection, 1), peer.unwrap_or_default()))
    }

    /// A listener ends; connections that nobody accepted are closed.
    pub(super) fn close_listener(&self, machine: MachineId, life: u64, port: u16) {
        let mut network = self.lock();
        if network.presences[machine].life != life {
            return;
        }
        let backlog = network.presences[machine].listeners.remove(&port);
        for connection in backlog.into_iter().flat_map(|backlog| backlog.connections) {
            network.close(connection, 1);
        }
    }

    /// Writes what there is room for; `None` if there is none and the waker will be told.
    pub(super) fn write(&self, connection: u64, side: usize, bytes: &[u8], waker: &Waker) -> Option<io::Result<usize>> {
        let mut network = self.lock();
        let Some(found) = network.connections.get_mut(&connection) else { return Some(Err(reset())) };
        let pipe = &mut found.pipes[side];
        if pipe.is_reset() {
            return Some(Err(reset()));
        }
        let taken = bytes.len().min(pipe.room());
        if taken == 0 && !bytes.is_empty() {
            pipe.wait_for_room(waker);
            return None;
        }
        pipe.sent(taken);
        network.send(connection, side, Segment::Data(Bytes::copy_from_slice(&bytes[..taken])));
        Some(Ok(taken))
    }

    /// Reads what has arrived; `None` if nothing has and the waker will be told. Empty is the end of the stream.
    pub(super) fn read(
        &self,
        connection: u64,
        side: usize,
        bytes_max: usize,
        waker: &Waker,
    ) -> Option<io::Result<Bytes>> {
        let mut network = self.lock();
        let Some(found) = network.connections.get_mut(&connection) else { return Some(Err(reset())) };
        let (found, woken) = found.pipes[1 - side].read(bytes_max, waker);
        drop(network);
        woken.into_iter().for_each(Waker::wake);
        match found {
            Found::Bytes(bytes) => Some(Ok(bytes)),
            Found::End => Some(Ok(Bytes::new())),
            Found::Reset => Some(Err(reset())),
            Found::Nothing => None,
        }
    }

    /// Says that nothing more will be written.
    pub(super) fn end(&self, connection: u64, side: usize) {
        let mut network = self.lock();
        if network.connections.get(&connection).is_some_and(|found| !found.pipes[side].is_reset()) {
            network.send(connection, side, Segment::End);
        }
    }

    /// A process lets go of its end.
    pub(super) fn close(&self, connection: u64, side: usize) {
        self.lock().close(connection, side);
    }

    fn lock(&self) -> MutexGuard<'_, Network> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What became of a request to connect.
enum Request {
    Accepted { connection: u64, waker: Option<Waker> },
    Refused,
    Lost,
}

impl Network {
    fn find(&self, name: &str) -> Option<MachineId> {
        self.names.iter().position(|known| known == name)
    }

    fn id(&self, name: &str) -> MachineId {
        self.find(name).unwrap_or_else(|| panic!("there is no machine {name}"))
    }

    fn link(&mut self, from: &str, to: &str) -> &mut Link {
        let way = (self.id(from), self.id(to));
        self.links.entry(way).or_insert(Link::new(self.quality))
    }

    fn is_cut(&self, from: MachineId, to: MachineId) -> bool {
        self.links.get(&(from, to)).is_some_and(Link::is_cut)
    }

    fn delay(&mut self, from: MachineId, to: MachineId, bytes: usize) -> Duration {
        if from == to {
            return Duration::ZERO;
        }
        let link = self.links.entry((from, to)).or_insert(Link::new(self.quality));
        link.delay(&mut self.random, bytes)
    }

    fn connect(&mut self, from: MachineId, to: MachineId, port: u16) -> Request {
        let life = self.presences[from].life;
        if !self.presences[to].is_up || self.is_cut(from, to) || self.is_cut(to, from) {
            return Request::Lost;
        }
        let presence = &mut self.presences[to];
        let Some(backlog) = presence.listeners.get_mut(&port) else { return Request::Refused };
        if backlog.connections.len() >= BACKLOG_MAX {
            return Request::Lost;
        }
        let connection = self.next_connection;
        self.next_connection += 1;
        backlog.connections.push_back(connection);
        let waker = backlog.waker.take();
        let ends =
            [End { machine: from, life, is_open: true }, End { machine: to, life: presence.life, is_open: true }];
        self.connections.insert(connection, Connection { ends, pipes: Default::default(), has_lost_segments: false });
        Request::Accepted { connection, waker }
    }

    fn send(&mut self, connection: u64, side: usize, segment: Segment) {
        let ends = self.connections[&connection].ends;
        if self.presences[ends[side].machine].life != ends[side].life {
            return; // A process without power says nothing.
        }
        let bytes = match &segment {
            Segment::Data(bytes) => bytes.len(),
            Segment::End => 0,
        };
        let delay = self.delay(ends[side].machine, ends[1 - side].machine, bytes);
        let pipe = &mut self.connections.get_mut(&connection).expect("it was just there").pipes[side];
        pipe.last_arrival = pipe.last_arrival.max(time::now() + delay);
        let at = pipe.last_arrival;
        self.put_on_wire(at, Arrival::Segment(connection, side, segment));
    }

    fn put_on_wire(&mut self, at: Duration, arrival: Arrival) {
        self.wire.insert((at, self.next_arrival), arrival);
        self.next_arrival += 1;
    }

    fn arrive(&mut self, arrival: Arrival, now: Duration, woken: &mut Vec<Waker>) {
        match arrival {
            Arrival::Segment(connection, side, segment) => {
                let Some(found) = self.connections.get(&connection) else { return };
                let [from, to] = [found.ends[side].machine, found.ends[1 - side].machine];
                let is_held = self.is_cut(from, to) || !found.pipes[side].held.is_empty();
                if is_held {
                    let found = self.connections.get_mut(&connection).expect("it was just there");
                    found.pipes[side].held.push_back(segment);
                } else {
                    self.receive(connection, side, segment, now, woken);
                }
            }
            Arrival::Again(connection, side) => self.receive_held(connection, side, now, woken),
            Arrival::Reset(connection) => {
                if let Some(found) = self.connections.get_mut(&connection) {
                    woken.extend(found.pipes.iter_mut().flat_map(Pipe::reset).flatten());
                }
            }
        }
    }

    fn receive(&mut self, connection: u64, side: usize, segment: Segment, now: Duration, woken: &mut Vec<Waker>) {
        let Some(found) = self.connections.get_mut(&connection) else { return };
        let (from, to) = (found.ends[side].machine, found.ends[1 - side]);
        let presence = &self.presences[to.machine];
        if !presence.is_up {
            found.has_lost_segments = true;
            return;
        }
        if presence.life != to.life || found.pipes[side].is_abandoned {
            let at = now + self.delay(to.machine, from, 0);
            return self.put_on_wire(at, Arrival::Reset(connection));
        }
        woken.extend(found.pipes[side].receive(segment));
    }

    fn receive_held(&mut self, connection: u64, side: usize, now: Duration, woken: &mut Vec<Waker>) {
        let Some(found) = self.connections.get_mut(&connection) else { return };
        let way = (found.ends[side].machine, found.ends[1 - side].machine);
        if self.links.get(&way).is_some_and(Link::is_cut) {
            return; // Mending it sends all of it again.
        }
        for segment in std::mem::take(&mut found.pipes[side].held) {
            self.receive(connection, side, segment, now, woken);
        }
    }

    /// A way is open again: what was held up on it is sent again after a while.
    fn send_again(&mut self, from: MachineId, to: MachineId) {
        let held = self.connections.iter().flat_map(|(id, found)| {
            let sides = (0..2).filter(|side| {
                let is_way = found.ends[*side].machine == from && found.ends[1 - side].machine == to;
                is_way && !found.pipes[*side].held.is_empty()
            });
            sides.map(|side| (*id, side)).collect::<Vec<_>>()
        });
        for (connection, side) in held.collect::<Vec<_>>() {
            let at = time::now() + retransmission_after_cut(&mut self.random);
            self.put_on_wire(at, Arrival::Again(connection, side));
        }
    }

    /// A machine is up again: what is sent to it once more on connections that it has forgotten is answered with a reset.
    fn reset_forgotten(&mut self, machine: MachineId) {
        let life = self.presences[machine].life;
        let is_forgotten = |end: &End| end.machine == machine && end.life != life;
        let lost: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, found)| found.has_lost_segments && found.ends.iter().any(is_forgotten))
            .map(|(id, _)| *id)
            .collect();
        for connection in lost {
            let at = time::now() + Duration::from_millis(self.random.random_range(10..1000));
            self.put_on_wire(at, Arrival::Reset(connection));
        }
    }

    fn close(&mut self, connection: u64, side: usize) {
        let Some(found) = self.connections.get_mut(&connection) else { return };
        found.ends[side].is_open = false;
        found.pipes[1 - side].is_abandoned = true;
        let is_alive = |end: &End, presences: &[Presence]| presences[end.machine].life == end.life;
        let says_so = is_alive(&found.ends[side], &self.presences) && !found.pipes[side].is_reset();
        if found.ends.iter().all(|end| !end.is_open || !is_alive(end, &self.presences)) {
            self.connections.remove(&connection);
        } else if says_so {
            self.send(connection, side, Segment::End);
        }
    }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}
