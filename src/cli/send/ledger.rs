//! What is known about each piece of the input: open, answered, refused lines in the order of the input.

use hourmark::client::{LineError, Receipt, join_tokens};
use serde::Serialize;
use std::collections::BTreeMap;

/// Pieces that may be ahead of the oldest open one: far fewer than the 4,096 newest sequences of a producer that a cluster
/// remembers, so that a body which is retried for long is never taken for forgotten. Bounds the memory for refused lines.
const AHEAD_MAX: u64 = 256;

/// Counts of a whole run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Events that count from now on.
    pub accepted: u64,
    /// Events that counted before.
    pub duplicate: u64,
    /// Lines that are no events.
    pub rejected: u64,
    /// Bytes of the lines that are answered for.
    pub bytes: u64,
    /// Bodies that are answered for.
    pub requests: u64,
}

/// The state of a run.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Counts so far.
    pub totals: Totals,
    /// Rejected lines whose reason the server did not list.
    pub unlisted: u64,
    /// Every piece before this one is answered.
    first_open: u64,
    /// Answered ones behind it, with their refused lines.
    answered: BTreeMap<u64, Vec<LineError>>,
    token: String,
}

impl Ledger {
    /// Every piece before this one is answered.
    pub fn first_open(&self) -> u64 {
        self.first_open
    }

    /// Whether the piece may be begun now.
    pub fn may_begin(&self, piece: u64) -> bool {
        piece - self.first_open < AHEAD_MAX
    }

    /// A read with this token includes everything that is accepted so far.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Notes an answer for a body of `bytes` that begins at `first_line`; returns the refused lines that can be told now, in
    /// order and numbered as in the input.
    pub fn answer(&mut self, piece: u64, first_line: u64, bytes: u64, receipt: Receipt) -> Vec<LineError> {
        self.totals.accepted += receipt.accepted;
        self.totals.duplicate += receipt.duplicate;
        self.totals.rejected += receipt.rejected;
        self.totals.bytes += bytes;
        self.totals.requests += 1;
        self.unlisted += receipt.rejected.saturating_sub(receipt.errors.len() as u64);
        if let Some(token) = &receipt.token {
            self.token = join_tokens([self.token.as_str(), token].into_iter());
        }
        let in_input = |error: LineError| LineError { line: first_line + error.line.saturating_sub(1), ..error };
        self.close(piece, receipt.errors.into_iter().map(in_input).collect())
    }

    /// Notes a line that was refused without asking a server.
    pub fn refuse(&mut self, piece: u64, error: LineError) -> Vec<LineError> {
        self.totals.rejected += 1;
        self.close(piece, vec![error])
    }

    /// Notes a piece that is left out.
    pub fn leave_out(&mut self, piece: u64) -> Vec<LineError> {
        self.close(piece, Vec::new())
    }

    fn close(&mut self, piece: u64, errors: Vec<LineError>) -> Vec<LineError> {
        self.answered.insert(piece, errors);
        let mut tellable = Vec::new();
        while let Some(errors) = self.answered.remove(&self.first_open) {
            tellable.extend(errors);
            self.first_open += 1;
        }
        tellable
    }

    /// The refused lines that wait for older pieces, for when those will never be answered.
    pub fn remaining(&mut self) -> Vec<LineError> {
        std::mem::take(&mut self.answered).into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(accepted: u64, rejected: u64, lines: &[u64], token: &str) -> Receipt {
        let errors = lines.iter().map(|line| error(*line)).collect();
        Receipt { accepted, duplicate: 1, rejected, errors, token: Some(token.into()) }
    }

    fn error(line: u64) -> LineError {
        LineError { line, code: "invalid_json".into(), message: "m".into() }
    }

    #[test]
    fn refused_lines_are_told_in_order_with_the_inputs_numbers() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.answer(1, 101, 10, receipt(5, 2, &[1, 3], "0.2")), []);
        assert_eq!(ledger.refuse(2, error(150)), []);
        let lines: Vec<_> = ledger.answer(0, 1, 20, receipt(7, 3, &[100], "0.1-1.4")).iter().map(|e| e.line).collect();
        assert_eq!(lines, [100, 101, 103, 150]);
        assert_eq!(ledger.totals, Totals { accepted: 12, duplicate: 2, rejected: 6, bytes: 30, requests: 2 });
        assert_eq!(ledger.unlisted, 2);
        assert_eq!(ledger.token(), "0.2-1.4");
        assert_eq!(ledger.first_open(), 3);
    }

    #[test]
    fn a_stuck_body_holds_the_others_back_before_it_can_be_forgotten() {
        let mut ledger = Ledger::default();
        assert!(ledger.may_begin(AHEAD_MAX - 1) && !ledger.may_begin(AHEAD_MAX));
        ledger.leave_out(1);
        assert!(!ledger.may_begin(AHEAD_MAX));
        ledger.leave_out(0);
        assert!(ledger.may_begin(AHEAD_MAX + 1) && !ledger.may_begin(AHEAD_MAX + 2));
    }

    #[test]
    fn what_waits_for_an_unanswered_body_can_still_be_told() {
        let mut ledger = Ledger::default();
        ledger.refuse(3, error(9));
        assert_eq!(ledger.remaining(), [error(9)]);
    }
}
