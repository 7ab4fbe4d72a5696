//! `fattr3`, `wcc_attr` and `sattr3` (RFC 1813 §2.6). Pure.

use nfsserve::nfs::{
    fattr3, ftype3, nfsstat3, nfstime3, post_op_attr, pre_op_attr, sattr3, set_atime, set_gid3, set_mode3, set_mtime,
    set_size3, set_uid3, specdata3, wcc_attr, wcc_data,
};
use rustix::fs::{Stat, major, makedev, minor};

use super::xdr::{Cursor, Malformed};

const S_IFMT: u32 = 0o170_000;

/// The type in a `st_mode`; `None` for what RFC 1813 cannot name.
pub fn ftype(mode: u32) -> Option<ftype3> {
    Some(match mode & S_IFMT {
        0o100_000 => ftype3::NF3REG,
        0o040_000 => ftype3::NF3DIR,
        0o060_000 => ftype3::NF3BLK,
        0o020_000 => ftype3::NF3CHR,
        0o120_000 => ftype3::NF3LNK,
        0o140_000 => ftype3::NF3SOCK,
        0o010_000 => ftype3::NF3FIFO,
        _ => return None,
    })
}

/// Attributes as the client sees them. `fsid` is the export's id, never the
/// device's number, which changes with each mount.
#[allow(clippy::unnecessary_cast)] // the widths of `Stat`'s fields differ between architectures
pub fn fattr(stat: &Stat, fsid: u32) -> fattr3 {
    fattr3 {
        ftype: ftype(stat.st_mode).unwrap_or_default(),
        mode: stat.st_mode & 0o7777,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: stat.st_size as u64,
        used: stat.st_blocks as u64 * 512,
        rdev: specdata3 { specdata1: major(stat.st_rdev as u64), specdata2: minor(stat.st_rdev as u64) },
        fsid: fsid.into(),
        fileid: stat.st_ino as u64,
        atime: nfstime3 { seconds: stat.st_atime as u32, nseconds: stat.st_atime_nsec as u32 },
        mtime: mtime(stat),
        ctime: ctime(stat),
    }
}

#[allow(clippy::unnecessary_cast)]
fn mtime(stat: &Stat) -> nfstime3 {
    nfstime3 { seconds: stat.st_mtime as u32, nseconds: stat.st_mtime_nsec as u32 }
}

#[allow(clippy::unnecessary_cast)]
fn ctime(stat: &Stat) -> nfstime3 {
    nfstime3 { seconds: stat.st_ctime as u32, nseconds: stat.st_ctime_nsec as u32 }
}

pub fn post_op(stat: Option<&Stat>, fsid: u32) -> post_op_attr {
    stat.map_or(post_op_attr::Void, |stat| post_op_attr::attributes(fattr(stat, fsid)))
}

/// What changed, for the client's cache: attributes before and after one operation.
#[allow(clippy::unnecessary_cast)]
pub fn wcc(before: Option<&Stat>, after: Option<&Stat>, fsid: u32) -> wcc_data {
    let before = before.map_or(pre_op_attr::Void, |stat| {
        pre_op_attr::attributes(wcc_attr { size: stat.st_size as u64, mtime: mtime(stat), ctime: ctime(stat) })
    });
    wcc_data { before, after: post_op(after, fsid) }
}

/// Whether a guarded SETATTR may go on: the client's ctime is the file's.
pub fn guard_holds(guard: nfstime3, stat: &Stat) -> bool {
    let now = ctime(stat);
    (guard.seconds, guard.nseconds) == (now.seconds, now.nseconds)
}

/// Reads an `sattr3`.
pub fn sattr(args: &mut Cursor<'_>) -> Result<sattr3, Malformed> {
    Ok(sattr3 {
        mode: if args.bool()? { set_mode3::mode(args.u32()? & 0o7777) } else { set_mode3::Void },
        uid: if args.bool()? { set_uid3::uid(args.u32()?) } else { set_uid3::Void },
        gid: if args.bool()? { set_gid3::gid(args.u32()?) } else { set_gid3::Void },
        size: if args.bool()? { set_size3::size(args.u64()?) } else { set_size3::Void },
        atime: match args.u32()? {
            0 => set_atime::DONT_CHANGE,
            1 => set_atime::SET_TO_SERVER_TIME,
            2 => set_atime::SET_TO_CLIENT_TIME(time(args)?),
            _ => return Err(Malformed),
        },
        mtime: match args.u32()? {
            0 => set_mtime::DONT_CHANGE,
            1 => set_mtime::SET_TO_SERVER_TIME,
            2 => set_mtime::SET_TO_CLIENT_TIME(time(args)?),
            _ => return Err(Malformed),
        },
    })
}

pub fn time(args: &mut Cursor<'_>) -> Result<nfstime3, Malformed> {
    Ok(nfstime3 { seconds: args.u32()?, nseconds: args.u32()? })
}

/// Whether all of `new` can be set, as far as the values alone tell: asked before anything is made or set, so that a call
/// which is refused for one of them has done nothing.
pub fn settable(new: &sattr3) -> Result<(), nfsstat3> {
    // The id -1 is none: to the system call it would mean "leave it".
    let no_owner = matches!(new.uid, set_uid3::uid(u32::MAX)) || matches!(new.gid, set_gid3::gid(u32::MAX));
    // More than a second's worth of nanoseconds would be one of the kernel's special values.
    let no_time = |time: nfstime3| time.nseconds > 999_999_999;
    let no_atime = matches!(new.atime, set_atime::SET_TO_CLIENT_TIME(time) if no_time(time));
    let no_mtime = matches!(new.mtime, set_mtime::SET_TO_CLIENT_TIME(time) if no_time(time));
    if no_owner || no_atime || no_mtime {
        return Err(nfsstat3::NFS3ERR_INVAL);
    }
    match new.size {
        set_size3::size(size) if i64::try_from(size).is_err() => Err(nfsstat3::NFS3ERR_FBIG),
        _ => Ok(()),
    }
}

/// The kernel's device number of an MKNOD; `None` for what its 12 and 20 bits cannot hold, of which it would
/// make another device's.
pub fn device(args: &mut Cursor<'_>) -> Result<Option<u64>, Malformed> {
    let (major, minor) = (args.u32()?, args.u32()?);
    Ok((major < 1 << 12 && minor < 1 << 20).then(|| makedev(major, minor)))
}

/// The verifier of an EXCLUSIVE CREATE as the two times that keep it on the
/// stick: seconds of (atime, mtime), 31 bits each, as every Linux server does,
/// so that a repeat of the call after a restart is recognised by the file itself.
pub fn verifier_times(verifier: [u8; 8]) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = verifier;
    (u32::from_be_bytes([e, f, g, h]) & 0x7fff_ffff, u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff)
}

/// Whether `stat` is the file that an EXCLUSIVE CREATE with this verifier made.
pub fn made_by_verifier(stat: &Stat, verifier: [u8; 8]) -> bool {
    let (atime, mtime) = verifier_times(verifier);
    i64::from(atime) == stat.st_atime
        && i64::from(mtime) == stat.st_mtime
        && stat.st_size == 0
        && matches!(ftype(stat.st_mode), Some(ftype3::NF3REG))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nfs::xdr::Encoder;

    fn stat() -> Stat {
        // SAFETY: `Stat` is a plain C struct of integers, for which all zeros is a value.
        unsafe { std::mem::zeroed() }
    }

    #[test]
    fn each_kind_of_file_has_its_type() {
        let check = |mode, expected: Option<ftype3>| {
            assert_eq!(ftype(mode).map(|ftype| ftype as u32), expected.map(|ftype| ftype as u32), "{mode:o}");
        };
        check(0o100_644, Some(ftype3::NF3REG));
        check(0o041_777, Some(ftype3::NF3DIR));
        check(0o060_660, Some(ftype3::NF3BLK));
        check(0o020_666, Some(ftype3::NF3CHR));
        check(0o120_777, Some(ftype3::NF3LNK));
        check(0o140_755, Some(ftype3::NF3SOCK));
        check(0o010_644, Some(ftype3::NF3FIFO));
        check(0, None);
    }

    #[test]
    fn attributes_tell_what_stat_tells() {
        let mut stat = stat();
        stat.st_mode = 0o104_755;
        stat.st_nlink = 3;
        stat.st_size = 5 << 30;
        stat.st_blocks = 8;
        stat.st_rdev = makedev(8, 300);
        stat.st_ino = 1 << 40;
        stat.st_mtime = 3_000_000_000;
        stat.st_mtime_nsec = 999_999_999;
        let fattr = fattr(&stat, 6);
        assert_eq!((fattr.mode, fattr.nlink, fattr.size, fattr.used), (0o4755, 3, 5 << 30, 4096));
        assert_eq!((fattr.rdev.specdata1, fattr.rdev.specdata2), (8, 300));
        assert_eq!((fattr.fsid, fattr.fileid), (6, 1 << 40));
        assert_eq!((fattr.mtime.seconds, fattr.mtime.nseconds), (3_000_000_000, 999_999_999));
    }

    #[test]
    fn an_exclusive_create_is_recognised_by_its_times() {
        let verifier = [0xff, 1, 2, 3, 0xff, 5, 6, 7];
        let (atime, mtime) = verifier_times(verifier);
        let mut stat = stat();
        stat.st_mode = 0o100_600;
        stat.st_atime = atime.into();
        stat.st_mtime = mtime.into();
        assert!(made_by_verifier(&stat, verifier));
        assert!(!made_by_verifier(&stat, [0; 8]));
        stat.st_size = 1;
        assert!(!made_by_verifier(&stat, verifier));
    }

    #[test]
    fn what_cannot_be_set_is_refused_as_a_whole() {
        let check = |new: sattr3, expected: Option<nfsstat3>| {
            assert_eq!(
                settable(&new).err().map(|status| status as u32),
                expected.map(|status| status as u32),
                "{new:?}"
            );
        };
        let time = |nseconds| nfstime3 { seconds: u32::MAX, nseconds };
        let (bad, too_big) = (Some(nfsstat3::NFS3ERR_INVAL), Some(nfsstat3::NFS3ERR_FBIG));
        check(sattr3::default(), None);
        check(sattr3 { uid: set_uid3::uid(u32::MAX - 1), ..sattr3::default() }, None);
        check(sattr3 { uid: set_uid3::uid(u32::MAX), ..sattr3::default() }, bad);
        check(sattr3 { gid: set_gid3::gid(u32::MAX), ..sattr3::default() }, bad);
        check(sattr3 { atime: set_atime::SET_TO_CLIENT_TIME(time(999_999_999)), ..sattr3::default() }, None);
        for nseconds in [1_000_000_000, 0x3fff_fffe, 0x3fff_ffff, u32::MAX] {
            check(sattr3 { atime: set_atime::SET_TO_CLIENT_TIME(time(nseconds)), ..sattr3::default() }, bad);
            check(sattr3 { mtime: set_mtime::SET_TO_CLIENT_TIME(time(nseconds)), ..sattr3::default() }, bad);
        }
        check(sattr3 { size: set_size3::size(i64::MAX as u64), ..sattr3::default() }, None);
        check(sattr3 { size: set_size3::size(1 << 63), ..sattr3::default() }, too_big);
    }

    #[test]
    fn a_device_that_the_kernel_cannot_name_is_none() {
        let check = |major: u32, minor: u32, expected: bool| {
            let bytes = [major.to_be_bytes(), minor.to_be_bytes()].concat();
            assert_eq!(device(&mut Cursor::new(&bytes)).unwrap().is_some(), expected, "{major}:{minor}");
        };
        check(0, 0, true);
        check(4095, 1_048_575, true);
        check(4096, 3, false);
        check(1, 1 << 20, false);
        check(u32::MAX, u32::MAX, false);
    }

    #[test]
    fn a_guard_compares_seconds_and_nanoseconds() {
        let mut stat = stat();
        stat.st_ctime = 100;
        stat.st_ctime_nsec = 5;
        assert!(guard_holds(nfstime3 { seconds: 100, nseconds: 5 }, &stat));
        assert!(!guard_holds(nfstime3 { seconds: 100, nseconds: 6 }, &stat));
    }

    #[test]
    fn sattr_reads_all_and_refuses_an_unknown_time_how() {
        let mut encoder = Encoder::default();
        for item in [1, 0o107_755, 1, 7, 0, 1, 0, 9, 1, 2, 11, 12] {
            encoder.u32(item);
        }
        let sattr = sattr(&mut Cursor::new(encoder.bytes())).unwrap();
        assert!(matches!(sattr.mode, set_mode3::mode(0o7755)));
        assert!(matches!(sattr.uid, set_uid3::uid(7)));
        assert!(matches!(sattr.gid, set_gid3::Void));
        assert!(matches!(sattr.size, set_size3::size(9)));
        assert!(matches!(sattr.atime, set_atime::SET_TO_SERVER_TIME));
        assert!(matches!(sattr.mtime, set_mtime::SET_TO_CLIENT_TIME(nfstime3 { seconds: 11, nseconds: 12 })));
        let mut unknown = Encoder::default();
        [0, 0, 0, 0, 3, 0].into_iter().for_each(|item| unknown.u32(item));
        assert!(super::sattr(&mut Cursor::new(unknown.bytes())).is_err());
    }
}
