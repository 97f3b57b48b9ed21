//! The admin endpoints of a node (see `api.rs`): HTTP/JSON for operators and their tools.
//!
//! Invariant: whatever changes something wants the admin token, and goes through KvSvr's
//! compare-and-write, so it does not matter which node is asked.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde::{Deserialize, Serialize};
use ticket::control::{self, EventRecord, EventState};
use ticket::id::{BuildId, FileNo};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;
use world::net::Net;
use world::{Clock, NodeId, ZoneId};

use super::api::{
    BuildReport, DrainReport, DrainRequest, EventReport, GroupMove, MemberRequest, MembersReport, NodeReport,
    StepsReport, ZoneOutcome, ZoneRequest, ZonesReport,
};
use super::observer::Observer;
use super::{drain, event, keys, members};
use crate::config::Cluster;
use crate::failover::act;
use crate::failure::{Exit, Failure};
use crate::http::{ErrorBody, ErrorDetail};
use crate::store::TicketStore;
use kvsvr::api::Kv;
use replica::host::Host;

/// The largest ticket file that is taken.
const BODY_BYTES_MAX: usize = 256 << 20;

/// What the endpoints work with.
pub struct Admin {
    /// This node.
    pub node: NodeId,
    /// All nodes.
    pub cluster: Cluster,
    /// How they are reached.
    pub net: Arc<dyn Net>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The KV.
    pub kv: Arc<dyn Kv>,
    /// This node's files.
    pub store: Arc<TicketStore>,
    /// What the other nodes last said.
    pub observer: Arc<Observer>,
    /// What operators must present; `None` lets everybody in.
    pub token: Option<String>,
    /// This node's groups.
    pub host: Arc<Host>,
    /// Whether this node is drained.
    pub drained: watch::Sender<bool>,
    /// Says how this node is.
    pub report: Box<dyn Fn() -> NodeReport + Send + Sync>,
}

/// A refusal on its way out.
pub(super) struct Refusal(Failure);

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal(failure)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code) = match self.0.exit {
            Exit::Usage => (StatusCode::BAD_REQUEST, "bad_request"),
            Exit::Denied => (StatusCode::FORBIDDEN, "denied"),
            Exit::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Exit::Conflict => (StatusCode::CONFLICT, "conflict"),
            Exit::Refused => (StatusCode::CONFLICT, "guard"),
            Exit::Unverified => (StatusCode::UNPROCESSABLE_ENTITY, "unverified"),
            Exit::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Exit::Error | Exit::Unhealthy | Exit::InvariantBroken => {
                (StatusCode::INTERNAL_SERVER_ERROR, "error")
            }
        };
        let retryable = self.0.exit == Exit::Unavailable;
        let error = ErrorDetail { code: code.to_owned(), message: self.0.message, retryable };
        (status, axum::Json(ErrorBody { error })).into_response()
    }
}

/// What a handler answers.
pub(super) type Answered<T> = Result<axum::Json<T>, Refusal>;

/// All endpoints.
pub fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/v1/health", get(health))
        .route("/v1/status", get(status))
        .route("/v1/zones", get(zones))
        .route("/v1/zones/{zone}/failover", post(failover))
        .route("/v1/zones/{zone}/restore", post(restore))
        .route("/v1/drain", post(drain))
        .route("/v1/rebalance", post(rebalance))
        .route("/v1/members", get(members))
        .route("/v1/members/{node}", post(change_member))
        .route("/v1/builds/{build}", get(build))
        .route("/v1/builds/{build}/roster", put(put_roster))
        .route("/v1/builds/{build}/files/{file}", put(put_file))
        .route("/v1/event", get(show_event).put(activate))
        .route("/v1/event/close", post(close))
        .merge(keys::routes())
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(admin)
}

impl Admin {
    /// Refuses who does not know the admin token.
    pub(super) fn check_token(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let Some(expected) = &self.token else { return Ok(()) };
        let given = headers.get("authorization").and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        // Digests of both are compared, so that the time taken says nothing about the token.
        if blake3::hash(given.as_bytes()) == blake3::hash(expected.as_bytes()) {
            return Ok(());
        }
        Err(Failure::new(
            Exit::Denied,
            "the admin token is missing or wrong: see admin_token_file in cluster.toml",
        ))
    }
}

async fn health(State(admin): State<Arc<Admin>>) -> Response {
    let report = (admin.report)();
    let status = if report.serving { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({ "serving": report.serving, "waiting_for": report.waiting_for });
    (status, axum::Json(body)).into_response()
}

async fn status(State(admin): State<Arc<Admin>>) -> axum::Json<NodeReport> {
    axum::Json((admin.report)())
}

async fn zones(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Answered<ZonesReport> {
    admin.check_token(&headers)?;
    Ok(axum::Json(act::zones(&admin).await?))
}

async fn failover(
    State(admin): State<Arc<Admin>>,
    Path(zone): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered<ZoneOutcome> {
    operate(&admin, &zone, &headers, &body, act::Verb::Failover).await
}

async fn restore(
    State(admin): State<Arc<Admin>>,
    Path(zone): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered<ZoneOutcome> {
    operate(&admin, &zone, &headers, &body, act::Verb::Restore).await
}

async fn operate(
    admin: &Admin,
    zone: &str,
    headers: &HeaderMap,
    body: &[u8],
    verb: act::Verb,
) -> Answered<ZoneOutcome> {
    admin.check_token(headers)?;
    let zone: ZoneId = parse(zone)?;
    let request: ZoneRequest = parse_json(body)?;
    Ok(axum::Json(act::operate(admin, zone, verb, &request).await?))
}

async fn drain(State(admin): State<Arc<Admin>>, headers: HeaderMap, body: Bytes) -> Answered<DrainReport> {
    admin.check_token(&headers)?;
    let request: DrainRequest = parse_json(&body)?;
    Ok(axum::Json(drain::drain(&admin.host, &admin.drained, &request).await))
}

async fn rebalance(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Answered<Vec<GroupMove>> {
    admin.check_token(&headers)?;
    Ok(axum::Json(drain::rebalance(&admin.host).await))
}

async fn members(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Answered<MembersReport> {
    admin.check_token(&headers)?;
    Ok(axum::Json(members::report(&admin.host)))
}

async fn change_member(
    State(admin): State<Arc<Admin>>,
    Path(node): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered<StepsReport> {
    admin.check_token(&headers)?;
    let node: NodeId = parse(&node)?;
    let request: MemberRequest = parse_json(&body)?;
    let address = &admin.cluster.node(node)?.peers;
    Ok(axum::Json(members::change(&admin.host, node, address, &request).await?))
}

async fn build(
    State(admin): State<Arc<Admin>>,
    Path(build): Path<String>,
    headers: HeaderMap,
) -> Answered<BuildReport> {
    admin.check_token(&headers)?;
    let build: BuildId = parse(&build)?;
    blocking(admin, move |admin| admin.store.report(build)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PushedRoster {
    roster: String,
    signature: String,
}

async fn put_roster(
    State(admin): State<Arc<Admin>>,
    Path(build): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered<BuildReport> {
    admin.check_token(&headers)?;
    let build: BuildId = parse(&build)?;
    let pushed: PushedRoster = parse_json(&body)?;
    blocking(admin, move |admin| admin.store.put_roster(build, pushed.roster.as_bytes(), &pushed.signature))
        .await
}

async fn put_file(
    State(admin): State<Arc<Admin>>,
    Path((build, file)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered<BuildReport> {
    admin.check_token(&headers)?;
    let build: BuildId = parse(&build)?;
    let file = FileNo(
        file.parse().map_err(|_| Failure::new(Exit::Usage, format!("{file:?} is not a file number")))?,
    );
    blocking(admin, move |admin| admin.store.put_file(build, file, &body)).await
}

async fn show_event(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Answered<EventReport> {
    admin.check_token(&headers)?;
    Ok(axum::Json(event::report(&*admin.kv).await?))
}

async fn activate(State(admin): State<Arc<Admin>>, headers: HeaderMap, body: Bytes) -> Answered<EventReport> {
    admin.check_token(&headers)?;
    let record: EventRecord = control::decode(control::EVENT_KEY, &body)
        .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    event::activate(&*admin.kv, &record).await?;
    Ok(axum::Json(event::report(&*admin.kv).await?))
}

async fn close(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Answered<EventReport> {
    admin.check_token(&headers)?;
    event::set_state(&*admin.kv, EventState::Closed).await?;
    Ok(axum::Json(event::report(&*admin.kv).await?))
}

/// Runs what reads and writes files where it holds nobody up.
async fn blocking<T: Serialize + Send + 'static>(
    admin: Arc<Admin>,
    work: impl FnOnce(&Admin) -> Result<T, Failure> + Send + 'static,
) -> Answered<T> {
    // On a single-threaded runtime (the simulator) the work is done in place: its order is fixed.
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return Ok(axum::Json(work(&admin)?));
    }
    let done = tokio::task::spawn_blocking(move || work(&admin)).await;
    let done = done.map_err(|error| Failure::new(Exit::Error, format!("the work failed: {error}")))?;
    Ok(axum::Json(done?))
}

pub(super) fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Failure>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| Failure::new(Exit::Usage, error.to_string()))
}

pub(super) fn parse_json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::new(Exit::Usage, format!("the body: {error}")))
}
