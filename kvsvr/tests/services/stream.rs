//! Many requests on one stream: they mean what they mean alone, at the leader and at followers.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use kvsvr::client::KvStream;
use kvsvr::outcome::not_done;
use kvsvr::wire::etcdserverpb::kv_client::KvClient;
use kvsvr::wire::etcdserverpb::request_op::Request as Op;
use kvsvr::wire::etcdserverpb::*;
use tonic::Code;
use tonic::transport::Channel;

use super::{refused, trio};

const PATIENCE: Duration = Duration::from_secs(5);

fn over(channel: Channel) -> KvStream {
    KvStream::over(channel, PATIENCE, None)
}

fn put(key: String) -> PutRequest {
    PutRequest { key: key.into(), value: "v".into(), prev_kv: true, ..PutRequest::default() }
}

#[tokio::test]
async fn requests_on_a_stream_are_answered_as_those_that_come_alone() {
    let (trio, _) = trio().await;
    for number in 0..3 {
        let channel = trio.channel(number).await;
        let (mut alone, stream) = (KvClient::new(channel.clone()), over(channel));
        let key = format!("k{number}");
        let written = stream.put(put(key.clone())).await.expect("written");
        assert_eq!(written.prev_kv, None);
        let again = alone.put(put(key.clone())).await.expect("written").into_inner();
        let before = again.prev_kv.as_ref().expect("it was there");
        let header = written.header.expect("a header");
        assert_eq!((before.mod_revision, before.version), (header.revision, 1));
        assert_eq!(again.header.expect("a header").member_id, header.member_id, "the member that was asked");
        let range = RangeRequest { key: "k".into(), range_end: "l".into(), ..RangeRequest::default() };
        let found = alone.range(range.clone()).await.expect("read").into_inner();
        assert_eq!(stream.range(range).await.expect("read"), found);
        assert_eq!(found.count, 1, "k0, k1 and k2 are deleted in turn");
        let delete = RequestOp {
            request: Some(Op::RequestDeleteRange(DeleteRangeRequest {
                key: key.clone().into(),
                ..DeleteRangeRequest::default()
            })),
        };
        let txn = TxnRequest { success: vec![delete], ..TxnRequest::default() };
        assert!(stream.txn(txn).await.expect("done").succeeded);
        let deleted = stream
            .delete_range(DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() })
            .await
            .expect("done");
        assert_eq!(deleted.deleted, 0, "the transaction had deleted it");
    }
}

#[tokio::test]
async fn a_refusal_on_a_stream_has_etcds_code_and_text_and_promises_that_nothing_was_done() {
    let (trio, _) = trio().await;
    for number in 0..3 {
        let stream = over(trio.channel(number).await);
        let empty = stream.put(PutRequest::default()).await;
        assert!(empty.as_ref().is_err_and(not_done), "{empty:?}");
        refused(empty, Code::InvalidArgument, "etcdserver: key is not provided");
        let lease = PutRequest { key: "k".into(), lease: 77, ..PutRequest::default() };
        refused(stream.put(lease).await, Code::NotFound, "etcdserver: requested lease not found");
        let future = RangeRequest { key: "k".into(), revision: 99, ..RangeRequest::default() };
        let text = "etcdserver: mvcc: required revision is a future revision";
        refused(stream.range(future).await, Code::OutOfRange, text);
    }
}

#[tokio::test]
async fn every_request_of_a_stream_gets_its_own_answer_also_when_the_server_stops() {
    let (trio, _) = trio().await;
    let mut streams = Vec::new();
    for number in 0..3 {
        streams.push(over(trio.channel(number).await));
    }
    let puts = (0..1_500).map(|number| streams[number % 3].put(put(format!("key/{number}"))));
    let answers = join_all(puts).await;
    let revisions: BTreeSet<i64> = answers
        .into_iter()
        .map(|answer| answer.expect("written").header.expect("a header").revision)
        .collect();
    assert_eq!(revisions, (2..1_502).collect());
    let last = (0..300).map(|number| streams[number % 3].put(put(format!("last/{number}"))));
    let stops = async {
        tokio::task::yield_now().await;
        trio.end_streams();
    };
    let (answers, ()) = futures_util::future::join(join_all(last), stops).await;
    let lost = answers.iter().filter(|answer| answer.is_err()).count();
    assert_eq!(lost, 0, "what was sent is answered before the stream ends");
}
