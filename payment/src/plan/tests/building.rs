//! A build is exact, repeatable, whole or absent.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proptest::prelude::*;
use ticket::file::TicketFile;
use ticket::money::Fen;
use world::clock::SystemClock;
use world::rng::Seed;

use super::super::deal::{Deal, deal};
use super::super::instant::InstantFile;
use super::super::seeds::Seeds;
use super::super::{BuildError, Layout, Plan, Watch, load_manifest, parse, show};
use super::{BUDGET, Desk, SCRIPT, build, sample, tree, verify};

#[test]
fn what_is_built_is_what_was_planned() {
    let desk = Desk::new();
    for scheme in ["A", "B"] {
        let mut options = desk.options(scheme);
        options.scheme = scheme.to_owned();
        let summary = build(&options).expect("builds");
        assert_eq!((summary.records, summary.total_fen), (2481, Fen::new(1_036_795)));
        let verified = verify(&options.out, true).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((verified.records, verified.files), (summary.records, summary.files));
        verify(&options.out, false).expect("sound");
    }
}

#[test]
fn the_sample_event_is_exact_to_the_fen() {
    let desk = Desk::new();
    let mut options = desk.options("spring");
    (options.budget, options.script) = (sample().join("budget.csv"), sample().join("script.toml"));
    options.layout = Layout::default();
    let summary = build(&options).expect("builds");
    assert_eq!((summary.records, summary.total_fen), (1_508_000, Fen::new(188_468_958)));
    let verified = verify(&options.out, true).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(verified.records, 1_508_000);
    let shown = show(&world::disk::RealDisk, &options.out).expect("a build");
    assert_eq!(shown.slots.len(), 5);
    assert!(
        shown.slots[0].kinds.keys().all(|kind| kind.as_str() == "logo"),
        "0 % and absent kinds have no packets"
    );
    assert_eq!(shown.slots.iter().map(|slot| slot.total.packets).sum::<u64>(), 1_508_000);
    assert_eq!(shown.batches.len(), 51);
}

#[test]
fn the_same_seed_gives_the_same_bytes_at_any_number_of_threads() {
    let desk = Desk::new();
    let mut trees = Vec::new();
    for jobs in [1, 2, 7] {
        let mut options = desk.options(&format!("out{jobs}"));
        options.jobs = jobs;
        build(&options).expect("builds");
        trees.push(tree(&options.out));
    }
    assert!(trees[0].len() > 30, "{} files", trees[0].len());
    assert!(trees[0] == trees[1] && trees[1] == trees[2], "threads changed the bytes");
}

#[test]
fn the_bytes_of_a_build_are_frozen() {
    let desk = Desk::new();
    let options = desk.options("out");
    build(&options).expect("builds");
    let mut hasher = blake3::Hasher::new();
    // Files and list only: the manifest may gain fields without harm to an audit.
    let minted = |name: &std::path::Path| name.starts_with("files") || name.starts_with("instant.bin");
    for (path, content) in tree(&options.out).into_iter().filter(|(name, _)| minted(name)) {
        hasher.update(path.to_string_lossy().as_bytes()).update(&content);
    }
    let digest = hasher.finalize().to_hex();
    assert_eq!(&digest[..16], FROZEN, "an audit of an old build would fail: raise the contexts in `seeds`");
}

const FROZEN: &str = "a02f00faaa6736a5";

#[test]
fn other_inputs_never_share_a_build_id_or_a_key() {
    let desk = Desk::new();
    let first = desk.options("first");
    let id = build(&first).expect("builds").build;
    let key = std::fs::read(first.out.join("keys/build.key")).expect("a key");
    let mut others = Vec::new();
    for at in 0..5 {
        let mut options = desk.options(&format!("other{at}"));
        match at {
            0 => options.scheme = "B".to_owned(),
            1 => options.seed = Some(Seed::from_number(8)),
            2 => options.layout.nodes_per_zone = 1,
            3 => options.layout.file_records_max = 101,
            _ => options.seed = None,
        }
        others.push(options);
    }
    let mut comment = desk.options("comment");
    comment.script = desk.path("other.toml");
    std::fs::write(&comment.script, format!("# one more line\n{SCRIPT}")).expect("write");
    others.push(comment);
    for options in others {
        assert_ne!(build(&options).expect("builds").build, id);
        assert_ne!(std::fs::read(options.out.join("keys/build.key")).expect("a key"), key);
    }
}

#[test]
fn secrets_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    let options = desk.options("out");
    build(&options).expect("builds");
    let mode =
        |name: &str| std::fs::metadata(options.out.join(name)).expect(name).permissions().mode() & 0o777;
    assert_eq!(mode("keys"), 0o700);
    for name in ["build.key", "seal.key", "sign.key", "session.key"] {
        assert_eq!(mode(&format!("keys/{name}")), 0o600, "{name}");
    }
}

#[test]
fn nothing_is_overwritten_and_a_killed_run_is_cleared_away() {
    let desk = Desk::new();
    let options = desk.options("out");
    std::fs::create_dir_all(desk.path("out.partial/files")).expect("a killed run left this");
    std::fs::write(desk.path("out.partial/files/000099.hbt"), b"half").expect("write");
    build(&options).expect("builds");
    assert!(!desk.path("out.partial").exists());
    let before = tree(&options.out);
    assert!(matches!(build(&options), Err(BuildError::Exists { .. })));
    assert!(tree(&options.out) == before);
    verify(&options.out, true).expect("sound");
}

#[test]
fn a_stop_leaves_nothing_behind() {
    let desk = Desk::new();
    let options = desk.options("out");
    let (clock, stop, done) = (SystemClock::new(), AtomicBool::new(false), AtomicU64::new(0));
    let progress = |records: u64| {
        if done.fetch_add(records, Ordering::SeqCst) > 1000 {
            stop.store(true, Ordering::SeqCst);
        }
    };
    let watch = Watch { clock: &clock, progress: &progress, stop: &|| stop.load(Ordering::SeqCst) };
    assert!(matches!(super::super::build(&options, watch), Err(BuildError::Stopped)));
    let done = done.load(Ordering::SeqCst);
    assert!(done < 2000, "{done} of 2481 records were minted: the stop came late");
    let mut left: Vec<_> = tree(desk.dir.path()).into_iter().map(|(path, _)| path).collect();
    left.sort();
    assert_eq!(left, vec![std::path::PathBuf::from("budget.csv"), "script.toml".into()]);
}

#[test]
fn errors_leave_nothing_behind() {
    let desk = Desk::new();
    let mut options = desk.options("out");
    options.scheme = "C".to_owned();
    let error = build(&options).expect_err("no such scheme").to_string();
    assert_eq!(error, "the script has no scheme \"C\"; it has A, B");
    let mut options = desk.options("out");
    options.layout.nodes_per_zone = 0;
    assert!(matches!(build(&options), Err(BuildError::Layout(_))));
    std::fs::write(desk.path("script.toml"), SCRIPT.replace("500.00", "100.00")).expect("write");
    let mut options = desk.options("out");
    options.layout.file_records_max = 10;
    build(&options).expect("keys of 100 yuan suffice");
    assert_eq!(tree(desk.dir.path()).iter().filter(|(path, _)| path.starts_with("out.partial")).count(), 0);
}

#[test]
fn keys_stay_within_their_budget_even_inside_a_cell() {
    let desk = Desk::new();
    // 80 packets of 95 yuan on average: a file of one batch is worth many keys of 120 yuan.
    std::fs::write(desk.path("script.toml"), SCRIPT.replace("500.00", "120.00")).expect("write");
    let mut options = desk.options("out");
    options.layout = Layout { nodes_per_zone: 1, file_records_max: 1000 };
    build(&options).expect("builds");
    let manifest = load_manifest(&world::disk::RealDisk, &options.out).expect("a manifest");
    assert!(manifest.keys.iter().all(|key| key.amount_fen <= Fen::new(12_000)));
    let used = manifest.keys.iter().filter(|key| key.count > 0).count();
    assert!(used >= 87, "{used} keys protect 10367.95 yuan at 120 each");
    verify(&options.out, true).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn the_instant_list_holds_the_large_packets() {
    let desk = Desk::new();
    let options = desk.options("out");
    let summary = build(&options).expect("builds");
    let manifest = load_manifest(&world::disk::RealDisk, &options.out).expect("a manifest");
    let path = options.out.join("instant.bin");
    let list =
        InstantFile::load(&world::disk::RealDisk, &path, manifest.build, &manifest.instant).expect("sound");
    let packets: Vec<_> = list.blocks().flat_map(|block| block.expect("readable")).collect();
    assert_eq!(packets.len() as u64, summary.instant);
    assert!(packets.iter().all(|packet| packet.amount >= Fen::new(500)));
    // The one 88.88, the one 7.77, and nearly all of batch 12.
    assert!(packets.iter().any(|packet| packet.id.batch.0 == 9 && packet.amount == Fen::new(777)));
    assert!(packets.iter().any(|packet| packet.id.batch.0 == 3 && packet.amount == Fen::new(8888)));
    assert!(packets.is_sorted_by(|a, b| a.id < b.id));
}

#[test]
fn even_exposure_shows_every_sponsor_from_beginning_to_end() {
    let desk = Desk::new();
    let script = SCRIPT.replace("claims_per_user = 3", "claims_per_user = 3\nexposure = \"even\"");
    std::fs::write(desk.path("script.toml"), script).expect("write");
    let mut options = desk.options("out");
    options.layout = Layout { nodes_per_zone: 1, file_records_max: 1000 };
    build(&options).expect("builds");
    verify(&options.out, true).unwrap_or_else(|error| panic!("{error}"));
    let manifest = load_manifest(&world::disk::RealDisk, &options.out).expect("a manifest");
    for file in &manifest.files {
        let loaded = TicketFile::load(&world::disk::RealDisk, &file.entry.path_in(&options.out), &file.entry);
        let loaded = loaded.expect("sound");
        let half: Vec<_> = loaded.records(0..loaded.count() / 2).expect("half").collect();
        for part in &file.batches {
            let early = half.iter().filter(|record| record.batch() == part.batch).count() as i64;
            // The middle of the file and the middle of all points differ by a packet or two.
            let even = i64::from(part.count) / 2;
            assert!(
                (early - even).abs() <= 3,
                "batch {}: {early} of {} in the first half",
                part.batch,
                part.count
            );
        }
    }
}

#[test]
fn without_an_instant_section_no_packet_is_instant() {
    let desk = Desk::new();
    let script = SCRIPT.replace("[instant]\nmin_yuan = \"5.00\"\n", "");
    std::fs::write(desk.path("script.toml"), script).expect("write");
    let options = desk.options("out");
    assert_eq!(build(&options).expect("builds").instant, 0);
    verify(&options.out, true).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn rules_and_pages_reach_the_roster() {
    let desk = Desk::new();
    let options = desk.options("out");
    build(&options).expect("builds");
    let roster = load_manifest(&world::disk::RealDisk, &options.out).expect("a manifest").roster();
    assert_eq!((roster.claims_per_user_max, roster.claims_per_merchant_max), (3, 1));
    assert_eq!(roster.open_grace_ms, 24 * 3_600_000);
    let pages: Vec<_> = roster
        .consolations
        .iter()
        .map(|page| (page.page.as_str(), page.weight, page.exposures_max))
        .collect();
    assert_eq!(pages, vec![("greeting", 90, None), ("aurora-card", 10, Some(2000))]);
    assert!(!String::from_utf8(ticket::manifest::encode(&roster)).expect("text").contains("fen"));
}

fn dealt(plan: &Plan, layout: Layout, seed: u64) -> Deal {
    let scheme = plan.scheme("A").expect("scheme A");
    let seeds = Seeds::new(&Seed::from_number(seed), plan, "A", layout);
    deal(plan, scheme, layout, &seeds).expect("fits")
}

#[test]
fn a_batch_spreads_over_files_as_if_all_packets_were_shuffled() {
    let plan = parse(("b", BUDGET.into()), ("s", SCRIPT.into())).expect("sound");
    // Batch 5 (300 logo packets, 60 % in slot three): how many lie in the first file of that slot?
    let layout = Layout { nodes_per_zone: 1, file_records_max: 200 };
    let mut counts = Vec::new();
    let mut file_count = 0;
    for seed in 0..400 {
        let deal = dealt(&plan, layout, seed);
        let file = deal.files.iter().find(|file| file.slot.0 == 2).expect("a file");
        file_count = file.count;
        let cell = file.cells.iter().find(|cell| cell.batch == 3);
        counts.push(cell.map_or(0, |cell| cell.count));
    }
    let total = 1200.0 + 181.0 + 490.0;
    let expected = f64::from(file_count) * 180.0 / total;
    let mean = counts.iter().map(|count| f64::from(*count)).sum::<f64>() / 400.0;
    let variance = counts.iter().map(|count| (f64::from(*count) - mean).powi(2)).sum::<f64>() / 400.0;
    let (n, k) = (f64::from(file_count), 180.0 / total);
    let true_variance = n * k * (1.0 - k) * (total - n) / (total - 1.0);
    assert!((mean - expected).abs() < 5.0 * (true_variance / 400.0).sqrt(), "{mean}, not {expected}");
    assert!((variance / true_variance - 1.0).abs() < 0.35, "{variance}, not {true_variance}");
}

#[test]
fn the_other_zones_share_a_lost_zones_files_in_every_slot() {
    let plan = parse(("b", BUDGET.into()), ("s", SCRIPT.into())).expect("sound");
    for nodes_per_zone in [1, 2, 5] {
        let deal = dealt(&plan, Layout { nodes_per_zone, file_records_max: 100 }, 1);
        let mut taken: BTreeMap<_, BTreeMap<_, i64>> = BTreeMap::new();
        for file in &deal.files {
            let [home, next, last] = [0, 1, 2].map(|at| file.holders[at].zone());
            assert!(home != next && next != last && last != home);
            let shares = taken.entry((file.slot, home)).or_default();
            *shares.entry(next).or_default() += 1;
            shares.entry(last).or_default();
        }
        assert_eq!(taken.len(), 9, "three slots, three zones");
        for (of, shares) in taken {
            let (least, most) = (shares.values().min().expect("two"), shares.values().max().expect("two"));
            assert!(shares.len() == 2 && most - least <= 1, "{of:?}: {shares:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_deal_adds_up(nodes_per_zone in 1u8..6, file_records_max in 1u32..500, seed: u64) {
        let plan = parse(("b", BUDGET.into()), ("s", SCRIPT.into())).expect("sound");
        let layout = Layout { nodes_per_zone, file_records_max };
        let deal = dealt(&plan, layout, seed);
        let mut sums: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        let mut next = 0;
        for (at, file) in deal.files.iter().enumerate() {
            prop_assert_eq!(file.no.0 as usize, at);
            prop_assert_eq!(file.first, next);
            prop_assert!((1..=file_records_max).contains(&file.count));
            next += u64::from(file.count);
            prop_assert_eq!(file.cells.iter().map(|cell| u64::from(cell.count)).sum::<u64>(), u64::from(file.count));
            for cell in &file.cells {
                prop_assert!(cell.count > 0 && cell.key_first + (cell.key_count - 1) <= deal.key_count);
                let sum = sums.entry(cell.batch).or_default();
                *sum = (sum.0 + u64::from(cell.count), sum.1 + cell.total_fen);
            }
        }
        for (at, batch) in plan.budget.batches.iter().enumerate() {
            prop_assert_eq!(sums[&(at as u32)], (batch.count, batch.total.get()));
        }
    }
}
