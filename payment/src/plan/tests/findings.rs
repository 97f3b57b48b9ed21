//! Everything that can be wrong with a budget or a script is found, at its line, with a cure.

use std::path::Path;

use proptest::prelude::*;
use ticket::money::Fen;

use super::super::{PlanErrors, check, parse};
use super::{BUDGET, SCRIPT, sample};

fn findings(budget: &[u8], script: &[u8]) -> Option<PlanErrors> {
    parse(("budget.csv", budget.to_vec()), ("script.toml", script.to_vec())).err()
}

/// Changes one text of the small event and expects a finding in that file at that line.
fn check_one(file: &str, (old, new): (&str, &str), line: usize, message: &str, cure: &str) {
    let text = if file == "budget.csv" { BUDGET } else { SCRIPT };
    assert!(text.contains(old), "{old:?} is not in {file}");
    let changed = text.replacen(old, new, 1);
    let (budget, script) = if file == "budget.csv" { (&*changed, SCRIPT) } else { (BUDGET, &*changed) };
    let errors = findings(budget.as_bytes(), script.as_bytes()).expect(new);
    let hit = errors.iter().any(|error| {
        error.file == file
            && error.line == line
            && error.message.contains(message)
            && error.cure.contains(cure)
    });
    assert!(hit, "{old:?} -> {new:?}: wanted {file}:{line}: {message}; {cure}\ngot:\n{errors}");
}

#[test]
fn the_sample_event_has_no_findings() {
    let dir = sample();
    let summary = check(&world::disk::RealDisk, &dir.join("budget.csv"), &dir.join("script.toml"));
    let summary = summary.expect("the sample is sound");
    assert_eq!((summary.batches, summary.merchants, summary.packets), (51, 30, 1_508_000));
    assert_eq!(summary.total_fen, Fen::new(188_468_958));
    assert_eq!(summary.schemes, vec!["A", "B"]);
    assert!(findings(BUDGET.as_bytes(), SCRIPT.as_bytes()).is_none());
}

#[test]
fn a_missing_file_is_named() {
    let error =
        check(&world::disk::RealDisk, Path::new("/nonexistent/b.csv"), Path::new("/nonexistent/s.toml"));
    assert!(error.expect_err("missing").to_string().contains("/nonexistent/b.csv"));
}

#[test]
fn money_of_the_budget() {
    let budget = |old, new, line, message, cure| check_one("budget.csv", (old, new), line, message, cure);
    budget(
        "700.33,0.10",
        "69.99,0.10",
        2,
        "700 packets of at least 0.10 need 70.00, but total_yuan is 69.99",
        "lower count",
    );
    budget(
        "700.33,0.10,5.00",
        "700.33,0.10,1.00",
        2,
        "700 packets of at most 1.00 hold 700.00",
        "raise count",
    );
    budget("0.01,6.00", "6.01,6.00", 3, "min_yuan 6.01 is more than max_yuan 6.00", "exchange");
    budget("0.01,6.00", "0,6.00", 3, "min_yuan is 0.00", "use 0.01");
    budget("0.01,6.00", "0.01,167772.16", 3, "max_yuan 167772.16 does not fit", "167772.15");
    budget(
        "0.01,6.00",
        "0.01,500.01",
        3,
        "max_yuan 500.01 is more than seal.key_budget_yuan 500.00",
        "lower max_yuan",
    );
    budget("1080.07", "-1080.07", 3, "has a sign", "without + or -");
    budget("1080.07", "1080.075", 3, "finer than a fen", "two digits");
    budget("1080.07", "1080元", 3, "is not an amount", "write digits");
    budget("1080.07", "99999999999999999999999", 3, "too large", "largest amount");
    budget("1080.07", "", 3, "the amount is empty", "12.34");
    budget("900,1080.07,0.01,6.00", "281474976710656,90071992547409.92,0.01,6.00", 3, "packets", "at most");
}

#[test]
fn counts_ids_and_words_of_the_budget() {
    let budget = |old, new, line, message, cure| check_one("budget.csv", (old, new), line, message, cure);
    budget("video,700", "video,0", 2, "count \"0\"", "digits only");
    budget("video,700", "video,-1", 2, "count \"-1\"", "digits only");
    budget("video,700", "video,7e2", 2, "count \"7e2\"", "digits only");
    budget("video,700", "video,99999999999999999999999", 2, "count", "digits only");
    budget("\n9,12", "\n65536,12", 6, "batch_id \"65536\"", "at most 65536 batches");
    budget("\n9,12", "\n5,12", 6, "batch_id 5 stands on line 5 already", "its own id");
    budget("\n9,12", "\n9,-12", 6, "merchant_id \"-12\"", "number");
    budget(
        "\n9,12,Cedar Bank",
        "\n9,12,Cedar",
        6,
        "called \"Cedar\" here and \"Cedar Bank\" on line 5",
        "one name",
    );
    budget("Dahlia", "", 7, "merchant_name is empty", "fill it in");
    budget("ESC-4-P", "", 7, "account is empty", "fill it in");
    budget("logo,300", "banner,300", 5, "kind \"banner\"", "logo, picture or video");
    budget("fixed", "random", 5, "split \"random\"", "double-mean, lucky, fixed or tiers");
    budget("2016-01-20", "20.01.2016", 3, "funded_on", "YYYY-MM-DD");
    budget("2016-01-20", "2016-02-30", 3, "funded_on", "YYYY-MM-DD");
}

#[test]
fn tiers_and_fixed_of_the_budget() {
    let budget = |old, new, line, message, cure| check_one("budget.csv", (old, new), line, message, cure);
    budget("0.50x469", "0.50x468", 4, "the tiers have 499 packets, but count is 500", "add up to count");
    budget("379.78", "379.79", 4, "the tiers hold 379.78, but total_yuan is 379.79", "add up to total_yuan");
    budget("0.50,88.88,tiers", "0.51,88.88,tiers", 4, "the tier 0.50 is not between", "change the tier");
    budget("1.88x30", "1.88*30", 4, "tier \"1.88*30\"", "88.88x10");
    budget("1.88x30", "0.50x30", 4, "the tier 0.50 stands here twice", "add the counts");
    budget("88.88x1;1.88x30;0.50x469", "", 4, "tier \"\"", "88.88x10");
    budget("fixed,", "fixed,2.00x300", 5, "tiers are given, but split is \"fixed\"", "empty the column");
    budget("600.00,2.00", "600.01,2.00", 5, "does not divide into 300", "set total_yuan to 600.00");
    budget("2.00,2.00,fixed", "1.00,1.99,fixed", 5, "would hold 2.00", "change total_yuan");
}

#[test]
fn columns_of_the_budget() {
    let budget = |old, new, line, message, cure| check_one("budget.csv", (old, new), line, message, cure);
    budget(",count,", ",", 1, "the column \"count\" is missing", "add it");
    budget(",count,", ",count,colour,", 1, "the column \"colour\" is not known", "remove it");
    budget(",count,", ",count,count,", 1, "the column \"count\" stands here twice", "remove one");
    budget("2016-01-25", "2016-01-25,extra", 2, "this line has 13 fields, the header has 12", "every column");
    budget(",2016-01-25", "", 2, "this line has 11 fields, the header has 12", "every column");
    let header = BUDGET.lines().next().expect("a header");
    let errors = findings(header.as_bytes(), SCRIPT.as_bytes()).expect("no batch");
    assert!(errors.to_string().contains("there is no batch below the header"), "{errors}");
}

#[test]
fn times_and_slots_of_the_script() {
    let script = |old, new, line, message, cure| check_one("script.toml", (old, new), line, message, cure);
    script("Asia/Shanghai", "Asia/Atlantis", 4, "time zone \"Asia/Atlantis\"", "IANA");
    script(
        "2016-02-07T19:00:00",
        "2016-02-30T19:00:00",
        16,
        "start \"2016-02-30T19:00:00\" is not a time",
        "like 2016",
    );
    script("2016-02-07T19:30:00", "2016-02-07T18:30:00", 14, "ends before it starts", "exchange");
    script(
        "2016-02-07T20:30:00",
        "2016-02-07T19:29:59",
        19,
        "slot \"two\" starts before slot \"one\" ends",
        "in order",
    );
    script("id = \"two\"", "id = \"one\"", 19, "slot \"one\" stands on line 14 already", "its own id");
    script("id = \"two\"", "id = \"t/w/o\"", 20, "id \"t/w/o\" is not an id", "letters");
    script("[[slot]]\nid = \"one\"", "[[slot]]", 14, "[[slot]] 1 has no id", "add id");
    script(
        "start = \"2016-02-07T19:00:00\"",
        "start = 7",
        16,
        "start is a whole number, not a text",
        "quotes",
    );
    script("[event]", "slot = 3\n[event]", 1, "slot is a whole number", "[[slot]]");
}

#[test]
fn schemes_of_the_script() {
    let script = |old, new, line, message, cure| check_one("script.toml", (old, new), line, message, cure);
    script(
        "three = 60",
        "three = 59.99",
        31,
        "share.logo of scheme \"A\" adds up to 99.99 percent",
        "make it 100",
    );
    script("three = 60", "three = 61", 31, "adds up to 101.00 percent", "make it 100");
    script("three = 60", "four = 60", 31, "names the slot \"four\"", "one of one, two, three");
    script("three = 60", "three = -60", 31, "not a percentage", "0 to 100");
    script("three = 60", "three = 60.001", 31, "not a percentage", "two decimals");
    script("three = 60", "three = \"60\"", 31, "not a percentage", "0 to 100");
    script("share.video = { three = 100 }\n", "", 29, "scheme \"A\" has no share.video", "add share.video");
    script("share.logo", "share.banner", 31, "share.banner is of no known kind", "logo, picture or video");
    script(
        "share.video = { three = 100 }",
        "share.video = 100",
        33,
        "share.video is a whole number",
        "slot-id",
    );
    script("id = \"B\"", "id = \"A\"", 35, "scheme \"A\" stands on line 29 already", "its own id");
    let cut = SCRIPT.find("[[scheme]]").expect("schemes");
    let errors = findings(BUDGET.as_bytes(), &SCRIPT.as_bytes()[..cut]).expect("no scheme");
    assert!(errors.to_string().contains("the script has no scheme"), "{errors}");
}

#[test]
fn keys_and_numbers_of_the_script() {
    let script = |old, new, line, message, cure| check_one("script.toml", (old, new), line, message, cure);
    script(
        "claims_per_user = 3",
        "claims_per_user = 0",
        5,
        "claims_per_user is not a whole number from 1",
        "correct",
    );
    script("claims_per_user = 3", "claims_per_user = 4294967296", 5, "claims_per_user is not", "correct");
    script("claims_per_user = 3", "claims = 3", 5, "the key \"claims\" is not known", "claims_per_user");
    script("claims_per_user = 3\n", "", 1, "[event] has no claims_per_user", "add claims_per_user");
    script(
        "claims_per_user = 3",
        "claims_per_user = 3\nexposure = \"fair\"",
        6,
        "exposure \"fair\"",
        "random or even",
    );
    script("[seal]", "[sael]", 8, "the key \"sael\" is not known", "seal");
    script("[seal]", "[sael]", 1, "the script has no seal", "add seal");
    script("\"500.00\"", "500.00", 9, "key_budget_yuan is a number with a point", "in quotes");
    script("\"500.00\"", "\"0\"", 9, "key_budget_yuan 0.00 is out of bounds", "250000.00");
    script("weight = 90", "weight = 0", 43, "weight is not a whole number from 1", "correct");
    script(
        "merchant_id = 10",
        "merchant_id = 99",
        45,
        "merchant 99, which has no batch",
        "correct merchant_id",
    );
    script(
        "id = \"aurora-card\"",
        "id = \"greeting\"",
        45,
        "page \"greeting\" stands on line 41 already",
        "its own id",
    );
    script("name = \"A small event\"", "name = \"A small event", 3, "not valid TOML", "compare");
    script("name = \"A small event\"", "name = 1\nname = 2", 4, "not valid TOML", "compare");
}

#[test]
fn files_that_are_no_text() {
    let check_bytes = |budget: &[u8], script: &[u8], wanted: &str| {
        let errors = findings(budget, script).expect("broken");
        assert!(errors.to_string().contains(wanted), "wanted {wanted}, got:\n{errors}");
    };
    check_bytes(b"", SCRIPT.as_bytes(), "budget.csv:1: the file is empty");
    check_bytes(BUDGET.as_bytes(), b" \n", "script.toml:1: the file is empty");
    check_bytes(&BUDGET.replace("Dahlia", "D\u{fffd}").into_bytes(), b"", "script.toml:1: the file is empty");
    let mut budget = BUDGET.as_bytes().to_vec();
    let at = BUDGET.find("Dahlia").expect("a name");
    budget[at] = 0xff;
    check_bytes(
        &budget,
        SCRIPT.as_bytes(),
        "budget.csv:7: this line is not UTF-8 text; save the file as UTF-8",
    );
}

#[test]
fn every_finding_of_both_files_comes_in_one_run() {
    let budget = BUDGET.replace("video,700", "video,0").replace("logo,300", "banner,300");
    let script = SCRIPT
        .replace("weight = 90", "weight = 0")
        .replace("Asia/Shanghai", "Mars")
        .replace("three = 60", "three = 6");
    let errors = findings(budget.as_bytes(), script.as_bytes()).expect("broken");
    let places: Vec<(String, usize)> = errors.iter().map(|error| (error.file.clone(), error.line)).collect();
    let expected =
        [("budget.csv", 2), ("budget.csv", 5), ("script.toml", 4), ("script.toml", 31), ("script.toml", 43)];
    assert_eq!(places, expected.map(|(file, line)| (file.to_owned(), line)), "{errors}");
}

#[test]
fn spreadsheets_may_write_marks_and_carriage_returns() {
    let budget = format!("\u{feff}{}", BUDGET.replace('\n', "\r\n"));
    let script = SCRIPT.replace('\n', "\r\n");
    if let Some(errors) = findings(budget.as_bytes(), script.as_bytes()) {
        panic!("{errors}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_bytes_never_panic(
        budget in proptest::collection::vec(any::<u8>(), 0..300),
        script in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = findings(&budget, &script);
    }

    #[test]
    fn damaged_inputs_never_panic(
        cuts in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0usize..3), 1..8),
        in_budget: bool,
    ) {
        let mut bytes = if in_budget { BUDGET } else { SCRIPT }.as_bytes().to_vec();
        for (at, byte, how) in cuts {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
        }
        let (budget, script) = if in_budget { (&*bytes, SCRIPT.as_bytes()) } else { (BUDGET.as_bytes(), &*bytes) };
        let _ = findings(budget, script);
    }

    #[test]
    fn numbers_of_any_size_never_panic(count: u64, total: u64, min: u64, max: u64, tier: u64) {
        for split in ["lucky,", "double-mean,", "fixed,", &format!("tiers,1.00x{tier};0.50x{count}")] {
            let line = format!("1,1,S,A,logo,{count},{}.{:02},{},{},{split},2016-01-01", total / 100, total % 100, Fen::new(min), Fen::new(max));
            let header = BUDGET.lines().next().expect("a header");
            let _ = findings(format!("{header}\n{line}\n{line}\n").as_bytes(), SCRIPT.as_bytes());
        }
    }
}
