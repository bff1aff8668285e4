//! Bounds: what is refused, what waits, and that lanes do not wait for each other.

use super::*;

#[tokio::test(start_paused = true)]
async fn calls_over_the_bound_are_refused_at_once() {
    let network = Arc::new(MemoryNetwork::default());
    let limits = Limits { calls_max: 3, ..Limits::default() };
    let one = node_with(&network, identity(1), limits).await;
    let mut two = node(&network, 2).await;
    let pending: Vec<_> = (0..3).map(|kind| one.send(2, request(kind, "taken"), 1000)).collect();
    let error = one.send(2, request(9, "over"), 1000).await.unwrap_err();
    assert_eq!(error, CallError::Overloaded);
    assert!(!error.may_have_arrived());
    assert_eq!(one.transport.stats().calls_overloaded, 1);
    for _ in 0..3 {
        two.next().await.reply.send(response("done"));
    }
    for pending in pending {
        assert!(pending.await.is_ok());
    }
    two.echo();
    assert!(one.send(2, request(1, "room again"), 1000).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn bytes_over_the_bound_are_refused_but_one_request_always_fits() {
    let network = Arc::new(MemoryNetwork::default());
    let limits = Limits { queue_bytes_max: 1000, ..Limits::default() };
    let one = node_with(&network, identity(1), limits).await;
    let two = node(&network, 2).await;
    let large = one.send(2, sized(10_000), 1000);
    assert_eq!(one.send(2, sized(1), 1000).await, Err(CallError::Overloaded));
    two.echo();
    assert!(large.await.is_ok());
    let pending: Vec<_> = (0..2).map(|_| one.send(2, sized(400), 1000)).collect();
    assert_eq!(one.send(2, sized(400), 1000).await, Err(CallError::Overloaded));
    for pending in pending {
        assert!(pending.await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn control_does_not_wait_for_bulk() {
    let network = Arc::new(MemoryNetwork::default());
    let one = node(&network, 1).await;
    let mut listener = network.bind("2");
    let flood: Vec<_> =
        (0..100).map(|_| one.transport.send(NodeId(2), Lane::Bulk, sized(1024 * 1024), after_ms(5000))).collect();
    // The peer does not read the bulk lane at all: its socket and its queue are full.
    let _blocked = Hand::accept(&mut listener, 2).await;
    let refused = one.transport.call(NodeId(2), Lane::Bulk, sized(1024 * 1024), after_ms(5000)).await;
    assert_eq!(refused, Err(CallError::Overloaded));

    let start = Instant::now();
    let vote = one.send(2, request(1, "vote"), 1000);
    let mut control = Hand::accept(&mut listener, 2).await;
    let id = control.read().await.unwrap().prelude.id;
    control.respond(id).await;
    assert_eq!(vote.await, Ok(response("by hand")));
    assert_eq!(start.elapsed(), Duration::ZERO);
    drop(flood);
}

#[tokio::test(start_paused = true)]
async fn peer_with_too_many_unanswered_requests_is_not_read() {
    let network = Arc::new(MemoryNetwork::default());
    let limits = Limits { unanswered_max: 2, ..Limits::default() };
    let mut two = node_with(&network, identity(2), limits).await;
    let one = node(&network, 1).await;
    let _pending: Vec<_> = (0..4).map(|kind| one.send(2, request(kind, "call"), 60_000)).collect();
    let first = two.next().await;
    let second = two.next().await;
    settle().await;
    assert!(two.arrived.try_recv().is_err(), "two are unanswered");
    second.reply.send(response("done"));
    let third = two.next().await;
    assert_eq!(third.request.kind, 2);
    settle().await;
    assert!(two.arrived.try_recv().is_err(), "two are unanswered again");
    drop(first.reply);
    assert_eq!(two.next().await.request.kind, 3);
}

#[tokio::test(start_paused = true)]
async fn peer_with_too_many_unanswered_bytes_is_not_read() {
    let network = Arc::new(MemoryNetwork::default());
    let limits = Limits { unanswered_bytes_max: 10_000, ..Limits::default() };
    let mut two = node_with(&network, identity(2), limits).await;
    let one = node(&network, 1).await;
    let _pending: Vec<_> = (0..3).map(|_| one.send(2, sized(6000), 60_000)).collect();
    let first = two.next().await;
    let _second = two.next().await;
    settle().await;
    assert!(two.arrived.try_recv().is_err(), "12,000 bytes are unanswered");
    first.reply.send(response("short"));
    two.next().await;
}

#[tokio::test(start_paused = true)]
async fn peer_that_asks_but_does_not_read_is_not_read_and_dropped() {
    let network = Arc::new(MemoryNetwork::default());
    let limits = Limits { unanswered_bytes_max: 10_000, ..Limits::default() };
    let mut two = node_with(&network, identity(2), limits.clone()).await;
    let mut hand = Hand::connect(&network, 1, 2).await;
    let start = Instant::now();
    for id in 1..=2 {
        hand.request(id, request(1, "give me much")).await;
        let body = vec![Bytes::from(vec![0; 1024 * 1024])];
        two.next().await.reply.send(Response { header: Bytes::new(), body });
        settle().await;
    }
    assert!(two.arrived.try_recv().is_err(), "the second waits behind unread answers");
    // It never reads: the connection ends, in the middle of an answer.
    tokio::time::sleep(limits.stall_timeout * 2).await;
    let mut bytes = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut hand.reader.into_inner(), &mut bytes).await.unwrap();
    assert!(bytes.len() < 1024 * 1024, "{} bytes after {:?}", bytes.len(), start.elapsed());
}

/// Lets every task run until it waits.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
