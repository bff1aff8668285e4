//! Bugs planted on purpose, compiled with the feature `planted-bugs` only: the simulator must find them.

use crate::{GroupId, LogPosition, Offset, Payload};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this process has a certain bug.
pub fn has(bug: &str) -> bool {
    std::env::var("HOURMARK_PLANT").is_ok_and(|planted| planted == bug)
}

/// Bug `lost-entry`: the first replica that comes to a certain entry applies nothing in its place.
pub fn payload(group: GroupId, at: LogPosition, payload: Payload) -> Payload {
    static IS_LOST: AtomicBool = AtomicBool::new(false);
    match has("lost-entry") && group == GroupId(1) && at.offset == Offset(40) && !IS_LOST.swap(true, Ordering::Relaxed)
    {
        true => Payload::Blank,
        false => payload,
    }
}

/// Bug `confirms-anyone`: a voter takes whoever asks for its leader.
pub fn is_followed(is_followed: bool) -> bool {
    is_followed || has("confirms-anyone")
}
