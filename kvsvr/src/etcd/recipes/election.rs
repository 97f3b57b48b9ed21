//! The Election service.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    Answers, Claim, Hands, Tools, created_at, delete, first_by_creation, found, key_of, one, prefix_of, put,
    read,
};
use crate::wire::election::election_server::Election;
use crate::wire::election::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use crate::wire::etcdserverpb::{ResponseHeader, TxnRequest};
use crate::wire::mvccpb::KeyValue;
use crate::wire::mvccpb::event::EventType;

/// Leaders that wait for a slow observer.
const LEADERS_WAITING_MAX: usize = 16;

/// etcd's Election service.
#[derive(Clone)]
pub struct ElectionService {
    tools: Tools,
}

impl ElectionService {
    /// A service over these tools.
    pub(crate) fn new(tools: Tools) -> ElectionService {
        ElectionService { tools }
    }

    fn hands<T>(&self, request: &Request<T>) -> Hands {
        Hands { tools: self.tools.clone(), metadata: request.metadata().clone() }
    }
}

fn not_leader() -> Status {
    Status::unknown("election: not leader")
}

fn missing_leader() -> Status {
    Status::unknown("\"leader\" field must be provided")
}

async fn proclaim(hands: &Hands, leader: &LeaderKey, value: Bytes) -> Result<ResponseHeader, Status> {
    let request = TxnRequest {
        compare: vec![created_at(&leader.key, leader.rev)],
        success: vec![put(&leader.key, value, leader.lease)],
        failure: Vec::new(),
    };
    let response = hands.txn(request).await?;
    if !response.succeeded {
        return Err(not_leader());
    }
    Ok(response.header.unwrap_or_default())
}

async fn campaign(
    hands: &Hands,
    name: Bytes,
    lease: i64,
    value: Bytes,
) -> Result<(ResponseHeader, LeaderKey), Status> {
    let lease = hands.lease(lease).await?;
    let prefix = prefix_of(&name);
    let key = key_of(&prefix, lease);
    let claim = Claim::new(hands, &key);
    let request = TxnRequest {
        compare: vec![created_at(&key, 0)],
        success: vec![put(&key, value.clone(), lease)],
        failure: vec![read(one(&key))],
    };
    let stood = match hands.txn(request).await {
        Ok(stood) => stood,
        Err(status) if crate::outcome::not_done(&status) => {
            claim.earn();
            return Err(status);
        }
        Err(status) => return Err(status),
    };
    let header = stood.header.unwrap_or_default();
    let mut leader = LeaderKey { name, key: key.clone(), rev: header.revision, lease };
    if let Some(pair) = found(&stood.responses, 0).filter(|_| !stood.succeeded) {
        leader.rev = pair.create_revision;
        if pair.value != value {
            proclaim(hands, &leader, value).await?;
        }
    }
    hands.wait_for_earlier(&prefix, leader.rev - 1).await?;
    claim.earn();
    Ok((header, leader))
}

/// Tells one leader after the other until nobody listens.
async fn observe(
    hands: &Hands,
    name: &[u8],
    told: &mpsc::Sender<Result<LeaderResponse, Status>>,
) -> Result<(), Status> {
    let prefix = prefix_of(name);
    let tell = async |header: ResponseHeader, kv: KeyValue| {
        told.send(Ok(LeaderResponse { header: Some(header), kv: Some(kv) })).await.is_ok()
    };
    loop {
        let current = hands.range(first_by_creation(&prefix)).await?;
        let mut header = current.header.unwrap_or_default();
        let leader = match current.kvs.into_iter().next() {
            Some(leader) => leader,
            None => {
                let end = replica::machine::prefix_end(&prefix);
                let mut events = hands.events(prefix.clone(), end, header.revision + 1)?;
                loop {
                    let event = events.next().await?;
                    if let Some(pair) = event.kv.filter(|_| event.r#type == EventType::Put as i32) {
                        header.revision = pair.mod_revision;
                        break pair;
                    }
                }
            }
        };
        let (key, from) = (leader.key.clone(), header.revision + 1);
        if !tell(header, leader).await {
            return Ok(());
        }
        let mut events = hands.events(key, Bytes::new(), from)?;
        loop {
            let event = events.next().await?;
            let Some(pair) = event.kv.filter(|_| event.r#type == EventType::Put as i32) else { break };
            header.revision = pair.mod_revision;
            if !tell(header, pair).await {
                return Ok(());
            }
        }
    }
}

#[tonic::async_trait]
impl Election for ElectionService {
    type ObserveStream = Answers<LeaderResponse>;

    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let hands = self.hands(&request);
        let CampaignRequest { name, lease, value } = request.into_inner();
        let (header, leader) = campaign(&hands, name, lease, value).await?;
        Ok(Response::new(CampaignResponse { header: Some(header), leader: Some(leader) }))
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let hands = self.hands(&request);
        let ProclaimRequest { leader, value } = request.into_inner();
        let header = proclaim(&hands, &leader.ok_or_else(missing_leader)?, value).await?;
        Ok(Response::new(ProclaimResponse { header: Some(header) }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let hands = self.hands(&request);
        let current = hands.range(first_by_creation(&prefix_of(&request.into_inner().name))).await?;
        let leader = current.kvs.into_iter().next().ok_or_else(|| Status::unknown("election: no leader"))?;
        Ok(Response::new(LeaderResponse { header: current.header, kv: Some(leader) }))
    }

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let hands = self.hands(&request);
        let name = request.into_inner().name;
        let (told, waiting) = mpsc::channel(LEADERS_WAITING_MAX);
        tokio::spawn(async move {
            let result = tokio::select! {
                result = observe(&hands, &name, &told) => result,
                () = told.closed() => Ok(()),
            };
            if let Err(status) = result {
                // Who does not listen any more does not miss it.
                let _ = told.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(waiting))))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let hands = self.hands(&request);
        let leader = request.into_inner().leader.ok_or_else(missing_leader)?;
        // Who does not lead has nothing to give up: that is fine, as at etcd.
        let response = hands
            .txn(TxnRequest {
                compare: vec![created_at(&leader.key, leader.rev)],
                success: vec![delete(&leader.key)],
                failure: Vec::new(),
            })
            .await?;
        Ok(Response::new(ResignResponse { header: response.header }))
    }
}
