//! The same on real sockets.

use super::*;
use crate::environment::TcpNetwork;

#[tokio::test]
async fn many_large_and_small_calls_pass_whole_over_tcp() {
    let network: Arc<dyn Network> = Arc::new(TcpNetwork);
    let environment = environment(network.clone());
    let book = Arc::new(Book::default());
    let mut transports = Vec::new();
    for number in 1..=2 {
        let listener = network.listen("127.0.0.1:0").await.unwrap();
        book.0.lock().unwrap().insert(NodeId(number), Some(listener.local_address().unwrap()));
        let (sender, arrived) = mpsc::unbounded_channel();
        let desk = Arc::new(Desk(sender));
        let transport =
            Transport::start(&environment, identity(number), listener, book.clone(), desk, Limits::default());
        let node = Node { transport, environment: environment.clone(), book: book.clone(), arrived };
        transports.push(node.echo());
    }
    for lane in [Lane::Control, Lane::Bulk] {
        let calls = (0..200_usize).map(|number| {
            let slices = (0..number % 5).map(|slice| Bytes::from(vec![slice as u8; number * 211])).collect();
            let request = Request { body: slices, ..request(number as u8, &number.to_string()) };
            let expected = (request.header.clone(), request.body.concat());
            let pending = transports[0].send(NodeId(2), lane, request, after_ms(30_000));
            async move {
                let response = pending.await.unwrap();
                assert_eq!((response.header, response.body.concat()), expected);
            }
        });
        futures::future::join_all(calls).await;
    }
    let (one, two) = (transports[0].stats(), transports[1].stats());
    assert_eq!((one.bytes_out, one.bytes_in), (two.bytes_in, two.bytes_out));
    assert_eq!((one.connections_made, two.connections_accepted, two.requests), (2, 2, 400));
}
