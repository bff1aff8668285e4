//! What another node, or anyone who reaches the port, sends: the connection ends, the node does not, and it still answers others.
//!
//! The input is a hello as it should be or as it is given, then frames with checksums that fit, then bytes as they are.

#![no_main]

use async_trait::async_trait;
use bytes::Bytes;
use cluster::environment::{Environment, Listener, Network, Stream};
use cluster::transport::{
    Directory, Handler, Identity, Limits, Peer, Reply, Request, Response, Transport, call_stranger,
};
use cluster::{ClusterId, GroupId, NodeId};
use futures::FutureExt;
use fuzz::{block_on, environment, piece};
use libfuzzer_sys::fuzz_target;
use simulation::environment::SimulatedDisk;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, timeout};

const CLUSTER: u128 = 7;
const FOR_STRANGERS: u8 = 9;

/// A network of one listener: whoever connects reaches it.
struct Pipes(mpsc::UnboundedSender<DuplexStream>);

struct PipeListener(Mutex<mpsc::UnboundedReceiver<DuplexStream>>);

impl Pipes {
    fn pipe(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(1 << 20);
        self.0.send(far).expect("the listener lives as long as the node");
        near
    }
}

#[async_trait]
impl Network for Pipes {
    async fn listen(&self, _: &str) -> io::Result<Box<dyn Listener>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn connect(&self, _: &str) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.pipe()))
    }
}

#[async_trait]
impl Listener for PipeListener {
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, String)> {
        match self.0.lock().await.recv().await {
            Some(stream) => Ok((Box::new(stream), "pipe".to_owned())),
            None => std::future::pending().await,
        }
    }

    fn local_address(&self) -> io::Result<String> {
        Ok("pipe:1".to_owned())
    }
}

/// Answers with what it was asked.
struct Echo;

impl Handler for Echo {
    fn accept(&self, _: Peer, request: Request, reply: Reply) {
        reply.send(Response { header: request.header, body: request.body });
    }

    fn serves_strangers(&self, kind: u8) -> bool {
        kind == FOR_STRANGERS
    }
}

struct Nowhere;

impl Directory for Nowhere {
    fn address(&self, _: NodeId) -> Option<String> {
        None
    }
}

/// A frame by the table in `docs/formats.md`: `head` is type, kind, group (2) and request id (8).
fn frame(head: &[u8; 12], header: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, head[0], head[1], 0, head[2], head[3], 0, 0];
    bytes.extend_from_slice(&head[4..]);
    bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c_append(crc32c::crc32c(header), body).to_le_bytes());
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    [&bytes, header, body].concat()
}

/// The hello of node 2 to node 1.
fn hello() -> Vec<u8> {
    let mut header = vec![1, 0, 0, 0, 0, 0, 0, 0];
    header.extend_from_slice(&2u64.to_le_bytes());
    header.extend_from_slice(&1u64.to_le_bytes());
    header.extend_from_slice(&CLUSTER.to_le_bytes());
    frame(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &header, &[])
}

fn conversation(mut input: &[u8]) -> Vec<u8> {
    let is_greeted = input.first().is_some_and(|byte| byte.is_multiple_of(2));
    let mut bytes = if is_greeted { hello() } else { Vec::new() };
    input = input.get(1..).unwrap_or_default();
    while let Some(said) = piece(&mut input) {
        match said.split_first_chunk::<12>() {
            Some((head, rest)) => {
                let (header, body) = rest.split_at(rest.len() / 2);
                bytes.extend(frame(head, header, body));
            }
            None => bytes.extend_from_slice(said),
        }
    }
    bytes.extend_from_slice(input);
    bytes
}

fuzz_target!(|input: &[u8]| {
    let said = conversation(input);
    block_on(async {
        let (connect, arrivals) = mpsc::unbounded_channel();
        let pipes = Arc::new(Pipes(connect));
        let environment = Environment { network: pipes.clone(), ..environment(&SimulatedDisk::new(1)) };
        let identity = Identity { cluster: ClusterId(CLUSTER), node: NodeId(1) };
        let listener = Box::new(PipeListener(Mutex::new(arrivals)));
        let transport =
            Transport::start(&environment, identity, listener, Arc::new(Nowhere), Arc::new(Echo), Limits::default());
        let mut stream = pipes.pipe();
        // The other side may have closed before it has heard all.
        let _ = stream.write_all(&said).await;
        let _ = stream.shutdown().await;
        let mut answers = Vec::new();
        let _ = timeout(Duration::from_secs(3600), stream.read_to_end(&mut answers)).await;

        let asked = Request {
            kind: FOR_STRANGERS,
            group: GroupId(0),
            header: Bytes::from_static(b"still there?"),
            body: Vec::new(),
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        let answer = call_stranger(&environment, "pipe:1", asked.clone(), deadline).await;
        assert_eq!(answer.expect("the node still answers").1.header, asked.header);
        assert_eq!(environment.tasks.failed().now_or_never(), None);
        transport.shutdown();
    });
});
