//! Pauses that grow, and vary by chance.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// How long to pause before the next attempt.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// The first pause, and the longest.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first.min(longest) }
    }

    /// From half of what it grew to, to all of it.
    pub fn pause(&mut self) -> Duration {
        let full = self.next;
        self.next = full.saturating_mul(2).min(self.longest);
        let chance = (RandomState::new().hash_one(()) >> 32) as f64 / f64::from(u32::MAX);
        full.mul_f64(0.5 + chance / 2.0)
    }

    /// Something went well.
    pub fn reset(&mut self) {
        self.next = self.first.min(self.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_begin_again() {
        let millis = Duration::from_millis;
        let mut backoff = Backoff::new(millis(50), millis(300));
        for full in [50, 100, 200, 300, 300].map(millis) {
            let pause = backoff.pause();
            assert!(full / 2 <= pause && pause <= full, "{pause:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= millis(50));
    }
}
