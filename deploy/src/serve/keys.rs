//! The key list of a build in KvSvr: which data keys may be used, and which were revoked.
//!
//! ```text
//!   GET  /v1/builds/{b}/keys            KeysReport
//!   PUT  /v1/builds/{b}/keys            a KeyList -> KeysReport   (the first list, at activation)
//!   POST /v1/builds/{b}/keys/revoke     KeysRequest -> KeysReport
//!   POST /v1/builds/{b}/keys/activate   KeysRequest -> KeysReport
//! ```
//! Openers and settlers look at it several times a second, crediting before it begins, so one
//! command takes a leaked key out of use everywhere.
//!
//! Invariant: every change is conditional on the list that was read; a list is never replaced by
//! the one that was built.
//!
//! Not here: what a key protects (ticket) and what a revoked key means for a packet (payment).

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::routing::{get, post};
use kvsvr::api::{Compare, ControlOp, Kv};
use serde::{Deserialize, Serialize};
use ticket::control;
use ticket::id::{BuildId, KeyId};
use ticket::keys::KeyList;

use super::admin::{Admin, Answered, parse, parse_json};
use crate::failure::{Context, Exit, Failure};

/// How often a change is tried again when somebody else changed the list at the same time.
const ATTEMPTS_MAX: u32 = 8;

/// The list of one build, for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeysReport {
    /// The build.
    pub build: BuildId,
    /// How many keys may be used.
    pub usable: usize,
    /// Keys that may not, although they were made for this build.
    pub revoked: BTreeSet<KeyId>,
    /// False when the list was so already.
    pub changed: bool,
}

/// Keys to revoke or to activate again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysRequest {
    /// Which.
    pub keys: BTreeSet<KeyId>,
}

/// What is done to keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Nothing under them is opened, settled or credited any more.
    Revoke,
    /// They may be used again.
    Activate,
}

/// The list of a build with the revision it was read at.
///
/// # Errors
/// When KvSvr does not answer, or holds what cannot be read.
pub async fn read(kv: &dyn Kv, build: BuildId) -> Result<Option<(KeyList, i64)>, Failure> {
    let key = control::key_list_key(build);
    let Some(pair) = kv.get(key.as_bytes()).await? else { return Ok(None) };
    let list = control::decode(&key, &pair.value).context(Exit::Error, "reading the key list")?;
    Ok(Some((list, pair.mod_revision)))
}

/// The list of a build that is active.
///
/// # Errors
/// Exit code 3 when there is none; otherwise as [`read`].
pub async fn current(kv: &dyn Kv, build: BuildId) -> Result<(KeyList, i64), Failure> {
    let none = || {
        let cure = "activate it with `hongbao deploy activate`";
        Failure::new(Exit::NotFound, format!("build {build} has no key list in KvSvr: {cure}"))
    };
    read(kv, build).await?.ok_or_else(none)
}

/// Puts a build's first list there; a list that is there stays as it is.
///
/// # Errors
/// When KvSvr does not answer.
pub async fn install(kv: &dyn Kv, build: BuildId, list: &KeyList) -> Result<KeysReport, Failure> {
    let key = control::key_list_key(build);
    let put = ControlOp::Put(key.clone().into(), list.encode().into());
    let outcome = kv.txn(vec![Compare::Absent(key.into())], vec![put]).await?;
    let (standing, _) = current(kv, build).await?;
    Ok(report(build, &standing, outcome.succeeded))
}

/// Revokes keys, or lets them be used again.
///
/// # Errors
/// Exit code 2 when the build has no such key, 3 when it has no list, 4 when others keep changing it.
pub async fn change(
    kv: &dyn Kv,
    build: BuildId,
    verb: Verb,
    keys: &BTreeSet<KeyId>,
) -> Result<KeysReport, Failure> {
    for _ in 0..ATTEMPTS_MAX {
        let (list, revision) = current(kv, build).await?;
        if let Some(unknown) = keys.iter().find(|key| !list.whitelist.contains(key)) {
            let range = match (list.whitelist.first(), list.whitelist.last()) {
                (Some(first), Some(last)) => format!("its keys are {first} to {last}"),
                _ => "it has no keys".to_owned(),
            };
            return Err(Failure::new(Exit::Usage, format!("build {build} has no key {unknown}: {range}")));
        }
        let changed = apply(&list, verb, keys);
        if changed == list {
            return Ok(report(build, &list, false));
        }
        let key = control::key_list_key(build);
        let put = ControlOp::Put(key.clone().into(), changed.encode().into());
        if kv.txn(vec![Compare::ModRevision(key.into(), revision)], vec![put]).await?.succeeded {
            return Ok(report(build, &changed, true));
        }
    }
    Err(Failure::new(Exit::Conflict, "others keep changing the key list: look at it and repeat"))
}

fn apply(list: &KeyList, verb: Verb, keys: &BTreeSet<KeyId>) -> KeyList {
    let mut changed = list.clone();
    match verb {
        Verb::Revoke => changed.blacklist.extend(keys),
        Verb::Activate => changed.blacklist.retain(|key| !keys.contains(key)),
    }
    changed
}

fn report(build: BuildId, list: &KeyList, changed: bool) -> KeysReport {
    let usable = list.whitelist.difference(&list.blacklist).count();
    KeysReport { build, usable, revoked: list.blacklist.clone(), changed }
}

/// The endpoints above.
pub fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/v1/builds/{build}/keys", get(show).put(put_first))
        .route("/v1/builds/{build}/keys/revoke", post(revoke))
        .route("/v1/builds/{build}/keys/activate", post(activate))
}

async fn show(
    State(admin): State<Arc<Admin>>,
    Path(build): Path<String>,
    headers: HeaderMap,
) -> Answered<KeysReport> {
    admin.check_token(&headers)?;
    let build: BuildId = parse(&build)?;
    let (list, _) = current(&*admin.kv, build).await?;
    Ok(axum::Json(report(build, &list, false)))
}

async fn put_first(
    State(admin): State<Arc<Admin>>,
    Path(build): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered<KeysReport> {
    admin.check_token(&headers)?;
    let build: BuildId = parse(&build)?;
    let list = KeyList::decode(&body).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    Ok(axum::Json(install(&*admin.kv, build, &list).await?))
}

async fn revoke(
    State(admin): State<Arc<Admin>>,
    Path(build): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered<KeysReport> {
    operate(&admin, &build, &headers, &body, Verb::Revoke).await
}

async fn activate(
    State(admin): State<Arc<Admin>>,
    Path(build): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered<KeysReport> {
    operate(&admin, &build, &headers, &body, Verb::Activate).await
}

async fn operate(
    admin: &Admin,
    build: &str,
    headers: &HeaderMap,
    body: &[u8],
    verb: Verb,
) -> Answered<KeysReport> {
    admin.check_token(headers)?;
    let build: BuildId = parse(build)?;
    let request: KeysRequest = parse_json(body)?;
    Ok(axum::Json(change(&*admin.kv, build, verb, &request.keys).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(ids: &[u16]) -> BTreeSet<KeyId> {
        ids.iter().map(|id| KeyId(*id)).collect()
    }

    #[test]
    fn a_revoked_key_is_out_of_use_until_it_is_activated_again() {
        let list = KeyList::all(3);
        let revoked = apply(&list, Verb::Revoke, &keys(&[2]));
        assert!(revoked.check(KeyId(2)).is_err() && revoked.check(KeyId(3)).is_ok());
        assert_eq!(report(BuildId([1; 16]), &revoked, true).usable, 2);
        assert_eq!(apply(&revoked, Verb::Revoke, &keys(&[2])), revoked, "twice is once");
        assert_eq!(apply(&revoked, Verb::Activate, &keys(&[2, 3])), list);
    }
}
