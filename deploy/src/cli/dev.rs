//! `hongbao dev up|down|status`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::dev::{self, DevStatus};
use crate::failure::Failure;
use crate::output::{Format, print, table};

/// The directory of a dev cluster.
#[derive(Debug, Args)]
pub struct Dir {
    /// Where everything of the cluster is kept
    #[arg(long, default_value = "hongbao-dev")]
    dir: PathBuf,
}

/// See the module.
#[derive(Debug, Subcommand)]
pub enum DevCommand {
    /// Start three zones; returns when all of them serve. Repeat it to start what has ended.
    Up {
        #[command(flatten)]
        dir: Dir,
        /// The first of the 30 ports that are used (7000 if not given)
        #[arg(long)]
        base_port: Option<u16>,
    },
    /// Stop the cluster; its data stays
    Down(Dir),
    /// Show who runs where
    Status(Dir),
}

/// Does what the command says.
///
/// # Errors
/// See [`dev`].
pub async fn run(command: DevCommand, format: Format) -> Result<(), Failure> {
    match command {
        DevCommand::Up { dir, base_port } => print(format, &dev::up(&dir.dir, base_port).await?, show),
        DevCommand::Status(dir) => print(format, &dev::status(&dir.dir).await?, show),
        DevCommand::Down(dir) => {
            dev::down(&dir.dir).await?;
            print(format, &serde_json::json!({ "stopped": true }), |_| "stopped; the data stays".to_owned())
        }
    }
}

fn show(status: &DevStatus) -> String {
    let mut rows = table(&["node", "pid", "serving", "edge", "admin", "etcd"]);
    for node in &status.nodes {
        rows.add_row(vec![
            node.id.to_string(),
            node.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            if node.serving { "yes" } else { "no" }.to_owned(),
            node.edge.clone(),
            node.admin.clone(),
            node.etcd.clone(),
        ]);
    }
    rows.to_string()
}
