//! A node's log after a power cut, and after rot: what starts by itself, what an operator mends, and what
//! only another disk mends.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tests::{DevCluster, Ran, hongbao, path, program, run, within};

const BLOCK: u64 = 32 << 10;

fn etcdctl(cluster: &DevCluster, node: &str, words: &[&str]) -> Ran {
    let endpoint = format!("--endpoints=http://{}", cluster.field(node, "etcd"));
    run(Command::new("etcdctl").arg(endpoint).args(["--command-timeout=5s"]).args(words))
}

/// The data directory of c1, which is ended, and the write-ahead file that holds its log.
fn ended(cluster: &DevCluster) -> (PathBuf, PathBuf) {
    cluster.kill("c1");
    let dir = Path::new(cluster.dir()).join("c1");
    let files = std::fs::read_dir(dir.join("log-db")).expect("a log").flatten().map(|file| file.path());
    let wal = files.filter(|file| file.extension().is_some_and(|end| end == "log")).max().expect("a WAL");
    (dir, wal)
}

/// Appends what a power cut may leave of a record of `length` bytes that was under way: a right header, and
/// `data`.
fn append_torn(wal: &Path, length: u16, data: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(wal).expect("writable");
    let at = file.metadata().expect("there").len();
    assert!(at % BLOCK + 7 + u64::from(length) < BLOCK, "a record of this length needs another block");
    let [low, high] = length.to_le_bytes();
    let record = [&[1, 2, 3, 4, low, high, 1], data].concat();
    file.write_all_at(&record, at).expect("written");
}

fn serve_refused(cluster: &DevCluster, code: i32) -> Ran {
    let file = Path::new(cluster.dir()).join("cluster.toml");
    hongbao(&["serve", "--cluster", path(&file), "--node", "c1"]).expect(code)
}

fn filled() -> DevCluster {
    let cluster = DevCluster::up();
    for number in 0..30 {
        etcdctl(&cluster, "a1", &["put", &format!("kept/{number:02}"), "v"]).expect(0);
    }
    cluster
}

fn holds_everything(cluster: &DevCluster, node: &str) -> bool {
    let found = etcdctl(cluster, node, &["get", "kept/", "--prefix", "--keys-only"]);
    found.code == 0 && found.out.split_whitespace().count() == 30
}

/// Where the power went away.
enum Tear {
    /// The file's length was written before its data, of which some sectors are there.
    Zeros,
    Within,
    AfterHeader,
}

/// The data of a record of `length` bytes that will stand at the file's end, and of which only the first sector
/// was written.
fn written_up_to_a_sector(wal: &Path, length: usize) -> Vec<u8> {
    let at = std::fs::metadata(wal).expect("there").len() as usize + 7;
    let written = at.next_multiple_of(512) - at;
    let mut data = vec![7; written];
    data.resize(length, 0);
    data
}

/// All three at once: nobody is left to replace from.
#[test]
fn three_logs_torn_by_one_power_cut_start_again_by_themselves() {
    let mut cluster = filled();
    for node in ["a1", "b1", "c1"] {
        cluster.kill(node);
    }
    for (node, tear) in [("a1", Tear::Zeros), ("b1", Tear::Within), ("c1", Tear::AfterHeader)] {
        let logs = std::fs::read_dir(Path::new(cluster.dir()).join(node).join("log-db")).expect("a log");
        let wals = logs.flatten().map(|file| file.path());
        let wal = wals.filter(|file| file.extension().is_some_and(|end| end == "log")).max().expect("a WAL");
        let data = match tear {
            Tear::Zeros => written_up_to_a_sector(&wal, 2_000),
            Tear::Within => vec![7; 100],
            Tear::AfterHeader => Vec::new(),
        };
        append_torn(&wal, 2_000, &data);
    }
    cluster.up_again();
    for node in ["a1", "b1", "c1"] {
        assert!(holds_everything(&cluster, node), "{node}");
    }
}

#[test]
fn garbage_at_the_end_of_a_log_is_refused_looked_at_and_trimmed() {
    let mut cluster = filled();
    let (dir, wal) = ended(&cluster);
    let sound = hongbao(&["kv", "log", "inspect", path(&dir), "-o", "json"]).expect(0).json();
    assert_eq!(sound["sound"], true, "{sound}");
    append_torn(&wal, 200, &[9; 200]);
    let refused = serve_refused(&cluster, 8);
    assert!(
        refused.err.contains("kv log trim") && refused.err.contains("kv member replace"),
        "{}",
        refused.err
    );
    let looked = hongbao(&["kv", "log", "inspect", path(&dir), "-o", "json"]).expect(8).json();
    let length = std::fs::metadata(&wal).expect("there").len();
    let files = looked["files"].as_array().expect("files");
    let damage = files.iter().find_map(|file| file["damage"].as_object()).expect("damage");
    assert_eq!(damage["from"], length - 207, "{looked}");
    let asked = hongbao(&["kv", "log", "trim", path(&dir)]).expect(7);
    assert!(asked.err.contains("--yes"), "{}", asked.err);
    assert_eq!(std::fs::metadata(&wal).expect("there").len(), length, "a refusal changes nothing");
    let trimmed = hongbao(&["kv", "log", "trim", path(&dir), "--yes", "-o", "json"]).expect(0).json();
    assert_eq!(trimmed["cuts"][0]["cut_bytes"], 207, "{trimmed}");
    let again = hongbao(&["kv", "log", "trim", path(&dir), "--yes", "-o", "json"]).expect(0).json();
    assert_eq!(again["cuts"].as_array().map(Vec::len), Some(0), "{again}");
    cluster.up_again();
    assert!(holds_everything(&cluster, "c1"));
    let held = hongbao(&["kv", "log", "trim", path(&dir), "--yes"]).expect(4);
    assert!(held.err.contains("stop the node"), "{}", held.err);
    // What is being written looks torn.
    hongbao(&["kv", "log", "inspect", path(&dir)]).expect(4);
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_bit_flipped_in_the_middle_of_a_log_is_refused_and_the_member_is_replaced() {
    let cluster = filled();
    let (dir, wal) = ended(&cluster);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&wal).expect("writable");
    let middle = file.metadata().expect("there").len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).expect("inside");
    file.write_all_at(&[byte[0] ^ 0x20], middle).expect("written");
    let refused = serve_refused(&cluster, 8);
    assert!(refused.err.contains("a sound record follows"), "{}", refused.err);
    assert!(refused.err.contains("kv member replace") && !refused.err.contains("trim"), "{}", refused.err);
    let trim = hongbao(&["kv", "log", "trim", path(&dir), "--yes"]).expect(7);
    assert!(trim.err.contains("a sound record follows"), "{}", trim.err);

    std::fs::rename(&dir, Path::new(cluster.dir()).join("c1-damaged")).expect("moved away");
    let toml = Path::new(cluster.dir()).join("cluster.toml");
    let words = ["serve", "--cluster", path(&toml), "--node", "c1"];
    let mut serve = Command::new(program());
    let serve = serve.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _serving = Ended(serve.spawn().expect("a node starts"));
    let replace = ["kv", "member", "replace", "c1", "--dir", cluster.dir(), "--reason", "rot", "--yes"];
    within(Duration::from_secs(60), "c1 is replaced", || (hongbao(&replace).code == 0).then_some(()));
    within(Duration::from_secs(30), "the cluster is healthy", || {
        (hongbao(&["status", "--dir", cluster.dir()]).code == 0).then_some(())
    });
    assert!(holds_everything(&cluster, "c1"));
}
