//! Log lines: where they go and what they look like.
//!
//! Lines go to stderr, compact, one event each: data goes to stdout, and a terminal or a supervisor reads stderr. What is
//! shown is chosen by a filter in the syntax of `tracing-subscriber`, for example `info,cluster::raft=debug`. The history of each
//! entry is shown only to who asks for it by name (`history=debug`).

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// What is shown when nobody says otherwise: our own `info`, and only warnings of the libraries. openraft warns of every
/// message that a peer does not answer, which is ordinary while nodes come and go.
pub const FILTER_DEFAULT: &str = "warn,hourmark=info,cluster=info,openraft=error";

/// What is shown of nodes that run side by side in one terminal: elections and broken connections are what happens when
/// nodes come and go.
pub const FILTER_QUIET: &str = "warn,openraft=error,cluster::transport=error";

/// A filter that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("reading the log filter {filter:?}")]
pub struct Error {
    filter: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Sends the process's log lines to stderr from now on, those that pass `filter`. Colours only on a terminal.
///
/// A second call changes nothing: the first subscriber of a process stays.
pub fn start(filter: &str) -> Result<(), Error> {
    let wanted = if filter.contains(cluster::HISTORY) {
        filter.to_owned()
    } else {
        format!("{filter},{}=off", cluster::HISTORY)
    };
    let env_filter =
        EnvFilter::builder().parse(wanted).map_err(|source| Error { filter: filter.to_owned(), source })?;
    let subscriber = tracing_subscriber::fmt()
        .compact()
        .with_env_filter(env_filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .finish();
    // An error means that there is a subscriber already.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_filter_is_readable_and_a_wrong_one_is_named() {
        assert!(EnvFilter::builder().parse(FILTER_DEFAULT).is_ok());
        let error = start("cluster=loudly").unwrap_err();
        assert!(error.to_string().contains("cluster=loudly"));
    }
}
