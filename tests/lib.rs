//! What the integration tests share: the program under test, run as users run it, and dev clusters
//! that end with the test.
//!
//! Invariant: only processes a test started are ended, and every started cluster is ended even when
//! the test panics.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

/// How often `eventually` looks.
const LOOKS_MAX: u32 = 400;
/// Its pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// What a run of the program answered.
pub struct Ran {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    fn of(output: &Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        match serde_json::from_str(&self.out) {
            Ok(value) => value,
            Err(error) => panic!("not JSON ({error}), exit {}:\n{}\n{}", self.code, self.out, self.err),
        }
    }

    /// Insists on an exit code.
    ///
    /// # Panics
    /// When it is another.
    pub fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }
}

/// The program, as `make test` builds it before the tests run.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("this test has a path");
    let profile = test.parent().and_then(Path::parent).expect("a test lies in target/<profile>/deps");
    let program = profile.join("hongbao");
    assert!(program.exists(), "{} is missing: run the tests with `make test`", program.display());
    program
}

/// Runs `hongbao` with these words.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn hongbao(words: &[&str]) -> Ran {
    run(Command::new(program()).args(words))
}

/// Runs any command.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn run(command: &mut Command) -> Ran {
    Ran::of(&command.stdin(Stdio::null()).output().expect("the command starts"))
}

/// The folder of these tests: of this checkout, also if another one that shares its target directory compiled
/// them.
#[must_use]
pub fn here() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// The sample event's folder.
#[must_use]
pub fn sample_event() -> PathBuf {
    here().join("../events/spring")
}

/// A dev cluster in a temporary directory.
pub struct DevCluster {
    dir: tempfile::TempDir,
    /// What `dev up` printed.
    pub status: Value,
}

impl DevCluster {
    /// Starts three zones on free ports.
    ///
    /// # Panics
    /// When they do not serve.
    #[must_use]
    pub fn up() -> DevCluster {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = free_base_port().to_string();
        DevCluster::up_in(dir, &["--base-port", &port])
    }

    /// Starts what a directory holds, or a new cluster in it.
    ///
    /// # Panics
    /// When it does not serve.
    #[must_use]
    pub fn up_in(dir: tempfile::TempDir, words: &[&str]) -> DevCluster {
        let always = ["dev", "up", "--dir", path(dir.path()), "-o", "json"];
        let status = hongbao(&[&always[..], words].concat()).expect(0).json();
        DevCluster { dir, status }
    }

    /// Its directory, as text.
    #[must_use]
    pub fn dir(&self) -> &str {
        path(self.dir.path())
    }

    /// Starts what does not run.
    ///
    /// # Panics
    /// When it does not serve.
    pub fn up_again(&mut self) {
        self.status = hongbao(&["dev", "up", "--dir", self.dir(), "-o", "json"]).expect(0).json();
    }

    /// A field of a node, like `etcd` of `a1`.
    ///
    /// # Panics
    /// When there is no such node or field.
    #[must_use]
    pub fn field(&self, node: &str, field: &str) -> String {
        let nodes = self.status["nodes"].as_array().expect("nodes");
        let found = nodes.iter().find(|n| n["id"] == node).expect("the node");
        match &found[field] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// Stops all nodes, changes `cluster.toml`, and starts them again.
    ///
    /// # Panics
    /// When the text to change is not there, or a node does not serve afterwards.
    pub fn reconfigure(&mut self, from: &str, to: &str) {
        hongbao(&["dev", "down", "--dir", self.dir()]).expect(0);
        let file = self.dir.path().join("cluster.toml");
        let text = std::fs::read_to_string(&file).expect("readable");
        assert!(text.contains(from), "no {from:?} in\n{text}");
        std::fs::write(&file, text.replacen(from, to, 1)).expect("written");
        self.up_again();
    }

    /// Ends a node as a power cut would; it is gone when this returns.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&self, node: &str) {
        self.signal(node, "KILL");
        let stat = format!("/proc/{}/stat", self.field(node, "pid"));
        eventually("the process has ended", || {
            let running = std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
            (!running).then_some(())
        });
    }

    /// Sends a node's process a signal.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, node: &str, signal: &str) {
        let pid = self.field(node, "pid");
        let ran = run(Command::new("kill").args([&format!("-{signal}"), &pid]));
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
}

impl Drop for DevCluster {
    fn drop(&mut self) {
        let ran = hongbao(&["dev", "down", "--dir", self.dir()]);
        if ran.code != 0 {
            eprintln!("the cluster did not stop: {}", ran.err);
        }
    }
}

/// A real etcd that ends with the test.
pub struct Etcd {
    child: Child,
    /// Its clients' address.
    pub endpoint: String,
    _dir: tempfile::TempDir,
}

impl Etcd {
    /// Starts one on free ports.
    ///
    /// # Panics
    /// When etcd is not installed or does not listen.
    #[must_use]
    pub fn start() -> Etcd {
        Etcd::start_with(&[])
    }

    /// The same, told more.
    ///
    /// # Panics
    /// When etcd is not installed or does not listen.
    #[must_use]
    pub fn start_with(words: &[&str]) -> Etcd {
        let dir = tempfile::tempdir().expect("a directory");
        let port = free_base_port();
        let (endpoint, peer) = (format!("127.0.0.1:{port}"), format!("http://127.0.0.1:{}", port + 1));
        let client = format!("http://{endpoint}");
        let cluster = format!("default={peer}");
        let child = Command::new("etcd")
            .args(["--data-dir", path(dir.path()), "--log-level", "error"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &cluster])
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed by `make setup`");
        let etcd = Etcd { child, endpoint, _dir: dir };
        eventually("etcd listens", || TcpStream::connect(&etcd.endpoint).ok());
        etcd
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A path as text.
///
/// # Panics
/// When it is not UTF-8.
#[must_use]
pub fn path(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// Waits, for seconds at most, until `look` finds what is waited for.
///
/// # Panics
/// When it never does.
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(LOOK_EVERY * LOOKS_MAX, what, look)
}

/// The same with another patience, for what takes its time.
///
/// # Panics
/// When it is not there after about `patience`.
pub fn within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..patience.as_millis() / LOOK_EVERY.as_millis() {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    panic!("{what}: not within about {patience:?}");
}

/// One HTTP request by hand, on a connection of its own: status and body.
///
/// # Panics
/// When there is no answer, or it is not HTTP with a JSON body.
#[must_use]
pub fn post(address: &str, path: &str, token: Option<&str>, body: &str) -> (u16, Value) {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(address).expect("the node listens");
    let bearer = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: {address}\r\n{bearer}content-type: application/json\r\n");
    let request = format!("{head}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok());
    match (status, body) {
        (Some(status), Some(body)) => (status, body),
        _ => panic!("not an answer:\n{answer}"),
    }
}

/// The first of 30 ports nobody listens on.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn free_base_port() -> u16 {
    // Below the range from which the system takes ports for outgoing connections.
    let start = 10_000 + (u16::try_from(std::process::id() % 600).expect("small")) * 30;
    let candidates = (0..600u16).map(|step| 10_000 + (start - 10_000 + step * 30) % 18_000);
    for base in candidates {
        if (base..base + 30).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return base;
        }
    }
    panic!("no 30 free ports in a row");
}
