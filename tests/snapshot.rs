//! A snapshot of the keys of etcd's clients, and a new cluster that begins with it.

use std::path::Path;
use std::process::Command;

use tests::{DevCluster, Ran, free_base_port, hongbao, path, run};

fn etcdctl(cluster: &DevCluster, node: &str, words: &[&str]) -> Ran {
    let endpoint = format!("--endpoints=http://{}", cluster.field(node, "etcd"));
    run(Command::new("etcdctl").arg(endpoint).args(["--command-timeout=5s"]).args(words))
}

fn cluster_id(cluster: &DevCluster) -> serde_json::Value {
    etcdctl(cluster, "a1", &["get", "none", "-w", "json"]).expect(0).json()["header"]["cluster_id"].clone()
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).map_or(true, |mut files| files.next().is_none())
}

#[test]
fn a_restored_cluster_holds_what_was_saved_goes_on_from_there_and_is_another_cluster() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("kv.snapshot");
    let old = DevCluster::up();
    for number in 0..50 {
        etcdctl(&old, "a1", &["put", &format!("k/{number:02}"), &format!("v{number}")]).expect(0);
    }
    etcdctl(&old, "b1", &["put", "k/00", "changed"]).expect(0);
    etcdctl(&old, "b1", &["del", "k/49"]).expect(0);
    etcdctl(&old, "c1", &["lease", "grant", "600"]).expect(0);
    let saved =
        hongbao(&["kv", "snapshot", "save", path(&file), "--dir", old.dir(), "-o", "json"]).expect(0).json();
    assert_eq!(saved["revision"], 53, "{saved}");
    etcdctl(&old, "a1", &["put", "k/later", "x"]).expect(0);

    let into = tempfile::tempdir().expect("a directory");
    let port = free_base_port().to_string();
    let restore =
        ["kv", "snapshot", "restore", path(&file), "--dir", path(into.path()), "--base-port", &port];
    let restored = hongbao(&[&restore[..], &["-o", "json"]].concat()).expect(0).json();
    assert_eq!(restored["disks"].as_array().map(Vec::len), Some(3), "{restored}");
    let mut new = DevCluster::up_in(into, &[]);
    assert_ne!(cluster_id(&old), cluster_id(&new), "a restored cluster is taken for the one it came from");
    for node in ["a1", "b1", "c1"] {
        let keys = etcdctl(&new, node, &["get", "k/", "--prefix", "--keys-only"]).expect(0).out;
        assert_eq!(keys.split_whitespace().count(), 49, "{node}: {keys}");
        assert_eq!(etcdctl(&new, node, &["get", "k/00", "--print-value-only"]).expect(0).out, "changed\n");
        let before = etcdctl(&new, node, &["get", "k/00", "--rev=51", "--print-value-only"]).expect(0).out;
        assert_eq!(before, "v0\n", "its history came along");
        assert_eq!(etcdctl(&new, node, &["get", "k/later"]).expect(0).out, "");
    }
    let leases = etcdctl(&new, "b1", &["lease", "list"]).expect(0).out;
    assert!(leases.contains("found 1 leases"), "{leases}");
    let put = etcdctl(&new, "c1", &["put", "k/new", "y", "-w", "json"]).expect(0).json();
    assert_eq!(put["header"]["revision"], 54, "{put}");
    // It survives what any cluster survives, and the old one knows nothing of it.
    new.kill("a1");
    etcdctl(&new, "b1", &["put", "k/newer", "z"]).expect(0);
    new.up_again();
    assert_eq!(etcdctl(&new, "a1", &["get", "k/newer", "--print-value-only"]).expect(0).out, "z\n");
    assert_eq!(etcdctl(&old, "a1", &["get", "k/new"]).expect(0).out, "");
    // What etcd's own command line saves is the same file.
    let theirs = home.path().join("theirs");
    etcdctl(&new, "b1", &["snapshot", "save", path(&theirs)]).expect(0);
    let status = hongbao(&["kv", "snapshot", "status", path(&theirs), "-o", "json"]).expect(0).json();
    assert_eq!(status["revision"], 55, "{status}");
}

#[test]
fn an_altered_file_is_refused_before_anything_is_written_and_nothing_is_overwritten() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("kv.snapshot");
    let cluster = DevCluster::up();
    etcdctl(&cluster, "a1", &["put", "k", "v"]).expect(0);
    hongbao(&["kv", "snapshot", "save", path(&file), "--dir", cluster.dir()]).expect(0);
    let into = home.path().join("new");
    let port = free_base_port().to_string();
    let restore = |file: &Path, into: &Path| {
        hongbao(&["kv", "snapshot", "restore", path(file), "--dir", path(into), "--base-port", &port])
    };
    let whole = std::fs::read(&file).expect("readable");
    let altered = home.path().join("altered");
    for (bytes, why) in [
        (whole[..whole.len() - 100].to_vec(), "cut off"),
        (
            whole.iter().enumerate().map(|(at, byte)| if at == 40 { byte ^ 1 } else { *byte }).collect(),
            "digest",
        ),
    ] {
        std::fs::write(&altered, bytes).expect("written");
        let refused = restore(&altered, &into).expect(8);
        assert!(refused.err.contains(why) && refused.err.contains(path(&altered)), "{}", refused.err);
        assert!(is_empty(&into), "something was written for a file that is {why}");
        hongbao(&["kv", "snapshot", "status", path(&altered)]).expect(8);
    }
    restore(&home.path().join("missing"), &into).expect(3);
    std::fs::create_dir(&into).expect("made");
    std::fs::write(into.join("mine"), "kept").expect("written");
    let refused = restore(&file, &into).expect(4);
    assert!(refused.err.contains("is not empty"), "{}", refused.err);
    assert_eq!(std::fs::read_to_string(into.join("mine")).expect("there"), "kept");
    std::fs::remove_file(into.join("mine")).expect("removed");
    // Nodes and settings of another description; secrets stay where they are.
    let described = Path::new(cluster.dir()).join("cluster.toml");
    let words =
        ["kv", "snapshot", "restore", path(&file), "--dir", path(&into), "--cluster", path(&described)];
    let restored = hongbao(&[&words[..], &["-o", "json"]].concat()).expect(0).json();
    let text = std::fs::read_to_string(into.join("cluster.toml")).expect("there");
    let old = std::fs::read_to_string(&described).expect("there");
    assert!(text.contains(restored["cluster_id"].as_str().expect("an id")), "{text}");
    assert!(!old.contains(restored["cluster_id"].as_str().expect("an id")), "{old}");
    assert!(into.join("b1/member.json").exists() && into.join("c1/log-db").is_dir());
}

#[test]
fn with_authentication_only_root_saves_a_snapshot() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("kv.snapshot");
    let cluster = DevCluster::up();
    etcdctl(&cluster, "a1", &["user", "add", "root:secret"]).expect(0);
    etcdctl(&cluster, "a1", &["user", "grant-role", "root", "root"]).expect(0);
    etcdctl(&cluster, "a1", &["auth", "enable"]).expect(0);
    let save = ["kv", "snapshot", "save", path(&file), "--dir", cluster.dir()];
    let refused = hongbao(&save).expect(5);
    assert!(refused.err.contains("--user"), "{}", refused.err);
    hongbao(&[&save[..], &["--user", "root:wrong"]].concat()).expect(5);
    assert!(!file.exists());
    hongbao(&[&save[..], &["--user", "root:secret"]].concat()).expect(0);
    hongbao(&["kv", "snapshot", "status", path(&file)]).expect(0);
}
