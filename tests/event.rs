//! An event run by hand, command by command, as an operator would: what users get while it runs,
//! and what a leaked key means.

use serde_json::Value;
use tests::{DevCluster, eventually, hongbao, path, post, sample_event};

struct Event {
    cluster: DevCluster,
    dir: tempfile::TempDir,
}

impl Event {
    /// The sample event, active, in one long slot that has begun.
    fn running() -> Event {
        let cluster = DevCluster::up();
        let dir = tempfile::tempdir().expect("tempdir");
        let event = Event { cluster, dir };
        let build = event.dir.path().join("build");
        let (budget, script) = (sample_event().join("budget.csv"), sample_event().join("script.toml"));
        let inputs = ["--budget", path(&budget), "--script", path(&script)];
        let words = ["plan", "build", "--scheme", "A", "--seed", "3", "--out", path(&build)];
        hongbao(&[&words[..], &inputs[..]].concat()).expect(0);
        event.operate(&["deploy", "keys", "--build", path(&build)]);
        event.operate(&["deploy", "push", "--build", path(&build)]);
        let schedule = ["--start-in", "1", "--slot", "600"];
        event.operate(&[&["deploy", "activate", "--build", path(&build)][..], &schedule[..]].concat());
        event
    }

    fn operate(&self, words: &[&str]) -> Value {
        let place = ["--dir", self.cluster.dir(), "-o", "json"];
        hongbao(&[words, &place[..]].concat()).expect(0).json()
    }

    fn token(&self, user: u64) -> String {
        let user = user.to_string();
        let issued = hongbao(&["token", "issue", "--dir", self.cluster.dir(), "--user", &user]);
        issued.expect(0).out.trim().to_owned()
    }

    fn post(&self, node: &str, what: &str, token: &str, body: &Value) -> (u16, Value) {
        post(&self.cluster.field(node, "edge"), what, Some(token), &body.to_string())
    }

    /// A ticket of this user, as soon as there is one.
    fn ticket(&self, user: u64, token: &str) -> String {
        let node = ["a1", "b1", "c1"][user as usize % 3];
        eventually("a user shakes a packet", || {
            let (status, shaken) = self.post(node, "/v1/shake", token, &serde_json::json!({}));
            assert_eq!(status, 200, "{shaken}");
            shaken["ticket"].as_str().filter(|_| shaken["outcome"] == "packet").map(str::to_owned)
        })
    }

    /// Opens until the answer is `status`; answers its body.
    fn open_until(&self, token: &str, ticket: &str, status: u16) -> Value {
        eventually(&format!("an open is answered with {status}"), || {
            let (found, body) = self.post("c1", "/v1/open", token, &serde_json::json!({ "ticket": ticket }));
            (found == status).then_some(body)
        })
    }
}

#[test]
fn a_revoked_key_opens_nothing_until_it_is_activated_again() {
    let event = Event::running();
    let (token, other) = (event.token(7), event.token(8));
    let (before, after) = (event.ticket(7, &token), event.ticket(8, &other));
    let opened = event.open_until(&token, &before, 200);
    assert_eq!(opened["status"], "opened");

    let usable = event.operate(&["key", "list"])["usable"].as_u64().expect("a count");
    let all: Vec<String> = (1..=usable).map(|key| key.to_string()).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let revoked = event.operate(&[&["key", "revoke", "--yes"][..], &all[..]].concat());
    assert_eq!((revoked["usable"].as_u64(), revoked["changed"].as_bool()), (Some(0), Some(true)));
    let refused = event.open_until(&other, &after, 403);
    assert_eq!(refused["error"]["retryable"], false, "{refused}");

    let unknown = (usable + 1).to_string();
    let ran = hongbao(&["key", "revoke", &unknown, "--yes", "--dir", event.cluster.dir()]).expect(2);
    assert!(ran.err.contains("its keys are 1 to"), "{}", ran.err);
    hongbao(&["key", "revoke", "1", "--dir", event.cluster.dir()]).expect(2);

    let again = event.operate(&[&["key", "activate", "--yes"][..], &all[..]].concat());
    assert_eq!(again["usable"].as_u64(), Some(usable));
    let opened = event.open_until(&other, &after, 200);
    assert!(opened["amount_fen"].as_u64().is_some_and(|fen| fen > 0), "{opened}");
}

#[test]
fn an_open_is_repeated_with_the_same_answer_and_is_nobody_elses() {
    let event = Event::running();
    let (token, other) = (event.token(7), event.token(8));
    let ticket = event.ticket(7, &token);
    let opened = event.open_until(&token, &ticket, 200);
    assert_eq!(event.open_until(&token, &ticket, 200), opened, "asking again changes nothing");
    let (status, stolen) = event.post("a1", "/v1/open", &other, &serde_json::json!({ "ticket": ticket }));
    assert!((400..500).contains(&status) && stolen["error"]["retryable"] == false, "{status} {stolen}");
    for at in 0..ticket.len() {
        let mut altered = ticket.clone().into_bytes();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(altered).expect("ASCII");
        let (status, refused) =
            event.post("b1", "/v1/open", &token, &serde_json::json!({ "ticket": altered }));
        assert!((400..500).contains(&status), "character {at} altered: {status} {refused}");
    }
    let id = opened["packet_id"].as_str().expect("an id");
    eventually("the packet is settled", || {
        (hongbao(&["packet", "trace", id, "--dir", event.cluster.dir()]).code == 0).then_some(())
    });
}
