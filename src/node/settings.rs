//! What a cluster fixes at its creation, the same on every node for ever.

use crate::config::Config;
use crate::domain::SketchConfig;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::io;

/// The product's settings of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// Relative accuracy of quantiles.
    pub relative_accuracy: f64,
    /// How long after its end an hour is kept open, in ms of event time.
    pub lateness_ms: u64,
}

/// Version of the bytes: a version byte, then the settings in postcard.
const VERSION: u8 = 1;

impl ClusterSettings {
    /// The settings of a cluster that a node with this configuration makes.
    pub fn of(config: &Config) -> ClusterSettings {
        let lateness_ms = u64::try_from(config.lateness.as_millis()).unwrap_or(u64::MAX);
        ClusterSettings { relative_accuracy: config.relative_accuracy, lateness_ms }
    }

    /// Writes them.
    pub fn encode(&self) -> Bytes {
        postcard::to_extend(self, vec![VERSION]).expect("a Vec takes any number of bytes").into()
    }

    /// Reads them.
    pub fn decode(bytes: &[u8]) -> io::Result<ClusterSettings> {
        let refused =
            || io::Error::new(io::ErrorKind::InvalidData, "cluster settings of a version this build does not know");
        let (version, rest) = bytes.split_first().ok_or_else(refused)?;
        let settings: ClusterSettings = postcard::from_bytes(rest).map_err(|_| refused())?;
        let is_known = *version == VERSION && SketchConfig::new(settings.relative_accuracy).is_some();
        is_known.then_some(settings).ok_or_else(refused)
    }

    /// How sketches divide values.
    pub fn sketch(&self) -> SketchConfig {
        SketchConfig::new(self.relative_accuracy).expect("decode and configuration let only allowed accuracies through")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_never_changes() {
        let settings = ClusterSettings { relative_accuracy: 0.01, lateness_ms: 3_600_000 };
        crate::format::golden::check("cluster-settings-v1", &settings.encode());
        assert_eq!(ClusterSettings::decode(&crate::format::golden::read("cluster-settings-v1")).unwrap(), settings);
        assert!(ClusterSettings::decode(&[2, 0]).is_err());
        assert!(ClusterSettings::decode(&[]).is_err());
    }
}
