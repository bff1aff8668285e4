//! Sockets: the ends of connections that processes hold.

use super::network::{MachineId, SharedNetwork};
use bytes::Bytes;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One end of a connection.
pub struct SimulatedStream {
    network: SharedNetwork,
    connection: u64,
    side: usize,
}

impl SimulatedStream {
    pub(super) fn new(network: SharedNetwork, connection: u64, side: usize) -> SimulatedStream {
        SimulatedStream { network, connection, side }
    }
}

impl Drop for SimulatedStream {
    fn drop(&mut self) {
        self.network.close(self.connection, self.side);
    }
}

impl AsyncRead for SimulatedStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = self.network.read(self.connection, self.side, buffer.remaining(), context.waker());
        let Some(bytes): Option<io::Result<Bytes>> = read else { return Poll::Pending };
        buffer.put_slice(&bytes?);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SimulatedStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.network.write(self.connection, self.side, bytes, context.waker()) {
            Some(written) => Poll::Ready(written),
            None => Poll::Pending,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.network.end(self.connection, self.side);
        Poll::Ready(Ok(()))
    }
}

/// A port that is listened on.
pub struct SimulatedListener {
    network: SharedNetwork,
    machine: MachineId,
    life: u64,
    port: u16,
}

impl SimulatedListener {
    pub(super) fn new(network: SharedNetwork, machine: MachineId, life: u64, port: u16) -> SimulatedListener {
        SimulatedListener { network, machine, life, port }
    }

    /// The next connection and the name of the machine that it comes from.
    pub async fn accept(&self) -> (SimulatedStream, String) {
        poll_fn(|context| match self.network.accept(self.machine, self.port, context.waker()) {
            Some(accepted) => Poll::Ready(accepted),
            None => Poll::Pending,
        })
        .await
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("{}:{}", self.network.name(self.machine), self.port)
    }
}

impl Drop for SimulatedListener {
    fn drop(&mut self) {
        self.network.close_listener(self.machine, self.life, self.port);
    }
}
