//! What programs do in several steps: each scene is played on both file systems and must tell the same.
//!
//! Not a product of tables: these are the uses that suites and programs have and `cases` has not, one by one. A scene
//! begins as root in an empty directory of its own.

use crate::compare::{Case, Outcome};
use crate::process as other;
use crate::sys::{self, Actor, Fd, Map};

const ROOT: Actor = Actor { name: "root", uid: 0, gid: 0, groups: &[] };
pub const OWNER: Actor = Actor { name: "owner", uid: 65534, gid: 65534, groups: &[65532] };
pub const STRANGER: Actor = Actor { name: "stranger", uid: 65533, gid: 65533, groups: &[] };
pub const NEW: i32 = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;

pub type Scene = (&'static str, fn() -> Outcome);

/// All of them, for the comparison.
pub fn scenes(check: &mut dyn FnMut(&Case)) {
    for (name, scene) in FILES.iter().chain(crate::directories::DIRECTORIES).chain(crate::meetings::MEETINGS) {
        check(&Case {
            name: format!("scene: {name}"),
            actor: ROOT,
            setup: Box::new(|| Ok(String::new())),
            action: Box::new(scene),
            ctime: false,
        });
    }
}

pub fn put(path: &[u8], data: &[u8]) -> sys::Result<Fd> {
    let fd = sys::open(path, NEW, 0o644)?;
    sys::write(&fd, data)?;
    Ok(fd)
}

pub fn text(path: &[u8]) -> sys::Result<String> {
    let fd = sys::open(path, libc::O_RDONLY, 0)?;
    sys::forget_pages(&fd)?;
    let mut bytes = vec![0; 200];
    let count = sys::read(&fd, &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

/// The outcome as text, so that a scene goes on behind an error that it asks for.
pub fn told<T: std::fmt::Debug>(result: sys::Result<T>) -> String {
    result.map_or_else(sys::errno_name, |value| format!("{value:?}"))
}

pub fn nlink(path: &[u8]) -> String {
    told(sys::lstat(path).map(|stat| stat.st_nlink))
}

const FILES: &[Scene] = &[
    ("read at, before and past the end", || {
        let fd = put(b"f", b"0123456789")?;
        let mut place = [0; 8];
        let mut counts = Vec::new();
        for at in [0, 5, 9, 10, 11, 5000, i64::MAX - 8] {
            counts.push(told(sys::pread(&fd, &mut place, at)));
        }
        counts.push(told(sys::pread(&fd, &mut place, -1)));
        counts.push(told(sys::read(&sys::open(b".", libc::O_RDONLY, 0)?, &mut place)));
        Ok(counts.join(" "))
    }),
    ("a writer cannot read, a reader cannot write", || {
        drop(put(b"f", b"data")?);
        let (r, w) = (sys::open(b"f", libc::O_RDONLY, 0)?, sys::open(b"f", libc::O_WRONLY, 0)?);
        Ok(format!("{} {}", told(sys::read(&w, &mut [0; 4])), told(sys::write(&r, b"x"))))
    }),
    ("exclusive creation over links", || {
        sys::symlink(b"nowhere", b"dangling")?;
        sys::symlink(b"loop", b"loop")?;
        let made =
            |name: &[u8], more: i32| told(sys::open(name, libc::O_WRONLY | libc::O_CREAT | more, 0o600).map(drop));
        let first = [made(b"dangling", libc::O_EXCL), made(b"loop", libc::O_EXCL), made(b"loop", 0)].join(" ");
        Ok(format!("{first} {} {}", made(b"dangling", libc::O_NOFOLLOW), made(b"dangling", 0)))
    }),
    ("a truncating open by who may not write", || {
        drop(put(b"f", b"data")?);
        let opened = sys::acting(STRANGER, || told(sys::open(b"f", libc::O_WRONLY | libc::O_TRUNC, 0).map(drop)));
        Ok(format!("{opened} {}", text(b"f")?))
    }),
    ("an owner reads and writes on behind chmod 0", || {
        sys::acting(OWNER, || {
            let fd = put(b"f", b"before")?;
            sys::fchmod(fd.0, 0)?;
            sys::fsync(fd.0)?;
            sys::forget_pages(&fd)?;
            let mut place = [0; 6];
            sys::pread(&fd, &mut place, 0)?;
            sys::pwrite(&fd, b"after", 6)?;
            sys::fsync(fd.0)?;
            let again = told(sys::open(b"f", libc::O_RDONLY, 0).map(drop));
            Ok(format!("{} {again} {}", String::from_utf8_lossy(&place), sys::fstat(&fd)?.st_size))
        })
    }),
    ("append goes to the end, whatever the offset", || {
        drop(put(b"f", b"start")?);
        let (a, b) = (sys::open(b"f", libc::O_RDWR | libc::O_APPEND, 0)?, sys::open(b"f", libc::O_WRONLY, 0)?);
        sys::write(&a, b"-one")?;
        sys::pwrite(&b, b"S", 0)?;
        other::seek(&a, 0, libc::SEEK_SET)?;
        sys::write(&a, b"-two")?;
        sys::ftruncate(a.0, 7)?;
        sys::write(&a, b"-three")?;
        text(b"f")
    }),
    ("seek, also where there is no data", || {
        let fd = put(b"f", &[7; 5000])?;
        let seek = |at, whence| told(other::seek(&fd, at, whence));
        let plain = [seek(-3, libc::SEEK_SET), seek(10, libc::SEEK_END), seek(-5000, libc::SEEK_END)].join(" ");
        let hole = [seek(0, libc::SEEK_DATA), seek(0, libc::SEEK_HOLE), seek(5000, libc::SEEK_DATA)].join(" ");
        Ok(format!("{plain} {hole} {}", seek(1, 99)))
    }),
    ("holes read as zeros, by each way to make one", || {
        let fd = put(b"f", &[9; 3000])?;
        sys::ftruncate(fd.0, 100)?;
        sys::ftruncate(fd.0, 9000)?;
        sys::pwrite(&fd, b"end", 20_000)?;
        sys::fsync(fd.0)?;
        sys::forget_pages(&fd)?;
        let mut bytes = vec![1; 20_003];
        let count = sys::pread(&fd, &mut bytes, 0)?;
        Ok(format!(
            "{count} {} {}",
            bytes[..100].iter().all(|byte| *byte == 9),
            bytes[100..20_000].iter().all(|byte| *byte == 0)
        ))
    }),
    ("a map past the end of a file is zeros, and is cut off with the file", || {
        let fd = put(b"f", b"hello")?;
        let map = Map::new(&fd, 4096)?;
        let mut place = [1; 10];
        map.get(0, &mut place);
        map.put(5, b"beyond");
        map.sync()?;
        sys::ftruncate(fd.0, 3)?;
        sys::ftruncate(fd.0, 12)?;
        let mut after = [1; 12];
        map.get(0, &mut after);
        Ok(format!("{place:?} {after:?} {:?}", text(b"f")?))
    }),
    ("what is written by a map is read by another descriptor, and the other way", || {
        let fd = put(b"f", &[0; 8192])?;
        let (map, second) = (Map::new(&fd, 8192)?, sys::open(b"f", libc::O_RDWR, 0)?);
        map.put(4090, b"across pages");
        let mut place = [0; 12];
        sys::pread(&second, &mut place, 4090)?;
        sys::pwrite(&second, b"back", 10)?;
        let mut back = [0; 4];
        map.get(10, &mut back);
        Ok(format!("{} {}", String::from_utf8_lossy(&place), String::from_utf8_lossy(&back)))
    }),
    ("a map to write needs a descriptor that reads and writes", || {
        drop(put(b"f", b"data")?);
        let map = |flags| told(sys::open(b"f", flags, 0).and_then(|fd| Map::new(&fd, 4)).map(drop));
        Ok([map(libc::O_RDONLY), map(libc::O_WRONLY), map(libc::O_RDWR)].join(" "))
    }),
    ("copied in the kernel", || {
        let (from, to) = (put(b"f", &[3; 70_000])?, put(b"t", b"")?);
        other::seek(&from, 5, libc::SEEK_SET)?;
        let first = told(other::copy_range(&from, &to, 60_000));
        let second = told(other::send(&from, &to, 60_000));
        sys::fsync(to.0)?;
        Ok(format!("{first} {second} {}", sys::fstat(&to)?.st_size))
    }),
    ("each way to bring data to the disk", || {
        let fd = put(b"f", b"data")?;
        let directory = sys::open(b".", libc::O_RDONLY, 0)?;
        let done = [other::sync_data(&fd), sys::fsync(fd.0), sys::fsync(directory.0), other::sync_all(&fd)];
        let direct = sys::open(b"f", libc::O_WRONLY | libc::O_DSYNC, 0)?;
        Ok(format!("{} {}", done.map(told).join(" "), told(sys::pwrite(&direct, b"DATA", 0))))
    }),
    ("a write changes mtime, writing nothing and reading do not", || {
        let fd = put(b"f", b"data")?;
        let old = || sys::utimens(b"f", Some([(1, 1), (1, 1)]), true);
        let mtime = || sys::stat(b"f").map(|stat| stat.st_mtime > 1);
        old()?;
        sys::pread(&fd, &mut [0; 4], 0)?;
        sys::pwrite(&fd, b"", 0)?;
        let nothing = mtime()?;
        sys::pwrite(&fd, b"x", 0)?;
        sys::fsync(fd.0)?;
        Ok(format!("{nothing} {}", mtime()?))
    }),
    ("the most that a file can hold", || {
        let fd = put(b"f", b"")?;
        let write = |at| told(sys::pwrite(&fd, b"x", at));
        let cut = |size| told(sys::ftruncate(fd.0, size));
        Ok([write(i64::MAX), write(1 << 50), cut(i64::MAX), cut(1 << 50), cut(-1), cut((1 << 43) + 1)].join(" "))
    }),
    ("one file by two names", || {
        drop(put(b"a", b"data")?);
        sys::link(b"a", b"b")?;
        let same = sys::rename(b"a", b"b").map(|_| sys::stat(b"a").is_ok() && sys::stat(b"b").is_ok());
        sys::chmod(b"a", 0o4711)?;
        sys::acting(ROOT, || sys::chown(b"b", 65534, 65534))?;
        let mode = sys::stat(b"b")?.st_mode;
        sys::unlink(b"a")?;
        Ok(format!("{} {mode:o} {} {}", told(same), nlink(b"b"), text(b"b")?))
    }),
    ("files keep their number through renames, and names that come again get another file", || {
        drop(put(b"a", b"1")?);
        let number = sys::stat(b"a")?.st_ino;
        let held = sys::open(b"a", libc::O_RDONLY, 0)?;
        sys::rename(b"a", b"b")?;
        sys::mkdir(b"d", 0o755)?;
        sys::rename(b"b", b"d/c")?;
        let kept = sys::stat(b"d/c")?.st_ino == number && sys::fstat(&held)?.st_ino == number;
        drop(put(b"a", b"2")?);
        Ok(format!("{kept} {} {}", sys::stat(b"a")?.st_ino == number, text(b"a")?))
    }),
    ("a name made, written, read and removed forty times", || {
        let mut wrong = 0;
        for n in 0..40u32 {
            let (name, data) = (format!("n{}", n % 3), format!("number {n}"));
            drop(put(name.as_bytes(), data.as_bytes())?);
            wrong += u32::from(text(name.as_bytes())? != data);
            sys::unlink(name.as_bytes())?;
        }
        Ok(wrong.to_string())
    }),
    ("times to the nanosecond, in each half of 32 bits", || {
        drop(put(b"f", b"")?);
        let mut all = Vec::new();
        for time in [(1, 0), (0x7fff_ffff, 999_999_999), (0x8000_0000, 1), (0xffff_fffe, 7)] {
            sys::utimens(b"f", Some([time, time]), true)?;
            let stat = sys::stat(b"f")?;
            all.push(format!("{:?}", (stat.st_atime, stat.st_atime_nsec, stat.st_mtime, stat.st_mtime_nsec)));
        }
        Ok(all.join(" "))
    }),
];
