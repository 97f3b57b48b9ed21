//! Forwarding over loopback: against the real end, and against one that misbehaves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, Streaming};
use world::clock::SystemClock;
use world::mux::{AnswerStream, Calls, MESSAGE_BYTES};
use world::net::{Net, TcpNet};
use world::{NodeId, ZoneId};

use super::HopService;
use super::forwarder::Forwarder;
use crate::control_port::ControlPort;
use crate::lease::LeaseKeeper;
use crate::machine::control::ControlMachine;
use crate::outcome::not_done;
use crate::peers::Peers;
use crate::testing::{LocalMachine, LocalMember};
use crate::wire::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest,
};
use crate::wire::native::ControlCommand;
use crate::wire::native::control_command::Command;
use crate::wire::native::control_hop_server::{ControlHop, ControlHopServer};
use crate::wire::native::control_reply::Reply;

const PATIENCE: Duration = Duration::from_secs(20);

fn leader() -> NodeId {
    NodeId::new(ZoneId::from_index(1).expect("a zone"), 1).expect("a node")
}

fn put(key: usize, bytes: usize) -> ControlCommand {
    let put = PutRequest {
        key: format!("key {key}").into(),
        value: vec![b'x'; bytes].into(),
        ..PutRequest::default()
    };
    ControlCommand { command: Some(Command::Put(put)), author: None }
}

fn revision(answer: &Result<Reply, Status>) -> i64 {
    match answer {
        Ok(Reply::Put(response)) => response.header.as_ref().expect("a header").revision,
        other => panic!("not a put's reply: {other:?}"),
    }
}

/// Serves `hop` and answers a forwarder that knows it as the leader.
async fn forwarder_to(hop: impl ControlHop) -> Forwarder {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    drop(listener);
    let net: Arc<dyn Net> = Arc::new(TcpNet);
    let incoming = net.listen(&address).await.expect("to listen");
    let serving = world::net::server().add_service(ControlHopServer::new(hop));
    tokio::spawn(serving.serve_with_incoming(incoming));
    Forwarder::new(Arc::new(Peers::new(net, [(leader(), address)])))
}

fn leading(stopping: &watch::Sender<bool>) -> HopService {
    let member = Arc::new(LocalMember::new(LocalMachine::new(ControlMachine)));
    let port = ControlPort::new(member);
    let keeper = LeaseKeeper::new(port.clone(), leader(), Arc::new(SystemClock::new()));
    HopService::new(port, keeper, stopping.subscribe())
}

/// Reads one message of each stream and breaks it, but for the streams from `sound_from` on.
struct Faulty {
    sound_from: usize,
    streams: AtomicUsize,
    sound: HopService,
}

#[tonic::async_trait]
impl ControlHop for Faulty {
    type ForwardStream = AnswerStream;

    async fn forward(&self, request: Request<Streaming<Calls>>) -> Result<Response<AnswerStream>, Status> {
        if self.streams.fetch_add(1, Ordering::Relaxed) >= self.sound_from {
            return self.sound.forward(request).await;
        }
        let breaks = stream::once(async move {
            let message = request.into_inner().message().await;
            assert!(matches!(message, Ok(Some(_))), "nothing came: {message:?}");
            Err(Status::data_loss("the stream breaks"))
        });
        Ok(Response::new(Box::pin(breaks)))
    }

    async fn renew(
        &self,
        _: Request<LeaseKeepAliveRequest>,
    ) -> Result<Response<LeaseKeepAliveResponse>, Status> {
        Err(Status::unimplemented("leases"))
    }

    async fn time_to_live(
        &self,
        _: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        Err(Status::unimplemented("leases"))
    }

    async fn leases(&self, _: Request<LeaseLeasesRequest>) -> Result<Response<LeaseLeasesResponse>, Status> {
        Err(Status::unimplemented("leases"))
    }
}

#[tokio::test]
async fn every_command_gets_its_own_answer_however_many_share_a_message() {
    let stopping = watch::Sender::new(false);
    let forwarder = forwarder_to(leading(&stopping)).await;
    let calls = (0..600).map(|key| forwarder.forward(leader(), put(key, 2_000), PATIENCE));
    let answers = join_all(calls).await;
    let revisions: BTreeSet<i64> = answers.iter().map(revision).collect();
    assert_eq!(revisions, (2..602).collect());
    let long = forwarder.forward(leader(), put(0, MESSAGE_BYTES * 3), PATIENCE).await;
    assert_eq!(revision(&long), 602);
}

#[tokio::test]
async fn a_refusal_by_the_leader_promises_that_nothing_was_done() {
    let stopping = watch::Sender::new(false);
    let forwarder = forwarder_to(leading(&stopping)).await;
    let put = PutRequest { key: "k".into(), lease: 77, ..PutRequest::default() };
    let command = ControlCommand { command: Some(Command::Put(put)), author: None };
    let refused = forwarder.forward(leader(), command, PATIENCE).await;
    assert!(matches!(refused, Ok(Reply::Refused(_))), "{refused:?}");
    let empty = forwarder.forward(leader(), ControlCommand::default(), PATIENCE).await;
    let status = empty.expect_err("a command of no kind");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(not_done(&status));
}

#[tokio::test]
async fn what_was_on_a_stream_that_broke_is_unknown_and_the_next_goes_on_another() {
    let stopping = watch::Sender::new(false);
    let faulty = Faulty { sound_from: 1, streams: AtomicUsize::new(0), sound: leading(&stopping) };
    let forwarder = forwarder_to(faulty).await;
    let calls = (0..50).map(|key| forwarder.forward(leader(), put(key, 10), PATIENCE));
    for answer in join_all(calls).await {
        let status = answer.expect_err("the stream broke");
        assert!(!not_done(&status), "the leader may have carried it out: {status:?}");
    }
    assert_eq!(revision(&forwarder.forward(leader(), put(0, 10), PATIENCE).await), 2);
}

#[tokio::test]
async fn a_leader_that_stops_answers_what_was_sent_and_loses_nothing() {
    let stopping = watch::Sender::new(false);
    let forwarder = forwarder_to(leading(&stopping)).await;
    let mut revisions = BTreeSet::new();
    for round in 0..20 {
        let calls = (0..50).map(|key| forwarder.forward(leader(), put(key, 10), PATIENCE));
        let stops = async {
            tokio::task::yield_now().await;
            stopping.send_replace(round >= 10);
        };
        let (answers, ()) = futures_util::future::join(join_all(calls), stops).await;
        revisions.extend(answers.iter().map(revision));
    }
    assert_eq!(revisions, (2..1_002).collect());
}

#[tokio::test]
async fn a_command_that_no_connection_could_carry_was_not_done() {
    let net: Arc<dyn Net> = Arc::new(TcpNet);
    let nobody = Peers::new(net, [(leader(), "127.0.0.1:1".to_owned())]);
    let forwarder = Forwarder::new(Arc::new(nobody));
    let status = forwarder.forward(leader(), put(0, 10), PATIENCE).await.expect_err("nobody listens");
    assert!(not_done(&status), "{status:?}");
    let stranger = NodeId::new(ZoneId::from_index(2).expect("a zone"), 1).expect("a node");
    let status = forwarder.forward(stranger, put(0, 10), PATIENCE).await.expect_err("not a peer");
    assert!(not_done(&status), "{status:?}");
}
