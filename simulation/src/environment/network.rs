//! TCP of the simulated world. What is written goes into the trace.

use crate::trace;
use async_trait::async_trait;
use cluster::environment::{Listener, Network, Stream};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

/// The network of one machine. Addresses are `host:port` with the machine's name.
pub struct SimulatedNetwork {
    machine: String,
}

impl SimulatedNetwork {
    /// The network as `machine` sees it.
    pub fn new(machine: &str) -> SimulatedNetwork {
        SimulatedNetwork { machine: machine.to_owned() }
    }
}

#[async_trait]
impl Network for SimulatedNetwork {
    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let (_, port) = parts(address)?;
        let listener = TcpListener::bind(("0.0.0.0", port)).await?;
        Ok(Box::new(Listening { machine: self.machine.clone(), port, listener }))
    }

    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(parts(address)?).await?;
        Ok(Box::new(TracedStream { place: format!("{}->{address}", self.machine), stream }))
    }
}

fn parts(address: &str) -> io::Result<(&str, u16)> {
    let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    parts.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("no port in the address {address}")))
}

struct Listening {
    machine: String,
    port: u16,
    listener: TcpListener,
}

#[async_trait]
impl Listener for Listening {
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, String)> {
        let (stream, peer) = self.listener.accept().await?;
        let peer = turmoil::reverse_lookup(peer.ip()).unwrap_or_else(|| peer.to_string());
        let place = format!("{}->{peer}", self.machine);
        Ok((Box::new(TracedStream { place, stream }), peer))
    }

    fn local_address(&self) -> io::Result<String> {
        Ok(format!("{}:{}", self.machine, self.port))
    }
}

struct TracedStream {
    place: String,
    stream: TcpStream,
}

impl AsyncRead for TracedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TracedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            trace::bytes(&this.place, &bytes[..*count]);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
