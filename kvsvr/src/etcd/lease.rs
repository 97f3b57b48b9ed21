//! The Lease service.
//!
//! Invariant: every zone's endpoint answers as the leader would; keep-alives of one stream are
//! answered in their order.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::courier::{Courier, hop};
use crate::lease::LeaseKeeper;
use crate::wire::etcdserverpb::lease_server::Lease;
use crate::wire::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use crate::wire::native::control_command::Command;
use crate::wire::native::control_hop_client::ControlHopClient;
use crate::wire::native::control_reply::Reply;

/// etcd's Lease service over the local member of the control group.
#[derive(Clone)]
pub struct LeaseService {
    courier: Courier,
    keeper: Arc<LeaseKeeper>,
    stopping: watch::Receiver<bool>,
}

impl LeaseService {
    /// A service that goes to the leader when its own member does not lead.
    /// Its streams end when `stopping` turns true.
    pub(crate) fn new(
        courier: Courier,
        keeper: Arc<LeaseKeeper>,
        stopping: watch::Receiver<bool>,
    ) -> LeaseService {
        LeaseService { courier, keeper, stopping }
    }

    /// The next request of a stream; `None` when no more come.
    async fn next(
        &self,
        requests: &mut Streaming<LeaseKeepAliveRequest>,
    ) -> Result<Option<LeaseKeepAliveRequest>, Status> {
        let mut stopping = self.stopping.clone();
        tokio::select! {
            request = requests.message() => request,
            // An error means that the server is gone.
            _ = stopping.wait_for(|stop| *stop) => Err(Status::unavailable("etcdserver: server stopped")),
        }
    }

    async fn keep_alive(
        &self,
        metadata: &MetadataMap,
        request: LeaseKeepAliveRequest,
    ) -> Result<LeaseKeepAliveResponse, Status> {
        self.courier.desk.check(metadata, |access| access.check_lease_renewal(request.id))?;
        // Made before, so that its revision is never one at which the lease had ended already.
        let header = Some(self.courier.header()?);
        let id = request.id;
        let ttl = self
            .courier
            .run(
                || self.keeper.renew(id),
                |channel, patience| async move {
                    let request = hop(LeaseKeepAliveRequest { id }, patience);
                    Ok(ControlHopClient::new(channel).renew(request).await?.into_inner().ttl)
                },
            )
            .await?;
        Ok(LeaseKeepAliveResponse { header, id, ttl })
    }
}

#[tonic::async_trait]
impl Lease for LeaseService {
    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send + 'static>>;

    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        match self.courier.send(&metadata, Command::LeaseGrant(request)).await? {
            Reply::LeaseGrant(mut response) => {
                response.header = Some(self.courier.stamped(response.header));
                Ok(Response::new(response))
            }
            _ => Err(Status::internal("an answer of another kind")),
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let id = request.id;
        match self.courier.send(&metadata, Command::LeaseRevoke(request)).await? {
            Reply::LeaseRevoke(response) => {
                self.keeper.revoked(id);
                let header = Some(self.courier.stamped(response.header));
                Ok(Response::new(LeaseRevokeResponse { header }))
            }
            _ => Err(Status::internal("an answer of another kind")),
        }
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let service = self.clone();
        let (metadata, _, requests) = request.into_parts();
        let answers = stream::try_unfold((metadata, requests), move |(metadata, mut requests)| {
            let service = service.clone();
            async move {
                let Some(request) = service.next(&mut requests).await? else { return Ok(None) };
                let answer = service.keep_alive(&metadata, request).await?;
                Ok(Some((answer, (metadata, requests))))
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        self.courier.desk.check(request.metadata(), |access| match request.get_ref() {
            LeaseTimeToLiveRequest { id, keys: true } => access.check_lease_keys(*id),
            _ => access.check_known(),
        })?;
        let request = request.into_inner();
        let mut response = self
            .courier
            .run(
                || self.keeper.time_to_live(&request),
                |channel, patience| async move {
                    let request = hop(request, patience);
                    Ok(ControlHopClient::new(channel).time_to_live(request).await?.into_inner())
                },
            )
            .await?;
        response.header = Some(self.courier.stamped(response.header));
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        self.courier.desk.check(request.metadata(), |access| access.check_known())?;
        let mut response = self
            .courier
            .run(
                || self.keeper.leases(),
                |channel, patience| async move {
                    let request = hop(LeaseLeasesRequest {}, patience);
                    Ok(ControlHopClient::new(channel).leases(request).await?.into_inner())
                },
            )
            .await?;
        response.header = Some(self.courier.stamped(response.header));
        Ok(Response::new(response))
    }
}
