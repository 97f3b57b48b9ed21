//! Whoever keeps accounts of the whole run: a watch of claims and zones from the beginning, and the
//! sponsors' accounts again and again, also while faults go on.
//!
//! Invariant: what is recorded was read over the network, at one revision or one linearizable read of
//! each group.
//!
//! Not here: judging (oracle/i2_claims.rs, oracle/i5_balance.rs).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kvsvr::api::{Kv, KvError};
use kvsvr::client::Client;
use payment::keyspace;
use ticket::id::BuildId;

use crate::board::Board;
use crate::evidence;
use crate::history::Moment;
use crate::oracle::i5_balance::{Accounts, Reading};

/// Between two readings of the accounts.
const READ_EVERY: Duration = Duration::from_millis(1_000);
/// What is watched.
const WATCHED: &[u8] = b"hongbao/";
/// Pairs read at a time.
const PAGE: usize = 500;

/// Records every write to claims and zones, for ever.
///
/// # Panics
/// When a record cannot be read, or the history of the cluster's own records was dropped: nobody
/// compacts it.
pub async fn watch(kv: Client, board: Arc<Board>) {
    let mut watcher = kv.watch(WATCHED, Some(1));
    loop {
        let batch = watcher.next().await.expect("nobody compacts the cluster's own records");
        for event in &batch.events {
            board.boots.lock().extend(evidence::boot(event));
            let write = evidence::control_write(event).expect("a record of the cluster can be read");
            board.control.lock().extend(write);
        }
    }
}

/// Reads the accounts of the active build for ever.
pub async fn keep_accounts(kv: Arc<dyn Kv>, board: Arc<Board>) {
    loop {
        tokio::time::sleep(READ_EVERY).await;
        let Some(build) = board.event.lock().as_ref().map(|event| event.build) else { continue };
        // Without an answer there is no reading.
        let _ = read_accounts(&*kv, build, &board).await;
    }
}

/// Reads all accounts of a build once. Readings that overlap another's are not recorded: they would
/// have no place in the order of time.
///
/// # Errors
/// When a group does not answer.
pub async fn read_accounts(kv: &dyn Kv, build: BuildId, board: &Board) -> Result<(), KvError> {
    let asked = board.moment();
    let mut accounts: BTreeMap<u16, Accounts> = BTreeMap::new();
    for group in 0..kv.data_groups() {
        let prefix = keyspace::of_build(keyspace::ACCOUNT, build.tag());
        let pairs = kv.scan(group, &prefix, None, PAGE).await?;
        assert!(pairs.len() < PAGE, "the accounts of a small event fit on a page");
        for (key, value) in pairs {
            let account = keyspace::parse_account(&key).expect("an account's key");
            let fen = keyspace::parse_balance(&value).expect("an account's balance");
            evidence::add_balance(accounts.entry(account.batch.0).or_default(), account.kind, fen);
        }
    }
    let at = board.moment();
    let mut readings = board.accounts.lock();
    let newest = readings.last().map_or(Moment { number: 0, at_ms: 0 }, |reading| reading.at);
    if newest < asked {
        readings.push(Reading { at, at_once: kv.data_groups() == 1, accounts });
    }
    Ok(())
}
