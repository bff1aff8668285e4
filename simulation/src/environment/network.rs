//! TCP of the simulated world. What is written goes into the trace.

use crate::trace;
use async_trait::async_trait;
use cluster::environment::{Listener, Network, Stream};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

/// The network of one host. Addresses are `host:port` with the host's name in the simulated world.
pub struct SimulatedNetwork {
    host: String,
}

impl SimulatedNetwork {
    /// The network as `host` sees it.
    pub fn new(host: &str) -> SimulatedNetwork {
        SimulatedNetwork { host: host.to_owned() }
    }
}

#[async_trait]
impl Network for SimulatedNetwork {
    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let port: u16 = address
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("no port in the address {address}")))?;
        let listener = TcpListener::bind(("0.0.0.0", port)).await?;
        Ok(Box::new(SimulatedListener { host: self.host.clone(), port, listener }))
    }

    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(address).await?;
        Ok(Box::new(TracedStream { place: format!("{}->{address}", self.host), stream }))
    }
}

struct SimulatedListener {
    host: String,
    port: u16,
    listener: TcpListener,
}

#[async_trait]
impl Listener for SimulatedListener {
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, String)> {
        let (stream, peer) = self.listener.accept().await?;
        let place = format!("{}:{}->{peer}", self.host, self.port);
        Ok((Box::new(TracedStream { place, stream }), peer.to_string()))
    }

    fn local_address(&self) -> io::Result<String> {
        Ok(format!("{}:{}", self.host, self.port))
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
