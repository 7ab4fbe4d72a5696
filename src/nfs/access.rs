//! What ACCESS asks and what READ, WRITE and COMMIT need, as questions to the
//! kernel (RFC 1813 §3.3.4, §4.4). Pure: the kernel is asked in `object.rs`,
//! so that mode bits, groups and ACLs count exactly as they do locally.

use nfsserve::nfs::ftype3;

pub const ACCESS3_READ: u32 = 0x01;
pub const ACCESS3_LOOKUP: u32 = 0x02;
pub const ACCESS3_MODIFY: u32 = 0x04;
pub const ACCESS3_EXTEND: u32 = 0x08;
pub const ACCESS3_DELETE: u32 = 0x10;
pub const ACCESS3_EXECUTE: u32 = 0x20;

/// Read, write, execute: a question to `access(2)`, or its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rwx {
    pub read: bool,
    pub write: bool,
    pub execute: bool,
}

/// One bit of ACCESS, and what of the file it takes.
fn needed(bit: u32, directory: bool) -> Option<Rwx> {
    let rwx = |read, write, execute| Some(Rwx { read, write, execute });
    match (bit, directory) {
        (ACCESS3_READ, _) => rwx(true, false, false),
        (ACCESS3_LOOKUP, true) => rwx(false, false, true),
        // Entries are made and removed by who may both write and search.
        (ACCESS3_MODIFY | ACCESS3_EXTEND | ACCESS3_DELETE, true) => rwx(false, true, true),
        (ACCESS3_MODIFY | ACCESS3_EXTEND, false) => rwx(false, true, false),
        (ACCESS3_EXECUTE, false) => rwx(false, false, true),
        // LOOKUP and DELETE say nothing of a file, EXECUTE nothing of a directory.
        _ => None,
    }
}

fn bits() -> impl Iterator<Item = u32> {
    [ACCESS3_READ, ACCESS3_LOOKUP, ACCESS3_MODIFY, ACCESS3_EXTEND, ACCESS3_DELETE, ACCESS3_EXECUTE].into_iter()
}

/// What must be known of the file to answer `asked`.
pub fn questions(asked: u32, directory: bool) -> Rwx {
    let mut all = Rwx::default();
    for rwx in bits().filter(|bit| asked & bit != 0).filter_map(|bit| needed(bit, directory)) {
        all.read |= rwx.read;
        all.write |= rwx.write;
        all.execute |= rwx.execute;
    }
    all
}

/// The bits of `asked` that `allowed` grants.
pub fn granted(asked: u32, directory: bool, allowed: Rwx) -> u32 {
    let grants =
        |rwx: Rwx| (!rwx.read || allowed.read) && (!rwx.write || allowed.write) && (!rwx.execute || allowed.execute);
    bits().filter(|bit| asked & bit != 0 && needed(*bit, directory).is_some_and(grants)).sum()
}

/// What uid 0 may do, which needs no question: all, but run what nobody may run.
pub fn root(ftype: ftype3, mode: u32) -> Rwx {
    Rwx { read: true, write: true, execute: matches!(ftype, ftype3::NF3DIR) || mode & 0o111 != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u32 = 0x3f;

    fn rwx(text: &str) -> Rwx {
        Rwx { read: text.contains('r'), write: text.contains('w'), execute: text.contains('x') }
    }

    fn check(asked: u32, directory: bool, allowed: &str, expected: u32) {
        assert_eq!(granted(asked, directory, rwx(allowed)), expected, "{asked:#x} {directory} {allowed}");
    }

    #[test]
    fn a_directory_that_may_be_written_but_not_searched_gives_no_entry_rights() {
        check(ALL, true, "rwx", ACCESS3_READ | ACCESS3_LOOKUP | ACCESS3_MODIFY | ACCESS3_EXTEND | ACCESS3_DELETE);
        check(ALL, true, "rw", ACCESS3_READ);
        check(ALL, true, "x", ACCESS3_LOOKUP);
    }

    #[test]
    fn a_file_gives_no_lookup_and_no_delete() {
        check(ALL, false, "rwx", ACCESS3_READ | ACCESS3_MODIFY | ACCESS3_EXTEND | ACCESS3_EXECUTE);
        check(ALL, false, "r", ACCESS3_READ);
    }

    #[test]
    fn only_what_was_asked_is_answered() {
        check(ACCESS3_READ, false, "rwx", ACCESS3_READ);
        check(0, false, "rwx", 0);
        check(!0, false, "", 0);
        assert_eq!(questions(ACCESS3_EXTEND, false), rwx("w"));
        assert_eq!(questions(ACCESS3_EXECUTE, true), rwx(""));
    }

    #[test]
    fn root_runs_only_what_somebody_may_run() {
        assert_eq!(root(ftype3::NF3REG, 0o644), rwx("rw"));
        assert_eq!(root(ftype3::NF3REG, 0o001), rwx("rwx"));
        assert_eq!(root(ftype3::NF3DIR, 0), rwx("rwx"));
    }
}
