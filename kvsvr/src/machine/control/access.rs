//! Whether an author may do what is asked.
//!
//! ```text
//!   author (user, auth revision) --> user --> roles --> permitted ranges --> covers what is asked?
//! ```
//! Invariant: decided on the state that the request meets: by the machine when a command is applied,
//! on the same view when something is read. An author whose user was looked up before the last
//! change of users or roles is refused, and comes back with a newer look. While authentication is
//! not enabled everybody may do everything.
//!
//! Not here: who the author is ([`crate::auth`]).

use bytes::Bytes;
use replica::engine::{EngineError, View};

use super::auth::{self, is_root};
use super::gate::Gate;
use super::{Fault, lease};
use crate::refusal::Refusal;
use crate::wire::authpb::Permission;
use crate::wire::authpb::permission::Type;
use crate::wire::etcdserverpb::alarm_request::AlarmAction;
use crate::wire::etcdserverpb::request_op::Request;
use crate::wire::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};
use crate::wire::native::control_command::Command;
use crate::wire::native::{Author, StoredUser};

/// What an author may do, as far as it has been looked up.
enum Rights {
    /// Everything.
    All,
    /// What these permissions cover.
    Some(Vec<Permission>),
}

/// An author against a state.
pub struct Access<'v> {
    view: &'v dyn View,
    author: &'v Author,
    enabled: bool,
    revision: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Read,
    Write,
}

impl<'v> Access<'v> {
    /// Looks up whether the author counts at all.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn of(view: &'v dyn View, author: &'v Author) -> Result<Access<'v>, EngineError> {
        Access::through(Gate::read(view)?, view, author)
    }

    /// The same, given the view's gate.
    pub(super) fn through(
        gate: Gate,
        view: &'v dyn View,
        author: &'v Author,
    ) -> Result<Access<'v>, EngineError> {
        let enabled = gate.has(Gate::AUTH);
        let revision = if enabled { auth::meta(view)?.revision } else { 0 };
        Ok(Access { view, author, enabled, revision })
    }

    fn user(&self) -> Result<Option<StoredUser>, EngineError> {
        auth::user(self.view, &self.author.user)
    }

    /// Insists on somebody who has said who it is.
    ///
    /// # Errors
    /// [`Refusal::UserEmpty`].
    pub fn check_known(&self) -> Result<(), Fault> {
        if self.enabled && self.author.user.is_empty() {
            return Err(Refusal::UserEmpty.into());
        }
        Ok(())
    }

    /// Insists on somebody who may do everything.
    ///
    /// # Errors
    /// [`Refusal::UserEmpty`], [`Refusal::UserNotFound`], [`Refusal::PermissionDenied`].
    pub fn check_admin(&self) -> Result<(), Fault> {
        if !self.enabled {
            return Ok(());
        }
        self.check_known()?;
        let user = self.user()?.ok_or(Refusal::UserNotFound)?;
        if is_root(&user) { Ok(()) } else { Err(Refusal::PermissionDenied.into()) }
    }

    // In etcd's order: who, how new, and only then what.
    fn rights(&self, wish: Wish) -> Result<Rights, Fault> {
        if !self.enabled {
            return Ok(Rights::All);
        }
        if self.author.auth_revision == 0 {
            return Err(Refusal::UserEmpty.into());
        }
        if self.author.auth_revision < self.revision {
            return Err(Refusal::AuthOldRevision.into());
        }
        let user = self.user()?.ok_or(Refusal::PermissionDenied)?;
        if is_root(&user) {
            return Ok(Rights::All);
        }
        let mut held = Vec::new();
        for name in &user.roles {
            let role = auth::role(self.view, name)?.unwrap_or_default();
            held.extend(role.permissions.into_iter().filter(|held| serves(held, wish)));
        }
        held.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Rights::Some(held))
    }

    fn check(&self, wish: Wish, key: &Bytes, range_end: &Bytes) -> Result<(), Fault> {
        match self.rights(wish)? {
            Rights::All => Ok(()),
            Rights::Some(held) if covers(&held, key, range_end) => Ok(()),
            Rights::Some(_) => Err(Refusal::PermissionDenied.into()),
        }
    }

    /// Whether the keys may be read.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn check_read(&self, key: &Bytes, range_end: &Bytes) -> Result<(), Fault> {
        self.check(Wish::Read, key, range_end)
    }

    /// Whether a range may be read.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn check_range(&self, request: &RangeRequest) -> Result<(), Fault> {
        self.check_read(&request.key, &request.range_end)
    }

    fn check_put(&self, request: &PutRequest) -> Result<(), Fault> {
        self.check(Wish::Write, &request.key, &Bytes::new())?;
        // Who may not end a lease may not add to it either.
        self.check_lease(request.lease, Wish::Write)?;
        if request.prev_kv { self.check_read(&request.key, &Bytes::new()) } else { Ok(()) }
    }

    fn check_delete(&self, request: &DeleteRangeRequest) -> Result<(), Fault> {
        self.check(Wish::Write, &request.key, &request.range_end)?;
        if request.prev_kv { self.check_read(&request.key, &request.range_end) } else { Ok(()) }
    }

    /// Whether everything a transaction names may be done, whichever branch is taken.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn check_txn(&self, request: &TxnRequest) -> Result<(), Fault> {
        for compare in &request.compare {
            self.check_read(&compare.key, &compare.range_end)?;
        }
        for op in request.success.iter().chain(&request.failure) {
            match &op.request {
                Some(Request::RequestRange(request)) => self.check_range(request)?,
                Some(Request::RequestPut(request)) => self.check_put(request)?,
                Some(Request::RequestDeleteRange(request)) => self.check_delete(request)?,
                Some(Request::RequestTxn(request)) => self.check_txn(request)?,
                None => {}
            }
        }
        Ok(())
    }

    fn check_lease(&self, id: i64, wish: Wish) -> Result<(), Fault> {
        if !self.enabled || id == 0 || self.check_admin().is_ok() {
            return Ok(());
        }
        for key in lease::keys(self.view, id)? {
            self.check(wish, &key, &Bytes::new())?;
        }
        Ok(())
    }

    /// Whether a lease may be kept alive.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn check_lease_renewal(&self, id: i64) -> Result<(), Fault> {
        self.check_known()?;
        self.check_lease(id, Wish::Write)
    }

    /// Whether the keys of a lease may be told.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn check_lease_keys(&self, id: i64) -> Result<(), Fault> {
        self.check_known()?;
        self.check_lease(id, Wish::Read)
    }

    /// Whether a command may be carried out.
    pub(super) fn check_command(&self, command: &Command) -> Result<(), Fault> {
        if !self.enabled {
            return Ok(());
        }
        match command {
            Command::Put(request) => self.check_put(request),
            Command::DeleteRange(request) => self.check_delete(request),
            Command::Txn(request) => self.check_txn(request),
            Command::LeaseGrant(_) => self.check_known(),
            Command::LeaseRevoke(request) => {
                self.check_known()?;
                self.check_lease(request.id, Wish::Write)
            }
            Command::Alarm(request) if request.action == AlarmAction::Get as i32 => self.check_known(),
            Command::Alarm(_) | Command::Auth(_) => self.check_admin(),
            // Whoever reaches an etcd may compact it. Members end leases and sweep by themselves.
            Command::Compact(_) | Command::LeaseExpire(_) | Command::Sweep(_) => Ok(()),
        }
    }
}

fn serves(held: &Permission, wish: Wish) -> bool {
    match Type::try_from(held.perm_type) {
        Ok(Type::Readwrite) => true,
        Ok(Type::Read) => wish == Wish::Read,
        Ok(Type::Write) => wish == Wish::Write,
        Err(_) => false,
    }
}

/// The end of a range, after its last key; `None` when it has none.
fn end_of(key: &[u8], range_end: &[u8]) -> Option<Bytes> {
    match range_end {
        [] => Some([key, &[0]].concat().into()),
        [0] => None,
        end => Some(Bytes::copy_from_slice(end)),
    }
}

/// Whether the permitted ranges, ordered by their keys, together cover what is asked.
fn covers(held: &[Permission], key: &Bytes, range_end: &Bytes) -> bool {
    let wanted = end_of(key, range_end);
    // Everything in [key, reached) is covered so far.
    let mut reached = key.clone();
    let mut begun = false;
    for range in held {
        if range.key > reached {
            break;
        }
        match end_of(&range.key, &range.range_end) {
            None => return true,
            Some(end) if end > reached => {
                reached = end;
                begun = true;
            }
            Some(_) => {}
        }
    }
    begun && wanted.is_some_and(|wanted| wanted <= reached)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(ranges: &[(&'static str, &'static str)]) -> Vec<Permission> {
        let permission = |(key, end): &(&'static str, &'static str)| Permission {
            perm_type: Type::Readwrite as i32,
            key: Bytes::from(*key),
            range_end: Bytes::from(*end),
        };
        ranges.iter().map(permission).collect()
    }

    #[test]
    fn ranges_that_touch_cover_what_lies_across_them() {
        let check =
            |ranges: &[(&'static str, &'static str)], key: &'static str, end: &'static str, expected| {
                let covered = covers(&held(ranges), &Bytes::from(key), &Bytes::from(end));
                assert_eq!(covered, expected, "{ranges:?} and [{key:?}, {end:?})");
            };
        check(&[("a", "c")], "a", "", true);
        check(&[("a", "c")], "b", "c", true);
        check(&[("a", "c")], "c", "", false);
        check(&[("a", "c")], "b", "d", false);
        check(&[("a", "c"), ("c", "e")], "b", "d", true);
        check(&[("a", "c"), ("d", "e")], "b", "e", false);
        check(&[("a", "e"), ("b", "c")], "a", "e", true);
        check(&[("a", "")], "a", "", true);
        check(&[("a", "")], "a", "b", false);
        check(&[("a", "")], "a\0", "", false);
        check(&[("a", "\0")], "z", "\0", true);
        check(&[("a", "z")], "b", "\0", false);
        check(&[("b", "\0")], "a", "c", false);
        check(&[("a", "c"), ("b", "\0")], "a", "\0", true);
        check(&[], "a", "", false);
        // An empty range reads nothing, and is still asked for somewhere.
        check(&[("a", "c")], "x", "b", false);
    }
}
