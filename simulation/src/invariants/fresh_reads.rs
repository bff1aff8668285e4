//! A linearizable read holds every event acked before it was asked and none that was not sent when it was answered; a later
//! read never holds less than an earlier one, and its revision is not smaller.
//!
//! Counted events only ever grow, so a read is an interval between what was acked at its question and what was sent at its
//! answer, and reads that follow each other are ordered by inclusion, which shows in each of their numbers: count, sum,
//! smallest and largest. Source: Herlihy and Wing, "Linearizability", TOPLAS 1990.

use super::Violation;
use crate::answer::{Hour, ms};
use crate::oracle::{Account, Markers, Seen, Tally};

const NAME: &str = "fresh-reads";

/// What an answer must not fall below, taken when the question is asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Floor {
    acked: Tally,
    seen: Seen,
}

impl Floor {
    /// What is known of an hour now.
    pub fn of(account: Option<&Account>) -> Floor {
        account.map_or_else(Floor::default, |account| Floor { acked: account.acked, seen: account.seen })
    }

    /// Nothing may be missing: for runs in which entries are set aside.
    pub fn none() -> Floor {
        Floor::default()
    }
}

/// Checks a linearizable answer (`None`: no such hour) and remembers what it has shown.
pub fn fresh_shared(place: &str, answer: Option<&Hour>, floor: &Floor, account: &mut Account) -> Result<(), Violation> {
    let Some(answer) = answer else {
        if floor.acked.count.max(floor.seen.count) == 0 {
            return Ok(());
        }
        return Err(Violation::new(NAME, format!("{place} has no events, known when it was asked was {floor:?}")));
    };
    within_sent(place, answer, &account.sent)?;
    if !holds(answer, &floor.acked) || !floor.seen.is_within(answer) {
        return Err(Violation::new(NAME, format!("{place} is {answer:?}, known when it was asked was {floor:?}")));
    }
    if answer.revision < floor.seen.revision {
        let detail = format!("{place} has revision {} after {}", answer.revision, floor.seen.revision);
        return Err(Violation::new("monotone", detail));
    }
    account.seen.add(answer);
    Ok(())
}

/// Checks a local answer: it may be behind, but holds nothing that was not sent, and all that was acked up to the token it
/// was asked with (`own`; nothing without a token).
pub fn fresh_local(place: &str, answer: Option<&Hour>, own: &Tally, account: &Account) -> Result<(), Violation> {
    match answer {
        None if own.count == 0 => Ok(()),
        Some(answer) if holds(answer, own) => within_sent(place, answer, &account.sent),
        _ => Err(Violation::new(NAME, format!("{place} is {answer:?}, up to the token asked with are {own:?}"))),
    }
}

/// Checks a linearizable answer about a careless client's app.
pub fn fresh_marked(place: &str, answer: Option<&Hour>, before: &Markers, now: &Markers) -> Result<(), Violation> {
    let (count, sum) = answer.map_or((0, 0), |answer| (answer.count, answer.sum_ns()));
    now.check(before, count, sum).map_err(|what| Violation::new("unknown-at-most-once", format!("{place}: {what}")))
}

/// Whether an answer's numbers can be those of these events and more.
fn holds(answer: &Hour, events: &Tally) -> bool {
    answer.count >= events.count
        && answer.sum_ms >= ms(events.sum)
        && answer.max_ms >= ms(u128::from(events.max))
        && (events.count == 0 || answer.min_ms <= ms(u128::from(events.min)))
}

fn within_sent(place: &str, answer: &Hour, sent: &Tally) -> Result<(), Violation> {
    let is_within = answer.count <= sent.count
        && answer.sum_ms <= ms(sent.sum)
        && answer.min_ms >= ms(u128::from(sent.min))
        && answer.max_ms <= ms(u128::from(sent.max));
    if is_within {
        return Ok(());
    }
    Err(Violation::new("nothing-unsent", format!("{place} is {answer:?}, all that was sent is {sent:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        let mut account = Account::default();
        for value in [1_000_000, 2_000_000, 3_000_000] {
            account.sent.add(value);
        }
        account.acked.add(1_000_000);
        account.acked.add(2_000_000);
        account
    }

    fn hour(count: u64, sum_ms: f64, revision: u64) -> Hour {
        Hour {
            hour: 1,
            count,
            revision,
            late: 0,
            sum_ms,
            min_ms: 1.0,
            max_ms: 2.0,
            relative_accuracy: 0.01,
            quantiles: Vec::new(),
        }
    }

    #[test]
    fn an_answer_lies_between_what_was_acked_and_what_was_sent() {
        let mut account = account();
        let floor = Floor::of(Some(&account));
        fresh_shared("", Some(&hour(2, 3.0, 1)), &floor, &mut account).unwrap();
        assert_eq!(fresh_shared("", Some(&hour(1, 3.0, 1)), &floor, &mut account).unwrap_err().invariant, NAME);
        assert_eq!(fresh_shared("", Some(&hour(2, 2.0, 1)), &floor, &mut account).unwrap_err().invariant, NAME);
        assert_eq!(fresh_shared("", None, &floor, &mut account).unwrap_err().invariant, NAME);
        let unsent = fresh_shared("", Some(&hour(4, 6.0, 1)), &floor, &mut account).unwrap_err();
        assert_eq!(unsent.invariant, "nothing-unsent");
    }

    #[test]
    fn a_later_read_never_shows_less() {
        let mut account = account();
        let first = Floor::of(Some(&account));
        fresh_shared("", Some(&Hour { max_ms: 3.0, ..hour(3, 6.0, 4) }), &first, &mut account).unwrap();
        let second = Floor::of(Some(&account));
        assert!(fresh_shared("", Some(&hour(2, 3.0, 4)), &second, &mut account).is_err());
        assert!(fresh_shared("", Some(&hour(3, 5.0, 4)), &second, &mut account).is_err(), "others, as many");
        let older = Hour { max_ms: 3.0, ..hour(3, 6.0, 3) };
        assert_eq!(fresh_shared("", Some(&older), &second, &mut account).unwrap_err().invariant, "monotone");
    }

    #[test]
    fn a_local_answer_holds_at_least_what_was_asked_for() {
        let account = account();
        let (none, mut own) = (Tally::default(), Tally::default());
        own.add(1_000_000);
        fresh_local("", Some(&hour(1, 1.0, 1)), &own, &account).unwrap();
        fresh_local("", None, &none, &account).unwrap();
        assert!(fresh_local("", None, &own, &account).is_err());
        own.add(2_000_000);
        assert!(fresh_local("", Some(&hour(1, 1.0, 1)), &own, &account).is_err(), "fewer events");
        assert!(fresh_local("", Some(&hour(2, 2.5, 1)), &own, &account).is_err(), "others");
    }
}
