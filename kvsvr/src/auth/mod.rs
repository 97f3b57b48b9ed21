//! Who asks: tokens, passwords, and the author behind a request's metadata.
//!
//! ```text
//!   Authenticate(name, password) --hash compared--> token, signed with the cluster's token key
//!   request + token --any member--> author (user, auth revision) --> command --> machine decides
//! ```
//! Invariant: a token is valid on every member, without asking another, for as long as the user's
//! password stays, authentication stays enabled, and a day at most.
//!
//! Not here: what an author may do (`machine::control::access`).

mod desk;
mod token;

pub(crate) use desk::AuthDesk;
