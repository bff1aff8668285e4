//! Asking without an identity: how a node that is not one yet finds its cluster.

use super::connection::outcome_of;
use super::frame::{Frame, FrameType, Payload, bytes_of};
use super::handshake::{Hello, greet};
use super::limits::Limits;
use super::message::{CallError, Identity, Request, Response};
use super::reader::{Buffers, FrameReader};
use super::stats::Counters;
use super::with_sources;
use super::writer::write_frames;
use crate::environment::{Environment, Stream};
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Asks whoever listens at `address`, on a connection of its own, and says who answered: the cluster to join and the node
/// that spoke for it.
///
/// Header and body are bound by the answerer's [`Limits::stranger_bytes_max`]. Errors as of [`super::Transport::send`].
pub async fn call_stranger(
    environment: &Environment,
    address: &str,
    request: Request,
    deadline: Instant,
) -> Result<(Identity, Response), CallError> {
    let limits = Limits::default();
    let (header_bytes, body_bytes) = (request.header.len(), bytes_of(&request.body));
    if header_bytes > limits.stranger_bytes_max || body_bytes > limits.stranger_bytes_max {
        return Err(CallError::TooLarge { header_bytes, body_bytes });
    }
    let peer: Arc<str> = address.into();
    let connect = timeout(limits.connect_timeout, environment.network.connect(address));
    let connected = timeout_at(deadline, connect).await.map_err(|_| CallError::Deadline)?;
    let stream = connected
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| unreachable(&peer, &error))?;
    timeout_at(deadline, ask(stream, request, &peer, &limits)).await.unwrap_or(Err(CallError::Deadline))
}

async fn ask(
    stream: Box<dyn Stream>,
    request: Request,
    peer: &Arc<str>,
    limits: &Limits,
) -> Result<(Identity, Response), CallError> {
    let counters = Counters::default();
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = FrameReader::new(reader, limits, &Buffers::new(0));
    let hello = Hello::stranger();
    let greeting = greet(&mut reader, &mut writer, &hello, limits, &counters);
    let welcome = greeting.await.map_err(|error| unreachable(peer, &error))?;
    if let Some(reason) = welcome.refusal(&hello) {
        return Err(CallError::Refused { peer: peer.clone(), reason: reason.into() });
    }
    let payload = Payload::new(request.header, request.body);
    let frame = Frame::new(FrameType::Request(request.kind), request.group, 1, payload);
    let written = write_frames(&mut writer, vec![frame], limits.stall_timeout, &counters).await;
    written.map_err(|error| lost(peer, &error))?;
    let received = reader.next(limits.of_nodes(), Duration::MAX).await.map_err(|error| lost(peer, &error))?;
    let response = outcome_of(received, peer).map_err(|error| lost(peer, &error))??;
    Ok((welcome.identity, response))
}

fn unreachable(peer: &Arc<str>, error: &dyn Error) -> CallError {
    CallError::Unreachable { peer: peer.clone(), reason: with_sources(error).into() }
}

fn lost(peer: &Arc<str>, error: &dyn Error) -> CallError {
    CallError::Lost { peer: peer.clone(), reason: with_sources(error).into() }
}
