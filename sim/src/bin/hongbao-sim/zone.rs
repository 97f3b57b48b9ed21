//! A real node, in real time, with a known mistake switched on: tests of real processes must notice it too.
//!
//! Invariant: the mistake is armed before anything of the node starts. `hongbao` itself has no way to arm one.
//!
//! Not here: anything simulated.

use std::path::PathBuf;

use clap::Args;
use deploy::failure::{Context, Exit, Failure};
use world::NodeId;
use world::mutant::{self, Mutant};

#[derive(Args)]
pub struct ZoneArgs {
    /// The mistake
    #[arg(long)]
    mutant: Mutant,
    /// As in `hongbao serve`
    #[arg(long)]
    cluster: PathBuf,
    /// As in `hongbao serve`
    #[arg(long)]
    node: NodeId,
}

/// Serves until it is told to stop.
pub fn run(args: &ZoneArgs) -> Result<(), Failure> {
    mutant::arm(args.mutant).context(Exit::Usage, "arming the mutant")?;
    eprintln!("hongbao-sim: this node is wrong on purpose: {}", args.mutant.what());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context(Exit::Error, "making a runtime")?;
    runtime.block_on(deploy::serve::run(&args.cluster, args.node))
}
