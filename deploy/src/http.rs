//! A small HTTP/1.1 client over `world::net`: one connection, one request at a time, a deadline on
//! each. For the admin commands and for the crowd of the demo.
//!
//! Invariant: a request whose answer did not arrive is [`HttpError::NoAnswer`]; whether the server
//! acted on it is unknown, and only the caller knows whether it may be repeated.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use world::net::Net;

use crate::failure::{Exit, Failure};

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No connection: the request was certainly not seen.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable {
        /// Who was called.
        address: String,
        /// What the network said.
        reason: String,
    },
    /// Sent, perhaps in part, and not answered: the outcome is unknown.
    #[error("{address} did not answer: {reason}")]
    NoAnswer {
        /// Who was called.
        address: String,
        /// What happened instead.
        reason: String,
    },
}

/// An answer: status and body.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// The whole body.
    pub body: Bytes,
}

/// One connection to one address, opened when needed and again after it broke.
pub struct HttpClient {
    net: Arc<dyn Net>,
    address: String,
    bearer: Option<String>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl HttpClient {
    /// A client that connects with its first request.
    #[must_use]
    pub fn new(net: Arc<dyn Net>, address: &str) -> HttpClient {
        HttpClient { net, address: address.to_owned(), bearer: None, sender: None }
    }

    /// Sends `Authorization: Bearer …` with every request.
    #[must_use]
    pub fn with_bearer(mut self, token: Option<String>) -> HttpClient {
        self.bearer = token;
        self
    }

    /// Changes who the next requests come from.
    pub fn set_bearer(&mut self, token: Option<String>) {
        self.bearer = token;
    }

    /// Sends one request and waits for the whole answer.
    ///
    /// # Errors
    /// [`HttpError`]; an answer with any status is not an error.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Answer, HttpError> {
        let address = self.address.clone();
        let no_answer = |reason: String| HttpError::NoAnswer { address: address.clone(), reason };
        let connecting = tokio::time::timeout(deadline, self.ready()).await;
        let mut sender = connecting.map_err(|_| HttpError::Unreachable {
            address: address.clone(),
            reason: format!("no connection within {deadline:?}"),
        })??;
        let mut request = Request::builder().method(method).uri(path).header("host", &self.address);
        if let Some(token) = &self.bearer {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|error| no_answer(error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            Ok::<Answer, hyper::Error>(Answer { status, body })
        };
        match tokio::time::timeout(deadline, exchange).await {
            Ok(Ok(answer)) => {
                self.sender = Some(sender);
                Ok(answer)
            }
            Ok(Err(error)) => Err(no_answer(error.to_string())),
            Err(_) => Err(no_answer(format!("no answer within {deadline:?}"))),
        }
    }

    async fn ready(&mut self) -> Result<SendRequest<Full<Bytes>>, HttpError> {
        let unreachable = |reason: String| HttpError::Unreachable { address: self.address.clone(), reason };
        if let Some(mut sender) = self.sender.take()
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        let connection =
            self.net.connect(&self.address).await.map_err(|error| unreachable(error.to_string()))?;
        let (mut sender, driver) =
            handshake(TokioIo::new(connection)).await.map_err(|error| unreachable(error.to_string()))?;
        tokio::spawn(async move {
            // A broken connection shows up at the request that uses it.
            let _ = driver.await;
        });
        sender.ready().await.map_err(|error| unreachable(error.to_string()))?;
        Ok(sender)
    }
}

/// The body of every refusal of the admin and edge APIs.
#[derive(Debug, Serialize, serde::Deserialize)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: ErrorDetail,
}

/// See [`ErrorBody`].
#[derive(Debug, Serialize, serde::Deserialize)]
pub struct ErrorDetail {
    /// Stable, for programs.
    pub code: String,
    /// For people.
    pub message: String,
    /// Whether the same request may succeed later.
    #[serde(default)]
    pub retryable: bool,
}

/// Calls an admin endpoint and reads its JSON answer.
///
/// # Errors
/// [`Exit::Unavailable`] when it cannot be reached; otherwise by the error code it answers.
pub async fn admin_call<T: DeserializeOwned>(
    client: &mut HttpClient,
    method: Method,
    path: &str,
    body: Bytes,
    deadline: Duration,
) -> Result<T, Failure> {
    let answer = client
        .send(method, path, body, deadline)
        .await
        .map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))?;
    if answer.status.is_success() {
        return serde_json::from_slice(&answer.body)
            .map_err(|error| Failure::new(Exit::Error, format!("{path} answered something else: {error}")));
    }
    let detail = serde_json::from_slice::<ErrorBody>(&answer.body).map(|body| body.error);
    let (code, message) = match detail {
        Ok(detail) => (detail.code, detail.message),
        Err(_) => (String::new(), format!("{path} answered {}", answer.status)),
    };
    Err(Failure::new(exit_of(&code, answer.status), message))
}

fn exit_of(code: &str, status: StatusCode) -> Exit {
    match (code, status.as_u16()) {
        ("guard", _) => Exit::Refused,
        ("unverified", _) => Exit::Unverified,
        (_, 400 | 422) => Exit::Usage,
        (_, 401 | 403) => Exit::Denied,
        (_, 404) => Exit::NotFound,
        (_, 409) => Exit::Conflict,
        (_, 503 | 504) => Exit::Unavailable,
        _ => Exit::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_become_exit_codes() {
        assert_eq!(exit_of("guard", StatusCode::CONFLICT), Exit::Refused);
        assert_eq!(exit_of("zone", StatusCode::CONFLICT), Exit::Conflict);
        assert_eq!(exit_of("", StatusCode::NOT_FOUND), Exit::NotFound);
        assert_eq!(exit_of("", StatusCode::SERVICE_UNAVAILABLE), Exit::Unavailable);
    }
}
