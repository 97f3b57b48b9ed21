//! The range request: limits, filters, sorting, counting, over the present or a kept revision.
//!
//! Invariant: as etcd. Filters and every order but the key order are applied to the whole range
//! and only then cut to the limit; `count` never sees limit or filters.

use std::cmp::Ordering;

use super::Fault;
use super::mvcc::{Mvcc, Span};
use crate::refusal::Refusal;
use crate::wire::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::wire::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use crate::wire::mvccpb::KeyValue;

/// Whether the store can answer for `revision`, as seen inside a transaction.
pub(super) fn check_in_txn(store: &Mvcc<'_, '_>, request: &RangeRequest) -> Result<(), Refusal> {
    match request.revision {
        0 => Ok(()),
        revision if revision > store.base_revision() => Err(Refusal::FutureRevision),
        revision if revision < store.compacted() => Err(Refusal::Compacted),
        _ => Ok(()),
    }
}

/// Answers a range request.
pub(super) fn range(store: &Mvcc<'_, '_>, request: &RangeRequest) -> Result<RangeResponse, Fault> {
    let revision = match request.revision {
        asked if asked > store.revision() => return Err(Refusal::FutureRevision.into()),
        asked if asked <= 0 => store.revision(),
        asked => asked,
    };
    if revision < store.compacted() {
        return Err(Refusal::Compacted.into());
    }
    let header = Some(ResponseHeader { revision: store.revision(), ..ResponseHeader::default() });
    let span = Span::new(&request.key, &request.range_end);
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
    if request.count_only {
        let count = store.range_at(span, 0, revision)?.count;
        return Ok(RangeResponse { header, count, ..RangeResponse::default() });
    }
    let whole = !is_key_order(request) || has_filters(request);
    let keep = limit.filter(|_| !whole).map_or(usize::MAX, |limit| limit.saturating_add(1));
    let mut found = store.range_at(span, keep, revision)?;
    found.pairs.retain(|pair| passes(pair, request));
    sort(&mut found.pairs, request);
    let more = limit.is_some_and(|limit| found.pairs.len() > limit);
    found.pairs.truncate(limit.unwrap_or(usize::MAX));
    if request.keys_only {
        found.pairs.iter_mut().for_each(|pair| pair.value.clear());
    }
    Ok(RangeResponse { header, kvs: found.pairs, more, count: found.count })
}

fn target(request: &RangeRequest) -> SortTarget {
    SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key)
}

// The order in which the store answers anyway. "No order" by another target still limits first and
// sorts then, as etcd does.
fn is_key_order(request: &RangeRequest) -> bool {
    match SortOrder::try_from(request.sort_order) {
        Ok(SortOrder::Ascend) => target(request) == SortTarget::Key,
        Ok(SortOrder::Descend) => false,
        Ok(SortOrder::None) | Err(_) => true,
    }
}

fn has_filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

fn passes(pair: &KeyValue, request: &RangeRequest) -> bool {
    let within =
        |revision: i64, min: i64, max: i64| (max == 0 || revision <= max) && (min == 0 || revision >= min);
    within(pair.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(pair.create_revision, request.min_create_revision, request.max_create_revision)
}

fn sort(pairs: &mut [KeyValue], request: &RangeRequest) {
    let target = target(request);
    let descending = request.sort_order == SortOrder::Descend as i32;
    let ascending = request.sort_order == SortOrder::Ascend as i32;
    if target == SortTarget::Key && !descending {
        return;
    }
    assert!(ascending || descending || target != SortTarget::Key, "the key order needs no sorting");
    let compare = |a: &KeyValue, b: &KeyValue| -> Ordering {
        match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        }
    };
    // Stable, so that equals stay in key order whichever way.
    pairs.sort_by(|a, b| if descending { compare(b, a) } else { compare(a, b) });
}
