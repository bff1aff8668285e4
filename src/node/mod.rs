//! Builds every room from configuration and environment, starts and stops them in order.

mod append;
mod reads;
