//! Skeleton.
pub mod plan;
