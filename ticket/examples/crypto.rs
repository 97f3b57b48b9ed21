//! Prints nanoseconds per operation of the hot cryptography, on one core.
//!
//! Run with `cargo run --profile PROFILE -p ticket --features mint,open --example crypto [COUNT]`.
//! Each figure is the best of fifty short rounds, so that other work on the machine shows least.
//!
//! Not here: comparisons; `make bench` collects figures over time.

use std::hint::black_box;

use ticket::id::{BatchId, BuildId, EventTag, FileNo, KeyId, SlotNo, UserId};
use ticket::keys::{BuildSecret, KeyList, SealMaster};
use ticket::mint::MintKeyring;
use ticket::money::Fen;
use ticket::open::OpenKeyring;
use ticket::record::{Flags, Kind, Record};
use ticket::seal::{Issue, NodeSealer, Sealed, Unsealer};
use ticket::{file, sign, token};
use world::{Clock, UnixMs};

const ROUNDS: u32 = 50;
const BUILD: BuildId = BuildId([1; 16]);
const SLOT: SlotNo = SlotNo(1);

fn measure(name: &str, count: u32, mut work: impl FnMut(u32)) {
    let clock = world::clock::SystemClock::new();
    let part = (count / ROUNDS).max(1);
    let mut round = |round: u32| {
        let start = clock.uptime();
        for n in 0..part {
            work((round * part + n) % count);
        }
        (clock.uptime() - start).as_nanos()
    };
    let best = (0..ROUNDS).map(&mut round).min().expect("at least one round");
    let each_ns = best as f64 / f64::from(part);
    println!("{name:<22} {each_ns:>9.1} ns {:>12.0} /s", 1e9 / each_ns);
}

fn main() {
    let count: u32 = std::env::args().nth(1).map_or(200_000, |text| text.parse().expect("a count"));
    let secret = BuildSecret::from_bytes([2; 32]);
    let sealer = MintKeyring::new(&secret, BUILD, 1).sealer(KeyId(1));
    let mint = |n: u32| {
        let amount = Fen::new(u64::from(n % 20_000) + 1);
        sealer.seal(SLOT, BatchId(7), u64::from(n), amount, Flags::new(Kind::Logo, false))
    };
    measure("seal record", count, |n| {
        black_box(mint(n));
    });

    let records: Vec<Record> = (0..count).map(mint).collect();
    let keyring = OpenKeyring::new(&secret, BUILD, 1, KeyList::all(1));
    measure("open record", count, |n| {
        black_box(keyring.open(SLOT, &records[n as usize]).expect("opens"));
    });

    let node = "a1".parse().expect("a node");
    let master = SealMaster::from_bytes([3; 32]);
    let sealer = NodeSealer::new(master.node_key(node), node, 1, "bench", BUILD);
    let issue = |n: u32| Issue {
        record: records[n as usize],
        slot: SLOT,
        file: FileNo(0),
        index: n,
        issued_ms: UnixMs(1_454_850_000_000),
    };
    let seal = |n: u32| sealer.seal(UserId(u64::from(n)), &issue(n)).expect("sealed");
    measure("seal to user", count, |n| {
        black_box(seal(n));
    });

    let sealed: Vec<Sealed> = (0..count).map(seal).collect();
    let unsealer = Unsealer::new(master, "bench", BUILD);
    measure("open of user", count, |n| {
        black_box(unsealer.open(UserId(u64::from(n)), &sealed[n as usize]).expect("opens"));
    });

    let key = sign::SigningKey::from_bytes([4; 32]);
    let public = key.verifying_key();
    let session = token::issue(&key, UserId(1), UnixMs(2));
    measure("verify session token", count / 50 + 1, |_| {
        black_box(token::read(&public, &session).expect("genuine"));
    });

    let event = EventTag::of("bench");
    let header = file::TicketFileHeader { event, build: BUILD, slot: SLOT, home: node, no: FileNo(0), count };
    let mut bytes = Vec::with_capacity(usize::try_from(file::file_size(count)).expect("fits"));
    measure("write file, per file", 1, |_| {
        bytes.clear();
        black_box(file::write_to(&mut bytes, &header, records.iter().copied()).expect("memory"));
    });
}
