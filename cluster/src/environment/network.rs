//! Byte streams between nodes and to clients.

use async_trait::async_trait;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// A connected byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Listens and connects.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Listens on `address` (`host:port`; port 0 takes a free one).
    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>>;

    /// Connects to `address` (`host:port`). The caller sets the deadline.
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>>;
}

/// Takes connections in.
#[async_trait]
pub trait Listener: Send + Sync + 'static {
    /// Waits for the next connection; the peer's address is for logs only.
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, String)>;

    /// The address that is being listened on, with the real port.
    fn local_address(&self) -> io::Result<String>;
}

/// TCP of the operating system, Nagle's algorithm off.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpNetwork;

#[async_trait]
#[allow(clippy::disallowed_methods, reason = "this is the door to the network")]
impl Network for TcpNetwork {
    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(TcpListener::bind(address).await?))
    }

    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

#[async_trait]
impl Listener for TcpListener {
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, String)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((Box::new(stream), peer.to_string()))
    }

    fn local_address(&self) -> io::Result<String> {
        self.local_addr().map(|address| address.to_string())
    }
}
