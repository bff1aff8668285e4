//! Bytes that no node of ours would send.

use super::*;
use crate::transport::frame::PRELUDE_BYTES;
use tokio::io::AsyncWriteExt;

fn valid() -> Vec<u8> {
    let payload = Payload::new(Bytes::from_static(b"header"), vec![Bytes::from_static(b"body")]);
    let frame = Frame::new(FrameType::Request(1), GroupId(1), 1, payload);
    let mut bytes = frame.prelude.to_vec();
    frame.parts().for_each(|part| bytes.extend_from_slice(&part));
    bytes
}

/// Makes the checksum of a changed prelude right again.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32c::crc32c(&bytes[..PRELUDE_BYTES - 4]);
    bytes[PRELUDE_BYTES - 4..PRELUDE_BYTES].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn changed(offset: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = valid();
    bytes[offset..offset + with.len()].copy_from_slice(with);
    sealed(bytes)
}

fn attacks() -> Vec<(&'static str, Vec<u8>)> {
    let frame = |frame| Frame::new(frame, GroupId::METADATA, 1, Payload::default()).prelude.to_vec();
    vec![
        ("garbage", vec![0xff; 100]),
        ("http", b"GET / HTTP/1.1\r\nhost: somewhere\r\n\r\n".to_vec()),
        ("version", changed(0, &[2])),
        ("type", changed(1, &[77])),
        ("flags", changed(3, &[1])),
        ("reserved", changed(6, &[1])),
        ("header length", changed(16, &u32::MAX.to_le_bytes())),
        ("body length", changed(20, &(BODY_BYTES_MAX as u32 + 1).to_le_bytes())),
        ("payload checksum", changed(24, &[0, 0, 0, 0])),
        ("flipped byte", [&valid()[..PRELUDE_BYTES], b"heAder", b"body"].concat()),
        ("second hello", frame(FrameType::Hello)),
        ("answer to nothing", frame(FrameType::Response)),
    ]
}

#[tokio::test(start_paused = true)]
async fn malformed_frame_drops_its_connection_alone() {
    let network = Arc::new(MemoryNetwork::default());
    let mut two = node(&network, 2).await;
    for (number, (name, bytes)) in attacks().into_iter().enumerate() {
        let (mut bystander, mut attacker) = (Hand::connect(&network, 1, 2).await, Hand::connect(&network, 3, 2).await);
        attacker.writer.write_all(&bytes).await.unwrap();
        attacker.closed().await;
        assert_eq!(two.transport.stats().frames_malformed, number as u64 + 1, "{name}");
        assert!(two.arrived.try_recv().is_err(), "{name}");
        bystander.request(1, request(1, "fine")).await;
        two.next().await.reply.send(response("fine"));
        assert_eq!(&bystander.read().await.unwrap().header[..], b"fine", "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn malformed_hello_drops_the_connection() {
    let network = Arc::new(MemoryNetwork::default());
    let two = node(&network, 2).await;
    for (number, (name, bytes)) in attacks().into_iter().enumerate() {
        let mut attacker = Hand::new(network.raw("2").unwrap());
        attacker.writer.write_all(&bytes).await.unwrap();
        attacker.closed().await;
        assert_eq!(two.transport.stats().frames_malformed, number as u64 + 1, "{name}");
    }
    assert_eq!(two.transport.stats().connections_accepted, 0);
}

#[tokio::test(start_paused = true)]
async fn request_before_the_hello_is_never_served() {
    let network = Arc::new(MemoryNetwork::default());
    let mut two = node(&network, 2).await;
    let mut attacker = Hand::new(network.raw("2").unwrap());
    attacker.request(1, request(ALLOWED, "")).await;
    attacker.closed().await;
    assert!(two.arrived.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn frame_that_stops_half_way_drops_the_connection() {
    let network = Arc::new(MemoryNetwork::default());
    let _two = node(&network, 2).await;
    for cut in [1, PRELUDE_BYTES - 1, PRELUDE_BYTES, PRELUDE_BYTES + 3] {
        let mut attacker = Hand::connect(&network, 3, 2).await;
        attacker.writer.write_all(&valid()[..cut]).await.unwrap();
        let start = Instant::now();
        attacker.closed().await;
        assert_eq!(start.elapsed(), Limits::default().stall_timeout);
    }
}

#[tokio::test(start_paused = true)]
async fn malformed_answer_drops_the_connection_and_fails_its_calls() {
    for (name, bytes) in attacks() {
        let network = Arc::new(MemoryNetwork::default());
        let one = node(&network, 1).await;
        let mut listener = network.bind("2");
        let pending = one.send(2, request(1, "call"), 1000);
        let mut hand = Hand::accept(&mut listener, 2).await;
        hand.read().await.unwrap();
        // An answer to nothing is one with an id that was never drawn.
        let bytes = if name == "answer to nothing" { changed_id(bytes) } else { bytes };
        hand.writer.write_all(&bytes).await.unwrap();
        let error = pending.await.unwrap_err();
        assert!(matches!(error, CallError::Lost { .. }), "{name}: {error}");
        assert_eq!(one.transport.stats().frames_malformed, 1, "{name}");
    }
}

fn changed_id(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[8] = 2;
    sealed(bytes)
}
