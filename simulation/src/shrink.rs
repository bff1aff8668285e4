//! From a plan that fails to a smaller one that still does.

use crate::schedule::Plan;

/// Leaves out as many faults as possible, then load behind the last one, and then quiet time before the first.
///
/// First halves, then quarters, down to single faults, until none of these can go (delta debugging; Zeller and Hildebrandt,
/// "Simplifying and Isolating Failure-Inducing Input", TSE 2002). Costs one run a try: about `faults * log(faults)`. Ask for
/// the [next](Shrinking::candidate) try, run it, say whether it [failed](Shrinking::learn), until there is none.
pub struct Shrinking {
    smallest: Plan,
    /// How many faults are left out at once; 0 when there is nothing more to leave out.
    chunk: usize,
    at: usize,
    /// Whether this round has left out any: then others, tried before, may not matter any more.
    has_left_out: bool,
    /// Into how small a share of the load is tried next.
    shares: Vec<u64>,
    /// How large a share of the quiet time is tried to be left out next.
    quiet_shares: Vec<u64>,
}

/// Quiet time that is left before the first fault, in ms.
const QUIET_MS: u64 = 1000;

impl Shrinking {
    /// Begins with a plan that fails.
    pub fn new(plan: &Plan) -> Shrinking {
        let chunk = plan.steps.len().div_ceil(2);
        Shrinking {
            smallest: plan.clone(),
            chunk,
            at: 0,
            has_left_out: false,
            shares: vec![2, 4, 8],
            quiet_shares: vec![4, 2, 1],
        }
    }

    /// The smallest plan so far that fails.
    pub fn smallest(&self) -> &Plan {
        &self.smallest
    }

    /// The next plan to try.
    pub fn candidate(&mut self) -> Option<Plan> {
        let count = self.smallest.steps.len();
        if self.at >= count && self.chunk > 0 {
            let is_over = self.chunk == 1 && !std::mem::take(&mut self.has_left_out);
            self.chunk = if is_over { 0 } else { self.chunk.div_ceil(2) };
            self.at = 0;
        }
        if self.chunk > 0 && count > 0 {
            let mut candidate = self.smallest.clone();
            candidate.steps.drain(self.at..(self.at + self.chunk).min(count));
            return Some(candidate);
        }
        let last_ms = self.smallest.steps.last().map_or(0, |step| step.at_ms);
        while let Some(share) = self.shares.pop() {
            let load_ms = (self.smallest.load_ms / share).max(last_ms + 1000);
            if load_ms < self.smallest.load_ms {
                return Some(Plan { load_ms, ..self.smallest.clone() });
            }
        }
        while let Some(share) = self.quiet_shares.pop() {
            let first_ms = self.smallest.steps.first().map_or(0, |step| step.at_ms);
            let earlier_ms = first_ms.saturating_sub(QUIET_MS) / share;
            if earlier_ms > 0 {
                let mut candidate = self.smallest.clone();
                candidate.load_ms -= earlier_ms;
                candidate.steps.iter_mut().for_each(|step| step.at_ms -= earlier_ms);
                return Some(candidate);
            }
        }
        None
    }

    /// What came of the last one.
    pub fn learn(&mut self, candidate: Plan, still_fails: bool) {
        if still_fails {
            self.has_left_out |= self.chunk == 1 && candidate.steps.len() < self.smallest.steps.len();
            self.smallest = candidate;
        } else {
            self.at += self.chunk;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Fault;

    #[test]
    fn only_the_faults_that_matter_are_left() {
        let mut plan = Plan::new("mine", 1, 100_000);
        for at_ms in 0..40 {
            plan = plan.at(at_ms, Fault::Loss { permille: at_ms, ms: 1 });
        }
        let matters =
            |plan: &Plan, permille| plan.steps.iter().any(|step| step.fault == Fault::Loss { permille, ms: 1 });
        let mut shrinking = Shrinking::new(&plan);
        let mut runs = 0;
        while let Some(candidate) = shrinking.candidate() {
            runs += 1;
            let still_fails = matters(&candidate, 7) && matters(&candidate, 31);
            shrinking.learn(candidate, still_fails);
        }
        let left: Vec<_> = shrinking.smallest().steps.iter().map(|step| step.at_ms).collect();
        assert_eq!(left, [7, 31]);
        assert!(runs < 80, "{runs} runs");
        assert!(shrinking.smallest().load_ms < 20_000);
    }

    #[test]
    fn a_fault_that_matters_no_more_is_left_out_in_another_round() {
        let mut plan = Plan::new("mine", 1, 100_000);
        for at_ms in 0..8 {
            plan = plan.at(at_ms, Fault::Loss { permille: at_ms, ms: 1 });
        }
        let mut shrinking = Shrinking::new(&plan);
        while let Some(candidate) = shrinking.candidate() {
            let has = |at_ms| candidate.steps.iter().any(|step| step.at_ms == at_ms);
            // The first matters as long as the last is there, which does not matter and is tried after it.
            let still_fails = has(1) && has(6) && (has(0) || !has(7));
            shrinking.learn(candidate, still_fails);
        }
        let left: Vec<_> = shrinking.smallest().steps.iter().map(|step| step.at_ms).collect();
        assert_eq!(left, [1, 6]);
    }

    #[test]
    fn quiet_time_before_the_first_fault_is_left_out() {
        let plan = Plan::new("mine", 1, 240_000)
            .at(201_000, Fault::Loss { permille: 1, ms: 1 })
            .at(204_000, Fault::Loss { permille: 2, ms: 1 });
        let shrunk = |needed_ms: u64| {
            let mut shrinking = Shrinking::new(&plan);
            while let Some(candidate) = shrinking.candidate() {
                let still_fails = candidate.steps.len() == 2 && candidate.steps[0].at_ms >= needed_ms;
                shrinking.learn(candidate, still_fails);
            }
            let smallest = shrinking.smallest();
            assert_eq!(smallest.steps[1].at_ms, smallest.steps[0].at_ms + 3000, "what lies between them stays");
            assert_eq!(smallest.validate(), Ok(()));
            (smallest.steps[0].at_ms, smallest.load_ms)
        };
        assert_eq!(shrunk(0), (1000, 5000));
        assert_eq!(shrunk(60_000), (76_000, 80_000), "half of it, and then a quarter of the rest");
        assert_eq!(shrunk(200_000), (201_000, 205_000));
    }

    #[test]
    fn a_plan_that_fails_by_itself_ends_without_faults() {
        let plan = Plan::new("mine", 1, 1000).at(1, Fault::Join);
        let mut shrinking = Shrinking::new(&plan);
        while let Some(candidate) = shrinking.candidate() {
            shrinking.learn(candidate, true);
        }
        assert!(shrinking.smallest().steps.is_empty());
    }
}
