//! One node: everything assembled.

pub mod admin;
pub mod api;
pub mod event;
pub mod observer;
