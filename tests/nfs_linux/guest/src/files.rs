//! Data by every way in and out, large files, large directories and open files:
//! what is judged by a model or by arithmetic, not by another file system.

use crate::compare::remove;
use crate::process as other;
use crate::report::Report;
use crate::sys::{self, Fd, Map};

/// As PID 1 the export's own lower layer is there too (`lab.rs` makes it).
pub fn judge(report: &mut Report, subject: &str, vm: bool) {
    sys::umask(0);
    let mut parts: Vec<Part> = vec![
        ("random reads and writes against a model", random),
        ("more of them, with other numbers", more_random),
        ("large files", large),
        ("direct and appended data", direct),
        ("open files", open_files),
        ("replacing files as git, dpkg and editors do", replacing),
        ("a large directory", directory),
        ("links", links),
        ("what NFSv3 has no words for", refused),
    ];
    if vm {
        parts.push(("a large directory of the image", |report, _| lower_directory(report)));
        parts.push(("the image's own files", |report, _| lower(report)));
    }
    side_by_side(report, subject, &parts);
    // Alone, since it counts the room that is left.
    report.part("what the file system says of itself");
    if let Err(errno) = itself(report, subject) {
        report.failed(&format!("stopped by {}", sys::errno_name(errno)));
    }
    report.end_part();
}

type Part = (&'static str, fn(&mut Report, &str) -> sys::Result<()>);

/// Each part in a thread of its own: one alone waits for the server half of the time.
fn side_by_side(report: &mut Report, subject: &str, parts: &[Part]) {
    report.part("data, large directories and open files");
    let judge_one = |(name, part): &Part| {
        let mut report = Report::new();
        report.part(name);
        if let Err(errno) = part(&mut report, subject) {
            report.failed(&format!("stopped by {}", sys::errno_name(errno)));
        }
        let counts = report.counts();
        report.end_part();
        counts
    };
    let counts: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = parts.iter().map(|part| scope.spawn(move || judge_one(part))).collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    for (count, (name, _)) in counts.into_iter().zip(parts) {
        match count {
            Ok((passed, failed)) => report.add(passed, failed),
            Err(_) => report.failed(&format!("{name}: a panic")),
        }
    }
}

fn random(report: &mut Report, subject: &str) -> sys::Result<()> {
    seeds(report, subject, 1..=4)
}

fn more_random(report: &mut Report, subject: &str) -> sys::Result<()> {
    seeds(report, subject, 5..=8)
}

fn seeds(report: &mut Report, subject: &str, seeds: std::ops::RangeInclusive<u64>) -> sys::Result<()> {
    for seed in seeds {
        let file = path(subject, &format!("fsx-{seed}"));
        match fsx(&file, seed, FSX_STEPS) {
            Ok(()) => report.passed(),
            Err((step, error)) => report.failed(&format!("seed {seed}, step {step}: {error}")),
        }
        let _ = sys::unlink(&file);
    }
    Ok(())
}

/// A small generator (xorshift): the same numbers for the same seed everywhere.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

const FSX_BYTES: u64 = 256 << 10;
const FSX_STEPS: usize = 300;

/// Random operations on one file, each checked against bytes in memory.
fn fsx(path: &[u8], seed: u64, steps: usize) -> Result<(), (usize, String)> {
    let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut model: Vec<u8> = Vec::new();
    let told = |step: usize, what: &str| {
        let what = what.to_owned();
        move |errno| (step, format!("{what}: {}", sys::errno_name(errno)))
    };
    let flags = libc::O_RDWR | libc::O_CREAT;
    let mut fd = sys::open(path, flags, 0o644).map_err(told(0, "open"))?;
    for step in 1..=steps {
        let offset = numbers.below(FSX_BYTES);
        let length = 1 + numbers.below(20_000.min(FSX_BYTES - offset));
        let data: Vec<u8> = (0..length).map(|n| (n as u8).wrapping_mul(7) ^ step as u8).collect();
        let end = (offset + length) as usize;
        match numbers.below(13) {
            0 | 1 => {
                let written = sys::pwrite(&fd, &data, offset as i64).map_err(told(step, "write"))?;
                if written != data.len() {
                    return Err((step, format!("{written} bytes of {} were written", data.len())));
                }
                if model.len() < end {
                    model.resize(end, 0);
                }
                model[offset as usize..end].copy_from_slice(&data);
            }
            2 => {
                sys::ftruncate(fd.0, offset as i64).map_err(told(step, "truncate"))?;
                model.resize(offset as usize, 0);
            }
            3 if model.len() > 1 => {
                let map = Map::new(&fd, model.len()).map_err(told(step, "map"))?;
                let from = offset as usize % model.len();
                let count = data.len().min(model.len() - from);
                map.put(from, &data[..count]);
                map.sync().map_err(told(step, "msync"))?;
                model[from..from + count].copy_from_slice(&data[..count]);
            }
            4 if model.len() > 1 => {
                let map = Map::new(&fd, model.len()).map_err(told(step, "map"))?;
                let from = offset as usize % model.len();
                let mut place = vec![0; (length as usize).min(model.len() - from)];
                map.get(from, &mut place);
                if place != model[from..from + place.len()] {
                    return Err((step, format!("other bytes by the map at {from}")));
                }
            }
            5 => {
                sys::fsync(fd.0).map_err(told(step, "fsync"))?;
                // Close and open: the client asks the server whether its pages are still good.
                fd = sys::open(path, libc::O_RDWR, 0).map_err(told(step, "open again"))?;
            }
            6 => {
                sys::fsync(fd.0).map_err(told(step, "fsync"))?;
                sys::forget_pages(&fd).map_err(told(step, "fadvise"))?;
            }
            7 => {
                // A dirty map that nobody synced: `read` sees it, and so does the server, later.
                let from = offset as usize % model.len().max(1);
                let count = data.len().min(model.len() - from);
                if count > 0 {
                    let map = Map::new(&fd, model.len()).map_err(told(step, "map"))?;
                    map.put(from, &data[..count]);
                    model[from..from + count].copy_from_slice(&data[..count]);
                }
            }
            8 => {
                let end = sys::open(path, libc::O_WRONLY | libc::O_APPEND, 0).map_err(told(step, "open to append"))?;
                let data = &data[..data.len().min((FSX_BYTES as usize).saturating_sub(model.len()))];
                sys::write(&end, data).map_err(told(step, "append"))?;
                model.extend_from_slice(data);
            }
            9 => {
                // To another place of the same file, where the two do not overlap.
                let from = offset as usize / 2;
                let to = (FSX_BYTES / 2) as usize + from;
                let count = data.len().min(model.len().saturating_sub(from)).min(to - from);
                let copied = other::copy_within(&fd, from as i64, to as i64, count).map_err(told(step, "copy"))?;
                if copied as usize != count {
                    return Err((step, format!("{copied} bytes of {count} were copied")));
                }
                if count > 0 {
                    let copy = model[from..from + count].to_vec();
                    model.resize(model.len().max(to + count), 0);
                    model[to..to + count].copy_from_slice(&copy);
                }
            }
            10 => {
                // NFSv3 has no such call: it is refused, and nothing changes.
                let how = ALLOCATIONS[numbers.below(ALLOCATIONS.len() as u64) as usize];
                let refused = other::allocate(&fd, how, offset as i64, length as i64);
                if refused != Err(libc::EOPNOTSUPP) {
                    return Err((step, format!("fallocate {how:#x}: {refused:?}")));
                }
            }
            _ => {
                let mut place = vec![0; length as usize];
                let read = sys::pread(&fd, &mut place, offset as i64).map_err(told(step, "read"))?;
                let expected = model.get(offset as usize..end.min(model.len())).unwrap_or_default();
                if &place[..read] != expected {
                    return Err((step, format!("other bytes at {offset}, or {read} of {}", expected.len())));
                }
            }
        }
        let size = sys::fstat(&fd).map_err(told(step, "fstat"))?.st_size;
        if size != model.len() as i64 {
            return Err((step, format!("{size} bytes long instead of {}", model.len())));
        }
    }
    Ok(())
}

/// Room before it is needed, holes, zeros, and ranges taken out or put in between.
const ALLOCATIONS: [i32; 6] = [
    0,
    libc::FALLOC_FL_KEEP_SIZE,
    libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
    libc::FALLOC_FL_ZERO_RANGE,
    libc::FALLOC_FL_COLLAPSE_RANGE,
    libc::FALLOC_FL_INSERT_RANGE,
];

/// What no NFSv3 server can do is refused by the client's kernel as on an export of any other server, and changes
/// nothing: programs go another way then.
fn refused(report: &mut Report, subject: &str) -> sys::Result<()> {
    let name = |name: &str| path(subject, name);
    let (one, two) = (name("refused-1"), name("refused-2"));
    put(&one, b"one")?;
    put(&two, b"two")?;
    let fd = sys::open(&one, libc::O_RDWR, 0)?;
    for how in ALLOCATIONS {
        report.is(&format!("fallocate {how:#x}"), other::allocate(&fd, how, 0, 4096), Err(libc::EOPNOTSUPP));
    }
    let renames = [libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE, libc::RENAME_WHITEOUT];
    for flags in renames {
        for to in [&two, &name("refused-new")] {
            let renamed = other::rename_with(&one, to, flags);
            // The kernel itself looks whether the name is taken, or must be.
            let expected = match (flags, to == &two) {
                (libc::RENAME_NOREPLACE, true) => libc::EEXIST,
                (libc::RENAME_EXCHANGE, false) => libc::ENOENT,
                _ => libc::EINVAL,
            };
            report.is(&format!("renameat2 {flags}"), renamed, Err(expected));
        }
    }
    let flags = libc::O_RDWR | libc::O_TMPFILE;
    report.is("O_TMPFILE", sys::open(subject.as_bytes(), flags, 0o600).err(), Some(libc::EOPNOTSUPP));
    report.is("a user's attribute", other::set_attribute(&one, "user.word", b"x"), Err(libc::EOPNOTSUPP));
    // `struct vfs_cap_data` of revision 2 that grants nothing.
    let mut capability = [0; 20];
    (capability[0], capability[3]) = (1, 2);
    let set = other::set_attribute(&one, "security.capability", &capability);
    report.is("a file's capability", set, Err(libc::EOPNOTSUPP));
    report.is("a clone", other::clone_of(&fd, &sys::open(&two, libc::O_RDWR, 0)?), Err(libc::EOPNOTSUPP));
    drop(fd);
    report.is("nothing changed", (get(&one)?, get(&two)?), (b"one".to_vec(), b"two".to_vec()));
    report.is("no new name", sys::stat(&name("refused-new")).err(), Some(libc::ENOENT));
    sys::unlink(&one)?;
    sys::unlink(&two)?;
    Ok(())
}

fn path(subject: &str, name: &str) -> Vec<u8> {
    format!("{subject}/{name}").into_bytes()
}

fn put(path: &[u8], data: &[u8]) -> sys::Result<()> {
    let fd = sys::open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, 0o644)?;
    sys::write(&fd, data)?;
    sys::fsync(fd.0)?;
    Ok(())
}

fn get(path: &[u8]) -> sys::Result<Vec<u8>> {
    let fd = sys::open(path, libc::O_RDONLY, 0)?;
    let mut bytes = vec![0; 4096];
    let count = sys::read(&fd, &mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Sparse files past 2 and 4 GiB, and the end of what ext4 can hold.
fn large(report: &mut Report, subject: &str) -> sys::Result<()> {
    let file = path(subject, "large");
    let fd = sys::open(&file, libc::O_RDWR | libc::O_CREAT, 0o644)?;
    for at in [(1i64 << 31) - 2, (1 << 32) - 2, (1 << 33) + 1, 1 << 40] {
        sys::pwrite(&fd, b"over", at)?;
        sys::fsync(fd.0)?;
        sys::forget_pages(&fd)?;
        let mut place = [0; 8];
        let count = sys::pread(&fd, &mut place, at - 2)?;
        report.is(&format!("data around {at}"), &place[..count], &b"\0\0over"[..]);
        report.is(&format!("size past {at}"), sys::fstat(&fd)?.st_size, at + 4);
    }
    report.holds("a sparse file takes little room", sys::fstat(&fd)?.st_blocks < 4096);
    sys::ftruncate(fd.0, (1 << 32) + 5)?;
    report.is("size after truncate", sys::stat(&file)?.st_size, (1 << 32) + 5);
    report.is("past what ext4 holds", sys::ftruncate(fd.0, 1 << 45), Err(libc::EFBIG));
    drop(fd);
    sys::unlink(&file)?;
    Ok(())
}

fn direct(report: &mut Report, subject: &str) -> sys::Result<()> {
    let file = path(subject, "direct");
    let fd = sys::open(&file, libc::O_RDWR | libc::O_CREAT | libc::O_DIRECT, 0o644)?;
    // Whatever alignment the block below would ask for.
    let buffer = vec![0x5a; 3 * 65536];
    let start = buffer.as_ptr().align_offset(4096);
    let data = &buffer[start..start + 65536];
    report.is("a direct write", sys::pwrite(&fd, data, 4096), Ok(65536));
    let mut place = vec![0; 2 * 65536];
    let at = place.as_ptr().align_offset(4096);
    report.is("a direct read", sys::pread(&fd, &mut place[at..at + 65536], 4096), Ok(65536));
    report.holds("direct data", &place[at..at + 65536] == data);
    drop(fd);
    let appender = sys::open(&file, libc::O_WRONLY | libc::O_APPEND, 0)?;
    let other = sys::open(&file, libc::O_WRONLY | libc::O_APPEND, 0)?;
    for n in 0..50 {
        sys::write(if n % 2 == 0 { &appender } else { &other }, &[b'a' + n % 26])?;
    }
    sys::fsync(appender.0)?;
    report.is("appended by two descriptors", sys::stat(&file)?.st_size, 4096 + 65536 + 50);
    let sync = sys::open(&file, libc::O_WRONLY | libc::O_SYNC, 0)?;
    report.is("a synchronous write", sys::pwrite(&sync, b"now", 0), Ok(3));
    drop((appender, other, sync));
    sys::unlink(&file)?;
    Ok(())
}

/// Files that lose their name, their mode or their place while they are open.
fn open_files(report: &mut Report, subject: &str) -> sys::Result<()> {
    let folder = path(subject, "open");
    sys::mkdir(&folder, 0o755)?;
    let file = path(subject, "open/file");
    put(&file, b"before")?;
    let fd = sys::open(&file, libc::O_RDWR, 0)?;
    sys::unlink(&file)?;
    report.is("the name is gone", sys::stat(&file).err(), Some(libc::ENOENT));
    sys::pwrite(&fd, b"after!", 0)?;
    sys::fsync(fd.0)?;
    sys::forget_pages(&fd)?;
    let mut place = [0; 6];
    sys::pread(&fd, &mut place, 0)?;
    report.is("data of an unlinked file", &place, b"after!");
    drop(fd);
    report.is("nothing is left of it", sys::list(&folder, |_| ()), Ok(0));

    put(&file, b"old")?;
    let fd = sys::open(&file, libc::O_RDONLY, 0)?;
    put(&path(subject, "open/new"), b"new")?;
    sys::rename(&path(subject, "open/new"), &file)?;
    let mut place = [0; 3];
    sys::pread(&fd, &mut place, 0)?;
    report.is("an open file that was replaced", &place, b"old");
    report.is("the file in its place", get(&file)?, b"new".to_vec());
    drop(fd);

    let many: Vec<Fd> = (0..200)
        .map(|n| {
            let name = path(subject, &format!("open/many-{n}"));
            let fd = sys::open(&name, libc::O_RDWR | libc::O_CREAT, 0o600)?;
            sys::unlink(&name)?;
            Ok(fd)
        })
        .collect::<sys::Result<_>>()?;
    let mut good = 0;
    for (n, fd) in many.iter().enumerate() {
        let data = (n as u32).to_be_bytes();
        sys::pwrite(fd, &data, 0)?;
        sys::fsync(fd.0)?;
        let mut place = [0; 4];
        sys::pread(fd, &mut place, 0)?;
        good += u32::from(place == data);
    }
    report.is("two hundred files without names", good, 200);
    drop(many);
    sys::unlink(&file)?;
    report.is("rmdir when all are closed", sys::rmdir(&folder), Ok(0));
    Ok(())
}

fn replacing(report: &mut Report, subject: &str) -> sys::Result<()> {
    let folder = path(subject, "objects");
    sys::mkdir(&folder, 0o755)?;
    let name = |name: &str| path(subject, &format!("objects/{name}"));
    for n in 0..30 {
        // git: write, fsync, link to the final name, unlink the first; read-only from the start.
        let (temporary, last) = (name(&format!("tmp_obj_{n}")), name(&format!("{n:02x}")));
        let fd = sys::open(&temporary, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, 0o444)?;
        sys::write(&fd, format!("object {n}").as_bytes())?;
        sys::fsync(fd.0)?;
        drop(fd);
        sys::link(&temporary, &last)?;
        sys::unlink(&temporary)?;
        report.is("git's object", get(&last)?, format!("object {n}").into_bytes());
        // dpkg: unpack beside, keep the old one by a link, rename over.
        let (new, old) = (name("file.dpkg-new"), name("file"));
        put(&new, format!("version {n}").as_bytes())?;
        let _ = sys::unlink(&name("file.dpkg-tmp"));
        if n > 0 {
            sys::link(&old, &name("file.dpkg-tmp"))?;
        }
        sys::rename(&new, &old)?;
        report.is("dpkg's file", get(&old)?, format!("version {n}").into_bytes());
        // A lock by exclusive creation, as git's index.lock.
        let lock = name("index.lock");
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        let held = sys::open(&lock, flags, 0o644)?;
        report.is("a lock that is held", sys::open(&lock, flags, 0o644).err(), Some(libc::EEXIST));
        drop(held);
        sys::rename(&lock, &name("index"))?;
        // A directory is synced as sqlite and dpkg do.
        let directory = sys::open(&folder, libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
        report.is("fsync of a directory", sys::fsync(directory.0), Ok(0));
    }
    remove(&folder);
    Ok(())
}

const ENTRIES: usize = 1000;

/// Every entry is listed once, and removing while listing leaves nothing.
fn directory(report: &mut Report, subject: &str) -> sys::Result<()> {
    let folder = path(subject, "many");
    sys::mkdir(&folder, 0o755)?;
    for n in 0..ENTRIES {
        sys::mknod(&path(subject, &format!("many/entry-with-a-name-{n:06}")), libc::S_IFREG | 0o600, 0)?;
    }
    let mut names = std::collections::BTreeSet::new();
    let count = sys::list(&folder, |name| {
        names.insert(name.to_vec());
    })?;
    report.is("entries listed", (count, names.len()), (ENTRIES, ENTRIES));
    let mut failed = 0;
    sys::list(&folder, |name| {
        let gone = sys::unlink(&[&folder[..], b"/", name].concat());
        failed += u32::from(gone.is_err());
    })?;
    report.is("removals that failed while listing", failed, 0);
    report.is("the directory is empty then", sys::rmdir(&folder), Ok(0));
    Ok(())
}

fn links(report: &mut Report, subject: &str) -> sys::Result<()> {
    let folder = path(subject, "links");
    sys::mkdir(&folder, 0o755)?;
    let name = |n: usize| path(subject, &format!("links/{n}"));
    put(&name(0), b"one file")?;
    for n in 1..100 {
        sys::link(&name(0), &name(n))?;
    }
    let first = sys::stat(&name(0))?;
    report.is("a hundred links", first.st_nlink, 100);
    report.is("all are one file", sys::stat(&name(99))?.st_ino, first.st_ino);
    sys::chmod(&name(50), 0o600)?;
    report.is("a mode by another name", sys::stat(&name(7))?.st_mode & 0o777, 0o600);
    for n in 0..99 {
        sys::unlink(&name(n))?;
    }
    report.is("one link is left", sys::stat(&name(99))?.st_nlink, 1);
    report.is("with the data", get(&name(99))?, b"one file".to_vec());
    remove(&folder);
    Ok(())
}

/// `statfs` and `pathconf` tell the truth, and times keep their nanoseconds.
fn itself(report: &mut Report, subject: &str) -> sys::Result<()> {
    let before = sys::statvfs(subject.as_bytes())?;
    report.is("the longest name", before.f_namemax, 255);
    report.holds("room is told", before.f_blocks > 0 && before.f_bfree <= before.f_blocks && before.f_ffree > 0);
    let file = path(subject, "filler");
    let fd = sys::open(&file, libc::O_WRONLY | libc::O_CREAT, 0o644)?;
    let block = vec![1; 1 << 20];
    for n in 0..16 {
        sys::pwrite(&fd, &block, n << 20)?;
    }
    sys::fsync(fd.0)?;
    let used = |before: &libc::statvfs, after: &libc::statvfs| {
        (before.f_bfree as i64 - after.f_bfree as i64) * before.f_frsize as i64
    };
    let after = sys::statvfs(subject.as_bytes())?;
    report.holds("16 MiB less room", (15 << 20..20 << 20).contains(&used(&before, &after)));
    drop(fd);
    sys::unlink(&file)?;
    // A removed file's room comes back when the file system's journal has it, which is soon.
    let mut given_back = false;
    for _ in 0..50 {
        given_back |= used(&before, &sys::statvfs(subject.as_bytes())?).abs() < 4 << 20;
        if given_back {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    report.holds("the room comes back at once", given_back);
    put(&file, b"")?;
    // Not the second 0: a Linux client keeps no nanoseconds at the ends of NFSv3's times.
    for time in [(1, 1), (2, 999_999_999), (2_147_483_648, 5), (4_000_000_000, 123_456_789)] {
        sys::utimens(&file, Some([time, time]), true)?;
        let stat = sys::stat(&file)?;
        report.is("a time", ((stat.st_atime, stat.st_atime_nsec), (stat.st_mtime, stat.st_mtime_nsec)), (time, time));
    }
    sys::unlink(&file)?;
    Ok(())
}

/// Listed while names of it are removed.
fn lower_directory(report: &mut Report) -> sys::Result<()> {
    let many = b"/subject/many";
    let mut listed = std::collections::BTreeSet::new();
    let mut removed = 0;
    let count = sys::list(many, |name| {
        listed.insert(name.to_vec());
        // From now on the directory lies in both layers.
        if removed < 500 && sys::unlink(&[&many[..], b"/", name].concat()).is_ok() {
            removed += 1;
        }
    })?;
    report.is("60,000 entries, some removed while listing", (count, listed.len(), removed), (60_000, 60_000, 500));
    report.is("what is left", sys::list(many, |_| ()), Ok(59_500));
    Ok(())
}

/// Files of the lower layer: read, changed, removed.
fn lower(report: &mut Report) -> sys::Result<()> {
    for n in 1..=300 {
        let file = format!("/subject/lower-{n}").into_bytes();
        let expected = format!("lower {n}\n").into_bytes();
        report.is("a file of the image", get(&file)?, expected.clone());
        let number = sys::stat(&file)?.st_ino;
        let fd = sys::open(&file, libc::O_WRONLY | libc::O_APPEND, 0)?;
        sys::write(&fd, b"more")?;
        drop(fd);
        report.is("is the same file when it was written", sys::stat(&file)?.st_ino, number);
        report.is("with its data", get(&file)?, [&expected[..], b"more"].concat());
    }
    report.is("a hard link of the image", get(b"/subject/lower-hard")?, b"lower 2\nmore".to_vec());
    report.is("whose links count", sys::stat(b"/subject/lower-hard")?.st_nlink, 2);
    sys::chown(b"/subject/lower-3", 65534, 65534)?;
    report.is("set-user-id goes with a change of owner", sys::stat(b"/subject/lower-3")?.st_mode & 0o7777, 0o755);
    report.is("a lower directory is renamed", sys::rename(b"/subject/tree", b"/subject/moved"), Ok(0));
    report.is("with what is in it", get(b"/subject/moved/below/file")?, b"lower 1\n".to_vec());
    report.is("and the old name is gone", sys::stat(b"/subject/tree").err(), Some(libc::ENOENT));
    report.is("a new directory in its place", sys::mkdir(b"/subject/tree", 0o755), Ok(0));
    report.is("which is empty", sys::list(b"/subject/tree", |_| ()), Ok(0));
    remove(b"/subject/moved");
    report.is("a lower directory is removed", sys::stat(b"/subject/moved").err(), Some(libc::ENOENT));
    Ok(())
}
