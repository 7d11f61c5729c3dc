//! The committed corpora through the targets, and that the list is complete.

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::Path;

use fuzz_targets::{TARGETS, fuzz_folder};

/// Most bytes of all corpora together: they are cloned with the sources.
const CORPUS_BYTES_MAX: u64 = 2 << 20;

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let stem = |path: std::path::PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
    entries.map(|entry| stem(entry.unwrap().path())).collect()
}

#[test]
fn every_target_has_a_binary_and_a_corpus_and_there_are_no_others() {
    let listed: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(listed.len(), TARGETS.len(), "a name is used twice");
    assert_eq!(names(&fuzz_folder().join("fuzz_targets")), listed);
    assert_eq!(names(&fuzz_folder().join("corpus")), listed);
    let manifest = std::fs::read_to_string(fuzz_folder().join("Cargo.toml")).unwrap();
    for name in &listed {
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name} is no binary of tests/fuzz");
        let binary = fuzz_folder().join(format!("fuzz_targets/{name}.rs"));
        let binary = std::fs::read_to_string(binary).unwrap();
        assert!(binary.contains(&format!("fuzz_targets::run(\"{name}\", ")), "{name} runs another target");
    }
}

#[test]
fn the_corpus_of_every_target_finds_nothing() {
    let mut bytes = 0;
    let mut found = vec![];
    for target in TARGETS {
        let mut inputs = 0;
        for entry in std::fs::read_dir(fuzz_folder().join("corpus").join(target.name)).unwrap() {
            let path = entry.unwrap().path();
            let data = std::fs::read(&path).unwrap();
            bytes += data.len() as u64;
            inputs += 1;
            if catch_unwind(|| (target.run)(&data)).is_err() {
                found.push(path);
            }
        }
        assert!(inputs > 0, "{} has no corpus", target.name);
    }
    assert!(found.is_empty(), "these inputs break a promise: {found:#?}");
    assert!(bytes <= CORPUS_BYTES_MAX, "the corpora have {bytes} bytes; merge them");
}
