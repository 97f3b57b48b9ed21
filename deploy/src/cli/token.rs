//! `hongbao token issue`: session tokens, for trying things out and for load tests. A product's own
//! login service issues them with the same key.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use ticket::id::UserId;
use ticket::sign::SigningKey;
use world::Clock;
use world::clock::SystemClock;
use world::disk::RealDisk;

use crate::dev::layout::DevDir;
use crate::failure::{Context, Exit, Failure};
use crate::output::{Format, print};

/// See the module.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Print a bearer token for a user
    Issue {
        /// The directory of a dev cluster
        #[arg(long, required_unless_present = "key")]
        dir: Option<PathBuf>,
        /// The file with the session key, for a cluster of your own
        #[arg(long, conflicts_with = "dir")]
        key: Option<PathBuf>,
        /// The user's number
        #[arg(long)]
        user: u64,
        /// Hours until it expires
        #[arg(long, default_value_t = 24)]
        hours: u64,
    },
}

/// Does what the command says.
///
/// # Errors
/// When the key cannot be read.
pub fn run(command: TokenCommand, format: Format) -> Result<(), Failure> {
    let TokenCommand::Issue { dir, key, user, hours } = command;
    let file = match (dir, key) {
        (Some(dir), _) => DevDir::load(&dir)?.session_key_file(),
        (None, Some(file)) => file,
        (None, None) => return Err(Failure::new(Exit::Usage, "name the key with --dir or --key")),
    };
    let key = session_key(&file)?;
    let expires = SystemClock::new().now().plus(Duration::from_secs(hours.saturating_mul(3_600)));
    let token = ticket::token::issue(&key, UserId(user), expires);
    print(format, &serde_json::json!({ "user": user, "token": token }), |_| token.clone())
}

/// Reads the key that signs session tokens.
///
/// # Errors
/// When the file cannot be read or holds something else.
pub fn session_key(file: &Path) -> Result<SigningKey, Failure> {
    SigningKey::load(&RealDisk, file).context(Exit::Denied, "reading the session key")
}
