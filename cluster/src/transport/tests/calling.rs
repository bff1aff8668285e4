//! Order, deadlines, and what becomes of connections.

use super::*;

#[tokio::test(start_paused = true)]
async fn requests_arrive_in_order_before_any_answer_and_answers_come_in_any_order() {
    let (one, mut two) = two().await;
    let pending: Vec<_> = (0..100).map(|kind| one.send(2, request(kind, "in order"), 1000)).collect();
    let mut replies = Vec::new();
    for kind in 0..100 {
        let arrived = two.next().await;
        assert_eq!(arrived.from, Peer::Node(NodeId(1)));
        assert_eq!(arrived.request, request(kind, "in order"));
        replies.push(arrived.reply);
    }
    for (kind, reply) in replies.into_iter().enumerate().rev() {
        reply.send(response(&kind.to_string()));
    }
    for (kind, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.await, Ok(response(&kind.to_string())));
    }
    assert_eq!(one.transport.stats().connections_made, 1);
    assert_eq!(two.transport.stats().requests, 100);
}

#[tokio::test(start_paused = true)]
async fn body_in_slices_arrives_as_one() {
    let (one, mut two) = two().await;
    let body = vec![Bytes::from(vec![1; 100]), Bytes::new(), Bytes::from(vec![2; 300_000])];
    let pending = one.send(2, Request { body: body.clone(), ..request(9, "sliced") }, 1000);
    let arrived = two.next().await;
    assert_eq!(arrived.request.body, vec![Bytes::from(body.concat())]);
    arrived.reply.send(Response { header: Bytes::new(), body });
    assert_eq!(pending.await.unwrap().body, arrived.request.body);
}

#[tokio::test(start_paused = true)]
async fn missed_deadline_drops_a_silent_connection_and_fails_all_its_calls() {
    let network = Arc::new(MemoryNetwork::default());
    let one = node(&network, 1).await;
    let mut listener = network.bind("2");
    let (soon, late) = (one.send(2, request(1, "soon"), 1000), one.send(2, request(2, "late"), 60_000));
    let mut silent = Hand::accept(&mut listener, 2).await;
    let start = Instant::now();
    assert_eq!(soon.await, Err(CallError::Deadline));
    assert_eq!(start.elapsed().as_millis(), 1000);
    let lost = late.await.unwrap_err();
    assert!(matches!(&lost, CallError::Lost { reason, .. } if &**reason == "no answer came in time"), "{lost}");
    assert!(lost.may_have_arrived());
    assert_eq!(start.elapsed().as_millis(), 1000);
    silent.read().await.unwrap();
    silent.read().await.unwrap();
    silent.closed().await;
    assert_eq!(one.transport.stats().connections_stalled, 1);

    tokio::time::advance(Duration::from_millis(20)).await;
    let again = one.send(2, request(3, "again"), 1000);
    let mut fresh = Hand::accept(&mut listener, 2).await;
    let id = fresh.read().await.unwrap().prelude.id;
    fresh.respond(id).await;
    assert_eq!(again.await, Ok(response("by hand")));
}

#[tokio::test(start_paused = true)]
async fn one_slow_answer_fails_alone_where_others_come_in() {
    let (one, mut two) = two().await;
    let slow = one.send(2, request(1, "slow"), 1000);
    let hung = two.next().await.reply;
    let quick = one.send(2, request(2, "quick"), 1000);
    two.next().await.reply.send(response("quick"));
    assert_eq!(quick.await, Ok(response("quick")));
    assert_eq!(slow.await, Err(CallError::Deadline));
    // The late answer finds nobody, and nothing breaks.
    hung.send(response("too late"));
    let next = one.send(2, request(3, "next"), 1000);
    two.next().await.reply.send(response("next"));
    assert_eq!(next.await, Ok(response("next")));
    let stats = one.transport.stats();
    assert_eq!((stats.connections_made, stats.connections_stalled, stats.calls_late), (1, 0, 1));
    assert_eq!((stats.calls, stats.calls_failed), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn connection_that_breaks_after_an_answer_is_found_by_the_next_deadline() {
    let network = Arc::new(MemoryNetwork::default());
    let one = node(&network, 1).await;
    let mut listener = network.bind("2");
    let calls: Vec<_> = (0..3).map(|kind| one.send(2, request(kind, "call"), 1000)).collect();
    let mut hand = Hand::accept(&mut listener, 2).await;
    let id = hand.read().await.unwrap().prelude.id;
    hand.respond(id).await;
    let mut outcomes = futures::future::join_all(calls).await;
    assert_eq!(outcomes.split_off(1), vec![Err(CallError::Deadline), Err(CallError::Deadline)]);
    assert_eq!(one.transport.stats().connections_stalled, 0);
    assert_eq!(one.send(2, request(9, "next"), 500).await, Err(CallError::Deadline));
    assert_eq!(one.transport.stats().connections_stalled, 1);
}

#[tokio::test(start_paused = true)]
async fn unreachable_peer_fails_calls_at_once_until_the_backoff_is_over() {
    let network = Arc::new(MemoryNetwork::default());
    let one = node(&network, 1).await;
    let start = Instant::now();
    let error = one.send(2, request(1, "nobody there"), 1000).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
    assert!(!error.may_have_arrived());
    assert_eq!(one.send(2, request(1, "still nobody"), 1000).await, Err(error));
    assert_eq!(start.elapsed(), Duration::ZERO, "a refusal needs no waiting");
    assert_eq!(one.transport.stats().connections_failed, 1, "the second call does not even try");

    let two = node(&network, 2).await;
    two.echo();
    tokio::time::advance(Duration::from_millis(20)).await;
    assert!(one.send(2, request(1, "now"), 1000).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn backoff_grows_to_its_maximum() {
    let network = Arc::new(MemoryNetwork::default());
    let one = node(&network, 1).await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        assert!(one.send(2, request(1, "nobody"), 1000).await.is_err());
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    let attempts = one.transport.stats().connections_failed;
    assert!((25..=45).contains(&attempts), "{attempts} attempts in 10 s: 250 to 500 ms apart after some quick ones");
}

#[tokio::test(start_paused = true)]
async fn connect_that_hangs_ends_by_its_timeout_and_each_call_by_its_deadline() {
    let network = Arc::new(MemoryNetwork::default());
    let one = node(&network, 1).await;
    let mut listener = network.bind("2");
    let start = Instant::now();
    let (soon, late) = (one.send(2, request(1, "soon"), 100), one.send(2, request(1, "late"), 60_000));
    let _nobody_answers = listener.recv().await.unwrap();
    assert_eq!(soon.await, Err(CallError::Deadline));
    assert_eq!(start.elapsed().as_millis(), 100);
    assert!(matches!(late.await, Err(CallError::Unreachable { .. })), "it was never sent");
    assert_eq!(start.elapsed(), Limits::default().handshake_timeout);
}

#[tokio::test(start_paused = true)]
async fn address_is_asked_anew_for_every_connection() {
    let (one, two) = two().await;
    two.echo();
    one.book.0.lock().unwrap().insert(NodeId(2), None);
    let error = one.send(2, request(1, "where"), 1000).await.unwrap_err();
    assert_eq!(error.to_string(), "node 2 is unreachable: its address is not known");
    one.book.0.lock().unwrap().clear();
    tokio::time::advance(Duration::from_millis(20)).await;
    assert!(one.send(2, request(1, "there"), 1000).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn peer_that_closes_fails_what_was_sent_as_lost() {
    let network = Arc::new(MemoryNetwork::default());
    let one = node(&network, 1).await;
    let mut listener = network.bind("2");
    let pending = one.send(2, request(1, "call"), 1000);
    let mut hand = Hand::accept(&mut listener, 2).await;
    hand.read().await.unwrap();
    drop(hand);
    let error = pending.await.unwrap_err();
    assert_eq!(error.to_string(), "connection to node 2 was lost: reading failed: connection was closed");
}

#[tokio::test(start_paused = true)]
async fn unused_connection_is_closed_by_the_caller_and_made_again_when_needed() {
    let (one, two) = two().await;
    let two = two.echo();
    assert!(one.send(2, request(1, "first"), 1000).await.is_ok());
    tokio::time::sleep(Limits::default().idle_timeout + Duration::from_secs(1)).await;
    assert!(one.send(2, request(1, "second"), 1000).await.is_ok());
    assert_eq!(one.transport.stats().connections_made, 2);
    assert_eq!(two.stats().connections_accepted, 2);
    assert_eq!(one.transport.stats().calls_failed, 0);
}

#[tokio::test(start_paused = true)]
async fn long_call_keeps_its_connection() {
    let (one, mut two) = two().await;
    let hour = 3600 * 1000;
    let pending = one.send(2, request(1, "long"), hour);
    let reply = two.next().await.reply;
    tokio::time::sleep(Duration::from_millis(hour - 1)).await;
    reply.send(response("at last"));
    assert_eq!(pending.await, Ok(response("at last")));
}

#[tokio::test(start_paused = true)]
async fn dropped_or_oversize_answer_tells_the_caller_that_there_is_none() {
    let (one, mut two) = two().await;
    let pending = one.send(2, request(1, "dropped"), 1000);
    drop(two.next().await.reply);
    assert_eq!(pending.await, Err(CallError::Unanswered));
    let pending = one.send(2, request(1, "oversize"), 1000);
    let body = vec![Bytes::from(vec![0; BODY_BYTES_MAX + 1])];
    two.next().await.reply.send(Response { header: Bytes::new(), body });
    assert_eq!(pending.await, Err(CallError::Unanswered));
    let (reply, pending) = Reply::local();
    drop(reply);
    assert_eq!(pending.await, Err(CallError::Unanswered));
    let (reply, pending) = Reply::local();
    reply.send(response("local"));
    assert_eq!(pending.await, Ok(response("local")));
}

#[tokio::test(start_paused = true)]
async fn request_that_cannot_be_sent_is_refused_at_once() {
    let (one, _two) = two().await;
    let error = one.send(2, sized(BODY_BYTES_MAX + 1), 1000).await.unwrap_err();
    assert_eq!(error, CallError::TooLarge { header_bytes: 5, body_bytes: BODY_BYTES_MAX + 1 });
    assert_eq!(one.send(2, request(1, "no time"), 0).await, Err(CallError::Deadline));
    assert_eq!(one.transport.stats().calls_failed, 2);
}

#[tokio::test(start_paused = true)]
async fn both_sides_hear_each_other() {
    let (one, two) = two().await;
    let two = two.echo();
    assert_eq!(one.transport.last_heard(NodeId(2)), None);
    assert!(one.send(2, request(1, "hello"), 1000).await.is_ok());
    let first = Instant::now();
    assert_eq!(one.transport.last_heard(NodeId(2)), Some(first));
    assert_eq!(two.last_heard(NodeId(1)), Some(first));
    tokio::time::advance(Duration::from_millis(1500)).await;
    assert_eq!(one.transport.last_heard(NodeId(2)), Some(first), "silence is not a sign of life");
    assert!(one.send(2, request(1, "again"), 1000).await.is_ok());
    assert_eq!(one.transport.last_heard(NodeId(2)), Some(Instant::now()));
    assert_eq!(one.transport.last_heard(NodeId(3)), None);
}

#[tokio::test(start_paused = true)]
async fn shutdown_fails_all_calls_and_closes_all_connections() {
    let (one, mut two) = two().await;
    let pending = one.send(2, request(1, "under way"), 1000);
    let reply = two.next().await.reply;
    one.transport.shutdown();
    assert_eq!(pending.await, Err(CallError::Stopped));
    assert_eq!(one.send(2, request(1, "later"), 1000).await, Err(CallError::Stopped));
    assert_eq!(one.send(3, request(1, "elsewhere"), 1000).await, Err(CallError::Stopped));
    reply.send(response("to nobody"));
    let error = two.send(1, request(1, "back"), 1000).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn aborted_tasks_leave_no_caller_waiting() {
    let (one, mut two) = two().await;
    let pending = one.send(2, request(1, "under way"), 60_000);
    two.next().await;
    one.environment.tasks.shutdown();
    assert_eq!(pending.await, Err(CallError::Stopped));
}

#[tokio::test(start_paused = true)]
async fn earlier_deadline_of_a_later_call_is_kept() {
    let (one, mut two) = two().await;
    let late = one.send(2, request(1, "late"), 60_000);
    let late_reply = two.next().await.reply;
    let start = Instant::now();
    let soon = one.send(2, request(2, "soon"), 100);
    let _soon_reply = two.next().await.reply;
    late_reply.send(response("in time"));
    assert_eq!(late.await, Ok(response("in time")));
    assert_eq!(soon.await, Err(CallError::Deadline));
    assert_eq!(start.elapsed().as_millis(), 100);
}

#[tokio::test(start_paused = true)]
async fn answerer_keeps_an_unused_connection_longer_than_the_caller() {
    let network = Arc::new(MemoryNetwork::default());
    let mut two = node(&network, 2).await;
    let mut hand = Hand::connect(&network, 1, 2).await;
    let idle_timeout = Limits::default().idle_timeout;
    tokio::time::sleep(idle_timeout * 2).await;
    hand.request(1, request(1, "still there")).await;
    two.next().await.reply.send(response("yes"));
    hand.read().await.unwrap();
    let start = Instant::now();
    hand.closed().await;
    assert_eq!(start.elapsed(), idle_timeout * 3);
}
