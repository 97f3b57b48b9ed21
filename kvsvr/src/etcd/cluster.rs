//! The Cluster service: the control group's members.
//!
//! Here a member is a node that `cluster.toml` names, with its addresses, and a group keeps three
//! of them: two or four voters survive no more losses than one or three fewer. A lost disk is
//! replaced in all of a node's groups at once, by `hongbao kv member replace`. So what etcd does step
//! by step (remove, add, promote) is checked here as etcd checks it, in its order and words, and a
//! step that would leave another number of voters ends as it does at an etcd that fears for its
//! quorum. `docs/kvsvr-members.md` is the table of what is answered to what.
//!
//! Invariant: nothing here changes who votes, and no call is acknowledged that changed nothing it was to change.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use world::NodeId;

use super::courier::Courier;
use super::{MemberInfo, member_id, node_of};
use crate::admin::GroupAdmin;
use crate::control_port::read_error;
use crate::wire::etcdserverpb::cluster_server::Cluster;
use crate::wire::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse, ResponseHeader,
};

/// etcd's Cluster service.
#[derive(Clone)]
pub struct ClusterService {
    courier: Courier,
    group: Arc<dyn GroupAdmin>,
    nodes: Arc<Vec<MemberInfo>>,
}

impl ClusterService {
    /// A service over the local member; `nodes` are those that `cluster.toml` names.
    pub(crate) fn new(
        courier: Courier,
        group: Arc<dyn GroupAdmin>,
        nodes: Vec<MemberInfo>,
    ) -> ClusterService {
        ClusterService { courier, group, nodes: Arc::new(nodes) }
    }

    fn check_admin<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.courier.desk.check(request.metadata(), |access| access.check_admin()).map(|_| ())
    }

    fn header(&self) -> Option<ResponseHeader> {
        // As at etcd, this header tells no revision.
        Some(self.courier.stamped(None))
    }

    fn members(&self) -> Vec<Member> {
        let members = self.group.members();
        let voters = members.voters.into_iter().map(|node| self.member(node, false));
        let learners = members.learners.into_iter().map(|node| self.member(node, true));
        voters.chain(learners).collect()
    }

    fn member(&self, node: NodeId, is_learner: bool) -> Member {
        let known = self.nodes.iter().find(|info| info.node == node);
        Member {
            id: member_id(node),
            name: node.to_string(),
            peer_ur_ls: known.map(|info| url(&info.peer_address)).into_iter().collect(),
            client_ur_ls: known.map(|info| url(&info.etcd_address)).into_iter().collect(),
            is_learner,
        }
    }

    fn find(&self, id: u64) -> Result<Member, Status> {
        let member = self.members().into_iter().find(|member| member.id == id);
        member.filter(|_| node_of(id).is_some()).ok_or_else(not_found)
    }
}

fn url(address: &String) -> String {
    format!("http://{address}")
}

fn not_found() -> Status {
    Status::not_found("etcdserver: member not found")
}

fn bad_urls() -> Status {
    Status::invalid_argument("etcdserver: given member URLs are invalid")
}

fn urls_exist() -> Status {
    Status::failed_precondition("etcdserver: Peer URLs already exists")
}

fn not_enough_started() -> Status {
    Status::failed_precondition("etcdserver: re-configuration failed due to not enough started members")
}

fn shares_url(member: &Member, urls: &[String]) -> bool {
    member.peer_ur_ls.iter().any(|url| urls.contains(url))
}

/// Whether these are URLs a member could be reached at.
fn check_urls(urls: &[String]) -> Result<(), Status> {
    let fits = |url: &String| {
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        rest.and_then(|rest| rest.rsplit_once(':'))
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    if urls.is_empty() || !urls.iter().all(fits) {
        return Err(bad_urls());
    }
    Ok(())
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            let barrier = self.group.read_barrier_anywhere().await;
            barrier.map_err(|error| read_error(error).status())?;
        }
        Ok(Response::new(MemberListResponse { header: self.header(), members: self.members() }))
    }

    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        self.check_admin(&request)?;
        let request = request.into_inner();
        check_urls(&request.peer_ur_ls)?;
        if self.members().iter().any(|member| shares_url(member, &request.peer_ur_ls)) {
            return Err(urls_exist());
        }
        if request.is_learner {
            // The only learner there is, for a while, is the disk that replaces a lost one.
            return Err(Status::failed_precondition("etcdserver: too many learner members in cluster"));
        }
        Err(not_enough_started())
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        self.check_admin(&request)?;
        self.find(request.into_inner().id)?;
        Err(not_enough_started())
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        self.check_admin(&request)?;
        let request = request.into_inner();
        check_urls(&request.peer_ur_ls)?;
        let member = self.find(request.id)?;
        let others = self.members().into_iter().filter(|other| other.id != member.id);
        if others.into_iter().any(|other| shares_url(&other, &request.peer_ur_ls)) {
            return Err(urls_exist());
        }
        if member.peer_ur_ls != request.peer_ur_ls {
            // Addresses stand in cluster.toml, the same on all nodes.
            return Err(bad_urls());
        }
        Ok(Response::new(MemberUpdateResponse { header: self.header(), members: self.members() }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        self.check_admin(&request)?;
        if self.find(request.into_inner().id)?.is_learner {
            // It will vote when it has caught up: the replacement that added it sees to that.
            let waits = "etcdserver: can only promote a learner member which is in sync with leader";
            return Err(Status::failed_precondition(waits));
        }
        Err(Status::failed_precondition("etcdserver: can only promote a learner member"))
    }
}
