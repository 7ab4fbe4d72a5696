//! GETATTR, SETATTR and ACCESS (RFC 1813 §3.3.1, §3.3.2, §3.3.4).

use std::os::fd::AsRawFd;

use nfsserve::nfs::nfsstat3::{self, *};
use nfsserve::nfs::{nfstime3, sattr3, set_atime, set_gid3, set_mode3, set_mtime, set_size3, set_uid3};
use rustix::fs::{AtFlags, Mode, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::{Arguments, Context, Object, fh};
use crate::nfs::access::{self, Rwx};
use crate::nfs::attributes;
use crate::nfs::charge;
use crate::nfs::intent::Intent;
use crate::nfs::xdr::{Encoder, Malformed};

pub fn getattr(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let fh = fh(args)?;
    match context.object(fh).and_then(|object| Ok((context.stat(&object)?, object.export.id))) {
        Ok((stat, fsid)) => {
            reply.value(&NFS3_OK);
            reply.value(&attributes::fattr(&stat, fsid));
        }
        Err(status) => reply.value(&status),
    }
    Ok(())
}

pub fn access(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let (fh, asked) = (fh(args)?, args.u32()?);
    let answer = |object: &Object| {
        let stat = context.stat(object)?;
        let directory = object.handle.is_directory();
        let allowed = context.allowed(object, &stat, access::questions(asked, directory))?;
        Ok((stat, access::granted(asked, directory, allowed)))
    };
    match context.object(fh).and_then(|object| Ok((answer(&object)?, object))) {
        Ok(((stat, granted), object)) => {
            reply.value(&NFS3_OK);
            reply.value(&object.post_op(Some(&stat)));
            reply.u32(granted);
        }
        Err(status) => {
            reply.value(&status);
            reply.bool(false);
        }
    }
    Ok(())
}

pub fn setattr(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let (fh, new) = (fh(args)?, attributes::sattr(args)?);
    let guard = if args.bool()? { Some(attributes::time(args)?) } else { None };
    let object = match context.object(fh) {
        Ok(object) => object,
        Err(status) => {
            reply.value(&status);
            reply.value(&nfsserve::nfs::wcc_data::default());
            return Ok(());
        }
    };
    let (result, wcc) = {
        let _order = object.export.lock(object.handle);
        let before = context.stat(&object);
        let result = before.and_then(|before| guarded(context, &object, &before, &new, guard));
        (result, object.wcc(before.ok().as_ref()))
    };
    let result = result.and_then(|()| durable(context, &object));
    reply.value(&result.err().unwrap_or(NFS3_OK));
    reply.value(&wcc);
    Ok(())
}

fn guarded(
    context: &Context<'_>,
    object: &Object,
    before: &Stat,
    new: &sattr3,
    guard: Option<nfstime3>,
) -> Result<(), nfsstat3> {
    context.writable(object)?;
    attributes::settable(new)?;
    if let Some(guard) = guard.filter(|_| !context.attempt.done) {
        if !attributes::guard_holds(guard, before) {
            return Err(NFS3ERR_NOT_SYNC);
        }
        context.attempt.begin(|| Some(Intent::Guarded));
    }
    apply(context, object, before, new)
}

/// Sets all that `new` names (which is `settable`), in the order that lets each step still be
/// allowed: the size first, while the mode is the old one; the mode after the
/// owner, since a change of owner takes set-id bits away; times last, since the
/// others change them.
pub(super) fn apply(context: &Context<'_>, object: &Object, stat: &Stat, new: &sattr3) -> Result<(), nfsstat3> {
    // Whatever is set on a file of the image copies it up.
    let copy = charge::change(&object.export, &object.handle, &object.file, stat)?;
    let result = set(context, object, stat, new);
    copy.settle(&object.file);
    result
}

fn set(context: &Context<'_>, object: &Object, stat: &Stat, new: &sattr3) -> Result<(), nfsstat3> {
    let fail = |errno| context.fail(object, errno);
    if let set_size3::size(size) = new.size {
        truncate(context, object, stat, size)?;
    }
    let caller = context.assume()?;
    let fd = object.file.fd();
    let uid = if let set_uid3::uid(uid) = new.uid { Some(uid) } else { None };
    let gid = if let set_gid3::gid(gid) = new.gid { Some(gid) } else { None };
    if uid.is_some() || gid.is_some() {
        rustix::fs::chownat(fd, "", uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::EMPTY_PATH)
            .map_err(fail)?;
    }
    if let set_mode3::mode(mode) = new.mode {
        chmod(object, mode).map_err(fail)?;
    }
    let times = Timestamps {
        last_access: match new.atime {
            set_atime::DONT_CHANGE => nanoseconds(UTIME_OMIT),
            set_atime::SET_TO_SERVER_TIME => nanoseconds(UTIME_NOW),
            set_atime::SET_TO_CLIENT_TIME(time) => timespec(time),
        },
        last_modification: match new.mtime {
            set_mtime::DONT_CHANGE => nanoseconds(UTIME_OMIT),
            set_mtime::SET_TO_SERVER_TIME => nanoseconds(UTIME_NOW),
            set_mtime::SET_TO_CLIENT_TIME(time) => timespec(time),
        },
    };
    // One time alone as the server's is what a client sends to truncate an empty file. The
    // system call takes that for the owner's right only; whoever may write may do it.
    let one_is_now = matches!(
        (new.atime, new.mtime),
        (set_atime::SET_TO_SERVER_TIME, set_mtime::DONT_CHANGE)
            | (set_atime::DONT_CHANGE, set_mtime::SET_TO_SERVER_TIME)
    );
    if one_is_now {
        drop(caller);
        let write = Rwx { write: true, ..Rwx::default() };
        let truncated = matches!(new.size, set_size3::size(_));
        if !truncated && may(context, object, stat, write).is_err() {
            return Err(NFS3ERR_PERM);
        }
        rustix::fs::utimensat(fd, "", &times, AtFlags::EMPTY_PATH).map_err(fail)?;
    } else if !matches!((new.atime, new.mtime), (set_atime::DONT_CHANGE, set_mtime::DONT_CHANGE)) {
        rustix::fs::utimensat(fd, "", &times, AtFlags::EMPTY_PATH).map_err(fail)?;
    }
    Ok(())
}

fn nanoseconds(tv_nsec: i64) -> Timespec {
    #[allow(clippy::useless_conversion)] // 32 bits wide on some architectures
    Timespec { tv_sec: 0, tv_nsec: tv_nsec as _ }
}

fn timespec(time: nfstime3) -> Timespec {
    Timespec { tv_sec: time.seconds.into(), tv_nsec: time.nseconds as _ }
}

/// Truncates or extends. The owner always may (it may have been opened before
/// its mode was changed, which only the client knows); others by the mode.
fn truncate(context: &Context<'_>, object: &Object, stat: &Stat, size: u64) -> Result<(), nfsstat3> {
    if object.handle.is_directory() {
        return Err(NFS3ERR_ISDIR);
    }
    if !object.handle.is_regular() {
        return Err(NFS3ERR_INVAL);
    }
    if i64::try_from(size).is_err() {
        return Err(NFS3ERR_FBIG);
    }
    may(context, object, stat, Rwx { write: true, ..Rwx::default() })?;
    let writer =
        object.file.writer(&object.export.root, &object.handle).map_err(|errno| context.fail(object, errno))?;
    // As the caller, so that set-id bits go as they would locally.
    let _caller = context.assume()?;
    rustix::fs::ftruncate(writer, size).map_err(|errno| context.fail(object, errno))
}

/// NFS3ERR_ACCES unless the caller owns the file or may do `asked`.
pub(super) fn may(context: &Context<'_>, object: &Object, stat: &Stat, asked: Rwx) -> Result<(), nfsstat3> {
    if asked.write {
        context.writable(object)?;
    }
    if context.caller.uid == 0 || context.caller.uid == stat.st_uid {
        return Ok(());
    }
    let allowed = context.allowed(object, stat, asked)?;
    let refused =
        (asked.read && !allowed.read) || (asked.write && !allowed.write) || (asked.execute && !allowed.execute);
    if refused { Err(NFS3ERR_ACCES) } else { Ok(()) }
}

/// `fchmodat2` needs Linux 6.6; the path of the descriptor works on all.
fn chmod(object: &Object, mode: u32) -> Result<(), Errno> {
    if object.handle.is_symlink() {
        // A link has no mode of its own; the Linux server passes over it as well.
        return Ok(());
    }
    let path = format!("/proc/thread-self/fd/{}", object.file.fd().as_raw_fd());
    rustix::fs::chmod(path, Mode::from_raw_mode(mode & 0o7777))
}

/// What cannot be opened for fsync (devices, links, pipes) goes to the stick with the journal's running transaction, all of
/// which the fsync of any directory commits: the root's, since it lies in the upper layer always. (`syncfs` would wait for
/// all data of all clients: 130 ms and more on a busy machine, against 0.4 ms; 2026-11-22.)
pub(super) fn durable(context: &Context<'_>, object: &Object) -> Result<(), nfsstat3> {
    if object.handle.is_regular() || object.handle.is_directory() {
        return context.sync(object);
    }
    let export = &object.export;
    export.synced(rustix::fs::fsync(&export.root)).map_err(|errno| context.fail(object, errno))
}
