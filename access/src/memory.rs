//! What a node remembers of users: when they last shook and how many packets they were issued.
//!
//! Bounded: each shard keeps two generations of at most half its share. When the young one is full
//! it becomes the old one and the old one is forgotten whole, so a user is remembered for at least
//! half a shard's worth of others, at constant cost and without a list to maintain.
//!
//! Invariant: memory is at most the capacity it was made with; what is forgotten only loosens this
//! node's limit, never the settlement's.
//!
//! Not here: anything durable. A restarted node knows nobody.

use std::collections::HashMap;

use parking_lot::Mutex;
use ticket::id::UserId;

const SHARDS: usize = 64;

/// One user, as this node has seen them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The node's uptime at the last shake, in milliseconds; `None` before the first one.
    pub last_shake_ms: Option<u64>,
    /// Packets issued to them, by this node or according to their history.
    pub claims: u32,
}

#[derive(Default)]
struct Shard {
    young: HashMap<u64, Seen>,
    old: HashMap<u64, Seen>,
}

/// The users a node remembers.
pub struct UserMemory {
    shards: Vec<Mutex<Shard>>,
    generation_max: usize,
}

impl UserMemory {
    /// Remembers at most `capacity` users (at least two per shard).
    #[must_use]
    pub fn new(capacity: usize) -> UserMemory {
        let generation_max = (capacity / SHARDS / 2).max(1);
        UserMemory { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), generation_max }
    }

    /// Lets `change` look at a user and answer; what it leaves behind is remembered.
    pub fn with<R>(&self, user: UserId, change: impl FnOnce(&mut Seen) -> R) -> R {
        let mut shard = self.shards[shard_of(user)].lock();
        let shard = &mut *shard;
        if let Some(seen) = shard.young.get_mut(&user.0) {
            return change(seen);
        }
        let mut seen = shard.old.get(&user.0).copied().unwrap_or_default();
        let answer = change(&mut seen);
        if self.generation_max <= shard.young.len() {
            shard.old = std::mem::take(&mut shard.young);
        }
        shard.young.insert(user.0, seen);
        assert!(shard.young.len() <= self.generation_max, "a generation beyond its bound");
        answer
    }

    /// How many users are remembered (some perhaps in both generations).
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock()).map(|shard| shard.young.len() + shard.old.len()).sum()
    }

    /// Whether nobody is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everybody: a new event has begun.
    pub fn forget(&self) {
        for shard in &self.shards {
            *shard.lock() = Shard::default();
        }
    }
}

/// Users are often numbered in a row; a multiplicative hash spreads them.
fn shard_of(user: UserId) -> usize {
    let hash = user.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(hash >> 58).expect("six bits fit a usize")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_remembered() {
        let memory = UserMemory::new(1_000);
        memory.with(UserId(7), |seen| seen.claims += 1);
        memory.with(UserId(7), |seen| seen.claims += 1);
        assert_eq!(memory.with(UserId(7), |seen| seen.claims), 2);
        assert_eq!(memory.with(UserId(8), |seen| seen.claims), 0);
        memory.forget();
        assert!(memory.is_empty());
    }

    #[test]
    fn memory_stays_within_its_bound_and_keeps_the_recent() {
        let memory = UserMemory::new(SHARDS * 20);
        for user in 0..100_000 {
            memory.with(UserId(user), |seen| seen.claims = 1);
            assert_eq!(memory.with(UserId(user), |seen| seen.claims), 1);
        }
        assert!(memory.len() <= SHARDS * 20, "{} remembered", memory.len());
        assert_eq!(memory.with(UserId(99_990), |seen| seen.claims), 1);
        assert_eq!(memory.with(UserId(0), |seen| seen.claims), 0);
    }

    #[test]
    fn who_keeps_coming_is_not_forgotten() {
        let memory = UserMemory::new(SHARDS * 20);
        memory.with(UserId(1), |seen| seen.claims = 3);
        for user in 1_000..11_000 {
            memory.with(UserId(user), |_| ());
            assert_eq!(memory.with(UserId(1), |seen| seen.claims), 3, "after {user}");
        }
    }
}
