//! How a command fails: an exit code that scripts rely on and one message that names the next step.

use hourmark::{client, config, node};
use std::process::ExitCode;

/// The exit codes besides 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The work failed; for `send`: some lines were rejected.
    Failed = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// No such app, no events.
    NotFound = 3,
    /// No node reached, no majority.
    Unavailable = 4,
}

/// A command that did not do what it was asked.
#[derive(Debug)]
pub struct Failure {
    /// What the process exits with.
    pub exit: Exit,
    /// What is told on stderr; nothing if all was told already.
    pub message: String,
}

/// What a command returns.
pub type Outcome = Result<(), Failure>;

impl Failure {
    /// A failure with something to tell.
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into() }
    }

    /// A failure that was told already.
    pub fn told(exit: Exit) -> Failure {
        Failure::new(exit, "")
    }

    /// A file or stream that does not do what it should.
    pub fn io(what: impl std::fmt::Display, error: &std::io::Error) -> Failure {
        Failure::new(Exit::Failed, format!("{what}: {error}"))
    }

    /// Tells it and gives the process's exit code.
    pub fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("hourmark: {}", self.message);
        }
        ExitCode::from(self.exit as u8)
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        match &error {
            client::Error::Address { .. } => {
                Failure::new(Exit::Usage, format!("{error} (given by --server or HOURMARK_SERVER)"))
            }
            client::Error::Refused(refusal) => match (refusal.status, refusal.code.as_str()) {
                (404, "unknown_app" | "no_events" | "unknown_node") => {
                    Failure::new(Exit::NotFound, refusal.detail.clone())
                }
                (400, _) => Failure::new(Exit::Usage, refusal.detail.clone()),
                _ => Failure::new(Exit::Failed, error.to_string()),
            },
            client::Error::Unavailable { was_reached, .. } => {
                let hint = if *was_reached {
                    "A node was reached: `hourmark status` shows whether a majority is there."
                } else {
                    "Is a node running? Name others with --server URL."
                };
                Failure::new(Exit::Unavailable, format!("{error}\n{hint}"))
            }
            client::Error::Foreign { .. } => Failure::new(
                Exit::Failed,
                format!("{error}\nIs --server the HTTP address of a node of this version (not its cluster address)?"),
            ),
        }
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Failure::new(Exit::Usage, error.to_string())
    }
}

impl From<node::Error> for Failure {
    fn from(error: node::Error) -> Self {
        let exit = match error {
            node::Error::Configuration(_) => Exit::Usage,
            node::Error::Failed(_) => Exit::Failed,
        };
        Failure::new(exit, error.to_string())
    }
}
