//! The one place where a refusal becomes a status code.
//!
//! ```text
//!   retryable ......................... 503   UNAVAILABLE
//!   unauthorized, token_expired ....... 401   UNAUTHENTICATED
//!   key_revoked, key_unlisted ......... 403   PERMISSION_DENIED
//!   already_opened .................... 409   ALREADY_EXISTS
//!   expired, closed ................... 410   FAILED_PRECONDITION
//!   anything else ..................... 400   INVALID_ARGUMENT
//! ```
//! Invariant: the body is always `{"error":{"code","message","retryable"}}`, and never says more
//! than the code: what was wrong with a ticket is for the log and the counters.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::opener::OpenRefused;

/// Seconds after which a shed call may be repeated.
const RETRY_AFTER_S: u16 = 1;

/// A call that was not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeError {
    /// The HTTP status.
    pub status: StatusCode,
    /// Stable, for programs.
    pub code: &'static str,
    /// One sentence for people.
    pub message: String,
    /// Whether the same call may succeed later.
    pub retryable: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    error: Detail<'a>,
}

#[derive(Serialize)]
struct Detail<'a> {
    code: &'a str,
    message: &'a str,
    retryable: bool,
}

impl EdgeError {
    fn new(status: StatusCode, code: &'static str, message: &str, retryable: bool) -> EdgeError {
        EdgeError { status, code, message: message.to_owned(), retryable }
    }

    /// No token, or none that is genuine.
    #[must_use]
    pub fn unauthorized() -> EdgeError {
        EdgeError::new(StatusCode::UNAUTHORIZED, "unauthorized", "A valid session token is needed.", false)
    }

    /// A token past its time.
    #[must_use]
    pub fn token_expired() -> EdgeError {
        let message = "The session token has expired: log in again.";
        EdgeError::new(StatusCode::UNAUTHORIZED, "token_expired", message, false)
    }

    /// Not a sealed ticket at all.
    #[must_use]
    pub fn bad_ticket() -> EdgeError {
        EdgeError::new(StatusCode::BAD_REQUEST, "bad_ticket", "The ticket is not valid.", false)
    }

    /// A body that is not what the call takes.
    #[must_use]
    pub fn bad_request(message: &str) -> EdgeError {
        EdgeError::new(StatusCode::BAD_REQUEST, "bad_request", message, false)
    }

    /// A body beyond the limit.
    #[must_use]
    pub fn too_large() -> EdgeError {
        EdgeError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The request is too large.", false)
    }

    /// No such path.
    #[must_use]
    pub fn not_found() -> EdgeError {
        EdgeError::new(StatusCode::NOT_FOUND, "not_found", "There is nothing at this path.", false)
    }

    /// A path that takes another method.
    #[must_use]
    pub fn method_not_allowed() -> EdgeError {
        let message = "This path takes another method.";
        EdgeError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message, false)
    }

    /// Shed before any work was done.
    #[must_use]
    pub fn overloaded() -> EdgeError {
        let message = "Too many opens are under way: try again in a moment.";
        EdgeError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message, true)
    }

    /// No answer in time. Repeating is safe: an open is idempotent.
    #[must_use]
    pub fn open_unknown() -> EdgeError {
        let message = "The open was not confirmed in time: repeat it.";
        EdgeError::new(StatusCode::SERVICE_UNAVAILABLE, "unknown", message, true)
    }

    /// What the opener said.
    #[must_use]
    pub fn refused(refused: OpenRefused) -> EdgeError {
        let status =
            if refused.retryable { StatusCode::SERVICE_UNAVAILABLE } else { status_of(refused.code) };
        EdgeError { status, code: refused.code, message: refused.message, retryable: refused.retryable }
    }

    /// The same as a gRPC status; code and retryability travel as metadata.
    #[must_use]
    pub fn to_status(&self) -> tonic::Status {
        let code = match self.status {
            StatusCode::UNAUTHORIZED => tonic::Code::Unauthenticated,
            StatusCode::FORBIDDEN => tonic::Code::PermissionDenied,
            StatusCode::CONFLICT => tonic::Code::AlreadyExists,
            StatusCode::GONE => tonic::Code::FailedPrecondition,
            StatusCode::SERVICE_UNAVAILABLE => tonic::Code::Unavailable,
            _ => tonic::Code::InvalidArgument,
        };
        let mut status = tonic::Status::new(code, &self.message);
        let retryable = if self.retryable { "true" } else { "false" };
        for (key, value) in [("hongbao-code", self.code), ("hongbao-retryable", retryable)] {
            if let Ok(value) = value.parse() {
                status.metadata_mut().insert(key, value);
            }
        }
        status
    }
}

/// What to answer a refusal that will not change.
fn status_of(code: &str) -> StatusCode {
    match code {
        "key_revoked" | "key_unlisted" => StatusCode::FORBIDDEN,
        "already_opened" => StatusCode::CONFLICT,
        "expired" | "closed" => StatusCode::GONE,
        _ => StatusCode::BAD_REQUEST,
    }
}

impl IntoResponse for EdgeError {
    fn into_response(self) -> Response {
        let detail = Detail { code: self.code, message: &self.message, retryable: self.retryable };
        let mut response = (self.status, Json(Body { error: detail })).into_response();
        if self.retryable {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
