//! The built binary, from outside: real processes, real sockets, real kills.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests live in the real world, and end with it")]

mod cluster;
mod command_line;
mod dev;
mod openapi;
mod operation;
mod single_node;
mod support;
