//! Formats and cryptography of packets: what planning, access and payment agree on in bytes.
//!
//! ```text
//!   plan --mint--> Record --file--> .hbt --access: seal--> sealed ticket --payment: unseal, open-->
//!        `-- manifest (finance), roster (access), signed --'              Opening --queue--> ledger
//! ```
//! Invariants: money is whole fen with checked arithmetic; every persisted format begins with a
//! format number and is pinned by a golden-bytes test; minting and opening are separate features
//! with separate keyrings, and an access node, which enables neither, cannot make or read money.
//!
//! Not here: the network, storage engines, async. How amounts are planned and settled.

pub mod money;
pub mod id;
pub mod limits;
pub mod digest;
pub mod record;
#[cfg(any(feature = "mint", feature = "open"))]
mod cipher;
#[cfg(feature = "mint")]
pub mod mint;
#[cfg(feature = "open")]
pub mod open;
pub mod keys;
pub mod seal;
pub mod file;
pub mod manifest;
pub mod sign;
pub mod opening;
pub mod token;
pub mod control;
mod hex;
mod keyfile;
