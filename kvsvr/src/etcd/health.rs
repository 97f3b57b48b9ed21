//! Whether this endpoint serves: the gRPC health service, and the verdict behind HTTP `/health`.
//!
//! Invariant: healthy means what a client cares for: a leader is known, no alarm stands, and a read
//! that needs a quorum was answered just now.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::KvService;
use crate::control_port::ControlPort;
use crate::group::read_with;
use crate::machine::control::alarm;
use crate::wire::etcdserverpb::kv_server::Kv;
use crate::wire::etcdserverpb::{AlarmType, RangeRequest};
use crate::wire::grpc_health::health_check_response::ServingStatus;
use crate::wire::grpc_health::health_server::Health;
use crate::wire::grpc_health::{HealthCheckRequest, HealthCheckResponse};

/// How often a watched status is looked at.
const WATCH_PAUSE: Duration = Duration::from_millis(250);

/// The services of the etcd port whose health may be asked for; empty is all of them.
const SERVICES: [&str; 9] = [
    "",
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Auth",
    "v3lockpb.Lock",
    "v3electionpb.Election",
];

/// What is left out of account.
#[derive(Clone, Debug, Default)]
pub(super) struct Leniency {
    /// A member's own knowledge will do: no quorum is asked.
    pub(super) serializable: bool,
    /// Alarms of these names do not count.
    pub(super) excluded: Vec<String>,
}

/// Judges this endpoint.
#[derive(Clone)]
pub struct HealthService {
    port: ControlPort,
    kv: KvService,
    stopping: watch::Receiver<bool>,
}

impl HealthService {
    /// A judge of the member behind `port`, which clients reach through `kv`. Its streams end when
    /// `stopping` turns true.
    pub fn new(port: ControlPort, kv: KvService, stopping: watch::Receiver<bool>) -> HealthService {
        HealthService { port, kv, stopping }
    }

    /// Why this endpoint is not healthy, in etcd's words.
    pub(super) async fn judge(&self, leniency: &Leniency) -> Result<(), String> {
        let alarms = read_with(self.port.group(), |view| alarm::list(view, AlarmType::None));
        for raised in alarms.map_err(|error| error.to_string())? {
            let name = AlarmType::try_from(raised.alarm).map_or("UNKNOWN", |kind| kind.as_str_name());
            if !leniency.excluded.iter().any(|excluded| excluded == name) {
                return Err(format!("ALARM {name}"));
            }
        }
        if leniency.serializable {
            return Ok(());
        }
        if self.port.group().standing().leader.is_none() {
            return Err("RAFT NO LEADER".to_owned());
        }
        let ask = RangeRequest { key: "health".into(), limit: 1, ..RangeRequest::default() };
        let asked = self.kv.range(Request::new(ask)).await;
        match asked {
            Ok(_) => Ok(()),
            // It may not read that key; that it was told so proves that it is served.
            Err(status) if status.code() == tonic::Code::PermissionDenied => Ok(()),
            Err(status) if status.message() == "etcdserver: user name is empty" => Ok(()),
            Err(status) => Err(format!("RANGE ERROR:{}", status.message())),
        }
    }

    // For those who ask often: what the member knows, without asking the others.
    fn status(&self, service: &str) -> ServingStatus {
        if !SERVICES.contains(&service) {
            return ServingStatus::ServiceUnknown;
        }
        match self.port.group().standing().leader {
            Some(_) => ServingStatus::Serving,
            None => ServingStatus::NotServing,
        }
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send + 'static>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match self.status(&request.into_inner().service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("unknown service")),
            status => Ok(Response::new(HealthCheckResponse { status: status as i32 })),
        }
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (judge, service) = (self.clone(), request.into_inner().service);
        let told = stream::unfold(None, move |last| {
            let (judge, service) = (judge.clone(), service.clone());
            async move {
                loop {
                    let now = judge.status(&service);
                    if last != Some(now) {
                        let response = HealthCheckResponse { status: now as i32 };
                        return Some((Ok(response), Some(now)));
                    }
                    let mut stopping = judge.stopping.clone();
                    tokio::select! {
                        () = tokio::time::sleep(WATCH_PAUSE) => {}
                        // An error means that the server is gone.
                        _ = stopping.wait_for(|stop| *stop) => return None,
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(told)))
    }
}
