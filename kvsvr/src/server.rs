//! Assembles this crate's services over a node's members of the groups.
//!
//! ```text
//!   peers port   native DataKv, etcd KV and ControlHop (the end of a forward)
//!   etcd port    etcd KV, Lease, Cluster, Maintenance
//! ```
//! Invariant: both ports serve the same members.
//!
//! Not here: ports, listeners, shutting down; the binary owns those.

use std::sync::Arc;

use tonic::service::Routes;
use world::Clock;
use world::net::Net;

use crate::admin::GroupAdmin;
use crate::control_port::ControlPort;
use crate::etcd::courier::Courier;
use crate::etcd::{
    ClusterService, HopService, Identity, KvService, LeaseService, MaintenanceService, MemberInfo, StateBytes,
};
use crate::group::KvGroup;
use crate::lease::LeaseKeeper;
use crate::limits::{ANSWER_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::native::NativeService;
use crate::peers::Peers;
use crate::wire::etcdserverpb::cluster_server::ClusterServer;
use crate::wire::etcdserverpb::kv_server::KvServer as EtcdKvServer;
use crate::wire::etcdserverpb::lease_server::LeaseServer;
use crate::wire::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::wire::native::control_hop_server::ControlHopServer;
use crate::wire::native::data_kv_server::DataKvServer;

/// The KV's services of one node.
#[derive(Clone)]
pub struct KvServer {
    native: NativeService,
    kv: KvService,
    cluster: ClusterService,
    maintenance: MaintenanceService,
    lease: LeaseService,
    hop: HopService,
    keeper: Arc<LeaseKeeper>,
}

impl KvServer {
    /// Services over the node's member of the control group and of each data group, in order of
    /// their numbers (group 1 first). `members` names every node of the control group;
    /// `state_bytes` tells how much room the node's state takes.
    pub fn new(
        identity: Identity,
        members: Vec<MemberInfo>,
        net: Arc<dyn Net>,
        clock: Arc<dyn Clock>,
        control: Arc<dyn GroupAdmin>,
        data: Vec<Arc<dyn KvGroup>>,
        state_bytes: StateBytes,
    ) -> KvServer {
        let port = ControlPort::new(Arc::clone(&control) as Arc<dyn KvGroup>);
        let addresses = members.iter().map(|member| (member.node, member.peer_address.clone()));
        let peers = Arc::new(Peers::new(net, addresses));
        let keeper = LeaseKeeper::new(port.clone(), identity.node, clock);
        let courier = Courier { port: port.clone(), identity: identity.clone(), peers: Arc::clone(&peers) };
        KvServer {
            lease: LeaseService::new(courier.clone(), Arc::clone(&keeper)),
            hop: HopService::new(port.clone(), Arc::clone(&keeper)),
            keeper,
            native: NativeService::new(port.clone(), data),
            kv: KvService::new(port.clone(), identity, peers),
            cluster: ClusterService::new(courier.clone(), Arc::clone(&control), members),
            maintenance: MaintenanceService::new(courier, control, state_bytes),
        }
    }

    /// What has to run beside the services for as long as they serve: it ends leases.
    pub async fn run(self) {
        self.keeper.run().await;
    }

    /// Adds what the peers port serves.
    #[must_use]
    pub fn peer_routes(&self, routes: Routes) -> Routes {
        let native = DataKvServer::new(self.native.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .max_encoding_message_size(usize::MAX);
        let hop = ControlHopServer::new(self.hop.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        routes.add_service(native).add_service(self.kv_service()).add_service(hop)
    }

    /// What the etcd port serves.
    #[must_use]
    pub fn etcd_routes(&self) -> Routes {
        Routes::new(self.kv_service())
            .add_service(LeaseServer::new(self.lease.clone()))
            .add_service(ClusterServer::new(self.cluster.clone()))
            .add_service(MaintenanceServer::new(self.maintenance.clone()))
    }

    fn kv_service(&self) -> EtcdKvServer<KvService> {
        EtcdKvServer::new(self.kv.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(usize::MAX)
    }
}
