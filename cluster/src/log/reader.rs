//! Reading entries: from memory where they are cached, else from their segment, checked again.

use super::index::Located;
use super::record::{Flaw, Header, Kind};
use super::segment::Segment;
use super::{Record, Shared};
use crate::{GroupId, Offset};
use bytes::Bytes;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// An entry to be read, and the segment that it lies in unless it is cached.
struct Wanted {
    entry: Located,
    segment: Option<Arc<Segment>>,
}

/// The entries of a range that exist, in order, until their payloads exceed `bytes_max`; at least one if there is one.
pub(super) async fn read(
    shared: &Shared,
    group: GroupId,
    offsets: Range<Offset>,
    bytes_max: usize,
) -> io::Result<Vec<Record>> {
    let wanted = wanted(shared, group, offsets, bytes_max)?;
    let read = if wanted.iter().all(|wanted| wanted.entry.payload.is_some()) {
        wanted.into_iter().map(|wanted| fetch(&wanted, group)).collect()
    } else {
        let tasks = &shared.environment.tasks;
        tasks.blocking(move || wanted.iter().map(|wanted| fetch(wanted, group)).collect()).await
    };
    if let Err(error) = &read {
        shared.fail(format!("the log could not be read: {error}"));
    }
    read
}

fn wanted(shared: &Shared, id: GroupId, offsets: Range<Offset>, bytes_max: usize) -> io::Result<Vec<Wanted>> {
    let state = shared.lock();
    if let Some(reason) = &state.failure {
        return Err(io::Error::other(reason.clone()));
    }
    let mut wanted = Vec::new();
    let mut bytes = 0;
    let entries = state.groups.get(&id).into_iter().flat_map(|group| group.from(offsets.start));
    for entry in entries.take_while(|entry| entry.position.offset < offsets.end) {
        bytes += entry.length as usize;
        if bytes > bytes_max && !wanted.is_empty() {
            break;
        }
        let generation = entry.place.generation;
        let segment = entry.payload.is_none().then(|| Arc::clone(&state.segments[&generation]));
        wanted.push(Wanted { entry: entry.clone(), segment });
    }
    Ok(wanted)
}

fn fetch(wanted: &Wanted, group: GroupId) -> io::Result<Record> {
    let entry = &wanted.entry;
    let payload = match (&entry.payload, &wanted.segment) {
        (Some(payload), _) => payload.clone(),
        (None, Some(segment)) => fetch_from(segment, entry, group)?,
        (None, None) => unreachable!("an entry that is not cached has a segment"),
    };
    Ok(Record { position: entry.position, kind: entry.label, payload })
}

fn fetch_from(segment: &Segment, entry: &Located, group: GroupId) -> io::Result<Bytes> {
    let expected = |header: &Header| {
        (header.lsn, header.kind, header.group, header.position)
            == (entry.place.lsn, Kind::Entry, group, Some(entry.position))
    };
    match segment.read(entry.place.at, entry.length)? {
        Ok((header, payload)) if expected(&header) => Ok(payload),
        other => {
            let flaw = other.map_or_else(|flaw| flaw, |_| Flaw::Checksum);
            let place = format!("{} at byte {}", segment.path.display(), entry.place.at);
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("log segment {place} is damaged: {flaw:?}")))
        }
    }
}
