//! Ingests: of every sorted file all pairs are there, or none; all of what was acknowledged.
//!
//! Evidence: what clients were told of their files, and a scan of the data groups at the end.
//!
//! Invariant: a file of unknown outcome may be there or not, but not in part.
//!
//! Limits: what was there in between is not looked at.

use bytes::Bytes;

use super::{Findings, Verdict};
use crate::history::ingest::{IngestContents, IngestFile, Told};

/// Judges all files of a run.
#[must_use]
pub fn check(files: &[IngestFile], contents: &IngestContents) -> Verdict {
    let mut findings = Findings::new("IN", "a file is ingested whole or not at all, and stays");
    let (mut pairs, mut whole) = (0usize, 0u64);
    for file in files {
        let prefix = file.prefix.as_bytes();
        let found: Vec<_> = contents
            .range(Bytes::copy_from_slice(prefix)..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .collect();
        pairs += found.len();
        let right = (0..file.pairs)
            .filter(|number| {
                let (key, value) = file.pair(*number);
                contents.get(&key) == Some(&value)
            })
            .count();
        let all = right == file.pairs as usize && found.len() == right;
        whole += u64::from(all);
        let fits = match file.told {
            Told::Done => all,
            Told::Unknown => all || found.is_empty(),
            Told::Not => found.is_empty(),
        };
        findings.must(fits, None, || {
            let (found, of, told) = (found.len(), file.pairs, file.told);
            format!(
                "of file {} {found} pairs of {of} are there, {right} of them right; told {told:?}",
                file.prefix
            )
        });
    }
    findings.must(pairs == contents.len(), None, || {
        format!("{} pairs are there that are of no file", contents.len() - pairs)
    });
    let count = files.len();
    findings.verdict(|_| format!("{whole} of {count} files are there, with {pairs} pairs, none in part"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, told: Told) -> IngestFile {
        IngestFile { prefix: format!("load/{name}/"), pairs: 3, value_len: 40, told }
    }

    fn contents(files: &[IngestFile]) -> IngestContents {
        files.iter().flat_map(|file| (0..file.pairs).map(|number| file.pair(number))).collect()
    }

    #[test]
    fn a_file_in_part_a_lost_one_and_one_that_must_not_be_are_noticed() {
        let done = file("1", Told::Done);
        let open = file("2", Told::Unknown);
        let not = file("3", Told::Not);
        let files = [done.clone(), open.clone(), not.clone()];
        let both = contents(&[done.clone(), open]);
        assert!(check(&files, &both).held);
        assert!(check(&files, &contents(std::slice::from_ref(&done))).held, "an unknown one may be missing");
        assert!(!check(&files, &contents(&[])).held, "an acknowledged one may not");
        assert!(!check(&files, &contents(&[done.clone(), not])).held, "one that was refused is there");
        for place in 0..both.len() {
            let key = both.keys().nth(place).expect("there").clone();
            let mut broken = both.clone();
            broken.remove(&key);
            assert!(!check(&files, &broken).held, "a pair is missing");
            broken.insert(key, "other".into());
            assert!(!check(&files, &broken).held, "a value is another");
        }
        let mut foreign = both;
        foreign.insert("load/9/00000".into(), "x".into());
        assert!(!check(&files, &foreign).held, "a pair of no file");
    }
}
