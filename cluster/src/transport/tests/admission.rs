//! Who is let in, and what strangers may ask.

use super::*;
use std::sync::atomic::AtomicUsize;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

#[tokio::test(start_paused = true)]
async fn node_of_another_cluster_is_refused_with_the_reason() {
    let network = Arc::new(MemoryNetwork::default());
    let one = node(&network, 1).await;
    let other = Identity { cluster: ClusterId(0xdd), node: NodeId(2) };
    let mut two = node_with(&network, other, Limits::default()).await;
    let error = one.send(2, request(1, "hello"), 1000).await.unwrap_err();
    let expected = format!("node 2 refused: it belongs to cluster {}, this node to cluster {CLUSTER}", other.cluster);
    assert_eq!(error.to_string(), expected);
    assert!(!error.may_have_arrived());
    assert_eq!(two.transport.stats().connections_refused, 1);
    assert_eq!(two.transport.last_heard(NodeId(1)), None);
    assert!(two.arrived.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn another_node_at_the_address_is_refused() {
    let (one, mut two) = two().await;
    one.book.0.lock().unwrap().insert(NodeId(3), Some("2".to_owned()));
    let error = one.send(3, request(1, "hello"), 1000).await.unwrap_err();
    assert_eq!(error.to_string(), "node 3 refused: it is node 2, meant was node 3");
    assert_eq!(two.transport.stats().connections_refused, 1);
    assert!(two.arrived.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn answerer_refuses_even_where_the_caller_would_go_on() {
    let network = Arc::new(MemoryNetwork::default());
    let _two = node(&network, 2).await;
    let foreign = Identity { cluster: ClusterId(0xdd), node: NodeId(1) };
    let hellos = [
        (Hello::node(foreign, NodeId(2), Lane::Bulk), Verdict::OtherCluster),
        (Hello::node(identity(1), NodeId(3), Lane::Control), Verdict::OtherNode),
        (Hello::node(identity(2), NodeId(2), Lane::Control), Verdict::SameNode),
    ];
    for (hello, verdict) in hellos {
        let mut hand = Hand::new(network.raw("2").unwrap());
        assert_eq!(hand.greet(&hello).await, Welcome::new(verdict, identity(2)));
        hand.closed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn node_does_not_call_itself() {
    let (one, _two) = two().await;
    let error = one.send(1, request(1, "self"), 1000).await.unwrap_err();
    assert_eq!(error.to_string(), "node 1 refused: it is node 1 itself, like this node");
}

#[tokio::test(start_paused = true)]
async fn refusals_are_logged_once_on_both_sides() {
    let lines = Arc::new(AtomicUsize::new(0));
    let _guard = tracing::subscriber::set_default(CountWarnings(lines.clone()));
    let network = Arc::new(MemoryNetwork::default());
    let one = node(&network, 1).await;
    let other = Identity { cluster: ClusterId(0xdd), node: NodeId(2) };
    let two = node_with(&network, other, Limits::default()).await;
    for _ in 0..50 {
        assert!(one.send(2, request(1, "hello"), 1000).await.is_err());
        tokio::time::advance(Limits::default().backoff_max).await;
    }
    assert_eq!(two.transport.stats().connections_refused, 50);
    assert_eq!(lines.load(Ordering::Relaxed), 2, "one line from each side");
}

#[tokio::test(start_paused = true)]
async fn stranger_learns_the_cluster_and_is_answered_what_strangers_may_ask() {
    let network = Arc::new(MemoryNetwork::default());
    let mut two = node(&network, 2).await;
    let environment = environment(network.clone());
    let call = call_stranger(&environment, "2", request(ALLOWED, "join"), after_ms(1000));
    let answer = async {
        let arrived = two.next().await;
        assert_eq!((arrived.from, arrived.request), (Peer::Stranger, request(ALLOWED, "join")));
        arrived.reply.send(response("you are node 9"));
    };
    let (outcome, ()) = tokio::join!(call, answer);
    assert_eq!(outcome, Ok((identity(2), response("you are node 9"))));

    let refused = call_stranger(&environment, "2", request(1, "vote"), after_ms(1000)).await.unwrap_err();
    assert_eq!(refused.to_string(), "2 refused: only nodes of its cluster may ask this");
    assert!(two.arrived.try_recv().is_err(), "the handler never sees it");
    let nobody = call_stranger(&environment, "7", request(ALLOWED, "join"), after_ms(1000)).await.unwrap_err();
    assert!(matches!(nobody, CallError::Unreachable { .. }), "{nobody}");
}

#[tokio::test(start_paused = true)]
async fn stranger_without_an_answer_gives_up_at_the_deadline() {
    let network = Arc::new(MemoryNetwork::default());
    let _two = node(&network, 2).await;
    let start = Instant::now();
    let environment = environment(network.clone());
    let outcome = call_stranger(&environment, "2", request(ALLOWED, "join"), after_ms(700)).await;
    assert_eq!((outcome, start.elapsed().as_millis()), (Err(CallError::Deadline), 700));
}

#[tokio::test(start_paused = true)]
async fn stranger_is_cut_off_above_its_limits() {
    let network = Arc::new(MemoryNetwork::default());
    let limits = Limits { stranger_bytes_max: 100, ..Limits::default() };
    let mut two = node_with(&network, identity(2), limits).await;
    let mut hand = Hand::new(network.raw("2").unwrap());
    assert_eq!(hand.greet(&Hello::stranger()).await, Welcome::new(Verdict::Welcome, identity(2)));
    hand.request(1, Request { kind: ALLOWED, ..sized(100) }).await;
    assert_eq!(two.next().await.request.body[0].len(), 100);
    hand.read().await.expect("the first request was dropped by the test, which is an answer");
    hand.request(2, Request { kind: ALLOWED, ..sized(101) }).await;
    hand.closed().await;
    assert_eq!(two.transport.stats().frames_malformed, 1);
    assert!(two.arrived.try_recv().is_err());

    let environment = environment(network.clone());
    let outcome = call_stranger(&environment, "2", sized(1024 * 1024), after_ms(1000)).await;
    assert!(matches!(outcome, Err(CallError::TooLarge { .. })), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn newer_connection_of_a_node_replaces_the_older_one() {
    let network = Arc::new(MemoryNetwork::default());
    let mut two = node(&network, 2).await;
    let mut old = Hand::connect(&network, 1, 2).await;
    let mut new = Hand::connect(&network, 1, 2).await;
    old.closed().await;
    new.request(1, request(5, "new")).await;
    assert_eq!(two.next().await.request, request(5, "new"));
}

#[tokio::test(start_paused = true)]
async fn connections_of_nodes_are_bounded() {
    let network = Arc::new(MemoryNetwork::default());
    let limits = Limits { connections_max: 1, ..Limits::default() };
    let two = node_with(&network, identity(2), limits).await;
    let first = Hand::connect(&network, 1, 2).await;
    let three = node(&network, 3).await;
    let error = three.send(2, request(1, "hello"), 1000).await.unwrap_err();
    assert_eq!(error.to_string(), "node 2 refused: it has too many connections");
    assert_eq!(two.transport.stats().connections_refused, 1);
    drop(first);
    two.echo();
    tokio::time::advance(Limits::default().backoff_max).await;
    assert!(three.send(2, request(1, "hello"), 1000).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn connections_that_do_not_say_who_they_are_are_bounded_and_end() {
    let network = Arc::new(MemoryNetwork::default());
    let limits = Limits { strangers_max: 2, ..Limits::default() };
    let two = node_with(&network, identity(2), limits.clone()).await;
    let start = Instant::now();
    let mut silent: Vec<Hand> = (0..3).map(|_| Hand::new(network.raw("2").unwrap())).collect();
    let mut third = silent.pop().unwrap();
    third.closed().await;
    assert_eq!((start.elapsed(), two.transport.stats().connections_refused), (Duration::ZERO, 1));
    for hand in &mut silent {
        hand.closed().await;
    }
    assert_eq!(start.elapsed(), limits.handshake_timeout);
    Hand::connect(&network, 1, 2).await;
}

#[tokio::test(start_paused = true)]
async fn nodes_do_not_take_the_place_of_strangers() {
    let network = Arc::new(MemoryNetwork::default());
    let two = node_with(&network, identity(2), Limits { strangers_max: 1, ..Limits::default() }).await;
    let _nodes = [Hand::connect(&network, 1, 2).await, Hand::connect(&network, 3, 2).await];
    let mut stranger = Hand::new(network.raw("2").unwrap());
    assert_eq!(stranger.greet(&Hello::stranger()).await.verdict, Verdict::Welcome);
    assert_eq!(two.transport.stats().connections_accepted, 3);
    let start = Instant::now();
    stranger.closed().await;
    assert_eq!(start.elapsed(), Limits::default().handshake_timeout, "a stranger that asks nothing has to go");
}

/// Counts warnings.
struct CountWarnings(Arc<AtomicUsize>);

impl Subscriber for CountWarnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
