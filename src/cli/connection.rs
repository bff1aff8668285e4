//! The flags of commands that talk to a cluster.

use super::failure::Failure;
use hourmark::client::Client;
use hourmark::config::parse_duration;
use std::time::Duration;

/// Which servers to ask.
#[derive(Debug, clap::Args)]
pub struct Connection {
    /// A node's HTTP address; repeat it or use commas for several: the next is asked when one does not answer
    #[arg(
        short = 's',
        long = "server",
        value_name = "URL",
        env = "HOURMARK_SERVER",
        hide_env_values = true,
        value_delimiter = ',',
        default_value = "http://127.0.0.1:3600"
    )]
    servers: Vec<String>,
}

impl Connection {
    /// Those servers.
    pub fn servers(&self) -> &[String] {
        &self.servers
    }

    /// A client of those servers, which says on stderr when it has to wait for an answer.
    pub fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(&self.servers)?.telling(|line| eprintln!("{line}")))
    }
}

/// Reads the value of a `--timeout`: a duration with its unit, or a number of seconds.
pub fn timeout(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    seconds.or_else(|| parse_duration(text)).ok_or_else(|| "write it like 60s, 2m or 500ms".into())
}
