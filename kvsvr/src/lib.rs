//! KvSvr: the quorum key-value store.
pub mod api;
