//! The fuzzer's corpus (`tests/fuzz/corpus`, a folder a target), replayed through
//! the same entries: seeds of every kind, and whatever once made one fail.
//! The fuzzer itself is `just fuzz`. Needs root, for a tmpfs of its own.

#![allow(clippy::unwrap_used)] // a test that fails says where

#[path = "fuzz/src/targets.rs"]
mod targets;

use std::path::Path;

#[test]
fn every_file_of_the_corpus_is_taken_without_a_panic() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for target in targets::names() {
        let files = std::fs::read_dir(corpus.join(target)).unwrap_or_else(|error| panic!("{target}: {error}"));
        let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{target} has no seeds");
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            // The harness shows only a failing test's output: the last line names the file.
            println!("{}", file.display());
            targets::feed(target, &bytes);
            // Cut and with one byte changed, it meets the error paths.
            for n in (0..bytes.len()).step_by(bytes.len().div_ceil(64).max(1)) {
                targets::feed(target, &bytes[..n]);
                let mut changed = bytes.clone();
                changed[n] ^= 0x80;
                targets::feed(target, &changed);
            }
        }
    }
}

#[test]
fn no_folder_of_the_corpus_is_without_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for entry in std::fs::read_dir(corpus).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(targets::names().any(|target| target == name), "{name}");
    }
}
