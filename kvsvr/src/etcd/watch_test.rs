//! The Watch service over one member in memory: everything but the network and the other members.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use super::{Identity, Responses, WatchService};
use crate::control_port::ControlPort;
use crate::group::KvGroup;
use crate::machine::control::ControlMachine;
use crate::machine::encode_command;
use crate::testing::{LocalMachine, LocalMember};
use crate::wire::etcdserverpb::request_op::Request;
use crate::wire::etcdserverpb::watch_request::RequestUnion;
use crate::wire::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, WatchCancelRequest,
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use crate::wire::native::control_command::Command;
use crate::wire::native::control_reply::Reply;
use crate::wire::native::{ControlCommand, ControlReply};

struct Bed {
    member: Arc<LocalMember<ControlMachine>>,
    service: WatchService,
    stop: watch::Sender<bool>,
}

struct Client {
    requests: mpsc::Sender<Result<WatchRequest, Status>>,
    responses: Responses,
}

fn command(command: Command) -> Bytes {
    encode_command(&ControlCommand { command: Some(command), author: None })
}

fn put(key: &str, value: impl Into<Bytes>) -> Command {
    Command::Put(PutRequest { key: key.to_owned().into(), value: value.into(), ..PutRequest::default() })
}

fn delete(key: &str) -> Command {
    Command::DeleteRange(DeleteRangeRequest { key: key.to_owned().into(), ..DeleteRangeRequest::default() })
}

fn compact(revision: i64) -> Command {
    Command::Compact(CompactionRequest { revision, physical: false })
}

fn watch(key: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest { key: key.to_owned().into(), start_revision, ..WatchCreateRequest::default() }
}

fn watch_all(start_revision: i64) -> WatchCreateRequest {
    let range_end = Bytes::from_static(b"\0");
    WatchCreateRequest { range_end, start_revision, ..WatchCreateRequest::default() }
}

impl Bed {
    fn new() -> Bed {
        let member = Arc::new(LocalMember::new(LocalMachine::new(ControlMachine)));
        let stop = watch::Sender::new(false);
        let port = ControlPort::new(Arc::clone(&member) as Arc<dyn KvGroup>);
        let identity = Identity { cluster_id: 7, node: member.node() };
        let service = WatchService::new(port, identity, stop.clone());
        Bed { member, service, stop }
    }

    async fn apply(&self, wanted: Command) -> Reply {
        let reply = self.member.propose(command(wanted)).await.expect("a leader takes it");
        ControlReply::decode(reply).expect("a reply").reply.expect("a reply of some kind")
    }

    fn open_with(&self, metadata: &MetadataMap) -> Result<Client, Status> {
        let (requests, taken) = mpsc::channel(100);
        let responses = self.service.serve(ReceiverStream::new(taken), metadata)?;
        Ok(Client { requests, responses })
    }

    fn open(&self) -> Client {
        self.open_with(&MetadataMap::new()).expect("served")
    }
}

impl Client {
    async fn ask(&mut self, request: RequestUnion) {
        let request = WatchRequest { request_union: Some(request) };
        self.requests.send(Ok(request)).await.expect("the stream listens");
    }

    async fn next(&mut self) -> Result<WatchResponse, Status> {
        let next = timeout(Duration::from_secs(10), self.responses.next()).await.expect("in time");
        next.expect("the stream goes on")
    }

    async fn told(&mut self) -> WatchResponse {
        self.next().await.expect("a response")
    }

    async fn create(&mut self, request: WatchCreateRequest) -> WatchResponse {
        self.ask(RequestUnion::CreateRequest(request)).await;
        let response = self.told().await;
        assert!(response.created, "{response:?}");
        response
    }

    /// Events up to and with this revision, as (revision, kind, key, value).
    async fn events_through(&mut self, revision: i64) -> Vec<(i64, i32, Bytes, Bytes)> {
        let mut events: Vec<(i64, i32, Bytes, Bytes)> = Vec::new();
        while events.last().is_none_or(|(last, ..)| *last < revision) {
            for event in self.told().await.events {
                let pair = event.kv.expect("a pair");
                events.push((pair.mod_revision, event.r#type, pair.key, pair.value));
            }
        }
        events
    }

    async fn revisions_through(&mut self, revision: i64) -> Vec<i64> {
        self.events_through(revision).await.into_iter().map(|(revision, ..)| revision).collect()
    }

    /// Insists that nothing is told for a while.
    async fn expect_silence(&mut self) {
        let told = timeout(Duration::from_millis(50), self.responses.next()).await;
        assert!(told.is_err(), "{told:?}");
    }
}

#[tokio::test]
async fn a_watch_tells_what_happens_after_it_was_created() {
    let bed = Bed::new();
    bed.apply(put("k", "before")).await;
    let mut client = bed.open();
    let created = client.create(watch("k", 0)).await;
    let header = created.header.expect("a header");
    assert_eq!((header.revision, header.cluster_id, header.raft_term), (2, 7, 1));
    assert_eq!(created.watch_id, 0);
    client.expect_silence().await;
    bed.apply(put("other", "x")).await;
    bed.apply(put("k", "after")).await;
    bed.apply(delete("k")).await;
    let events = client.events_through(5).await;
    assert_eq!(events, [(4, 0, "k".into(), "after".into()), (5, 1, "k".into(), "".into())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_goes_over_into_what_happens_now_without_gap_or_repeat() {
    let bed = Arc::new(Bed::new());
    let last = 4_000;
    let writer = tokio::spawn({
        let bed = Arc::clone(&bed);
        async move {
            for number in 2..=last {
                bed.apply(put(&format!("k{}", number % 7), vec![1u8; 300])).await;
                if number % 50 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    let mut watchers = tokio::task::JoinSet::new();
    for start in [2, 500, 1_000, 1_999, 3_000, 3_999, 4_000] {
        let mut client = bed.open();
        watchers.spawn(async move {
            client.create(watch_all(start)).await;
            let expected: Vec<i64> = (start..=last).collect();
            assert_eq!(client.revisions_through(last).await, expected, "from {start}");
        });
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    writer.await.expect("the writer ends");
    watchers.join_all().await;
}

#[tokio::test]
async fn the_pair_before_an_event_is_told_when_asked_for() {
    let bed = Bed::new();
    bed.apply(put("k", "one")).await;
    bed.apply(put("k", "two")).await;
    bed.apply(delete("k")).await;
    bed.apply(put("k", "three")).await;
    let mut client = bed.open();
    client.create(WatchCreateRequest { prev_kv: true, ..watch("k", 2) }).await;
    let events = client.told().await.events;
    let before: Vec<Option<Bytes>> =
        events.iter().map(|e| e.prev_kv.clone().map(|pair| pair.value)).collect();
    assert_eq!(before, [None, Some("one".into()), Some("two".into()), None]);
    bed.apply(put("k", "four")).await;
    let event = client.told().await.events.remove(0);
    let previous = event.prev_kv.expect("asked for");
    assert_eq!((previous.value, previous.version, previous.mod_revision), ("three".into(), 1, 5));
}

#[tokio::test]
async fn kinds_of_events_can_be_left_out() {
    let bed = Bed::new();
    let mut client = bed.open();
    client.create(WatchCreateRequest { filters: vec![0], ..watch("k", 0) }).await;
    client.create(WatchCreateRequest { filters: vec![1], ..watch("k", 0) }).await;
    bed.apply(put("k", "v")).await;
    let told = client.told().await;
    assert_eq!((told.watch_id, told.events[0].r#type), (1, 0));
    bed.apply(delete("k")).await;
    let told = client.told().await;
    assert_eq!((told.watch_id, told.events[0].r#type), (0, 1));
    client.expect_silence().await;
}

#[tokio::test]
async fn a_watch_can_begin_in_the_future() {
    let bed = Bed::new();
    let mut client = bed.open();
    let created = client.create(watch("k", 5)).await;
    assert_eq!(created.header.expect("a header").revision, 1);
    for value in ["2", "3", "4", "5", "6"] {
        bed.apply(put("k", value)).await;
    }
    assert_eq!(client.revisions_through(6).await, [5, 6]);
}

#[tokio::test]
async fn a_watch_of_what_is_compacted_ends_and_says_where_history_begins() {
    let bed = Bed::new();
    for value in ["2", "3", "4", "5"] {
        bed.apply(put("k", value)).await;
    }
    bed.apply(compact(4)).await;
    let mut client = bed.open();
    assert_eq!(client.create(watch("k", 3)).await.watch_id, 0);
    let told = client.told().await;
    assert!(told.canceled && !told.created);
    assert_eq!((told.compact_revision, told.watch_id, told.cancel_reason.as_str()), (4, 0, ""));
    client.create(watch("k", 4)).await;
    assert_eq!(client.revisions_through(5).await, [4, 5]);
    let negative = client.create(watch("k", -1)).await;
    assert_eq!((negative.watch_id, negative.canceled), (-1, true));
    assert_eq!(negative.cancel_reason, "etcdserver: mvcc: required revision has been compacted");
}

#[tokio::test]
async fn a_watch_that_begins_at_the_compacted_revision_is_told_all_of_it() {
    let bed = Bed::new();
    for key in ["a", "b", "c"] {
        bed.apply(put(key, "v")).await;
    }
    let both = DeleteRangeRequest { key: "a".into(), range_end: "c".into(), prev_kv: false };
    bed.apply(Command::DeleteRange(both)).await;
    bed.apply(put("c", "w")).await;
    bed.apply(compact(5)).await;
    let mut client = bed.open();
    client.create(watch_all(5)).await;
    let events = client.events_through(6).await;
    let told: Vec<(i64, i32, &[u8])> =
        events.iter().map(|(at, kind, key, _)| (*at, *kind, key.as_ref())).collect();
    assert_eq!(told, [(5, 1, &b"a"[..]), (5, 1, b"b"), (6, 0, b"c")]);
    bed.apply(compact(6)).await;
    client.create(watch_all(5)).await;
    assert_eq!(client.told().await.compact_revision, 6);
}

#[tokio::test]
async fn watches_of_one_stream_have_ids_and_end_one_by_one() {
    let bed = Bed::new();
    let mut client = bed.open();
    assert_eq!(client.create(WatchCreateRequest { watch_id: 1, ..watch("a", 0) }).await.watch_id, 1);
    assert_eq!(client.create(watch("a", 0)).await.watch_id, 0);
    assert_eq!(client.create(watch("b", 0)).await.watch_id, 2, "1 is taken");
    let twice = client.create(WatchCreateRequest { watch_id: 2, ..watch("b", 0) }).await;
    assert_eq!((twice.watch_id, twice.canceled), (-1, true));
    assert_eq!(twice.cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
    let empty = client.create(WatchCreateRequest { range_end: "a".into(), ..watch("b", 0) }).await;
    assert_eq!((empty.watch_id, empty.cancel_reason.as_str()), (-1, "mvcc: watcher range is empty"));
    client.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 9 })).await;
    client.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 1 })).await;
    let told = client.told().await;
    assert!(told.canceled && told.watch_id == 1, "a watch nobody knows is not answered: {told:?}");
    bed.apply(put("a", "x")).await;
    assert_eq!(client.told().await.watch_id, 0);
    bed.apply(put("b", "x")).await;
    assert_eq!(client.told().await.watch_id, 2);
    client.expect_silence().await;
}

#[tokio::test]
async fn a_revision_comes_as_a_whole_however_large_it_is() {
    let bed = Bed::new();
    let op = |number: usize| {
        let key = format!("k{number:03}").into();
        let put = PutRequest { key, value: vec![1; 10_000].into(), ..PutRequest::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    };
    let txn = TxnRequest { success: (0..100).map(op).collect(), ..TxnRequest::default() };
    let mut live = bed.open();
    live.create(watch_all(0)).await;
    for _ in 0..3 {
        bed.apply(Command::Txn(txn.clone())).await;
    }
    let mut replayed = bed.open();
    replayed.create(watch_all(2)).await;
    for mut client in [live, replayed] {
        for revision in 2..=4 {
            let told = client.told().await;
            assert_eq!(told.events.len(), 100, "a revision of a megabyte is a page of its own");
            let revisions = told.events.iter().map(|event| event.kv.clone().expect("a pair").mod_revision);
            assert!(revisions.into_iter().all(|one| one == revision));
        }
    }
}

#[tokio::test]
async fn a_large_revision_comes_in_fragments_where_the_client_allows_it() {
    let bed = Bed::new();
    for number in 0..3 {
        bed.apply(put(&format!("k{number}"), vec![1; 1 << 20])).await;
    }
    let all = DeleteRangeRequest { key: "k".into(), range_end: "l".into(), prev_kv: false };
    bed.apply(Command::DeleteRange(all)).await;
    let mut client = bed.open();
    client.create(WatchCreateRequest { fragment: true, prev_kv: true, ..watch_all(5) }).await;
    let parts = [client.told().await, client.told().await, client.told().await];
    assert_eq!(parts.each_ref().map(|part| part.fragment), [true, true, false]);
    assert_eq!(parts.each_ref().map(|part| part.events.len()), [1, 1, 1]);
}

#[tokio::test]
async fn progress_is_told_when_asked_for_and_never_before_the_events() {
    let bed = Bed::new();
    for number in 0..2_000 {
        bed.apply(put("k", vec![number as u8; 1_000])).await;
    }
    let mut client = bed.open();
    client.create(watch("k", 2)).await;
    client.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    let mut last = 1;
    loop {
        let told = client.told().await;
        if told.watch_id == -1 {
            assert_eq!(last, 2_001, "progress came before the events");
            assert_eq!(told.header.expect("a header").revision, 2_001);
            break;
        }
        last = told.events.last().expect("events").kv.clone().expect("a pair").mod_revision;
    }
    bed.apply(put("other", "x")).await;
    client.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    let told = client.told().await;
    assert_eq!(
        (told.watch_id, told.header.expect("a header").revision),
        (-1, 2_002),
        "a quiet watch has progress"
    );
}

#[tokio::test]
async fn progress_is_told_from_time_to_time_when_nothing_happens() {
    let mut bed = Bed::new();
    bed.service = bed.service.clone().with_progress_interval(Duration::from_millis(100));
    let mut client = bed.open();
    client.create(WatchCreateRequest { progress_notify: true, ..watch("k", 0) }).await;
    client.create(watch("k", 0)).await;
    client.create(WatchCreateRequest { progress_notify: true, ..watch("k", 50) }).await;
    bed.apply(put("other", "x")).await;
    for _ in 0..3 {
        let told = client.told().await;
        assert_eq!((told.watch_id, told.events.len()), (0, 0), "only the watch that wished it and has begun");
    }
    assert_eq!(client.told().await.header.expect("a header").revision, 2);
}

#[tokio::test]
async fn a_client_that_does_not_read_delays_nobody_and_misses_nothing() {
    let bed = Bed::new();
    let mut slow = bed.open();
    slow.create(watch_all(0)).await;
    let mut quick = bed.open();
    quick.create(watch_all(0)).await;
    let last = 60;
    for revision in 2..=last {
        bed.apply(put("k", vec![revision as u8; 1 << 20])).await;
        let event = quick.told().await.events.remove(0);
        assert_eq!(event.kv.expect("a pair").mod_revision, revision, "the quick one is not delayed");
    }
    assert!((last as usize) << 20 > 2 * crate::limits::WATCH_RING_BYTES, "the ring does not hold that much");
    assert_eq!(slow.revisions_through(last).await, (2..=last).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_snapshot_that_is_installed_leaves_no_gap() {
    let bed = Bed::new();
    bed.apply(put("k", "2")).await;
    let mut client = bed.open();
    client.create(watch_all(0)).await;
    let mut ahead = LocalMachine::new(ControlMachine);
    for revision in 2..=9 {
        ahead.apply(&command(put("k", format!("{revision}")))).expect("memory does not fail");
    }
    bed.member.install(ahead);
    assert_eq!(client.revisions_through(9).await, [3, 4, 5, 6, 7, 8, 9]);
    bed.apply(put("k", "10")).await;
    assert_eq!(client.revisions_through(10).await, [10]);
}

#[tokio::test]
async fn a_snapshot_that_begins_after_a_gap_ends_the_watches_that_would_miss_something() {
    let bed = Bed::new();
    bed.apply(put("k", "2")).await;
    let mut client = bed.open();
    client.create(watch_all(0)).await;
    client.create(watch("k", 8)).await;
    let mut ahead = LocalMachine::new(ControlMachine);
    for revision in 2..=9 {
        ahead.apply(&command(put("k", format!("{revision}")))).expect("memory does not fail");
    }
    ahead.apply(&command(compact(7))).expect("memory does not fail");
    bed.member.install(ahead);
    let mut ended = false;
    let mut seen = Vec::new();
    while !ended || seen.len() < 2 {
        let told = client.told().await;
        if told.canceled {
            assert_eq!((told.watch_id, told.compact_revision), (0, 7));
            ended = true;
        }
        assert!(told.events.is_empty() || told.watch_id == 1, "{told:?}");
        seen.extend(told.events.into_iter().map(|event| event.kv.expect("a pair").mod_revision));
    }
    assert_eq!(seen, [8, 9], "the watch that misses nothing goes on");
}

#[tokio::test]
async fn a_stream_that_wants_a_leader_ends_when_it_is_lost() {
    let bed = Bed::new();
    let mut metadata = MetadataMap::new();
    metadata.insert("hasleader", MetadataValue::from_static("true"));
    let mut wants = bed.open_with(&metadata).expect("there is a leader");
    wants.create(watch("k", 0)).await;
    let mut patient = bed.open();
    patient.create(watch("k", 0)).await;
    bed.apply(put("k", "v")).await;
    assert_eq!(wants.told().await.events.len(), 1);
    assert_eq!(patient.told().await.events.len(), 1);
    let leader = Some(bed.member.node());
    bed.member.set_leader(None);
    let refused = bed.open_with(&metadata).err().expect("there is no leader now");
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "etcdserver: no leader"));
    let lost = wants.next().await.expect_err("the leader is lost");
    assert_eq!((lost.code(), lost.message()), (Code::Unavailable, "etcdserver: no leader"));
    bed.member.set_leader(leader);
    bed.apply(put("k", "w")).await;
    assert_eq!(patient.told().await.events.len(), 1, "who did not ask for it goes on");
}

#[tokio::test]
async fn streams_end_when_the_server_stops_even_when_nobody_reads() {
    let bed = Bed::new();
    let mut client = bed.open();
    client.create(watch_all(0)).await;
    for _ in 0..100 {
        bed.apply(put("k", vec![0; 300_000])).await;
    }
    bed.stop.send_replace(true);
    let mut responses = 0;
    loop {
        match client.next().await {
            Ok(_) => responses += 1,
            Err(status) => {
                assert_eq!(
                    (status.code(), status.message()),
                    (Code::Unavailable, "etcdserver: server stopped")
                );
                break;
            }
        }
    }
    assert!(responses <= crate::limits::WATCH_RESPONSES_QUEUED_MAX + 1, "{responses} were queued");
    assert!(client.responses.next().await.is_none(), "the status is the last word");
}

#[tokio::test]
async fn watches_go_on_after_the_client_has_said_that_no_more_requests_come() {
    let bed = Bed::new();
    let mut client = bed.open();
    client.create(watch("k", 0)).await;
    let Client { requests, mut responses } = client;
    drop(requests);
    bed.apply(put("k", "v")).await;
    let told = timeout(Duration::from_secs(5), responses.next()).await.expect("in time");
    assert_eq!(told.expect("goes on").expect("a response").events.len(), 1);
}
