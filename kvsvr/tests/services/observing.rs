//! What probes, dashboards and tools see: HTTP beside gRPC on one port, health, reflection.

use std::time::Duration;

use kvsvr::testing::trio::{Trio, nodes};
use kvsvr::wire::etcdserverpb::alarm_request::AlarmAction;
use kvsvr::wire::etcdserverpb::lease_client::LeaseClient;
use kvsvr::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use kvsvr::wire::etcdserverpb::{AlarmRequest, AlarmType, LeaseGrantRequest, LeaseRevokeRequest};
use kvsvr::wire::grpc_health::HealthCheckRequest;
use kvsvr::wire::grpc_health::health_client::HealthClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;
use tonic::Code;

use super::{put, refused, trio};

/// Asks over HTTP/1.1; answers the status line and the body.
async fn http(trio: &Trio, number: usize, path: &str) -> (String, String) {
    let address = trio.etcd_address(number);
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("the member listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.lines().next().expect("a status line").to_owned(), body.to_owned())
}

const OK: &str = "HTTP/1.1 200 OK";
const AWAY: &str = "HTTP/1.1 503 Service Unavailable";

#[tokio::test]
async fn a_probe_is_told_whether_the_endpoint_serves_and_why_not() {
    let (trio, _) = trio().await;
    let well = (OK.to_owned(), "{\"health\":\"true\",\"reason\":\"\"}".to_owned());
    for number in 0..3 {
        assert_eq!(http(&trio, number, "/health").await, well);
    }
    let mut service = MaintenanceClient::new(trio.channel(0).await);
    let mut alarm = async |action: AlarmAction| {
        let alarm = AlarmType::Nospace as i32;
        let request = AlarmRequest { action: action as i32, member_id: 7, alarm };
        service.alarm(request).await.expect("answered");
    };
    alarm(AlarmAction::Activate).await;
    let ill = (AWAY.to_owned(), "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}".to_owned());
    assert_eq!(http(&trio, 2, "/health").await, ill);
    assert_eq!(http(&trio, 2, "/health?exclude=NOSPACE").await, well);
    alarm(AlarmAction::Deactivate).await;
    trio.shared.elect(None);
    let ill = (AWAY.to_owned(), "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}".to_owned());
    assert_eq!(http(&trio, 1, "/health").await, ill);
    assert_eq!(http(&trio, 1, "/health?serializable=true").await, well);
}

#[tokio::test]
async fn the_version_is_told_as_etcd_tells_it() {
    let (trio, _) = trio().await;
    let version = kvsvr::etcd::ETCD_VERSION;
    let body = format!("{{\"etcdserver\":\"{version}\",\"etcdcluster\":\"3.5.0\"}}");
    assert_eq!(http(&trio, 1, "/version").await, (OK.to_owned(), body));
}

#[tokio::test]
async fn figures_follow_what_happens() {
    let (trio, clock) = trio().await;
    let channel = trio.channel(0).await;
    let mut leases = LeaseClient::new(channel.clone());
    for id in [1, 2] {
        leases.lease_grant(LeaseGrantRequest { ttl: 5, id }).await.expect("granted");
    }
    put(&channel, "k", "v", 1).await.expect("written");
    refused(
        leases.lease_revoke(LeaseRevokeRequest { id: 9 }).await,
        Code::NotFound,
        "etcdserver: requested lease not found",
    );
    let has = |page: &str, line: &str| page.lines().any(|found| found == line);
    let (status, page) = http(&trio, 0, "/metrics").await;
    assert_eq!(status, OK);
    for line in [
        "etcd_server_has_leader 1",
        "etcd_server_is_leader 1",
        "etcd_server_is_learner 0",
        "etcd_debugging_mvcc_current_revision 2",
        "etcd_debugging_lease_granted_total 2",
        "etcd_mvcc_db_total_size_in_bytes 4096",
        "etcd_server_version{server_version=\"3.5.21\"} 1",
        "grpc_server_started_total{grpc_method=\"LeaseGrant\",grpc_service=\"etcdserverpb.Lease\",grpc_type=\"unary\"} 2",
        "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
        "grpc_server_handled_total{grpc_code=\"NotFound\",grpc_method=\"LeaseRevoke\",grpc_service=\"etcdserverpb.Lease\",grpc_type=\"unary\"} 1",
    ] {
        assert!(has(&page, line), "{line:?} is not in\n{page}");
    }
    let ended = async {
        while !has(&http(&trio, 0, "/metrics").await.1, "etcd_debugging_server_lease_expired_total 2") {
            clock.advance(Duration::from_secs(2));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("both leases end");
    let page = http(&trio, 1, "/metrics").await.1;
    assert!(has(&page, "etcd_server_is_leader 0"), "{page}");
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(value.parse::<f64>().is_ok() && !name.is_empty(), "{line}");
    }
}

#[tokio::test]
async fn grpc_health_is_told_and_watched() {
    let (trio, _) = trio().await;
    let mut health = HealthClient::new(trio.channel(2).await);
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for service in ["", "etcdserverpb.KV"] {
        assert_eq!(health.check(ask(service)).await.expect("told").into_inner().status, 1);
    }
    refused(health.check(ask("nonsense")).await, Code::NotFound, "unknown service");
    let mut told = health.watch(ask("")).await.expect("a stream").into_inner();
    let mut next = async || told.next().await.expect("an answer").expect("no error").status;
    assert_eq!(next().await, 1);
    trio.shared.elect(None);
    assert_eq!(next().await, 2);
    trio.shared.elect(Some(nodes()[1]));
    assert_eq!(next().await, 1);
}

#[tokio::test]
async fn reflection_lists_the_services_of_the_port_and_describes_them() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let (trio, _) = trio().await;
    let mut client = ServerReflectionClient::new(trio.channel(0).await);
    let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let asks = vec![
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("etcdserverpb.Lease".to_owned())),
    ];
    let mut answers =
        client.server_reflection_info(tokio_stream::iter(asks)).await.expect("a stream").into_inner();
    let mut next = async || answers.next().await.expect("an answer").expect("no error").message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = next().await else { panic!("no list") };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"etcdserverpb.KV") && names.contains(&"etcdserverpb.Lease"), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("hongbao")), "internal services are not told: {names:?}");
    assert!(matches!(next().await, Some(MessageResponse::FileDescriptorResponse(_))));
}
