//! What a client of keys does next: puts, reads, removals and transactions on a few shared keys, some of
//! them conditional on what it has read.
//!
//! Invariant: every written value is unique in the run, so a read says which write it saw.
//!
//! Not here: making the calls (kv.rs, etcd.rs), and keeping account of them (`history`).

use std::collections::BTreeMap;

use rand::RngExt;
use world::rng::Stream;

use crate::history::Outcome;
use crate::history::kv::{Compare, KvCall, KvReply, Pair, Write};

/// How a client removes a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removals {
    /// By a call of its own.
    Plain,
    /// By a transaction on what it has read, and only what is there: a removal of nothing leaves the revision
    /// as it is.
    Conditional,
}

impl Removals {
    /// Percent of calls below which it puts, reads and removes; the rest are transactions.
    fn shares(self) -> [u32; 3] {
        match self {
            Removals::Plain => [35, 65, 75],
            Removals::Conditional => [35, 70, 78],
        }
    }
}

/// One client's calls.
pub struct Calls {
    prefix: &'static str,
    author: String,
    keys: u32,
    removals: Removals,
    serial: u64,
    seen: BTreeMap<String, Option<Pair>>,
}

impl Calls {
    /// Calls on so many keys below `prefix`. No other client of the run has this author's name.
    #[must_use]
    pub fn new(prefix: &'static str, author: String, keys: u32, removals: Removals) -> Calls {
        Calls { prefix, author, keys, removals, serial: 0, seen: BTreeMap::new() }
    }

    /// The next one.
    pub fn next(&mut self, chance: &mut Stream) -> KvCall {
        self.serial += 1;
        let mut key = || format!("{}{}", self.prefix, chance.random_range(0..self.keys));
        let (one, other) = (key(), key());
        let value = |part: &str| format!("{}.{}{part}", self.author, self.serial);
        let [puts, reads, removals] = self.removals.shares();
        let kind: u32 = chance.random_range(0..100);
        if kind < puts {
            return KvCall::Put { key: one, value: value("") };
        }
        if kind < reads {
            return KvCall::Get { key: one };
        }
        let seen = self.seen.get(&one).and_then(Option::as_ref);
        if kind < removals {
            return match (self.removals, seen) {
                (Removals::Plain, _) => KvCall::Delete { key: one },
                (Removals::Conditional, None) => KvCall::Get { key: one },
                (Removals::Conditional, Some(pair)) => KvCall::Txn {
                    compares: vec![Compare::ModRevision(one.clone(), pair.mod_revision)],
                    writes: vec![Write::Delete(one)],
                },
            };
        }
        let compare = match seen {
            Some(pair) if kind.is_multiple_of(2) => Compare::ModRevision(one.clone(), pair.mod_revision),
            Some(pair) => Compare::Value(one.clone(), pair.value.clone()),
            None => Compare::Absent(one.clone()),
        };
        let mut writes = vec![Write::Put(one.clone(), value("x"))];
        if other != one {
            let second = Write::Put(other.clone(), value("y"));
            writes.push(if kind.is_multiple_of(3) { Write::Delete(other) } else { second });
        }
        KvCall::Txn { compares: vec![compare], writes }
    }

    /// Remembers what a read showed.
    pub fn saw(&mut self, call: &KvCall, outcome: &Outcome<KvReply>) {
        if let (KvCall::Get { key }, Outcome::Done(KvReply::Get { pair, .. })) = (call, outcome) {
            self.seen.insert(key.clone(), pair.clone());
        }
    }

    /// Forgets what it has read: its device failed.
    pub fn forget(&mut self) {
        self.seen.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use world::rng::Seed;

    use super::*;

    fn written(call: &KvCall) -> Vec<String> {
        match call {
            KvCall::Put { value, .. } => vec![value.clone()],
            KvCall::Txn { writes, .. } => {
                let put = |write: &Write| match write {
                    Write::Put(_, value) => Some(value.clone()),
                    Write::Delete(_) => None,
                };
                writes.iter().filter_map(put).collect()
            }
            KvCall::Get { .. } | KvCall::Delete { .. } => Vec::new(),
        }
    }

    #[test]
    fn no_value_is_written_twice_and_nothing_is_removed_that_was_not_seen() {
        for removals in [Removals::Plain, Removals::Conditional] {
            let mut chance = Seed::from_number(1).stream(1);
            let mut calls = Calls::new("k/", "c1".to_owned(), 3, removals);
            let (mut values, mut conditional) = (BTreeSet::new(), 0);
            for number in 0..2_000 {
                let call = calls.next(&mut chance);
                assert!(written(&call).into_iter().all(|value| values.insert(value)), "{call:?}");
                let removes = matches!(&call, KvCall::Delete { .. });
                assert!(!removes || removals == Removals::Plain, "{call:?}");
                conditional += usize::from(
                    matches!(&call, KvCall::Txn { compares, .. } if !matches!(compares[0], Compare::Absent(_))),
                );
                let pair = Pair {
                    value: format!("v{number}"),
                    create_revision: 1,
                    mod_revision: number,
                    version: 1,
                };
                calls.saw(&call, &Outcome::Done(KvReply::Get { revision: number, pair: Some(pair) }));
            }
            assert!(conditional > 200, "{conditional}");
        }
    }
}
