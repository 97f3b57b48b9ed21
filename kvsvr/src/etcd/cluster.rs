//! The Cluster service: the control group's members, which are those of every group.
//!
//! ```text
//!   remove a member whose disk is lost --> two vote
//!   add its node, on an empty disk     --> a learner --(caught up)--> promote: three vote again
//! ```
//! Here a member is a node that `cluster.toml` names, with its addresses, and three vote: what is added is the
//! new disk of a node that was removed. What would make it two or four for longer is answered as an etcd that
//! fears for its quorum answers it. Each check is made in etcd's order and told in its words;
//! `docs/kvsvr-members.md` is the table.
//!
//! Invariant: a call is acknowledged when every group is as it wanted. What one that was cut off left open, the
//! next of the three goes on with: promoting a disk removes and adds what is still to be removed and added.
//!
//! Not here: how a change is driven through all groups ([`crate::admin::MemberChanges`]).

use std::sync::Arc;

use tonic::{Request, Response, Status};
use world::NodeId;

use super::courier::Courier;
use super::{MemberInfo, member_id, node_of};
use crate::admin::{ChangeEnd, GroupAdmin, MemberChanges};
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
    changes: Arc<dyn MemberChanges>,
}

impl ClusterService {
    /// A service over the local member; `nodes` are those that `cluster.toml` names.
    pub(crate) fn new(
        courier: Courier,
        group: Arc<dyn GroupAdmin>,
        nodes: Vec<MemberInfo>,
        changes: Arc<dyn MemberChanges>,
    ) -> ClusterService {
        ClusterService { courier, group, nodes: Arc::new(nodes), changes }
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

    /// After a change: this member may hear of it later than who made it.
    async fn members_now(&self) -> Vec<Member> {
        if let Err(error) = self.group.read_barrier_anywhere().await {
            tracing::debug!(%error, "the members are told as this one knows them");
        }
        self.members()
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

fn not_in_sync() -> Status {
    Status::failed_precondition("etcdserver: can only promote a learner member which is in sync with leader")
}

/// What is not through is what etcd calls timed out: its clients know that it may be repeated.
fn timed_out(reason: &str) -> Status {
    tracing::warn!(reason, "a change of members is not through");
    Status::unavailable("etcdserver: request timed out")
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
        let added = self.nodes.iter().find(|info| request.peer_ur_ls == [url(&info.peer_address)]);
        let Some(node) = added.map(|info| info.node) else {
            // Three nodes hold the groups, and cluster.toml names them.
            return Err(match request.is_learner {
                true => Status::failed_precondition("etcdserver: too many learner members in cluster"),
                false => not_enough_started(),
            });
        };
        self.changes.add_learner(node).await.map_err(|end| match end {
            ChangeEnd::Refused(reason) => {
                tracing::warn!(reason, "no member is added");
                not_enough_started()
            }
            // The cure stands in it: the node has to run before it is added.
            ChangeEnd::Open(reason) => Status::unavailable(reason),
        })?;
        // It is told as what it is: a learner still when it is not filled yet.
        let votes = !request.is_learner && self.changes.promote(node).await.is_ok();
        let member = Some(self.member(node, !votes));
        let members = self.members_now().await;
        Ok(Response::new(MemberAddResponse { header: self.header(), member, members }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        self.check_admin(&request)?;
        let id = request.into_inner().id;
        self.find(id)?;
        let node = node_of(id).ok_or_else(not_found)?;
        // The two disks of a node that is being replaced share its id: first goes the one that does not vote.
        let learns = self.members().iter().any(|member| member.id == id && member.is_learner);
        let removed = match learns {
            true => self.changes.remove_learner(node).await,
            false => self.changes.remove_voter(node).await,
        };
        match removed {
            Ok(()) => {
                let members = self.members_now().await;
                Ok(Response::new(MemberRemoveResponse { header: self.header(), members }))
            }
            Err(ChangeEnd::Refused(reason)) => {
                tracing::warn!(reason, "no member is removed");
                Err(not_enough_started())
            }
            Err(ChangeEnd::Open(reason)) => Err(timed_out(&reason)),
        }
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
        let id = request.into_inner().id;
        self.find(id)?;
        let learner = self.members().into_iter().find(|member| member.id == id && member.is_learner);
        let node = learner
            .and_then(|learner| node_of(learner.id))
            .ok_or_else(|| Status::failed_precondition("etcdserver: can only promote a learner member"))?;
        match self.changes.promote(node).await {
            Ok(()) => {
                let members = self.members_now().await;
                Ok(Response::new(MemberPromoteResponse { header: self.header(), members }))
            }
            Err(ChangeEnd::Refused(reason) | ChangeEnd::Open(reason)) => {
                tracing::warn!(reason, "no learner is promoted");
                Err(not_in_sync())
            }
        }
    }
}
