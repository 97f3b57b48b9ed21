//! The event of a run: a small budget and a script made from the knobs, minted by the production
//! planner, with the secrets of every node.
//!
//! ```text
//!   knobs -> budget.csv, script.toml -> payment::plan::build (a real temporary directory, before
//!   simulated time begins) -> bytes in memory -> simulated disks of operator and nodes
//! ```
//! Invariant: every byte follows from the seed; nothing of the temporary directory's name is left.
//!
//! Not here: bringing files to nodes, which the operator does over the simulated network.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use deploy::failure::{Context, Exit, Failure};
use deploy::store::install_secrets;
use payment::plan::{self, BuildOptions, Layout, Watch};
use rand::RngExt;
use ticket::id::BuildId;
use ticket::sign::SigningKey;
use world::clock::ManualClock;
use world::disk::{Disk, RealDisk};
use world::rng::Seed;
use world::{NodeId, UnixMs};

use crate::fabric::disk::SimDisk;
use crate::knobs::{Knobs, Purpose, stream};
use crate::oracle::i1_minting::Order;

/// Where a build stands on the operator's disk.
#[must_use]
pub fn build_dir(name: &str) -> PathBuf {
    Path::new("/builds").join(name)
}

/// Where the secret that authenticates claim histories stands on every node's disk.
pub const HISTORY_KEY: &str = "/etc/history.key";

/// A real directory for the planner. Named by the process: a random name would draw from the seed,
/// and differently when it is taken.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Scratch, Failure> {
        let path = std::env::temp_dir().join(format!("hongbao-sim-{}", std::process::id()));
        let doing = || format!("making {}", path.display());
        if path.exists() {
            fs::remove_dir_all(&path).context(Exit::Error, doing())?;
        }
        fs::create_dir_all(&path).context(Exit::Error, doing())?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: it lies where temporary things lie.
        let _ = fs::remove_dir_all(&self.0);
    }
}

type Tree = Vec<(PathBuf, Vec<u8>)>;

/// Files in memory, by their place below a folder that has no name yet.
pub struct Minted {
    build: Tree,
    secrets: Vec<(NodeId, Tree)>,
    history_key: String,
    /// Signs session tokens.
    pub session_key: SigningKey,
}

impl Minted {
    /// Mints the event of a seed for these nodes.
    ///
    /// # Errors
    /// When the planner refuses the inputs or the temporary directory cannot be used.
    pub fn mint(seed: u64, knobs: &Knobs, nodes: &[NodeId]) -> Result<Minted, Failure> {
        let dir = Scratch::make()?;
        let at = |name: &str| dir.0.join(name);
        fs::write(at("budget.csv"), budget(knobs)).context(Exit::Error, "writing the budget")?;
        fs::write(at("script.toml"), script(knobs)).context(Exit::Error, "writing the script")?;
        let options = BuildOptions {
            budget: at("budget.csv"),
            script: at("script.toml"),
            scheme: "A".to_owned(),
            out: at("build"),
            layout: Layout::default(),
            jobs: 1,
            seed: Some(Seed::from_number(seed)),
        };
        let clock = ManualClock::at(UnixMs(0));
        let watch = Watch { clock: &clock, progress: &|_| {}, stop: &|| false };
        let summary = plan::build(&options, watch).map_err(|e| Failure::new(Exit::Usage, e.to_string()))?;
        let mut secrets = Vec::new();
        for node in nodes {
            secrets.push((*node, node_secrets(&at("build"), summary.build, *node, &at("node"))?));
        }
        let mut chance = stream(seed, Purpose::Secrets, 0);
        let history_key: [u8; 32] = chance.random();
        let history_key = history_key.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let session_key = SigningKey::from_bytes(chance.random());
        Ok(Minted { build: read_tree(&at("build"))?, secrets, history_key, session_key })
    }

    /// Puts the build on the operator's disk, under this name.
    pub fn give_operator(&self, disk: &SimDisk, name: &str) {
        write_tree(disk, &build_dir(name), &self.build);
    }

    /// A file of the build, by its place in the build's folder.
    #[must_use]
    pub fn file(&self, below: &Path) -> Option<&[u8]> {
        self.build.iter().find(|(path, _)| path == below).map(|(_, bytes)| bytes.as_slice())
    }

    /// Puts a node's secrets where it expects them.
    pub fn give_node(&self, node: NodeId, disk: &SimDisk, data_dir: &Path) {
        let (_, tree) = self.secrets.iter().find(|(id, _)| *id == node).expect("secrets for every node");
        write_tree(disk, data_dir, tree);
    }

    /// Puts the secret that all nodes share where they expect it.
    pub fn give_history_key(&self, disk: &SimDisk) {
        let name = Path::new(HISTORY_KEY).file_name().expect("a file");
        let key = vec![(PathBuf::from(name), self.history_key.clone().into_bytes())];
        write_tree(disk, Path::new(HISTORY_KEY).parent().expect("a folder"), &key);
    }
}

fn node_secrets(build_dir: &Path, build: BuildId, node: NodeId, at: &Path) -> Result<Tree, Failure> {
    install_secrets(&RealDisk, build_dir, build, node, at)?;
    let tree = read_tree(at)?;
    fs::remove_dir_all(at).context(Exit::Error, "clearing up")?;
    Ok(tree)
}

fn read_tree(root: &Path) -> Result<Tree, Failure> {
    let mut tree = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let names = RealDisk.list(&root.join(&folder)).context(Exit::Error, "listing what was built")?;
        for name in names {
            let below = folder.join(name);
            let path = root.join(&below);
            if path.is_dir() {
                folders.push(below);
            } else {
                tree.push((below, RealDisk.read(&path).context(Exit::Error, "reading what was built")?));
            }
        }
    }
    Ok(tree)
}

fn write_tree(disk: &SimDisk, root: &Path, tree: &Tree) {
    let disk = disk.mount();
    for (below, bytes) in tree {
        let path = root.join(below);
        let folder = path.parent().expect("a file has a folder");
        let written = disk.create_dir_all(folder).and_then(|()| disk.publish(&path, bytes));
        written.expect("a fresh simulated disk takes everything");
    }
}

/// What the sponsors ordered, batch by batch.
#[must_use]
pub fn orders(knobs: &Knobs) -> Vec<Order> {
    let [video, picture, logo] = knobs.packets.map(u64::from);
    let order = |batch, count, fen, min_fen, max_fen| Order { batch, count, fen, min_fen, max_fen };
    vec![
        order(1, video, video * 130 + 7, 10, 500),
        order(2, picture, picture * 90 + 3, 1, 600),
        order(3, logo, logo * 200, 200, 200),
    ]
}

fn budget(knobs: &Knobs) -> String {
    let [video, picture, logo] = knobs.packets;
    let mut text = "batch_id,merchant_id,merchant_name,account,kind,count,total_yuan,min_yuan,max_yuan,split,tiers,funded_on\n".to_owned();
    let yuan = |fen: u64| format!("{}.{:02}", fen / 100, fen % 100);
    let (lucky, mean) = (u64::from(video) * 130 + 7, u64::from(picture) * 90 + 3);
    let _ =
        writeln!(text, "1,1001,Aurora Soda,ESC-1,video,{video},{},0.10,5.00,lucky,,2026-01-25", yuan(lucky));
    let _ = writeln!(
        text,
        "2,1002,Bluefin Air,ESC-2,picture,{picture},{},0.01,6.00,double-mean,,2026-01-20",
        yuan(mean)
    );
    let _ = writeln!(
        text,
        "3,1003,Cedar Bank,ESC-3,logo,{logo},{},2.00,2.00,fixed,,2026-01-11",
        yuan(u64::from(logo) * 200)
    );
    text
}

fn script(knobs: &Knobs) -> String {
    let mut text = format!(
        "[event]\nid = \"sim\"\nname = \"Simulated\"\ntimezone = \"Asia/Shanghai\"\nclaims_per_user = {}\n\n\
         [seal]\nkey_budget_yuan = \"100.00\"\n\n[instant]\nmin_yuan = \"2.00\"\n",
        knobs.claims_per_user
    );
    let mut shares = Vec::new();
    let mut left = 100;
    for slot in 0..knobs.slots {
        let hour = 8 + slot;
        let _ = write!(
            text,
            "\n[[slot]]\nid = \"s{slot}\"\nstart = \"2026-02-16T{hour:02}:00:00\"\nend = \"2026-02-16T{hour:02}:30:00\"\n"
        );
        let share = left / (knobs.slots - slot);
        left -= share;
        shares.push(format!("\"s{slot}\" = {share}"));
    }
    let shares = shares.join(", ");
    let _ = write!(text, "\n[[scheme]]\nid = \"A\"\n");
    for kind in ["logo", "picture", "video"] {
        let _ = writeln!(text, "share.{kind} = {{ {shares} }}");
    }
    text.push_str("\n[[page]]\nid = \"greeting\"\nweight = 100\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_mints_the_same_bytes() {
        let nodes = ["a1", "b1", "c1"].map(|node| node.parse().expect("a node"));
        let mint = |seed| Minted::mint(seed, &Knobs::derive(seed), &nodes).expect("minted");
        let (one, same, other) = (mint(1), mint(1), mint(2));
        assert!(one.build == same.build && one.secrets == same.secrets);
        assert!(one.build != other.build);
        assert!(one.build.iter().any(|(path, _)| path.ends_with("manifest.json")));
    }
}
