//! The `hourmark` binary.

fn main() {}
