//! Every call on every kind of file, by every kind of person, in every kind of directory.
//!
//! What POSIX suites check one by one is here a product of tables; the expected
//! answers come from a local file system (`compare`).

use crate::compare::{Case, OLD, Outcome};
use crate::sys::{self, Actor, Fd};

const ROOT: Actor = Actor { name: "root", uid: 0, gid: 0, groups: &[] };
/// Owns the target.
const OWNER: Actor = Actor { name: "owner", uid: 65534, gid: 65534, groups: &[65532] };
/// In the target's group by a supplementary one.
const MEMBER: Actor = Actor { name: "member", uid: 65533, gid: 65533, groups: &[65534] };
const OTHER: Actor = Actor { name: "other", uid: 65533, gid: 65533, groups: &[] };
/// Root's group without its rights.
const WHEEL: Actor = Actor { name: "wheel", uid: 65533, gid: 0, groups: &[] };

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Missing,
    Reg,
    Dir,
    Full,
    Fifo,
    Chr,
    Blk,
    Sock,
    Link,
    Dangling,
}

pub const KINDS: [Kind; 10] = [
    Kind::Missing,
    Kind::Reg,
    Kind::Dir,
    Kind::Full,
    Kind::Fifo,
    Kind::Chr,
    Kind::Blk,
    Kind::Sock,
    Kind::Link,
    Kind::Dangling,
];

pub fn ok<T>(result: sys::Result<T>) -> Outcome {
    result.map(|_| String::new())
}

fn put(path: &[u8], data: &[u8]) -> Outcome {
    let fd = sys::open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, 0o644)?;
    sys::write(&fd, data)?;
    Ok(String::new())
}

fn age(path: &[u8]) -> Outcome {
    ok(sys::utimens(path, Some([OLD, OLD]), false))
}

/// Makes a file of a kind at `path`, old, owned as said.
fn make(kind: Kind, path: &[u8], owner: u32, group: u32, mode: u32) -> Outcome {
    match kind {
        Kind::Missing => return Ok(String::new()),
        Kind::Reg => ok(put(path, b"some data\n"))?,
        Kind::Dir => ok(sys::mkdir(path, 0o755))?,
        Kind::Full => {
            sys::mkdir(path, 0o755)?;
            put(&[path, b"/inside"].concat(), b"in")?;
            age(&[path, b"/inside"].concat())?
        }
        Kind::Fifo => ok(sys::mknod(path, libc::S_IFIFO | 0o644, 0))?,
        Kind::Chr => ok(sys::mknod(path, libc::S_IFCHR | 0o644, libc::makedev(1, 3)))?,
        Kind::Blk => ok(sys::mknod(path, libc::S_IFBLK | 0o644, libc::makedev(240, 300)))?,
        Kind::Sock => ok(sys::mknod(path, libc::S_IFSOCK | 0o644, 0))?,
        Kind::Link => {
            put(b"aim", b"aimed at\n")?;
            sys::chown(b"aim", owner, group)?;
            age(b"aim")?;
            ok(sys::symlink(b"aim", path))?
        }
        Kind::Dangling => ok(sys::symlink(b"nowhere", path))?,
    };
    sys::lchown(path, owner, group)?;
    if !matches!(kind, Kind::Link | Kind::Dangling) {
        sys::chmod(path, mode)?;
    }
    age(path)
}

/// A directory that the target lies in.
#[derive(Clone, Copy)]
struct Parent {
    name: &'static str,
    uid: u32,
    gid: u32,
    mode: u32,
}

const OPEN: Parent = Parent { name: "777", uid: 0, gid: 0, mode: 0o777 };
const STICKY: Parent = Parent { name: "sticky", uid: 0, gid: 0, mode: 0o1777 };
const OTHERS_STICKY: Parent = Parent { name: "other's sticky", uid: 65533, gid: 65533, mode: 0o1777 };
const ROOTS: Parent = Parent { name: "755", uid: 0, gid: 0, mode: 0o755 };
const CLOSED: Parent = Parent { name: "700", uid: 0, gid: 0, mode: 0o700 };
const OWN_READ_ONLY: Parent = Parent { name: "own 555", uid: 65534, gid: 65534, mode: 0o555 };
const NO_SEARCH: Parent = Parent { name: "own 666", uid: 65534, gid: 65534, mode: 0o666 };
const GROUPS: Parent = Parent { name: "group 070", uid: 0, gid: 65534, mode: 0o070 };
const SETGID: Parent = Parent { name: "setgid", uid: 0, gid: 65532, mode: 0o2777 };

type Call = (String, fn() -> Outcome);

/// Calls on the target `p/t`; beside it may lie what the setting made.
fn calls() -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    macro_rules! add {
        ($($name:literal => $body:expr),* $(,)?) => {$(
            calls.push(($name.to_owned(), || $body));
        )*};
    }
    const T: &[u8] = b"p/t";
    add! {
        "stat" => ok(sys::stat(T)),
        "stat below" => ok(sys::stat(b"p/t/x")),
        "stat slash" => ok(sys::lstat(b"p/t/")),
        "stat dotdot" => ok(sys::stat(b"p/t/../t")),
        "chmod 644" => ok(sys::chmod(T, 0o644)),
        "chmod 000" => ok(sys::chmod(T, 0)),
        "chmod 7777" => ok(sys::chmod(T, 0o7777)),
        "chmod 4711" => ok(sys::chmod(T, 0o4711)),
        "chmod 2755" => ok(sys::chmod(T, 0o2755)),
        "chmod 2700" => ok(sys::chmod(T, 0o2700)),
        "chmod 1777" => ok(sys::chmod(T, 0o1777)),
        "chown 65533:-1" => ok(sys::chown(T, 65533, u32::MAX)),
        "chown -1:65533" => ok(sys::chown(T, u32::MAX, 65533)),
        "chown -1:65532" => ok(sys::chown(T, u32::MAX, 65532)),
        "chown -1:65534" => ok(sys::chown(T, u32::MAX, 65534)),
        "chown -1:-1" => ok(sys::chown(T, u32::MAX, u32::MAX)),
        "chown 65534:65534" => ok(sys::chown(T, 65534, 65534)),
        "chown 65534:65532" => ok(sys::chown(T, 65534, 65532)),
        "chown 0:0" => ok(sys::chown(T, 0, 0)),
        "lchown 65533:65533" => ok(sys::lchown(T, 65533, 65533)),
        "lchown -1:-1" => ok(sys::lchown(T, u32::MAX, u32::MAX)),
        "lchown -1:65532" => ok(sys::lchown(T, u32::MAX, 65532)),
        "link" => ok(sys::link(T, b"p/n")),
        "link over itself" => ok(sys::link(T, T)),
        "link to nowhere" => ok(sys::link(T, b"p/no/n")),
        "link below" => ok(sys::link(T, b"p/t/n")),
        "rename" => ok(sys::rename(T, b"p/n")),
        "rename itself" => ok(sys::rename(T, T)),
        "rename into itself" => ok(sys::rename(T, b"p/t/n")),
        "rename out" => ok(sys::rename(T, b"n")),
        "rename slash" => ok(sys::rename(T, b"p/n/")),
        "rename from slash" => ok(sys::rename(b"p/t/", b"p/n")),
        "rename dot" => ok(sys::rename(b"p/t/.", b"p/n")),
        "rename dotdot" => ok(sys::rename(b"p/t/..", b"p/n")),
        "rename to nowhere" => ok(sys::rename(T, b"p/no/n")),
        "unlink" => ok(sys::unlink(T)),
        "unlink slash" => ok(sys::unlink(b"p/t/")),
        "unlink below" => ok(sys::unlink(b"p/t/x")),
        "rmdir" => ok(sys::rmdir(T)),
        "rmdir dot" => ok(sys::rmdir(b"p/t/.")),
        "rmdir dotdot" => ok(sys::rmdir(b"p/t/..")),
        "truncate 0" => ok(sys::truncate(T, 0)),
        "truncate 5" => ok(sys::truncate(T, 5)),
        "truncate 10" => ok(sys::truncate(T, 10)),
        "truncate 70000" => ok(sys::truncate(T, 70_000)),
        "truncate -1" => ok(sys::truncate(T, -1)),
        "utimes null" => ok(sys::utimens(T, None, true)),
        "utimes null nofollow" => ok(sys::utimens(T, None, false)),
        "utimes set" => ok(sys::utimens(T, Some([(5, 6), (7, 8)]), true)),
        "utimes set nofollow" => ok(sys::utimens(T, Some([(5, 999_999_999), (7, 1)]), false)),
        "utimes now now" => ok(sys::utimens(T, Some([(0, libc::UTIME_NOW); 2]), true)),
        "utimes now omit" => ok(sys::utimens(T, Some([(0, libc::UTIME_NOW), (0, libc::UTIME_OMIT)]), true)),
        "utimes omit now" => ok(sys::utimens(T, Some([(0, libc::UTIME_OMIT), (0, libc::UTIME_NOW)]), true)),
        "utimes omit set" => ok(sys::utimens(T, Some([(0, libc::UTIME_OMIT), (77, 88)]), true)),
        "utimes omit omit" => ok(sys::utimens(T, Some([(0, libc::UTIME_OMIT); 2]), true)),
        "utimes bad" => ok(sys::utimens(T, Some([(0, 1_000_000_000); 2]), true)),
        "mkdir" => ok(sys::mkdir(T, 0o751)),
        "mkdir slash" => ok(sys::mkdir(b"p/t/", 0o751)),
        "mkdir below" => ok(sys::mkdir(b"p/t/d", 0o2777)),
        "mkdir dot" => ok(sys::mkdir(b"p/t/.", 0o751)),
        "mkfifo" => ok(sys::mknod(T, libc::S_IFIFO | 0o640, 0)),
        "mkfifo below" => ok(sys::mknod(b"p/t/f", libc::S_IFIFO | 0o640, 0)),
        "mksock" => ok(sys::mknod(T, libc::S_IFSOCK | 0o640, 0)),
        "mkreg" => ok(sys::mknod(T, libc::S_IFREG | 0o6751, 0)),
        "mkchr" => ok(sys::mknod(T, libc::S_IFCHR | 0o640, libc::makedev(1, 5))),
        "mkblk" => ok(sys::mknod(T, libc::S_IFBLK | 0o640, libc::makedev(4095, 1_048_575))),
        "mkdir by mknod" => ok(sys::mknod(T, libc::S_IFDIR | 0o640, 0)),
        "symlink" => ok(sys::symlink(b"any text", T)),
        "symlink below" => ok(sys::symlink(b"any text", b"p/t/l")),
        "symlink empty" => ok(sys::symlink(b"", T)),
        "readlink" => sys::readlink(T).map(|text| String::from_utf8_lossy(&text).into_owned()),
        "access f" => ok(sys::access(T, libc::F_OK)),
        "access r" => ok(sys::access(T, libc::R_OK)),
        "access w" => ok(sys::access(T, libc::W_OK)),
        "access x" => ok(sys::access(T, libc::X_OK)),
        "access rwx" => ok(sys::access(T, 7)),
        "access parent w" => ok(sys::access(b"p", libc::W_OK | libc::X_OK)),
        "list" => sys::list(T, |_| ()).map(|count| count.to_string()),
        "list parent" => sys::list(b"p", |_| ()).map(|count| count.to_string()),
        "chdir" => ok(sys::chdir(T).and_then(|_| sys::chdir(b"../.."))),
        "open r" => open(libc::O_RDONLY),
        "open w" => open(libc::O_WRONLY),
        "open rw" => open(libc::O_RDWR),
        "open w trunc" => open(libc::O_WRONLY | libc::O_TRUNC),
        "empty, and truncate again" => {
            open(libc::O_WRONLY | libc::O_TRUNC)?;
            open(libc::O_WRONLY | libc::O_TRUNC)
        },
        "open r trunc" => open(libc::O_RDONLY | libc::O_TRUNC),
        "open creat" => open(libc::O_WRONLY | libc::O_CREAT),
        "open creat r" => open(libc::O_RDONLY | libc::O_CREAT),
        "open creat trunc" => open(libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC),
        "open excl" => open(libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL),
        "open directory" => open(libc::O_RDONLY | libc::O_DIRECTORY),
        "open nofollow" => open(libc::O_RDONLY | libc::O_NOFOLLOW),
        "open creat nofollow" => open(libc::O_WRONLY | libc::O_CREAT | libc::O_NOFOLLOW),
        "open creat below" => ok(sys::open(b"p/t/x", libc::O_WRONLY | libc::O_CREAT, 0o600)),
        "open creat slash" => ok(sys::open(b"p/t/", libc::O_WRONLY | libc::O_CREAT, 0o600)),
        "open path" => ok(sys::open(T, libc::O_PATH, 0)),
        "open creat 000 and write" => {
            let fd = sys::open(T, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, 0)?;
            sys::write(&fd, b"through a mode of 000")?;
            sys::fsync(fd.0)?;
            let mut bytes = [0; 7];
            sys::pread(&fd, &mut bytes, 0)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        },
        "open creat 6777" => ok(sys::open(T, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, 0o6777)),
        "creat under umask" => {
            sys::umask(0o027);
            ok(sys::open(T, libc::O_WRONLY | libc::O_CREAT | libc::O_NONBLOCK, 0o666))
        },
        "mkdir under umask" => {
            sys::umask(0o027);
            ok(sys::mkdir(T, 0o1777))
        },
        "write" => on(libc::O_WRONLY, |fd| { sys::write(fd, b"new")?; sys::fsync(fd.0) }),
        "append" => on(libc::O_WRONLY | libc::O_APPEND, |fd| { sys::write(fd, b"end")?; sys::fsync(fd.0) }),
        "write nothing" => on(libc::O_WRONLY, |fd| sys::write(fd, b"").map(|count| count as i64)),
        "ftruncate" => on(libc::O_RDWR, |fd| sys::ftruncate(fd.0, 3)),
        "ftruncate reader" => on(libc::O_RDONLY, |fd| sys::ftruncate(fd.0, 3)),
        "fchmod" => on(libc::O_RDONLY, |fd| sys::fchmod(fd.0, 0o4600)),
        "fchown" => on(libc::O_RDONLY, |fd| sys::fchown(fd.0, u32::MAX, 65534)),
        "fsync" => on(libc::O_RDONLY, |fd| sys::fsync(fd.0)),
        "write after chmod 0" => on(libc::O_RDWR, |fd| {
            sys::fchmod(fd.0, 0)?;
            sys::write(fd, b"still")?;
            sys::ftruncate(fd.0, 4)?;
            sys::fsync(fd.0)
        }),
        "seek far and write" => on(libc::O_WRONLY, |fd| { sys::pwrite(fd, b"x", 1 << 33)?; sys::fsync(fd.0) }),
    }
    calls
}

fn open(flags: i32) -> Outcome {
    let fd = sys::open(b"p/t", flags | libc::O_NONBLOCK, 0o640)?;
    Ok(format!("{:o}", sys::fstat(&fd)?.st_mode))
}

fn on(flags: i32, work: impl Fn(&Fd) -> sys::Result<i64>) -> Outcome {
    let fd = sys::open(b"p/t", flags | libc::O_NONBLOCK, 0)?;
    ok(work(&fd))
}

fn parent(parent: Parent) -> Outcome {
    sys::mkdir(b"p", 0o777)?;
    sys::chown(b"p", parent.uid, parent.gid)?;
    sys::chmod(b"p", parent.mode)?;
    age(b"p")
}

/// The directory, the target, and the directory's age again.
fn setting(place: Parent, kind: Kind, owner: u32, mode: u32) -> Outcome {
    sys::mkdir(b"p", 0o777)?;
    make(kind, b"p/t", owner, owner, mode)?;
    if kind == Kind::Link {
        // What it aims at lies beside it.
        sys::rename(b"aim", b"p/aim")?;
    }
    sys::chown(b"p", place.uid, place.gid)?;
    sys::chmod(b"p", place.mode)?;
    age(b"p")
}

/// One case in `every` of the large tables, not the same ones of each. Another `from` takes others: all of them from 0 to `every`
/// less one take each case once.
#[derive(Clone)]
pub struct Stride {
    every: u64,
    from: u64,
    count: u64,
}

impl Stride {
    pub fn new(every: u64, from: u64) -> Self {
        let every = every.max(1);
        Self { every, from: from % every, count: 0 }
    }

    fn takes(&mut self) -> bool {
        self.count += 1;
        // A hash, so that no row or column of a table is left out as a whole.
        let mixed = self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        mixed % self.every == self.from
    }
}

/// Calls × kinds × people × directories.
pub fn calls_by_kind(stride: &mut Stride, check: &mut dyn FnMut(&Case)) {
    let places: [(Parent, &[Actor]); 9] = [
        (OPEN, &[ROOT, OWNER, MEMBER, OTHER]),
        (STICKY, &[OWNER, OTHER]),
        (OTHERS_STICKY, &[OTHER, MEMBER, OWNER]),
        (ROOTS, &[OWNER, OTHER]),
        (CLOSED, &[ROOT, OWNER]),
        (OWN_READ_ONLY, &[OWNER, ROOT]),
        (NO_SEARCH, &[OWNER]),
        (GROUPS, &[MEMBER, OWNER]),
        (SETGID, &[ROOT, OWNER, OTHER, WHEEL]),
    ];
    for (place, actors) in places {
        for actor in actors {
            for kind in KINDS {
                for (name, call) in calls() {
                    let always = place.mode & 0o1000 != 0 && ALWAYS_STICKY.contains(&&*name);
                    if !stride.takes() && !always {
                        continue;
                    }
                    let mode = if matches!(kind, Kind::Dir | Kind::Full) { 0o755 } else { 0o644 };
                    check(&Case {
                        name: format!("{name} on {kind:?} in {} by {}", place.name, actor.name),
                        actor: *actor,
                        setup: Box::new(move || setting(place, kind, 65534, mode)),
                        action: Box::new(call),
                        ctime: false,
                    });
                }
            }
        }
    }
}

/// What broke before, or what set-id bits hang on: in every sample.
const ALWAYS: [&str; 6] =
    ["empty, and truncate again", "write", "truncate 5", "chown -1:65532", "utimes null", "chmod 2755"];
const ALWAYS_MODES: [u32; 2] = [0o666, 0o6777];
/// What a sticky directory is about: whoever owns neither it nor the file does none of these.
const ALWAYS_STICKY: [&str; 3] = ["unlink", "rmdir", "rename out"];

/// Calls × modes × people, on files and directories in an open directory.
pub fn calls_by_mode(stride: &mut Stride, check: &mut dyn FnMut(&Case)) {
    for kind in [Kind::Reg, Kind::Dir, Kind::Full, Kind::Fifo] {
        for mode in [0, 0o400, 0o200, 0o100, 0o040, 0o020, 0o007, 0o666, 0o777, 0o4755, 0o2755, 0o6775, 0o2644, 0o6777]
        {
            for actor in [ROOT, OWNER, MEMBER, OTHER, WHEEL] {
                for (name, call) in calls() {
                    let always = kind == Kind::Reg && ALWAYS_MODES.contains(&mode) && ALWAYS.contains(&&*name);
                    if !stride.takes() && !always {
                        continue;
                    }
                    check(&Case {
                        name: format!("{name} on {kind:?} of mode {mode:o} by {}", actor.name),
                        actor,
                        setup: Box::new(move || setting(OPEN, kind, 65534, mode)),
                        action: Box::new(call),
                        ctime: false,
                    });
                }
            }
        }
    }
}

/// Which change times a call sets.
pub fn change_times(stride: &mut Stride, check: &mut dyn FnMut(&Case)) {
    for actor in [ROOT, OWNER, OTHER] {
        for kind in [Kind::Missing, Kind::Reg, Kind::Dir, Kind::Link, Kind::Fifo] {
            for (name, call) in calls() {
                if !stride.takes() {
                    continue;
                }
                check(&Case {
                    name: format!("ctime: {name} on {kind:?} by {}", actor.name),
                    actor,
                    setup: Box::new(move || setting(OPEN, kind, 65534, 0o755)),
                    action: Box::new(call),
                    ctime: true,
                });
            }
        }
    }
}

/// RENAME and LINK of each kind over each kind, by owners and strangers, in plain and sticky directories.
pub fn over_each_other(stride: &mut Stride, check: &mut dyn FnMut(&Case)) {
    let people = [(ROOT, 65534), (OWNER, 65534), (OWNER, 0), (OTHER, 65534)];
    for place in [OPEN, STICKY, OTHERS_STICKY, ROOTS] {
        for (actor, victim_owner) in people {
            for from in KINDS {
                for to in KINDS {
                    for link in [false, true] {
                        if to == Kind::Link || !stride.takes() {
                            continue;
                        }
                        let word = if link { "link" } else { "rename" };
                        check(&Case {
                            name: format!(
                                "{word} {from:?} over {to:?} of {victim_owner} in {} by {}",
                                place.name, actor.name
                            ),
                            actor,
                            setup: Box::new(move || {
                                sys::mkdir(b"s", 0o777)?;
                                make(from, b"s/f", 65534, 65534, 0o755)?;
                                sys::mkdir(b"p", 0o777)?;
                                make(to, b"p/t", victim_owner, victim_owner, 0o755)?;
                                sys::chown(b"p", place.uid, place.gid)?;
                                sys::chmod(b"p", place.mode)?;
                                age(b"p")?;
                                age(b"s")
                            }),
                            action: Box::new(move || {
                                ok(if link { sys::link(b"s/f", b"p/t") } else { sys::rename(b"s/f", b"p/t") })
                            }),
                            ctime: false,
                        });
                    }
                }
            }
        }
    }
    // Moving a directory needs the right to change its "..".
    for (owner, mode) in [(65534, 0o755), (65533, 0o755), (65533, 0o777), (65534, 0o555)] {
        for place in [OPEN, STICKY] {
            check(&Case {
                name: format!("move directory of {owner} mode {mode:o} from {}", place.name),
                actor: OWNER,
                setup: Box::new(move || {
                    parent(place)?;
                    sys::mkdir(b"d", 0o777)?;
                    make(Kind::Dir, b"p/t", owner, owner, mode)?;
                    age(b"p")
                }),
                action: Box::new(|| ok(sys::rename(b"p/t", b"d/n"))),
                ctime: false,
            });
        }
    }
}

/// Names and paths at their limits, and symbolic links in paths.
pub fn names(stride: &mut Stride, check: &mut dyn FnMut(&Case)) {
    // Few and each of its own kind: a denser sample.
    *stride = Stride::new(stride.every.div_ceil(8), stride.from);
    let check = &mut |case: &Case| {
        if stride.takes() {
            check(case);
        }
    };
    let names: Vec<(String, Vec<u8>)> = vec![
        ("255 bytes".into(), vec![b'n'; 255]),
        ("256 bytes".into(), vec![b'n'; 256]),
        ("255 bytes of UTF-8".into(), "ä".repeat(127).into_bytes()),
        ("one byte".into(), b"a".to_vec()),
        ("newline".into(), b"a\nb".to_vec()),
        ("backslash".into(), b"a\\b".to_vec()),
        ("space and tab".into(), b" a\tb ".to_vec()),
        ("not UTF-8".into(), vec![0xff, 0xfe, 0x80, b'x']),
        ("all bytes".into(), (1..=255u8).filter(|byte| *byte != b'/').collect()),
        ("control".into(), vec![1, 2, 127, 27]),
        ("three dots".into(), b"...".to_vec()),
        ("dot first".into(), b".hidden".to_vec()),
        ("like a silly rename".into(), b".nfs000000000000000100000001".to_vec()),
        ("dash".into(), b"-rf".to_vec()),
        ("colon".into(), b"C:".to_vec()),
    ];
    type With = fn(&[u8]) -> Outcome;
    let uses: [(&str, With); 8] = [
        ("creat", |name| ok(sys::open(name, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, 0o644))),
        ("mkdir", |name| ok(sys::mkdir(name, 0o755))),
        ("mkfifo", |name| ok(sys::mknod(name, libc::S_IFIFO | 0o644, 0))),
        ("symlink", |name| ok(sys::symlink(b"t", name))),
        ("symlink text", |name| {
            sys::symlink(name, b"l")?;
            sys::readlink(b"l").map(|text| format!("{text:?}"))
        }),
        ("rename to and back", |name| {
            sys::rename(b"f", name)?;
            ok(sys::rename(name, b"f"))
        }),
        ("link", |name| ok(sys::link(b"f", name))),
        ("make, list, remove", |name| {
            sys::mkdir(name, 0o755)?;
            let mut found = false;
            sys::list(b".", |other| found |= other == name)?;
            sys::rmdir(name)?;
            Ok(found.to_string())
        }),
    ];
    for (what, name) in &names {
        for (verb, with) in uses {
            let name = name.clone();
            check(&Case {
                name: format!("name: {verb} {what}"),
                actor: ROOT,
                setup: Box::new(|| put(b"f", b"file").and_then(|_| age(b"f"))),
                action: Box::new(move || with(&name)),
                ctime: false,
            });
        }
    }
    paths(check);
}

fn paths(check: &mut dyn FnMut(&Case)) {
    type Do = fn(&[u8]) -> Outcome;
    let verbs: [(&str, Do); 12] = [
        ("stat", |path| ok(sys::stat(path))),
        ("open", |path| ok(sys::open(path, libc::O_RDONLY, 0))),
        ("creat", |path| ok(sys::open(path, libc::O_WRONLY | libc::O_CREAT, 0o644))),
        ("chmod", |path| ok(sys::chmod(path, 0o600))),
        ("chown", |path| ok(sys::chown(path, 1, 1))),
        ("mkdir", |path| ok(sys::mkdir(path, 0o755))),
        ("unlink", |path| ok(sys::unlink(path))),
        ("rmdir", |path| ok(sys::rmdir(path))),
        ("rename", |path| ok(sys::rename(path, b"n"))),
        ("link", |path| ok(sys::link(path, b"n"))),
        ("truncate", |path| ok(sys::truncate(path, 1))),
        ("utimes", |path| ok(sys::utimens(path, None, true))),
    ];
    let deep = |length: usize| -> Vec<u8> {
        let mut path = Vec::new();
        while path.len() + 2 < length {
            path.extend_from_slice(b"./");
        }
        path.extend_from_slice(b"f");
        path
    };
    let paths: Vec<(&str, Vec<u8>)> = vec![
        ("of 4095 bytes", deep(4095)),
        ("of 4096 bytes", [deep(4095), b"ff".to_vec()].concat()),
        ("of 5000 bytes", deep(5000)),
        ("empty", Vec::new()),
        ("through a file", b"f/x".to_vec()),
        ("through nothing", b"no/x".to_vec()),
        ("through a link", b"dl/f".to_vec()),
        ("through a loop", b"loop1/x".to_vec()),
        ("at a loop", b"loop1".to_vec()),
        ("at itself", b"self".to_vec()),
        ("through a dangling link", b"gone/x".to_vec()),
        ("at a dangling link", b"gone".to_vec()),
        ("to a link to a link", b"l2".to_vec()),
        ("with a long component", [b"d/".to_vec(), vec![b'x'; 256]].concat()),
        ("below a long component", [vec![b'x'; 256], b"/y".to_vec()].concat()),
        ("dot", b".".to_vec()),
        ("dotdot of a directory", b"d/..".to_vec()),
        ("with slashes", b"d////f".to_vec()),
    ];
    for (what, path) in paths {
        for (verb, with) in verbs {
            let path = path.clone();
            check(&Case {
                name: format!("path: {verb} {what}"),
                actor: ROOT,
                setup: Box::new(|| {
                    put(b"f", b"file")?;
                    sys::mkdir(b"d", 0o755)?;
                    put(b"d/f", b"in d")?;
                    sys::symlink(b"d", b"dl")?;
                    sys::symlink(b"loop2", b"loop1")?;
                    sys::symlink(b"loop1", b"loop2")?;
                    sys::symlink(b"self", b"self")?;
                    sys::symlink(b"nowhere", b"gone")?;
                    sys::symlink(b"l1", b"l2")?;
                    sys::symlink(b"f", b"l1")?;
                    for name in [&b"f"[..], b"d/f", b"d", b"dl", b"loop1", b"loop2", b"self", b"gone", b"l1", b"l2"] {
                        age(name)?;
                    }
                    age(b".")
                }),
                action: Box::new(move || with(&path)),
                ctime: false,
            });
        }
    }
    for length in [1, 1023, 1024, 4095] {
        check(&Case {
            name: format!("a link's text of {length} bytes"),
            actor: ROOT,
            setup: Box::new(|| Ok(String::new())),
            action: Box::new(move || {
                let text: Vec<u8> = (0..length).map(|n| b'a' + (n % 26) as u8).collect();
                sys::symlink(&text, b"l")?;
                let read = sys::readlink(b"l")?;
                Ok(format!("{} {}", read.len(), read == text))
            }),
            ctime: false,
        });
    }
    for links in [10, 40, 41] {
        check(&Case {
            name: format!("a chain of {links} links"),
            actor: ROOT,
            setup: Box::new(move || {
                put(b"l0", b"end")?;
                for n in 1..=links {
                    sys::symlink(format!("l{}", n - 1).as_bytes(), format!("l{n}").as_bytes())?;
                }
                Ok(String::new())
            }),
            action: Box::new(move || ok(sys::stat(format!("l{links}").as_bytes()))),
            ctime: false,
        });
    }
}

/// Things made in directories whose set-group-id bit is set, or whose group the maker is not in.
pub fn inheritance(stride: &mut Stride, check: &mut dyn FnMut(&Case)) {
    type Make = fn(u32) -> Outcome;
    let makes: [(&str, Make); 6] = [
        ("creat", |mode| ok(sys::open(b"p/t", libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, mode))),
        ("creat unchecked", |mode| ok(sys::open(b"p/t", libc::O_WRONLY | libc::O_CREAT, mode))),
        ("mkdir", |mode| ok(sys::mkdir(b"p/t", mode))),
        ("mkfifo", |mode| ok(sys::mknod(b"p/t", libc::S_IFIFO | mode, 0))),
        ("mknod reg", |mode| ok(sys::mknod(b"p/t", libc::S_IFREG | mode, 0))),
        ("symlink", |_| ok(sys::symlink(b"x", b"p/t"))),
    ];
    for place in [OPEN, SETGID, STICKY, Parent { name: "own group setgid", uid: 65534, gid: 65534, mode: 0o2775 }] {
        for actor in [ROOT, OWNER, MEMBER, OTHER, WHEEL] {
            for mode in [0o644, 0o755, 0o2755, 0o4755, 0o6777, 0o1777, 0] {
                for (verb, with) in makes {
                    if !stride.takes() {
                        continue;
                    }
                    check(&Case {
                        name: format!("{verb} {mode:o} in {} by {}", place.name, actor.name),
                        actor,
                        setup: Box::new(move || parent(place)),
                        action: Box::new(move || with(mode)),
                        ctime: false,
                    });
                }
            }
        }
    }
}

/// Kinds of device numbers, and a 0:0 that overlayfs keeps for itself.
pub fn devices(check: &mut dyn FnMut(&Case)) {
    for (word, kind) in [("chr", libc::S_IFCHR), ("blk", libc::S_IFBLK)] {
        for (major, minor) in [(0u32, 0u32), (0, 1), (1, 0), (1, 3), (255, 255), (256, 256), (4095, 1_048_575)] {
            for actor in [ROOT, OWNER] {
                let name = if (major, minor) == (0, 0) { format!("{word}00") } else { word.to_owned() };
                check(&Case {
                    name: format!("mknod {name} {major}:{minor} by {}", actor.name),
                    actor,
                    setup: Box::new(|| Ok(String::new())),
                    action: Box::new(move || ok(sys::mknod(b"t", kind | 0o600, libc::makedev(major, minor)))),
                    ctime: false,
                });
            }
        }
    }
}
