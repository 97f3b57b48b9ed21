//! etcd's member commands: told as etcd tells them where it refuses, and refused where a fixed cluster of three
//! zones has nothing to do for them.

use std::process::Command;

use serde_json::Value;
use tests::{DevCluster, Etcd, Ran, hongbao, run};

fn etcdctl(endpoint: &str, words: &[&str]) -> Ran {
    let endpoint = format!("--endpoints={endpoint}");
    run(Command::new("etcdctl").env("ETCDCTL_API", "3").arg(endpoint).args(words))
}

struct Member {
    /// As command lines want it.
    id: String,
    url: String,
}

fn members(endpoint: &str) -> Vec<Member> {
    let list = etcdctl(endpoint, &["member", "list", "-w", "json"]).expect(0).json();
    let members = list["members"].as_array().expect("members").iter().map(|member| Member {
        id: format!("{:x}", member["ID"].as_u64().expect("an id")),
        url: member["peerURLs"][0].as_str().expect("a URL").to_owned(),
    });
    members.collect()
}

/// What a command line comes to, with the names of this cluster and this member taken out.
fn told(endpoint: &str, own: &Member, line: &str) -> String {
    let line = line.replace("OWN-ID", &own.id).replace("OWN-URL", &own.url);
    let ran = etcdctl(endpoint, &line.split(' ').collect::<Vec<_>>());
    let error = ran.err.lines().find(|line| line.starts_with("Error")).unwrap_or_default();
    // Ids are padded to one width; a cluster's id is its own.
    let words: Vec<&str> = ran.out.split_whitespace().take_while(|word| *word != "in").collect();
    let out = words.join(" ");
    format!("{line}\n  exit {}: {out}{error}", ran.code)
        .replace(&own.id, "OWN-ID")
        .replace(&own.url, "OWN-URL")
}

#[test]
fn etcds_member_commands_are_refused_in_its_order_and_words() {
    let (cluster, etcd) = (DevCluster::up(), Etcd::start());
    let ours = cluster.field("b1", "etcd");
    let (mine, theirs) = (members(&ours), members(&etcd.endpoint));
    for line in [
        "member add again --peer-urls=OWN-URL",
        "member add again --learner --peer-urls=OWN-URL",
        "member add nowhere --peer-urls=no-url",
        "member add nowhere --peer-urls=http://no-port",
        "member remove abcdef",
        "member update abcdef --peer-urls=http://127.0.0.1:1",
        "member update OWN-ID --peer-urls=no-url",
        "member update OWN-ID --peer-urls=OWN-URL",
        "member promote abcdef",
        "member promote OWN-ID",
    ] {
        assert_eq!(told(&ours, &mine[1], line), told(&etcd.endpoint, &theirs[0], line));
    }
}

#[test]
fn what_would_change_the_number_of_voters_is_refused_and_changes_nothing() {
    let cluster = DevCluster::up();
    let before = members(&cluster.field("a1", "etcd"));
    let other = &before[2].url;
    let refused = [
        ("member add d1 --peer-urls=http://127.0.0.1:1".to_owned(), "not enough started members"),
        ("member add d1 --learner --peer-urls=http://127.0.0.1:1".to_owned(), "too many learner members"),
        (format!("member remove {}", before[2].id), "not enough started members"),
        (format!("member update {} --peer-urls={other}", before[1].id), "Peer URLs already exists"),
        (
            format!("member update {} --peer-urls=http://127.0.0.1:1", before[1].id),
            "given member URLs are invalid",
        ),
    ];
    for (number, (line, why)) in refused.iter().enumerate() {
        let endpoint = cluster.field(["a1", "b1", "c1"][number % 3], "etcd");
        let ran = etcdctl(&endpoint, &line.split(' ').collect::<Vec<_>>());
        assert!(ran.code != 0 && ran.err.contains(why), "{line}: {} {}", ran.code, ran.err);
    }
    let after = members(&cluster.field("c1", "etcd"));
    let ids = |members: &[Member]| members.iter().map(|member| member.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&before), ids(&after));
    let groups = hongbao(&["kv", "member", "list", "--dir", cluster.dir(), "-o", "json"]).expect(0).json();
    for group in groups["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .flat_map(|node| node["leads"].as_array().expect("groups"))
    {
        let voters = group["members"].as_array().expect("members").iter();
        assert_eq!(voters.filter(|member| member["votes"] == Value::Bool(true)).count(), 3, "{group}");
    }
}
