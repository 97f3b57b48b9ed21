//! Simulated time and entropy of a thread: what the interposed libc calls of the binary answer.
//!
//! ```text
//!   driver: advance(elapsed) -> sim.step() -> code of ours or of others asks libc -> elapsed
//! ```
//! Time stands still within a step for whoever asks libc; tokio's paused clocks move by
//! themselves. That is enough: everything of ours measures by tokio's clock, and what others ask
//! libc for (dates in headers, expiry of reset streams) needs no finer grain than a step.
//!
//! Invariant: a thread that never entered is left alone, so RocksDB's threads see the real clock.
//!
//! Not here: the calls themselves, which only a binary may define (bin/hooks.rs).

use std::cell::Cell;
use std::time::Duration;

/// The simulated wall clock's start: 2026-02-16T12:00:00Z, the eve of a Spring Festival.
pub const EPOCH_MS: u64 = 1_771_243_200_000;

/// What the monotonic clock showed then; far from zero, so that subtracting from it cannot wrap.
const MONOTONIC_BASE_NS: u64 = 1_000_000_000_000_000;

const OUTSIDE: u64 = u64::MAX;

thread_local! {
    static ELAPSED_NS: Cell<u64> = const { Cell::new(OUTSIDE) };
    static CHANCE: Cell<u64> = const { Cell::new(0) };
}

/// This thread is simulated from now on.
pub fn enter(seed: u64) {
    CHANCE.set(seed ^ 0x9e37_79b9_7f4a_7c15);
    ELAPSED_NS.set(0);
}

/// This thread is real again.
pub fn leave() {
    ELAPSED_NS.set(OUTSIDE);
}

/// Moves simulated time to `elapsed` since the start.
pub fn advance(elapsed: Duration) {
    let elapsed_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(OUTSIDE - 1);
    assert!(ELAPSED_NS.get() != OUTSIDE, "only a simulated thread has simulated time");
    assert!(elapsed_ns >= ELAPSED_NS.get(), "simulated time does not run backwards");
    ELAPSED_NS.set(elapsed_ns);
}

/// Time since the start of the simulation; `None` on a thread that is not simulated.
#[must_use]
pub fn elapsed() -> Option<Duration> {
    let elapsed_ns = ELAPSED_NS.get();
    (elapsed_ns != OUTSIDE).then(|| Duration::from_nanos(elapsed_ns))
}

/// The same in whole milliseconds; 0 on a thread that is not simulated.
#[must_use]
pub fn elapsed_ms() -> u64 {
    elapsed().map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// The simulated monotonic clock; `None` on a thread that is not simulated.
#[must_use]
pub fn monotonic() -> Option<Duration> {
    Some(Duration::from_nanos(MONOTONIC_BASE_NS) + elapsed()?)
}

/// The simulated wall clock, without any host's error; `None` on a thread that is not simulated.
#[must_use]
pub fn wall() -> Option<Duration> {
    Some(Duration::from_millis(EPOCH_MS) + elapsed()?)
}

/// Fills `bytes` from the seed; `false` on a thread that is not simulated.
pub fn fill(bytes: &mut [u8]) -> bool {
    if ELAPSED_NS.get() == OUTSIDE {
        return false;
    }
    for part in bytes.chunks_mut(8) {
        // SplitMix64: all that is needed is a sequence that the seed fixes.
        let state = CHANCE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        CHANCE.set(state);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        part.copy_from_slice(&mixed.to_le_bytes()[..part.len()]);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_real_until_it_enters_and_the_seed_fixes_its_entropy() {
        assert_eq!(elapsed(), None);
        assert!(!fill(&mut [0; 4]));
        let draw = |seed| {
            enter(seed);
            let mut bytes = [0; 19];
            assert!(fill(&mut bytes));
            leave();
            bytes
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        enter(1);
        advance(Duration::from_millis(3));
        assert_eq!(wall(), Some(Duration::from_millis(EPOCH_MS + 3)));
        leave();
        assert_eq!(monotonic(), None);
    }
}
