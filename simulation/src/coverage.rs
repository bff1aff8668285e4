//! Situations that a good campaign must have been in: what never happens is not tested.
//!
//! Most are read off the product's own messages; some are seen by the clients or by the world. A campaign prints how many
//! runs were in each, and fails where a required one was never reached.

use crate::observe::Message;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// A situation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Whether a campaign that never reached it has failed.
    pub is_required: bool,
    /// The product's message that shows it, and what its fields must contain; empty if clients or the world tell.
    shown_by: (&'static str, &'static str),
}

const fn heard_of(name: &'static str, about: &'static str, text: &'static str, with: &'static str) -> Situation {
    Situation { name, about, is_required: true, shown_by: (text, with) }
}

const fn told_of(name: &'static str, about: &'static str) -> Situation {
    Situation { name, about, is_required: true, shown_by: ("", "") }
}

const fn optional(situation: Situation) -> Situation {
    Situation { is_required: false, ..situation }
}

/// All situations.
pub const SITUATIONS: &[Situation] = &[
    heard_of("leader_elected", "a node leads a group", "leads", ""),
    heard_of("leadership_lost", "a node leads a group no more and lives on", "leads no more", ""),
    heard_of("leadership_handed_over", "a leader hands over on purpose", "handing leadership over", ""),
    heard_of("checkpoint_applied", "a replica merges a checkpoint", "checkpoint applied", ""),
    heard_of(
        "checkpoint_interrupted",
        "an aggregator ends because the outcome of its checkpoint is unknown",
        "aggregator ended, starting a fresh one",
        "outcome of the proposal is unknown",
    ),
    heard_of(
        "aggregator_restarted",
        "an aggregator ends and is started again",
        "aggregator ended, starting a fresh one",
        "",
    ),
    heard_of(
        "aggregator_panicked",
        "an aggregator panics",
        "aggregator ended, starting a fresh one",
        "simulated: folding",
    ),
    heard_of("quarantine_entered", "an entry is set aside", "entry quarantined", ""),
    heard_of(
        "torn_tail_cut",
        "a log ends in a torn write after a power cut",
        "the log ended in a torn write, which was never acknowledged: it is cut",
        "",
    ),
    heard_of("log_purged", "a log is purged behind a durable state", "log purged", ""),
    heard_of("rollups_written_out", "changed rollups are written out", "rollups written out", ""),
    heard_of("snapshot_installed", "a replica takes its state from another", "snapshot installed", ""),
    told_of("snapshot_while_purging", "a replica takes its state from another while logs of its group are purged"),
    heard_of("members_changed", "a group's members change", "changing members", ""),
    heard_of(
        "membership_change_finished",
        "a new leader ends a change of members that another began",
        "changing members",
        "Finish",
    ),
    heard_of("node_entered", "a node enters a cluster", "entered the cluster", ""),
    heard_of("node_stopped_itself", "a node stops rather than go on", "node stops", ""),
    heard_of("append_tried_again", "an edge appends again under the same identity", "append again", ""),
    heard_of("forward_failed", "an append does not get through to the leader", "an append did not get through", ""),
    heard_of("connection_failed", "a connection between nodes fails", "connection to a node failed", ""),
    heard_of("node_answers_again", "a connection between nodes comes back", "node answers again", ""),
    heard_of(
        "log_disk_full",
        "the log's next segment does not fit on the disk",
        "disk is full: the log's next segment cannot be made, appends are refused",
        "",
    ),
    heard_of(
        "store_disk_full",
        "rollups cannot be written out for want of room",
        "rollups were not written out: the disk is full; it is tried again",
        "",
    ),
    heard_of(
        "store_moved_aside",
        "a damaged store is moved aside",
        "the row journal is not readable and was moved aside; its rows are rebuilt",
        "",
    ),
    optional(heard_of(
        "store_rebuilt",
        "a lost store is rebuilt from another replica",
        "a lost store was rebuilt from another replica",
        "",
    )),
    heard_of(
        "aggregator_stalled",
        "an aggregator does not move and is replaced",
        "aggregator stalls, replacing it",
        "",
    ),
    told_of("damaged_log_refused", "a node does not start because its log is damaged, and is forced away"),
    told_of("retry_was_duplicate", "a request that was not answered had been counted, and its retry is told so"),
    told_of("retry_after_leader_change", "a retry is answered after another node has taken the lead of a partition"),
    told_of("request_refused", "a request is refused for now and sent again"),
    told_of("outcome_unknown", "a client never learns what became of its request"),
    heard_of("shared_read", "a read answers several who asked before it began", "a read answers others, too", ""),
    heard_of("leader_confirmed", "a leader is confirmed by its voters' logs", "confirmed by the voters", ""),
    heard_of("leader_doubted", "a leader is not, and a round of heartbeats decides", "not confirmed by the voters", ""),
    told_of("read_unavailable", "a linearizable read is refused for want of a majority"),
    told_of("local_read_behind", "a local read is behind what was acked"),
    told_of("own_write_read", "a read with the token of an ack is answered"),
    told_of("hour_crossed", "an hour ends while events of it arrive"),
    told_of("late_event", "an event comes after its hour was sealed"),
    told_of("node_drained", "everything that a node holds is moved away while clients send"),
    told_of("node_removed", "a node is drained and let go for good"),
    told_of("node_forced_away", "a node that is lost is forced away"),
    told_of("removed_node_returned", "a node that was let go is started again, and stops"),
    told_of("all_down", "all nodes are without power at once"),
    told_of("power_cut_in_write", "the power goes within a write"),
    told_of("power_cut_in_sync", "the power goes within a sync"),
    told_of("power_cut_in_rename", "the power goes within a rename"),
    told_of("leader_paused", "a leader stands still and goes on"),
    told_of("leader_split", "a leader is split off from a majority"),
    told_of("garbage_refused", "a malformed request is refused"),
];

thread_local! {
    static REACHED: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };

    /// Groups of which a snapshot is under way, and whether a log of it was purged meanwhile.
    static SNAPSHOTS: RefCell<BTreeMap<u64, bool>> = const { RefCell::new(BTreeMap::new()) };
}

/// A situation was reached.
pub fn reached(name: &'static str) {
    debug_assert!(SITUATIONS.iter().any(|situation| situation.name == name), "{name} is a situation");
    REACHED.with_borrow_mut(|reached| *reached.entry(name).or_default() += 1);
}

/// The product has said something.
pub fn heard(message: &Message) {
    heard_of_snapshots(message);
    for situation in SITUATIONS {
        let (text, with) = situation.shown_by;
        if text == message.text && message.rest.contains(with) {
            reached(situation.name);
        }
    }
}

fn heard_of_snapshots(message: &Message) {
    let number = |name| message.number(name).unwrap_or(u64::MAX);
    SNAPSHOTS.with_borrow_mut(|snapshots| match message.text.as_str() {
        "sending a snapshot" => drop(snapshots.insert(number("group"), false)),
        "log purged" => drop(snapshots.get_mut(&number("group")).map(|is_purged| *is_purged = true)),
        "snapshot installed" if snapshots.remove(&(number("partition") + 1)) == Some(true) => {
            reached("snapshot_while_purging");
        }
        _ => {}
    });
}

/// How often each situation was reached so far.
pub fn counts() -> BTreeMap<String, u64> {
    REACHED.with_borrow(|reached| reached.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect())
}
