//! What the etcd port answers to plain HTTP, beside gRPC: `/health`, `/version`, `/metrics`.
//!
//! Invariant: paths, fields and status codes are etcd's, for the probes and dashboards that expect
//! them.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::FutureExt;

use super::ETCD_VERSION;
use super::health::{HealthService, Leniency};
use super::metrics::Metrics;

/// What the handlers need.
#[derive(Clone)]
pub(crate) struct Pages {
    pub(crate) health: HealthService,
    pub(crate) metrics: Arc<Metrics>,
}

/// Adds the pages to what the port serves, and counts what is called.
pub(crate) fn add_pages(router: Router, pages: Pages) -> Router {
    let metrics = Arc::clone(&pages.metrics);
    let own = Router::new()
        .route("/health", get(health))
        .route("/version", get(version))
        .route("/metrics", get(measured))
        .with_state(pages);
    let counted = router.layer(axum::middleware::from_fn(
        move |request: axum::extract::Request, next: axum::middleware::Next| {
            let metrics = Arc::clone(&metrics);
            let path = request.uri().path().to_owned();
            next.run(request).map(move |response| {
                metrics.called(&path, response.headers());
                response
            })
        },
    ));
    counted.merge(own)
}

async fn health(State(pages): State<Pages>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let of =
        |name: &str| query.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect();
    let excluded: Vec<String> = of("exclude");
    let asked: Vec<String> = of("serializable");
    let leniency = Leniency { serializable: asked.iter().any(|value| value == "true"), excluded };
    let (code, healthy, reason) = match pages.health.judge(&leniency).await {
        Ok(()) => (StatusCode::OK, "true", String::new()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, "false", reason),
    };
    // etcd's field is a word, not a truth value.
    let body = format!("{{\"health\":\"{healthy}\",\"reason\":{}}}", quoted(&reason));
    (code, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn quoted(text: &str) -> String {
    let plain: String = text.chars().filter(|c| !c.is_control() && *c != '"' && *c != '\\').collect();
    format!("\"{plain}\"")
}

async fn version() -> Response {
    let cluster = cluster_version();
    let body = format!("{{\"etcdserver\":\"{ETCD_VERSION}\",\"etcdcluster\":\"{cluster}\"}}");
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The version all members agree on: etcd tells it without the patch.
pub(super) fn cluster_version() -> String {
    let mut parts = ETCD_VERSION.split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    format!("{major}.{minor}.0")
}

async fn measured(State(pages): State<Pages>) -> Response {
    match pages.metrics.text() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
