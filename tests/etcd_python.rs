//! The `etcd3` package of PyPI against three zones, as a program that nobody here wrote uses it.
//!
//! The package is installed once, into a virtual environment below the target directory; without
//! PyPI and without that the test says so and checks nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use tests::{DevCluster, Ran, path, run};

/// The versions that work together: the package is older than protobuf 4 and tenacity 7.
const PACKAGES: [&str; 3] = ["etcd3==0.12.0", "protobuf==3.20.3", "tenacity==6.3.1"];

/// The interpreter with the package, or why there is none.
fn python() -> Result<PathBuf, Ran> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("etcd3-venv");
    let python = dir.join("bin/python");
    let has_package = |python: &Path| run(Command::new(python).args(["-c", "import etcd3"])).code == 0;
    if python.exists() && has_package(&python) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", path(&dir)])).expect(0);
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    let ran = run(Command::new(&python).args(install).args(PACKAGES));
    if ran.code != 0 {
        return Err(ran);
    }
    assert!(has_package(&python), "pip installed the package, and it cannot be imported");
    Ok(python)
}

#[test]
fn a_python_program_written_for_etcd_runs_against_every_zone() {
    let python = match python() {
        Ok(python) => python,
        Err(ran) => {
            let away = ["connection", "Connection", "Temporary failure", "No matching distribution"];
            assert!(away.iter().any(|sign| ran.err.contains(sign)), "pip: {}", ran.err);
            eprintln!("skipped: PyPI cannot be reached, so the etcd3 package is not here\n{}", ran.err);
            return;
        }
    };
    let cluster = DevCluster::up();
    let script = tests::here().join("python/etcd3_script.py");
    let zones = ["a1", "b1", "c1"].map(|node| cluster.field(node, "etcd"));
    let ran = run(Command::new(python).arg(script).args(&zones)).expect(0);
    assert!(ran.out.ends_with("all is well\n"), "{}\n{}", ran.out, ran.err);
}
