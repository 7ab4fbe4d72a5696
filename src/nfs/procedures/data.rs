//! READ, WRITE and COMMIT (RFC 1813 §3.3.6, §3.3.7, §3.3.21).
//!
//! By plain `pread`, `splice` and `pwrite` on the thread that took the call off its
//! connection. Overlayfs files have no non-blocking reads (`RWF_NOWAIT` is
//! EOPNOTSUPP, measured 2026-11-22 on Linux 6.18), so io_uring would hand every
//! one of them to a kernel thread and back: more work, not less.

use std::os::fd::BorrowedFd;

use nfsserve::nfs::nfsstat3::{self, *};
use rustix::fs::Stat;
use rustix::io::Errno;

use super::attribute::may;
use super::{Arguments, Context, MAX_IO, Object, fh};
use crate::nfs::access::Rwx;
use crate::nfs::charge;
use crate::nfs::pipe;
use crate::nfs::xdr::{Encoder, Malformed, padding};

pub const UNSTABLE: u32 = 0;
const DATA_SYNC: u32 = 1;
const FILE_SYNC: u32 = 2;

pub fn read(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let (fh, offset, count) = (fh(args)?, args.u64()?, args.u32()?);
    let object = match context.object(fh) {
        Ok(object) => object,
        Err(status) => {
            reply.value(&status);
            reply.bool(false);
            return Ok(());
        }
    };
    let start = reply.len();
    match read_into(context, &object, offset, count, reply) {
        Ok(bytes) => context.peer.read(bytes),
        Err(status) => {
            reply.truncate(start);
            reply.value(&status);
            reply.value(&object.post_op_now());
        }
    }
    Ok(())
}

/// READ3resok, and how many bytes it carries.
fn read_into(
    context: &Context<'_>,
    object: &Object,
    offset: u64,
    count: u32,
    reply: &mut Encoder,
) -> Result<usize, nfsstat3> {
    regular(object)?;
    if context.caller.uid != 0 {
        readable(context, object, &context.stat(object)?)?;
    }
    let reader = context.reader(object)?;
    let wanted = (count as usize).min(MAX_IO);
    let outlet = context.outlet.filter(|_| wanted >= pipe::MIN_BYTES);
    if let Some((outlet, mut pipe)) = outlet.and_then(|outlet| Some((outlet, outlet.pipe()?))) {
        match pipe.fill(reader, offset, wanted) {
            Ok(read) => {
                let after = context.stat(object)?;
                head(object, &after, offset, read, reply);
                reply.u32(read as u32);
                if !pipe.pad(padding(read)) {
                    return Err(NFS3ERR_SERVERFAULT);
                }
                outlet.put(pipe);
                return Ok(read);
            }
            // No file system of ours, but some cannot do that.
            Err(Errno::INVAL) => {}
            Err(errno) => return Err(context.fail(object, errno)),
        }
    }
    copied(context, object, reader, offset, wanted, reply)
}

/// The same with the data read straight into it.
fn copied(
    context: &Context<'_>,
    object: &Object,
    reader: BorrowedFd<'_>,
    offset: u64,
    wanted: usize,
    reply: &mut Encoder,
) -> Result<usize, nfsstat3> {
    // Attributes, count and eof stand before the data: they are written once the data is known.
    const FATTR3: usize = 84;
    const HEAD: usize = 4 + 4 + FATTR3 + 4 + 4;
    let start = reply.len();
    reply.fixed(&[0; HEAD]);
    let fill = |place: &mut [std::mem::MaybeUninit<u8>]| -> Result<usize, Errno> {
        let mut filled = 0;
        while filled < place.len() {
            let Some(at) = offset.checked_add(filled as u64) else { break };
            // A read that would end past 2^63 is refused by the kernel, whatever is there.
            let Some(room) = (i64::MAX as u64).checked_sub(at) else { break };
            let end = place.len().min(filled.saturating_add(usize::try_from(room).unwrap_or(usize::MAX)));
            match rustix::io::pread(reader, &mut place[filled..end], at) {
                Ok(([], _)) => break,
                Ok((read, _)) => filled += read.len(),
                Err(Errno::INTR) => {}
                // What came before the error is given; the next READ meets the error itself.
                Err(_) if filled > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(filled)
    };
    let read = reply.opaque_from(wanted, fill).map_err(|errno| context.fail(object, errno))?;
    let after = context.stat(object)?;
    let mut words = Encoder::with_capacity(HEAD);
    head(object, &after, offset, read, &mut words);
    for (word, bytes) in words.bytes().chunks_exact(4).enumerate() {
        let item = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        reply.patch_u32(start + 4 * word, item);
    }
    Ok(read)
}

/// What stands before the data.
fn head(object: &Object, after: &Stat, offset: u64, read: usize, reply: &mut Encoder) {
    reply.value(&NFS3_OK);
    reply.value(&object.post_op(Some(after)));
    reply.u32(read as u32);
    reply.bool(offset.saturating_add(read as u64) >= after.st_size as u64);
}

fn regular(object: &Object) -> Result<(), nfsstat3> {
    if object.handle.is_directory() {
        return Err(NFS3ERR_ISDIR);
    }
    if object.handle.is_regular() { Ok(()) } else { Err(NFS3ERR_INVAL) }
}

/// RFC 1813 §4.4: who may run a file may read it, since a client must read it to run it.
fn readable(context: &Context<'_>, object: &Object, stat: &Stat) -> Result<(), nfsstat3> {
    if context.caller.uid == stat.st_uid {
        return Ok(());
    }
    let allowed = context.allowed(object, stat, Rwx { read: true, write: false, execute: true })?;
    if allowed.read || allowed.execute { Ok(()) } else { Err(NFS3ERR_ACCES) }
}

pub fn write(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let (fh, offset, count, stable) = (fh(args)?, args.u64()?, args.u32()?, args.u32()?);
    let data = args.opaque(usize::MAX)?;
    if stable > FILE_SYNC || (count as usize) > data.len() {
        return Err(Malformed);
    }
    let object = match context.object(fh) {
        Ok(object) => object,
        Err(status) => {
            reply.value(&status);
            reply.value(&nfsserve::nfs::wcc_data::default());
            return Ok(());
        }
    };
    // Taken before the data is: if the tree is lost in between, the client sees another one.
    let verifier = context.write_verifier(&object);
    let data = &data[..(count as usize).min(MAX_IO)];
    let (result, wcc) = {
        let _order = object.export.lock(object.handle);
        let before = context.stat(&object);
        let result = before.and_then(|before| write_at(context, &object, &before, offset, data));
        (result, object.wcc(before.ok().as_ref()))
    };
    let result = result.and_then(|written| {
        stabilise(context, &object, stable)?;
        Ok(written)
    });
    match result {
        Ok(written) => {
            context.peer.written(written);
            reply.value(&NFS3_OK);
            reply.value(&wcc);
            reply.u32(written as u32);
            reply.u32(stable);
            reply.fixed(&verifier);
        }
        Err(status) => {
            reply.value(&status);
            reply.value(&wcc);
        }
    }
    Ok(())
}

fn write_at(
    context: &Context<'_>,
    object: &Object,
    before: &Stat,
    offset: u64,
    data: &[u8],
) -> Result<usize, nfsstat3> {
    regular(object)?;
    may(context, object, before, Rwx { write: true, ..Rwx::default() })?;
    if offset.checked_add(data.len() as u64).is_none_or(|end| i64::try_from(end).is_err()) {
        return Err(NFS3ERR_FBIG);
    }
    let copy = charge::copy_up(&object.export, &object.handle, &object.file, before)?;
    let writer =
        object.file.writer(&object.export.root, &object.handle).map_err(|errno| context.fail(object, errno))?;
    copy.settle(&object.file);
    let room = charge::write(&object.export, writer, offset, data.len())?;
    let data = &data[..room.bytes];
    // Only for set-id bits, which the kernel takes away for all but root, is it of account who writes.
    let _caller = if before.st_mode & 0o6000 != 0 { Some(context.assume()?) } else { None };
    object.file.leaves_data();
    let mut written = 0;
    while written < data.len() {
        match rustix::io::pwrite(writer, &data[written..], offset + written as u64) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            // A short count tells the client where to go on, and there it meets the error.
            Err(_) if written > 0 => break,
            Err(errno) => return Err(context.fail(object, errno)),
        }
    }
    room.settle(writer);
    Ok(written)
}

fn stabilise(context: &Context<'_>, object: &Object, stable: u32) -> Result<(), nfsstat3> {
    let writer = || object.file.writer(&object.export.root, &object.handle);
    let result = match stable {
        UNSTABLE => Ok(()),
        DATA_SYNC => object.export.synced(writer().and_then(rustix::fs::fdatasync)),
        _ => object.export.synced(writer().and_then(|fd| object.file.sync(fd))),
    };
    // The kernel tells a lost write once: the next fsync would succeed. With
    // another verifier the client sends again all that was not committed.
    result.map_err(|errno| context.exports.failed(&object.export, errno, true))
}

pub fn commit(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let (fh, _offset, _count) = (fh(args)?, args.u64()?, args.u32()?);
    let object = match context.object(fh) {
        Ok(object) => object,
        Err(status) => {
            reply.value(&status);
            reply.value(&nfsserve::nfs::wcc_data::default());
            return Ok(());
        }
    };
    // Taken after the data is safe: a loss in between must show.
    let before = context.stat(&object);
    let result = before.and_then(|before| {
        regular(&object)?;
        may(context, &object, &before, Rwx { write: true, ..Rwx::default() })?;
        let file = object.file.syncer(&object.export.root, &object.handle);
        let file = file.map_err(|errno| context.fail(&object, errno))?;
        let synced = object.export.synced(object.file.sync(file));
        synced.map_err(|errno| context.exports.failed(&object.export, errno, true))
    });
    reply.value(&result.err().unwrap_or(NFS3_OK));
    reply.value(&object.wcc(before.ok().as_ref()));
    if result.is_ok() {
        reply.fixed(&context.write_verifier(&object));
    }
    Ok(())
}
