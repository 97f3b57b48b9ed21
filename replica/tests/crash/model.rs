//! What was said against what is there.
//!
//! Invariant: per group, what is on disk is the acknowledged operations plus the first so many of
//! those that were begun, in their order. An operation is one batch: there is no half of one.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use openraft::storage::RaftLogStorage;
use openraft::{EntryPayload, RaftLogReader};
use replica::engine::{Engine, View};
use replica::log::{LogStore, LogWriter};
use replica::state::StateStore;
use replica::testing::Sums;
use replica::types::Entry;
use world::GroupId;

use crate::child::{GROUPS, LOG, entry, open_engines, wals};

/// One change of a group's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Append {
        first: u64,
        count: u64,
        term: u64,
    },
    Vote {
        term: u64,
    },
    /// Everything after `last` goes.
    Cut {
        last: u64,
    },
    /// Everything up to `upto` goes.
    Purge {
        upto: u64,
    },
}

/// A group's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The term of every entry there ever was and was not cut off; purged ones included.
    terms: BTreeMap<u64, u64>,
    purged: Option<u64>,
    vote: u64,
}

impl Log {
    fn apply(&mut self, op: Op) {
        match op {
            Op::Append { first, count, term } => {
                assert_eq!(self.last().map_or(0, |last| last + 1), first, "the child appended with a hole");
                self.terms.extend((first..first + count).map(|index| (index, term)));
            }
            Op::Vote { term } => self.vote = term,
            Op::Cut { last } => drop(self.terms.split_off(&(last + 1))),
            Op::Purge { upto } => self.purged = Some(upto),
        }
    }

    fn last(&self) -> Option<u64> {
        self.terms.last_key_value().map(|(index, _)| *index)
    }

    /// What the disk can show of it.
    fn visible(&self) -> (BTreeMap<u64, u64>, Option<u64>, u64) {
        let first = self.purged.map_or(0, |purged| purged + 1);
        (self.terms.range(first..).map(|(index, term)| (*index, *term)).collect(), self.purged, self.vote)
    }
}

#[derive(Debug, Default)]
struct Group {
    log: Log,
    begun: VecDeque<(u64, Op)>,
    /// The state was flushed with everything below this applied.
    flushed_next: u64,
}

/// What happened in all lives together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub appends: u64,
    pub entries: u64,
    pub votes: u64,
    pub cuts: u64,
    pub purges: u64,
    pub flushes: u64,
    /// Operations that were begun, not acknowledged, and there all the same.
    pub begun_and_there: u64,
    /// Operations that were begun, not acknowledged, and gone.
    pub begun_and_gone: u64,
    /// Ends that were not synced and not cut off as a whole.
    pub tears: u64,
    /// Tails that were filled with zeros.
    pub zeroed: u64,
    /// Tails full of garbage that were refused, and opened when they were trimmed.
    pub refused_and_trimmed: u64,
    /// Bytes of write-ahead log that power cuts took or tore.
    pub cut_bytes: u64,
}

/// All groups of the child.
#[derive(Default)]
pub struct Cluster {
    groups: BTreeMap<u32, Group>,
    /// Lengths of the write-ahead files at the last durable point.
    pub synced: BTreeMap<String, u64>,
    pub counts: Counts,
}

impl Cluster {
    /// Takes down a line of the child.
    pub fn hear(&mut self, line: &str) {
        let Some(line) = line.strip_prefix('@') else { return };
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        match words[0] {
            "ready" => {}
            "synced" => {
                let file = |word: &&str| {
                    let (name, length) = word.split_once(':').expect("a name and a length");
                    (name.to_owned(), length.parse().expect("a length"))
                };
                self.synced = words[1..].iter().map(file).collect();
            }
            "flushed" => {
                let group = self.groups.entry(number(1) as u32).or_default();
                group.flushed_next = number(2);
                self.counts.flushes += 1;
            }
            "begin" => {
                let op = match words[3] {
                    "append" => Op::Append { first: number(4), count: number(5), term: number(6) },
                    "vote" => Op::Vote { term: number(4) },
                    "cut" => Op::Cut { last: number(4) },
                    "purge" => Op::Purge { upto: number(4) },
                    other => panic!("{other} is no operation"),
                };
                self.groups.entry(number(1) as u32).or_default().begun.push_back((number(2), op));
            }
            "done" => self.acknowledge(number(1) as u32, number(2)),
            other => panic!("{other} is not understood"),
        }
    }

    fn acknowledge(&mut self, group: u32, sequence: u64) {
        let group = self.groups.get_mut(&group).expect("a group that began something");
        // Whoever is durable, so is everything queued before.
        loop {
            let (number, op) = group.begun.pop_front().expect("what is acknowledged was begun");
            group.log.apply(op);
            match op {
                Op::Append { count, .. } => {
                    self.counts.appends += 1;
                    self.counts.entries += count;
                }
                Op::Vote { .. } => self.counts.votes += 1,
                Op::Cut { .. } => self.counts.cuts += 1,
                Op::Purge { .. } => self.counts.purges += 1,
            }
            if number == sequence {
                return;
            }
        }
    }

    /// Compares with what is on disk, and goes on from there.
    ///
    /// # Panics
    /// When it is not what was said.
    pub fn check(&mut self, dir: &Path, when: &str) {
        let (log, state) = open_engines(dir).unwrap_or_else(|error| panic!("{when}: does not open: {error}"));
        let writer = LogWriter::start_thread(Arc::clone(&log)).expect("a thread");
        for number in 0..GROUPS {
            let group = self.groups.entry(number).or_default();
            let found = read_log(number, &log, &writer, when);
            let begun: Vec<Op> = group.begun.drain(..).map(|(_, op)| op).collect();
            let mut there = None;
            let mut log = group.log.clone();
            for taken in 0..=begun.len() {
                if log.visible() == found {
                    there = Some((taken, log));
                    break;
                }
                if let Some(op) = begun.get(taken) {
                    log.apply(*op);
                }
            }
            let Some((taken, log)) = there else {
                panic!(
                    "{when}: group {number} holds {found:?}\nacknowledged was {:?}\nunder way {begun:?}",
                    group.log.visible()
                )
            };
            group.log = log;
            self.counts.begun_and_there += taken as u64;
            self.counts.begun_and_gone += (begun.len() - taken) as u64;
            check_state(number, group, &state, when);
        }
        writer.stop();
        drop((log, state));
        // What was read and lies there still is there to stay.
        self.synced = wals(&dir.join(LOG)).into_iter().collect();
    }
}

type Visible = (BTreeMap<u64, u64>, Option<u64>, u64);

/// Reads all of a group's log; every entry must be the one that was written under its index and term.
fn read_log(number: u32, engine: &Arc<dyn Engine>, writer: &LogWriter, when: &str) -> Visible {
    let store = LogStore::open(GroupId(number), Arc::clone(engine), writer.clone());
    let mut store = store.unwrap_or_else(|error| panic!("{when}: group {number}: {error}"));
    futures_util::FutureExt::now_or_never(async {
        let state = store.get_log_state().await.expect("known");
        let mut reader = store.get_log_reader().await;
        let vote = reader.read_vote().await.expect("known").map_or(0, |vote| vote.leader_id.term);
        let entries: Vec<Entry> = reader.try_get_log_entries(..).await.expect("no hole");
        let mut terms = BTreeMap::new();
        for found in entries {
            let (index, term) = (found.log_id.index, found.log_id.leader_id.term);
            assert_eq!(found, entry(number, index, term), "{when}: group {number}, entry {index}");
            terms.insert(index, term);
        }
        (terms, state.last_purged_log_id.map(|id| id.index), vote)
    })
    .expect("reading waits for nothing")
}

/// The state is what the entries up to some index make of it: at least those that were flushed.
fn check_state(number: u32, group: &Group, engine: &Arc<dyn Engine>, when: &str) {
    let store = StateStore::open(GroupId(number), Arc::clone(engine), Sums::default());
    let handle = store.unwrap_or_else(|error| panic!("{when}: group {number}: {error}")).handle();
    let applied_next = handle.applied().map_or(0, |id| id.index + 1);
    assert!(
        applied_next >= group.flushed_next,
        "{when}: group {number}: flushed below {}, there is {applied_next}",
        group.flushed_next
    );
    assert!(
        applied_next <= group.log.last().map_or(0, |last| last + 1),
        "{when}: group {number}: the state is ahead of its log"
    );
    let mut sums: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for (index, term) in group.log.terms.range(..applied_next) {
        let EntryPayload::Normal(proposal) = entry(number, *index, *term).payload else { continue };
        for command in proposal.commands() {
            let command = command.expect("framed");
            let amount = u64::from_be_bytes(command[1..9].try_into().expect("eight bytes"));
            let sum = sums.entry(command[9..].to_vec()).or_default();
            *sum = sum.wrapping_add(amount);
        }
    }
    let found = handle.read(|_, view: &dyn View| {
        let mut found = BTreeMap::new();
        view.scan(&[], &[], false, &mut |name, sum| {
            found.insert(name.to_vec(), u64::from_be_bytes(sum.try_into().expect("eight bytes")));
            std::ops::ControlFlow::Continue(())
        })
        .expect("readable");
        found
    });
    assert_eq!(found, sums, "{when}: group {number}: the state is not that of index {applied_next}");
}
