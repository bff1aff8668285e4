//! Takes connections in and serves each one, within bounds.
//!
//! hyper is driven directly: `axum::serve` installs no timer, so its header timeout would never fire. Every bound here has
//! a reason to exist: a client that sends its header drop by drop, one that never reads its answer, one that opens more
//! connections than a node can hold, one whose request makes a handler panic. None of them may cost the others anything.

use super::answer::{answer, dated};
use super::date::Dates;
use super::stall::StallGuard;
use super::{Problem, Routes};
use axum::http::{HeaderValue, Request, header};
use axum::response::IntoResponse;
use cluster::environment::{Environment, Listener, Stream};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The bounds of the HTTP server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections served at a time. 4,096: at the 16 KiB that an idle one may hold that is 64 MiB.
    pub connections_max: usize,
    /// Connections over `connections_max` that are being told `503` at a time; further ones are closed unheard.
    pub refusals_max: usize,
    /// Bytes of a request's line and headers. 16 KiB: the longest app id, percent-encoded, takes 768.
    pub header_bytes_max: usize,
    /// Headers of a request.
    pub headers_max: usize,
    /// How long a connection may stay without a complete request header: between requests and while one is sent. 75 s is
    /// above the minute for which proxies and clients keep idle connections.
    pub header_timeout: Duration,
    /// How long a request may take from its header to its answer, reading of the body included. 120 s lets 16 MiB come in
    /// at 1.1 Mbit/s.
    pub request_timeout: Duration,
    /// Bytes of a body that are read and thrown away after a refusal, so that the client sees it. 64 MiB: four of the
    /// largest bodies; who sends more than that meets a closed connection.
    pub drain_bytes_max: u64,
    /// How long that may take.
    pub drain_timeout: Duration,
    /// How long a client may leave its answer unread before it is cut off.
    pub write_stall_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 4096,
            refusals_max: 64,
            header_bytes_max: 16 * 1024,
            headers_max: 64,
            header_timeout: Duration::from_secs(75),
            request_timeout: Duration::from_secs(120),
            drain_bytes_max: 64 << 20,
            drain_timeout: Duration::from_secs(20),
            write_stall_timeout: Duration::from_secs(30),
        }
    }
}

/// A listening socket that does not serve yet.
pub struct Door {
    environment: Environment,
    listener: Box<dyn Listener>,
    address: String,
}

impl Door {
    /// Listens on `address` (`host:port`; port 0 takes a free one).
    pub async fn listen(environment: &Environment, address: &str) -> io::Result<Door> {
        let listener = environment.network.listen(address).await?;
        let address = listener.local_address()?;
        Ok(Door { environment: environment.clone(), listener, address })
    }

    /// The address that is being listened on, with the real port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Serves `routes` until [`Server::shutdown`].
    pub fn serve(self, routes: impl Into<Routes>, limits: Limits) -> Server {
        let (stop, stopped) = watch::channel(false);
        let connections = Arc::new(Semaphore::new(limits.connections_max));
        let routes: Arc<RwLock<Routes>> = Arc::new(RwLock::new(routes.into()));
        let server = Server {
            address: self.address,
            stop,
            connections: connections.clone(),
            limits: limits.clone(),
            routes: routes.clone(),
        };
        let site = Arc::new(Site {
            routes,
            environment: self.environment.clone(),
            limits,
            connections,
            stopped,
            dates: Dates::default(),
        });
        self.environment.tasks.spawn("http accept", accept(site, self.listener));
        server
    }
}

/// A running server.
pub struct Server {
    address: String,
    stop: watch::Sender<bool>,
    connections: Arc<Semaphore>,
    limits: Limits,
    routes: Arc<RwLock<Routes>>,
}

impl Server {
    /// The address that is being listened on, with the real port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Serves `routes` from the next request on, also of connections that are there already.
    pub fn switch(&self, routes: Routes) {
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = routes;
    }

    /// Stops taking connections in, lets requests under way finish for at most `grace`, and returns whether all did.
    pub async fn shutdown(&self, grace: Duration) -> bool {
        self.stop.send_replace(true);
        let all = u32::try_from(self.limits.connections_max).unwrap_or(u32::MAX);
        tokio::time::timeout(grace, self.connections.acquire_many(all)).await.is_ok()
    }
}

/// What all connections of a server share.
pub(super) struct Site {
    pub(super) routes: Arc<RwLock<Routes>>,
    pub(super) environment: Environment,
    pub(super) limits: Limits,
    connections: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
    pub(super) dates: Dates,
}

/// How long to wait after a failed accept: the reason (no file descriptors left) passes only with time.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

async fn accept(site: Arc<Site>, listener: Box<dyn Listener>) {
    let refusals = Arc::new(Semaphore::new(site.limits.refusals_max));
    let mut stopped = site.stopped.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "http: accepting a connection failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        if let Ok(permit) = site.connections.clone().try_acquire_owned() {
            site.environment.tasks.spawn("http connection", serve(site.clone(), stream, permit));
        } else if let Ok(permit) = refusals.clone().try_acquire_owned() {
            site.environment.tasks.spawn("http refusal", refuse(site.clone(), stream, permit));
        }
    }
}

/// Serves one connection until it closes, fails, idles too long or the server stops.
async fn serve(site: Arc<Site>, stream: Box<dyn Stream>, permit: OwnedSemaphorePermit) {
    let io = TokioIo::new(StallGuard::new(stream, site.limits.write_stall_timeout));
    let service = {
        let site = site.clone();
        service_fn(move |request| answer(site.clone(), request))
    };
    let mut connection = std::pin::pin!(builder(&site.limits).serve_connection(io, service));
    let mut stopped = site.stopped.clone();
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = stopped.wait_for(|stopped| *stopped) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "http: connection ended");
    }
    drop(permit);
}

/// How long a client over the limit may take to send the request that is refused.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers the first request of a connection over the limit with `503`.
async fn refuse(site: Arc<Site>, stream: Box<dyn Stream>, permit: OwnedSemaphorePermit) {
    let shared = site.clone();
    let service = service_fn(move |_: Request<Incoming>| {
        let problem = Problem::unavailable("this node serves as many connections as it can", Duration::from_secs(1));
        let mut response = dated(problem.into_response(), &shared);
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = builder(&site.limits).serve_connection(TokioIo::new(stream), service);
    // Whether the refusal got through is the client's affair: both outcomes end here.
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, connection).await;
    drop(permit);
}

fn builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(limits.headers_max)
        .max_header_size(limits.header_bytes_max)
        .auto_date_header(false)
        .half_close(true);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Shortcut;
    use async_trait::async_trait;
    use axum::Router;
    use axum::body::Body;
    use axum::http::{HeaderMap, Response, StatusCode, Uri};
    use axum::routing::{get, post};
    use cluster::environment::{Clock, Network, SystemDisk, SystemEntropy, Tasks, ThreadPool};
    use futures::FutureExt;
    use futures::future::{BoxFuture, pending, ready};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::sync::{Mutex, mpsc};

    /// A network of pipes: what connects is a pipe's other end.
    struct Pipes {
        ends: std::sync::Mutex<Option<mpsc::Receiver<DuplexStream>>>,
    }

    struct PipeListener(Mutex<mpsc::Receiver<DuplexStream>>);

    #[async_trait]
    impl Network for Pipes {
        async fn listen(&self, _: &str) -> io::Result<Box<dyn Listener>> {
            let ends = self.ends.lock().unwrap().take().unwrap();
            Ok(Box::new(PipeListener(Mutex::new(ends))))
        }

        async fn connect(&self, _: &str) -> io::Result<Box<dyn Stream>> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[async_trait]
    impl Listener for PipeListener {
        async fn accept(&self) -> io::Result<(Box<dyn Stream>, String)> {
            match self.0.lock().await.recv().await {
                Some(end) => Ok((Box::new(end), "pipe".to_owned())),
                None => std::future::pending().await,
            }
        }

        fn local_address(&self) -> io::Result<String> {
            Ok("pipe:1".to_owned())
        }
    }

    struct Noon;
    impl Clock for Noon {
        fn since_epoch(&self) -> Duration {
            Duration::from_secs(1_795_348_800)
        }
    }

    /// Takes its own paths, and panics over one of the router's.
    struct Short;

    impl Shortcut for Short {
        fn get(&self, uri: &Uri, _: &HeaderMap) -> Option<BoxFuture<'static, Response<Body>>> {
            match uri.path() {
                "/short" => Some(ready("short".into_response()).boxed()),
                "/short-panic" => Some(async { panic!("planted") }.boxed()),
                "/short-hang" => Some(pending().boxed()),
                "/hello" if uri.query() == Some("panic") => panic!("planted"),
                _ => None,
            }
        }
    }

    struct Site {
        connect: mpsc::Sender<DuplexStream>,
        server: Server,
        environment: Environment,
    }

    impl Site {
        async fn start(limits: Limits) -> Site {
            let (connect, ends) = mpsc::channel(16);
            let environment = Environment {
                network: Arc::new(Pipes { ends: std::sync::Mutex::new(Some(ends)) }),
                disk: Arc::new(SystemDisk::new(std::env::temp_dir()).unwrap()),
                clock: Arc::new(Noon),
                entropy: Arc::new(SystemEntropy),
                tasks: Tasks::new(Arc::new(ThreadPool::default())),
            };
            let router = Router::new()
                .route("/hello", get(|| async { "hello" }))
                .route("/echo", post(|body: bytes::Bytes| async { body }))
                .route("/refuse", post(|| async { StatusCode::PAYLOAD_TOO_LARGE }))
                .route("/slow", get(|| async { tokio::time::sleep(Duration::from_secs(5)).await }))
                .route(
                    "/panic",
                    get(|| async {
                        if true {
                            panic!("planted")
                        }
                    }),
                );
            let door = Door::listen(&environment, "anywhere:0").await.unwrap();
            assert_eq!(door.address(), "pipe:1");
            let server = door.serve(Routes::new(router, vec![Arc::new(Short)]), limits);
            Site { connect, server, environment }
        }

        async fn connect(&self) -> DuplexStream {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            self.connect.send(theirs).await.unwrap();
            ours
        }
    }

    /// Reads until the answer so far ends with `end`, or the connection closes.
    async fn read_until(stream: &mut DuplexStream, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            match stream.read_u8().await {
                Ok(byte) => text.push(byte),
                Err(_) => break,
            }
        }
        String::from_utf8(text).unwrap()
    }

    const HELLO: &[u8] = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_kept_and_the_date_is_the_nodes_own() {
        let site = Site::start(Limits::default()).await;
        let mut stream = site.connect().await;
        for _ in 0..2 {
            stream.write_all(HELLO).await.unwrap();
            let text = read_until(&mut stream, "\r\n\r\nhello").await;
            assert!(text.contains("date: Sun, 22 Nov 2026 12:00:00 GMT\r\n"), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_shortcut_is_bounded_as_the_router_is_and_takes_plain_gets_only() {
        let site = Site::start(Limits::default()).await;
        let mut stream = site.connect().await;
        for (request, end, begins) in [
            ("GET /short HTTP/1.1\r\nhost: x\r\n\r\n", "\r\n\r\nshort", "HTTP/1.1 200"),
            ("POST /short HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx", "\r\n\r\n", "HTTP/1.1 404"),
            ("GET /short HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx", "\r\n\r\n", "HTTP/1.1 404"),
            ("HEAD /short HTTP/1.1\r\nhost: x\r\n\r\n", "\r\n\r\n", "HTTP/1.1 404"),
            ("GET /hello?panic HTTP/1.1\r\nhost: x\r\n\r\n", "\r\n\r\nhello", "HTTP/1.1 200"),
            ("GET /short-panic HTTP/1.1\r\nhost: x\r\n\r\n", "}", "HTTP/1.1 500"),
            ("GET /short-hang HTTP/1.1\r\nhost: x\r\n\r\n", "}", "HTTP/1.1 408"),
        ] {
            stream.write_all(request.as_bytes()).await.unwrap();
            let text = read_until(&mut stream, end).await;
            assert!(
                text.starts_with(begins) && text.contains("date: Sun, 22 Nov 2026 12:00:00 GMT"),
                "{request}{text}"
            );
        }
        assert!(site.environment.tasks.failed().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_never_ends_is_cut_off() {
        let site = Site::start(Limits::default()).await;
        let mut stream = site.connect().await;
        let begin = tokio::time::Instant::now();
        stream.write_all(b"GET /hello HTTP/1.1\r\n").await.unwrap();
        read_until(&mut stream, "never").await;
        assert_eq!(begin.elapsed().as_secs(), Limits::default().header_timeout.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_refused() {
        let site = Site::start(Limits::default()).await;
        let mut stream = site.connect().await;
        stream.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n1234").await.unwrap();
        let text = read_until(&mut stream, "}").await;
        assert!(text.starts_with("HTTP/1.1 408") && text.contains("request_timeout"), "{text}");
    }

    fn refused(bytes: usize, header: &str) -> Vec<u8> {
        format!("POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: {bytes}\r\n{header}\r\n").into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_everything_first_sees_its_refusal() {
        let site = Site::start(Limits { drain_bytes_max: 1 << 20, ..Limits::default() }).await;
        let mut stream = site.connect().await;
        for _ in 0..2 {
            stream.write_all(&[refused(1 << 20, ""), vec![b'x'; 1 << 20]].concat()).await.unwrap();
            assert!(read_until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 413"));
        }
        stream.write_all(HELLO).await.unwrap();
        assert!(read_until(&mut stream, "hello").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_thrown_away_than_the_bounds_allow() {
        let limits = Limits { drain_bytes_max: 1 << 20, ..Limits::default() };
        let site = Site::start(limits.clone()).await;
        // More than the bound, and a client that waits to be asked for its body: both are answered at once.
        for request in [refused((1 << 20) + 1, ""), refused(9, "expect: 100-continue\r\n")] {
            let mut stream = site.connect().await;
            let begin = tokio::time::Instant::now();
            stream.write_all(&request).await.unwrap();
            let text = read_until(&mut stream, "never").await;
            assert!(text.starts_with("HTTP/1.1 413"), "{text}");
            assert_eq!(begin.elapsed(), Duration::ZERO);
        }
        let mut stream = site.connect().await;
        let begin = tokio::time::Instant::now();
        stream.write_all(&refused(9, "")).await.unwrap();
        assert!(read_until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 413"));
        assert_eq!(begin.elapsed().as_secs(), limits.drain_timeout.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn headers_over_the_bound_are_refused() {
        let site = Site::start(Limits { header_bytes_max: 1024, ..Limits::default() }).await;
        let mut stream = site.connect().await;
        let request = format!("GET /hello?{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(2000));
        stream.write_all(request.as_bytes()).await.unwrap();
        let text = read_until(&mut stream, "\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 4"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_a_handler_costs_one_answer_and_not_the_node() {
        let site = Site::start(Limits::default()).await;
        let mut stream = site.connect().await;
        stream.write_all(b"GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let text = read_until(&mut stream, "}").await;
        assert!(text.starts_with("HTTP/1.1 500") && text.contains("\"internal\""), "{text}");
        assert!(site.environment.tasks.failed().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn connections_over_the_bound_are_told_to_come_back() {
        let site = Site::start(Limits { connections_max: 1, refusals_max: 1, ..Limits::default() }).await;
        let mut first = site.connect().await;
        first.write_all(HELLO).await.unwrap();
        read_until(&mut first, "hello").await;

        let mut second = site.connect().await;
        second.write_all(HELLO).await.unwrap();
        let text = read_until(&mut second, "never").await;
        assert!(text.starts_with("HTTP/1.1 503") && text.contains("retry-after: 1\r\n"), "{text}");

        drop(first);
        while site.server.connections.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
        let mut third = site.connect().await;
        third.write_all(HELLO).await.unwrap();
        assert!(read_until(&mut third, "hello").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_lets_a_request_finish_and_takes_no_new_one() {
        let site = Site::start(Limits::default()).await;
        let mut stream = site.connect().await;
        let mut idle = site.connect().await;
        stream.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        while site.server.connections.available_permits() > site.server.limits.connections_max - 2 {
            tokio::task::yield_now().await;
        }
        let (all_done, text, _) = tokio::join!(
            site.server.shutdown(Duration::from_secs(10)),
            read_until(&mut stream, "never"),
            read_until(&mut idle, "never")
        );
        assert!(all_done);
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_gives_up_after_its_grace() {
        let site = Site::start(Limits::default()).await;
        let mut stream = site.connect().await;
        stream.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        while site.server.connections.available_permits() == site.server.limits.connections_max {
            tokio::task::yield_now().await;
        }
        // Let the request reach its handler before the server is told to stop.
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(!site.server.shutdown(Duration::from_secs(1)).await);
    }
}
