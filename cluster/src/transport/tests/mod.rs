//! The transport's behaviour, on a network in memory whose time is the test's.

mod admission;
mod calling;
mod hostile;
mod pressure;
mod tcp;

use super::frame::{Frame, FrameType, Payload};
use super::handshake::{Hello, Verdict, Welcome, expect_hello, greet};
use super::reader::{Buffers, FrameReader, Received};
use super::stats::Counters;
use super::writer::write_frames;
use super::*;
use crate::environment::{Entropy, Environment, Network, Stream, SystemClock, SystemDisk, Tasks, ThreadPool};
use crate::{ClusterId, GroupId};
use async_trait::async_trait;
use bytes::Bytes;
use std::io;
use tokio::io::{DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

pub const CLUSTER: ClusterId = ClusterId(0xc1);
pub const ALLOWED: u8 = 200;

/// Connects what listens in the same process.
#[derive(Default)]
pub struct MemoryNetwork {
    listeners: Mutex<BTreeMap<String, mpsc::UnboundedSender<DuplexStream>>>,
}

struct MemoryListener(tokio::sync::Mutex<mpsc::UnboundedReceiver<DuplexStream>>);

/// Bytes that one direction of a connection holds until they are read.
const SOCKET_BYTES: usize = 64 * 1024;

impl MemoryNetwork {
    /// A listener that the test plays itself.
    pub fn bind(&self, address: &str) -> mpsc::UnboundedReceiver<DuplexStream> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.listeners.lock().unwrap().insert(address.to_owned(), sender);
        receiver
    }

    pub fn raw(&self, address: &str) -> io::Result<DuplexStream> {
        let (near, far) = tokio::io::duplex(SOCKET_BYTES);
        let listeners = self.listeners.lock().unwrap();
        let listener = listeners.get(address).ok_or(io::ErrorKind::ConnectionRefused)?;
        listener.send(far).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(near)
    }
}

#[async_trait]
impl Network for MemoryNetwork {
    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(MemoryListener(tokio::sync::Mutex::new(self.bind(address)))))
    }

    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.raw(address)?))
    }
}

#[async_trait]
impl Listener for MemoryListener {
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, String)> {
        match self.0.lock().await.recv().await {
            Some(stream) => Ok((Box::new(stream), "memory".to_owned())),
            None => std::future::pending().await,
        }
    }

    fn local_address(&self) -> io::Result<String> {
        Ok("memory".to_owned())
    }
}

struct Constant;

impl Entropy for Constant {
    fn next_u64(&self) -> u64 {
        7
    }
}

pub fn environment(network: Arc<dyn Network>) -> Environment {
    Environment {
        network,
        disk: Arc::new(SystemDisk::new(std::env::temp_dir()).unwrap()),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(Constant),
        tasks: Tasks::new(Arc::new(ThreadPool::default())),
    }
}

/// Node `n` listens at `n`, unless the test says otherwise.
#[derive(Default)]
pub struct Book(pub Mutex<BTreeMap<NodeId, Option<String>>>);

impl Directory for Book {
    fn address(&self, node: NodeId) -> Option<String> {
        self.0.lock().unwrap().get(&node).cloned().unwrap_or(Some(node.to_string()))
    }
}

pub struct Arrived {
    pub from: Peer,
    pub request: Request,
    pub reply: Reply,
}

/// Hands every request to the test.
struct Desk(mpsc::UnboundedSender<Arrived>);

impl Handler for Desk {
    fn accept(&self, from: Peer, request: Request, reply: Reply) {
        let _ = self.0.send(Arrived { from, request, reply });
    }

    fn serves_strangers(&self, kind: u8) -> bool {
        kind == ALLOWED
    }
}

/// A running transport, and the requests that it has taken.
pub struct Node {
    pub transport: Transport,
    pub environment: Environment,
    pub book: Arc<Book>,
    pub arrived: mpsc::UnboundedReceiver<Arrived>,
}

pub async fn node_with(network: &Arc<MemoryNetwork>, identity: Identity, limits: Limits) -> Node {
    let environment = environment(network.clone());
    let listener = network.listen(&identity.node.to_string()).await.unwrap();
    let book = Arc::new(Book::default());
    let (sender, arrived) = mpsc::unbounded_channel();
    let transport = Transport::start(&environment, identity, listener, book.clone(), Arc::new(Desk(sender)), limits);
    Node { transport, environment, book, arrived }
}

pub async fn node(network: &Arc<MemoryNetwork>, number: u64) -> Node {
    node_with(network, identity(number), Limits::default()).await
}

pub fn identity(number: u64) -> Identity {
    Identity { cluster: CLUSTER, node: NodeId(number) }
}

/// Two nodes, 1 and 2.
pub async fn two() -> (Node, Node) {
    let network = Arc::new(MemoryNetwork::default());
    (node(&network, 1).await, node(&network, 2).await)
}

pub fn request(kind: u8, text: &str) -> Request {
    Request { kind, group: GroupId(3), header: Bytes::copy_from_slice(text.as_bytes()), body: Vec::new() }
}

pub fn sized(bytes: usize) -> Request {
    Request { body: vec![Bytes::from(vec![1; bytes])], ..request(1, "sized") }
}

pub fn response(text: &str) -> Response {
    Response { header: Bytes::copy_from_slice(text.as_bytes()), body: Vec::new() }
}

pub fn after_ms(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

impl Node {
    pub fn send(&self, to: u64, request: Request, deadline_ms: u64) -> Pending {
        self.transport.send(NodeId(to), Lane::Control, request, after_ms(deadline_ms))
    }

    pub async fn next(&mut self) -> Arrived {
        self.arrived.recv().await.unwrap()
    }

    /// Answers every further request with its own header and body.
    pub fn echo(mut self) -> Transport {
        let transport = self.transport.clone();
        self.environment.tasks.clone().spawn("echo", async move {
            while let Some(Arrived { request, reply, .. }) = self.arrived.recv().await {
                reply.send(Response { header: request.header, body: request.body });
            }
        });
        transport
    }
}

/// One end of a connection, played by the test.
pub struct Hand {
    pub reader: FrameReader<ReadHalf<DuplexStream>>,
    pub writer: WriteHalf<DuplexStream>,
    limits: Limits,
    counters: Counters,
}

impl Hand {
    pub fn new(stream: DuplexStream) -> Hand {
        let limits = Limits::default();
        let (reader, writer) = tokio::io::split(stream);
        Hand {
            reader: FrameReader::new(reader, &limits, &Buffers::new(0)),
            writer,
            limits,
            counters: Counters::default(),
        }
    }

    /// Connects as a node.
    pub async fn connect(network: &MemoryNetwork, from: u64, to: u64) -> Hand {
        let mut hand = Hand::new(network.raw(&to.to_string()).unwrap());
        let welcome = hand.greet(&Hello::node(identity(from), NodeId(to), Lane::Control)).await;
        assert_eq!(welcome, Welcome::new(Verdict::Welcome, identity(to)));
        hand
    }

    pub async fn greet(&mut self, hello: &Hello) -> Welcome {
        greet(&mut self.reader, &mut self.writer, hello, &self.limits, &self.counters).await.unwrap()
    }

    /// Takes a connection in as node `own`.
    pub async fn accept(listener: &mut mpsc::UnboundedReceiver<DuplexStream>, own: u64) -> Hand {
        let mut hand = Hand::new(listener.recv().await.unwrap());
        expect_hello(&mut hand.reader, &hand.limits, &hand.counters).await.unwrap();
        hand.write(Welcome::new(Verdict::Welcome, identity(own)).frame()).await;
        hand
    }

    pub async fn write(&mut self, frame: Frame) {
        write_frames(&mut self.writer, vec![frame], Duration::from_secs(1), &self.counters).await.unwrap();
    }

    pub async fn request(&mut self, id: u64, request: Request) {
        let payload = Payload::new(request.header, request.body);
        self.write(Frame::new(FrameType::Request(request.kind), request.group, id, payload)).await;
    }

    pub async fn respond(&mut self, id: u64) {
        let payload = Payload::new(Bytes::from_static(b"by hand"), Vec::new());
        self.write(Frame::new(FrameType::Response, GroupId::METADATA, id, payload)).await;
    }

    pub async fn read(&mut self) -> Result<Received, super::reader::ReadError> {
        self.reader.next(self.limits.of_nodes(), Duration::from_secs(3600)).await
    }

    /// Waits until the other side has closed.
    pub async fn closed(&mut self) {
        let error = self.read().await.unwrap_err();
        assert!(matches!(error, super::reader::ReadError::Closed | super::reader::ReadError::Io(_)), "{error}");
    }
}
