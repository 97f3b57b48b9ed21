//! What the tests share, and the tests by service.

mod auth;
mod lease;
mod maintenance;
mod observing;
mod recipes;
mod stream;

use std::sync::Arc;

use bytes::Bytes;
use kvsvr::testing::trio::Trio;
use kvsvr::wire::etcdserverpb::kv_client::KvClient;
use kvsvr::wire::etcdserverpb::{PutRequest, RangeRequest};
use tonic::transport::Channel;
use tonic::{Code, Status};
use world::UnixMs;
use world::clock::ManualClock;

/// Three members and the clock they read.
pub async fn trio() -> (Trio, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(UnixMs(1)));
    (Trio::start(clock.clone()).await, clock)
}

/// Insists on an error of this code and text.
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    let status = result.expect_err("it is refused");
    assert_eq!((status.code(), status.message()), (code, text));
}

/// Sets a key.
pub async fn put(channel: &Channel, key: &str, value: &str, lease: i64) -> Result<i64, Status> {
    let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
    let request = PutRequest { key, value, lease, ..PutRequest::default() };
    let response = KvClient::new(channel.clone()).put(request).await?.into_inner();
    Ok(response.header.expect("a header").revision)
}

/// Reads a key.
pub async fn get(channel: &Channel, key: &str) -> Option<Bytes> {
    let request = RangeRequest { key: Bytes::from(key.to_owned()), ..RangeRequest::default() };
    let response = KvClient::new(channel.clone()).range(request).await.expect("it is read").into_inner();
    response.kvs.into_iter().next().map(|pair| pair.value)
}
