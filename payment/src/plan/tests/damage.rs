//! Whatever happens to a build directory, verification says so.

use rand::Rng;
use world::rng::Seed;

use super::super::VerifyError;
use super::{Desk, build, tree, verify};

#[test]
fn one_flipped_bit_anywhere_is_found() {
    let desk = Desk::new();
    let mut options = desk.options("out");
    options.layout.nodes_per_zone = 1;
    options.layout.file_records_max = 400;
    build(&options).expect("builds");
    let mut rng = Seed::from_number(9).stream(0);
    for (name, content) in tree(&options.out) {
        let path = options.out.join(&name);
        // Every bit of the first and last byte, and some between.
        let last = (content.len() - 1) * 8;
        let mut bits: Vec<usize> = (0..8).chain(last..last + 8).collect();
        bits.extend((0..12).map(|_| (rng.next_u64() % (content.len() as u64 * 8)) as usize));
        for bit in bits {
            let mut flipped = content.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &flipped).expect("write");
            let found = verify(&options.out, false);
            assert!(
                matches!(found, Err(VerifyError::Failed(_))),
                "bit {bit} of {} was not missed",
                name.display()
            );
        }
        std::fs::write(&path, &content).expect("write");
    }
    verify(&options.out, true).unwrap_or_else(|error| panic!("everything was put back: {error}"));
}

#[test]
fn what_is_missing_or_foreign_is_found() {
    let desk = Desk::new();
    let options = desk.options("out");
    build(&options).expect("builds");
    for (name, content) in tree(&options.out) {
        let optional = ["build.key", "seal.key", "sign.key", "session.key"];
        let path = options.out.join(&name);
        std::fs::remove_file(&path).expect("remove");
        let found = verify(&options.out, false);
        let may_miss = optional.iter().any(|key| name.ends_with(key));
        assert_eq!(found.is_ok(), may_miss, "without {}: {found:?}", name.display());
        std::fs::write(&path, content).expect("write");
    }
    for name in ["files/000999.hbt", "notes.txt", "keys/old.key", "files/000000.hbt.partial"] {
        let path = options.out.join(name);
        std::fs::write(&path, b"stranger").expect("write");
        let error = verify(&options.out, false).expect_err(name).to_string();
        assert!(error.contains(name), "{error}");
        std::fs::remove_file(&path).expect("remove");
    }
    std::fs::remove_file(options.out.join("keys/build.key")).expect("remove");
    let error = verify(&options.out, true).expect_err("no key to open with").to_string();
    assert!(error.contains("build.key"), "{error}");
}

#[test]
fn copies_of_the_inputs_that_only_say_the_same_are_found() {
    let desk = Desk::new();
    let options = desk.options("out");
    build(&options).expect("builds");
    for (name, comment) in [("budget.csv", "\n"), ("script.toml", "# harmless\n")] {
        let path = options.out.join(name);
        let own = std::fs::read_to_string(&path).expect("read");
        std::fs::write(&path, format!("{own}{comment}")).expect("write");
        let error = verify(&options.out, false).expect_err(name).to_string();
        assert!(error.contains(&format!("{name} is not the file the build was made from")), "{error}");
        std::fs::write(&path, own).expect("write");
    }
}

#[test]
fn a_directory_that_is_no_build_is_not_found() {
    let desk = Desk::new();
    assert!(matches!(verify(desk.dir.path(), false), Err(VerifyError::NotFound { .. })));
}

#[test]
fn files_and_documents_of_another_build_are_found() {
    let desk = Desk::new();
    let (first, mut second) = (desk.options("first"), desk.options("second"));
    second.seed = Some(Seed::from_number(8));
    build(&first).expect("builds");
    build(&second).expect("builds");
    for name in [
        "files/000000.hbt",
        "manifest.json",
        "roster.json",
        "instant.bin",
        "keys/build.key",
        "keys/sign.pub",
        "keys/sign.key",
        "keys/session.pub",
    ] {
        let own = std::fs::read(first.out.join(name)).expect("read");
        std::fs::copy(second.out.join(name), first.out.join(name)).expect("copy");
        let found = verify(&first.out, true);
        assert!(matches!(found, Err(VerifyError::Failed(_))), "{name} of another build passed");
        std::fs::write(first.out.join(name), own).expect("write");
    }
    verify(&first.out, true).expect("everything was put back");
}
