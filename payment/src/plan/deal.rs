//! Which file gets how many packets of which batch, and how much of its money: decided before a
//! single packet exists.
//!
//! ```text
//!   batch count --percentages--> slots --evenly--> nodes --evenly--> files     sizes of files
//!   slot's batches --by lot, halving the files again and again--> cells        counts in files
//!   batch's money in the slot --same law as its packets--> cells               money in files
//! ```
//! A cell is one batch in one file. Counting first makes files independent of each other: each is
//! minted alone, in any order, by any thread, and together they are one fair shuffle of all
//! packets of the slot (a multivariate hypergeometric draw).
//!
//! Invariant: cells add up to their batch in every slot, in packets and in fen, and to their file
//! in packets. Size is files times batches, never packets.
//!
//! Not here: amounts of single packets, and bytes.

use ticket::id::{FileNo, SlotNo};
use world::NodeId;

use super::amount;
use super::budget::{Batch, Split};
use super::error::BuildError;
use super::inputs::Plan;
use super::keys;
use super::layout::Layout;
use super::limits::{FILE_COUNT_MAX, FILES_PER_NODE_MIN};
use super::lot;
use super::script::Scheme;
use super::seeds::{Purpose, Seeds};
use super::spread::{by_remainder, by_shares};

/// One batch in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    /// The batch's place in the budget.
    pub batch: u32,
    /// Its packets here.
    pub count: u32,
    /// Their money.
    pub total_fen: u64,
    /// Packets of each of its tiers; empty for other splits.
    pub tiers: Box<[u32]>,
    /// The first data key of these packets.
    pub key_first: u16,
    /// How many keys they may use: more than one only when the cell is worth more than one may
    /// protect, and then no other cell uses them.
    pub key_count: u16,
}

/// One ticket file to be minted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilePlan {
    pub no: FileNo,
    pub slot: SlotNo,
    pub holders: Vec<NodeId>,
    /// The dense number of its first packet: packets are numbered file after file.
    pub first: u64,
    /// Its packets.
    pub count: u32,
    /// Its cells by ascending batch, none of them empty.
    pub cells: Vec<Cell>,
}

/// All files of a build.
#[derive(Debug)]
pub(crate) struct Deal {
    pub files: Vec<FilePlan>,
    pub key_count: u16,
}

/// A batch and how many of its packets go somewhere.
type Share = (u32, u64);

/// Deals the whole budget.
///
/// # Errors
/// [`BuildError::Layout`] when there would be too many files or data keys.
pub(crate) fn deal(plan: &Plan, scheme: &Scheme, layout: Layout, seeds: &Seeds) -> Result<Deal, BuildError> {
    let batches = &plan.budget.batches;
    let mut slots: Vec<Vec<SlotShare>> = plan.script.slots.iter().map(|_| Vec::new()).collect();
    for (at, batch) in batches.iter().enumerate() {
        let shares =
            scheme.share.get(&batch.kind).expect("every kind of the budget was checked to have shares");
        let place = u32::try_from(at).expect("batches are counted in 16 bits");
        for (slot, share) in slots.iter_mut().zip(over_slots(batch, place, shares, seeds)) {
            slot.extend((share.count > 0).then_some(share));
        }
    }
    let mut files = Vec::new();
    let mut first = 0u64;
    let mut keys = keys::KeyLine::new(plan.script.key_budget);
    for (slot, shares) in slots.iter().enumerate() {
        let slot = SlotNo(u16::try_from(slot).expect("slots are counted in 12 bits"));
        let mut dealt = deal_slot(slot, shares, layout, seeds, FileNo(files.len() as u32), &mut first)?;
        share_money(slot, batches, shares, &mut dealt, seeds);
        keys.begin_slot();
        for_each_cell(shares, &mut dealt, |cell| keys.assign(cell, &batches[cell.batch as usize]));
        files.append(&mut dealt);
    }
    assert!(first == plan.budget.count(), "{first} packets were dealt of {}", plan.budget.count());
    let key_count = keys.finish()?;
    Ok(Deal { files, key_count })
}

/// One batch in one slot.
struct SlotShare {
    batch: u32,
    count: u64,
    total_fen: u64,
    tiers: Vec<u64>,
}

/// A batch's packets and money in each slot.
fn over_slots(batch: &Batch, place: u32, shares: &[u32], seeds: &Seeds) -> Vec<SlotShare> {
    let counts = by_shares(batch.count, shares);
    let mut found = Vec::with_capacity(counts.len());
    let mut rng = seeds.stream(Purpose::TiersOverSlots, u64::from(place));
    let mut tiers_left: Vec<u64> = match &batch.split {
        Split::Tiers(tiers) => tiers.iter().map(|tier| tier.count).collect(),
        _ => Vec::new(),
    };
    let (mut packets, mut spent) = (0u64, 0u64);
    for count in counts {
        packets += count;
        let (total_fen, tiers) = match &batch.split {
            Split::Tiers(faces) => {
                let mut drawn = Vec::new();
                lot::deal(&mut rng, &tiers_left, count, &mut drawn);
                tiers_left.iter_mut().zip(&drawn).for_each(|(left, taken)| *left -= taken);
                (faces.iter().zip(&drawn).map(|(tier, taken)| tier.face.get() * taken).sum(), drawn)
            }
            _ => {
                // Proportional to the fen by rounding the running sum: within one fen of the mean
                // times the count, so within the bounds whenever the whole batch is.
                let due = u128::from(batch.total.get()) * u128::from(packets) / u128::from(batch.count);
                (u64::try_from(due).expect("at most the total") - spent, Vec::new())
            }
        };
        spent += total_fen;
        found.push(SlotShare { batch: place, count, total_fen, tiers });
    }
    assert!(packets == batch.count, "batch {} deals {packets} packets", batch.id);
    assert!(spent == batch.total.get(), "batch {} deals {spent} fen", batch.id);
    found
}

/// The files of one slot with the counts of their cells.
fn deal_slot(
    slot: SlotNo,
    shares: &[SlotShare],
    layout: Layout,
    seeds: &Seeds,
    no: FileNo,
    first: &mut u64,
) -> Result<Vec<FilePlan>, BuildError> {
    let total: u64 = shares.iter().map(|share| share.count).sum();
    let nodes = layout.nodes();
    let mut files = Vec::new();
    let mut turns = [usize::from(slot.0); super::limits::ZONES as usize];
    for (home, records) in nodes.iter().zip(by_remainder(total, &vec![1; nodes.len()])) {
        for count in file_sizes(records, layout)? {
            if no.0 as u64 + files.len() as u64 >= FILE_COUNT_MAX {
                return Err(BuildError::Layout(format!(
                    "the event needs more than {FILE_COUNT_MAX} files: raise the records per file"
                )));
            }
            let turn = &mut turns[usize::from(home.zone().index())];
            let holders = layout.holders(*home, *turn);
            *turn += 1;
            let no = FileNo(no.0 + files.len() as u32);
            files.push(FilePlan { no, slot, holders, first: *first, count, cells: Vec::new() });
            *first += u64::from(count);
        }
    }
    let counts: Vec<Share> = shares.iter().map(|share| (share.batch, share.count)).collect();
    let mut rng = seeds.stream(Purpose::CountsOverFiles, u64::from(slot.0));
    fill(&mut rng, &mut files, counts);
    Ok(files)
}

/// The sizes of one node's files in one slot.
fn file_sizes(records: u64, layout: Layout) -> Result<Vec<u32>, BuildError> {
    let needed = records.div_ceil(u64::from(layout.file_records_max));
    let files = needed.max(FILES_PER_NODE_MIN.min(records));
    if files > FILE_COUNT_MAX {
        let message = format!("the event needs more than {FILE_COUNT_MAX} files: raise the records per file");
        return Err(BuildError::Layout(message));
    }
    let sizes = by_remainder(records, &vec![1; usize::try_from(files).expect("checked above")]);
    Ok(sizes.into_iter().map(|size| u32::try_from(size).expect("at most the records per file")).collect())
}

/// Deals `counts` over `files` by lot: halves the files, draws what goes left, and so on.
fn fill(rng: &mut world::rng::Stream, files: &mut [FilePlan], counts: Vec<Share>) {
    match files {
        [] => assert!(counts.is_empty(), "packets but no file"),
        [file] => {
            let sum: u64 = counts.iter().map(|(_, count)| count).sum();
            assert!(sum == u64::from(file.count), "file {} gets {sum} packets, not {}", file.no, file.count);
            file.cells = counts.into_iter().map(|(batch, count)| empty_cell(batch, count)).collect();
        }
        _ => {
            let (left, right) = files.split_at_mut(files.len() / 2);
            let room: u64 = left.iter().map(|file| u64::from(file.count)).sum();
            let here: Vec<u64> = counts.iter().map(|(_, count)| *count).collect();
            let mut drawn = Vec::new();
            lot::deal(rng, &here, room, &mut drawn);
            let part = |drawn: Vec<u64>| -> Vec<Share> {
                let parts = counts.iter().zip(drawn).map(|((batch, _), taken)| (*batch, taken));
                parts.filter(|(_, taken)| *taken > 0).collect()
            };
            let rest = here.iter().zip(&drawn).map(|(count, taken)| count - taken).collect();
            let (to_left, to_right) = (part(drawn), part(rest));
            fill(rng, left, to_left);
            fill(rng, right, to_right);
        }
    }
}

fn empty_cell(batch: u32, count: u64) -> Cell {
    let count = u32::try_from(count).expect("a file's records are counted in 32 bits");
    Cell { batch, count, total_fen: 0, tiers: Box::default(), key_first: 0, key_count: 0 }
}

/// Visits the cells of a slot batch by batch, each batch in the order of files.
fn for_each_cell(shares: &[SlotShare], files: &mut [FilePlan], mut visit: impl FnMut(&mut Cell)) {
    let mut next = vec![0usize; files.len()];
    for share in shares {
        for (file, next) in files.iter_mut().zip(&mut next) {
            if let Some(cell) = file.cells.get_mut(*next).filter(|cell| cell.batch == share.batch) {
                *next += 1;
                visit(cell);
            }
        }
    }
    assert!(
        next.iter().zip(files.iter()).all(|(next, file)| *next == file.cells.len()),
        "a cell was not visited"
    );
}

/// Gives every cell of a slot its money.
fn share_money(slot: SlotNo, batches: &[Batch], shares: &[SlotShare], files: &mut [FilePlan], seeds: &Seeds) {
    let mut counts: Vec<Vec<u32>> = Vec::with_capacity(shares.len());
    let mut last = None;
    for_each_cell(shares, files, |cell| {
        if last != Some(cell.batch) {
            last = Some(cell.batch);
            counts.push(Vec::new());
        }
        counts.last_mut().expect("pushed above").push(cell.count);
    });
    assert!(counts.len() == shares.len(), "every batch of the slot has a cell");
    let mut money = shares.iter().zip(&counts).flat_map(|(share, counts)| {
        let batch = &batches[share.batch as usize];
        let number = u64::from(slot.0) << 32 | u64::from(share.batch);
        let mut rng = seeds.stream(Purpose::MoneyOverFiles, number);
        let parts = match &batch.split {
            Split::Tiers(faces) => deal_tiers(&mut rng, faces, &share.tiers, counts),
            _ => {
                let parts = amount::sub_budgets(&mut rng, batch, share.total_fen, counts);
                parts.into_iter().map(|part| (part, Box::default())).collect()
            }
        };
        let sum: u64 = parts.iter().map(|(part, _)| part).sum();
        assert!(sum == share.total_fen, "batch {} shares {sum} fen, not {}", batch.id, share.total_fen);
        parts
    });
    for_each_cell(shares, files, |cell| {
        (cell.total_fen, cell.tiers) = money.next().expect("as many parts as cells");
    });
}

/// The faces of a tiers batch over its files, by lot, file after file.
fn deal_tiers(
    rng: &mut world::rng::Stream,
    faces: &[super::budget::Tier],
    tiers: &[u64],
    counts: &[u32],
) -> Vec<(u64, Box<[u32]>)> {
    let mut left = tiers.to_vec();
    let mut drawn = Vec::new();
    let cells = counts.iter().map(|count| {
        lot::deal(rng, &left, u64::from(*count), &mut drawn);
        left.iter_mut().zip(&drawn).for_each(|(left, taken)| *left -= taken);
        let money = faces.iter().zip(&drawn).map(|(tier, taken)| tier.face.get() * taken).sum();
        let narrow = |taken: &u64| u32::try_from(*taken).expect("at most the file's records");
        (money, drawn.iter().map(narrow).collect())
    });
    let cells = cells.collect();
    assert!(left.iter().all(|left| *left == 0), "a face was not dealt");
    cells
}
