//! Scenes about directories: their links, listings and depths, and what is renamed, removed or made in them.

use std::collections::BTreeSet;

use crate::cases::ok;
use crate::process as other;
use crate::scenes::{NEW, STRANGER, Scene, nlink, put, text, told};
use crate::sys;

pub const DIRECTORIES: &[Scene] = &[
    ("links of directories", || {
        sys::mkdir(b"a", 0o755)?;
        sys::mkdir(b"b", 0o755)?;
        for name in ["a/1", "a/2", "a/3"] {
            sys::mkdir(name.as_bytes(), 0o755)?;
        }
        let full = nlink(b"a");
        sys::rename(b"a/1", b"b/1")?;
        sys::rmdir(b"a/2")?;
        let (moved, to) = (nlink(b"a"), nlink(b"b"));
        sys::rename(b"a/3", b"b/1")?;
        Ok(format!("{full} {moved} {to} {} {} {}", nlink(b"a"), nlink(b"b"), nlink(b"b/1")))
    }),
    ("renames that would part the tree", || {
        for name in ["a", "a/b", "a/b/c", "e", "full", "full/x"] {
            sys::mkdir(name.as_bytes(), 0o755)?;
        }
        drop(put(b"f", b"")?);
        let pairs = [
            ("a", "a/b"),
            ("a", "a/b/c/d"),
            ("a/b", "a"),
            ("a/b/c", "a"),
            ("e", "full"),
            ("full", "e/."),
            ("full", "."),
        ];
        let pairs =
            pairs.iter().chain(&[("f", "e"), ("e", "f"), ("f", "f/x"), (".", "n"), ("e", "full/.."), ("e", "e")]);
        Ok(pairs.map(|(from, to)| told(sys::rename(from.as_bytes(), to.as_bytes()))).collect::<Vec<_>>().join(" "))
    }),
    ("a listing goes on behind a place that was told, though entries came and went", || {
        let name = |n: u32| format!("entry-{n:03}").into_bytes();
        for n in 0..90 {
            drop(put(&name(n), b"")?);
        }
        let fd = sys::open(b".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
        let (mut before, mut place) = (BTreeSet::new(), 0);
        other::entries(&fd, |name, at| {
            before.insert(name.to_vec());
            place = at;
            before.len() < 40
        })?;
        for n in 0..20 {
            sys::unlink(&name(n))?;
            drop(put(format!("late-{n}").as_bytes(), b"")?);
        }
        other::seek(&fd, place, libc::SEEK_SET)?;
        let mut behind = BTreeSet::new();
        other::entries(&fd, |name, _| behind.insert(name.to_vec()) || name.starts_with(b"late"))?;
        // Of what was there all the time, each once.
        let stays: BTreeSet<_> = (20..90).map(name).collect();
        let twice = before.intersection(&behind).count();
        let missed = stays.iter().filter(|name| !before.contains(*name) && !behind.contains(*name)).count();
        other::seek(&fd, 0, libc::SEEK_SET)?;
        let mut all = 0;
        other::entries(&fd, |_, _| {
            all += 1;
            true
        })?;
        Ok(format!("twice {twice} missed {missed} in all {all}"))
    }),
    ("a listing while its entries are renamed", || {
        for n in 0..60 {
            drop(put(format!("stays-{n:03}").as_bytes(), b"")?);
            drop(put(format!("moves-{n:03}").as_bytes(), b"")?);
        }
        let fd = sys::open(b".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
        let (mut seen, mut count, mut failed) = (BTreeSet::new(), 0, 0);
        other::entries(&fd, |name, _| {
            if name.starts_with(b"stays") {
                count += 1;
                seen.insert(name.to_vec());
            } else if let Some(number) = name.strip_prefix(b"moves") {
                failed += u32::from(sys::rename(name, &[b"moved", number].concat()).is_err());
            }
            true
        })?;
        Ok(format!("{count} {} {failed}", seen.len()))
    }),
    ("paths deeper than a path can be long", || {
        let name = [b'd'; 200];
        for _ in 0..25 {
            sys::mkdir(&name, 0o755)?;
            sys::chdir(&name)?;
        }
        drop(put(b"f", b"deep")?);
        let (there, long) = (text(b"f")?, told(other::where_am_i().map(drop)));
        sys::unlink(b"f")?;
        let path: Vec<u8> = [&name[..]; 21].join(&b'/');
        for _ in 0..25 {
            sys::chdir(b"..")?;
            sys::rmdir(&name)?;
        }
        Ok(format!("{there} {long} {}", told(sys::stat(&path).map(drop))))
    }),
    ("texts of links, from none to too long", || {
        let link = |length: usize| {
            let text = vec![b'x'; length];
            let made = told(sys::symlink(&text, b"l"));
            let read = told(sys::readlink(b"l").map(|read| read == text));
            let size = told(sys::lstat(b"l").map(|stat| stat.st_size));
            let _ = sys::unlink(b"l");
            format!("{made} {read} {size}")
        };
        Ok([0, 1, 59, 60, 61, 255, 4094, 4095, 4096].map(link).join(", "))
    }),
    ("a working directory that was removed", || {
        let top = sys::open(b".", libc::O_RDONLY, 0)?;
        sys::mkdir(b"d", 0o755)?;
        sys::chdir(b"d")?;
        sys::rmdir(b"../d")?;
        let made = told(sys::open(b"f", NEW, 0o600).map(drop));
        let below = told(sys::mkdir(b"e", 0o755));
        let listed = told(sys::list(b".", |_| ()));
        let place = told(other::where_am_i().map(drop));
        other::go_to(&top)?;
        Ok(format!("{made} {below} {listed} {place}"))
    }),
    ("a working directory that was renamed", || {
        sys::mkdir(b"d", 0o755)?;
        sys::mkdir(b"e", 0o755)?;
        let top = other::where_am_i()?;
        sys::chdir(b"d")?;
        drop(put(b"f", b"in it")?);
        sys::rename(b"../d", b"../e/moved")?;
        let (length, there) = (other::where_am_i()? - top, text(b"f")?);
        sys::chdir(b"../..")?;
        Ok(format!("{length} {there} {}", text(b"e/moved/f")?))
    }),
    ("a tree of many levels is made and taken down by names", || {
        for (a, b) in (0..5).flat_map(|a| (0..5).map(move |b| (a, b))) {
            let _ = sys::mkdir(format!("t{a}").as_bytes(), 0o700);
            sys::mkdir(format!("t{a}/{b}").as_bytes(), 0o700)?;
            drop(put(format!("t{a}/{b}/file").as_bytes(), b"x")?);
            sys::symlink(b"../..", format!("t{a}/{b}/up").as_bytes())?;
        }
        let full = told(sys::rmdir(b"t3"));
        crate::compare::remove(b"t3");
        Ok(format!("{full} {} {}", told(sys::stat(b"t3").map(drop)), nlink(b".")))
    }),
    ("devices that can be opened, and some that cannot", || {
        let device = |name: &[u8], kind: u32, major: u32, minor: u32| {
            sys::mknod(name, kind | 0o666, libc::makedev(major, minor))?;
            let fd = sys::open(name, libc::O_RDWR, 0)?;
            let written = sys::write(&fd, b"data")?;
            let read = sys::read(&fd, &mut [0; 4])?;
            Ok(format!("{written} {read}"))
        };
        let all = [
            device(b"null", libc::S_IFCHR, 1, 3),
            device(b"zero", libc::S_IFCHR, 1, 5),
            device(b"full", libc::S_IFCHR, 1, 7),
            device(b"none", libc::S_IFCHR, 4000, 1),
            device(b"block", libc::S_IFBLK, 4000, 1),
        ];
        Ok(all.map(told).join(" "))
    }),
    ("a set-group-id directory hands on its group", || {
        sys::mkdir(b"s", 0o777)?;
        sys::chown(b"s", 0, 65532)?;
        sys::chmod(b"s", 0o2777)?;
        sys::acting(STRANGER, || {
            sys::mkdir(b"s/d", 0o755)?;
            sys::mkdir(b"s/d/e", 0o755)?;
            sys::symlink(b"x", b"s/d/l")?;
            ok(put(b"s/d/f", b""))
        })?;
        let show = |path: &[u8]| told(sys::lstat(path).map(|stat| (stat.st_mode, stat.st_uid, stat.st_gid)));
        Ok([&b"s/d"[..], b"s/d/e", b"s/d/l", b"s/d/f"].map(show).join(" "))
    }),
];
