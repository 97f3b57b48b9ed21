//! Where the demo plays: a directory, free ports, the inputs; and how everything is cleared away.
//!
//! Invariant: no process of the demo outlives it, however it ends.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::DemoArgs;
use crate::dev;
use crate::failure::{Context, Exit, Failure};

const BUDGET: &str = include_str!("../../../events/spring/budget.csv");
const SCRIPT: &str = include_str!("../../../events/spring/script.toml");
/// Ports a cluster needs.
const PORTS: u16 = 30;

/// See the module.
pub struct Stage {
    /// Everything is below this.
    pub dir: PathBuf,
    /// The sponsors' orders.
    pub budget: PathBuf,
    /// Slots and schemes.
    pub script: PathBuf,
    /// The first port.
    pub base_port: u16,
    temporary: bool,
    keep: AtomicBool,
}

impl Stage {
    /// Makes the directory and finds free ports.
    ///
    /// # Errors
    /// When the directory exists and is not empty, or no ports are free.
    pub fn set(args: &DemoArgs) -> Result<Stage, Failure> {
        let temporary = args.dir.is_none();
        let dir = args
            .dir
            .clone()
            .unwrap_or_else(|| std::env::temp_dir().join(format!("hongbao-demo-{}", std::process::id())));
        let doing = || format!("making {}", dir.display());
        fs::create_dir_all(&dir).context(Exit::Error, doing())?;
        let empty = fs::read_dir(&dir).context(Exit::Error, doing())?.next().is_none();
        if !empty {
            let message = format!("{} is not empty: name another --dir or clear it", dir.display());
            return Err(Failure::new(Exit::Conflict, message));
        }
        let (budget, script) = match (&args.budget, &args.script) {
            (Some(budget), Some(script)) => (budget.clone(), script.clone()),
            _ => write_sample(&dir)?,
        };
        let base_port = match args.base_port {
            Some(port) => port,
            None => free_ports()?,
        };
        Ok(Stage { dir, budget, script, base_port, temporary, keep: AtomicBool::new(false) })
    }

    /// Where the build stands.
    #[must_use]
    pub fn build_dir(&self) -> PathBuf {
        self.dir.join("build")
    }

    /// Where the cluster stands.
    #[must_use]
    pub fn cluster_dir(&self) -> PathBuf {
        self.dir.join("cluster")
    }

    /// Leaves data and logs behind, for whoever has to find out what went wrong.
    pub fn keep_for_inspection(&self) {
        self.keep.store(true, Ordering::SeqCst);
    }

    /// Ends all processes and, if it was temporary, deletes the directory.
    ///
    /// # Errors
    /// When a process cannot be ended.
    pub async fn strike(&self) -> Result<(), Failure> {
        if self.cluster_dir().exists() {
            dev::down(&self.cluster_dir()).await?;
        }
        if self.keep.load(Ordering::SeqCst) {
            eprintln!("hongbao: data and logs are kept in {}", self.dir.display());
        } else if self.temporary {
            fs::remove_dir_all(&self.dir).context(Exit::Error, format!("deleting {}", self.dir.display()))?;
        }
        Ok(())
    }
}

fn write_sample(dir: &Path) -> Result<(PathBuf, PathBuf), Failure> {
    let (budget, script) = (dir.join("budget.csv"), dir.join("script.toml"));
    fs::write(&budget, BUDGET).context(Exit::Error, "writing the sample budget")?;
    fs::write(&script, SCRIPT).context(Exit::Error, "writing the sample script")?;
    Ok((budget, script))
}

/// Below the range the system takes outgoing ports from, so that nobody takes one meanwhile.
fn free_ports() -> Result<u16, Failure> {
    let is_free = |base: u16| (base..base + PORTS).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    let found = (7_000..28_000).step_by(usize::from(PORTS)).find(|base| is_free(*base));
    found.ok_or_else(|| Failure::new(Exit::Conflict, "no 30 free ports in a row: name some with --base-port"))
}
