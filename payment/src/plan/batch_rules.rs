//! Whether one order of a sponsor can be kept: its count, money, bounds and tiers.
//!
//! Invariant: an order without findings can be split exactly by its method.
//!
//! Not here: rules between lines (the budget) and between files (the plan).

use ticket::money::Fen;

use super::budget::{Row, Split, Tier};
use super::limits::{AMOUNT_FEN_MAX, PACKETS_MAX};
use super::source::Findings;

/// The numbers of one line that must fit each other.
pub(crate) struct Order<'a> {
    pub count: u64,
    pub total: Fen,
    pub min: Fen,
    pub max: Fen,
    pub split: &'a Split,
}

/// Reads the `split` and `tiers` columns.
pub(crate) fn split_field(row: &Row<'_>, findings: &mut Findings) -> Option<Split> {
    let (split, tiers) = (row.field("split"), row.field("tiers"));
    let named = match split {
        "double-mean" => Some(Split::DoubleMean),
        "lucky" => Some(Split::Lucky),
        "fixed" => Some(Split::Fixed),
        "tiers" => return tiers_field(row, tiers, findings).map(Split::Tiers),
        _ => {
            let cure = "use double-mean, lucky, fixed or tiers";
            findings.note(row.file, row.line, format!("split {split:?} is not known"), cure);
            None
        }
    };
    if named.is_some() && !tiers.is_empty() {
        let message = format!("tiers are given, but split is {split:?}");
        findings.note(row.file, row.line, message, "empty the column, or set split to tiers");
    }
    named
}

/// Reads `88.88x10;0.50x90`.
fn tiers_field(row: &Row<'_>, text: &str, findings: &mut Findings) -> Option<Vec<Tier>> {
    let mut tiers: Vec<Tier> = Vec::new();
    let mut good = true;
    let mut note = |message: String, cure: &str| {
        good = false;
        findings.note(row.file, row.line, message, cure);
    };
    for part in text.split(';').map(str::trim) {
        let parsed = part.split_once('x').and_then(|(face, count)| {
            let face = Fen::parse_yuan(face.trim()).ok().filter(|face| face.get() > 0)?;
            let count = count.trim().parse::<u64>().ok().filter(|count| (1..=PACKETS_MAX).contains(count))?;
            Some(Tier { face, count })
        });
        match parsed {
            None => note(
                format!("tier {part:?} is not a face value and a count"),
                "write tiers like 88.88x10;0.50x90",
            ),
            Some(tier) if tiers.iter().any(|known| known.face == tier.face) => {
                note(format!("the tier {} stands here twice", tier.face), "add the counts up in one tier");
            }
            Some(tier) => tiers.push(tier),
        }
    }
    good.then_some(tiers)
}

/// Notes everything about an order that does not add up.
pub(crate) fn check(row: &Row<'_>, order: &Order<'_>, findings: &mut Findings) {
    let mut note = |message: String, cure: String| findings.note(row.file, row.line, message, cure);
    let Order { count, total, min, max, split } = order;
    if min.get() == 0 {
        note("min_yuan is 0.00".to_owned(), "no packet is empty: use 0.01 or more".to_owned());
    }
    if max.get() > AMOUNT_FEN_MAX {
        note(
            format!("max_yuan {max} does not fit a record"),
            format!("use {} or less", Fen::new(AMOUNT_FEN_MAX)),
        );
    }
    if min > max {
        note(format!("min_yuan {min} is more than max_yuan {max}"), "exchange them".to_owned());
        return; // The bounds below would only repeat it.
    }
    match split {
        Split::Tiers(tiers) => check_tiers(order, tiers, &mut note),
        Split::Fixed => check_fixed(order, &mut note),
        Split::DoubleMean | Split::Lucky => {
            let (least, most) = (product(*count, *min), product(*count, *max));
            if least > u128::from(total.get()) {
                note(
                    format!(
                        "{count} packets of at least {min} need {}, but total_yuan is {total}",
                        yuan(least)
                    ),
                    "lower count or min_yuan, or raise total_yuan".to_owned(),
                );
            }
            if most < u128::from(total.get()) {
                note(
                    format!(
                        "{count} packets of at most {max} hold {}, but total_yuan is {total}",
                        yuan(most)
                    ),
                    "raise count or max_yuan, or lower total_yuan".to_owned(),
                );
            }
        }
    }
}

fn check_tiers(order: &Order<'_>, tiers: &[Tier], note: &mut impl FnMut(String, String)) {
    let Order { count, total, min, max, .. } = order;
    let packets: u128 = tiers.iter().map(|tier| u128::from(tier.count)).sum();
    if packets != u128::from(*count) {
        note(
            format!("the tiers have {packets} packets, but count is {count}"),
            "make the tiers' counts add up to count".to_owned(),
        );
    }
    let money: u128 = tiers.iter().map(|tier| product(tier.count, tier.face)).sum();
    if money != u128::from(total.get()) {
        note(
            format!("the tiers hold {}, but total_yuan is {total}", yuan(money)),
            "make face times count of all tiers add up to total_yuan".to_owned(),
        );
    }
    for tier in tiers.iter().filter(|tier| tier.face < *min || tier.face > *max) {
        note(
            format!("the tier {} is not between min_yuan {min} and max_yuan {max}", tier.face),
            "change the tier or the bounds".to_owned(),
        );
    }
}

fn check_fixed(order: &Order<'_>, note: &mut impl FnMut(String, String)) {
    let Order { count, total, min, max, .. } = order;
    let face = Fen::new(total.get() / count);
    if total.get() % count != 0 {
        note(
            format!("{total} does not divide into {count} equal packets"),
            format!("set total_yuan to {}, or choose another split", yuan(product(*count, face))),
        );
    } else if face < *min || face > *max {
        note(
            format!("each packet would hold {face}, which is not between min_yuan {min} and max_yuan {max}"),
            "change total_yuan, count or the bounds".to_owned(),
        );
    }
}

fn product(count: u64, amount: Fen) -> u128 {
    u128::from(count) * u128::from(amount.get())
}

/// Fen as yuan; also sums beyond what [`Fen`] holds.
fn yuan(fen: u128) -> String {
    format!("{}.{:02}", fen / 100, fen % 100)
}
