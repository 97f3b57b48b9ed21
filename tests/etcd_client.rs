//! The `etcd-client` crate against three zones: a client nobody here wrote.

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, EventType, GetOptions, PutOptions, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse, WatchFilterType, WatchOptions, WatchStream,
};
use tests::DevCluster;
use tokio::time::timeout;

async fn connect(cluster: &DevCluster, nodes: &[&str]) -> Client {
    let endpoints: Vec<String> = nodes.iter().map(|node| cluster.field(node, "etcd")).collect();
    Client::connect(endpoints, None).await.expect("a connection")
}

fn text(error: Error) -> String {
    match error {
        Error::GRpcStatus(status) => format!("{:?}: {}", status.code(), status.message()),
        other => panic!("no answer: {other}"),
    }
}

async fn told(stream: &mut WatchStream) -> etcd_client::WatchResponse {
    let told = timeout(Duration::from_secs(10), stream.message()).await.expect("in time");
    told.expect("a response").expect("the stream goes on")
}

async fn keys_and_values(client: &mut Client) {
    let answer = client.put("k", "one", None).await.expect("put");
    assert_eq!(answer.header().expect("a header").revision(), 2, "a new cluster is empty, at revision 1");
    let options = PutOptions::new().with_prev_key();
    let answer = client.put("k", "two", Some(options)).await.expect("put");
    assert_eq!(answer.prev_key().expect("asked for").value(), b"one");
    for (key, value) in [("p/1", "c"), ("p/2", "b"), ("p/3", "a")] {
        client.put(key, value, None).await.expect("put");
    }
    let sorted =
        GetOptions::new().with_prefix().with_sort(SortTarget::Value, SortOrder::Ascend).with_limit(2);
    let answer = client.get("p/", Some(sorted)).await.expect("get");
    let keys: Vec<&str> = answer.kvs().iter().map(|pair| pair.key_str().expect("UTF-8")).collect();
    assert_eq!((keys, answer.count(), answer.more()), (vec!["p/3", "p/2"], 3, true));
    let bounded =
        GetOptions::new().with_all_keys().with_min_mod_revision(4).with_max_mod_revision(5).with_keys_only();
    let answer = client.get("", Some(bounded)).await.expect("get");
    assert_eq!(answer.kvs().len(), 2);
    assert!(answer.kvs().iter().all(|pair| pair.value().is_empty()));
    let counted = GetOptions::new().with_all_keys().with_count_only();
    assert_eq!(client.get("", Some(counted)).await.expect("get").count(), 4);
    let old = GetOptions::new().with_revision(2).with_serializable();
    assert_eq!(client.get("k", Some(old)).await.expect("get").kvs()[0].value(), b"one");
    let deleted = DeleteOptions::new().with_prefix().with_prev_key();
    let answer = client.delete("p/", Some(deleted)).await.expect("delete");
    assert_eq!((answer.deleted(), answer.prev_kvs().len()), (3, 3));
}

async fn transactions(client: &mut Client) {
    let inner = Txn::new()
        .when([Compare::version("inner", CompareOp::Equal, 0)])
        .and_then([TxnOp::put("inner", "1", None)]);
    let outer = Txn::new()
        .when([
            Compare::value("k", CompareOp::Equal, "two"),
            Compare::mod_revision("k", CompareOp::Less, 100),
        ])
        .and_then([TxnOp::put("outer", "1", None), TxnOp::txn(inner), TxnOp::get("outer", None)])
        .or_else([TxnOp::delete("outer", None)]);
    let answer = client.txn(outer.clone()).await.expect("txn");
    assert!(answer.succeeded());
    let responses = answer.op_responses();
    let TxnOpResponse::Txn(nested) = &responses[1] else { panic!("{responses:?}") };
    assert!(nested.succeeded());
    let TxnOpResponse::Get(read) = &responses[2] else { panic!("{responses:?}") };
    assert_eq!(
        read.kvs()[0].mod_revision(),
        answer.header().expect("a header").revision(),
        "one revision for all"
    );
    let twice = Txn::new().and_then([TxnOp::put("x", "1", None), TxnOp::put("x", "2", None)]);
    let refused = client.txn(twice).await.expect_err("a key twice");
    assert_eq!(text(refused), "InvalidArgument: etcdserver: duplicate key given in txn request");
    let absent = Txn::new().when([Compare::create_revision("p/", CompareOp::Greater, 0).with_prefix()]);
    assert!(!client.txn(absent).await.expect("txn").succeeded(), "there is nothing under p/ any more");
}

async fn errors(client: &mut Client) {
    let refused = client.put("", "v", None).await.expect_err("no key");
    assert_eq!(text(refused), "InvalidArgument: etcdserver: key is not provided");
    let future = client.get("k", Some(GetOptions::new().with_revision(999))).await.expect_err("the future");
    assert_eq!(text(future), "OutOfRange: etcdserver: mvcc: required revision is a future revision");
    let large = client.put("large", vec![0; 1_600_000], None).await.expect_err("too large");
    assert_eq!(text(large), "InvalidArgument: etcdserver: request is too large");
    client.compact(4, None).await.expect("compacted");
    let gone = client.get("k", Some(GetOptions::new().with_revision(3))).await.expect_err("compacted");
    assert_eq!(text(gone), "OutOfRange: etcdserver: mvcc: required revision has been compacted");
    let again = client.compact(4, None).await.expect_err("compacted already");
    assert_eq!(text(again), "OutOfRange: etcdserver: mvcc: required revision has been compacted");
}

async fn watches(client: &mut Client) {
    let options = WatchOptions::new().with_prefix().with_prev_key();
    let mut stream = client.watch("w/", Some(options)).await.expect("a watch");
    let created = told(&mut stream).await;
    assert!(created.created());
    let before = created.header().expect("a header").revision();
    client.put("w/1", "a", None).await.expect("put");
    client.put("w/1", "b", None).await.expect("put");
    client.delete("w/1", None).await.expect("delete");
    let mut kinds = Vec::new();
    while kinds.len() < 3 {
        let told = told(&mut stream).await;
        kinds.extend(told.events().iter().map(|event| (event.event_type(), event.prev_kv().is_some())));
    }
    assert_eq!(kinds, [(EventType::Put, false), (EventType::Put, true), (EventType::Delete, true)]);
    stream.request_progress().await.expect("asked");
    let progress = told(&mut stream).await;
    assert!(progress.events().is_empty());
    assert_eq!(progress.header().expect("a header").revision(), before + 3);
    let old = WatchOptions::new().with_prefix().with_start_revision(before + 1).with_watch_id(9);
    let old = old.with_filters([WatchFilterType::NoDelete]);
    stream.watch("w/", Some(old)).await.expect("asked");
    let created = told(&mut stream).await;
    assert!(created.created() && created.watch_id() == 9);
    let replayed = told(&mut stream).await;
    assert_eq!((replayed.watch_id(), replayed.events().len()), (9, 2), "deletes are left out");
    stream.cancel(9).await.expect("asked");
    let cancelled = told(&mut stream).await;
    assert!(cancelled.canceled() && cancelled.watch_id() == 9);
    stream.watch("w/", Some(WatchOptions::new().with_start_revision(2))).await.expect("asked");
    assert!(told(&mut stream).await.created());
    let compacted = told(&mut stream).await;
    assert!(compacted.canceled() && compacted.compact_revision() == 4, "{compacted:?}");
}

#[tokio::test]
async fn the_etcd_client_crate_works_against_three_zones() {
    let cluster = DevCluster::up();
    // One zone at a time, then all of them behind one balanced channel.
    keys_and_values(&mut connect(&cluster, &["a1"]).await).await;
    transactions(&mut connect(&cluster, &["b1"]).await).await;
    errors(&mut connect(&cluster, &["c1"]).await).await;
    let mut all = connect(&cluster, &["a1", "b1", "c1"]).await;
    watches(&mut all).await;
}

#[tokio::test]
async fn what_one_zone_acknowledged_every_zone_reads_at_once() {
    let cluster = DevCluster::up();
    let mut clients = Vec::new();
    for node in ["a1", "b1", "c1"] {
        clients.push(connect(&cluster, &[node]).await);
    }
    for number in 0..120usize {
        let value = number.to_string();
        clients[number % 3].put("k", value.as_str(), None).await.expect("put");
        let read = clients[(number / 3 + 1) % 3].get("k", None).await.expect("get");
        assert_eq!(read.kvs()[0].value(), value.as_bytes(), "a zone answered with an older value");
    }
}
