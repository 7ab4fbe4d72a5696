//! The same call on the file system that is judged and on a local one: the same
//! result, and the same tree after it.
//!
//! Expectations are not written down by hand: the kernel's own ext4 is asked. So
//! a case is only a setting, an actor and a call.

use std::time::Duration;

use crate::report::Report;
use crate::sys::{self, Actor, Errno, Path};

/// What a call gave: something to compare, or the errno.
pub type Outcome = Result<String, Errno>;

pub struct Case {
    pub name: String,
    pub actor: Actor,
    /// Done as root in an empty directory of mode 0777.
    pub setup: Box<dyn Fn() -> Outcome>,
    pub action: Box<dyn Fn() -> Outcome>,
    /// Whether changes of ctime in the directory `p` count: they need a pause before the call.
    pub ctime: bool,
}

/// A time that no call sets by itself.
pub const OLD: (i64, i64) = (1_000_000_000, 123_456_789);

/// Longer than a tick of either kernel's clock for time stamps.
const TICK: Duration = Duration::from_millis(25);

/// Deviations that are known, with their reason. All else fails.
fn known(name: &str, expected: &str, found: &str) -> Option<&'static str> {
    let name = name.trim_start_matches("ctime: ");
    if name.contains("chr00") {
        return Some("a character device 0:0 is overlayfs's own whiteout");
    }
    let ((expected, expected_tree), (found, found_tree)) = (expected.split_once(' ')?, found.split_once(' ')?);
    if name.contains("a working directory that was removed") {
        let same = expected == found && found_tree.replacen("ESTALE", "ENOENT", 1) == expected_tree;
        return same.then_some("a Linux client opens \".\" at the server, where the directory is gone");
    }
    if ["utimes now omit", "utimes omit now"].iter().any(|call| name.starts_with(call)) {
        // NFSv3 has the same words for this and for the truncation of an empty file.
        return (expected == "EPERM" && found == "ok").then_some("one time set to now by who may write");
    }
    if name.starts_with("chown -1:-1") || name.starts_with("lchown -1:-1") {
        return (found == "ok").then_some("a Linux client asks no server for a change of nothing");
    }
    if name.starts_with("truncate 10 ") {
        let same = expected == "ok" && found == "ok";
        return same.then_some("a Linux client asks no server for the size that a file has");
    }
    let special = [" on Fifo", " on Sock", " on Chr", " on Blk"].iter().any(|kind| name.contains(kind));
    if special && (name.starts_with("access x") || name.starts_with("access rwx")) {
        return (expected == "ok" && found == "EACCES").then_some("a Linux client lets nobody execute what is no file");
    }
    if name.starts_with("access w on Dir") || name.starts_with("access rw on Dir") {
        let same = expected == "ok" && found == "EACCES" && expected_tree.trim() == found_tree.trim();
        return same.then_some("NFSv3 asks whether entries may be changed, which takes the right to search too");
    }
    if name.starts_with("write after chmod 0 on Fifo") {
        return (expected == found).then_some("a Linux client tells no server what goes through a pipe, nor its time");
    }
    let changes_names = ["mkchr", "mkblk", "mknod chr", "mknod blk", "link", "rename", "unlink", "rmdir"];
    let local_check = ["EPERM", "EISDIR", "ENOTDIR"];
    let first = expected == "EACCES" && local_check.contains(&found) && expected_tree == found_tree;
    if first && changes_names.iter().any(|call| name.starts_with(call)) {
        return Some(
            "a Linux client leaves write permission of a directory to the server: its other checks come first",
        );
    }
    None
}

pub struct Compare<'a> {
    pub subject: &'a str,
    pub reference: &'a str,
    pub report: &'a mut Report,
    worker: u64,
    number: u64,
}

impl<'a> Compare<'a> {
    /// `worker` is another one for each, also of those before it.
    pub fn new(subject: &'a str, reference: &'a str, report: &'a mut Report, worker: u64) -> Self {
        Self { subject, reference, report, worker, number: 0 }
    }

    pub fn check(&mut self, case: &Case) {
        self.number += 1;
        let expected = self.run(self.reference, case);
        let found = self.run(self.subject, case);
        if expected == found || known(&case.name, &expected, &found).is_some() {
            self.report.passed();
        } else {
            self.report.failed(&format!("{}: ext4: {expected}; here: {found}", case.name));
        }
    }

    fn run(&self, top: &str, case: &Case) -> String {
        // A directory's number is its own, so that no cache tells of an earlier case.
        let place = format!("{top}/c{}-{}", self.worker, self.number);
        let place = place.as_bytes();
        sys::umask(0);
        let made = sys::mkdir(place, 0o777).and_then(|_| sys::chdir(place));
        if let Err(errno) = made {
            return format!("no place: {}", sys::errno_name(errno));
        }
        let result = match (case.setup)() {
            Err(errno) => format!("setting: {}", sys::errno_name(errno)),
            Ok(_) => {
                let before = if case.ctime { ctimes(b"p") } else { Vec::new() };
                if case.ctime {
                    std::thread::sleep(TICK);
                }
                let outcome = match sys::acting(case.actor, || (case.action)()) {
                    Ok(text) => format!("ok {text}"),
                    Err(errno) => sys::errno_name(errno),
                };
                let changed: Vec<String> = if case.ctime {
                    let after = ctimes(b"p");
                    let told = |(name, ctime): &(Vec<u8>, _)| {
                        let before = before.iter().find(|(other, _)| other == name);
                        let word = match before {
                            Some((_, before)) if before == ctime => "same",
                            _ => "new",
                        };
                        format!("{}:{word}", show(name))
                    };
                    after.iter().map(told).collect()
                } else {
                    Vec::new()
                };
                format!("{outcome} {{{}}} {}", tree(b".", 0), changed.join(" "))
            }
        };
        let _ = sys::chdir(b"/");
        remove(place);
        result
    }
}

pub fn show(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    if text.chars().count() > 20 {
        return format!("{}…({})", text.chars().take(8).collect::<String>(), name.len());
    }
    text.into_owned()
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    [folder, b"/", name].concat()
}

fn names(folder: &[u8]) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    let _ = sys::list(folder, |name| names.push(name.to_vec()));
    names.sort();
    names
}

/// All that is to be the same of a tree: types, modes, owners, links, sizes, contents, and whether mtime was set anew.
fn tree(folder: &[u8], depth: u32) -> String {
    let mut parts = Vec::new();
    if depth == 0 {
        parts.push(one(b".", folder));
    }
    for name in names(folder) {
        let path = join(folder, &name);
        parts.push(one(&name, &path));
        let directory = sys::lstat(&path).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR);
        if directory && depth < 4 {
            parts.push(format!("[{}]", tree(&path, depth + 1)));
        }
    }
    parts.join(", ")
}

fn one(name: &[u8], path: Path<'_>) -> String {
    let stat = match sys::lstat(path) {
        Ok(stat) => stat,
        Err(errno) => return format!("{} {}", show(name), sys::errno_name(errno)),
    };
    let kind = stat.st_mode & libc::S_IFMT;
    let more = match kind {
        libc::S_IFREG => {
            let mut bytes = [0; 32];
            let read = sys::open(path, libc::O_RDONLY, 0).and_then(|fd| sys::read(&fd, &mut bytes));
            format!(" {}b {:?}", stat.st_size, read.map(|count| String::from_utf8_lossy(&bytes[..count]).into_owned()))
        }
        libc::S_IFLNK => format!(" ->{}", sys::readlink(path).map_or_else(sys::errno_name, |text| show(&text))),
        libc::S_IFCHR | libc::S_IFBLK => format!(" dev {:x}", stat.st_rdev),
        _ => String::new(),
    };
    let mtime = match (stat.st_mtime, stat.st_mtime_nsec) {
        OLD => "old".to_owned(),
        (seconds, nanoseconds) if seconds < OLD.0 + 100_000_000 => format!("{seconds}.{nanoseconds}"),
        _ => "now".to_owned(),
    };
    format!("{} {:o} {}:{} x{}{more} {mtime}", show(name), stat.st_mode, stat.st_uid, stat.st_gid, stat.st_nlink)
}

fn ctimes(folder: &[u8]) -> Vec<(Vec<u8>, (i64, i64))> {
    let ctime = |path: &[u8]| sys::lstat(path).map_or((0, 0), |stat| (stat.st_ctime, stat.st_ctime_nsec));
    let mut all = vec![(b".".to_vec(), ctime(folder))];
    all.extend(names(folder).into_iter().map(|name| {
        let time = ctime(&join(folder, &name));
        (name, time)
    }));
    all
}

/// Removes a tree, whatever modes it has.
pub fn remove(path: &[u8]) {
    if sys::rmdir(path).is_ok() || sys::unlink(path).is_ok() {
        return;
    }
    for name in names(path) {
        remove(&join(path, &name));
    }
    let _ = sys::rmdir(path);
}
