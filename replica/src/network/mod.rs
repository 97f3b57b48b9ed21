//! How the members of groups reach each other.
//!
//! ```text
//!            leader's host                                    follower's host
//!   group 1 --session 7--+                                +--> group 1
//!   group 2 --session 8--+==== one stream, all frames ====+--> group 2     append connection
//!   group 3 --session 9--+                                +--> group 3
//!   heartbeats of all groups: one stream; votes, transfers: one call each  control connection
//!   snapshots: one stream of pages each                                    bulk connection
//! ```
//! Three connections, so that neither a full append stream nor a snapshot delays the heartbeat
//! that keeps the leader in office.
//!
//! Invariant: answers of one session come in the order of its requests; an answer of one session
//! never reaches another. A call reaches only the member it is meant for. Every wait has a deadline. What cannot be reached is reported as
//! unreachable, which makes Raft pause before it tries again.
//!
//! Not here: keepalive and dialling (`world::net`), encryption, and who is a member.

pub(crate) mod attachment;
pub(crate) mod client;
mod envelope;
mod landing;
pub(crate) mod link;
pub(crate) mod meet;
pub(crate) mod service;
mod session;
mod snapshot;
mod wire;
