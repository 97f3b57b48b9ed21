//! Many units and many pairs: writes repeated until their outcome is known, scans of all groups.
//!
//! ```text
//!   units --1,000 at a time, 4 writes in flight--> KV --+--> Done at op 0 .. Landed::Now
//!             ^                                         |--> op 0 held it .. Landed::Before
//!             '--- unknown, unavailable: again ---------'--> op 0 held else  Landed::Never
//! ```
//! Every unit begins with a guard, an insertion or a compare-and-set, whose value is what the unit
//! leaves there. So a unit of unknown outcome may be repeated: the guard fails the second time, and
//! what it found says whether the first time happened.
//!
//! Invariant: an answer is given only for a unit whose outcome the KV itself told.
//!
//! Not here: what the units mean.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use kvsvr::api::{DataKey, DataOp, IngestOutcome, Kv, KvError, Unit, UnitOutcome};

/// Units of one write.
const UNITS_PER_WRITE: usize = 1_000;
/// Writes at a time.
const WRITES_IN_FLIGHT: usize = 4;
/// Pairs of one page of a scan.
const PAIRS_PER_PAGE: usize = 4_096;
/// How often a call is made before its failure is passed on.
const ATTEMPTS_MAX: u32 = 6;
/// Before the second attempt; doubles each time.
const PAUSE: Duration = Duration::from_millis(50);

/// What became of a guarded unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Landed {
    /// Made by this call.
    Now,
    /// The guarded key held the unit's value already: made by an attempt whose answer was lost, or
    /// by somebody else.
    Before,
    /// Not made: the guarded key held this.
    Never(Option<Bytes>),
}

/// Why units could not be brought to an end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BulkError {
    /// The KV failed; what was not answered may be repeated.
    #[error("the KV: {0}")]
    Kv(#[from] KvError),
    /// An operation after the guard failed: an account is full, or is no account.
    #[error("operation {op} of a unit whose guard held was refused; its key held {found:?}")]
    Broken {
        /// The operation's place.
        op: usize,
        /// What its key held.
        found: Option<Bytes>,
    },
}

/// The value that a unit's guard leaves behind.
fn guard(unit: &Unit) -> &Bytes {
    match unit.ops.first() {
        Some(DataOp::InsertIfAbsent { value, .. } | DataOp::CompareAndSet { value, .. }) => value,
        _ => panic!("a unit that may be repeated begins with a guard"),
    }
}

/// Makes guarded units, answered in order.
pub(crate) async fn write(kv: &dyn Kv, units: Vec<Unit>) -> Result<Vec<Landed>, BulkError> {
    let count = units.len();
    let mut parts = Vec::with_capacity(count.div_ceil(UNITS_PER_WRITE));
    let mut units = VecDeque::from(units);
    while !units.is_empty() {
        let part: Vec<Unit> = units.drain(..units.len().min(UNITS_PER_WRITE)).collect();
        parts.push(write_part(kv, part));
    }
    let answers: Vec<_> = stream::iter(parts).buffered(WRITES_IN_FLIGHT).collect().await;
    let mut landed = Vec::with_capacity(count);
    for answer in answers {
        landed.extend(answer?);
    }
    assert!(landed.len() == count, "every unit is answered");
    Ok(landed)
}

async fn write_part(kv: &dyn Kv, units: Vec<Unit>) -> Result<Vec<Landed>, BulkError> {
    let mut landed: Vec<Option<Landed>> = vec![None; units.len()];
    let mut pause = PAUSE;
    for attempt in 1..=ATTEMPTS_MAX {
        let open: Vec<usize> = (0..units.len()).filter(|place| landed[*place].is_none()).collect();
        if open.is_empty() {
            break;
        }
        let outcomes = kv.write(open.iter().map(|place| units[*place].clone()).collect()).await;
        assert!(outcomes.len() == open.len(), "the KV answers every unit");
        for (place, outcome) in open.into_iter().zip(outcomes) {
            landed[place] = match outcome {
                Ok(UnitOutcome::Done) => Some(Landed::Now),
                Ok(UnitOutcome::Conflict { op: 0, found })
                    if found.as_ref() == Some(guard(&units[place])) =>
                {
                    Some(Landed::Before)
                }
                Ok(UnitOutcome::Conflict { op: 0, found }) => Some(Landed::Never(found)),
                Ok(UnitOutcome::Conflict { op, found }) => return Err(BulkError::Broken { op, found }),
                Err(error @ KvError::Refused(_)) => return Err(error.into()),
                Err(error) if attempt == ATTEMPTS_MAX => return Err(error.into()),
                Err(KvError::Unavailable(_) | KvError::Unknown(_)) => None,
            };
        }
        if landed.iter().any(Option::is_none) {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
    Ok(landed.into_iter().map(|landed| landed.expect("the last attempt answers or fails")).collect())
}

/// Ingests pairs, again until the outcome is known: nothing is replaced by it.
pub(crate) async fn ingest(kv: &dyn Kv, pairs: Vec<(DataKey, Bytes)>) -> Result<IngestOutcome, KvError> {
    let mut pause = PAUSE;
    for _ in 1..ATTEMPTS_MAX {
        match kv.ingest(pairs.clone()).await {
            Err(KvError::Unavailable(_) | KvError::Unknown(_)) => {}
            known => return known,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    kv.ingest(pairs).await
}

/// Reads values, repeating what could not be read.
pub(crate) async fn read(kv: &dyn Kv, keys: Vec<DataKey>) -> Result<Vec<Option<Bytes>>, KvError> {
    let asked = keys.len();
    let mut pause = PAUSE;
    for _ in 1..ATTEMPTS_MAX {
        match kv.read(keys.clone()).await {
            Ok(values) => {
                assert!(values.len() == asked, "the KV answers every key");
                return Ok(values);
            }
            Err(error @ KvError::Refused(_)) => return Err(error),
            Err(KvError::Unavailable(_) | KvError::Unknown(_)) => {}
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    kv.read(keys).await
}

/// All pairs whose keys begin with a prefix, over all data groups, some pages at a time: one page
/// of each group that is not yet at its end.
pub(crate) struct Walk<'a> {
    kv: &'a dyn Kv,
    prefix: Vec<u8>,
    /// The groups not at their end, and the last key seen in each.
    groups: Vec<(u32, Option<Bytes>)>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(kv: &'a dyn Kv, prefix: Vec<u8>) -> Walk<'a> {
        assert!(!prefix.is_empty(), "a walk is over one table");
        Walk { kv, prefix, groups: (0..kv.data_groups()).map(|group| (group, None)).collect() }
    }

    /// The next pages, in the order of their groups; `None` at the end of all.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<(Bytes, Bytes)>>, KvError> {
        while !self.groups.is_empty() {
            let pages =
                join_all(self.groups.iter().map(|(group, after)| self.page(*group, after.as_deref()))).await;
            let (mut pairs, mut left) = (Vec::new(), Vec::new());
            for ((group, _), page) in self.groups.iter().zip(pages) {
                let page = page?;
                let Some((last, _)) = page.last() else { continue };
                left.push((*group, Some(last.clone())));
                pairs.extend(page);
            }
            self.groups = left;
            if !pairs.is_empty() {
                return Ok(Some(pairs));
            }
        }
        Ok(None)
    }

    async fn page(&self, group: u32, after: Option<&[u8]>) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS_MAX {
            match self.kv.scan(group, &self.prefix, after, PAIRS_PER_PAGE).await {
                Ok(page) => return Ok(page),
                Err(error @ KvError::Refused(_)) => return Err(error),
                Err(KvError::Unavailable(_) | KvError::Unknown(_)) => {}
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.kv.scan(group, &self.prefix, after, PAIRS_PER_PAGE).await
    }
}
