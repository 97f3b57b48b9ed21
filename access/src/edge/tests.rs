//! The edge as clients see it: HTTP/1.1 and gRPC against the router, over a real node, with an
//! opener of the test.

use std::sync::atomic::{AtomicBool, Ordering};

use ::http::{Request, StatusCode, header};
use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kvsvr::api::Kv;
use kvsvr::testing::LocalKv;
use serde_json::{Value, json};
use ticket::sign::SigningKey;
use tokio::sync::Notify;
use tower::ServiceExt;
use world::UnixMs;
use world::clock::ManualClock;

use super::*;
use crate::edge::http::BODY_LEN_MAX;
use crate::edge::proto::edge_client::EdgeClient;
use crate::edge::proto::{OpenRequest, Outcome, ShakeRequest};
use crate::opener::OpenRefused;
use crate::rules::RULES_KEY;
use crate::testkit::{Deployment, eventually};

/// 2026-02-16T12:00:00Z, when the first slot starts; it has two packets, the second slot none.
const START: UnixMs = UnixMs(1_771_243_200_000);
const SLOT_MS: u64 = 60_000;
const USER: u64 = 42;

/// Opens what it can unseal; waits first, when told to.
struct TestOpener {
    unsealer: ticket::seal::Unsealer,
    slow: AtomicBool,
    entered: Notify,
    go_on: Notify,
}

#[async_trait]
impl Opener for TestOpener {
    async fn open(&self, user: u64, ticket: &[u8]) -> Result<Opened, OpenRefused> {
        if self.slow.load(Ordering::SeqCst) {
            self.entered.notify_one();
            self.go_on.notified().await;
        }
        match self.unsealer.open(UserId(user), ticket) {
            Ok((issue, _)) => Ok(Opened {
                packet_id: format!("p{}", issue.index),
                amount_fen: 123 + u64::from(issue.index),
            }),
            Err(_) => {
                let message = "The ticket is not valid.".to_owned();
                Err(OpenRefused { code: "bad_ticket", message, retryable: false })
            }
        }
    }
}

struct Scene {
    router: Router,
    edge: Arc<Edge>,
    opener: Arc<TestOpener>,
    clock: Arc<ManualClock>,
    kv: Arc<LocalKv>,
    session: SigningKey,
    _deployment: Deployment,
}

impl Scene {
    /// An edge before the first slot; `change` may change its configuration.
    async fn new(change: impl FnOnce(&mut EdgeConfig)) -> Scene {
        let deployment = Deployment::new(&[(0, &["a1"], 2), (1, &["a1"], 1)], START, SLOT_MS);
        let kv = Arc::new(LocalKv::new(1));
        deployment.activate(&kv).await;
        let clock = Arc::new(ManualClock::at(UnixMs(START.0 - 500)));
        let node = deployment.start("a1", Arc::clone(&kv) as Arc<dyn Kv>, &clock);
        let opener = Arc::new(TestOpener {
            unsealer: deployment.unsealer(),
            slow: AtomicBool::new(false),
            entered: Notify::new(),
            go_on: Notify::new(),
        });
        let session = SigningKey::from_bytes([2; 32]);
        let mut config = EdgeConfig::new(session.verifying_key());
        change(&mut config);
        let edge = Edge::new(config, node, Arc::clone(&opener) as Arc<dyn Opener>, Arc::clone(&clock) as _);
        eventually("the file is claimed", || {
            edge.node().status().files.iter().any(|file| file.claimed_by.is_some())
        })
        .await;
        Scene { router: router(Arc::clone(&edge)), edge, opener, clock, kv, session, _deployment: deployment }
    }

    fn in_slot(self) -> Scene {
        self.clock.advance(Duration::from_millis(1_000));
        self
    }

    fn token(&self, user: u64) -> String {
        let expires = UnixMs(START.0 + 10 * SLOT_MS);
        format!("Bearer {}", ticket::token::issue(&self.session, UserId(user), expires))
    }

    async fn send(&self, method: &str, path: &str, token: Option<&str>, body: &[u8]) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path).version(::http::Version::HTTP_11);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, token);
        }
        let request = request.body(Body::from(body.to_vec())).expect("a request");
        let response = self.router.clone().oneshot(request).await.expect("infallible");
        let status = response.status();
        let retryable = response.headers().contains_key(header::RETRY_AFTER);
        assert_eq!(retryable, status == StatusCode::SERVICE_UNAVAILABLE, "retry-after at {status}");
        let bytes = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (status, serde_json::from_slice(&bytes).expect("a JSON body"))
    }

    async fn shake(&self) -> Value {
        let (status, body) = self.send("POST", "/v1/shake", Some(&self.token(USER)), b"").await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    }

    async fn ticket(&self) -> String {
        self.shake().await["ticket"].as_str().expect("a packet").to_owned()
    }

    async fn open(&self, user: u64, ticket: &str) -> (StatusCode, Value) {
        let body = json!({ "ticket": ticket }).to_string();
        self.send("POST", "/v1/open", Some(&self.token(user)), body.as_bytes()).await
    }

    /// Puts rules with an interval in force for a user who has just shaken.
    async fn rules(&self, rules: Value) {
        self.kv.put(RULES_KEY.as_bytes(), rules.to_string().as_bytes()).await.expect("put");
        eventually("the rules are in force", || {
            matches!(self.edge.shake(UserId(USER), None), Shaken::Throttled { .. })
        })
        .await;
    }
}

#[track_caller]
fn check_refused((status, body): (StatusCode, Value), want: StatusCode, code: &str, retryable: bool) {
    assert_eq!((status, &body["error"]["code"]), (want, &json!(code)), "{body}");
    assert_eq!(body["error"]["retryable"], json!(retryable));
    assert!(body["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    let fields: Vec<&String> = body["error"].as_object().expect("an object").keys().collect();
    assert_eq!((body.as_object().expect("an object").len(), fields.len()), (1, 3), "{body}");
}

fn fields(body: &Value) -> Vec<&str> {
    body.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[tokio::test]
async fn a_shake_answers_each_outcome_with_its_own_fields() {
    let scene = Scene::new(|_| {}).await;
    assert_eq!(scene.shake().await, json!({"outcome": "closed", "next_slot_at": "2026-02-16T12:00:00Z"}));
    let scene = scene.in_slot();
    for _ in 0..2 {
        let packet = scene.shake().await;
        assert_eq!(
            (fields(&packet), &packet["outcome"]),
            (vec!["history", "outcome", "ticket"], &json!("packet"))
        );
        let ticket = URL_SAFE_NO_PAD.decode(packet["ticket"].as_str().expect("text")).expect("base64url");
        assert_eq!(ticket.len(), SEALED_LEN);
    }
    assert_eq!(scene.shake().await, json!({"outcome": "nothing"}));
    let pages = json!([{"page": "logo", "weight": 1}]);
    scene.rules(json!({"format": 1, "user_interval_ms": 700, "pages": pages})).await;
    assert_eq!(scene.shake().await, json!({"outcome": "throttled", "retry_after_ms": 700}));
    scene.clock.advance(Duration::from_millis(700));
    assert_eq!(scene.shake().await, json!({"outcome": "page", "page": "logo"}));
    scene.clock.advance(Duration::from_millis(2 * SLOT_MS));
    assert_eq!(scene.shake().await, json!({"outcome": "closed"}), "after the last slot");
}

#[tokio::test]
async fn a_history_is_carried_in_the_body_and_a_foreign_one_is_counted() {
    let scene = Scene::new(|_| {}).await.in_slot();
    let history = scene.shake().await["history"].clone();
    let carried = json!({ "history": history }).to_string();
    let other = scene.send("POST", "/v1/shake", Some(&scene.token(7)), carried.as_bytes()).await;
    assert_eq!(other.0, StatusCode::OK);
    assert_eq!(scene.edge.node().counters().read().history_rejected, 1);
}

#[tokio::test]
async fn an_open_answers_the_packet_and_its_amount() {
    let scene = Scene::new(|_| {}).await.in_slot();
    let ticket = scene.ticket().await;
    let want = json!({"status": "opened", "packet_id": "p0", "amount_fen": 123});
    for _ in 0..2 {
        assert_eq!(scene.open(USER, &ticket).await, (StatusCode::OK, want.clone()));
    }
    assert_eq!(scene.edge.node().counters().read().opens["opened"], 2);
}

#[tokio::test]
async fn a_ticket_altered_or_brought_by_another_user_gets_the_openers_code() {
    let scene = Scene::new(|_| {}).await.in_slot();
    let ticket = scene.ticket().await;
    let mut altered = URL_SAFE_NO_PAD.decode(&ticket).expect("base64url");
    altered[40] ^= 1;
    let bad = |answer| check_refused(answer, StatusCode::BAD_REQUEST, "bad_ticket", false);
    bad(scene.open(USER, &URL_SAFE_NO_PAD.encode(altered)).await);
    bad(scene.open(USER + 1, &ticket).await);
    for text in ["", "not base64!", &ticket[1..], &format!("{ticket}AAAA")] {
        bad(scene.open(USER, text).await);
    }
}

#[tokio::test]
async fn without_a_valid_token_nothing_is_served() {
    let scene = Scene::new(|_| {}).await.in_slot();
    let good = scene.token(USER);
    let mut forged = good.clone();
    forged.replace_range(20..21, if &good[20..21] == "A" { "B" } else { "A" });
    for path in ["/v1/shake", "/v1/open"] {
        for token in [None, Some("Bearer"), Some("Bearer "), Some("Basic abc"), Some(forged.as_str())] {
            let answer = scene.send("POST", path, token, b"").await;
            check_refused(answer, StatusCode::UNAUTHORIZED, "unauthorized", false);
        }
    }
    assert_eq!(scene.edge.node().counters().read().unauthorized, 10);
    scene.shake().await;
    scene.clock.advance(Duration::from_millis(10 * SLOT_MS));
    let answer = scene.send("POST", "/v1/shake", Some(&good), b"").await;
    check_refused(answer, StatusCode::UNAUTHORIZED, "token_expired", false);
}

#[tokio::test]
async fn what_is_no_call_is_refused_with_its_reason() {
    let scene = Scene::new(|_| {}).await.in_slot();
    let token = scene.token(USER);
    let send = |method, path, body: &'static [u8]| scene.send(method, path, Some(&token), body);
    for body in [&b"{"[..], b"[]", b"\xff", br#"{"history":1}"#] {
        check_refused(send("POST", "/v1/shake", body).await, StatusCode::BAD_REQUEST, "bad_request", false);
    }
    for body in [&b""[..], b"{}", br#"{"ticket":7}"#] {
        check_refused(send("POST", "/v1/open", body).await, StatusCode::BAD_REQUEST, "bad_request", false);
    }
    let large = vec![b' '; BODY_LEN_MAX + 1];
    for path in ["/v1/shake", "/v1/open"] {
        let answer = scene.send("POST", path, Some(&token), &large).await;
        check_refused(answer, StatusCode::PAYLOAD_TOO_LARGE, "too_large", false);
        let answer = send("GET", path, b"").await;
        check_refused(answer, StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", false);
    }
    check_refused(send("POST", "/v2/shake", b"").await, StatusCode::NOT_FOUND, "not_found", false);
    assert_eq!(send("GET", "/healthz", b"").await, (StatusCode::OK, json!({"status": "ok"})));
}

#[tokio::test]
async fn an_open_beyond_the_limit_is_shed_and_may_be_repeated() {
    let scene = Scene::new(|config| config.opens_max = 1).await.in_slot();
    let ticket = scene.ticket().await;
    scene.opener.slow.store(true, Ordering::SeqCst);
    let second = async {
        scene.opener.entered.notified().await;
        let answer = scene.open(USER, &ticket).await;
        scene.opener.go_on.notify_one();
        answer
    };
    let (first, second) = tokio::join!(scene.open(USER, &ticket), second);
    assert_eq!(first.0, StatusCode::OK);
    check_refused(second, StatusCode::SERVICE_UNAVAILABLE, "overloaded", true);
    scene.opener.slow.store(false, Ordering::SeqCst);
    assert_eq!(scene.open(USER, &ticket).await.0, StatusCode::OK);
}

#[tokio::test]
async fn an_open_without_an_answer_in_time_is_unknown_and_may_be_repeated() {
    let scene = Scene::new(|config| config.open_timeout = Duration::from_millis(10)).await.in_slot();
    let ticket = scene.ticket().await;
    scene.opener.slow.store(true, Ordering::SeqCst);
    check_refused(scene.open(USER, &ticket).await, StatusCode::SERVICE_UNAVAILABLE, "unknown", true);
}

#[tokio::test]
async fn grpc_answers_the_same_on_the_same_router() {
    let scene = Scene::new(|_| {}).await;
    let mut client = EdgeClient::new(scene.router.clone());
    let token = scene.token(USER);
    fn call<T>(message: T, token: &str) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("authorization", token.parse().expect("ASCII"));
        request
    }
    let closed = client.shake(call(ShakeRequest::default(), &token)).await.expect("closed").into_inner();
    assert_eq!((closed.outcome(), closed.next_slot_at_ms), (Outcome::Closed, START.0));
    let scene = scene.in_slot();
    let packet = client.shake(call(ShakeRequest::default(), &token)).await.expect("a packet").into_inner();
    assert_eq!(packet.outcome(), Outcome::Packet);
    let open = OpenRequest { ticket: packet.ticket.clone() };
    let opened = client.open(call(open, &token)).await.expect("opened").into_inner();
    assert_eq!((opened.packet_id.as_str(), opened.amount_fen), ("p0", 123));
    let over_http = scene.open(USER, &URL_SAFE_NO_PAD.encode(&packet.ticket)).await;
    assert_eq!(over_http.1["packet_id"], "p0");

    let refused = client.open(call(OpenRequest::default(), &token)).await.expect_err("no ticket");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert_eq!(refused.metadata().get("hongbao-code").expect("a code"), "bad_ticket");
    assert_eq!(refused.metadata().get("hongbao-retryable").expect("a word"), "false");
    let refused = client.shake(tonic::Request::new(ShakeRequest::default())).await.expect_err("no token");
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
}
