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

#[cfg(any(feature = "mint", feature = "open"))]
mod cipher;
pub mod control;
pub mod digest;
pub mod file;
mod hex;
pub mod id;
mod keyfile;
pub mod keys;
pub mod limits;
pub mod manifest;
#[cfg(feature = "mint")]
pub mod mint;
pub mod money;
#[cfg(feature = "open")]
pub mod open;
pub mod opening;
pub mod record;
pub mod seal;
pub mod sign;
pub mod token;
