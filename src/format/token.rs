//! A receipt's token: which offset each touched partition must have reached for an answer to include the write.
//!
//! Text: `partition.offset` pairs, ascending by partition, joined by `-`: `0.123-3.456`. No write at all is `-`.

use cluster::{Offset, PartitionId};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Pairs a token holds at most.
const PAIRS_MAX: usize = 1024;

/// A receipt's token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Token(BTreeMap<PartitionId, Offset>);

/// A text that is not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a token: expected partition.offset pairs joined by '-', as in a write's answer")]
pub struct TokenError;

impl Token {
    /// Notes that `partition` must have reached `offset`; of several, the highest counts.
    pub fn add(&mut self, partition: PartitionId, offset: Offset) {
        let reached = self.0.entry(partition).or_insert(offset);
        *reached = (*reached).max(offset);
    }

    /// The offset that `partition` must have reached, if the write touched it.
    pub fn offset(&self, partition: PartitionId) -> Option<Offset> {
        self.0.get(&partition).copied()
    }

    /// All pairs, ascending by partition.
    pub fn offsets(&self) -> impl Iterator<Item = (PartitionId, Offset)> + '_ {
        self.0.iter().map(|(partition, offset)| (*partition, *offset))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("-");
        }
        for (index, (partition, offset)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "-" };
            write!(f, "{separator}{partition}.{offset}")?;
        }
        Ok(())
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        let mut token = Token::default();
        if text == "-" {
            return Ok(token);
        }
        for pair in text.split('-') {
            let (partition, offset) = pair.split_once('.').ok_or(TokenError)?;
            let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then_some(()).ok_or(TokenError);
            number(partition).and(number(offset))?;
            let partition = PartitionId(partition.parse().map_err(|_| TokenError)?);
            let offset = Offset(offset.parse().map_err(|_| TokenError)?);
            if token.0.insert(partition, offset).is_some() || token.0.len() > PAIRS_MAX {
                return Err(TokenError);
            }
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_reads_what_it_writes() {
        let mut token = Token::default();
        assert_eq!("-".parse(), Ok(token.clone()));
        assert_eq!(token.to_string(), "-");
        token.add(PartitionId(3), Offset(456));
        token.add(PartitionId(0), Offset(123));
        token.add(PartitionId(3), Offset(44));
        assert_eq!(token.to_string(), "0.123-3.456");
        assert_eq!("0.123-3.456".parse(), Ok(token));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "0", "0.", ".1", "0.1-", "0.1-0.2", "70000.1", "0.+1", "0.1.2", "a.b", "--"] {
            assert_eq!(text.parse::<Token>(), Err(TokenError), "{text}");
        }
    }
}
