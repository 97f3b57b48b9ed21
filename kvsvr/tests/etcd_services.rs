//! The etcd services as a client meets them: over gRPC on loopback, at the leader and at followers.
#![cfg(feature = "server")]

mod services;
