//! Cuts a stream of lines into bodies, at line ends, in bounded memory and without work per line.
//!
//! Where the cuts are depends on the content alone, never on how the bytes arrive: the same input sent again under the same
//! producer gives the same bodies under the same sequences, and a cluster that has counted one knows it.

use bytes::Bytes;
use std::io::{self, Read};
use std::mem;

/// Longest line that is an event, in bytes, without its end; a node refuses longer ones.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Where a line must have ended: the longest one, a CR and a LF.
const LINE_END_MAX: usize = LINE_BYTES_MAX + 2;

/// Most lines of a body, so that an answer can list every rejected one. Bodies of a MiB hold fewer as long as lines have
/// 64 bytes, and no event with an ordinary name is shorter.
pub const LINES_MAX: usize = 16_384;

/// What a stream is cut into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Whole lines.
    Body(Body),
    /// A line that is too long to be held, let alone sent: its number, from 1.
    TooLong(u64),
}

/// Whole lines, to be sent as one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// The lines; only the last line of the stream may lack its LF.
    pub bytes: Bytes,
    /// The first line's number in the stream, from 1.
    pub first_line: u64,
    /// How many lines.
    pub lines: u64,
}

/// Cuts `source`.
#[derive(Debug)]
pub struct Chunker<R> {
    source: R,
    body_bytes: usize,
    /// Read, but not yet part of a piece.
    rest: Vec<u8>,
    is_at_end: bool,
    next_line: u64,
}

impl<R: Read> Chunker<R> {
    /// Bodies of up to `body_bytes` bytes, except for a single line that is longer.
    pub fn new(source: R, body_bytes: usize) -> Chunker<R> {
        Chunker { source, body_bytes: body_bytes.max(1), rest: Vec::new(), is_at_end: false, next_line: 1 }
    }

    /// The next piece; `None` at the end of the stream.
    pub fn next(&mut self) -> io::Result<Option<Piece>> {
        self.fill(self.body_bytes)?;
        if self.rest.is_empty() {
            return Ok(None);
        }
        let window = self.body_bytes.min(self.rest.len());
        let is_last = self.is_at_end && window == self.rest.len();
        let cut = match self.rest[..window].iter().rposition(|byte| *byte == b'\n') {
            _ if is_last => Some(window),
            Some(end) => Some(end + 1),
            None => self.end_of_long_line()?,
        };
        match cut {
            Some(cut) => Ok(Some(Piece::Body(self.cut_off(cut)))),
            None => self.skip_line().map(Some),
        }
    }

    /// Reads until `rest` holds `wanted` bytes or the stream has ended.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        if self.rest.len() >= wanted || self.is_at_end {
            return Ok(());
        }
        let missing = wanted - self.rest.len();
        self.rest.reserve_exact(missing);
        let read = (&mut self.source).take(missing as u64).read_to_end(&mut self.rest)?;
        self.is_at_end = read < missing;
        Ok(())
    }

    /// Where the first line ends, which is longer than a body; `None` if it is longer than any event.
    fn end_of_long_line(&mut self) -> io::Result<Option<usize>> {
        self.fill(LINE_END_MAX)?;
        let window = LINE_END_MAX.min(self.rest.len());
        let end = self.rest[..window].iter().position(|byte| *byte == b'\n').map(|end| end + 1);
        Ok(end.or((self.is_at_end && window == self.rest.len()).then_some(window)))
    }

    /// Takes the first `cut` bytes, or fewer if they are too many lines.
    fn cut_off(&mut self, mut cut: usize) -> Body {
        let mut lines = count_lines(&self.rest[..cut]);
        if lines > LINES_MAX {
            let ends = self.rest[..cut].iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            cut = ends.map(|(end, _)| end + 1).nth(LINES_MAX - 1).expect("there are more lines than that");
            lines = LINES_MAX;
        }
        let rest = self.rest.split_off(cut);
        let bytes = Bytes::from(mem::replace(&mut self.rest, rest));
        let body = Body { bytes, first_line: self.next_line, lines: lines as u64 };
        self.next_line += body.lines;
        body
    }

    /// Drops the first line, which has no end in sight, block by block.
    fn skip_line(&mut self) -> io::Result<Piece> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                self.rest.drain(..=end);
                break;
            }
            self.rest.clear();
            self.fill(64 * 1024)?;
            if self.rest.is_empty() {
                break;
            }
        }
        self.next_line += 1;
        Ok(Piece::TooLong(self.next_line - 1))
    }
}

/// Lines in whole lines; the last may lack its LF.
fn count_lines(lines: &[u8]) -> usize {
    let ends = lines.iter().filter(|byte| **byte == b'\n').count();
    ends + usize::from(lines.last().is_some_and(|last| *last != b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives at most `step` bytes per read, as a pipe may.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(buffer.len()).min(self.0.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn pieces(input: &[u8], body_bytes: usize, step: usize) -> Vec<Piece> {
        let mut chunker = Chunker::new(Dribble(input, step), body_bytes);
        std::iter::from_fn(|| chunker.next().unwrap()).collect()
    }

    fn body(bytes: &[u8], first_line: u64, lines: u64) -> Piece {
        Piece::Body(Body { bytes: Bytes::copy_from_slice(bytes), first_line, lines })
    }

    #[test]
    fn an_empty_stream_has_no_pieces() {
        assert_eq!(pieces(b"", 10, 1), []);
    }

    #[test]
    fn cuts_at_the_last_line_end_that_fits() {
        assert_eq!(pieces(b"aa\nbb\ncc\n", 7, 100), [body(b"aa\nbb\n", 1, 2), body(b"cc\n", 3, 1)]);
        assert_eq!(pieces(b"aa\nbb\ncc", 9, 100), [body(b"aa\nbb\ncc", 1, 3)]);
        assert_eq!(pieces(b"aa\nbb\ncc", 8, 100), [body(b"aa\nbb\n", 1, 2), body(b"cc", 3, 1)]);
    }

    #[test]
    fn blank_lines_count_as_lines() {
        assert_eq!(pieces(b"\n\r\n\nx", 3, 100), [body(b"\n\r\n", 1, 2), body(b"\nx", 3, 2)]);
    }

    #[test]
    fn a_line_longer_than_a_body_goes_alone() {
        assert_eq!(pieces(b"a\nbbbbbb\nc\n", 4, 2), [body(b"a\n", 1, 1), body(b"bbbbbb\n", 2, 1), body(b"c\n", 3, 1)]);
        assert_eq!(pieces(b"bbbbbb", 4, 2), [body(b"bbbbbb", 1, 1)]);
    }

    #[test]
    fn the_longest_line_is_sent_and_a_longer_one_is_skipped() {
        let line = |length: usize, end: &str| [vec![b'x'; length], end.into()].concat();
        let longest = line(LINE_BYTES_MAX, "\r\n");
        assert_eq!(pieces(&longest, 1000, 70_000), [body(&longest, 1, 1)]);
        let input = [b"a\n".as_slice(), &line(LINE_END_MAX, "\n"), b"b\n"].concat();
        assert_eq!(pieces(&input, 1000, 70_000), [body(b"a\n", 1, 1), Piece::TooLong(2), body(b"b\n", 3, 1)]);
        let endless = line(5 * LINE_BYTES_MAX, "");
        assert_eq!(pieces(&endless, 1000, 70_000), [Piece::TooLong(1)]);
    }

    #[test]
    fn a_body_has_no_more_lines_than_an_answer_can_list() {
        let input = b"x\n".repeat(2 * LINES_MAX + 1);
        let bodies = pieces(&input, 1 << 20, 100_000);
        let lines: Vec<_> = bodies
            .iter()
            .map(|piece| match piece {
                Piece::Body(body) => (body.first_line, body.lines),
                Piece::TooLong(line) => panic!("line {line} is short"),
            })
            .collect();
        let max = LINES_MAX as u64;
        assert_eq!(lines, [(1, max), (max + 1, max), (2 * max + 1, 1)]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_cuts_do_not_depend_on_how_bytes_arrive(
            input in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'a')], 0..200),
            body_bytes in 1_usize..40,
            step in 1_usize..40,
        ) {
            let once = pieces(&input, body_bytes, 1000);
            prop_assert_eq!(&once, &pieces(&input, body_bytes, step));
            let mut joined = Vec::new();
            for piece in &once {
                let Piece::Body(body) = piece else { return Err(TestCaseError::fail("a short line was skipped")) };
                prop_assert_eq!(body.first_line, 1 + count_lines(&joined) as u64);
                prop_assert!(body.bytes.len() <= body_bytes || body.lines == 1);
                joined.extend_from_slice(&body.bytes);
            }
            prop_assert_eq!(joined, input);
        }
    }
}
