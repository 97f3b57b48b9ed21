//! Reading a group's log: newest entries from memory, older ones from the engine.
//!
//! ```text
//!   lock tail --> clamp to first..next --> all cached? --> clone, done
//!                        |
//!                        +-- some older: pin the engine's state under the lock, then read it
//! ```
//!
//! Invariant: the two halves fit. A reader that looked into the engine first and the cache later
//! (or the reverse, without pinning) could meet a hole when entries move out of the cache between
//! the two steps; pinning under the lock that guards eviction makes the cut one moment.
//!
//! Not here: writing.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, ControlFlow, Range, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use openraft::entry::RaftEntry;

use openraft::{OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use world::GroupId;

use crate::codec;
use crate::engine::{Engine, EngineError, View};
use crate::log::keys;
use crate::log::tail::Tail;
use crate::types::{Entry, TypeConfig, Vote};

/// Bytes that one limited read answers: an append request stays well below a frame.
pub(super) const READ_BYTES_MAX: usize = 1 << 20;

/// What store and readers of one group share.
pub(super) struct Shared {
    pub(super) group: GroupId,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) tail: Mutex<Tail>,
}

/// Reads one group's log. Clones are independent readers of the same log.
#[derive(Clone)]
pub struct LogReader {
    pub(super) shared: Arc<Shared>,
}

impl LogReader {
    /// Entries of `range` that the log holds, from the first on, ending after `bytes_max` (but
    /// never empty because of it).
    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, EngineError> {
        let tail = self.shared.tail.lock();
        let (from, to) = (range.start.max(tail.first), range.end.min(tail.next));
        if from >= to {
            return Ok(Vec::new());
        }
        let mut found = Found { entries: Vec::new(), bytes: 0, bytes_max };
        if from >= tail.base {
            for (entry, size) in tail.cached(from..to) {
                if found.push(entry.clone(), size).is_break() {
                    break;
                }
            }
            return Ok(found.entries);
        }
        let pinned = self.shared.engine.snapshot();
        let stored_to = to.min(tail.base);
        // A limited read may end where the engine's part ends: the rest comes with the next one.
        let rest: Vec<Entry> = if bytes_max == usize::MAX && stored_to < to {
            tail.cached(stored_to..to).map(|(entry, _)| entry.clone()).collect()
        } else {
            Vec::new()
        };
        drop(tail);
        read_stored(&*pinned, self.shared.group, from..stored_to, &mut found)?;
        found.entries.extend(rest);
        Ok(found.entries)
    }
}

struct Found {
    entries: Vec<Entry>,
    bytes: usize,
    bytes_max: usize,
}

impl Found {
    fn push(&mut self, entry: Entry, size: usize) -> ControlFlow<()> {
        self.bytes += size;
        self.entries.push(entry);
        if self.bytes >= self.bytes_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Reads `range`, which the engine must hold completely.
fn read_stored(
    view: &dyn View,
    group: GroupId,
    range: Range<u64>,
    found: &mut Found,
) -> Result<(), EngineError> {
    let mut expected = range.start;
    let mut failure = None;
    let (from, to) = (keys::entry(group, range.start), keys::entry(group, range.end));
    view.scan(&from, &to, false, &mut |key, value| {
        if keys::entry_index(key) != Some(expected) {
            return ControlFlow::Break(());
        }
        match decode(value) {
            Ok(entry) if entry.index() == expected => {
                expected += 1;
                found.push(entry, value.len())
            }
            Ok(entry) => {
                let index = entry.index();
                failure = Some(EngineError::Corrupt(format!("entry {index} under {expected}")));
                ControlFlow::Break(())
            }
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    if expected == range.end || found.bytes >= found.bytes_max {
        return Ok(());
    }
    Err(EngineError::Corrupt(format!("{group}: entry {expected} is missing from the log")))
}

pub(super) fn decode(value: &[u8]) -> Result<Entry, EngineError> {
    let entry = codec::load(Bytes::copy_from_slice(value))?;
    Ok(codec::entry_from_pb(entry)?)
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(half_open(&range), usize::MAX)?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.tail.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(start..end, READ_BYTES_MAX)?)
    }

    /// In pages: what is to be applied after a restart may be the whole log.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let range = half_open(&range);
        let page = Vec::new().into_iter();
        stream::unfold((self.clone(), range, page), |(reader, mut range, mut page)| async move {
            if let Some(entry) = page.next() {
                return Some((Ok(entry), (reader, range, page)));
            }
            match reader.read(range.clone(), READ_BYTES_MAX) {
                Ok(entries) => {
                    let last = entries.last()?.index();
                    range.start = last + 1;
                    page = entries.into_iter();
                    page.next().map(|entry| (Ok(entry), (reader, range, page)))
                }
                Err(error) => {
                    range.start = range.end;
                    Some((Err(io::Error::from(error)), (reader, range, page)))
                }
            }
        })
    }
}
