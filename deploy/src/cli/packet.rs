//! `hongbao packet trace`: everything the books know about one packet.

use clap::Subcommand;
use ticket::id::PacketId;

use super::target::Target;
use crate::clients;
use crate::failure::{Context, Exit, Failure};
use crate::output::{Format, print};

/// `hongbao packet`
#[derive(Debug, Subcommand)]
pub enum PacketCommand {
    /// Follow one packet: row, credit, rejections, refund of its batch
    Trace {
        /// The packet's id, as `open` answered it
        id: PacketId,
        #[command(flatten)]
        target: Target,
    },
}

/// Does what the command says.
///
/// # Errors
/// Exit code 3 when nobody opened the packet, 6 when the KV does not answer.
pub async fn run(command: PacketCommand, format: Format) -> Result<(), Failure> {
    let PacketCommand::Trace { id, target } = command;
    let connected = target.connect()?;
    let kv = clients::kv(&connected.cluster, &connected.net, None);
    let trace = payment::trace::trace(&kv, id).await.context(Exit::Unavailable, "asking KvSvr")?;
    let found = trace.row.is_some() || !trace.rejections.is_empty();
    print(format, &trace, |trace| {
        let pretty = serde_json::to_string_pretty(trace);
        pretty.unwrap_or_else(|error| format!("the trace cannot be shown: {error}"))
    })?;
    if found {
        return Ok(());
    }
    Err(Failure::new(Exit::NotFound, format!("no opening of {id} was settled")))
}
