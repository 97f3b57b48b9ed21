//! The command line: noun, then verb.
//!
//! Invariant: a command prints its data to standard output as a table or as one JSON object, says
//! everything else on standard error, and ends with the exit code of `failure.rs`.
//!
//! Not here: what commands do; each noun has its own file.

mod deploy;
mod dev;
pub mod drain;
mod drill;
mod key;
mod kv;
mod log;
pub mod member;
pub mod money;
mod packet;
pub mod plan;
mod snapshot;
mod status;
pub mod target;
pub mod token;
pub mod zone;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use world::NodeId;

use crate::demo::DemoArgs;
use crate::failure::Failure;
use crate::output::Format;

/// Hands out red packets to a crowd in bursts, right to the fen, through the loss of any one zone.
#[derive(Debug, Parser)]
#[command(name = "hongbao", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    /// A table for people or one JSON object for programs
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole event on this machine, with the loss of a zone in the middle
    Demo(DemoArgs),
    /// Run a three-zone cluster on this machine
    #[command(subcommand)]
    Dev(dev::DevCommand),
    /// Run one node
    Serve {
        /// The file that describes the cluster
        #[arg(long, env = "HONGBAO_CLUSTER")]
        cluster: PathBuf,
        /// Which of its nodes this is
        #[arg(long)]
        node: NodeId,
    },
    /// Turn budget and script into ticket files
    #[command(subcommand)]
    Plan(plan::PlanCommand),
    /// Take data keys of the active build out of use, or back
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Show the cluster's own records
    #[command(subcommand)]
    Kv(kv::KvCommand),
    /// Bring a build to the nodes and make it the active one
    #[command(subcommand)]
    Deploy(deploy::DeployCommand),
    /// Show zones, leaders, slots and the queue
    Status(target::Target),
    /// Operate zones
    #[command(subcommand)]
    Zone(zone::ZoneCommand),
    /// Show the slots of the active event
    #[command(subcommand)]
    Slot(status::SlotCommand),
    /// Check all money against the plan, and credit what matches
    #[command(subcommand)]
    Reconcile(money::ReconcileCommand),
    /// Give back what was not credited
    #[command(subcommand)]
    Refund(money::RefundCommand),
    /// Follow one packet
    #[command(subcommand)]
    Packet(packet::PacketCommand),
    /// Measure this cluster (or any etcd) with closed loops of load
    #[command(subcommand)]
    Bench(crate::bench::BenchCommand),
    /// Rehearse failures in the simulator
    #[command(subcommand)]
    Drill(drill::DrillCommand),
    /// Session tokens of users
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Print completions for a shell
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

/// Parses the command line, does what it says, and answers the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let log = std::env::var("HONGBAO_LOG").unwrap_or_else(|_| default_log(&cli.command).to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(log))
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("hongbao: no runtime: {error}");
            return ExitCode::from(1);
        }
    };
    let outcome = runtime.block_on(run(cli));
    // Tasks left behind by a failed command must not keep it from ending.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in failure.message.lines() {
                eprintln!("hongbao: {line}");
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn default_log(command: &Command) -> &'static str {
    match command {
        Command::Serve { .. } => "info,openraft=error",
        _ => "warn,openraft=error",
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let format = cli.output;
    match cli.command {
        Command::Demo(args) => Box::pin(crate::demo::run(args, format)).await,
        Command::Dev(command) => dev::run(command, format).await,
        Command::Serve { cluster, node } => Box::pin(crate::serve::run(&cluster, node)).await,
        Command::Plan(command) => plan::run(command, format),
        Command::Drill(command) => drill::run(command, format),
        Command::Key(command) => key::run(command, format).await,
        Command::Deploy(command) => deploy::run(command, format).await,
        Command::Status(target) => status::run(&target, format).await,
        Command::Kv(command) => Box::pin(kv::run(command, format)).await,
        Command::Zone(command) => zone::run(command, format).await,
        Command::Slot(command) => status::run_slots(command, format).await,
        Command::Reconcile(command) => Box::pin(money::reconcile(command, format)).await,
        Command::Refund(command) => Box::pin(money::refund(command, format)).await,
        Command::Packet(command) => packet::run(command, format).await,
        Command::Bench(command) => crate::bench::run(command, format).await,
        Command::Token(command) => token::run(command, format),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "hongbao", &mut std::io::stdout());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
