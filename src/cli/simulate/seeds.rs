//! `--seed`: one number, or all from one to another.

use std::str::FromStr;

/// Seeds to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seeds {
    first: u64,
    last: Option<u64>,
}

impl Seeds {
    /// Whether there is a last one.
    pub fn is_range(self) -> bool {
        self.last.is_some()
    }

    /// All of them; where one was given, `runs` from there on.
    pub fn all(self, runs: u64) -> impl Iterator<Item = u64> {
        let last = self.last.unwrap_or(self.first.saturating_add(runs - 1));
        self.first..=last
    }
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Seeds, String> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is no seed: a whole number"));
        let Some((first, last)) = text.split_once("..") else { return Ok(Seeds { first: number(text)?, last: None }) };
        let (first, last) = (number(first)?, number(last.trim_start_matches('='))?);
        if first > last {
            return Err(format!("{first} comes after {last}"));
        }
        Ok(Seeds { first, last: Some(last) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_several_or_a_range() {
        let all = |text: &str, runs| text.parse::<Seeds>().map(|seeds| seeds.all(runs).collect::<Vec<_>>());
        assert_eq!(all("7", 1), Ok(vec![7]));
        assert_eq!(all("7", 3), Ok(vec![7, 8, 9]));
        assert_eq!(all("3..5", 1), Ok(vec![3, 4, 5]));
        assert_eq!(all("5..3", 1), Err("5 comes after 3".to_owned()));
        assert!(all("x", 1).is_err());
    }
}
