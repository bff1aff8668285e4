//! An app's name, and the slot that it lives in.

use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Longest app id in bytes of UTF-8 (rule R5 of the event rules).
pub const APP_ID_BYTES_MAX: usize = 256;

/// How many slots there are. Fixed for ever: partitions own slots, and may be moved and split without hashing again.
pub const SLOTS: u16 = 1024;

/// An app's name: 1 to [`APP_ID_BYTES_MAX`] bytes of UTF-8 without control characters, compared byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppId(Arc<str>);

/// A text that cannot be an app id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppIdError {
    /// It has no bytes.
    #[error("the app id is empty")]
    Empty,
    /// It has more than [`APP_ID_BYTES_MAX`] bytes.
    #[error("the app id is longer than {APP_ID_BYTES_MAX} bytes")]
    TooLong,
    /// It holds U+0000 to U+001F or U+007F.
    #[error("the app id holds a control character")]
    ControlCharacter,
}

impl AppId {
    /// Checks and takes a name.
    pub fn new(text: &str) -> Result<AppId, AppIdError> {
        AppId::check(text)?;
        Ok(AppId(text.into()))
    }

    /// Whether `text` could be an app id.
    pub fn check(text: &str) -> Result<(), AppIdError> {
        match text.len() {
            0 => Err(AppIdError::Empty),
            length if length > APP_ID_BYTES_MAX => Err(AppIdError::TooLong),
            _ if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) => Err(AppIdError::ControlCharacter),
            _ => Ok(()),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The slot of this app, see [`slot_of`].
    pub fn slot(&self) -> u16 {
        slot_of(&self.0)
    }
}

/// The slot of a name, 0 to [`SLOTS`] - 1: XXH3 (64 bits, seed 0) of its bytes, modulo. The same on every platform and in
/// every version.
pub fn slot_of(name: &str) -> u16 {
    u16::try_from(xxh3_64(name.as_bytes()) % u64::from(SLOTS)).expect("a slot is below SLOTS")
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for AppId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AppId {
    type Error = AppIdError;
    fn try_from(text: String) -> Result<AppId, AppIdError> {
        AppId::new(&text)
    }
}

impl From<AppId> for String {
    fn from(app: AppId) -> String {
        app.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_never_change() {
        let slots = ["checkout", "AAL", "app-0001", "ü"].map(slot_of);
        assert_eq!(slots, [972, 831, 878, 878]);
    }

    #[test]
    fn names_outside_the_rule_are_refused() {
        assert_eq!(AppId::new(""), Err(AppIdError::Empty));
        assert_eq!(AppId::new(&"x".repeat(257)), Err(AppIdError::TooLong));
        assert_eq!(AppId::new("a\u{7f}"), Err(AppIdError::ControlCharacter));
        assert_eq!(AppId::new("a\tb"), Err(AppIdError::ControlCharacter));
        assert!(AppId::new(&"x".repeat(256)).is_ok());
        assert!(AppId::new("a b/ü?%").is_ok());
    }
}
