//! A receipt says the same however often it is asked for.
//!
//! Source: docs/guarantees.md, "Exactly once": a request that counted is answered as a duplicate of itself, and the same
//! sequence with another body is refused.

use super::Violation;
use serde_json::Value;

const NAME: &str = "receipts-stable";

/// The answer to a request of so many events that was acked before.
pub fn repeated(events: u64, answer: &Value) -> Result<(), Violation> {
    if answer["accepted"] == 0 && answer["duplicate"] == events && answer["rejected"] == 0 {
        return Ok(());
    }
    Err(Violation::new(NAME, format!("a request of {events} events, acked before, is answered {answer}")))
}

/// The answer to another body under a sequence that was acked before.
pub fn reused(status: u16, answer: &Value) -> Result<(), Violation> {
    if status == 409 && answer["code"] == "sequence_reused" {
        return Ok(());
    }
    Err(Violation::new(NAME, format!("another body under a used sequence is answered {status} {answer}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_repeated_request_is_a_duplicate_and_nothing_else() {
        repeated(3, &json!({"accepted": 0, "duplicate": 3, "rejected": 0})).unwrap();
        assert!(repeated(3, &json!({"accepted": 3, "duplicate": 0, "rejected": 0})).is_err());
        assert!(repeated(3, &json!({"accepted": 1, "duplicate": 2, "rejected": 0})).is_err());
        reused(409, &json!({"code": "sequence_reused"})).unwrap();
        assert!(reused(200, &json!({"accepted": 3})).is_err());
    }
}
