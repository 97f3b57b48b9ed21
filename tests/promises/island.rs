//! A network of one test's own: a namespace for each zone, joined by a bridge, and one for the clients.
//!
//! ```text
//!   clients  10.87.0.254 --- bridge --- veth --- zone 1  10.87.0.1
//!                               |------ veth --- zone 2  10.87.0.2
//!                               '------ veth --- zone 3  10.87.0.3
//! ```
//! The test runs itself again in namespaces for network and mounts, which end with its process: nothing
//! is left on the machine, however the test ends. A way is cut by a neighbour entry that leads nowhere:
//! packets leave and never arrive, without a reset and without an error, as when a line is cut.
//!
//! Invariant: clients reach every zone always; only ways between zones are cut.
//!
//! Not here: who runs in the namespaces (zones.rs).

use std::process::Command;

use tests::{Ran, run};

/// Set in the process that runs inside.
const INSIDE: &str = "HONGBAO_TESTS_INSIDE";
/// `no`: leave out what needs namespaces, and say so.
const WISH: &str = "HONGBAO_TESTS_NAMESPACES";

/// Whether this process has a network of its own. If not, it has the test of this name run in one, and
/// fails with it.
///
/// # Panics
/// When the test failed, or this machine makes no namespaces.
pub fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if std::env::var(WISH).is_ok_and(|wish| wish == "no") {
        eprintln!("LEFT OUT: {test}: {WISH}=no");
        return false;
    }
    let probe = run(unshare().arg("true"));
    assert_eq!(
        probe.code,
        0,
        "{test} cuts zones off in network namespaces, and this user can make none here ({}). Run the tests \
         as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1), or leave such \
         tests out with {WISH}=no",
        probe.err.trim()
    );
    // Names of namespaces are mounts below /run; these are nobody else's.
    let script = "mount -t tmpfs tmpfs /run && mkdir /run/netns && exec \"$@\"";
    let own = std::env::current_exe().expect("this test has a path");
    let mut command = unshare();
    command.args(["sh", "-c", script, "sh"]).arg(own).args(["--exact", test, "--nocapture"]);
    let status = command.env(INSIDE, "1").status().expect("unshare starts");
    assert!(status.success(), "{test} failed in its namespaces ({status}): see above");
    false
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount"]);
    if run(Command::new("id").arg("-u")).out.trim() != "0" {
        command.arg("--map-root-user");
    }
    command
}

/// See the module. Zones are counted from 0.
pub struct Island {
    zones: usize,
}

impl Island {
    /// Makes the namespaces.
    pub fn new(zones: usize) -> Island {
        ip("link set dev lo up");
        ip("link add name hub type bridge");
        ip("addr add 10.87.0.254/24 dev hub");
        ip("link set dev hub up");
        let island = Island { zones };
        for zone in 0..zones {
            let name = namespace(zone);
            ip(&format!("netns add {name}"));
            ip(&format!("link add name port{zone} type veth peer name eth0 netns {name}"));
            ip(&format!("link set dev port{zone} master hub"));
            ip(&format!("link set dev port{zone} up"));
            ip(&format!("-n {name} link set dev lo up"));
            ip(&format!("-n {name} link set dev eth0 address {}", hardware(zone)));
            ip(&format!("-n {name} addr add {}/24 dev eth0", host(zone)));
            ip(&format!("-n {name} link set dev eth0 up"));
        }
        island.heal();
        island
    }

    /// From now on nothing that `from` sends reaches `to`.
    pub fn cut(&self, from: usize, to: usize) {
        way(from, to, "02:00:00:00:00:ee");
    }

    /// Neither of the two reaches the other.
    pub fn part(&self, one: usize, other: usize) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Everybody reaches everybody.
    pub fn heal(&self) {
        for from in 0..self.zones {
            for to in (0..self.zones).filter(|to| *to != from) {
                way(from, to, &hardware(to));
            }
        }
    }
}

fn way(from: usize, to: usize, hardware: &str) {
    let (name, to) = (namespace(from), host(to));
    ip(&format!("-n {name} neigh replace {to} lladdr {hardware} dev eth0 nud permanent"));
}

/// The name of a zone's namespace.
pub fn namespace(zone: usize) -> String {
    format!("zone{zone}")
}

/// A zone's address.
pub fn host(zone: usize) -> String {
    format!("10.87.0.{}", zone + 1)
}

fn hardware(zone: usize) -> String {
    format!("02:00:00:00:00:{:02x}", zone + 1)
}

fn ip(words: &str) -> Ran {
    run(Command::new("ip").args(words.split(' '))).expect(0)
}
