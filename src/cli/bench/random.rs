//! Seeded random numbers: the same seed, the same load, on every machine.

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number, uniform over all 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..end`; `end` is at least 1. (The bias of the modulo is below 2^-32 for what is drawn here.)
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Normal with mean 0 and deviation 1 (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// Indexes from 0 whose probability falls with their rank to the power of an exponent (Zipf's law).
#[derive(Debug)]
pub struct Zipf {
    /// Sums of the weights up to each index.
    sums: Vec<f64>,
}

impl Zipf {
    /// Over `count` indexes, at least one; exponent 0 is uniform.
    pub fn new(count: usize, exponent: f64) -> Zipf {
        let weights = (1..=count).map(|rank| (rank as f64).powf(-exponent));
        let sums = weights.scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Zipf { sums: sums.collect() }
    }

    /// Draws an index.
    pub fn draw(&self, random: &mut Random) -> usize {
        let last = self.sums.len() - 1;
        let point = random.unit() * self.sums[last];
        self.sums.partition_point(|sum| *sum <= point).min(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_for_ever() {
        let mut random = Random::new(7);
        assert_eq!([random.next(), random.next()], [7_191_089_600_892_374_487, 309_689_372_594_955_804]);
    }

    #[test]
    fn draws_follow_their_distributions() {
        let mut random = Random::new(1);
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..100_000 {
            let value = random.normal();
            sum += value;
            squares += value * value;
        }
        assert!((sum / 1e5).abs() < 0.02 && (squares / 1e5 - 1.0).abs() < 0.03);
        let zipf = Zipf::new(3, 1.0);
        let mut counts = [0u32; 3];
        (0..110_000).for_each(|_| counts[zipf.draw(&mut random)] += 1);
        for (count, expected) in counts.into_iter().zip([60_000, 30_000, 20_000]) {
            assert!(count.abs_diff(expected) < 1_000, "{counts:?}");
        }
    }
}
