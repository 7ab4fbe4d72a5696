//! The judge of a file system, from the inside.
//!
//!     nfs-judge SUBJECT REFERENCE [EVERY]   compare two folders; EVERY takes one case in so many
//!     nfs-judge files SUBJECT               data, large directories, open files
//!     nfs-judge whoami                      ends with the effective user's id, in seven bits, for `meetings`
//!
//! As PID 1 of the emulated client (`tests/nfs_linux`) it loads modules, mounts the
//! server's export as `nfsroot` does, judges it against a local ext4 (or runs the programs that are on it, for
//! `tests/nfs_programs`, or suites of others, for `tests/nfs_posix`), and switches off.

mod cases;
mod compare;
mod directories;
mod files;
mod journal;
mod meetings;
mod process;
mod programs;
mod quota;
mod report;
mod scenes;
mod suites;
mod sys;
mod vm;

use cases::Stride;
use compare::Compare;
use report::Report;

fn main() {
    if std::process::id() == 1 {
        vm::run();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut report = Report::new();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // SAFETY: it takes nothing and cannot fail.
        ["whoami"] => std::process::exit((unsafe { libc::geteuid() } & 0x7f) as i32),
        ["files", subject] => files::judge(&mut report, subject, false),
        [subject, reference] => posix(&mut report, subject, reference, &Stride::new(1, 0)),
        [subject, reference, every] => {
            posix(&mut report, subject, reference, &Stride::new(every.parse().expect("a number"), 0));
        }
        _ => {
            eprintln!("usage: nfs-judge SUBJECT REFERENCE [EVERY] | files SUBJECT");
            std::process::exit(2);
        }
    }
    if !report.done() {
        std::process::exit(1);
    }
}

/// Who share the cases: each waits for the server most of the time.
const WORKERS: u64 = 8;

type Part = (&'static str, fn(&mut Stride, &mut dyn FnMut(&compare::Case)));

/// Whose processes meet others: each worker is a process, and may make more.
const MEETING: Part = ("scenes", |_, check| scenes::scenes(check));

/// Each worker is a thread: an emulated processor forgets all that it knows of memory when it goes to
/// another process, and does so at each call that waits.
const PARTS: [Part; 7] = [
    ("names and paths", cases::names),
    ("devices", |_, check| cases::devices(check)),
    ("inheritance", cases::inheritance),
    ("renames and links over each other", cases::over_each_other),
    ("calls by kind of file", cases::calls_by_kind),
    ("calls by mode", cases::calls_by_mode),
    ("change times", cases::change_times),
];

/// The comparison, part by part, each shared by several workers: ids, umask and
/// working directory, which the cases change, are a worker's own.
pub fn posix(report: &mut Report, subject: &str, reference: &str, stride: &Stride) {
    // `before` parts were judged by other workers.
    let run = |before: u64, worker: u64, (name, part): Part| {
        let mut report = Report::new();
        report.part(name);
        let mut stride = stride.clone();
        let mut compare = Compare::new(subject, reference, &mut report, before * WORKERS + worker);
        let mut count = 0;
        part(&mut stride, &mut |case| {
            count += 1;
            if count % WORKERS == worker {
                compare.check(case);
            }
        });
        report.counts()
    };
    report.part(MEETING.0);
    let children: Vec<_> = (0..WORKERS).map(|worker| sys::fork(|| run(0, worker, MEETING))).collect();
    for child in children {
        match child.and_then(sys::Child::wait) {
            Ok((passed, failed)) => report.add(passed, failed),
            Err(errno) => report.failed(&format!("a worker: {}", sys::errno_name(errno))),
        }
    }
    for (before, part) in (1..).zip(PARTS) {
        report.part(part.0);
        let work = |worker| sys::own_place().map(|_| run(before, worker, part));
        let counts: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..WORKERS).map(|worker| scope.spawn(move || work(worker))).collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        for count in counts {
            match count {
                Ok(Ok((passed, failed))) => report.add(passed, failed),
                Ok(Err(errno)) => report.failed(&format!("a worker: {}", sys::errno_name(errno))),
                Err(_) => report.failed("a worker panicked"),
            }
        }
    }
    report.end_part();
}
