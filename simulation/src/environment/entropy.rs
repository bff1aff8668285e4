//! Random numbers that the seed decides.

use cluster::environment::Entropy;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Mutex;

/// A seeded generator.
pub struct SeededEntropy(Mutex<StdRng>);

impl SeededEntropy {
    /// The generator of `seed`.
    pub fn new(seed: u64) -> SeededEntropy {
        SeededEntropy(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn next_u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next_u64()
    }
}
