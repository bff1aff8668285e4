//! Entries of a partition's log, and what clients and other nodes hand in as text or bytes: read or refused, and written again
//! as they were.

#![no_main]

use bytes::Bytes;
use fuzz::seal;
use hourmark::format::{Checkpoint, Entry, Token};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(Bytes::copy_from_slice(bytes));
    // Kind, length of the header, sealed header, batches.
    if let Some((header, batches)) =
        bytes.split_first().map(|(at, rest)| rest.split_at(rest.len().min(usize::from(*at))))
    {
        let header = seal(header);
        let length = u32::try_from(header.len()).expect("at most 260 bytes");
        check([&[1], &length.to_le_bytes()[..], &header, batches].concat().into());
    }
    check([&[2], &seal(bytes)[..]].concat().into());
    if let Ok(checkpoint) = Checkpoint::decode(&seal(bytes)) {
        assert_eq!(Checkpoint::decode(&checkpoint.encode()), Ok(checkpoint));
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(token) = text.parse::<Token>()
    {
        assert_eq!(token.to_string().parse(), Ok(token));
    }
});

fn check(bytes: Bytes) {
    if let Ok(entry) = Entry::decode(&bytes) {
        assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
    }
}
