//! The reader against GNU tar's own output, and against what lies.

use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use super::*;

fn read(tar: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = TarReader::new(Cursor::new(tar));
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut data = Vec::new();
        let mut buffer = [0; 1000];
        loop {
            match reader.data(&mut buffer)? {
                0 => break,
                bytes => data.extend_from_slice(&buffer[..bytes]),
            }
        }
        entries.push((entry, data));
    }
    Ok(entries)
}

fn gnu_tar(folder: &Path, options: &[&str]) -> Vec<u8> {
    let output = Command::new("tar").args(options).args(["-cC"]).arg(folder).arg(".").output();
    let output = output.unwrap_or_else(|error| panic!("tar: {error}; apt-get install -y tar"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn rebuilt(entry: &Entry, data: &[u8]) -> Vec<u8> {
    let mut file = vec![0; entry.bytes as usize];
    let mut at = 0;
    for run in &entry.runs {
        file[run.offset as usize..][..run.bytes as usize].copy_from_slice(&data[at..at + run.bytes as usize]);
        at += run.bytes as usize;
    }
    file
}

#[test]
fn every_format_of_gnu_tar_reads_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "folder-".repeat(20), "name-".repeat(40));
    let (deep, newline) = (folder.path().join(&long), folder.path().join("new\nline"));
    fs::create_dir_all(deep.parent().unwrap()).unwrap();
    fs::write(&deep, "deep").unwrap();
    fs::write(&newline, vec![7; 1234]).unwrap();
    fs::hard_link(&newline, folder.path().join("new\nlink")).unwrap();
    std::os::unix::fs::symlink("x".repeat(300), folder.path().join("symlink")).unwrap();
    // Holes before, between and behind, in more pieces than one header has.
    let sparse = fs::File::create(folder.path().join("sparse")).unwrap();
    sparse.set_len(9 << 20).unwrap();
    (0..40).for_each(|n| sparse.write_all_at(&[n + 1; 5000], 100_000 + u64::from(n) * 200_000).unwrap());

    for options in [
        &["--format=gnu"][..],
        &["--format=posix"],
        &["--format=gnu", "--sparse"],
        &["--format=posix", "--sparse"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
    ] {
        let mut entries = read(&gnu_tar(folder.path(), options)).unwrap();
        entries.sort_by(|a, b| a.0.path.cmp(&b.0.path));
        let find = |path: &str| {
            let found = entries.iter().find(|(entry, _)| entry.path == path.as_bytes());
            found.unwrap_or_else(|| {
                panic!(
                    "{options:?}: no {path}: {:?}",
                    entries.iter().map(|e| String::from_utf8_lossy(&e.0.path)).collect::<Vec<_>>()
                )
            })
        };
        assert_eq!(entries.len(), 7, "{options:?}");
        assert_eq!(find(&format!("./{long}")).1, b"deep");
        assert_eq!(find("./symlink").0.kind, Kind::Symlink("x".repeat(300).into_bytes()));
        let pair = [find("./new\nline"), find("./new\nlink")];
        let links =
            pair.iter().filter(|(entry, _)| matches!(&entry.kind, Kind::HardLink(to) if to.starts_with(b"./new")));
        assert_eq!(links.count(), 1, "{options:?}");
        let (entry, data) = find("./sparse");
        let whole = fs::read(folder.path().join("sparse")).unwrap();
        assert!(rebuilt(entry, data) == whole, "{options:?}");
        assert!(!options.contains(&"--sparse") || data.len() < 2 << 20, "{options:?}: {} bytes", data.len());
        let found = fs::metadata(folder.path().join("sparse")).unwrap();
        assert_eq!((entry.modified.0, entry.uid, entry.mode), (found.mtime(), found.uid(), found.mode() & 0o7777));
    }
}

/// A ustar entry as any program writes it.
fn entry(path: &[u8], kind: u8, bytes: u64, link: &[u8]) -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    block[..path.len()].copy_from_slice(path);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{bytes:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(BLOCK_BYTES), 0);
    data
}

#[test]
fn a_cut_archive_ends_in_an_error_wherever_it_is_cut() {
    let tar = [entry(b"a", b'0', 700, b""), padded(&[1; 700]), vec![0; 1024]].concat();
    assert_eq!(read(&tar).unwrap().len(), 1);
    for bytes in [0, 100, 512, 900, 1536, 2047] {
        let result = read(&tar[..bytes]);
        assert!(matches!(result, Err(TarError::Ended)) || bytes == 2047 && result.is_err(), "{bytes}: {result:?}");
    }
}

#[test]
fn what_lies_or_does_not_end_is_refused() {
    let bad = |tar: &[u8]| matches!(read(tar), Err(TarError::Damaged(_)));
    let mut flipped = entry(b"a", b'0', 0, b"");
    flipped[3] ^= 1;
    assert!(bad(&flipped));
    assert!(bad(&entry(b"x", b'x', 2 << 20, b"")), "an extended header of 2 MiB");
    assert!(bad(&entry(b"x", b'L', 1 << 20, b"")), "a name of 1 MiB");
    assert!(bad(&std::iter::repeat_n(entry(b"x", b'g', 0, b""), 20).collect::<Vec<_>>().concat()), "headers in a row");
    assert!(matches!(read(&entry(b"x", b'M', 0, b"")), Err(TarError::Unsupported('M'))));
    let sparse = |records: &[u8], data: &[u8]| {
        let records = [entry(b"x", b'x', records.len() as u64, b""), padded(records)].concat();
        [records, entry(b"a", b'0', data.len() as u64, b""), padded(data), vec![0; 1024]].concat()
    };
    let realsize = b"28 GNU.sparse.realsize=1000\n";
    assert!(bad(&sparse(realsize, &padded(b"1\n999\n2\n"))), "beyond the end");
    assert!(bad(&sparse(realsize, &padded(b"2\n10\n5\n12\n5\n"))), "pieces that overlap");
    assert!(bad(&sparse(realsize, &padded(b"9999999999\n"))), "pieces without end");
    assert!(bad(&sparse(realsize, b"")), "no map");
    assert!(bad(&sparse(realsize, &padded(b"x\n"))), "no numbers");
    let good = [&padded(b"1\n990\n10\n")[..], b"0123456789"].concat();
    assert_eq!(rebuilt(&read(&sparse(realsize, &good)).unwrap()[0].0, b"0123456789")[990..], *b"0123456789");
}

#[test]
fn a_pax_size_and_a_base_256_size_are_taken() {
    let mut large = entry(b"a", b'0', 0, b"");
    large[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
    large[148..156].fill(b' ');
    let sum: u32 = large.iter().map(|&byte| u32::from(byte)).sum();
    large[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut reader = TarReader::new(Cursor::new(large));
    assert_eq!(reader.next().unwrap().unwrap().bytes, 8 << 30);

    let records = b"15 size=700000\n";
    let tar = [entry(b"x", b'x', records.len() as u64, b""), padded(records), entry(b"a", b'0', 0, b"")].concat();
    assert_eq!(TarReader::new(Cursor::new(tar)).next().unwrap().unwrap().bytes, 700_000);
}

proptest::proptest! {
    #[test]
    fn no_archive_panics(at in 0usize..4000, byte in 0u8.., bytes in proptest::collection::vec(0u8.., 0..40)) {
        let mut tar = Vec::new();
        tar.write_all(&entry(b"x", b'x', 28, b"")).unwrap();
        tar.extend(padded(b"28 GNU.sparse.realsize=1000\n"));
        tar.extend(entry(b"a", b'0', 522, b""));
        tar.extend(padded(&[&padded(b"1\n990\n10\n")[..], b"0123456789"].concat()));
        tar.extend(entry(b"l", b'L', 5, b""));
        tar.extend(padded(b"name\0"));
        tar.extend(entry(b"b", b'1', 0, b"a"));
        tar.extend([0; 1024]);
        for (offset, new) in bytes.iter().enumerate() {
            if let Some(old) = tar.get_mut(at + offset) {
                *old = new ^ byte;
            }
        }
        let _ = read(&tar);
        let _ = read(&bytes);
    }
}

#[test]
fn names_are_bytes_and_are_not_judged_here() {
    let path = std::ffi::OsStr::from_bytes(b"../\xff");
    let tar = [entry(path.as_bytes(), b'2', 0, b"/etc/passwd"), vec![0; 1024]].concat();
    assert_eq!(read(&tar).unwrap()[0].0.path, b"../\xff");
}
