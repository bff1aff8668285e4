//! Nodes in this process, each on a runtime of its own over real sockets and files, with a state machine that is simple
//! enough to compare.

use async_trait::async_trait;
use bytes::Bytes;
use cluster::environment::{Access, Disk, DiskUsage, Environment, File, SystemDisk, Tasks};
use cluster::{
    AppendError, Appended, Cluster, Committed, Config, Durable, Host, LogPosition, NodeId, Offset, PartitionId,
    Payload, Snapshot, SnapshotChunks, StateMachine, Term,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A partition's state: how often each 8-byte number was appended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub position: Option<LogPosition>,
    pub membership: Option<Bytes>,
    pub numbers: BTreeMap<u64, u64>,
}

impl Counts {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let position = self.position.map_or([0; 3], |at| [at.term.0, at.leader.0, at.offset.0 + 1]);
        let membership = self.membership.clone().unwrap_or_default();
        for word in position.into_iter().chain([membership.len() as u64]) {
            out.extend(word.to_le_bytes());
        }
        out.extend(&membership);
        for (number, count) in &self.numbers {
            out.extend(number.to_le_bytes());
            out.extend(count.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Counts {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let offset = word(16).checked_sub(1).map(Offset);
        let position = offset.map(|offset| LogPosition { term: Term(word(0)), leader: NodeId(word(8)), offset });
        let end = 32 + word(24) as usize;
        let membership = Some(Bytes::copy_from_slice(&bytes[32..end])).filter(|bytes| !bytes.is_empty());
        let numbers = (end..bytes.len()).step_by(16).map(|at| (word(at), word(at + 8))).collect();
        Counts { position, membership, numbers }
    }
}

/// Keeps [`Counts`] in memory; durable is what [`Toy::flush`] has written.
pub struct Toy {
    path: PathBuf,
    state: Mutex<Counts>,
    durable: Mutex<Durable>,
}

impl Toy {
    fn open(path: PathBuf) -> io::Result<Toy> {
        let state = match std::fs::read(&path) {
            Ok(bytes) => Counts::decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Counts::default(),
            Err(error) => return Err(error),
        };
        let durable = Durable { position: state.position, membership: state.membership.clone() };
        Ok(Toy { path, state: Mutex::new(state), durable: Mutex::new(durable) })
    }

    pub fn state(&self) -> Counts {
        self.state.lock().unwrap().clone()
    }

    /// Makes what is applied durable.
    pub fn flush(&self) {
        self.write(&self.state()).unwrap();
    }

    fn write(&self, state: &Counts) -> io::Result<()> {
        let temporary = self.path.with_extension("new");
        std::fs::write(&temporary, state.encode())?;
        std::fs::rename(&temporary, &self.path)?;
        *self.durable.lock().unwrap() = Durable { position: state.position, membership: state.membership.clone() };
        Ok(())
    }
}

/// A number that no leader proposes.
pub const NOT_ADMITTED: u64 = u64::MAX;

#[async_trait]
impl StateMachine for Toy {
    fn durable(&self) -> Durable {
        self.durable.lock().unwrap().clone()
    }

    fn apply(&self, entry: Committed) -> io::Result<Bytes> {
        let mut state = self.state.lock().unwrap();
        let next = state.position.map_or(0, |at| at.offset.0 + 1);
        assert_eq!(entry.position.offset.0, next, "entries come in order and without holes");
        state.position = Some(entry.position);
        match entry.payload {
            Payload::Blank => Ok(Bytes::new()),
            Payload::Membership(membership) => {
                state.membership = Some(membership);
                Ok(Bytes::new())
            }
            Payload::Data(bytes) => {
                let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                let count = state.numbers.entry(number).or_default();
                *count += 1;
                Ok(Bytes::copy_from_slice(&count.to_le_bytes()))
            }
        }
    }

    fn admits(&self, payload: &Bytes) -> bool {
        payload[..8] != NOT_ADMITTED.to_le_bytes()
    }

    async fn snapshot(&self) -> io::Result<Snapshot> {
        let state = self.state();
        let durable = Durable { position: state.position, membership: state.membership.clone() };
        let bytes = Bytes::from(state.encode());
        let chunks = bytes.chunks(1000).map(Bytes::copy_from_slice).collect::<Vec<_>>().into_iter();
        Ok(Snapshot { durable, chunks: Box::new(Chunks(chunks)) })
    }

    async fn install(&self, durable: Durable, mut chunks: Box<dyn SnapshotChunks>) -> io::Result<()> {
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        let state = Counts::decode(&bytes);
        assert_eq!(state.position, durable.position, "the bytes are of the position that was announced");
        self.write(&state)?;
        *self.state.lock().unwrap() = state;
        Ok(())
    }
}

struct Chunks(std::vec::IntoIter<Bytes>);

#[async_trait]
impl SnapshotChunks for Chunks {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        Ok(self.0.next())
    }
}

/// Opens a [`Toy`] for each partition; serves requests with who it is and what it was asked.
pub struct Toys {
    directory: PathBuf,
    pub machines: Mutex<BTreeMap<PartitionId, Arc<Toy>>>,
    /// Partitions that were closed since the node started.
    pub closed: Mutex<BTreeSet<PartitionId>>,
    /// Whether closing a partition takes for ever.
    pub holds_close: AtomicBool,
}

#[async_trait]
impl Host for Toys {
    async fn open(&self, partition: PartitionId, _: Bytes) -> io::Result<Arc<dyn StateMachine>> {
        std::fs::create_dir_all(&self.directory)?;
        let toy = Arc::new(Toy::open(self.directory.join(format!("partition-{partition}")))?);
        self.machines.lock().unwrap().insert(partition, toy.clone());
        Ok(toy)
    }

    async fn close(&self, partition: PartitionId) -> io::Result<()> {
        if self.holds_close.load(Ordering::Relaxed) {
            self.closed.lock().unwrap().insert(partition);
            return std::future::pending().await;
        }
        self.machines.lock().unwrap().remove(&partition);
        self.closed.lock().unwrap().insert(partition);
        match std::fs::remove_file(self.directory.join(format!("partition-{partition}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    async fn serve(&self, partition: PartitionId, request: Bytes) -> Bytes {
        format!("{partition}:{}", String::from_utf8_lossy(&request)).into()
    }
}

/// A node that runs.
pub struct Node {
    runtime: Option<tokio::runtime::Runtime>,
    pub cluster: Cluster,
    pub toys: Arc<Toys>,
    pub tasks: Tasks,
}

/// A directory and an address, on which a node can be started again and again.
pub struct Place {
    directory: TempDir,
    pub address: String,
    pub join: Vec<String>,
    pub configure: fn(&mut Config),
    /// Whether its disk has no room for another file.
    pub is_full: Arc<AtomicBool>,
    /// How many changes of names the disk makes before it fails for ever.
    pub changes_left: Arc<AtomicUsize>,
}

/// Files of the operating system on a disk that may be full, and may fail.
struct Limited {
    disk: SystemDisk,
    is_full: Arc<AtomicBool>,
    changes_left: Arc<AtomicUsize>,
}

impl Limited {
    fn change(&self) -> io::Result<()> {
        let spend = |left: usize| left.checked_sub(1);
        let spent = self.changes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
        spent.map(|_| ()).map_err(|_| io::Error::other("the disk has failed"))
    }
}

impl Disk for Limited {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.disk.create_directory(path)
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        self.disk.open(path, access)
    }
    fn create(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        self.change()?;
        match self.is_full.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.disk.create(path, access),
        }
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.disk.list(directory)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?;
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.disk.sync_directory(directory)
    }
    fn usage(&self) -> io::Result<DiskUsage> {
        self.disk.usage()
    }
    fn lock(&self) -> io::Result<()> {
        self.disk.lock()
    }
}

/// Where nobody listens now. None is given twice, and all are below the ports that systems take for outgoing connections: whoever is
/// stopped there finds its port free when it starts again.
fn free_address() -> String {
    // Where it begins differs from that of a test run beside this one.
    static NEXT: LazyLock<AtomicU16> =
        LazyLock::new(|| AtomicU16::new(12_000 + (std::process::id() % 80) as u16 * 200));
    loop {
        let address = format!("127.0.0.1:{}", NEXT.fetch_add(1, Ordering::Relaxed));
        if std::net::TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

impl Place {
    pub fn new(join: &[&Place]) -> Place {
        let address = free_address();
        let join = join.iter().map(|place| place.address.clone()).collect();
        let directory = tempfile::tempdir().unwrap();
        Place {
            directory,
            address,
            join,
            configure: |_| {},
            is_full: Arc::default(),
            changes_left: Arc::new(AtomicUsize::new(usize::MAX)),
        }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn store_path(&self) -> PathBuf {
        self.path().join("toys")
    }

    pub fn start(&self) -> Node {
        self.try_start().unwrap()
    }

    pub fn try_start(&self) -> Result<Node, cluster::Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let disk = Limited {
            disk: SystemDisk::new(self.path()).unwrap(),
            is_full: self.is_full.clone(),
            changes_left: self.changes_left.clone(),
        };
        let environment = Environment { disk: Arc::new(disk), ..Environment::system(self.path()).unwrap() };
        let tasks = environment.tasks.clone();
        let toys = Arc::new(Toys {
            directory: self.store_path(),
            machines: Mutex::default(),
            closed: Mutex::default(),
            holds_close: AtomicBool::new(false),
        });
        let mut config = Config {
            node_name: format!("node at {}", self.address),
            cluster_address: self.address.clone(),
            join: self.join.clone(),
            settings: Bytes::from_static(b"settings"),
            partitions: 6,
            report_interval: Duration::from_millis(100),
            store_directory: Some("toys".into()),
            ..Config::default()
        };
        config.log.segment_bytes = 1 << 20;
        (self.configure)(&mut config);
        let started = runtime.block_on(Cluster::start(environment, config, toys.clone()));
        started.map(|cluster| Node { runtime: Some(runtime), cluster, toys, tasks })
    }
}

impl Node {
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().unwrap().block_on(future)
    }

    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.as_ref().unwrap().spawn(future)
    }

    pub fn append(&self, partition: u16, number: u64) -> Result<Appended, AppendError> {
        self.block_on(append(&self.cluster, partition, number))
    }

    pub fn toy(&self, partition: u16) -> Arc<Toy> {
        self.held_toy(partition).expect("the node holds the partition")
    }

    pub fn held_toy(&self, partition: u16) -> Option<Arc<Toy>> {
        self.toys.machines.lock().unwrap().get(&PartitionId(partition)).cloned()
    }

    pub fn leads(&self, partition: u16) -> bool {
        self.cluster.leaderships().borrow().contains_key(&PartitionId(partition))
    }

    /// Ends the node as a killed process ends: nothing is handed over or flushed.
    pub fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(10));
    }

    pub fn shut_down(self) {
        self.block_on(self.cluster.shutdown());
        self.kill();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub async fn append(cluster: &Cluster, partition: u16, number: u64) -> Result<Appended, AppendError> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    cluster.append(PartitionId(partition), Bytes::copy_from_slice(&number.to_le_bytes()), deadline).await
}

/// Waits until `holds`, and fails with `what` and what `holds` last said after half a minute.
pub fn eventually<E: std::fmt::Debug>(what: &str, mut holds: impl FnMut() -> Result<(), E>) {
    let start = Instant::now();
    loop {
        let Err(last) = holds() else { return };
        assert!(start.elapsed() < Duration::from_secs(30), "{what}: {last:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until all these nodes hold the same state of each partition.
pub fn agree(nodes: &[&Node]) {
    for partition in nodes[0].cluster.partitions() {
        eventually("replicas agree", || {
            let states: Vec<Counts> = nodes.iter().map(|node| node.toy(partition.0).state()).collect();
            let positions: Vec<_> = states.iter().map(|state| state.position).collect();
            states.iter().all(|state| *state == states[0]).then_some(()).ok_or((partition, positions))
        });
    }
}

/// Waits until every partition is held, voting and caught up, by so many nodes, as this node sees it.
pub fn fully_replicated(node: &Node, replicas: usize) {
    eventually("every partition is fully replicated", || {
        let status = node.cluster.status();
        let is_whole = |partition: &cluster::PartitionStatus| partition.replicas.len() == replicas;
        status.partitions.iter().all(is_whole).then_some(()).ok_or(status)
    });
}
