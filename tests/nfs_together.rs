//! Changes that came together on one connection: made one after the other, brought to the stick by one
//! commit, and answered only then (`src/nfs/owed.rs`). What each was told holds after a power cut, on a disk that
//! fails, and behind a server that is killed while they wait.
//!
//! Needs root, loop devices, ext4, overlayfs and FUSE (see `nfs_lab`).

#![allow(clippy::unwrap_used)] // a test that fails says where

mod nfs_lab;
#[path = "support/random.rs"]
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::{Duration, Instant};

use nfs_lab::disk::{Event, after_cut};
use nfs_lab::*;
use nfs3_client::nfs3_types::nfs3::*;
use nfs3_client::nfs3_types::xdr_codec::Opaque;
use random::Random;

/// Fewer than one thread does at once.
const TOGETHER: usize = 24;

/// A call by its procedure's number and arguments.
type Call = (u32, Vec<u8>);

fn create(directory: &nfs_fh3, name: &str, how: createhow3) -> Call {
    (8, packed(&CREATE3args { where_: at(directory, name), how }))
}

fn mkdir(directory: &nfs_fh3, name: &str, bits: u32) -> Call {
    (9, packed(&MKDIR3args { where_: at(directory, name), attributes: mode(bits) }))
}

fn symlink(directory: &nfs_fh3, name: &str) -> Call {
    let symlink = symlinkdata3 { symlink_attributes: sattr3::default(), symlink_data: b"to".to_vec().into() };
    (10, packed(&SYMLINK3args { where_: at(directory, name), symlink }))
}

/// With an owner, which is set behind its making.
fn pipe(directory: &nfs_fh3, name: &str) -> Call {
    let new = sattr3 { uid: set_uid3::Some(1000), ..mode(0o640) };
    (11, packed(&MKNOD3args { where_: at(directory, name), what: mknoddata3::NF3FIFO(new) }))
}

fn remove(directory: &nfs_fh3, name: &str, is_directory: bool) -> Call {
    (if is_directory { 13 } else { 12 }, packed(&REMOVE3args { object: at(directory, name) }))
}

fn guarded() -> createhow3 {
    createhow3::GUARDED(mode(0o640))
}

/// Sends calls as one piece; each as it was sent, by its xid.
fn send(client: &mut Client, calls: &[Call]) -> BTreeMap<u32, Vec<u8>> {
    let mut sent = BTreeMap::new();
    let mut bytes = Vec::new();
    for (procedure, args) in calls {
        client.xid += 1;
        let call = [client.header(100_003, 3, *procedure), args.clone()].concat();
        bytes.extend((0x8000_0000 | call.len() as u32).to_be_bytes());
        bytes.extend(&call);
        sent.insert(client.xid, call);
    }
    client.stream.write_all(&bytes).unwrap();
    sent
}

fn word(reply: &[u8], index: usize) -> u32 {
    u32::from_be_bytes(reply[4 * index..4 * index + 4].try_into().unwrap())
}

/// The next answer: whose it is, and its status.
fn answer(client: &mut Client) -> (u32, u32) {
    let reply = client.receive().unwrap();
    (word(&reply, 0), word(&reply, 6))
}

/// The statuses of so many answers, by xid.
fn answers(client: &mut Client, count: usize) -> BTreeMap<u32, u32> {
    let all: BTreeMap<_, _> = (0..count).map(|_| answer(client)).collect();
    assert_eq!(all.len(), count, "each call has one answer");
    all
}

/// What is at a name: its kind as one letter.
type Names = BTreeMap<(usize, String), char>;

/// Calls on names of two directories, each name in one of them; with the letter that it has afterwards.
fn round(random: &mut Random, directories: &[nfs_fh3], names: &Names) -> Vec<(Call, (usize, String), Option<char>)> {
    let mut calls = Vec::new();
    let mut taken = BTreeSet::new();
    while calls.len() < TOGETHER {
        // Names of the image in the second directory, new ones in both.
        let (n, number) = (random.below(2) as usize, 1 + random.below(40));
        let (directory, name) = (&directories[n], format!("f{number}"));
        if !taken.insert((n, name.clone())) {
            continue;
        }
        let place = (n, name.clone());
        let (call, then) = match (names.get(&place), random.below(7)) {
            // Makes nothing: the name is taken.
            (Some(kind), 0) => (create(directory, &name, guarded()), Some(*kind)),
            (Some(kind), _) => (remove(directory, &name, *kind == 'd'), None),
            (None, 0 | 1) => (create(directory, &name, guarded()), Some('-')),
            (None, 2) => {
                let verifier = createverf3(random.next().to_be_bytes());
                (create(directory, &name, createhow3::EXCLUSIVE(verifier)), Some('-'))
            }
            (None, 3) => (mkdir(directory, &name, 0o755), Some('d')),
            (None, 4) => (mkdir(directory, &name, 0o2755), Some('d')),
            (None, 5) => (symlink(directory, &name), Some('l')),
            (None, _) => (pipe(directory, &name), Some('p')),
        };
        calls.push((call, place, then));
    }
    calls
}

fn kind(path: &std::path::Path) -> Option<char> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let metadata = path.symlink_metadata().ok()?;
    let kind = metadata.file_type();
    // A pipe without its owner is half made.
    let letter = match () {
        () if kind.is_dir() => 'd',
        () if kind.is_symlink() => 'l',
        () if kind.is_fifo() && metadata.uid() == 1000 => 'p',
        () if kind.is_fifo() => '?',
        () => '-',
    };
    Some(letter)
}

#[test]
fn what_each_was_told_is_so_after_a_power_cut() {
    let lab = Lab::on_disk();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let top = handle(client.mkdir(&root, "top").unwrap().obj);
    let directories = [top, client.find(&root, "merged")];
    let mut names: Names = (1..=40).map(|number| ((1, format!("f{number}")), '-')).collect();
    let disk = lab.disk.as_ref().unwrap();
    let base = disk.record();
    let mut random = Random(3);
    // The position of each answer, and what is then known of all names.
    let mut steps: Vec<(usize, Names)> = vec![(0, names.clone())];
    let mut open: Vec<BTreeSet<(usize, String)>> = vec![BTreeSet::new()];
    for _ in 0..10 {
        let calls = round(&mut random, &directories, &names);
        let places: Vec<_> = calls.iter().map(|(_, place, then)| (place.clone(), *then)).collect();
        let sent = send(&mut client, &calls.iter().map(|(call, ..)| call.clone()).collect::<Vec<_>>());
        let by_xid: BTreeMap<_, _> = sent.keys().copied().zip(places).collect();
        let mut waiting: BTreeSet<_> = by_xid.values().map(|(place, _)| place.clone()).collect();
        // Of those that are not answered yet anything is allowed.
        *open.last_mut().unwrap() = waiting.clone();
        for _ in 0..calls.len() {
            let (xid, status) = answer(&mut client);
            let (place, then) = &by_xid[&xid];
            let taken = names.get(place).is_some_and(|kind| Some(*kind) == *then);
            assert_eq!(status, if taken { 17 } else { 0 }, "{place:?} from {:?} to {then:?}", names.get(place));
            match then {
                Some(kind) => names.insert(place.clone(), *kind),
                None => names.remove(place),
            };
            waiting.remove(place);
            steps.push((disk.position(), names.clone()));
            open.push(waiting.clone());
        }
    }
    let log = disk.log();
    for n in (1..steps.len()).step_by(TOGETHER / 2 - 1) {
        let (position, names) = &steps[n];
        let left = after_cut(&base, &log, *position, |bound| random.below(bound));
        lab.mounted(&left, |tree| {
            for (directory, folder) in ["top", "merged"].iter().enumerate() {
                for number in 1..=40 {
                    let place = (directory, format!("f{number}"));
                    if !open[n].contains(&place) {
                        let found = kind(&tree.join(folder).join(&place.1));
                        assert_eq!(found.as_ref(), names.get(&place), "{place:?}, cut behind answer {n}");
                    }
                }
            }
        });
    }
}

#[test]
fn one_commit_is_made_for_all_of_them() {
    let lab = Lab::on_disk();
    let root = lab.root(A);
    let top = handle(lab.client(A).mkdir(&root, "top").unwrap().obj);
    let disk = lab.disk.as_ref().unwrap();
    // Each over a connection of its own, on which no call was slow.
    let flushes = |calls: &[Call]| {
        let mut client = lab.client(A);
        disk.record();
        send(&mut client, calls);
        assert!(answers(&mut client, calls.len()).values().all(|status| *status == 0));
        disk.log().iter().filter(|event| matches!(event, Event::Flush)).count()
    };
    let made: Vec<Call> = (0..TOGETHER).map(|n| create(&top, &format!("n{n}"), guarded())).collect();
    let gone: Vec<Call> = (0..TOGETHER).map(|n| remove(&top, &format!("n{n}"), false)).collect();
    let alone = flushes(&[create(&top, "alone", guarded())]);
    assert!(alone > 0);
    // On a busy machine one of them may be taken for slow, and the next ones go alone; not every time.
    let rounds: Vec<usize> = (0..12).map(|_| flushes(&made) + flushes(&gone)).collect();
    assert!(rounds.iter().min().unwrap() < &(TOGETHER * alone / 2), "{alone} for one, {rounds:?} for {TOGETHER} twice");
}

/// A lab in which all of some calls are made and wait for a disk that stands still: the client, and what it sent, by xid.
///
/// On a busy machine one may be taken for slow. It is then committed alone, and the kernel lets those behind it wait for
/// that: another try.
fn waiting(prepare: impl Fn(&mut Client, &nfs_fh3) -> Vec<Call>) -> (Lab, Client, nfs_fh3, BTreeMap<u32, Vec<u8>>) {
    for _ in 0..10 {
        let lab = Lab::on_disk();
        let root = lab.root(A);
        let mut before = lab.client(A);
        let top = handle(before.mkdir(&root, "top").unwrap().obj);
        // What calls read of the disk is in memory then: one that stands still answers no read either.
        before.mkdir(&top, "before").unwrap();
        before.rmdir(&top, "before").unwrap();
        let calls = prepare(&mut before, &top);
        std::process::Command::new("sync").status().unwrap();
        lab.disk.as_ref().unwrap().record();
        // On this connection nothing was slow yet.
        let mut client = lab.client(A);
        if let Some(sent) = all_wait(&lab, &mut client, &calls) {
            return (lab, client, top, sent);
        }
        lab.disk.as_ref().unwrap().go_on();
        answers(&mut client, calls.len());
    }
    panic!("never did all of them wait at once");
}

fn all_wait(lab: &Lab, client: &mut Client, calls: &[Call]) -> Option<BTreeMap<u32, Vec<u8>>> {
    let disk = lab.disk.as_ref().unwrap();
    disk.stand_still();
    let sent = send(client, calls);
    let begun = |journal: &[u8], xid: u32| {
        let word = |record: &[u8], at: usize| record.get(at..at + 4).map(|word| word.try_into().unwrap());
        journal
            .chunks(1024)
            .any(|record| word(record, 24).map(u32::from_be_bytes) == Some(xid) && word(record, 40) == Some([0; 4]))
    };
    let start = Instant::now();
    loop {
        let waits = disk.is_waited_for();
        let journal = std::fs::read(lab.options.journal.as_ref().unwrap()).unwrap();
        if waits && sent.keys().all(|xid| begun(&journal, *xid)) {
            return Some(sent);
        }
        if start.elapsed() > Duration::from_secs(5) {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn none_is_acknowledged_by_a_disk_that_failed_while_they_waited() {
    let (lab, mut client, _, sent) = waiting(|client, top| {
        client.file(top, "old");
        vec![create(top, "file", guarded()), mkdir(top, "folder", 0o755), remove(top, "old", false)]
    });
    let disk = lab.disk.as_ref().unwrap();
    let base = disk.record();
    disk.fail();
    // As of a stick that was pulled: the client is to ask again.
    let jukebox = nfsstat3::NFS3ERR_JUKEBOX as u32;
    let told = answers(&mut client, sent.len());
    assert!(told.values().all(|status| *status == jukebox), "{told:?}");
    let log = disk.log();
    let left = after_cut(&base, &log, log.len(), |bound| bound - 1);
    lab.mounted(&left, |tree| {
        let found = ["file", "folder", "old"].map(|name| kind(&tree.join("top").join(name)));
        assert_eq!(found, [None, None, Some('-')]);
    });
}

#[test]
fn the_next_server_answers_those_that_the_killed_one_owed() {
    let (mut lab, mut client, top, sent) = waiting(|client, top| {
        client.file(top, "ours");
        let root = client.find(top, "..");
        let merged = client.find(&root, "merged");
        client.remove(&merged, "f8").unwrap();
        vec![
            create(top, "guarded", guarded()),
            create(top, "exclusive", createhow3::EXCLUSIVE(createverf3([9; 8]))),
            mkdir(top, "folder", 0o2755),
            symlink(top, "link"),
            pipe(top, "pipe"),
            remove(top, "ours", false),
            remove(&merged, "f7", false),
        ]
    });
    // What a server leaves that is killed now.
    let copy = lab.folder().join("calls-left");
    std::fs::copy(lab.options.journal.as_ref().unwrap(), &copy).unwrap();
    lab.disk.as_ref().unwrap().go_on();
    answers(&mut client, sent.len());
    lab.server = None;
    lab.options.journal = Some(copy);
    lab.start();
    let mut again = lab.client(A);
    for (xid, call) in &sent {
        again.send(call);
        assert_eq!(answer(&mut again), (*xid, 0), "{call:?}");
    }
    let names: BTreeSet<_> = again.names(&top).into_iter().filter(|name| !name.starts_with('.')).collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["exclusive", "folder", "guarded", "link", "pipe"]);
}

#[test]
fn a_repeat_that_comes_while_they_wait_is_answered_with_them() {
    let (lab, mut client, top, sent) =
        waiting(|_, top| (0..4).map(|n| create(top, &format!("n{n}"), guarded())).collect());
    // A client that lost its connection asks again over another one.
    let mut again = lab.client(A);
    sent.values().for_each(|call| again.send(call));
    // One behind them, which the server reads after all of the repeats.
    let args = packed(&GETATTR3args { object: top.clone() });
    assert!(again.raw(100_003, 3, 1, &args).is_some());
    lab.disk.as_ref().unwrap().go_on();
    let (first, second) = (answers(&mut client, sent.len()), answers(&mut again, sent.len()));
    assert!(first.values().all(|status| *status == 0), "{first:?}");
    assert_eq!(first, second);
}

#[test]
fn questions_and_data_among_them_are_answered_too() {
    let lab = Lab::on_disk();
    let (mut client, root) = (lab.client(A), lab.root(A));
    let top = handle(client.mkdir(&root, "top").unwrap().obj);
    let file = client.file(&top, "data");
    let disk = lab.disk.as_ref().unwrap();
    let base = disk.record();
    let data = vec![5; 3000];
    let write = WRITE3args {
        file: file.clone(),
        offset: 0,
        count: 3000,
        stable: stable_how::UNSTABLE,
        data: Opaque::borrowed(&data),
    };
    let calls = [
        create(&top, "one", guarded()),
        (1, packed(&GETATTR3args { object: top.clone() })),
        (7, packed(&write)),
        create(&top, "two", guarded()),
        (21, packed(&COMMIT3args { file: file.clone(), offset: 0, count: 0 })),
        mkdir(&top, "three", 0o755),
        (3, packed(&LOOKUP3args { what: at(&top, "nothing") })),
    ];
    send(&mut client, &calls);
    let told: Vec<u32> = answers(&mut client, calls.len()).into_values().collect();
    assert_eq!(told, [0, 0, 0, 0, 0, 0, 2]);
    let (log, mut random) = (disk.log(), Random(8));
    let left = after_cut(&base, &log, log.len(), |bound| random.below(bound));
    lab.mounted(&left, |tree| {
        let found = ["one", "two", "three"].map(|name| kind(&tree.join("top").join(name)));
        assert_eq!(found, [Some('-'), Some('-'), Some('d')]);
        assert_eq!(std::fs::read(tree.join("top/data")).unwrap(), data);
    });
}
