//! Which server to ask next, and how long a failed one rests.

use super::Error;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Rest after the first failure in a row; doubles with each further one.
const REST_MIN: Duration = Duration::from_millis(100);

/// Longest rest without a `Retry-After`.
const REST_MAX: Duration = Duration::from_secs(2);

/// Longest `Retry-After` that is honoured: a node comes back sooner than an operator's typing error in a proxy lets it.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// The servers of a cluster, in the order given.
#[derive(Debug)]
pub struct Servers(Vec<Server>);

#[derive(Debug)]
struct Server {
    /// `http://host:port`, without a slash at the end.
    base: String,
    health: Mutex<Health>,
}

#[derive(Debug)]
struct Health {
    failures_in_a_row: u32,
    rested_at: Instant,
}

impl Servers {
    /// Checks the addresses; all are thought healthy.
    pub fn new(addresses: &[String]) -> Result<Servers, Error> {
        if addresses.is_empty() {
            return Err(Error::Address { address: String::new(), why: "no server given".into() });
        }
        let server = |address: &String| {
            let base = base(address).map_err(|why| Error::Address { address: address.clone(), why })?;
            Ok(Server { base, health: Mutex::new(Health { failures_in_a_row: 0, rested_at: Instant::now() }) })
        };
        addresses.iter().map(server).collect::<Result<_, _>>().map(Servers)
    }

    /// How many there are; at least one.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// What a path is appended to.
    pub fn base(&self, server: usize) -> &str {
        &self.0[server].base
    }

    /// The first rested server from `first` on, or the one that will have rested first, and when.
    pub fn choose(&self, first: usize) -> (usize, Instant) {
        let now = Instant::now();
        let candidates = (0..self.count()).map(|step| (first + step) % self.count());
        candidates
            .map(|server| (server, self.health(server).rested_at.max(now)))
            .min_by_key(|(_, rested_at)| *rested_at)
            .expect("there is at least one server")
    }

    /// Notes that a server answered.
    pub fn succeeded(&self, server: usize) {
        self.health(server).failures_in_a_row = 0;
    }

    /// Notes that a server failed, and lets it rest for at least `rest`.
    pub fn failed(&self, server: usize, rest: Duration) {
        let mut health = self.health(server);
        let own = REST_MIN * 2_u32.saturating_pow(health.failures_in_a_row.min(16));
        health.failures_in_a_row += 1;
        let rested_at = Instant::now() + own.min(REST_MAX).max(rest.min(RETRY_AFTER_MAX));
        health.rested_at = health.rested_at.max(rested_at);
    }

    fn health(&self, server: usize) -> std::sync::MutexGuard<'_, Health> {
        self.0[server].health.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bases: Vec<_> = self.0.iter().map(|server| server.base.as_str()).collect();
        f.write_str(&bases.join(", "))
    }
}

/// `http://host:port` of an address as people write it.
fn base(address: &str) -> Result<String, String> {
    let address = address.trim();
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let url = reqwest::Url::parse(&url).map_err(|error| format!("{error}; write it like http://127.0.0.1:3600"))?;
    if url.scheme() != "http" {
        return Err(format!("{} is not spoken here, nodes serve plain http", url.scheme()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a server has no query; write it like http://127.0.0.1:3600".into());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(addresses: &[&str]) -> Servers {
        Servers::new(&addresses.iter().map(|address| (*address).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn addresses_are_taken_as_people_write_them() {
        assert_eq!(base("127.0.0.1:3600").unwrap(), "http://127.0.0.1:3600");
        assert_eq!(base("http://node-1:3600/").unwrap(), "http://node-1:3600");
        assert_eq!(base("http://[::1]:3600").unwrap(), "http://[::1]:3600");
        assert_eq!(base("http://gateway/hourmark/").unwrap(), "http://gateway/hourmark");
        for wrong in ["", "https://node-1", "http://", "http://node-1:port", "http://node-1/?x=1"] {
            assert!(base(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_server_rests_longer_each_time_and_others_serve_meanwhile() {
        let servers = servers(&["a:1", "b:2"]);
        assert_eq!(servers.choose(0).0, 0);
        assert_eq!(servers.choose(1).0, 1);
        servers.failed(0, Duration::ZERO);
        assert_eq!(servers.choose(0).0, 1);
        tokio::time::advance(REST_MIN).await;
        assert_eq!(servers.choose(0).0, 0);
        servers.failed(0, Duration::ZERO);
        tokio::time::advance(REST_MIN).await;
        assert_eq!(servers.choose(0).0, 1);
        tokio::time::advance(REST_MIN).await;
        assert_eq!(servers.choose(0).0, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn with_all_at_rest_the_one_that_is_back_first_is_next() {
        let servers = servers(&["a:1", "b:2"]);
        let start = Instant::now();
        servers.failed(0, Duration::from_secs(3));
        servers.failed(1, Duration::from_secs(1));
        assert_eq!(servers.choose(0), (1, start + Duration::from_secs(1)));
        servers.failed(1, Duration::from_secs(3600));
        assert_eq!(servers.choose(0).0, 0);
        tokio::time::advance(RETRY_AFTER_MAX).await;
        assert_eq!(servers.choose(1).0, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn rest_has_an_upper_bound() {
        let servers = servers(&["a:1"]);
        for _ in 0..100 {
            servers.failed(0, Duration::ZERO);
        }
        assert_eq!(servers.choose(0).1, Instant::now() + REST_MAX);
    }
}
