//! An app whose sum says which requests count, and how often.
//!
//! The `j`-th request to it carries one to three events, each of `64^j` ns: the sum, written to the base of 64, has a digit
//! for each request. A digit is the number of its events that count: none, all, or (never) something else.

/// Requests to one app at most: sums stay below `2^53` ns, which an answer's double tells exactly.
pub const REQUESTS_MAX: usize = 8;

const BASE: u64 = 64;

/// What a client knows of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Under way, or never answered.
    Unknown,
    /// It counts.
    Acked,
    /// It does not count.
    Refused,
}

/// The requests to one app.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Markers {
    requests: Vec<(u64, Outcome)>,
}

impl Markers {
    /// Whether another request may be sent to this app.
    pub fn has_room(&self) -> bool {
        self.requests.len() < REQUESTS_MAX
    }

    /// Notes that a request of so many events (1 to 3) is sent; returns its number and each event's value in ns.
    pub fn send(&mut self, events: u64) -> (usize, u64) {
        assert!(self.has_room() && (1..=3).contains(&events));
        let number = self.requests.len();
        self.requests.push((events, Outcome::Unknown));
        (number, BASE.pow(number as u32))
    }

    /// Notes what became of a request.
    pub fn learn(&mut self, number: usize, outcome: Outcome) {
        self.requests[number].1 = outcome;
    }

    /// What is known now, to be held against an answer that comes later.
    pub fn known(&self) -> Markers {
        self.clone()
    }

    /// Checks an answer: what was acked before the question counts, nothing counts twice or in part, and nothing counts that
    /// was refused or not sent by now. `self` is what is known now, `before` was known when the question was asked.
    pub fn check(&self, before: &Markers, count: u64, sum_ns: u128) -> Result<(), String> {
        let mut rest = sum_ns;
        let mut events_found = 0;
        for (number, (events, outcome)) in self.requests.iter().enumerate() {
            let digit = (rest % u128::from(BASE)) as u64;
            rest /= u128::from(BASE);
            events_found += digit;
            let was_acked = before.requests.get(number).is_some_and(|(_, known)| *known == Outcome::Acked);
            match digit {
                0 if was_acked => return Err(format!("request {number} of {events} events was acked and is missing")),
                0 => {}
                found if found != *events => {
                    return Err(format!("request {number} of {events} events counts {found} events"));
                }
                _ if *outcome == Outcome::Refused => return Err(format!("request {number} was refused and counts")),
                _ => {}
            }
        }
        if rest != 0 || events_found != count {
            return Err(format!("count {count} and sum {sum_ns} ns hold events that were never sent"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn markers() -> Markers {
        let mut markers = Markers::default();
        assert_eq!(markers.send(2), (0, 1));
        assert_eq!(markers.send(1), (1, 64));
        assert_eq!(markers.send(3), (2, 4096));
        markers.learn(0, Outcome::Acked);
        markers.learn(2, Outcome::Refused);
        markers
    }

    #[test]
    fn each_digit_is_held_against_what_is_known() {
        let markers = markers();
        let check = |count, sum| markers.check(&markers, count, sum);
        assert_eq!(check(2, 2), Ok(()), "the acked one alone");
        assert_eq!(check(3, 2 + 64), Ok(()), "the unknown one too");
        assert!(check(1, 64).unwrap_err().contains("acked and is missing"));
        assert!(check(4, 4).unwrap_err().contains("counts 4 events"), "twice");
        assert!(check(1, 1).unwrap_err().contains("counts 1 events"), "a part");
        assert!(check(5, 2 + 3 * 4096).unwrap_err().contains("was refused"));
        assert!(check(3, 2 + 64 * 64 * 64).unwrap_err().contains("never sent"));
    }

    #[test]
    fn what_was_acked_after_the_question_may_be_missing() {
        let before = Markers::default();
        assert_eq!(markers().check(&before, 0, 0), Ok(()));
    }
}
