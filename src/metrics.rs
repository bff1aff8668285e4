//! Every metric the process exports.
