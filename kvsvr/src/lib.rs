//! KvSvr: the quorum key-value store.
//!
//! ```text
//!   etcd clients          our programs (trait api::Kv)
//!        |                        |  client
//!   etcd services          native service            server (feature `server`)
//!        |                   |          |
//!   control group       system group   data groups 1..=D
//!   machine::control    the same       machine::data (conditional units)
//!   --------------------- replica: one Raft group each ---------------------
//! ```
//!
//! Invariant: only the machines decide what a request means; services and client carry it there.
//!
//! Not here: consensus and storage (crate `replica`).

#[cfg(feature = "server")]
pub mod admin;
pub mod api;
#[cfg(feature = "server")]
mod auth;
pub mod client;
pub mod limits;
pub mod outcome;
pub mod peers;
pub mod refusal;
pub mod route;
pub mod sorted;
mod translate;
pub mod wire;

#[cfg(feature = "server")]
pub mod control_port;
#[cfg(feature = "server")]
pub mod etcd;
#[cfg(feature = "server")]
pub mod group;
#[cfg(feature = "server")]
pub mod lease;
#[cfg(feature = "server")]
pub mod machine;
#[cfg(feature = "server")]
mod member;
#[cfg(feature = "server")]
pub mod native;
#[cfg(feature = "server")]
pub mod quota;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod snapshot;
#[cfg(feature = "server")]
pub mod testing;
#[cfg(feature = "server")]
pub mod watch;
