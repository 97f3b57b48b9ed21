//! The two calls as HTTP/JSON.
//!
//! ```text
//!   POST /v1/shake  {"history":"…"}?    200 {"outcome":"packet","ticket":"…","page":"…","history":"…"}
//!                                           {"outcome":"page","page":"…"}   {"outcome":"nothing"}
//!                                           {"outcome":"throttled","retry_after_ms":120}
//!                                           {"outcome":"closed","next_slot_at":"2026-02-16T12:00:00Z"}
//!   POST /v1/open   {"ticket":"…"}      200 {"status":"opened","packet_id":"…","amount_fen":123}
//!   GET  /healthz                       200 {"status":"ok"}, 503 while nothing can be sealed
//! ```
//! Fields that do not apply are left out. Tickets are base64url without padding; times RFC 3339.
//!
//! Not here: decisions; see [`Edge`].

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use world::UnixMs;

use crate::desk::Shaken;
use crate::edge::Edge;
use crate::edge::error::EdgeError;

/// The largest body: a token and a ticket are a hundred characters each.
pub const BODY_LEN_MAX: usize = 4_096;

#[derive(Default, Deserialize)]
struct ShakeRequest {
    #[serde(default)]
    history: Option<String>,
}

#[derive(Default, Serialize)]
struct ShakeReply {
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_slot_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<String>,
}

#[derive(Deserialize)]
struct OpenRequest {
    ticket: String,
}

#[derive(Serialize)]
struct OpenReply {
    status: &'static str,
    packet_id: String,
    amount_fen: u64,
}

type Body = Result<Bytes, BytesRejection>;

/// `POST /v1/shake`
pub async fn shake(State(edge): State<Arc<Edge>>, headers: HeaderMap, body: Body) -> Response {
    let served = || {
        let user = edge.authenticate(authorization(&headers))?;
        let body = read_body(body)?;
        let request: ShakeRequest = if body.is_empty() { ShakeRequest::default() } else { parse(&body)? };
        Ok(reply_of(edge.shake(user, request.history.as_deref())))
    };
    answer(served())
}

/// `POST /v1/open`
pub async fn open(State(edge): State<Arc<Edge>>, headers: HeaderMap, body: Body) -> Response {
    let user = match edge.authenticate(authorization(&headers)) {
        Ok(user) => user,
        Err(error) => return error.into_response(),
    };
    let ticket = match read_body(body).and_then(|body| read_ticket(&body)) {
        Ok(ticket) => ticket,
        Err(error) => {
            edge.count_unreadable_open(&error);
            return error.into_response();
        }
    };
    let opened = edge.open(user, &ticket).await;
    answer(opened.map(|opened| OpenReply {
        status: "opened",
        packet_id: opened.packet_id,
        amount_fen: opened.amount_fen,
    }))
}

/// `GET /healthz`
pub async fn health(State(edge): State<Arc<Edge>>) -> Response {
    let status = edge.node().status();
    let (code, text) = match status.boot_epoch {
        _ if status.superseded => (StatusCode::SERVICE_UNAVAILABLE, "superseded"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
        Some(_) => (StatusCode::OK, "ok"),
    };
    (code, Json(serde_json::json!({ "status": text }))).into_response()
}

fn authorization(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(header::AUTHORIZATION).map(|value| value.as_bytes())
}

fn read_body(body: Body) -> Result<Bytes, EdgeError> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => EdgeError::too_large(),
        _ => EdgeError::bad_request("The body could not be read."),
    })
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, EdgeError> {
    // An array would be taken for a request whose fields are given by place.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(EdgeError::bad_request("The body is not a JSON object."));
    }
    serde_json::from_slice(body)
        .map_err(|error| EdgeError::bad_request(&format!("The body is not valid: {error}.")))
}

fn read_ticket(body: &[u8]) -> Result<Vec<u8>, EdgeError> {
    let request: OpenRequest = parse(body)?;
    URL_SAFE_NO_PAD.decode(request.ticket).map_err(|_| EdgeError::bad_ticket())
}

fn answer(served: Result<impl Serialize, EdgeError>) -> Response {
    match served {
        Ok(reply) => Json(reply).into_response(),
        Err(error) => error.into_response(),
    }
}

fn reply_of(shaken: Shaken) -> ShakeReply {
    let nothing = ShakeReply { outcome: "nothing", ..ShakeReply::default() };
    match shaken {
        Shaken::Packet { ticket, page, history } => ShakeReply {
            outcome: "packet",
            ticket: Some(URL_SAFE_NO_PAD.encode(ticket)),
            page,
            history: Some(history),
            ..nothing
        },
        Shaken::Page(page) => ShakeReply { outcome: "page", page: Some(page), ..nothing },
        Shaken::Nothing => nothing,
        Shaken::Throttled { retry_after_ms } => {
            ShakeReply { outcome: "throttled", retry_after_ms: Some(retry_after_ms), ..nothing }
        }
        Shaken::Closed { next_slot_at } => {
            ShakeReply { outcome: "closed", next_slot_at: next_slot_at.and_then(rfc3339), ..nothing }
        }
    }
}

/// The instant as text; nothing for one beyond the calendar.
fn rfc3339(at: UnixMs) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()?;
    Some(at.to_string())
}
