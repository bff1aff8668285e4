//! The kinds of requests that nodes send each other. What is inside each is in the room that sends it.

/// Entries for a follower, in order within the connection (`raft::wire::Append`).
pub const APPEND: u8 = 1;
/// An append without entries that says that the leader lives (`raft::wire::Append`).
pub const HEARTBEAT: u8 = 7;
/// A candidate asks for a vote (`raft::wire::VoteRequest`).
pub const VOTE: u8 = 2;
/// A candidate asks whether it would get a vote (`raft::wire::VoteRequest`).
pub const PRE_VOTE: u8 = 3;
/// A leader hands over (`raft::wire::Transfer`).
pub const TRANSFER: u8 = 4;
/// A step of sending a snapshot (`raft::wire::SnapshotStep`).
pub const SNAPSHOT: u8 = 5;
/// A replica that lost its store asks for a chunk of a snapshot (`partition::rebuild`).
pub const FETCH_SNAPSHOT: u8 = 6;

/// A leader asks whether its vote, as logs hold it, is the one that a voter's log was given last (`raft::confirmation`).
pub const CONFIRM: u8 = 8;

/// An append on its way to the leader (`router`).
pub const FORWARD: u8 = 16;
/// A request for `Host::serve` (`router`).
pub const CALL: u8 = 17;
/// What a node sees of its replicas (`status`).
pub const REPORT: u8 = 18;
/// The steward asks a leader to hand over (`membership::steward`).
pub const HAND_OVER: u8 = 19;

/// A new node asks to enter, or a restarted one tells its address; the only kind that a stranger may send
/// (`membership::join`).
pub const JOIN: u8 = 32;
