//! Reading applied entries back, pulled by whoever needs them.

use super::Replica;
use crate::log::Record;
use crate::raft::{KIND_BLANK, KIND_DATA, KIND_MEMBERS};
use crate::{Committed, Offset, Payload};
use std::io;

impl Replica {
    /// Applied entries from `from` on, of all kinds, in order and without holes, until their payloads exceed `bytes_max`;
    /// at least one if there is one, none if `from` is behind what is applied.
    ///
    /// # Errors
    /// `NotFound` where the log has been purged behind `from` already; otherwise what the disk says.
    pub async fn tail(&self, from: Offset, bytes_max: usize) -> io::Result<Vec<Committed>> {
        let applied = *self.inner.group.applied().borrow();
        let Some(end) = applied.map(Offset::next).filter(|end| from < *end) else { return Ok(Vec::new()) };
        let log = self.inner.group.log();
        let records = log.read(from..end, bytes_max).await?;
        if records.first().is_none_or(|first| first.position.offset != from) {
            let reason = format!("entry {from} of group {} has been purged", self.inner.group.id());
            return Err(io::Error::new(io::ErrorKind::NotFound, reason));
        }
        records.into_iter().map(committed).collect()
    }
}

fn committed(record: Record) -> io::Result<Committed> {
    let payload = match record.kind {
        KIND_BLANK => Payload::Blank,
        KIND_DATA => Payload::Data(record.payload),
        KIND_MEMBERS => Payload::Membership(record.payload),
        kind => {
            let reason = format!("entry {} is of unknown kind {kind}", record.position);
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
    };
    Ok(Committed { position: record.position, payload })
}
