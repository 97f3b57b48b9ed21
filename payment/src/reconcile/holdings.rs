//! Which holdings differ: the buckets of rows and users' tables that differ, read again.
//!
//! Invariant: a holding that stands on one side only, or with two amounts, is one finding; unless its row
//! was turned down by crediting, which was interrupted before it gave the holding back. Memory
//! is bounded by [`HOLDINGS_PER_PASS`]; what is left after [`PASSES_MAX`] passes is one finding.
//!
//! Not here: the digests that show where to look (sets.rs).

use std::collections::{BTreeMap, BTreeSet};

use kvsvr::api::{Kv, KvError};
use ticket::id::{PacketId, UserId};

use super::audit::Auditor;
use super::report::Finding;
use super::run::{each, read_claims, read_row};
use super::sets::{BUCKETS, Holding};
use crate::keyspace::{self, BuildTag};
use crate::row::RowState;

/// Holdings kept at a time, about.
const HOLDINGS_PER_PASS: u64 = 2_000_000;
/// Times that the tables are read again.
const PASSES_MAX: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Table {
    Wallet,
    Claims,
}

/// What the rows say of a packet and what the table says.
#[derive(Clone, Copy, Default)]
struct Sides {
    row_fen: Option<u64>,
    table_fen: Option<u64>,
    /// Its row was turned down by crediting, which gives it back later.
    turned_down: bool,
}

/// Compares the users' tables with the rows and reports every difference.
pub(super) async fn compare(kv: &dyn Kv, auditor: &mut Auditor<'_>, tag: BuildTag) -> Result<(), KvError> {
    let wallets = auditor.row_wallets.differs(&auditor.wallets);
    let claims = auditor.row_claims.differs(&auditor.claims);
    let per_bucket = auditor.row_wallets.count().max(auditor.wallets.count()) / BUCKETS as u64 + 1;
    let buckets_per_pass = usize::try_from(HOLDINGS_PER_PASS / per_bucket).unwrap_or(usize::MAX).max(1);
    for (table, differing) in [(Table::Wallet, wallets), (Table::Claims, claims)] {
        for (pass, buckets) in differing.chunks(buckets_per_pass).enumerate() {
            if pass == PASSES_MAX {
                let left = differing.len() - pass * buckets_per_pass;
                auditor.finding(Finding::Unreadable {
                    what: format!("{left} of {BUCKETS} buckets of {} differ", table.name()),
                });
                break;
            }
            let sides = read(kv, tag, table, &buckets.iter().copied().collect()).await?;
            for ((user, packet), Sides { row_fen, table_fen, turned_down }) in sides {
                if turned_down && row_fen.is_none() && table_fen.is_some() {
                    auditor.to_release(packet);
                } else if row_fen != table_fen {
                    auditor.finding(Finding::Holding {
                        table: table.name(),
                        user,
                        packet,
                        row_fen,
                        table_fen,
                    });
                }
            }
        }
    }
    Ok(())
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Table::Wallet => "wallet",
            Table::Claims => "claims",
        }
    }
}

async fn read(
    kv: &dyn Kv,
    tag: BuildTag,
    table: Table,
    buckets: &BTreeSet<usize>,
) -> Result<BTreeMap<(UserId, PacketId), Sides>, KvError> {
    let mut sides: BTreeMap<(UserId, PacketId), Sides> = BTreeMap::new();
    let wanted = |user, packet| buckets.contains(&Holding { user, packet, fen: 0 }.bucket());
    // What cannot be read was a finding when it was read first.
    each(kv, keyspace::of_build(keyspace::ROW, tag), |key, value| {
        let Ok(row) = read_row(key, value) else { return };
        if !wanted(row.user, row.packet) {
            return;
        }
        match row.state {
            RowState::Pending | RowState::Credited => {
                let fen = if table == Table::Wallet { row.amount.get() } else { 0 };
                sides.entry((row.user, row.packet)).or_default().row_fen = Some(fen);
            }
            RowState::Rejected(reason) if reason.by_crediting() => {
                sides.entry((row.user, row.packet)).or_default().turned_down = true;
            }
            RowState::Rejected(_) => {}
        }
    })
    .await?;
    match table {
        Table::Wallet => {
            each(kv, keyspace::WALLET.to_vec(), |key, value| {
                let Some((user, packet)) = keyspace::parse_wallet(key) else { return };
                if packet.build_tag == tag && wanted(user, packet) {
                    sides.entry((user, packet)).or_default().table_fen = keyspace::parse_fen(value);
                }
            })
            .await?;
        }
        Table::Claims => {
            each(kv, keyspace::of_build(keyspace::CLAIMS, tag), |key, value| {
                let Ok((user, doc)) = read_claims(key, value) else { return };
                for packet in doc.packets().iter().filter(|packet| wanted(user, **packet)) {
                    sides.entry((user, *packet)).or_default().table_fen = Some(0);
                }
            })
            .await?;
        }
    }
    Ok(sides)
}
