//! Assembles this crate's services over a node's members of the groups.
//!
//! ```text
//!   peers port   native DataKv (system group, data groups) + etcd KV (the end of a forward)
//!   etcd port    etcd KV, Watch, Cluster, Maintenance
//! ```
//! Invariant: both ports serve the same members.
//!
//! Not here: ports, listeners, shutting down; the binary owns those.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::service::Routes;
use world::net::Net;

use crate::control_port::ControlPort;
use crate::etcd::{ClusterService, Identity, KvService, MaintenanceService, MemberInfo, WatchService};
use crate::group::KvGroup;
use crate::limits::{ANSWER_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::native::NativeService;
use crate::peers::Peers;
use crate::wire::etcdserverpb::cluster_server::ClusterServer;
use crate::wire::etcdserverpb::kv_server::KvServer as EtcdKvServer;
use crate::wire::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::wire::etcdserverpb::watch_server::WatchServer;
use crate::wire::native::data_kv_server::DataKvServer;

/// The KV's services of one node.
#[derive(Clone)]
pub struct KvServer {
    native: NativeService,
    kv: KvService,
    watch: WatchService,
    cluster: ClusterService,
    maintenance: MaintenanceService,
    stopping: watch::Sender<bool>,
}

impl KvServer {
    /// Services over the node's member of each group: the system group, where the cluster keeps its
    /// own records; the control group, which is etcd's clients'; and the data groups in order of
    /// their numbers (group 1 first). `members` names every node of the control group.
    pub fn new(
        identity: Identity,
        members: Vec<MemberInfo>,
        net: Arc<dyn Net>,
        system: Arc<dyn KvGroup>,
        control: Arc<dyn KvGroup>,
        data: Vec<Arc<dyn KvGroup>>,
    ) -> KvServer {
        let (system, port) = (ControlPort::new(system), ControlPort::new(control));
        let addresses = members.iter().map(|member| (member.node, member.peer_address.clone()));
        let peers = Arc::new(Peers::new(net, addresses));
        let stopping = watch::Sender::new(false);
        let system_watch = WatchService::new(system.clone(), identity.clone(), stopping.clone());
        KvServer {
            native: NativeService::new(system, system_watch, data),
            kv: KvService::new(port.clone(), identity.clone(), peers),
            watch: WatchService::new(port.clone(), identity.clone(), stopping.clone()),
            cluster: ClusterService::new(port.clone(), identity.clone(), members),
            maintenance: MaintenanceService::new(port, identity),
            stopping,
        }
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
        routes.add_service(native).add_service(self.kv_service())
    }

    /// What the etcd port serves.
    #[must_use]
    pub fn etcd_routes(&self) -> Routes {
        let watch = WatchServer::new(self.watch.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(usize::MAX);
        Routes::new(self.kv_service())
            .add_service(watch)
            .add_service(ClusterServer::new(self.cluster.clone()))
            .add_service(MaintenanceServer::new(self.maintenance.clone()))
    }

    fn kv_service(&self) -> EtcdKvServer<KvService> {
        EtcdKvServer::new(self.kv.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(usize::MAX)
    }
}
