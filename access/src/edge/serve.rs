//! Routes and connections of the edge.
//!
//! One loop accepts; each connection is served by hyper, which tells HTTP/1.1 and HTTP/2 apart by
//! the first bytes. A client that is slow to send its request, or silent on HTTP/2, is given up.
//!
//! Invariant: at most [`CONNECTIONS_MAX`] connections are open, and stopping waits for the calls
//! that are being served, but not longer than [`DRAIN_TIMEOUT`].
//!
//! Not here: TLS.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use futures_util::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use world::net::{Incoming, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAMS_PER_CONNECTION_MAX};

use crate::edge::Edge;
use crate::edge::error::EdgeError;
use crate::edge::grpc::GrpcEdge;
use crate::edge::http::{BODY_LEN_MAX, health, open, shake};
use crate::edge::proto::edge_server::EdgeServer;

/// Connections open at once; more wait in the listener's queue.
pub const CONNECTIONS_MAX: usize = 65_536;
/// How long a client may take to send the head of a request.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long stopping waits for calls that are being served.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// All routes of the edge, both protocols.
pub fn router(edge: Arc<Edge>) -> Router {
    let grpc = EdgeServer::new(GrpcEdge(Arc::clone(&edge))).max_decoding_message_size(BODY_LEN_MAX);
    Router::new()
        .route("/v1/shake", post(shake))
        .route("/v1/open", post(open))
        .route("/healthz", get(health))
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .with_state(edge)
        .route_service("/hongbao.edge.v1.Edge/{method}", grpc)
        .fallback(|| async { EdgeError::not_found() })
        .method_not_allowed_fallback(|| async { EdgeError::method_not_allowed() })
}

/// Serves connections until `stopped`, then lets the calls under way finish.
pub async fn serve(mut incoming: Incoming, router: Router, stopped: impl Future<Output = ()>) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .keep_alive_interval(KEEPALIVE_INTERVAL * 20)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT * 4);
    let builder = Arc::new(builder);
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut stopped = pin!(stopped);
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("this semaphore is never closed");
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => break,
            accepted = incoming.next() => accepted,
        };
        let connection = match accepted {
            Some(Ok(connection)) => connection,
            Some(Err(error)) => {
                // Out of descriptors, mostly: accepting again at once would spin.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            None => break,
        };
        let service = TowerToHyperService::new(router.clone());
        let builder = Arc::clone(&builder);
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            let serving = builder.serve_connection(TokioIo::new(connection), service);
            // A client that goes away in the middle is nobody's fault.
            if let Err(error) = watcher.watch(serving.into_owned()).await {
                tracing::debug!(error, "a connection ended badly");
            }
            drop(slot);
        });
    }
    if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("some calls were still being served when the edge stopped");
    }
}
