//! Three real zones, each in its namespace: started, killed, paused.
//!
//! Invariant: every process that was started ends with the test.
//!
//! Not here: their network (island.rs).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tests::{hongbao, path, program, run, within};

use crate::island::{Island, host, namespace};

/// The nodes, one a zone.
pub const NODES: [&str; 3] = ["a1", "b1", "c1"];
/// How long a zone may take until it serves.
const SERVES_WITHIN: Duration = Duration::from_secs(30);

/// What the zones run.
#[derive(Clone, Copy)]
pub enum Runs {
    /// The product.
    Hongbao,
    /// The product with this mistake.
    Mutant(&'static str),
}

/// Where a zone is reached.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// By etcd's clients.
    pub etcd: String,
    /// By ours.
    pub peers: String,
}

/// See the module.
pub struct Zones {
    dir: tempfile::TempDir,
    runs: Runs,
    children: Vec<Option<Child>>,
    /// Where they are reached.
    pub addresses: Vec<Addresses>,
    /// Their network.
    pub island: Island,
}

impl Zones {
    /// Starts three zones on empty disks.
    pub fn up(runs: Runs) -> Zones {
        let island = Island::new(NODES.len());
        let dir = tempfile::tempdir().expect("a temporary directory");
        let addresses = plant(dir.path());
        let mut zones =
            Zones { dir, runs, children: NODES.map(|_| None).into_iter().collect(), addresses, island };
        (0..NODES.len()).for_each(|zone| zones.start(zone));
        for (zone, node) in NODES.iter().enumerate() {
            within(SERVES_WITHIN, &format!("{node} serves"), || {
                let endpoint = format!("--endpoints={}", zones.addresses[zone].etcd);
                let words = [&endpoint, "get", "no-such-key", "--command-timeout=2s"];
                (run(Command::new("etcdctl").args(words)).code == 0).then_some(())
            });
        }
        zones
    }

    /// Starts a zone that does not run.
    pub fn start(&mut self, zone: usize) {
        assert!(self.children[zone].is_none(), "{} runs", NODES[zone]);
        let log = File::options().create(true).append(true).open(self.log_file(zone)).expect("a log");
        let file = self.dir.path().join("cluster.toml");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace(zone)]);
        match self.runs {
            Runs::Hongbao => command.arg(program()).arg("serve"),
            Runs::Mutant(name) => command.arg(simulator()).args(["zone", "--mutant", name]),
        };
        let child = command
            .args(["--cluster", path(&file), "--node", NODES[zone]])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the same log"))
            .stderr(log)
            .spawn()
            .expect("a zone starts");
        self.children[zone] = Some(child);
    }

    /// Ends a zone at once, as it is.
    pub fn kill(&mut self, zone: usize) {
        let mut child = self.children[zone].take().expect("it runs");
        child.kill().expect("killed");
        child.wait().expect("gone");
    }

    /// Lets a zone stand still.
    pub fn pause(&self, zone: usize) {
        self.signal(zone, "-STOP");
    }

    /// Lets it go on.
    pub fn resume(&self, zone: usize) {
        self.signal(zone, "-CONT");
    }

    fn signal(&self, zone: usize, signal: &str) {
        let pid = self.children[zone].as_ref().expect("it runs").id().to_string();
        run(Command::new("kill").args([signal, &pid])).expect(0);
    }

    /// A zone that ended by itself, with the end of its log.
    pub fn fallen(&mut self) -> Option<String> {
        (0..NODES.len()).find_map(|zone| {
            let ended = self.children[zone].as_mut()?.try_wait().expect("our child")?;
            Some(format!("{} ended by itself ({ended}):\n{}", NODES[zone], self.log(zone)))
        })
    }

    fn log_file(&self, zone: usize) -> PathBuf {
        self.dir.path().join(format!("{}.log", NODES[zone]))
    }

    fn log(&self, zone: usize) -> String {
        let text = fs::read_to_string(self.log_file(zone)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Zones {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A cluster file and its secrets as `hongbao dev up` makes them, with each node in its namespace.
fn plant(dir: &Path) -> Vec<Addresses> {
    hongbao(&["dev", "up", "--dir", path(dir)]).expect(0);
    hongbao(&["dev", "down", "--dir", path(dir)]).expect(0);
    let file = dir.join("cluster.toml");
    let mut cluster: toml::Table = fs::read_to_string(&file).expect("made").parse().expect("TOML");
    let nodes = cluster["node"].as_array_mut().expect("nodes");
    let mut addresses = Vec::new();
    for (zone, node) in nodes.iter_mut().enumerate() {
        fs::remove_dir_all(dir.join(NODES[zone])).expect("its first life's disk");
        let node = node.as_table_mut().expect("a node");
        let mut moved = |field: &str| {
            let address = node[field].as_str().expect("an address").replace("127.0.0.1", &host(zone));
            node.insert(field.to_owned(), address.clone().into());
            address
        };
        for field in ["edge", "admin"] {
            moved(field);
        }
        addresses.push(Addresses { etcd: moved("etcd"), peers: moved("peers") });
    }
    fs::write(&file, toml::to_string(&cluster).expect("TOML")).expect("written");
    addresses
}

fn simulator() -> PathBuf {
    let simulator = program().with_file_name("hongbao-sim");
    assert!(simulator.exists(), "{} is missing: `cargo build -p sim`", simulator.display());
    simulator
}
