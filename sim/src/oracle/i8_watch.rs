//! I8: a watch sees every revision once, in order: etcd's guarantees, one by one.
//!
//! ```text
//!   ordered      revisions never go down
//!   unique       no two events for one key and revision
//!   atomic       the changes of one revision come in one message
//!   reliable     between what was first and last covered, no known change is missing
//!   resumable    a watch from revision R sends everything from R on, and nothing below
//!   bookmarkable after a progress notice of R nothing at or below R comes
//! ```
//! Evidence: what each watcher was sent, over all its connections, against the writes clients were
//! told of and against what other watchers were sent.
//!
//! Invariant: a change counts as known only if its revision is: an unknown write is never missed.
//!
//! Limits: a change that no client was told of and no other watcher saw is not missed. Filters and
//! fragments are not watched here.

use std::collections::{BTreeMap, BTreeSet};

use super::{Findings, Verdict};
use crate::history::Moment;
use crate::history::kv::{Change, KvCall, KvHistory, KvReply, Pair, WatchItem, Watcher, Write};

/// A change as it must be: the value, or `None` where the key was removed.
type Truth = BTreeMap<(i64, String), Option<String>>;

/// Judges all watchers of a run.
#[must_use]
pub fn check(history: &KvHistory, watchers: &[Watcher]) -> Verdict {
    let mut findings = Findings::new("I8", "a watch sees every revision once, in order");
    let mut truth = told(history);
    for watcher in watchers {
        agree(watcher, &mut truth, &mut findings);
    }
    let mut events = 0;
    for watcher in watchers {
        let mut walk = Walk::new(watcher);
        for item in &watcher.items {
            walk.item(item, &mut findings);
        }
        events += walk.seen.len();
        walk.complete(&truth, &mut findings);
    }
    let count = watchers.len();
    findings.verdict(|_| format!("{count} watchers saw {events} changes, each once and in order"))
}

/// The changes whose revision some client was told.
fn told(history: &KvHistory) -> Truth {
    let mut truth = Truth::new();
    for op in history.ops() {
        let Some(reply) = op.reply().filter(|reply| reply.wrote(&op.call) && reply.revision() != 0) else {
            continue;
        };
        let is_txn = matches!((&op.call, reply), (KvCall::Txn { .. }, KvReply::Txn { .. }));
        for write in op.call.writes() {
            match write {
                Write::Put(key, value) => drop(truth.insert((reply.revision(), key), Some(value))),
                // A transaction does not say whether there was anything to remove.
                Write::Delete(key) if !is_txn => drop(truth.insert((reply.revision(), key), None)),
                Write::Delete(_) => {}
            }
        }
    }
    truth
}

fn events(watcher: &Watcher) -> impl Iterator<Item = (Moment, &Change)> {
    watcher.items.iter().flat_map(|item| match item {
        WatchItem::Events { at, events } => events.iter().map(|event| (*at, event)).collect(),
        _ => Vec::new(),
    })
}

/// What a watcher was sent is what others know of that key and revision, and is known from then on.
fn agree(watcher: &Watcher, truth: &mut Truth, findings: &mut Findings) {
    for (at, event) in events(watcher) {
        let value = event.pair.as_ref().map(|pair| pair.value.clone());
        let place = (event.revision, event.key.clone());
        let known = truth.entry(place).or_insert_with(|| value.clone());
        findings.must(*known == value, Some(at), || {
            format!(
                "watcher {} was sent {value:?} for key {} at revision {}, which is known to be {known:?}",
                watcher.name, event.key, event.revision
            )
        });
    }
}

struct Walk<'a> {
    watcher: &'a Watcher,
    seen: BTreeSet<(i64, &'a str)>,
    /// The highest revision of an event, and of an event or notice.
    last: i64,
    covered: i64,
    /// Revisions from here on were promised.
    from: i64,
    pairs: BTreeMap<&'a str, &'a Pair>,
    /// Spans of revisions that are gone: what lies in them cannot be missed.
    gone: Vec<(i64, i64)>,
}

impl<'a> Walk<'a> {
    fn new(watcher: &'a Watcher) -> Walk<'a> {
        Walk {
            watcher,
            seen: BTreeSet::new(),
            last: 0,
            covered: 0,
            from: watcher.from_revision,
            pairs: BTreeMap::new(),
            gone: Vec::new(),
        }
    }

    fn item(&mut self, item: &'a WatchItem, findings: &mut Findings) {
        let name = &self.watcher.name;
        match item {
            WatchItem::Events { at, events } => {
                let (least, most) = self.message(*at, events, findings);
                findings.must(self.last < least, Some(*at), || {
                    format!(
                        "watcher {name} was sent revision {least} in a message after one with revision {}",
                        self.last
                    )
                });
                findings.must(self.covered < least, Some(*at), || {
                    format!("watcher {name} was sent revision {least} after it was told that all up to {} was sent", self.covered)
                });
                self.last = self.last.max(most);
                self.covered = self.covered.max(most);
            }
            WatchItem::Progress { at, revision } => {
                findings.must(self.covered <= *revision, Some(*at), || {
                    format!(
                        "watcher {name} was told of progress to {revision} after revision {}",
                        self.covered
                    )
                });
                self.covered = self.covered.max(*revision);
            }
            WatchItem::Resumed { revision, .. } => {
                // The client asks for what it has not seen. Asking for less is its own affair, and
                // then it is sent again.
                if *revision <= self.covered {
                    self.covered = revision - 1;
                    self.last = self.last.min(revision - 1);
                    self.seen.retain(|(at, _)| at < revision);
                }
                self.from = *revision;
            }
            WatchItem::Compacted { compact_revision, .. } => {
                self.gone.push((self.covered + 1, *compact_revision));
                self.covered = self.covered.max(*compact_revision);
                self.last = self.last.max(*compact_revision);
                // What was known of the keys may be long gone.
                self.pairs.clear();
            }
        }
    }

    /// Judges the events of one message; answers their least and greatest revision.
    fn message(&mut self, at: Moment, events: &'a [Change], findings: &mut Findings) -> (i64, i64) {
        let name = &self.watcher.name;
        let (mut least, mut most) = (i64::MAX, i64::MIN);
        for event in events {
            let Change { key, revision, .. } = event;
            findings.must(most <= *revision, Some(at), || {
                format!("watcher {name} was sent revision {revision} after revision {most} in one message")
            });
            findings.must(self.from <= *revision, Some(at), || {
                format!("watcher {name} asked for revision {} on and was sent {revision}", self.from)
            });
            findings.must(key.starts_with(&self.watcher.prefix), Some(at), || {
                format!("watcher {name} of {:?} was sent key {key}", self.watcher.prefix)
            });
            findings.must(self.seen.insert((*revision, key)), Some(at), || {
                format!("watcher {name} was sent key {key} of revision {revision} twice")
            });
            self.before(at, event, findings);
            match &event.pair {
                Some(pair) => drop(self.pairs.insert(key, pair)),
                None => drop(self.pairs.remove(key.as_str())),
            }
            (least, most) = (least.min(*revision), most.max(*revision));
        }
        (least, most)
    }

    /// The pair before, and what it says of creation and version.
    fn before(&self, at: Moment, event: &Change, findings: &mut Findings) {
        let name = &self.watcher.name;
        let known = self.pairs.get(event.key.as_str()).copied();
        if let (true, Some(known)) = (self.watcher.with_before, known) {
            findings.must(event.before.as_ref() == Some(known), Some(at), || {
                format!(
                    "watcher {name} was sent {:?} as the pair before revision {} of key {}, after {known:?}",
                    event.before, event.revision, event.key
                )
            });
        }
        let Some(pair) = &event.pair else { return };
        let before = known.or(event.before.as_ref());
        let version = before.map_or(pair.version, |before| before.version + 1);
        let right = pair.mod_revision == event.revision
            && pair.version == version
            && (pair.version == 1) == (pair.create_revision == pair.mod_revision);
        findings.must(right, Some(at), || {
            format!("watcher {name} was sent {pair:?} for key {} at revision {}", event.key, event.revision)
        });
    }

    /// Nothing known is missing between what the watcher asked for and what it was told is all.
    fn complete(&self, truth: &Truth, findings: &mut Findings) {
        let (name, prefix) = (&self.watcher.name, self.watcher.prefix.as_str());
        let first = self.watcher.from_revision;
        let promised = truth.keys().filter(|(revision, key)| {
            let gone = self.gone.iter().any(|(from, to)| (*from..=*to).contains(revision));
            key.starts_with(prefix) && (first..=self.covered).contains(revision) && !gone
        });
        for (revision, key) in promised {
            findings.must(self.seen.contains(&(*revision, key.as_str())), None, || {
                format!("watcher {name} was never sent key {key} of revision {revision}, and was sent what came after")
            });
        }
    }
}

#[cfg(test)]
#[path = "i8_watch_test.rs"]
mod tests;
