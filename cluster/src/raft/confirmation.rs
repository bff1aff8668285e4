//! A leader asks its voters whether they still follow it, without openraft: what a ReadIndex needs to know, at a fraction of the
//! work of a round of heartbeats.
//!
//! ```text
//!   leader's core:    leads in term T, has committed an entry of T ── how far, and who votes
//!   leader ──▶ voters: the vote for T                                 (as each of them has to have saved it)
//!   voters ──▶ leader: whether that is the vote that they saved last  (from memory, where the request comes in)
//!   leader:            is its own vote still that one?
//! ```
//!
//! Why a majority's yes suffices (ReadIndex: Ongaro, "Consensus: Bridging Theory and Practice", 6.4). What leaders before T committed
//! precedes the entry of T. The first leader after T was elected by a majority of voters, and one of them is among those who said yes:
//!
//! - It goes by the newest members in its own log, which no leader after T has written: those that the leader of T knows as the newest,
//!   or their neighbour, because openraft begins no second change before the first is committed. Majorities of neighbours overlap.
//! - A vote is handed to the log before it is given, and the log knows the newest one from then on ([`follows`]). So that voter gave
//!   its vote to the later leader after it had said yes, and whatever that leader commits is committed after the question was asked.
//! - A member that left keeps its vote in the log, also through [`crate::log::GroupLog::reset`]: who voted for a later leader and was
//!   removed by that one still says no.

use super::types::{Ballot, TypeConfig, position};
use super::wire;
use crate::log::GroupLog;
use crate::{LogPosition, NodeId, Offset};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use openraft::{RaftState, ServerState};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// A leadership as its own core sees it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    /// The vote that made it, as every member's log holds it.
    pub vote: Bytes,
    /// The last entry that is committed, one of this leadership's own; everything that was acked before is not behind it.
    pub committed: Offset,
    /// The sets of voters: one, or two while a change is under way.
    voters: Vec<BTreeSet<NodeId>>,
}

impl Leadership {
    /// What `node` leads by, if it leads and has committed an entry of its term.
    pub fn of(node: NodeId, state: &RaftState<TypeConfig>) -> Option<Leadership> {
        let voters = super::view::voters(state.membership_state.effective().membership());
        let led_by = Leadership::new(Ballot::from(state.vote_ref()), state.local_committed().map(position), voters);
        led_by.filter(|_| state.server_state == ServerState::Leader && state.vote_ref().leader_id.node_id == node.0)
    }

    /// By this vote, if that was given by a majority and an entry of its term is committed.
    fn new(ballot: Ballot, committed: Option<LogPosition>, voters: Vec<BTreeSet<NodeId>>) -> Option<Leadership> {
        let committed = committed.filter(|at| (at.term, at.leader) == (ballot.term, ballot.node))?.offset;
        ballot.committed.then(|| Leadership { vote: wire::encode(&ballot), committed, voters })
    }

    /// Whether these are a majority of each set of voters.
    fn is_majority(&self, nodes: &BTreeSet<NodeId>) -> bool {
        !self.voters.is_empty() && self.voters.iter().all(|set| set.intersection(nodes).count() > set.len() / 2)
    }
}

/// Whether this vote is the newest that a member has handed to its log. The answer is what a voter tells a leader, and what a leader
/// asks itself.
pub fn follows(log: &GroupLog, vote: &Bytes) -> bool {
    log.state().vote.as_ref() == Some(vote)
}

/// After so long without an answer all voters are asked: ten times what an answer takes between nodes that have time, less than what a
/// reader notices.
const HEDGE: Duration = Duration::from_millis(2);

/// A voter that gives the question up, because its version does not know it or it has no replica now, is left out for so long: openraft
/// asks it.
const SILENCE: Duration = Duration::from_secs(1);

/// Asks the voters of one group, round by round.
///
/// Only as many as a majority needs are asked at first, beginning with those who were quick before: each answer costs both
/// sides tens of microseconds of CPU.
pub struct Voters {
    node: NodeId,
    asked: Mutex<Asked>,
}

/// Questions under way. Each voter has at most one, also where it answers nothing: so they are few, whatever the number of rounds.
#[derive(Default)]
struct Asked {
    round: u64,
    nodes: BTreeSet<NodeId>,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// Who said yes in the last round that confirmed.
    quick: BTreeSet<NodeId>,
    /// Until when those are not asked who gave a question up.
    silent: BTreeMap<NodeId, Instant>,
}

/// What became of a question.
struct Answer {
    voter: NodeId,
    round: u64,
    asked: Instant,
    /// Nothing where it was given up.
    is_yes: Option<bool>,
}

impl Asked {
    /// Asks a voter, unless it has not answered yet.
    fn ask<F: Future<Output = Option<bool>> + Send + 'static>(&mut self, voter: NodeId, ask: impl Fn(NodeId) -> F) {
        if self.nodes.insert(voter) {
            let (round, asked) = (self.round, Instant::now());
            let answer = ask(voter).map(move |is_yes| Answer { voter, round, asked, is_yes });
            self.answers.push(answer.boxed());
        }
    }

    /// Notes that a voter is not being asked any more, and whether it makes sense to ask it again soon.
    fn note(&mut self, answer: &Answer) {
        self.nodes.remove(&answer.voter);
        let until = answer.asked + SILENCE;
        if answer.is_yes.is_none() && until > Instant::now() {
            self.silent.insert(answer.voter, until);
        }
    }
}

impl Voters {
    /// The other voters than `node`.
    pub fn new(node: NodeId) -> Voters {
        Voters { node, asked: Mutex::default() }
    }

    /// Whether a majority, this node being one, says that it follows the leadership still, each asked after this call. `ask` sends the
    /// question when it is called, and ends in all cases: with nothing where the voter gives the question up. Dropping the future does
    /// no harm.
    pub async fn confirm<F>(&self, leadership: &Leadership, ask: impl Fn(NodeId) -> F) -> bool
    where
        F: Future<Output = Option<bool>> + Send + 'static,
    {
        let mut asked = self.asked.lock().await;
        asked.round += 1;
        while let Some(Some(late)) = asked.answers.next().now_or_never() {
            asked.note(&late);
        }
        let now = Instant::now();
        asked.silent.retain(|_, until| *until > now);
        let others = leadership.voters.iter().flatten().copied();
        let others = others.filter(|voter| *voter != self.node);
        let (quick, slow): (BTreeSet<_>, BTreeSet<_>) = others.partition(|voter| asked.quick.contains(voter));
        let mut rest = quick.into_iter().chain(slow);
        let mut confirmed = BTreeSet::from([self.node]);
        let mut wanted = confirmed.clone();
        while !leadership.is_majority(&confirmed) {
            while !leadership.is_majority(&wanted) {
                let Some(voter) = rest.find(|voter| !asked.silent.contains_key(voter)) else { return false };
                wanted.insert(voter);
                asked.ask(voter, &ask);
            }
            match timeout(HEDGE, asked.answers.next()).await {
                Ok(Some(answer)) => {
                    asked.note(&answer);
                    let Answer { voter, round, is_yes, .. } = answer;
                    if round == asked.round && is_yes == Some(true) {
                        confirmed.insert(voter);
                    } else if round < asked.round && wanted.contains(&voter) && !asked.silent.contains_key(&voter) {
                        asked.ask(voter, &ask);
                    } else {
                        wanted.remove(&voter);
                    }
                }
                Ok(None) => return false,
                Err(_) => {
                    while let Some(voter) = rest.find(|voter| !asked.silent.contains_key(voter)) {
                        wanted.insert(voter);
                        asked.ask(voter, &ask);
                    }
                }
            }
        }
        asked.quick = confirmed;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use crate::log::{Log, LogConfig};
    use crate::{GroupId, Term};
    use std::pin::pin;
    use tokio::sync::oneshot;

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    fn led_by(voters: &[&[u64]]) -> Leadership {
        let voters = voters.iter().map(|set| nodes(set)).collect();
        Leadership { vote: Bytes::new(), committed: Offset(0), voters }
    }

    #[test]
    fn a_majority_is_one_of_each_set_of_voters() {
        let three = led_by(&[&[1, 2, 3]]);
        assert!(!three.is_majority(&nodes(&[1])) && !three.is_majority(&nodes(&[1, 4])));
        assert!(three.is_majority(&nodes(&[1, 3])));
        let four = led_by(&[&[1, 2, 3, 4]]);
        assert!(!four.is_majority(&nodes(&[1, 2])) && four.is_majority(&nodes(&[1, 2, 4])));
        let changing = led_by(&[&[1, 2, 3], &[1, 4, 5]]);
        assert!(!changing.is_majority(&nodes(&[1, 2, 3])) && !changing.is_majority(&nodes(&[1, 4])));
        assert!(changing.is_majority(&nodes(&[1, 2, 5])));
        assert!(led_by(&[&[1]]).is_majority(&nodes(&[1])));
        assert!(!led_by(&[]).is_majority(&nodes(&[1])));
    }

    #[tokio::test]
    async fn a_vote_counts_from_when_it_is_handed_to_the_log_on() {
        let directory = tempfile::tempdir().unwrap();
        let environment = Environment::system(directory.path()).unwrap();
        let log = Log::open(&environment, LogConfig { segment_bytes: 1 << 20, ..LogConfig::default() })
            .await
            .unwrap()
            .group(GroupId(1));
        let vote = |term, committed| wire::encode(&Ballot { term: Term(term), node: NodeId(1), committed });
        assert!(!follows(&log, &vote(3, true)));
        log.save_vote(vote(3, false)).await.unwrap();
        assert!(!follows(&log, &vote(3, true)), "a candidate is nobody's leader");
        log.save_vote(vote(3, true)).await.unwrap();
        assert!(follows(&log, &vote(3, true)));
        let mut saving = pin!(log.save_vote(vote(4, false)));
        assert!((&mut saving).now_or_never().is_none(), "nobody has seen it yet");
        assert!(!follows(&log, &vote(3, true)));
    }

    /// The others of a group whose questions wait for the test's answers.
    struct Desk {
        voters: Voters,
        questions: std::sync::Mutex<Vec<(u64, oneshot::Sender<bool>)>>,
    }

    impl Desk {
        /// That of node 1.
        fn new() -> Desk {
            Desk { voters: Voters::new(NodeId(1)), questions: std::sync::Mutex::default() }
        }

        async fn confirm(&self, voters: &[&[u64]]) -> bool {
            let ask = |voter: NodeId| {
                let (sender, answer) = oneshot::channel();
                self.questions.lock().unwrap().push((voter.0, sender));
                answer.map(Result::ok)
            };
            self.voters.confirm(&led_by(voters), ask).await
        }

        /// Who has not been answered yet.
        fn asked(&self) -> Vec<u64> {
            self.questions.lock().unwrap().iter().map(|(voter, _)| *voter).collect()
        }

        fn answer(&self, voter: u64, is_yes: bool) {
            let _ = self.take(voter).send(is_yes);
        }

        /// What the first question to this voter waits for; an error if it is dropped.
        fn take(&self, voter: u64) -> oneshot::Sender<bool> {
            let mut questions = self.questions.lock().unwrap();
            let first = questions.iter().position(|(asked, _)| *asked == voter).unwrap();
            questions.remove(first).1
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_majority_is_asked_the_quick_ones_first() {
        let desk = Desk::new();
        let mut round = pin!(desk.confirm(&[&[1, 2, 3]]));
        assert!((&mut round).now_or_never().is_none());
        assert_eq!(desk.asked(), [2]);
        tokio::time::sleep(HEDGE).await;
        assert!((&mut round).now_or_never().is_none());
        assert_eq!(desk.asked(), [2, 3], "the first one takes too long");
        desk.answer(3, true);
        assert_eq!(round.now_or_never(), Some(true));

        let mut round = pin!(desk.confirm(&[&[1, 2, 3]]));
        assert!((&mut round).now_or_never().is_none());
        assert_eq!(desk.asked(), [2, 3], "one question of the round before, and one to who answered it");
        desk.answer(3, true);
        assert_eq!(round.now_or_never(), Some(true));
        assert_eq!(desk.confirm(&[&[1]]).now_or_never(), Some(true));
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_no_is_replaced_by_another_and_without_a_majority_the_answer_is_no() {
        let desk = Desk::new();
        let mut round = pin!(desk.confirm(&[&[1, 2, 3]]));
        assert!((&mut round).now_or_never().is_none());
        desk.answer(2, false);
        assert!((&mut round).now_or_never().is_none());
        assert_eq!(desk.asked(), [3]);
        desk.answer(3, false);
        assert_eq!(round.now_or_never(), Some(false));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_who_could_make_no_majority() {
        let desk = Desk::new();
        let mut round = pin!(desk.confirm(&[&[1, 2, 3, 4, 5]]));
        for (asked, refuses) in [(vec![2, 3], 3), (vec![2, 4], 4), (vec![2, 5], 5)] {
            assert!((&mut round).now_or_never().is_none());
            assert_eq!(desk.asked(), asked);
            desk.answer(refuses, false);
        }
        assert_eq!(round.now_or_never(), Some(false), "2 is silent, and would not be enough");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_an_earlier_round_confirms_nothing_later() {
        let desk = Desk::new();
        {
            let mut abandoned = pin!(desk.confirm(&[&[1, 2]]));
            assert!((&mut abandoned).now_or_never().is_none());
        }
        let mut round = pin!(desk.confirm(&[&[1, 2]]));
        assert!((&mut round).now_or_never().is_none());
        assert_eq!(desk.asked(), [2], "one question at a time");
        desk.answer(2, true);
        assert!((&mut round).now_or_never().is_none(), "it was asked before this round");
        assert_eq!(desk.asked(), [2]);
        desk.answer(2, true);
        assert_eq!(round.now_or_never(), Some(true));
    }

    #[test]
    fn a_leader_has_a_majoritys_vote_and_an_entry_of_its_own_term() {
        let ballot = |committed| Ballot { term: Term(3), node: NodeId(1), committed };
        let at = |term, leader| Some(LogPosition { term: Term(term), leader: NodeId(leader), offset: Offset(7) });
        let led_by = |ballot, committed| Leadership::new(ballot, committed, vec![nodes(&[1])]);
        let leadership = led_by(ballot(true), at(3, 1)).unwrap();
        assert_eq!((leadership.vote, leadership.committed), (wire::encode(&ballot(true)), Offset(7)));
        for (ballot, committed) in
            [(ballot(false), at(3, 1)), (ballot(true), at(2, 1)), (ballot(true), at(3, 2)), (ballot(true), None)]
        {
            assert_eq!(led_by(ballot, committed), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_gives_the_question_up_is_left_out_for_a_while() {
        let desk = Desk::new();
        let mut round = pin!(desk.confirm(&[&[1, 2]]));
        assert!((&mut round).now_or_never().is_none());
        drop(desk.take(2));
        assert_eq!(round.now_or_never(), Some(false));
        assert_eq!(desk.confirm(&[&[1, 2]]).now_or_never(), Some(false));
        assert!(desk.asked().is_empty());
        tokio::time::sleep(SILENCE).await;
        let mut round = pin!(desk.confirm(&[&[1, 2]]));
        assert!((&mut round).now_or_never().is_none());
        desk.answer(2, true);
        assert_eq!(round.now_or_never(), Some(true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_no_leaves_nobody_out_and_giving_up_does_for_a_while_from_the_question_on() {
        let cases = [(Some(false), 0), (None, 0), (None, 1)].map(|(answer, later)| (answer, later * SILENCE));
        for (is_read_late, (answer, later)) in cases.into_iter().flat_map(|case| [(false, case), (true, case)]) {
            let desk = Desk::new();
            {
                let mut abandoned = pin!(desk.confirm(&[&[1, 2]]));
                assert!((&mut abandoned).now_or_never().is_none());
            }
            let question = desk.take(2);
            tokio::time::sleep(later).await;
            let mut round = pin!(desk.confirm(&[&[1, 2]]));
            if is_read_late {
                assert!((&mut round).now_or_never().is_none());
            }
            match answer {
                Some(answer) => question.send(answer).unwrap(),
                None => drop(question),
            }
            if answer.is_none() && later.is_zero() {
                assert_eq!(round.now_or_never(), Some(false));
                continue;
            }
            assert!((&mut round).now_or_never().is_none());
            desk.answer(2, true);
            assert_eq!(round.now_or_never(), Some(true));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn voters_may_change_and_a_leader_without_a_vote_does_not_count_itself() {
        let desk = Desk::new();
        let mut round = pin!(desk.confirm(&[&[1, 2, 3]]));
        assert!((&mut round).now_or_never().is_none());
        desk.answer(2, true);
        assert_eq!(round.now_or_never(), Some(true));
        let mut round = pin!(desk.confirm(&[&[3, 4, 5]]));
        assert!((&mut round).now_or_never().is_none());
        assert_eq!(desk.asked(), [3, 4]);
        desk.answer(3, true);
        assert!((&mut round).now_or_never().is_none());
        desk.answer(4, true);
        assert_eq!(round.now_or_never(), Some(true));
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_never_answers_is_asked_once() {
        let desk = Desk::new();
        for _ in 0..100 {
            let mut round = pin!(desk.confirm(&[&[1, 2, 3]]));
            assert!((&mut round).now_or_never().is_none());
            tokio::time::sleep(HEDGE).await;
            assert!((&mut round).now_or_never().is_none());
            desk.answer(3, true);
            assert_eq!(round.now_or_never(), Some(true));
        }
        assert_eq!(desk.asked(), [2]);
    }
}
