//! `budget.csv`: one line per batch, that is, per order of a sponsor.
//!
//! ```text
//!   batch_id,merchant_id,merchant_name,account,kind,count,total_yuan,min_yuan,max_yuan,split,tiers,funded_on
//!   2,1001,Aurora Soda,ESC-1001-P,picture,20000,23996.58,0.01,6.00,double-mean,,2016-01-20
//! ```
//! Columns may stand in any order. Every line is read, whatever was wrong with those before it.
//!
//! Invariant: a batch of a budget without findings can be split: count times its smallest amount
//! <= its total <= count times its largest, tiers add up, and no amount is zero.
//!
//! Not here: when packets go out (the script says).

use std::collections::{BTreeMap, BTreeSet};

use ticket::id::BatchId;
use ticket::money::{Fen, MoneyError};
use ticket::record::Kind;

use super::batch_rules;
use super::limits::{BATCH_COUNT_MAX, NAME_BYTES_MAX, PACKETS_MAX};
use super::source::{Findings, Source};

/// The columns, in the order of the sample.
pub(crate) const COLUMNS: [&str; 12] = [
    "batch_id",
    "merchant_id",
    "merchant_name",
    "account",
    "kind",
    "count",
    "total_yuan",
    "min_yuan",
    "max_yuan",
    "split",
    "tiers",
    "funded_on",
];

/// How a batch's money is split into packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Split {
    /// Each packet up to twice the mean of what is left.
    DoubleMean,
    /// Many small amounts, a few large ones.
    Lucky,
    /// All the same.
    Fixed,
    /// Given face values, each given times.
    Tiers(Vec<Tier>),
}

/// One face value of a tiers batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    /// The amount of each packet of this tier.
    pub face: Fen,
    /// How many packets it has; at least one.
    pub count: u64,
}

/// One order of a sponsor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its id; unique in the budget.
    pub id: BatchId,
    /// The sponsor.
    pub merchant_id: u32,
    /// The sponsor's name.
    pub merchant_name: String,
    /// The account that holds the money.
    pub account: String,
    /// What goes with the packet.
    pub kind: Kind,
    /// Packets; at least one.
    pub count: u64,
    /// The money of all packets together.
    pub total: Fen,
    /// No packet holds less.
    pub min: Fen,
    /// No packet holds more.
    pub max: Fen,
    /// How the money is split.
    pub split: Split,
    /// The day the money arrived, as `YYYY-MM-DD`.
    pub funded_on: String,
    /// Its line in the file.
    pub line: usize,
}

/// The whole budget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// The batches by ascending id.
    pub batches: Vec<Batch>,
    /// The kinds that occur, also on lines with other findings, and where first.
    pub kinds: BTreeMap<Kind, usize>,
    /// The sponsors that occur, also on lines with other findings.
    pub merchants: BTreeSet<u32>,
}

impl Budget {
    /// Packets of all batches together.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.batches.iter().map(|batch| batch.count).sum()
    }

    /// Money of all batches together.
    #[must_use]
    pub fn total(&self) -> Fen {
        Fen::new(self.batches.iter().map(|batch| batch.total.get()).sum())
    }
}

/// One line of the file as text fields in the order of [`COLUMNS`].
pub(crate) struct Row<'a> {
    pub file: &'a str,
    pub line: usize,
    fields: [&'a str; COLUMNS.len()],
}

impl<'a> Row<'a> {
    /// The field of a column.
    pub fn field(&self, column: &str) -> &'a str {
        let at = COLUMNS.iter().position(|known| *known == column);
        self.fields[at.expect("callers name columns of the table above")]
    }
}

/// Reads the whole budget; what is wrong goes to `findings`.
pub(crate) fn parse(source: &Source, findings: &mut Findings) -> Budget {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(source.text.as_bytes());
    let mut records = reader.records();
    let Some(Ok(header)) = records.next() else { return Budget::default() };
    let Some(columns) = header_columns(source, &header, findings) else { return Budget::default() };

    let mut budget = Budget::default();
    let mut table = Table::default();
    for record in records {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let line = error.position().map_or(1, |at| at.line().clamp(1, 1 << 40) as usize);
                findings.note(
                    &source.name,
                    line,
                    format!("cannot be read as CSV: {error}"),
                    "check the quotes",
                );
                continue;
            }
        };
        let offset = record.position().map_or(0, csv::Position::byte);
        let line = source.line_of_record(usize::try_from(offset).unwrap_or(usize::MAX));
        if record.len() != header.len() {
            let message = format!("this line has {} fields, the header has {}", record.len(), header.len());
            findings.note(
                &source.name,
                line,
                message,
                "give every column a value or leave it empty between commas",
            );
            continue;
        }
        let fields = columns.map(|at| record.get(at).unwrap_or_default());
        table.read(&Row { file: &source.name, line, fields }, &mut budget, findings);
    }
    if table.lines == 0 && !source.text.trim().is_empty() {
        findings.note(&source.name, 1, "there is no batch below the header", "add a line per batch");
    }
    budget.batches.sort_by_key(|batch| batch.id);
    budget
}

/// Where each column of [`COLUMNS`] stands; `None` when one is missing.
fn header_columns(
    source: &Source,
    header: &csv::StringRecord,
    findings: &mut Findings,
) -> Option<[usize; COLUMNS.len()]> {
    let line = source.line_of_record(0);
    if header.iter().all(str::is_empty) {
        return None; // An empty file: that is a finding already.
    }
    let mut complete = true;
    for (at, name) in header.iter().enumerate() {
        if !COLUMNS.contains(&name) {
            let cure = format!("remove it, or name it one of {}", COLUMNS.join(", "));
            findings.note(&source.name, line, format!("the column {name:?} is not known"), cure);
        } else if header.iter().take(at).any(|earlier| earlier == name) {
            findings.note(&source.name, line, format!("the column {name:?} stands here twice"), "remove one");
        }
    }
    let columns = COLUMNS.map(|name| {
        let found = header.iter().position(|given| given == name);
        if found.is_none() {
            complete = false;
            let message = format!("the column {name:?} is missing");
            findings.note(&source.name, line, message, "add it to the header and to every line");
        }
        found.unwrap_or_default()
    });
    complete.then_some(columns)
}

/// What must be unique or agree between lines.
#[derive(Default)]
struct Table {
    lines: usize,
    ids: BTreeMap<u16, usize>,
    names: BTreeMap<u32, (String, usize)>,
    packets: u64,
    total_fen: u64,
    too_much: bool,
}

impl Table {
    fn read(&mut self, row: &Row<'_>, budget: &mut Budget, findings: &mut Findings) {
        self.lines += 1;
        let id = self.batch_id(row, findings);
        let merchant_id = self.merchant(row, budget, findings);
        let account = name_field(row, "account", findings);
        let kind = kind_field(row, budget, findings);
        let count = count_field(row, findings);
        let money = ["total_yuan", "min_yuan", "max_yuan"].map(|column| money_field(row, column, findings));
        let split = batch_rules::split_field(row, findings);
        let funded_on = date_field(row, findings);
        if let (Some(count), [Some(total), Some(min), Some(max)], Some(split)) = (count, money, &split) {
            batch_rules::check(row, &batch_rules::Order { count, total, min, max, split }, findings);
            self.add_up(row, count, total, findings);
        }
        let [total, min, max] = money;
        let batch = (|| {
            Some(Batch {
                id: id?,
                merchant_id: merchant_id?,
                merchant_name: row.field("merchant_name").to_owned(),
                account: account?,
                kind: kind?,
                count: count?,
                total: total?,
                min: min?,
                max: max?,
                split: split?,
                funded_on: funded_on?,
                line: row.line,
            })
        })();
        budget.batches.extend(batch);
    }

    fn batch_id(&mut self, row: &Row<'_>, findings: &mut Findings) -> Option<BatchId> {
        let text = row.field("batch_id");
        let Ok(id) = text.parse::<u16>() else {
            let message =
                format!("batch_id {text:?} is not a whole number from 0 to {}", BATCH_COUNT_MAX - 1);
            let cure = format!("an event has at most {BATCH_COUNT_MAX} batches, each with its own number");
            findings.note(row.file, row.line, message, cure);
            return None;
        };
        if let Some(earlier) = self.ids.insert(id, row.line) {
            let message = format!("batch_id {id} stands on line {earlier} already");
            findings.note(row.file, row.line, message, "give each batch its own id");
        }
        Some(BatchId(id))
    }

    fn merchant(&mut self, row: &Row<'_>, budget: &mut Budget, findings: &mut Findings) -> Option<u32> {
        let name = name_field(row, "merchant_name", findings);
        let text = row.field("merchant_id");
        let Ok(id) = text.parse::<u32>() else {
            let message = format!("merchant_id {text:?} is not a whole number from 0 to {}", u32::MAX);
            findings.note(row.file, row.line, message, "use the sponsor's number");
            return None;
        };
        budget.merchants.insert(id);
        let name = name?;
        let (first, line) = self.names.entry(id).or_insert_with(|| (name.clone(), row.line));
        if *first != name {
            let message = format!("merchant {id} is called {name:?} here and {first:?} on line {line}");
            findings.note(row.file, row.line, message, "use one name per merchant_id");
        }
        Some(id)
    }

    /// Keeps the event's sums within what every number in the formats can hold.
    fn add_up(&mut self, row: &Row<'_>, count: u64, total: Fen, findings: &mut Findings) {
        self.packets = self.packets.saturating_add(count);
        self.total_fen = self.total_fen.saturating_add(total.get());
        let within = self.packets <= PACKETS_MAX && self.total_fen <= super::limits::TOTAL_FEN_MAX;
        if !within && !self.too_much {
            self.too_much = true;
            let message = format!(
                "up to this line the budget has {} packets and {} yuan",
                self.packets,
                Fen::new(self.total_fen)
            );
            let cure = format!(
                "an event holds at most {PACKETS_MAX} packets and {} yuan",
                Fen::new(super::limits::TOTAL_FEN_MAX)
            );
            findings.note(row.file, row.line, message, cure);
        }
    }
}

fn name_field(row: &Row<'_>, column: &str, findings: &mut Findings) -> Option<String> {
    let text = row.field(column);
    if text.is_empty() {
        findings.note(row.file, row.line, format!("{column} is empty"), "fill it in");
        return None;
    }
    if text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
        let message = format!("{column} is longer than {NAME_BYTES_MAX} bytes or holds control characters");
        findings.note(row.file, row.line, message, "shorten it to plain text");
        return None;
    }
    Some(text.to_owned())
}

fn kind_field(row: &Row<'_>, budget: &mut Budget, findings: &mut Findings) -> Option<Kind> {
    let text = row.field("kind");
    let found = text.parse::<Kind>().ok();
    match found {
        Some(kind) => {
            budget.kinds.entry(kind).or_insert(row.line);
        }
        None => findings.note(
            row.file,
            row.line,
            format!("kind {text:?} is not known"),
            "use logo, picture or video",
        ),
    }
    found
}

fn count_field(row: &Row<'_>, findings: &mut Findings) -> Option<u64> {
    let text = row.field("count");
    let count = text.parse::<u64>().ok().filter(|count| (1..=PACKETS_MAX).contains(count));
    if count.is_none() {
        let message = format!("count {text:?} is not a whole number from 1 to {PACKETS_MAX}");
        findings.note(row.file, row.line, message, "say how many packets the batch has, in digits only");
    }
    count
}

pub(crate) fn money_field(row: &Row<'_>, column: &str, findings: &mut Findings) -> Option<Fen> {
    match Fen::parse_yuan(row.field(column)) {
        Ok(fen) => Some(fen),
        Err(error) => {
            let (message, cure) = message_and_cure(&error);
            findings.note(row.file, row.line, format!("{column}: {message}"), cure);
            None
        }
    }
}

/// The two halves of a sentence about money.
pub(crate) fn message_and_cure(error: &MoneyError) -> (String, String) {
    let text = error.to_string();
    let (message, cure) = text.rsplit_once(": ").unwrap_or((&text, "write yuan like 12.34"));
    (message.to_owned(), cure.to_owned())
}

fn date_field(row: &Row<'_>, findings: &mut Findings) -> Option<String> {
    let text = row.field("funded_on");
    let shaped = text.len() == 10 && text.is_ascii();
    match text.parse::<jiff::civil::Date>() {
        Ok(date) if shaped && date.to_string() == text => Some(text.to_owned()),
        _ => {
            let message = format!("funded_on {text:?} is not a day");
            findings.note(row.file, row.line, message, "write it as YYYY-MM-DD, like 2016-01-20");
            None
        }
    }
}
