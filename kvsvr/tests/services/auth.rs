//! The Auth service, and what it changes for everybody.

use std::time::Duration;

use bytes::Bytes;
use kvsvr::client::KvStream;
use kvsvr::wire::authpb::{Permission, UserAddOptions};
use kvsvr::wire::etcdserverpb::auth_client::AuthClient;
use kvsvr::wire::etcdserverpb::cluster_client::ClusterClient;
use kvsvr::wire::etcdserverpb::kv_client::KvClient;
use kvsvr::wire::etcdserverpb::lease_client::LeaseClient;
use kvsvr::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use kvsvr::wire::etcdserverpb::request_op::Request as Op;
use kvsvr::wire::etcdserverpb::watch_client::WatchClient;
use kvsvr::wire::etcdserverpb::watch_request::RequestUnion;
use kvsvr::wire::etcdserverpb::*;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::{refused, trio};

const DENIED: &str = "etcdserver: permission denied";
const UNKNOWN: &str = "etcdserver: user name is empty";

fn by<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        request.metadata_mut().insert("token", token.parse().expect("a token is plain text"));
    }
    request
}

/// The service in somebody's hands.
struct Hands {
    channel: Channel,
    token: String,
}

impl Hands {
    fn auth(&self) -> AuthClient<Channel> {
        AuthClient::new(self.channel.clone())
    }

    async fn log_in(&self, name: &str, password: &str) -> Result<String, Status> {
        let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        Ok(self.auth().authenticate(request).await?.into_inner().token)
    }

    async fn as_user(&self, name: &str, password: &str) -> Hands {
        let token = self.log_in(name, password).await.expect("the password is right");
        Hands { channel: self.channel.clone(), token }
    }

    async fn add_user(&self, name: &str, password: &str) -> Result<(), Status> {
        let (name, password) = (name.to_owned(), password.to_owned());
        let request = AuthUserAddRequest { name, password, ..AuthUserAddRequest::default() };
        self.auth().user_add(by(&self.token, request)).await.map(|_| ())
    }

    async fn add_role(&self, name: &str) -> Result<(), Status> {
        self.auth().role_add(by(&self.token, AuthRoleAddRequest { name: name.to_owned() })).await.map(|_| ())
    }

    async fn grant(&self, user: &str, role: &str) -> Result<(), Status> {
        let request = AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() };
        self.auth().user_grant_role(by(&self.token, request)).await.map(|_| ())
    }

    async fn permit(&self, role: &str, kind: i32, key: &str, end: &str) -> Result<(), Status> {
        let (key, range_end) = (Bytes::from(key.to_owned()), Bytes::from(end.to_owned()));
        let perm = Some(Permission { perm_type: kind, key, range_end });
        let request = AuthRoleGrantPermissionRequest { name: role.to_owned(), perm };
        self.auth().role_grant_permission(by(&self.token, request)).await.map(|_| ())
    }

    async fn enable(&self) -> Result<(), Status> {
        self.auth().auth_enable(by(&self.token, AuthEnableRequest {})).await.map(|_| ())
    }

    async fn put(&self, key: &str, lease: i64) -> Result<(), Status> {
        let request = PutRequest { key: Bytes::from(key.to_owned()), lease, ..PutRequest::default() };
        KvClient::new(self.channel.clone()).put(by(&self.token, request)).await.map(|_| ())
    }

    async fn get(&self, key: &str, end: &str) -> Result<i64, Status> {
        let (key, range_end) = (Bytes::from(key.to_owned()), Bytes::from(end.to_owned()));
        let request = RangeRequest { key, range_end, ..RangeRequest::default() };
        let found = KvClient::new(self.channel.clone()).range(by(&self.token, request)).await?;
        Ok(found.into_inner().count)
    }
}

#[tokio::test]
async fn a_stream_of_requests_asks_on_behalf_of_whoever_opened_it() {
    let (trio, _) = trio().await;
    let root = guarded(trio.channel(1).await).await;
    let ann = root.as_user("ann", "a").await;
    let over = |token: &str| {
        let token = (!token.is_empty()).then(|| token.parse().expect("a token is plain text"));
        KvStream::over(root.channel.clone(), Duration::from_secs(5), token)
    };
    let put = |key: &'static str| PutRequest { key: key.into(), ..PutRequest::default() };
    refused(over("").put(put("b")).await, Code::InvalidArgument, UNKNOWN);
    refused(over("nonsense").put(put("b")).await, Code::Unauthenticated, "etcdserver: invalid auth token");
    let stream = over(&ann.token);
    stream.put(put("b")).await.expect("permitted");
    refused(stream.put(put("a")).await, Code::PermissionDenied, DENIED);
    let request = AuthUserRevokeRoleRequest { name: "ann".to_owned(), role: "some".to_owned() };
    root.auth().user_revoke_role(by(&root.token, request)).await.expect("revoked");
    refused(stream.put(put("b")).await, Code::PermissionDenied, DENIED);
}

/// root (pw r) and ann (pw a), who may read [a, c) and write [b, d); enabled; root in hands.
async fn guarded(channel: Channel) -> Hands {
    let hands = Hands { channel, token: String::new() };
    hands.add_user("root", "r").await.expect("added");
    hands.grant("root", "root").await.expect("granted");
    hands.add_user("ann", "a").await.expect("added");
    hands.add_role("some").await.expect("added");
    hands.permit("some", 0, "a", "c").await.expect("permitted");
    hands.permit("some", 1, "b", "d").await.expect("permitted");
    hands.grant("ann", "some").await.expect("granted");
    hands.enable().await.expect("enabled");
    hands.as_user("root", "r").await
}

#[tokio::test]
async fn authentication_is_enabled_only_for_a_root_that_may_do_everything() {
    let (trio, _) = trio().await;
    let hands = Hands { channel: trio.channel(1).await, token: String::new() };
    refused(hands.enable().await, Code::FailedPrecondition, "etcdserver: root user does not exist");
    hands.add_user("root", "r").await.expect("added");
    let text = "etcdserver: root user does not have root role";
    refused(hands.enable().await, Code::FailedPrecondition, text);
    let text = "etcdserver: authentication is not enabled";
    refused(hands.log_in("root", "r").await, Code::FailedPrecondition, text);
    hands.grant("root", "root").await.expect("granted");
    hands.enable().await.expect("enabled");
    let text = "etcdserver: authentication failed, invalid user ID or password";
    refused(hands.log_in("root", "x").await, Code::InvalidArgument, text);
    refused(hands.log_in("nobody", "x").await, Code::InvalidArgument, text);
    let root = hands.as_user("root", "r").await;
    let status = root.auth().auth_status(by(&root.token, AuthStatusRequest {})).await.expect("told");
    let status = status.into_inner();
    assert_eq!((status.enabled, status.auth_revision), (true, 3));
    refused(hands.auth().auth_status(AuthStatusRequest {}).await, Code::InvalidArgument, UNKNOWN);
}

#[tokio::test]
async fn users_do_what_their_roles_permit_and_no_more_at_any_endpoint() {
    let (trio, _) = trio().await;
    let root = guarded(trio.channel(0).await).await;
    root.put("x", 0).await.expect("root may do everything");
    let token = root.log_in("ann", "a").await.expect("the password is right");
    for number in 0..3 {
        let channel = trio.channel(number).await;
        let nobody = Hands { channel: channel.clone(), token: String::new() };
        refused(nobody.put("b", 0).await, Code::InvalidArgument, UNKNOWN);
        refused(nobody.get("b", "").await, Code::InvalidArgument, UNKNOWN);
        let liar = Hands { channel: channel.clone(), token: "00ff".to_owned() };
        refused(liar.get("b", "").await, Code::Unauthenticated, "etcdserver: invalid auth token");
        let ann = Hands { channel, token: token.clone() };
        ann.put("b", 0).await.expect("she may write it");
        ann.put("c", 0).await.expect("she may write it");
        refused(ann.put("a", 0).await, Code::PermissionDenied, DENIED);
        refused(ann.put("d", 0).await, Code::PermissionDenied, DENIED);
        assert_eq!(ann.get("a", "c").await.expect("she may read it"), 1);
        refused(ann.get("a", "d").await, Code::PermissionDenied, DENIED);
        refused(ann.get("c", "").await, Code::PermissionDenied, DENIED);
        refused(ann.get("\0", "\0").await, Code::PermissionDenied, DENIED);
        let ask = by(&ann.token, AuthUserListRequest {});
        refused(ann.auth().user_list(ask).await, Code::PermissionDenied, DENIED);
        let ask = by(&ann.token, AuthUserGetRequest { name: "ann".to_owned() });
        assert_eq!(ann.auth().user_get(ask).await.expect("herself").into_inner().roles, ["some"]);
        let ask = by(&ann.token, AuthRoleGetRequest { role: "some".to_owned() });
        assert_eq!(ann.auth().role_get(ask).await.expect("her role").into_inner().perm.len(), 2);
        refused(ann.add_role("more").await, Code::PermissionDenied, DENIED);
    }
}

#[tokio::test]
async fn transactions_leases_and_watches_are_no_way_round() {
    let (trio, _) = trio().await;
    let root = guarded(trio.channel(0).await).await;
    let ann = root.as_user("ann", "a").await;
    let mut kv = KvClient::new(ann.channel.clone());
    let op = |request| RequestOp { request: Some(request) };
    let put = |key: &'static str, prev_kv| {
        op(Op::RequestPut(PutRequest { key: Bytes::from(key), prev_kv, ..PutRequest::default() }))
    };
    let txn = |failure| by(&ann.token, TxnRequest { failure, ..TxnRequest::default() });
    kv.txn(txn(vec![put("b", true)])).await.expect("she may");
    refused(kv.txn(txn(vec![put("d", false)])).await, Code::PermissionDenied, DENIED);
    let unreadable = kv.txn(txn(vec![put("c", true)])).await;
    refused(unreadable, Code::PermissionDenied, DENIED);
    let compare = Compare { key: "x".into(), ..Compare::default() };
    let peeking = TxnRequest { compare: vec![compare], ..TxnRequest::default() };
    refused(kv.txn(by(&ann.token, peeking)).await, Code::PermissionDenied, DENIED);

    let mut leases = LeaseClient::new(ann.channel.clone());
    refused(leases.lease_grant(LeaseGrantRequest { ttl: 9, id: 1 }).await, Code::InvalidArgument, UNKNOWN);
    leases.lease_grant(by(&ann.token, LeaseGrantRequest { ttl: 9, id: 1 })).await.expect("granted");
    root.put("x", 1).await.expect("root may do everything");
    let revoke = by(&ann.token, LeaseRevokeRequest { id: 1 });
    refused(leases.lease_revoke(revoke).await, Code::PermissionDenied, DENIED);
    refused(ann.put("b", 1).await, Code::PermissionDenied, DENIED);
    let ask = by(&ann.token, LeaseTimeToLiveRequest { id: 1, keys: true });
    refused(leases.lease_time_to_live(ask).await, Code::PermissionDenied, DENIED);
    let asks = by(&ann.token, tokio_stream::once(LeaseKeepAliveRequest { id: 1 }));
    let mut answers = leases.lease_keep_alive(asks).await.expect("a stream").into_inner();
    refused(answers.next().await.expect("an answer"), Code::PermissionDenied, DENIED);

    let watch = |key: &'static str| WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
            key: Bytes::from(key),
            ..WatchCreateRequest::default()
        })),
    };
    let asks = tokio_stream::iter(vec![watch("a"), watch("x")]).chain(tokio_stream::pending());
    let told = WatchClient::new(ann.channel.clone()).watch(by(&ann.token, asks)).await;
    let mut told = told.expect("a stream").into_inner();
    let first = told.next().await.expect("an answer").expect("no error");
    assert!(first.created && !first.canceled, "{first:?}");
    let second = told.next().await.expect("an answer").expect("no error");
    assert!(second.created && second.canceled, "{second:?}");
    let text = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    assert_eq!((second.watch_id, second.cancel_reason.as_str()), (-1, text));
}

#[tokio::test]
async fn what_concerns_the_whole_cluster_is_for_root() {
    let (trio, _) = trio().await;
    let root = guarded(trio.channel(0).await).await;
    let ann = root.as_user("ann", "a").await;
    let mut service = MaintenanceClient::new(ann.channel.clone());
    refused(service.status(StatusRequest {}).await, Code::InvalidArgument, UNKNOWN);
    service.status(by(&ann.token, StatusRequest {})).await.expect("she is somebody");
    refused(service.hash_kv(by(&ann.token, HashKvRequest::default())).await, Code::PermissionDenied, DENIED);
    let snapshot = service.snapshot(by(&ann.token, SnapshotRequest {})).await.map(|_| ());
    refused(snapshot, Code::PermissionDenied, DENIED);
    refused(service.defragment(by(&ann.token, DefragmentRequest {})).await, Code::PermissionDenied, DENIED);
    let moving = service.move_leader(by(&ann.token, MoveLeaderRequest { target_id: 1 })).await;
    refused(moving, Code::PermissionDenied, DENIED);
    let raise = AlarmRequest { action: 1, member_id: 1, alarm: 1 };
    refused(service.alarm(by(&ann.token, raise)).await, Code::PermissionDenied, DENIED);
    service.alarm(by(&ann.token, AlarmRequest::default())).await.expect("she may look");
    let removing = ClusterClient::new(ann.channel.clone()).member_remove(MemberRemoveRequest { id: 1 }).await;
    refused(removing, Code::InvalidArgument, UNKNOWN);
}

#[tokio::test]
async fn a_token_ends_with_its_day_its_password_its_user_and_with_authentication() {
    let (trio, clock) = trio().await;
    let root = guarded(trio.channel(0).await).await;
    let invalid = "etcdserver: invalid auth token";
    let ann = root.as_user("ann", "a").await;
    root.add_role("unrelated").await.expect("added");
    ann.put("b", 0).await.expect("a change of something else does not matter");
    let change = AuthUserChangePasswordRequest {
        name: "ann".to_owned(),
        password: "new".to_owned(),
        ..Default::default()
    };
    root.auth().user_change_password(by(&root.token, change)).await.expect("changed");
    refused(ann.put("b", 0).await, Code::Unauthenticated, invalid);
    let ann = root.as_user("ann", "new").await;
    ann.put("b", 0).await.expect("she has a new token");
    clock.advance(Duration::from_secs(24 * 3_600));
    refused(ann.put("b", 0).await, Code::Unauthenticated, invalid);
    let (root, ann) = (root.as_user("root", "r").await, root.as_user("ann", "new").await);
    let delete = |name: &str| by(&root.token, AuthUserDeleteRequest { name: name.to_owned() });
    let text = "etcdserver: invalid auth management";
    refused(root.auth().user_delete(delete("root")).await, Code::InvalidArgument, text);
    root.auth().user_delete(delete("ann")).await.expect("deleted");
    refused(ann.put("b", 0).await, Code::Unauthenticated, invalid);
    root.auth().auth_disable(by(&root.token, AuthDisableRequest {})).await.expect("disabled");
    ann.put("anything", 0).await.expect("nobody is asked who it is");
    root.enable().await.expect("enabled again");
    refused(root.put("b", 0).await, Code::Unauthenticated, invalid);
}

#[tokio::test]
async fn what_etcd_refuses_about_users_and_roles_is_refused_in_its_words() {
    let (trio, _) = trio().await;
    let hands = Hands { channel: trio.channel(2).await, token: String::new() };
    let failed = Code::FailedPrecondition;
    refused(hands.add_user("", "x").await, Code::InvalidArgument, UNKNOWN);
    hands.add_user("ann", "a").await.expect("added");
    refused(hands.add_user("ann", "a").await, failed, "etcdserver: user name already exists");
    refused(hands.add_role("").await, Code::InvalidArgument, "etcdserver: role name is empty");
    hands.add_role("some").await.expect("added");
    refused(hands.add_role("some").await, failed, "etcdserver: role name already exists");
    refused(hands.grant("bob", "some").await, failed, "etcdserver: user name not found");
    refused(hands.grant("ann", "other").await, failed, "etcdserver: role name not found");
    hands.grant("ann", "some").await.expect("granted");
    hands.grant("ann", "some").await.expect("granted already");
    refused(hands.permit("other", 2, "k", "").await, failed, "etcdserver: role name not found");
    let invalid = "etcdserver: invalid auth management";
    refused(hands.permit("some", 2, "", "").await, Code::InvalidArgument, invalid);
    refused(hands.permit("some", 2, "b", "a").await, Code::InvalidArgument, invalid);
    let nothing = AuthRoleGrantPermissionRequest { name: "some".to_owned(), perm: None };
    let text = "etcdserver: permission not given";
    refused(hands.auth().role_grant_permission(nothing).await, Code::InvalidArgument, text);
    let revoke =
        AuthRoleRevokePermissionRequest { role: "some".to_owned(), key: "k".into(), ..Default::default() };
    let text = "etcdserver: permission is not granted to the role";
    refused(hands.auth().role_revoke_permission(revoke).await, failed, text);
    let revoke = AuthUserRevokeRoleRequest { name: "ann".to_owned(), role: "other".to_owned() };
    let text = "etcdserver: role is not granted to the user";
    refused(hands.auth().user_revoke_role(revoke).await, failed, text);
    hands.auth().role_delete(AuthRoleDeleteRequest { role: "some".to_owned() }).await.expect("deleted");
    let ann = hands.auth().user_get(AuthUserGetRequest { name: "ann".to_owned() }).await.expect("told");
    assert!(ann.into_inner().roles.is_empty(), "a deleted role is held by nobody");
    let names = hands.auth().user_list(AuthUserListRequest {}).await.expect("told").into_inner().users;
    assert_eq!(names, ["ann"]);
    let options = Some(UserAddOptions { no_password: true });
    let added = AuthUserAddRequest { name: "cert".to_owned(), options, ..AuthUserAddRequest::default() };
    hands.auth().user_add(added).await.expect("added");
    let long = "x".repeat(80);
    let status = hands.add_user("long", &long).await.expect_err("bcrypt would cut it");
    assert_eq!(status.code(), Code::Unknown);
}
