//! Three members of the control group over one machine in memory, and their services on loopback:
//! every way a request can take through followers and leaders, without Raft's time.
//!
//! ```text
//!   client -> etcd port of a1, b1, c1 -> services -> peers port of the leader -> one machine
//! ```
//! Invariant: exactly one member leads, or none; a new leader begins a new term.
//!
//! Not here: members that lag behind. Tests of the replica have those.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use replica::engine::View;
use replica::error::{ProposeError, ReadError};
use replica::members::MemberError;
use replica::transfer::TransferError;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::{Channel, Server};
use world::net::TcpNet;
use world::{Clock, NodeId};

use super::{LocalMachine, MemoryView};
use crate::admin::{ChangeEnd, GroupAdmin, MemberChanges, Members};
use crate::etcd::{Identity, MemberInfo};
use crate::group::{KvGroup, Standing};
use crate::machine::control::ControlMachine;
use crate::quota::Quota;
use crate::server::{KvGroups, KvServer};

/// The machine, and who leads it.
pub struct Shared {
    machine: RwLock<LocalMachine<ControlMachine>>,
    lead: Mutex<(u64, Option<NodeId>)>,
    applied: watch::Sender<u64>,
}

impl Shared {
    /// An empty group that `leader` leads in term 1.
    #[must_use]
    pub fn led_by(leader: NodeId) -> Arc<Shared> {
        let machine = RwLock::new(LocalMachine::new(ControlMachine));
        let applied = watch::Sender::new(0);
        Arc::new(Shared { machine, lead: Mutex::new((1, Some(leader))), applied })
    }

    /// Makes another member lead, or nobody. A leader begins a new term.
    pub fn elect(&self, leader: Option<NodeId>) {
        let mut lead = self.lead.lock();
        lead.0 += u64::from(leader.is_some());
        lead.1 = leader;
    }

    /// The group as one of its members.
    pub fn member(self: &Arc<Shared>, node: NodeId) -> Arc<Member> {
        Arc::new(Member { shared: Arc::clone(self), node })
    }

    /// What is stored.
    #[must_use]
    pub fn state(&self) -> MemoryView {
        self.machine.read().view().clone()
    }

    /// Applies a command as an entry of this leader and term, however late it comes.
    ///
    /// # Panics
    /// When the machine gives up.
    pub fn apply_from(&self, leader: NodeId, term: u64, command: &Bytes) -> Bytes {
        let (reply, applied) = {
            let mut machine = self.machine.write();
            (machine.apply_from(leader, term, command), machine.applied())
        };
        self.applied.send_replace(applied);
        reply.expect("memory does not fail")
    }
}

/// One member.
pub struct Member {
    shared: Arc<Shared>,
    node: NodeId,
}

impl Member {
    fn leads(&self) -> Result<u64, Option<NodeId>> {
        match *self.shared.lead.lock() {
            (term, Some(leader)) if leader == self.node => Ok(term),
            (_, hint) => Err(hint),
        }
    }
}

#[async_trait]
impl KvGroup for Member {
    async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        let term = self.leads().map_err(|hint| ProposeError::NotLeader { hint })?;
        Ok(self.shared.apply_from(self.node, term, &command))
    }

    async fn propose_attached(&self, _command: Bytes, _content: Bytes) -> Result<Bytes, ProposeError> {
        Err(ProposeError::Refused("nothing is attached to commands of the control group".to_owned()))
    }

    async fn read_barrier(&self) -> Result<(), ReadError> {
        self.leads().map(|_| ()).map_err(|hint| ReadError::NotLeader { hint })
    }

    async fn read_barrier_anywhere(&self) -> Result<(), ReadError> {
        match *self.shared.lead.lock() {
            (_, Some(_)) => Ok(()),
            (_, None) => Err(ReadError::NotLeader { hint: None }),
        }
    }

    fn applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    fn read(&self, visit: &mut dyn FnMut(&dyn View)) {
        visit(self.shared.machine.read().view());
    }

    fn read_long(&self, visit: &mut dyn FnMut(&dyn View)) {
        visit(&self.shared.state());
    }

    fn standing(&self) -> Standing {
        let (term, leader) = *self.shared.lead.lock();
        let applied = self.shared.machine.read().applied();
        Standing { leader, term, last_index: applied, committed_index: applied, applied_index: applied }
    }
}

#[async_trait]
impl GroupAdmin for Member {
    async fn checkpoint(&self) -> Result<(), ReadError> {
        Ok(())
    }

    fn members(&self) -> Members {
        Members { voters: nodes().to_vec(), learners: Vec::new() }
    }

    async fn transfer_leader(&self, to: NodeId) -> Result<(), TransferError> {
        self.leads().map_err(|hint| TransferError::NotLeader { hint })?;
        if !nodes().contains(&to) {
            return Err(MemberError::NotVoter { node: to }.into());
        }
        self.shared.elect(Some(to));
        Ok(())
    }
}

/// Three members that all answer: none is removed, none added.
pub struct NoChanges;

impl NoChanges {
    fn refused() -> Result<(), ChangeEnd> {
        Err(ChangeEnd::Refused("all three answer".to_owned()))
    }
}

#[async_trait]
impl MemberChanges for NoChanges {
    async fn remove_voter(&self, _: NodeId) -> Result<(), ChangeEnd> {
        NoChanges::refused()
    }

    async fn remove_learner(&self, _: NodeId) -> Result<(), ChangeEnd> {
        NoChanges::refused()
    }

    async fn add_learner(&self, _: NodeId) -> Result<(), ChangeEnd> {
        NoChanges::refused()
    }

    async fn promote(&self, _: NodeId) -> Result<(), ChangeEnd> {
        NoChanges::refused()
    }
}

/// a1, b1 and c1.
///
/// # Panics
/// Never: these are names of nodes.
#[must_use]
pub fn nodes() -> [NodeId; 3] {
    ["a1", "b1", "c1"].map(|name| name.parse().expect("a node name"))
}

/// Three members that serve on loopback until they are dropped.
pub struct Trio {
    /// The machine and who leads it; a1 at first.
    pub shared: Arc<Shared>,
    servers: Vec<KvServer>,
    etcd: Vec<String>,
    tasks: Vec<JoinHandle<()>>,
}

impl Trio {
    /// Starts them; time is read off `clock`.
    ///
    /// # Panics
    /// When loopback has no free ports.
    pub async fn start(clock: Arc<dyn Clock>) -> Trio {
        Trio::start_with(clock, Quota::new(0)).await
    }

    /// The same, and every member lets so much be written.
    ///
    /// # Panics
    /// When loopback has no free ports.
    pub async fn start_with(clock: Arc<dyn Clock>, quota: Quota) -> Trio {
        let shared = Shared::led_by(nodes()[0]);
        let mut members = Vec::new();
        let mut listeners = Vec::new();
        for node in nodes() {
            let (peers, etcd) = (listen().await, listen().await);
            members.push(MemberInfo { node, peer_address: address(&peers), etcd_address: address(&etcd) });
            listeners.push((peers, etcd));
        }
        let mut trio = Trio { shared, servers: Vec::new(), etcd: Vec::new(), tasks: Vec::new() };
        for (info, (peers, etcd)) in members.iter().zip(listeners) {
            let identity = Identity { cluster_id: 0xC1, node: info.node };
            let control = trio.shared.member(info.node);
            // Nobody here asks for the cluster's own records.
            let system = trio.shared.member(info.node);
            let net = Arc::new(TcpNet);
            let bytes = Arc::new(|| 4_096);
            let server = KvServer::new(
                identity,
                members.clone(),
                net,
                Arc::clone(&clock),
                KvGroups { system, control, data: Vec::new(), changes: Arc::new(NoChanges) },
                bytes,
                quota,
            );
            let routes = server.peer_routes(tonic::service::Routes::default());
            trio.tasks.push(serve(peers, routes.prepare()));
            trio.tasks.push(serve(etcd, server.etcd_port()));
            trio.etcd.push(info.etcd_address.clone());
            trio.tasks.push(tokio::spawn(server.clone().run()));
            trio.servers.push(server);
        }
        trio
    }

    /// A channel to the etcd port of the member with this number: 0 is a1.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn channel(&self, number: usize) -> Channel {
        let url = format!("http://{}", self.etcd[number]);
        Channel::from_shared(url).expect("a URL").connect().await.expect("the member listens")
    }

    /// Ends the streams that would go on for ever, as a node does that stops.
    pub fn end_streams(&self) {
        self.servers.iter().for_each(KvServer::end_streams);
    }

    /// The etcd address of the member with this number.
    #[must_use]
    pub fn etcd_address(&self, number: usize) -> &str {
        &self.etcd[number]
    }
}

impl Drop for Trio {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports")
}

fn address(listener: &TcpListener) -> String {
    listener.local_addr().expect("it listens").to_string()
}

fn serve<S>(listener: TcpListener, service: S) -> JoinHandle<()>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(async move {
        let served = Server::builder().accept_http1(true).serve_with_incoming(service, incoming).await;
        served.expect("the server runs until it is aborted");
    })
}
