//! The writer's tests; each goes both ways.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;

const WAYS: [Method; 2] = [Method::Uring, Method::Plain];

/// Pieces that fit no block and no page, and those that an image comes in.
const PIECES: [usize; 2] = [700_001, 1 << 20];

/// Writes `content` as the root, in pieces of this size.
fn write_root(folder: &Path, content: &[u8], piece_bytes: usize, method: Method) -> Result<(), ImportError> {
    let mut writer = Writer::start(&folder.join("root"), &folder.join("boot"), folder, 0, method)?;
    writer.begin(Part::Boot, 3)?;
    writer.append(b"fat")?;
    writer.begin(Part::Root, content.len() as u64)?;
    content.chunks(piece_bytes).try_for_each(|piece| writer.append(piece))?;
    writer.finish(content.len() as u64, 3)
}

/// One block of data for a root that is this file.
fn check_fails(file: impl Into<File>, expected: impl Fn(&ImportError) -> bool) {
    let file = file.into();
    for method in WAYS {
        let folder = tempfile::tempdir().unwrap();
        let target = |file| Target { file, path: "the root".into(), window: (0, 0), pushed: (0, 0) };
        let (root, boot) = (target(file.try_clone().unwrap()), target(tempfile::tempfile().unwrap()));
        let room = Room::new(folder.path());
        let thread = Thread { root, boot, room, recycle: mpsc::channel().0 };
        let (work, queue) = channel(2);
        let mut block = Block::new();
        block.fill(&[7; BLOCK_BYTES]);
        let queued = work.try_send(Work::Write { part: Part::Root, at: 0, block }).is_ok()
            && work.try_send(Work::Finish { root_bytes: 1, boot_bytes: 1 }).is_ok();
        assert!(queued);
        let error = thread.run(queue, method).unwrap_err();
        assert!(expected(&error), "{method:?}: {error:?}");
    }
}

fn is_write_error(error: &ImportError, errno: i32) -> bool {
    matches!(error, ImportError::Write { path, source } if path.ends_with("the root") && source.raw_os_error() == Some(errno))
}

#[test]
fn both_ways_write_the_same_file_with_the_same_holes() {
    assert!(ring(Method::Uring).is_some(), "this kernel or sandbox has no io_uring: run where it has");
    // Data and holes of all sizes, over more blocks than the pool has, and an
    // end in the middle of a page.
    let mut content = vec![0; 40 * BLOCK_BYTES + 12_345];
    let mut at = 0;
    while at < content.len() {
        let end = (at + 3 * at / 7 + 5000).min(content.len());
        content[at..end].fill(at as u8 | 1);
        at = end + at / 5 + 9000;
    }
    *content.last_mut().unwrap() = 9;
    let holes = content.chunks(PAGE_BYTES).filter(|page| page.iter().all(|&byte| byte == 0)).count();
    assert!(holes > 1000, "{holes}");
    for (method, piece_bytes) in WAYS.into_iter().flat_map(|method| PIECES.map(|piece_bytes| (method, piece_bytes))) {
        let folder = tempfile::tempdir().unwrap();
        write_root(folder.path(), &content, piece_bytes, method).unwrap();
        assert!(fs::read(folder.path().join("root")).unwrap() == content, "{method:?}");
        assert_eq!(fs::read(folder.path().join("boot")).unwrap(), b"fat");
        let allocated = fs::metadata(folder.path().join("root")).unwrap().blocks() * 512;
        // Half of the holes at least, whatever the file system makes of them.
        assert!(allocated < (content.len() - holes * PAGE_BYTES / 2) as u64, "{method:?}: {allocated} bytes");
    }
}

#[test]
fn a_full_stick_is_no_room_both_ways() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    check_fails(full, |error| matches!(error, ImportError::NoRoom { missing_mib: 1 }));
}

#[test]
fn a_write_that_fails_names_the_file_both_ways() {
    check_fails(File::open("/dev/zero").unwrap(), |error| is_write_error(error, libc::EBADF));
}

#[test]
fn a_short_write_is_gone_on_with_both_ways() {
    // A memory file that may not grow: a write that begins inside it is cut
    // at its end, and the next says why.
    let file = rustix::fs::memfd_create("root", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&file, 10 * PAGE_BYTES as u64).unwrap();
    rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::GROW).unwrap();
    let file = File::from(file);
    check_fails(file.try_clone().unwrap(), |error| {
        let mut start = [0; 10 * PAGE_BYTES];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut start, 0).unwrap();
        start == [7; 10 * PAGE_BYTES] && is_write_error(error, libc::EPERM)
    });
}

#[test]
fn a_sender_that_goes_away_ends_the_thread_both_ways() {
    for method in WAYS {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut writer = Writer::start(&path("root"), &path("boot"), folder.path(), 0, method).unwrap();
        writer.begin(Part::Root, 64 << 20).unwrap();
        writer.append(&vec![1; 20 * BLOCK_BYTES]).unwrap();
        drop(writer); // joins
        // Nothing holds the file any more: it is gone when it is removed.
        fs::remove_file(path("root")).unwrap();
    }
}

#[test]
fn a_sandbox_without_io_uring_gets_plain_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    // The filter holds for the thread that sets it and those that it starts.
    let tried = std::thread::spawn(move || {
        forbid_io_uring();
        assert!(ring(Method::Uring).is_none());
        write_root(&path, &[5; 3 * BLOCK_BYTES + 7], PIECES[0], Method::Uring)
    });
    tried.join().unwrap().unwrap();
    assert!(fs::read(folder.path().join("root")).unwrap() == [5; 3 * BLOCK_BYTES + 7]);
}

/// As container runtimes do: `io_uring_setup` answers EPERM (seccomp(2)).
fn forbid_io_uring() {
    let step = |code: u32, jt, jf, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut steps = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0), // the system call's number
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: both calls change this thread alone, and `program` outlives them.
    let set = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    assert_eq!(set, 0, "no seccomp filter: {}", io::Error::last_os_error());
}

#[test]
fn pages_of_zeros_become_holes() {
    let mut bytes = vec![0; 10 * PAGE_BYTES + 5];
    bytes[2 * PAGE_BYTES] = 1;
    bytes[3 * PAGE_BYTES + 7] = 1;
    bytes[10 * PAGE_BYTES + 4] = 1;
    assert_eq!(data_runs(&bytes), [(2 * PAGE_BYTES, 4 * PAGE_BYTES), (10 * PAGE_BYTES, 10 * PAGE_BYTES + 5)]);
    assert_eq!(data_runs(&[0; 100]), []);
    assert_eq!(data_runs(&[]), []);
}

#[test]
fn a_block_is_aligned_and_padded_with_zeros() {
    let mut block = Block::new();
    assert_eq!(block.fill(&vec![1; 2 * BLOCK_BYTES]), BLOCK_BYTES);
    assert_eq!(block.bytes().as_ptr() as usize % PAGE_BYTES, 0);
    block.filled = 0;
    block.fill(&[2; 5]);
    block.pad();
    assert_eq!((&block.bytes()[..5], &block.bytes()[5..]), (&[2; 5][..], &[0; PAGE_BYTES - 5][..]));
}
