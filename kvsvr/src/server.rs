//! Assembles this crate's services over a node's members of the groups.
//!
//! ```text
//!   peers port   native DataKv (system group, data groups), ControlHop (the end of a forward)
//!   etcd port    etcd KV, Watch, Lease, Auth, Cluster, Maintenance, Lock, Election; KvStream;
//!                gRPC health and reflection; HTTP /health /version /metrics
//! ```
//! Invariant: both ports serve the same members.
//!
//! Not here: ports, listeners, shutting down; the binary owns those.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::service::Routes;
use world::Clock;
use world::net::Net;

use crate::admin::{GroupAdmin, MemberChanges};
use crate::auth::AuthDesk;
use crate::control_port::ControlPort;
use crate::etcd::courier::Courier;
use crate::etcd::forwarder::Forwarder;
use crate::etcd::http::{Pages, add_pages};
use crate::etcd::metrics::Metrics;
use crate::etcd::{
    AuthService, ClusterService, ElectionService, EtcdPort, HealthService, HopService, Identity, KvService,
    LeaseService, LockService, MaintenanceService, MemberInfo, StateBytes, StreamService, Tools,
    WatchService,
};
use crate::group::KvGroup;
use crate::lease::LeaseKeeper;
use crate::limits::{ANSWER_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::native::NativeService;
use crate::peers::Peers;
use crate::quota::Quota;
use crate::wire::DESCRIPTORS;
use crate::wire::election::election_server::ElectionServer;
use crate::wire::etcdserverpb::auth_server::AuthServer;
use crate::wire::etcdserverpb::cluster_server::ClusterServer;
use crate::wire::etcdserverpb::kv_server::KvServer as EtcdKvServer;
use crate::wire::etcdserverpb::lease_server::LeaseServer;
use crate::wire::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::wire::etcdserverpb::watch_server::WatchServer;
use crate::wire::grpc_health::health_server::HealthServer;
use crate::wire::lock::lock_server::LockServer;
use crate::wire::native::control_hop_server::ControlHopServer;
use crate::wire::native::data_kv_server::DataKvServer;
use crate::wire::native::kv_stream_server::KvStreamServer;

/// The KV's services of one node.
#[derive(Clone)]
pub struct KvServer {
    native: NativeService,
    kv: KvService,
    stream: StreamService,
    watch: WatchService,
    cluster: ClusterService,
    maintenance: MaintenanceService,
    auth: AuthService,
    lease: LeaseService,
    lock: LockService,
    election: ElectionService,
    hop: HopService,
    pages: Pages,
    keeper: Arc<LeaseKeeper>,
    stopping: watch::Sender<bool>,
}

/// A node's members of the groups.
pub struct KvGroups {
    /// Where the cluster keeps its own records.
    pub system: Arc<dyn KvGroup>,
    /// Group 0: etcd's clients'.
    pub control: Arc<dyn GroupAdmin>,
    /// The data groups in order of their numbers.
    pub data: Vec<Arc<dyn KvGroup>>,
    /// Changes their members.
    pub changes: Arc<dyn MemberChanges>,
}

impl KvServer {
    /// Services over the node's groups. `members` names every node of the control group;
    /// `state_bytes` tells how much room the node's state takes, `quota` how much etcd's clients may take.
    pub fn new(
        identity: Identity,
        members: Vec<MemberInfo>,
        net: Arc<dyn Net>,
        clock: Arc<dyn Clock>,
        groups: KvGroups,
        state_bytes: StateBytes,
        quota: Quota,
    ) -> KvServer {
        let KvGroups { system, control, data, changes } = groups;
        let system = ControlPort::new(system);
        let port = ControlPort::new(Arc::clone(&control) as Arc<dyn KvGroup>);
        let addresses = members.iter().map(|member| (member.node, member.peer_address.clone()));
        let peers = Arc::new(Peers::new(net, addresses));
        let stopping = watch::Sender::new(false);
        let system_watch = WatchService::new(system.clone(), identity.clone(), stopping.clone());
        let keeper = LeaseKeeper::new(port.clone(), identity.node, Arc::clone(&clock));
        let desk = AuthDesk::new(port.clone(), clock);
        let courier = Courier {
            port: port.clone(),
            identity: identity.clone(),
            forwarder: Forwarder::new(Arc::clone(&peers)),
            peers,
            desk: desk.clone(),
            quota,
        };
        let kv = KvService::new(courier.clone());
        let health = HealthService::new(port.clone(), kv.clone(), stopping.subscribe());
        let metrics = Metrics::new(
            identity.node,
            Arc::clone(&control),
            Arc::clone(&keeper),
            Arc::clone(&state_bytes),
            quota,
        );
        let tools = Tools {
            kv,
            watch: WatchService::new(port.clone(), identity, stopping.clone()).guarded_by(desk),
            lease: LeaseService::new(courier.clone(), Arc::clone(&keeper), stopping.subscribe()),
        };
        KvServer {
            native: NativeService::new(system, system_watch, data),
            lock: LockService::new(tools.clone()),
            election: ElectionService::new(tools.clone()),
            stream: StreamService::new(tools.kv.clone(), stopping.subscribe()),
            kv: tools.kv,
            watch: tools.watch,
            lease: tools.lease,
            hop: HopService::new(port, Arc::clone(&keeper), stopping.subscribe()),
            auth: AuthService::new(courier.clone()),
            pages: Pages { health, metrics },
            keeper,
            cluster: ClusterService::new(courier.clone(), Arc::clone(&control), members, changes),
            maintenance: MaintenanceService::new(courier, control, state_bytes),
            stopping,
        }
    }

    /// What has to run beside the services for as long as they serve: it ends leases.
    pub async fn run(self) {
        tokio::join!(self.keeper.run(), self.pages.metrics.run());
    }

    /// Ends the streams that would go on for ever; a server cannot stop in good order before.
    pub fn end_streams(&self) {
        self.stopping.send_replace(true);
    }

    /// Adds what the peers port serves.
    #[must_use]
    pub fn peer_routes(&self, routes: Routes) -> Routes {
        let native = DataKvServer::new(self.native.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .max_encoding_message_size(usize::MAX);
        let hop = ControlHopServer::new(self.hop.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        routes.add_service(native).add_service(hop)
    }

    /// What the etcd port serves; its server has to accept HTTP/1 as well.
    #[must_use]
    pub fn etcd_port(&self) -> EtcdPort {
        let watch = WatchServer::new(self.watch.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(usize::MAX);
        let stream = KvStreamServer::new(self.stream.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (reflection, reflection_alpha) = reflection();
        let routes = Routes::new(self.kv_service())
            .add_service(HealthServer::new(self.pages.health.clone()))
            .add_service(reflection)
            .add_service(reflection_alpha)
            .add_service(watch)
            .add_service(stream)
            .add_service(AuthServer::new(self.auth.clone()))
            .add_service(LeaseServer::new(self.lease.clone()))
            .add_service(LockServer::new(self.lock.clone()))
            .add_service(ElectionServer::new(self.election.clone()))
            .add_service(ClusterServer::new(self.cluster.clone()))
            .add_service(MaintenanceServer::new(self.maintenance.clone()));
        let router = add_pages(routes.into_axum_router(), self.pages.clone()).into();
        EtcdPort::new(self.kv_service(), Arc::clone(&self.pages.metrics), router)
    }

    fn kv_service(&self) -> EtcdKvServer<KvService> {
        EtcdKvServer::new(self.kv.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(usize::MAX)
    }
}

/// The services that reflection tells of: those of the etcd port.
const REFLECTED: [&str; 9] = [
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Auth",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "v3lockpb.Lock",
    "v3electionpb.Election",
    "grpc.health.v1.Health",
];

/// Reflection in both versions that tools ask for.
fn reflection() -> (
    tonic_reflection::server::v1::ServerReflectionServer<impl tonic_reflection::server::v1::ServerReflection>,
    tonic_reflection::server::v1alpha::ServerReflectionServer<
        impl tonic_reflection::server::v1alpha::ServerReflection,
    >,
) {
    let builder = || {
        let builder =
            tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
        REFLECTED.iter().fold(builder, |builder, service| builder.with_service_name(*service))
    };
    let known = "the descriptors were encoded when this was compiled";
    (builder().build_v1().expect(known), builder().build_v1alpha().expect(known))
}
