//! The one place where the kernel's errors become `nfsstat3` (RFC 1813 §2.6). Pure.

use nfsserve::nfs::nfsstat3::{self, *};
use rustix::io::Errno;

/// What the client is told for `errno`.
///
/// What passes by itself (no memory, no descriptor, interrupted) is JUKEBOX: the
/// client waits and asks again, and no program on it ever sees it. What RFC 1813
/// has no word for gets the nearest that a Linux client turns into the same
/// errno again, or EIO.
pub fn status(errno: Errno) -> nfsstat3 {
    match errno {
        Errno::PERM => NFS3ERR_PERM,
        Errno::NOENT => NFS3ERR_NOENT,
        Errno::NXIO => NFS3ERR_NXIO,
        Errno::ACCESS | Errno::TXTBSY | Errno::BUSY => NFS3ERR_ACCES,
        Errno::EXIST => NFS3ERR_EXIST,
        Errno::XDEV => NFS3ERR_XDEV,
        Errno::NODEV => NFS3ERR_NODEV,
        Errno::NOTDIR => NFS3ERR_NOTDIR,
        Errno::ISDIR => NFS3ERR_ISDIR,
        Errno::INVAL | Errno::LOOP | Errno::ILSEQ => NFS3ERR_INVAL,
        Errno::FBIG | Errno::OVERFLOW => NFS3ERR_FBIG,
        Errno::NOSPC => NFS3ERR_NOSPC,
        Errno::ROFS => NFS3ERR_ROFS,
        Errno::MLINK => NFS3ERR_MLINK,
        Errno::NAMETOOLONG => NFS3ERR_NAMETOOLONG,
        Errno::NOTEMPTY => NFS3ERR_NOTEMPTY,
        Errno::DQUOT => NFS3ERR_DQUOT,
        Errno::STALE => NFS3ERR_STALE,
        Errno::OPNOTSUPP | Errno::NOSYS => NFS3ERR_NOTSUPP,
        Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::INTR | Errno::TIMEDOUT | Errno::NOLCK => {
            NFS3ERR_JUKEBOX
        }
        Errno::BADF | Errno::FAULT => NFS3ERR_SERVERFAULT,
        _ => NFS3ERR_IO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_errno_has_its_status() {
        let check = |errno, expected: nfsstat3| assert_eq!(status(errno) as u32, expected as u32, "{errno:?}");
        check(Errno::PERM, NFS3ERR_PERM);
        check(Errno::NOENT, NFS3ERR_NOENT);
        check(Errno::IO, NFS3ERR_IO);
        check(Errno::ACCESS, NFS3ERR_ACCES);
        check(Errno::EXIST, NFS3ERR_EXIST);
        check(Errno::XDEV, NFS3ERR_XDEV);
        check(Errno::NOTDIR, NFS3ERR_NOTDIR);
        check(Errno::ISDIR, NFS3ERR_ISDIR);
        check(Errno::INVAL, NFS3ERR_INVAL);
        check(Errno::FBIG, NFS3ERR_FBIG);
        check(Errno::NOSPC, NFS3ERR_NOSPC);
        check(Errno::ROFS, NFS3ERR_ROFS);
        check(Errno::MLINK, NFS3ERR_MLINK);
        check(Errno::NAMETOOLONG, NFS3ERR_NAMETOOLONG);
        check(Errno::NOTEMPTY, NFS3ERR_NOTEMPTY);
        check(Errno::DQUOT, NFS3ERR_DQUOT);
        check(Errno::STALE, NFS3ERR_STALE);
    }

    #[test]
    fn what_passes_by_itself_makes_the_client_wait() {
        for errno in [Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::AGAIN, Errno::INTR] {
            assert_eq!(status(errno) as u32, NFS3ERR_JUKEBOX as u32, "{errno:?}");
        }
    }
}
