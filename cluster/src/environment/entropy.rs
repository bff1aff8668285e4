//! Random numbers: identities, jitter. Seeded in the simulator, from the operating system otherwise.

use rand::Rng;

/// A source of random numbers.
pub trait Entropy: Send + Sync + 'static {
    /// A uniformly distributed number.
    fn next_u64(&self) -> u64;

    /// A uniformly distributed 128-bit number, for identities that must not collide.
    fn next_u128(&self) -> u128 {
        u128::from(self.next_u64()) << 64 | u128::from(self.next_u64())
    }
}

/// The operating system's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[allow(clippy::disallowed_methods, reason = "this is the door to the system's entropy")]
    fn next_u64(&self) -> u64 {
        rand::rng().next_u64()
    }
}
