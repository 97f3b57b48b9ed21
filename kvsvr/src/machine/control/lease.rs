//! Leases as the log knows them: what was granted, and which keys hang on it.
//!
//! ```text
//!   key                     value
//!   'l' id i64              1 | ttl seconds i64 | grant u64      a lease that is in force
//!   'a' id i64 key          1                                    a key that hangs on it
//!   's' grant u64           1 | id i64                           the same leases in the order of granting
//!   'n'                     1 | grant u64                        the number of the last grant
//! ```
//! Ids may be used again after a lease has ended; the number of the grant tells the two apart. By
//! the order of granting a leader finds what was granted since it last looked, however it came
//! about.
//!
//! Invariant: a live key's lease is in force, and has that key in its list; nothing else is in it.
//! A lease ends in one command, which deletes its keys at one revision.
//!
//! Not here: time. When a lease ends is decided by the leader ([`crate::lease`]), and counts only
//! in the term in which it was decided, so that a decision that was delayed until another leader
//! had prolonged the lease is void.

use std::ops::ControlFlow;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use replica::engine::{EngineError, View};
use replica::machine::{At, Txn, prefix_end};

use super::Fault;
use super::mvcc::{Mvcc, Span};
use crate::limits::{LEASE_TTL_MAX_S, LEASE_TTL_MIN_S};
use crate::refusal::Refusal;
use crate::wire::etcdserverpb::{LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeResponse, ResponseHeader};
use crate::wire::native::{LeaseExpire, LeaseExpired};

const FORMAT: u8 = 1;
const LAST_GRANT_KEY: &[u8] = b"n";

/// A lease that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// How long it is kept without being asked for, in seconds.
    pub ttl_s: i64,
    /// Which grant this is, counted from 1 over all leases ever.
    pub grant: u64,
}

fn lease_key(id: i64) -> Bytes {
    number_key(b'l', id as u64)
}

fn grant_key(grant: u64) -> Bytes {
    number_key(b's', grant)
}

fn number_key(prefix: u8, number: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(9);
    key.put_u8(prefix);
    key.put_u64(number);
    key.freeze()
}

fn attachment_key(id: i64, key: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(9 + key.len());
    bytes.put_u8(b'a');
    bytes.put_i64(id);
    bytes.put_slice(key);
    bytes.freeze()
}

fn encode_lease(lease: Lease) -> Bytes {
    assert!((LEASE_TTL_MIN_S..=LEASE_TTL_MAX_S).contains(&lease.ttl_s), "{lease:?} is within the limits");
    assert!(lease.grant > 0, "grants count from 1");
    let mut bytes = BytesMut::with_capacity(17);
    bytes.put_u8(FORMAT);
    bytes.put_i64(lease.ttl_s);
    bytes.put_u64(lease.grant);
    bytes.freeze()
}

fn decode_lease(mut bytes: &[u8]) -> Result<Lease, EngineError> {
    if bytes.len() != 17 || bytes.get_u8() != FORMAT {
        return Err(EngineError::Corrupt("a lease has another size or format".to_owned()));
    }
    Ok(Lease { ttl_s: bytes.get_i64(), grant: bytes.get_u64() })
}

fn encode_number(number: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(9);
    bytes.put_u8(FORMAT);
    bytes.put_u64(number);
    bytes.freeze()
}

fn decode_number(mut bytes: &[u8]) -> Result<u64, EngineError> {
    if bytes.len() != 9 || bytes.get_u8() != FORMAT {
        return Err(EngineError::Corrupt("a number about leases has another size or format".to_owned()));
    }
    Ok(bytes.get_u64())
}

/// The lease with this id, when it is in force.
///
/// # Errors
/// [`EngineError`].
pub fn get(view: &dyn View, id: i64) -> Result<Option<Lease>, EngineError> {
    view.get(&lease_key(id))?.map(|bytes| decode_lease(&bytes)).transpose()
}

/// The number of the last grant; 0 when there was none.
///
/// # Errors
/// [`EngineError`].
pub fn last_grant(view: &dyn View) -> Result<u64, EngineError> {
    view.get(LAST_GRANT_KEY)?.map_or(Ok(0), |bytes| decode_number(&bytes))
}

/// The leases in force that were granted after this grant, in that order.
///
/// # Errors
/// [`EngineError`].
pub fn granted_after(view: &dyn View, grant: u64) -> Result<Vec<(i64, Lease)>, EngineError> {
    let mut ids = Vec::new();
    let mut fault = None;
    let from = grant_key(grant.saturating_add(1));
    view.scan(&from, &prefix_end(b"s"), false, &mut |_, id| match decode_number(id) {
        Ok(id) => {
            ids.push(id as i64);
            ControlFlow::Continue(())
        }
        Err(error) => {
            fault = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(fault) = fault {
        return Err(fault);
    }
    let mut leases = Vec::with_capacity(ids.len());
    for id in ids {
        let lease = get(view, id)?.ok_or_else(|| {
            EngineError::Corrupt(format!("lease {id:x} stands in the order of granting and is not in force"))
        })?;
        leases.push((id, lease));
    }
    Ok(leases)
}

/// The keys that hang on a lease, in order.
///
/// # Errors
/// [`EngineError`].
pub fn keys(view: &dyn View, id: i64) -> Result<Vec<Bytes>, EngineError> {
    let prefix = attachment_key(id, &[]);
    let mut keys = Vec::new();
    view.scan(&prefix, &prefix_end(&prefix), false, &mut |key, _| {
        keys.push(Bytes::copy_from_slice(&key[prefix.len()..]));
        ControlFlow::Continue(())
    })?;
    Ok(keys)
}

/// Notes that the live key hangs on lease `to` from now on, no longer on lease `from`; 0 is none.
pub(super) fn rehang(txn: &mut Txn<'_>, key: &[u8], from: i64, to: i64) {
    if from == to {
        return;
    }
    if from != 0 {
        txn.delete(attachment_key(from, key));
    }
    if to != 0 {
        txn.put(attachment_key(to, key), Bytes::from_static(&[FORMAT]));
    }
}

/// Grants a lease.
pub(super) fn grant(
    txn: &mut Txn<'_>,
    request: &LeaseGrantRequest,
    revision: i64,
) -> Result<LeaseGrantResponse, Fault> {
    if request.ttl > LEASE_TTL_MAX_S {
        return Err(Refusal::LeaseTtlTooLarge.into());
    }
    let grant = last_grant(txn)?.checked_add(1).expect("2^64 leases cannot have been granted");
    let id = if request.id == 0 { free_id(txn, grant)? } else { request.id };
    if get(txn, id)?.is_some() {
        return Err(Refusal::LeaseExists.into());
    }
    let lease = Lease { ttl_s: request.ttl.max(LEASE_TTL_MIN_S), grant };
    txn.put(LAST_GRANT_KEY, encode_number(grant));
    txn.put(lease_key(id), encode_lease(lease));
    txn.put(grant_key(grant), encode_number(id as u64));
    Ok(LeaseGrantResponse { header: header(revision), id, ttl: lease.ttl_s, error: String::new() })
}

// The same on every replica, positive, and spread out: people copy these ids, and neighbours that
// differ in one digit are easily mistaken for each other.
fn free_id(view: &dyn View, grant: u64) -> Result<i64, EngineError> {
    let mut seed = grant;
    loop {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let id = ((mixed ^ (mixed >> 31)) >> 1) as i64;
        if id != 0 && get(view, id)?.is_none() {
            return Ok(id);
        }
    }
}

/// Ends a lease because somebody asked for it.
pub(super) fn revoke(txn: &mut Txn<'_>, id: i64) -> Result<LeaseRevokeResponse, Fault> {
    let lease = get(txn, id)?.ok_or(Refusal::LeaseNotFound)?;
    let revision = end(txn, id, lease)?;
    Ok(LeaseRevokeResponse { header: header(revision) })
}

/// Ends a lease because its time is up, unless that was decided in another term or about an
/// earlier lease of the same id.
pub(super) fn expire(txn: &mut Txn<'_>, at: At, expire: &LeaseExpire) -> Result<LeaseExpired, EngineError> {
    let lease = match get(txn, expire.id)? {
        Some(lease) if lease.grant == expire.grant => lease,
        _ => return Ok(LeaseExpired { gone: true }),
    };
    if at.term != expire.term || u32::from(at.leader.as_u16()) != expire.leader {
        return Ok(LeaseExpired { gone: false });
    }
    end(txn, expire.id, lease)?;
    Ok(LeaseExpired { gone: true })
}

// Answers the revision after.
fn end(txn: &mut Txn<'_>, id: i64, lease: Lease) -> Result<i64, EngineError> {
    let keys = keys(txn, id)?;
    let mut store = Mvcc::writing(txn)?;
    for key in &keys {
        let deleted = store.delete_range(Span::One(key))?;
        assert!(deleted.len() == 1, "a key that hangs on a lease is live");
        assert!(deleted[0].lease == id, "a key hangs on the lease it names");
    }
    let revision = store.revision();
    store.finish();
    txn.delete(lease_key(id));
    txn.delete(grant_key(lease.grant));
    Ok(revision)
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_leases_have_these_bytes() {
        let lease = Lease { ttl_s: 60, grant: 7 };
        let bytes = encode_lease(lease);
        assert_eq!(&bytes[..], [1, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(decode_lease(&bytes), Ok(lease));
        assert!(decode_lease(&bytes[1..]).is_err());
        assert_eq!(&lease_key(-2)[..], [b'l', 255, 255, 255, 255, 255, 255, 255, 254]);
        assert_eq!(&attachment_key(1, b"k")[..], [b'a', 0, 0, 0, 0, 0, 0, 0, 1, b'k']);
        assert_eq!(&grant_key(7)[..], [b's', 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(&encode_number(7)[..], [1, 0, 0, 0, 0, 0, 0, 0, 7]);
    }
}
