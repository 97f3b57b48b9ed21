//! The access node.
pub mod opener;
