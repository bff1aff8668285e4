//! The built binary, from outside: real processes, real sockets, real kills.
#![allow(clippy::disallowed_methods, reason = "tests live in the real world")]

mod cluster;
mod command_line;
mod single_node;
mod support;
