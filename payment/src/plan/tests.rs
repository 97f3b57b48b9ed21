//! Whole plans: the sample event, and a small one that has every kind, split and rule in it.

mod building;
mod damage;
mod findings;
mod forgery;
mod splitting;

use std::path::{Path, PathBuf};

use world::clock::SystemClock;
use world::rng::Seed;

use super::{
    BuildError, BuildOptions, BuildSummary, Layout, VerifyError, VerifyOptions, VerifySummary, Watch,
};

/// Every split and kind; one batch of a single packet, one of few large ones.
pub(super) const BUDGET: &str = "\
batch_id,merchant_id,merchant_name,account,kind,count,total_yuan,min_yuan,max_yuan,split,tiers,funded_on
1,10,Aurora Soda,ESC-1-V,video,700,700.33,0.10,5.00,lucky,,2016-01-25
2,10,Aurora Soda,ESC-1-P,picture,900,1080.07,0.01,6.00,double-mean,,2016-01-20
3,11,\"Bluefin, Air\",ESC-2-V,video,500,379.78,0.50,88.88,tiers,88.88x1;1.88x30;0.50x469,2016-01-17
5,12,Cedar Bank,ESC-3-L,logo,300,600.00,2.00,2.00,fixed,,2016-01-14
9,12,Cedar Bank,ESC-3-S,logo,1,7.77,0.01,10.00,lucky,,2016-01-14
12,13,Dahlia,ESC-4-P,picture,80,7600.00,1.00,100.00,double-mean,,2016-01-14
";

/// Three slots, two schemes, keys of 500 yuan, instant from 5 yuan.
pub(super) const SCRIPT: &str = r#"[event]
id = "small"
name = "A small event"
timezone = "Asia/Shanghai"
claims_per_user = 3
claims_per_user_per_merchant = 1

[seal]
key_budget_yuan = "500.00"

[instant]
min_yuan = "5.00"

[[slot]]
id = "one"
start = "2016-02-07T19:00:00"
end = "2016-02-07T19:30:00"

[[slot]]
id = "two"
start = "2016-02-07T20:30:00"
end = "2016-02-07T21:00:00"

[[slot]]
id = "three"
start = "2016-02-07T21:30:00"
end = "2016-02-07T22:00:00"

[[scheme]]
id = "A"
share.logo = { one = 10, two = 30, three = 60 }
share.picture = { one = 0, two = 50, three = 50 }
share.video = { three = 100 }

[[scheme]]
id = "B"
share.logo = { one = 33.33, two = 33.33, three = 33.34 }
share.picture = { one = 100 }
share.video = { one = 50, two = 50 }

[[page]]
id = "greeting"
weight = 90

[[page]]
id = "aurora-card"
merchant_id = 10
weight = 10
exposures = 2000
"#;

/// The folder of the sample event.
pub(super) fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../events/spring")
}

/// A folder with the small event's inputs.
pub(super) struct Desk {
    pub dir: tempfile::TempDir,
}

impl Desk {
    pub fn new() -> Desk {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::write(dir.path().join("budget.csv"), BUDGET).expect("write");
        std::fs::write(dir.path().join("script.toml"), SCRIPT).expect("write");
        Desk { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn options(&self, out: &str) -> BuildOptions {
        BuildOptions {
            budget: self.path("budget.csv"),
            script: self.path("script.toml"),
            scheme: "A".to_owned(),
            out: self.path(out),
            layout: Layout { nodes_per_zone: 2, file_records_max: 100 },
            jobs: 2,
            seed: Some(Seed::from_number(7)),
        }
    }
}

/// Builds without watching.
pub(super) fn build(options: &BuildOptions) -> Result<BuildSummary, BuildError> {
    let clock = SystemClock::new();
    super::build(options, Watch { clock: &clock, progress: &|_| (), stop: &|| false })
}

/// Verifies without watching.
pub(super) fn verify(dir: &Path, full: bool) -> Result<VerifySummary, VerifyError> {
    let clock = SystemClock::new();
    let options = VerifyOptions { full, jobs: 2 };
    super::verify(dir, options, Watch { clock: &clock, progress: &|_| (), stop: &|| false })
}

/// Every file below a folder by its path, with its content.
pub(super) fn tree(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let content = std::fs::read(&path).expect("a file");
                found.push((path.strip_prefix(dir).expect("below").to_owned(), content));
            }
        }
    }
    found.sort();
    found
}
