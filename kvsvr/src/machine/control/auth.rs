//! Users, roles and whether they count.
//!
//! ```text
//!   key           value
//!   'ua'          1 | StoredAuth     enabled, revision, the key that signs tokens
//!   'uu' user     1 | StoredUser     the password's hash, roles
//!   'ur' role     1 | StoredRole     permissions
//! ```
//! Invariant: every change raises the revision by one; a change that is refused changes nothing.
//! Passwords never come here, only their hashes; hashing takes long and is done before.
//!
//! Not here: who may do what (`access`), tokens ([`crate::auth`]).

use std::ops::ControlFlow;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use replica::engine::{EngineError, View};
use replica::machine::{Txn, prefix_end};

use super::Fault;
use super::gate::Gate;
use crate::refusal::Refusal;
use crate::wire::authpb::Permission;
use crate::wire::etcdserverpb::{
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest,
};
use crate::wire::native::auth_change::Change;
use crate::wire::native::{AuthChange, StoredAuth, StoredRole, StoredUser};

/// The user, and the role, that may do everything.
pub const ROOT: &str = "root";

const FORMAT: u8 = 1;
const META_KEY: &[u8] = b"ua";
const USERS: &[u8] = b"uu";
const ROLES: &[u8] = b"ur";

fn named(prefix: &[u8], name: &str) -> Bytes {
    let mut key = BytesMut::with_capacity(prefix.len() + name.len());
    key.put_slice(prefix);
    key.put_slice(name.as_bytes());
    key.freeze()
}

fn encode(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
    bytes.put_u8(FORMAT);
    message.encode(&mut bytes).expect("a growing buffer takes any message");
    bytes.freeze()
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, EngineError> {
    match bytes.split_first() {
        Some((&FORMAT, body)) => {
            M::decode(body).map_err(|error| EngineError::Corrupt(format!("auth: {error}")))
        }
        _ => Err(EngineError::Corrupt("an auth record has another format".to_owned())),
    }
}

fn load<M: Message + Default>(view: &dyn View, key: &[u8]) -> Result<Option<M>, EngineError> {
    view.get(key)?.map(|bytes| decode(&bytes)).transpose()
}

/// Where the auth store stands.
///
/// # Errors
/// [`EngineError`].
pub fn meta(view: &dyn View) -> Result<StoredAuth, EngineError> {
    // As at etcd, a new store is at revision 1.
    Ok(load(view, META_KEY)?.unwrap_or(StoredAuth { revision: 1, ..StoredAuth::default() }))
}

/// Whether authors count: one short lookup.
///
/// # Errors
/// [`EngineError`].
pub fn is_enabled(view: &dyn View) -> Result<bool, EngineError> {
    Ok(Gate::read(view)?.has(Gate::AUTH))
}

/// A user.
///
/// # Errors
/// [`EngineError`].
pub fn user(view: &dyn View, name: &str) -> Result<Option<StoredUser>, EngineError> {
    load(view, &named(USERS, name))
}

/// A role.
///
/// # Errors
/// [`EngineError`].
pub fn role(view: &dyn View, name: &str) -> Result<Option<StoredRole>, EngineError> {
    load(view, &named(ROLES, name))
}

/// The names of all users, in order.
///
/// # Errors
/// [`EngineError`].
pub fn users(view: &dyn View) -> Result<Vec<String>, EngineError> {
    names(view, USERS)
}

/// The names of all roles, in order.
///
/// # Errors
/// [`EngineError`].
pub fn roles(view: &dyn View) -> Result<Vec<String>, EngineError> {
    names(view, ROLES)
}

fn names(view: &dyn View, prefix: &[u8]) -> Result<Vec<String>, EngineError> {
    let mut names = Vec::new();
    view.scan(prefix, &prefix_end(prefix), false, &mut |key, _| {
        names.push(String::from_utf8(key[prefix.len()..].to_vec()));
        ControlFlow::Continue(())
    })?;
    let names: Result<Vec<String>, _> = names.into_iter().collect();
    names.map_err(|_| EngineError::Corrupt("a name in the auth store is no text".to_owned()))
}

/// Whether a user may do everything.
#[must_use]
pub fn is_root(user: &StoredUser) -> bool {
    user.roles.iter().any(|role| role == ROOT)
}

/// Makes a change.
pub(super) fn change(txn: &mut Txn<'_>, change: &AuthChange) -> Result<(), Fault> {
    let meta = meta(txn)?;
    let next = meta.revision + 1;
    match &change.change {
        Some(Change::Enable(enable)) => return enable_auth(txn, meta, enable.token_key.clone()),
        Some(Change::Disable(_)) if !meta.enabled => return Ok(()),
        // Tokens end here: the next key is another one.
        Some(Change::Disable(_)) => {
            txn.put(META_KEY, encode(&StoredAuth { revision: next, ..StoredAuth::default() }));
            return Ok(Gate::set(txn, Gate::AUTH, false)?);
        }
        Some(Change::UserAdd(request)) => add_user(txn, request, next)?,
        Some(Change::UserDelete(request)) => delete_user(txn, &meta, &request.name)?,
        Some(Change::UserChangePassword(request)) => change_password(txn, request, next)?,
        Some(Change::UserGrantRole(request)) => {
            if !grant_role(txn, request)? {
                return Ok(());
            }
        }
        Some(Change::UserRevokeRole(request)) => revoke_role(txn, &meta, request)?,
        Some(Change::RoleAdd(request)) => add_role(txn, &request.name)?,
        Some(Change::RoleDelete(request)) => delete_role(txn, &meta, &request.role)?,
        Some(Change::RoleGrantPermission(request)) => grant_permission(txn, request)?,
        Some(Change::RoleRevokePermission(request)) => revoke_permission(txn, request)?,
        None => {
            let what = "an auth change of a kind this program does not know";
            return Err(EngineError::Corrupt(what.to_owned()).into());
        }
    }
    txn.put(META_KEY, encode(&StoredAuth { revision: next, ..meta }));
    Ok(())
}

fn enable_auth(txn: &mut Txn<'_>, meta: StoredAuth, token_key: Bytes) -> Result<(), Fault> {
    if meta.enabled {
        return Ok(());
    }
    let root = user(txn, ROOT)?.ok_or(Refusal::RootUserNotExist)?;
    if !is_root(&root) {
        return Err(Refusal::RootRoleNotExist.into());
    }
    txn.put(META_KEY, encode(&StoredAuth { enabled: true, token_key, ..meta }));
    Ok(Gate::set(txn, Gate::AUTH, true)?)
}

fn put_user(txn: &mut Txn<'_>, name: &str, user: &StoredUser) {
    txn.put(named(USERS, name), encode(user));
}

fn put_role(txn: &mut Txn<'_>, name: &str, role: &StoredRole) {
    txn.put(named(ROLES, name), encode(role));
}

fn add_user(txn: &mut Txn<'_>, request: &AuthUserAddRequest, revision: u64) -> Result<(), Fault> {
    if request.name.is_empty() {
        return Err(Refusal::UserEmpty.into());
    }
    if user(txn, &request.name)?.is_some() {
        return Err(Refusal::UserAlreadyExist.into());
    }
    assert!(request.password.is_empty(), "a password was to be replicated");
    let no_password = request.options.is_some_and(|options| options.no_password);
    let added = StoredUser {
        password_hash: request.hashed_password.clone(),
        no_password,
        roles: Vec::new(),
        password_revision: revision,
    };
    put_user(txn, &request.name, &added);
    Ok(())
}

fn delete_user(txn: &mut Txn<'_>, meta: &StoredAuth, name: &str) -> Result<(), Fault> {
    if meta.enabled && name == ROOT {
        return Err(Refusal::InvalidAuthMgmt.into());
    }
    user(txn, name)?.ok_or(Refusal::UserNotFound)?;
    txn.delete(named(USERS, name));
    Ok(())
}

fn change_password(
    txn: &mut Txn<'_>,
    request: &AuthUserChangePasswordRequest,
    revision: u64,
) -> Result<(), Fault> {
    assert!(request.password.is_empty(), "a password was to be replicated");
    let mut changed = user(txn, &request.name)?.ok_or(Refusal::UserNotFound)?;
    if !changed.no_password {
        changed.password_hash = request.hashed_password.clone();
    }
    changed.password_revision = revision;
    put_user(txn, &request.name, &changed);
    Ok(())
}

// Answers whether anything changed.
fn grant_role(txn: &mut Txn<'_>, request: &AuthUserGrantRoleRequest) -> Result<bool, Fault> {
    let mut granted = user(txn, &request.user)?.ok_or(Refusal::UserNotFound)?;
    if request.role != ROOT && role(txn, &request.role)?.is_none() {
        return Err(Refusal::RoleNotFound.into());
    }
    let Err(place) = granted.roles.binary_search(&request.role) else { return Ok(false) };
    granted.roles.insert(place, request.role.clone());
    put_user(txn, &request.user, &granted);
    Ok(true)
}

fn revoke_role(
    txn: &mut Txn<'_>,
    meta: &StoredAuth,
    request: &AuthUserRevokeRoleRequest,
) -> Result<(), Fault> {
    if meta.enabled && request.name == ROOT && request.role == ROOT {
        return Err(Refusal::InvalidAuthMgmt.into());
    }
    let mut revoked = user(txn, &request.name)?.ok_or(Refusal::UserNotFound)?;
    let place = revoked.roles.binary_search(&request.role).map_err(|_| Refusal::RoleNotGranted)?;
    revoked.roles.remove(place);
    put_user(txn, &request.name, &revoked);
    Ok(())
}

fn add_role(txn: &mut Txn<'_>, name: &str) -> Result<(), Fault> {
    if name.is_empty() {
        return Err(Refusal::RoleEmpty.into());
    }
    if role(txn, name)?.is_some() {
        return Err(Refusal::RoleAlreadyExist.into());
    }
    put_role(txn, name, &StoredRole::default());
    Ok(())
}

fn delete_role(txn: &mut Txn<'_>, meta: &StoredAuth, name: &str) -> Result<(), Fault> {
    if meta.enabled && name == ROOT {
        return Err(Refusal::InvalidAuthMgmt.into());
    }
    role(txn, name)?.ok_or(Refusal::RoleNotFound)?;
    txn.delete(named(ROLES, name));
    for holder in users(txn)? {
        let mut user = user(txn, &holder)?.ok_or(Refusal::UserNotFound)?;
        if let Ok(place) = user.roles.binary_search_by(|role| role.as_str().cmp(name)) {
            user.roles.remove(place);
            put_user(txn, &holder, &user);
        }
    }
    Ok(())
}

fn grant_permission(txn: &mut Txn<'_>, request: &AuthRoleGrantPermissionRequest) -> Result<(), Fault> {
    let wanted = request.perm.as_ref().ok_or(Refusal::PermissionNotGiven)?;
    let open = wanted.range_end.as_ref() == [0];
    let ordered = wanted.range_end.is_empty() || open || wanted.key < wanted.range_end;
    if wanted.key.is_empty() || !ordered {
        return Err(Refusal::InvalidAuthMgmt.into());
    }
    let mut granted = role(txn, &request.name)?.ok_or(Refusal::RoleNotFound)?;
    let same = |held: &&mut Permission| held.key == wanted.key && held.range_end == wanted.range_end;
    match granted.permissions.iter_mut().find(same) {
        Some(held) => held.perm_type = wanted.perm_type,
        None => {
            granted.permissions.push(wanted.clone());
            granted.permissions.sort_by(|a, b| a.key.cmp(&b.key));
        }
    }
    put_role(txn, &request.name, &granted);
    Ok(())
}

fn revoke_permission(txn: &mut Txn<'_>, request: &AuthRoleRevokePermissionRequest) -> Result<(), Fault> {
    let mut revoked = role(txn, &request.role)?.ok_or(Refusal::RoleNotFound)?;
    let before = revoked.permissions.len();
    revoked.permissions.retain(|held| held.key != request.key || held.range_end != request.range_end);
    if revoked.permissions.len() == before {
        return Err(Refusal::PermissionNotGranted.into());
    }
    put_role(txn, &request.role, &revoked);
    Ok(())
}
