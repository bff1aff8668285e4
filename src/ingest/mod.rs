//! Accepts events, makes them durable, answers.
