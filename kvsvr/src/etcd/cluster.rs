//! The Cluster service: the list of members, as configured.
//!
//! Not here: changing members; that is an operator's act with its own guards.

use tonic::{Request, Response, Status};

use super::{Identity, MemberInfo, member_id};
use crate::control_port::ControlPort;
use crate::wire::etcdserverpb::cluster_server::Cluster;
use crate::wire::etcdserverpb::{Member, MemberListRequest, MemberListResponse, ResponseHeader};

/// etcd's Cluster service.
#[derive(Clone)]
pub struct ClusterService {
    port: ControlPort,
    identity: Identity,
    members: Vec<MemberInfo>,
}

impl ClusterService {
    /// A service that tells of these members.
    pub fn new(port: ControlPort, identity: Identity, members: Vec<MemberInfo>) -> ClusterService {
        ClusterService { port, identity, members }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        _: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        // As at etcd, this header tells no revision.
        let mut header = ResponseHeader::default();
        self.identity.fill(&mut header, &self.port);
        let members = self.members.iter().map(|member| Member {
            id: member_id(member.node),
            name: member.node.to_string(),
            peer_ur_ls: vec![format!("http://{}", member.peer_address)],
            client_ur_ls: vec![format!("http://{}", member.etcd_address)],
            is_learner: false,
        });
        Ok(Response::new(MemberListResponse { header: Some(header), members: members.collect() }))
    }
}
