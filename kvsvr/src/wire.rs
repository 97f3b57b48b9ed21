//! The protocol messages, as generated: etcd's (`proto/etcd`) and our own (`proto/kvsvr.proto`).
//!
//! Invariant: nothing is written by hand here; the modules nest as the packages do.
//!
//! Not here: meaning. The machines and the services give these messages theirs.

#![allow(missing_docs, clippy::all, clippy::pedantic)] // Generated; the .proto files are the documentation.

/// etcd's key-value pair.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// etcd's requests and answers.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// etcd's permissions.
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// etcd's lock service.
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

/// etcd's election service.
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// gRPC's health checking.
pub mod grpc_health {
    tonic::include_proto!("grpc.health.v1");
}

/// The descriptors of everything here, encoded, for reflection.
#[cfg(feature = "server")]
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Our packages.
pub mod hongbao {
    /// KvSvr's.
    pub mod kvsvr {
        /// The commands and the native service.
        pub mod v1 {
            tonic::include_proto!("hongbao.kvsvr.v1");
        }
    }
}

pub use hongbao::kvsvr::v1 as native;
pub use v3electionpb as election;
pub use v3lockpb as lock;
