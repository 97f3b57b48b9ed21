//! The plan from the command line: what is wrong is reported at once, with its place and its cure, and
//! leaves nothing behind; what was built verifies, down to the last bit.

use std::fs;
use std::path::{Path, PathBuf};

use tests::{Ran, hongbao, path, sample_event};

const HEAD: &str = "batch_id,merchant_id,merchant_name,account,kind,count,total_yuan,min_yuan,max_yuan,split,tiers,funded_on\n";

struct Inputs {
    dir: tempfile::TempDir,
}

impl Inputs {
    fn new(budget: &[u8], script: &[u8]) -> Inputs {
        let dir = tempfile::tempdir().expect("tempdir");
        fs::write(dir.path().join("budget.csv"), budget).expect("write");
        fs::write(dir.path().join("script.toml"), script).expect("write");
        Inputs { dir }
    }

    fn sample() -> Inputs {
        let read = |name: &str| fs::read(sample_event().join(name)).expect("the sample");
        Inputs::new(&read("budget.csv"), &read("script.toml"))
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn build(&self, more: &[&str]) -> Ran {
        let (budget, script, out) =
            (self.dir.path().join("budget.csv"), self.dir.path().join("script.toml"), self.out());
        let mut words = vec!["plan", "build", "--budget", path(&budget), "--script", path(&script)];
        words.extend(["--scheme", "A", "--out", path(&out), "-o", "json"]);
        words.extend(more);
        hongbao(&words)
    }
}

/// A bad budget or script: refused with exit 2 (or 1), naming the file and each of the words; nothing left.
fn check_refused(budget: &[u8], script: &[u8], words: &[&str]) {
    let inputs = Inputs::new(budget, script);
    let ran = inputs.build(&[]);
    assert!(ran.code == 2 || ran.code == 1, "exit {}:\n{}", ran.code, ran.err);
    for word in words {
        assert!(ran.err.contains(word), "{word:?} is not in:\n{}", ran.err);
    }
    let left: Vec<_> =
        fs::read_dir(inputs.dir.path()).expect("list").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(left.len(), 2, "something was left behind: {left:?}");
}

fn sample_script() -> Vec<u8> {
    fs::read(sample_event().join("script.toml")).expect("the sample")
}

fn budget(rows: &str) -> Vec<u8> {
    format!("{HEAD}{rows}").into_bytes()
}

const GOOD_ROWS: &str = "1,1,A,X,logo,100,100.00,0.01,5.00,lucky,,2016-01-01\n2,1,A,X,picture,100,100.00,0.01,5.00,lucky,,2016-01-01\n3,1,A,X,video,100,100.00,0.01,5.00,lucky,,2016-01-01\n";

#[test]
fn wrong_budgets_are_refused_with_line_and_cure() {
    let script = sample_script();
    let cases: &[(&str, &[&str])] = &[
        ("1,1,A,X,logo,100,1000.00,0.01,5.00,lucky,,2016-01-01\n", &["budget.csv:2"]),
        ("1,1,A,X,logo,100,0.50,0.01,5.00,lucky,,2016-01-01\n", &["budget.csv:2"]),
        ("1,1,A,X,logo,100,100.00,6.00,5.00,lucky,,2016-01-01\n", &["budget.csv:2"]),
        ("1,1,A,X,banner,100,100.00,0.01,5.00,lucky,,2016-01-01\n", &["budget.csv:2", "banner"]),
        ("1,1,A,X,logo,99999999999999999999,100.00,0.01,5.00,lucky,,2016-01-01\n", &["budget.csv:2"]),
        ("1,1,A,X,logo,-5,100.00,0.01,5.00,lucky,,2016-01-01\n", &["budget.csv:2"]),
        ("1,1,A,X,logo,10,1e3,0.01,5.00,lucky,,2016-01-01\n", &["budget.csv:2"]),
    ];
    for (rows, words) in cases {
        check_refused(&budget(rows), &script, words);
    }
    let twice = format!("{GOOD_ROWS}1,1,A,X,logo,100,100.00,0.01,5.00,lucky,,2016-01-01\n");
    check_refused(&budget(&twice), &script, &["budget.csv:5"]);
    check_refused(b"\xff\xfe not text", &script, &["budget.csv"]);
    check_refused(b"", &script, &["budget.csv"]);
}

#[test]
fn all_findings_come_in_one_run() {
    let rows = "1,1,A,X,logo,100,1000.00,0.01,5.00,lucky,,2016-01-01\n2,1,A,X,banner,100,100.00,6.00,5.00,lucky,,2016-01-01\n";
    let script = String::from_utf8(sample_script()).expect("UTF-8").replacen(
        "\"1900-warm-up\" = 10",
        "\"1900-warm-up\" = 11",
        1,
    );
    check_refused(
        &budget(rows),
        script.as_bytes(),
        &["budget.csv:2", "budget.csv:3", "banner", "script.toml:"],
    );
}

#[test]
fn wrong_scripts_are_refused_with_line_and_cure() {
    let good = String::from_utf8(sample_script()).expect("UTF-8");
    let overlapping = good.replacen("start = \"2016-02-07T20:30:00\"", "start = \"2016-02-07T19:10:00\"", 1);
    let unknown = good.replacen("claims_per_user = 3", "claims_per_usr = 3", 1);
    let percent = good.replacen("\"1900-warm-up\" = 10", "\"1900-warm-up\" = 15", 1);
    for script in [overlapping, unknown, percent] {
        check_refused(&budget(GOOD_ROWS), script.as_bytes(), &["script.toml:"]);
    }
    check_refused(&budget(GOOD_ROWS), b"not = [toml", &["script.toml"]);
}

#[test]
fn the_sample_event_builds_to_the_fen_and_verifies() {
    let inputs = Inputs::sample();
    let built = inputs.build(&[]).expect(0).json();
    assert_eq!(
        (built["records"].as_u64(), built["total_fen"].as_u64()),
        (Some(1_508_000), Some(188_468_958))
    );
    for field in ["files", "keys", "bytes", "seconds"] {
        assert!(built[field].as_f64().is_some_and(|n| n > 0.0), "{field}: {}", built[field]);
    }
    let verified = hongbao(&["plan", "verify", path(&inputs.out()), "--full", "-o", "json"]).expect(0).json();
    assert_eq!(verified["records"], built["records"]);
    inputs.build(&[]).expect(4);
}

#[test]
fn the_same_seed_gives_the_same_bytes_with_any_number_of_threads() {
    let (one, two) = (Inputs::sample(), Inputs::sample());
    one.build(&["--seed", "7", "-j", "1"]).expect(0);
    two.build(&["--seed", "7", "-j", "2"]).expect(0);
    let (files_one, files_two) = (files_below(&one.out()), files_below(&two.out()));
    assert_eq!(files_one.len(), files_two.len());
    for (left, right) in files_one.iter().zip(&files_two) {
        assert_eq!(left.strip_prefix(one.out()).ok(), right.strip_prefix(two.out()).ok());
        assert!(
            fs::read(left).expect("read") == fs::read(right).expect("read"),
            "{} differs",
            left.display()
        );
    }
}

#[test]
fn one_flipped_bit_anywhere_is_found() {
    let inputs = Inputs::sample();
    inputs.build(&["--seed", "9"]).expect(0);
    let files = files_below(&inputs.out());
    let publicly_checked = |file: &&PathBuf| !file.starts_with(inputs.out().join("keys"));
    let checked: Vec<&PathBuf> = files.iter().filter(publicly_checked).collect();
    assert!(checked.len() > 30, "only {} files", checked.len());
    for (turn, file) in checked.iter().enumerate() {
        let good = fs::read(file).expect("read");
        let mut bad = good.clone();
        let at = (turn * 7_919 + good.len() / 2) % good.len();
        bad[at] ^= 1 << (turn % 8);
        fs::write(file, &bad).expect("write");
        let ran = hongbao(&["plan", "verify", path(&inputs.out()), "--full"]);
        assert_eq!(ran.code, 8, "a bit at {at} of {} was not found:\n{}", file.display(), ran.err);
        fs::write(file, &good).expect("write");
    }
    hongbao(&["plan", "verify", path(&inputs.out()), "--full"]).expect(0);
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("list") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}
