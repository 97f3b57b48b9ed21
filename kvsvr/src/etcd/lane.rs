//! The short way to etcd's KV service: what most calls ask for goes past the router.
//!
//! ```text
//!   /etcdserverpb.KV/Put, Range, ... --> KV service
//!   any other path                   --> router: the other services, pages, "unimplemented"
//! ```
//! A router clones boxes and rebuilds the request for every call, which costs as much as a small call's
//! own work.
//!
//! Invariant: a call is answered and counted as the router would have it.
//!
//! Not here: the router ([`crate::server`]), which knows the KV service as well.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::http::{Request, Response};
use futures_util::future::{BoxFuture, Either};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::service::Routes;

use super::kv::KvService;
use super::metrics::Metrics;
use crate::wire::etcdserverpb::kv_server::KvServer;

/// The paths that go the short way.
const PATHS: [&str; 5] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/DeleteRange",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.KV/Compact",
];

/// What the etcd port serves: the short way, and the router for everything else.
#[derive(Clone)]
pub struct EtcdPort {
    kv: KvServer<KvService>,
    metrics: Arc<Metrics>,
    router: Routes,
}

impl EtcdPort {
    pub(crate) fn new(kv: KvServer<KvService>, metrics: Arc<Metrics>, router: Routes) -> EtcdPort {
        EtcdPort { kv, metrics, router: router.prepare() }
    }
}

impl Service<Request<Body>> for EtcdPort {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Counted, <Routes as Service<Request<Body>>>::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The KV service always is.
        Service::<Request<Body>>::poll_ready(&mut self.router, context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let asked = request.uri().path();
        let Some(path) = PATHS.into_iter().find(|path| *path == asked) else {
            return Either::Right(self.router.call(request));
        };
        Either::Left(Counted { call: self.kv.call(request), path, metrics: Arc::clone(&self.metrics) })
    }
}

/// A call that is counted when it is answered.
pub struct Counted {
    call: BoxFuture<'static, Result<Response<Body>, Infallible>>,
    path: &'static str,
    metrics: Arc<Metrics>,
}

impl Future for Counted {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(response) = ready!(self.call.as_mut().poll(context));
        self.metrics.called(self.path, response.headers());
        Poll::Ready(Ok(response))
    }
}
