//! What things are: apps, events, hours, rollups. No I/O, no async, no clock.
