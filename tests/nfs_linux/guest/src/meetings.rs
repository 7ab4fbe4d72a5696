//! Scenes in which processes meet at a file: pipes, sockets, locks, programs, and who comes first.

use crate::process as other;
use crate::scenes::{NEW, OWNER, STRANGER, Scene, put, told};
use crate::sys;

/// How many processes at once.
const CROWD: u32 = 6;

/// What a crowd's processes say, each told its number.
fn crowd(work: fn(u32) -> sys::Result<u64>) -> sys::Result<Vec<sys::Result<u64>>> {
    let all: Vec<_> = (0..CROWD).map(|n| other::start(|| work(n))).collect();
    all.into_iter().map(|child| Ok(child?.end())).collect()
}

fn won(all: &[sys::Result<u64>]) -> String {
    let lost =
        all.iter().filter_map(|result| result.err()).map(sys::errno_name).collect::<std::collections::BTreeSet<_>>();
    format!("{} {lost:?}", all.iter().filter(|result| result.is_ok()).count())
}

/// This program by a name here, which ends with the effective user's id in seven bits (`main.rs`, `whoami`).
fn program(name: &[u8], mode: u32) -> sys::Result<()> {
    let bytes = std::fs::read("/proc/self/exe").map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
    drop(put(name, &bytes)?);
    sys::chown(name, OWNER.uid, OWNER.gid)?;
    sys::chmod(name, mode)?;
    Ok(())
}

pub const MEETINGS: &[Scene] = &[
    ("data through a pipe", || {
        sys::mknod(b"p", libc::S_IFIFO | 0o600, 0)?;
        let alone = told(sys::open(b"p", libc::O_WRONLY | libc::O_NONBLOCK, 0).map(drop));
        let writer = other::start(|| {
            let fd = sys::open(b"p", libc::O_WRONLY, 0)?;
            sys::write(&fd, b"through the pipe").map(|count| count as u64)
        })?;
        let reader = sys::open(b"p", libc::O_RDONLY, 0)?;
        let mut place = [0; 32];
        let got = sys::read(&reader, &mut place)?;
        let (sent, end) = (told(writer.end()), told(sys::read(&reader, &mut place[got..])));
        Ok(format!("{alone} {sent} {} {end}", String::from_utf8_lossy(&place[..got])))
    }),
    ("a pipe goes on without its name", || {
        sys::mknod(b"p", libc::S_IFIFO | 0o600, 0)?;
        let both = sys::open(b"p", libc::O_RDWR, 0)?;
        sys::unlink(b"p")?;
        sys::write(&both, b"still")?;
        let mut place = [0; 5];
        Ok(told(sys::read(&both, &mut place)))
    }),
    ("a socket with a name", || {
        let server = other::socket()?;
        let none = told(other::connect(&other::socket()?, b"s"));
        other::bind(&server, b"s")?;
        let early = told(other::connect(&other::socket()?, b"s"));
        other::listen(&server)?;
        let taken = told(other::bind(&other::socket()?, b"s"));
        let client = other::start(|| {
            let socket = other::socket()?;
            other::connect(&socket, b"s")?;
            sys::write(&socket, b"hello").map(|count| count as u64)
        })?;
        let mut place = [0; 5];
        let got = told(sys::read(&other::accept(&server)?, &mut place));
        let sent = told(client.end());
        let refused = sys::acting(STRANGER, || {
            let socket = other::socket()?;
            other::connect(&socket, b"s")
        });
        drop(server);
        let late = told(other::connect(&other::socket()?, b"s"));
        drop(put(b"f", b"")?);
        let file = told(other::connect(&other::socket()?, b"f"));
        Ok([none, early, taken, got, sent, told(refused), late, file].join(" "))
    }),
    ("locks on parts of a file", || {
        let fd = put(b"f", &[0; 100])?;
        other::lock_range(&fd, libc::F_SETLK, libc::F_WRLCK, 10, 20)?;
        let others = |from, length, kind| {
            let child = other::start(|| {
                let fd = sys::open(b"f", libc::O_RDWR, 0)?;
                other::lock_range(&fd, libc::F_SETLK, kind, from, length).map(|_| 0)
            });
            told(child.and_then(other::Other::end))
        };
        let while_held = [others(0, 10, libc::F_WRLCK), others(15, 1, libc::F_RDLCK), others(29, 50, libc::F_WRLCK)];
        other::lock_range(&fd, libc::F_SETLK, libc::F_RDLCK, 15, 5)?;
        let shared = [others(15, 5, libc::F_RDLCK), others(14, 1, libc::F_RDLCK)];
        other::lock_range(&fd, libc::F_SETLK, libc::F_UNLCK, 0, 0)?;
        Ok(format!("{} {} {}", while_held.join(" "), shared.join(" "), others(0, 0, libc::F_WRLCK)))
    }),
    ("a lock on a whole file", || {
        let fd = put(b"f", b"")?;
        let second = sys::open(b"f", libc::O_RDWR, 0)?;
        other::lock_whole(&fd, libc::LOCK_EX)?;
        let held = told(other::lock_whole(&second, libc::LOCK_SH | libc::LOCK_NB));
        other::lock_whole(&fd, libc::LOCK_UN)?;
        Ok(format!("{held} {}", told(other::lock_whole(&second, libc::LOCK_EX | libc::LOCK_NB))))
    }),
    ("one of many makes a file", || {
        let all = crowd(|_| sys::open(b"f", NEW, 0o600).map(|_| 0))?;
        Ok(won(&all))
    }),
    ("one of many makes a directory, a link, a pipe", || {
        let made = [
            crowd(|_| sys::mkdir(b"d", 0o700).map(|_| 0))?,
            crowd(|n| sys::symlink(format!("to {n}").as_bytes(), b"l").map(|_| 0))?,
            crowd(|_| sys::mknod(b"p", libc::S_IFIFO | 0o600, 0).map(|_| 0))?,
        ];
        // What the winner's text is differs from run to run.
        sys::unlink(b"l")?;
        Ok(made.map(|all| won(&all)).join(" "))
    }),
    ("one of many removes a name", || {
        drop(put(b"f", b"")?);
        sys::mkdir(b"d", 0o700)?;
        let gone = [crowd(|_| sys::unlink(b"f").map(|_| 0))?, crowd(|_| sys::rmdir(b"d").map(|_| 0))?];
        Ok(gone.map(|all| won(&all)).join(" "))
    }),
    ("one of many renames a file, and many rename over one", || {
        drop(put(b"f", b"")?);
        let from = crowd(|n| sys::rename(b"f", format!("g{n}").as_bytes()).map(|_| 0))?;
        let over = crowd(|n| {
            drop(put(format!("o{n}").as_bytes(), b"")?);
            sys::rename(format!("o{n}").as_bytes(), b"one").map(|_| 0)
        })?;
        let mut names = 0;
        sys::list(b".", |name| {
            names += 1;
            let _ = sys::unlink(name);
        })?;
        Ok(format!("{} {} {names}", won(&from), won(&over)))
    }),
    ("what many append is all there", || {
        drop(put(b"f", b"")?);
        let all = crowd(|n| {
            let fd = sys::open(b"f", libc::O_WRONLY | libc::O_APPEND, 0)?;
            for _ in 0..20 {
                sys::write(&fd, &[b'a' + n as u8; 11])?;
            }
            Ok(0)
        })?;
        let fd = sys::open(b"f", libc::O_RDONLY, 0)?;
        let mut bytes = vec![0; 4000];
        let count = sys::read(&fd, &mut bytes)?;
        let torn = bytes[..count].chunks(11).filter(|line| line.iter().any(|byte| *byte != line[0])).count();
        drop(fd);
        // Their order differs from run to run.
        sys::unlink(b"f")?;
        Ok(format!("{} {count} {torn}", won(&all)))
    }),
    ("many links to one file, and their removal", || {
        drop(put(b"f", b"")?);
        let made =
            crowd(|n| (0..10).try_for_each(|k| sys::link(b"f", format!("l{n}-{k}").as_bytes()).map(drop)).map(|()| 0))?;
        let full = sys::stat(b"f")?.st_nlink;
        let gone =
            crowd(|n| (0..10).try_for_each(|k| sys::unlink(format!("l{n}-{k}").as_bytes()).map(drop)).map(|()| 0))?;
        Ok(format!("{} {full} {} {}", won(&made), won(&gone), sys::stat(b"f")?.st_nlink))
    }),
    ("a program runs as whom its bits say", || {
        program(b"plain", 0o755)?;
        program(b"set", 0o4755)?;
        program(b"only", 0o111)?;
        program(b"closed", 0o700)?;
        program(b"none", 0o644)?;
        let run = |name: &[u8]| told(other::program(name, "whoami", STRANGER.uid, STRANGER.gid));
        let all = [run(b"plain"), run(b"set"), run(b"only"), run(b"closed"), run(b"none"), run(b"missing")].join(" ");
        let root = told(other::program(b"none", "whoami", 0, 0));
        // Its bytes are compared by nobody: they are the same in both.
        for name in [&b"plain"[..], b"set", b"only", b"closed", b"none"] {
            sys::unlink(name)?;
        }
        Ok(format!("{all} {root}"))
    }),
    ("a program that runs is not written to, and one that is written does not run", || {
        program(b"program", 0o755)?;
        let written = sys::open(b"program", libc::O_WRONLY, 0)?;
        let busy = told(other::program(b"program", "whoami", STRANGER.uid, STRANGER.gid));
        drop(written);
        let ran = told(other::program(b"program", "whoami", STRANGER.uid, STRANGER.gid));
        drop(put(b"empty", b"")?);
        drop(put(b"text", b"no program\n")?);
        sys::chmod(b"empty", 0o755)?;
        sys::chmod(b"text", 0o755)?;
        let empty = told(other::program(b"empty", "", 0, 0));
        let text = told(other::program(b"text", "", 0, 0));
        sys::unlink(b"program")?;
        Ok([busy, ran, empty, text].join(" "))
    }),
];
