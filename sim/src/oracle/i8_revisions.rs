//! I8: what the server says of revisions agrees with itself and with real time.
//!
//! ```text
//!   sweep by moments     a later operation is never told a smaller revision
//!   by revision          one write has one revision, one revision one value of a key
//!   by key               a read at R shows the last known write at or below R
//!                        version 1 = created; create and version follow from write to write
//! ```
//! Near-linear in the length of the history, and it looks at what `i8_linearizable` does not: create
//! revisions, versions, and keys that no operation joins.
//!
//! Invariant: only what somebody was told is used; an unknown write counts from where it was seen.
//!
//! Limits: it does not search: two unknown writes that nobody saw leave it nothing to say.

use std::collections::{BTreeMap, BTreeSet};

use super::{Findings, Verdict};
use crate::history::Moment;
use crate::history::kv::{Compare, KvCall, KvContents, KvHistory, KvReply, Pair, Write};

/// Judges a history and, if there is one, the scan at the end.
#[must_use]
pub fn check(history: &KvHistory, scan: Option<&KvContents>) -> Verdict {
    let mut findings = Findings::new("I8", "revisions agree with real time and each other");
    real_time(history, &mut findings);
    let mut facts = Facts::default();
    facts.collect(history, scan, &mut findings);
    facts.judge_pairs(&mut findings);
    facts.judge_reads(&mut findings);
    origins(history, &facts, &mut findings);
    let (writes, reads) = (facts.keys.values().map(BTreeMap::len).sum::<usize>(), facts.reads.len());
    findings.verdict(|_| format!("{writes} writes and {reads} reads agree with their revisions"))
}

/// A later operation is told a revision at least as high, and a write a higher one.
fn real_time(history: &KvHistory, findings: &mut Findings) {
    // Ends before calls of the same number cannot be: numbers are unique.
    let mut events: BTreeMap<u64, Vec<(bool, usize)>> = BTreeMap::new();
    for (at, op) in history.ops().iter().enumerate() {
        if op.reply().is_some_and(|reply| reply.revision() != 0) {
            events.entry(op.invoked.number).or_default().push((true, at));
            events.entry(op.over()).or_default().push((false, at));
        }
    }
    let mut told: Option<(i64, usize)> = None;
    let mut floor: BTreeMap<usize, (i64, usize)> = BTreeMap::new();
    for (is_call, at) in events.into_values().flatten() {
        let op = &history.ops()[at];
        let Some(reply) = op.reply() else { continue };
        let revision = reply.revision();
        if is_call {
            floor.extend(told.map(|told| (at, told)));
            continue;
        }
        if let Some((before, by)) = floor.remove(&at) {
            let right = if reply.wrote(&op.call) { before < revision } else { before <= revision };
            findings.must(right, op.returned, || {
                let (other, what) = (&history.ops()[by], &op.call);
                format!(
                    "{what:?} was told revision {revision} though {:?} had been told {before} before it began",
                    other.call
                )
            });
        }
        if told.is_none_or(|(most, _)| most < revision) {
            told = Some((revision, at));
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// The key was removed.
    Removed,
    /// A value was written; the rest as far as somebody was shown it.
    Written { value: String, create_revision: Option<i64>, version: Option<i64> },
}

struct Read<'a> {
    at: Option<Moment>,
    key: &'a str,
    revision: i64,
    pair: Option<&'a Pair>,
}

#[derive(Default)]
struct Facts<'a> {
    keys: BTreeMap<&'a str, BTreeMap<i64, Known>>,
    reads: Vec<Read<'a>>,
    writers: BTreeMap<i64, u64>,
}

impl<'a> Facts<'a> {
    fn collect(&mut self, history: &'a KvHistory, scan: Option<&'a KvContents>, findings: &mut Findings) {
        for op in history.ops() {
            let Some(reply) = op.reply() else { continue };
            let revision = reply.revision();
            if reply.wrote(&op.call) && revision != 0 {
                let other = self.writers.insert(revision, op.id.0);
                findings.must(other.is_none(), op.returned, || {
                    format!("two writes were told revision {revision}, {:?} is one of them", op.call)
                });
            }
            match (&op.call, reply) {
                (KvCall::Put { key, value }, KvReply::Put { .. }) => {
                    self.wrote(key, revision, value, op.returned, findings)
                }
                (KvCall::Delete { key }, KvReply::Delete { deleted: true, .. }) => {
                    self.removed(key, revision, op.returned, findings)
                }
                (KvCall::Txn { writes, .. }, KvReply::Txn { succeeded: true, .. }) => {
                    for write in writes {
                        match write {
                            Write::Put(key, value) => self.wrote(key, revision, value, op.returned, findings),
                            // Whether there was anything to remove is not said.
                            Write::Delete(_) => {}
                        }
                    }
                }
                (KvCall::Get { key }, KvReply::Get { pair, .. }) => {
                    self.read(key, revision, pair.as_ref(), op.returned, findings);
                }
                (KvCall::Txn { compares, .. }, KvReply::Txn { found, .. }) => {
                    for (compare, pair) in compares.iter().zip(found) {
                        let (Compare::Absent(key) | Compare::ModRevision(key, _) | Compare::Value(key, _)) =
                            compare;
                        self.read(key, revision, pair.as_ref(), op.returned, findings);
                    }
                }
                _ => {}
            }
        }
        for (key, pair) in scan.into_iter().flatten() {
            self.read(key, i64::MAX, Some(pair), None, findings);
        }
    }

    fn wrote(
        &mut self,
        key: &'a str,
        revision: i64,
        value: &str,
        at: Option<Moment>,
        findings: &mut Findings,
    ) {
        if revision == 0 {
            return;
        }
        let new = Known::Written { value: value.to_owned(), create_revision: None, version: None };
        match self.keys.entry(key).or_default().get(&revision) {
            None => drop(self.keys.entry(key).or_default().insert(revision, new)),
            Some(old) => {
                let same = matches!(old, Known::Written { value: own, .. } if own == value);
                findings.must(same, at, || {
                    format!("key {key} was set to {value:?} at revision {revision}, at which it is known to be {old:?}")
                });
            }
        }
    }

    fn removed(&mut self, key: &'a str, revision: i64, at: Option<Moment>, findings: &mut Findings) {
        if revision == 0 {
            return;
        }
        let old = self.keys.entry(key).or_default().insert(revision, Known::Removed);
        findings.must(old.is_none_or(|old| old == Known::Removed), at, || {
            format!("key {key} was removed at revision {revision}, at which somebody saw a value of it")
        });
    }

    fn read(
        &mut self,
        key: &'a str,
        revision: i64,
        pair: Option<&'a Pair>,
        at: Option<Moment>,
        findings: &mut Findings,
    ) {
        if revision == 0 {
            return;
        }
        self.reads.push(Read { at, key, revision, pair });
        let Some(pair) = pair.filter(|pair| pair.mod_revision != 0) else { return };
        findings.must(pair.mod_revision <= revision, at, || {
            format!("a read at revision {revision} shows key {key} as of revision {}", pair.mod_revision)
        });
        self.wrote(key, pair.mod_revision, &pair.value, at, findings);
        let Some(Known::Written { create_revision, version, .. }) =
            self.keys.get_mut(key).and_then(|writes| writes.get_mut(&pair.mod_revision))
        else {
            return;
        };
        let same = create_revision.is_none_or(|own| own == pair.create_revision)
            && version.is_none_or(|own| own == pair.version);
        findings.must(same, at, || {
            format!(
                "key {key} of revision {} was shown with creation {} and version {}, and with others before",
                pair.mod_revision, pair.create_revision, pair.version
            )
        });
        (*create_revision, *version) = (Some(pair.create_revision), Some(pair.version));
    }

    /// Creations and versions, from write to write of each key.
    fn judge_pairs(&self, findings: &mut Findings) {
        for (key, writes) in &self.keys {
            // The last write of which creation and version are known, and whether a removal is known
            // since.
            let mut last: Option<(i64, i64, i64)> = None;
            let (mut removed, mut since) = (false, 0);
            for (revision, known) in writes {
                let Known::Written { create_revision, version, .. } = known else {
                    removed = true;
                    continue;
                };
                since += 1;
                let (Some(create), Some(version)) = (*create_revision, *version) else { continue };
                findings.must(
                    (version == 1) == (create == *revision) && create <= *revision && version >= 1,
                    None,
                    || {
                        format!(
                            "key {key} of revision {revision} has creation {create} and version {version}"
                        )
                    },
                );
                if let Some((before, old_create, old_version)) = last {
                    let same_life = create == old_create;
                    findings.must(!(same_life && removed), None, || {
                        format!("key {key} was removed between revisions {before} and {revision} and keeps creation {create}")
                    });
                    findings.must(if same_life { version - old_version >= since } else { create > before }, None, || {
                        format!(
                            "key {key} goes from version {old_version} (created {old_create}) at revision {before} to version {version} (created {create}) at {revision}"
                        )
                    });
                }
                (last, removed, since) = (Some((*revision, create, version)), false, 0);
            }
        }
    }

    /// Each read shows the last write that is known at or below its revision.
    fn judge_reads(&self, findings: &mut Findings) {
        for read in &self.reads {
            let shown = read.pair.map_or(0, |pair| pair.mod_revision);
            if read.pair.is_some() && shown == 0 {
                continue;
            }
            let known = self.keys.get(read.key);
            let newest = known.and_then(|writes| writes.range(..=read.revision).next_back());
            let right = match newest {
                None => true,
                Some((revision, Known::Removed)) => *revision < shown || read.pair.is_none(),
                // Nothing there: somebody must have removed it, and may not have been told.
                Some((revision, Known::Written { .. })) => *revision <= shown || read.pair.is_none(),
            };
            findings.must(right, read.at, || {
                let (revision, known) = newest.map_or((0, "nothing".to_owned()), |(at, known)| (*at, format!("{known:?}")));
                format!(
                    "a read of key {} at revision {} shows {} as of revision {shown}, though revision {revision} wrote {known}",
                    read.key,
                    read.revision,
                    read.pair.map_or("nothing", |pair| pair.value.as_str())
                )
            });
        }
    }
}

/// Every value that was shown was asked for by somebody whose write may have happened, and before.
fn origins(history: &KvHistory, facts: &Facts<'_>, findings: &mut Findings) {
    let mut asked: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut removers: BTreeSet<String> = BTreeSet::new();
    for op in history.ops().iter().filter(|op| op.may_have_happened()) {
        for write in op.call.writes() {
            match write {
                Write::Put(key, value) => {
                    let first = asked.entry((key, value)).or_insert(op.invoked.number);
                    *first = (*first).min(op.invoked.number);
                }
                Write::Delete(key) => drop(removers.insert(key)),
            }
        }
    }
    for read in &facts.reads {
        let seen = read.at.map_or(u64::MAX, |at| at.number);
        let Some(pair) = read.pair else {
            let set = facts.keys.get(read.key).and_then(|writes| writes.range(..=read.revision).next_back());
            let gone = matches!(set, Some((_, Known::Written { .. }))) && !removers.contains(read.key);
            findings.must(!gone, read.at, || {
                format!(
                    "a read at revision {} does not show key {}, which nobody removed",
                    read.revision, read.key
                )
            });
            continue;
        };
        let first = asked.get(&(read.key.to_owned(), pair.value.clone()));
        findings.must(first.is_some_and(|first| *first < seen), read.at, || {
            format!("a read shows {:?} under key {}, which nobody had written by then", pair.value, read.key)
        });
    }
}

#[cfg(test)]
#[path = "i8_revisions_test.rs"]
mod tests;
