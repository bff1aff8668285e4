//! Real node processes on free ports, killed when dropped, and a client that speaks plain HTTP to them.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// At most one cluster of several nodes runs at a time: elections need the processor.
static TURN: Mutex<()> = Mutex::new(());

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: Value,
}

impl Answer {
    /// The value of a header, its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let line = self.headers.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")))?;
        line.split_once(':').map(|(_, value)| value.trim())
    }

    /// Status and code of a refusal.
    pub fn refusal(&self) -> (u16, &str) {
        (self.status, self.body["code"].as_str().unwrap_or_default())
    }
}

/// Sends one request; `None` if there was no whole answer. The answer is as `/openapi.json` describes it.
pub fn request(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Answer> {
    let answer = exchange(address, method, path, headers, body)?;
    let description = || {
        let answer = exchange(address, "GET", "/openapi.json", &[], &[])?;
        (answer.status == 200).then_some(answer.body)
    };
    crate::openapi::check(method, path, &answer, description);
    Some(answer)
}

fn exchange(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    head += &format!("content-length: {}\r\n", body.len());
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    head += "\r\n";
    stream.write_all(head.as_bytes()).ok()?;
    // A server that refuses early closes before it has read everything; its answer is there all the same.
    let _ = stream.write_all(body);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let headers = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = headers.split(' ').nth(1)?.parse().ok()?;
    let text = String::from_utf8_lossy(&bytes[end + 4..]).into_owned();
    Some(Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) })
}

/// Asks again and again until there is something, for half a minute.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(45);
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "did not come: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The binary under test.
pub fn hourmark(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hourmark")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// An address that nobody listens on now.
pub fn free_address() -> String {
    format!("127.0.0.1:{}", free_ports(1))
}

/// The first of so many neighbouring ports that nobody listens on now. None is given twice, and all are below those that systems take
/// for outgoing connections: a node that is started there later, or again, finds its port free.
pub fn free_ports(count: u16) -> u16 {
    static NEXT: Mutex<Option<u16>> = Mutex::new(None);
    let mut next = NEXT.lock().unwrap();
    // Where it begins differs from that of a test run beside this one.
    let mut first = next.unwrap_or_else(|| 12_000 + (std::process::id() % 80) as u16 * 200);
    while !(first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
        first += 1;
    }
    *next = Some(first + count);
    first
}

/// A node's process.
pub struct Node {
    pub http: String,
    pub cluster: String,
    arguments: Vec<String>,
    log: std::path::PathBuf,
    wrapper: Vec<String>,
    child: Option<Child>,
}

impl Node {
    /// A node that is not started yet.
    pub fn new(directory: &Path, name: &str, join: Option<&str>, extra: &[&str]) -> Node {
        let (http, cluster) = (free_address(), free_address());
        let data = directory.join(name).display().to_string();
        let mut arguments: Vec<String> =
            ["start", "--data-dir", &data, "--http-addr", &http, "--cluster-addr", &cluster, "--node-name", name]
                .map(str::to_owned)
                .into();
        arguments.extend(join.into_iter().flat_map(|member| ["--join".to_owned(), member.to_owned()]));
        arguments.extend(extra.iter().map(|argument| (*argument).to_owned()));
        Node {
            http,
            cluster,
            arguments,
            log: directory.join(format!("{}.log", name.replace('/', "-"))),
            wrapper: Vec::new(),
            child: None,
        }
    }

    /// The node of this data directory, at other addresses and without a name.
    pub fn moved(data: &Path) -> Node {
        let name = data.file_name().expect("a directory of a node").to_string_lossy().into_owned();
        let directory = data.parent().expect("a directory of nodes");
        let mut node = Node::new(directory, &name, None, &[]);
        node.arguments.retain(|argument| *argument != "--node-name" && *argument != name);
        node.log = directory.join("moved.log");
        node
    }

    /// What it has said.
    pub fn told(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The same node, started by a command that ends in running its own arguments.
    pub fn wrapped(mut self, wrapper: &[&str]) -> Node {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// A path in the directory that all nodes of a test share, as the running node's process sees it.
    pub fn inside(&self, path: &str) -> std::path::PathBuf {
        let process = self.child.as_ref().expect("the node runs").id();
        let path = self.log.with_file_name(path);
        format!("/proc/{process}/root{}", path.display()).into()
    }

    /// Starts it, and waits until it says that it serves.
    pub fn start(&mut self) {
        let offset = self.launch();
        eventually("the ready line", || {
            let log = std::fs::read_to_string(&self.log).unwrap();
            if let Some(status) = self.child.as_mut()?.try_wait().unwrap() {
                panic!("the node ended with {status}:\n{log}");
            }
            log[usize::try_from(offset).unwrap()..].lines().any(|line| line.starts_with("ready node=")).then_some(())
        });
    }

    /// Starts its process; returns where its lines begin in the log.
    pub fn launch(&mut self) -> u64 {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let offset = log.metadata().unwrap().len();
        let binary = env!("CARGO_BIN_EXE_hourmark").to_owned();
        let words: Vec<&String> = self.wrapper.iter().chain([&binary]).chain(&self.arguments).collect();
        let mut command = Command::new(words[0]);
        let child = command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.unwrap());
        offset
    }

    /// Waits until it ends by itself; returns what it said.
    pub fn ended(&mut self) -> String {
        eventually("the end", || self.child.as_mut()?.try_wait().unwrap());
        self.child = None;
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Sends a signal and waits for the end.
    pub fn signal(&mut self, name: &str) -> ExitStatus {
        let mut child = self.child.take().expect("the node runs");
        let sent = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        child.wait().unwrap()
    }

    pub fn get(&self, path: &str) -> Option<Answer> {
        request(&self.http, "GET", path, &[], &[])
    }

    pub fn post(&self, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Option<Answer> {
        let mut all = vec![("content-type", "application/x-ndjson")];
        all.retain(|(name, _)| !headers.iter().any(|(given, _)| given == name));
        all.extend_from_slice(headers);
        request(&self.http, "POST", "/v1/events", &all, body.as_ref())
    }

    /// Posts until it is answered with 200, with an identity, so that it counts once.
    pub fn post_surely(&self, producer: &str, sequence: u64, body: &str) -> Answer {
        let sequence = sequence.to_string();
        let headers = [("hourmark-producer", producer), ("hourmark-sequence", sequence.as_str())];
        eventually("an ack", || self.post(&headers, body).filter(|answer| answer.status == 200))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// Some nodes of one cluster.
pub struct Nodes {
    pub nodes: Vec<Node>,
    pub directory: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// One node, serving.
pub fn single(extra: &[&str]) -> Nodes {
    start(1, extra)
}

/// Three nodes, every partition on all of them.
pub fn three() -> Nodes {
    let cluster = start(3, &[]);
    cluster.wait_whole(3);
    cluster
}

/// Four nodes, every partition on three of them; the fourth holds its share.
pub fn four(extra: &[&str]) -> Nodes {
    let cluster = start(4, extra);
    cluster.wait_replicated(&[1, 2, 3, 4]);
    cluster
}

/// Waits until no other cluster of several nodes runs.
pub fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn start(count: usize, extra: &[&str]) -> Nodes {
    let turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=count {
        let join = nodes.first().map(|first| first.cluster.clone());
        let mut node = Node::new(directory.path(), &format!("n{number}"), join.as_deref(), extra);
        node.start();
        nodes.push(node);
    }
    Nodes { nodes, directory, _turn: turn }
}

impl Nodes {
    /// Waits until every partition has three replicas, and these nodes, by id, hold all of them and each some.
    pub fn wait_replicated(&self, holders: &[u64]) {
        eventually("three replicas of everything", || {
            let cluster = self.nodes.iter().find_map(|node| node.get("/v1/cluster"))?.body;
            let ids = |partition: &Value, role: &str| -> Option<Vec<u64>> {
                partition[role].as_array()?.iter().map(Value::as_u64).collect()
            };
            let mut held = std::collections::BTreeSet::new();
            for partition in cluster["partitions"].as_array()? {
                let (replicas, voters) = (ids(partition, "replicas")?, ids(partition, "voters")?);
                if replicas.len() != 3 || voters.len() != 3 || !ids(partition, "learners")?.is_empty() {
                    return None;
                }
                held.extend(voters);
            }
            held.iter().eq(holders).then_some(())
        });
    }

    /// Waits until `count` nodes live and every partition is led and replicated on all of them.
    pub fn wait_whole(&self, count: usize) {
        eventually("a whole cluster", || {
            let cluster = self.nodes.iter().find_map(|node| node.get("/v1/cluster"))?.body;
            let alive = cluster["nodes"].as_array()?.iter().filter(|node| node["alive"] == true).count();
            let is_whole = cluster["partitions"].as_array()?.iter().all(|partition| {
                !partition["leader"].is_null() && partition["replicas"].as_array().is_some_and(|all| all.len() == count)
            });
            (alive == count && is_whole).then_some(())
        });
    }

    /// Waits until every event is in the stored rollups and all replicas have the same digest.
    pub fn wait_identical(&self) {
        eventually("identical replicas", || {
            let cluster = self.nodes[0].get("/v1/cluster")?.body;
            let is_stored = cluster["partitions"].as_array()?.iter().all(|partition| partition["lag_events"] == 0);
            let digests: Option<Vec<Value>> =
                self.nodes.iter().map(|node| Some(node.get("/v1/digest")?.body["partitions"].clone())).collect();
            let digests = digests?;
            (is_stored && digests.iter().all(|digest| *digest == digests[0])).then_some(())
        });
    }
}

/// A line with an event.
pub fn event(app: &str, timestamp: &str, response_time: &str) -> String {
    format!("{{\"app_id\":\"{app}\",\"timestamp\":\"{timestamp}\",\"response_time_ms\":{response_time}}}\n")
}
