//! The Lock service.

use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::{Claim, Hands, Tools, created_at, first_by_creation, found, key_of, one, prefix_of, put, read};
use crate::wire::etcdserverpb::{ResponseHeader, TxnRequest};
use crate::wire::lock::lock_server::Lock;
use crate::wire::lock::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};

/// etcd's Lock service.
#[derive(Clone)]
pub struct LockService {
    tools: Tools,
}

impl LockService {
    /// A service over these tools.
    pub(crate) fn new(tools: Tools) -> LockService {
        LockService { tools }
    }
}

async fn acquire(hands: &Hands, name: &[u8], lease: i64) -> Result<(ResponseHeader, Bytes), Status> {
    let lease = hands.lease(lease).await?;
    let prefix = prefix_of(name);
    let key = key_of(&prefix, lease);
    let claim = Claim::new(hands, &key);
    let owner = || read(first_by_creation(&prefix));
    let taken = hands
        .txn(TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![put(&key, Bytes::new(), lease), owner()],
            failure: vec![read(one(&key)), owner()],
        })
        .await;
    let taken = match taken {
        Ok(taken) => taken,
        // Whether the key was written is open only when the outcome is.
        Err(status) if crate::outcome::not_done(&status) => {
            claim.earn();
            return Err(status);
        }
        Err(status) => return Err(status),
    };
    let header = taken.header.unwrap_or_default();
    let created = match found(&taken.responses, 0) {
        Some(pair) if !taken.succeeded => pair.create_revision,
        _ => header.revision,
    };
    if found(&taken.responses, 1).is_none_or(|owner| owner.create_revision == created) {
        claim.earn();
        return Ok((header, key));
    }
    hands.wait_for_earlier(&prefix, created - 1).await?;
    // The wait may have outlasted the lease.
    let still = hands.range(one(&key)).await?;
    if still.kvs.is_empty() {
        return Err(Status::unknown("mutex: session is expired"));
    }
    claim.earn();
    Ok((still.header.unwrap_or_default(), key))
}

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let hands = Hands { tools: self.tools.clone(), metadata: request.metadata().clone() };
        let LockRequest { name, lease } = request.into_inner();
        let (header, key) = acquire(&hands, &name, lease).await?;
        Ok(Response::new(LockResponse { header: Some(header), key }))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let hands = Hands { tools: self.tools.clone(), metadata: request.metadata().clone() };
        let header = hands.delete(request.into_inner().key).await?;
        Ok(Response::new(UnlockResponse { header: Some(header) }))
    }
}
