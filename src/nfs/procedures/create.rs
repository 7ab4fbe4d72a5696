//! CREATE, MKDIR, SYMLINK and MKNOD (RFC 1813 §3.3.8 to §3.3.11).

use nfsserve::nfs::nfsstat3::{self, *};
use nfsserve::nfs::{nfstime3, sattr3, set_atime, set_gid3, set_mode3, set_mtime, set_size3, set_uid3};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::attribute::{apply, durable};
use super::{Arguments, Context, MAX_LINK_TEXT, Object, component, fh, filename, is_dot};
use crate::nfs::attributes;
use crate::nfs::charge;
use crate::nfs::handle::Handle;
use crate::nfs::xdr::{Encoder, Malformed};

/// `createhow3`.
#[derive(Clone, Copy)]
enum How {
    Unchecked,
    Guarded,
    Exclusive([u8; 8]),
}

pub fn create(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let (fh, name) = (fh(args)?, filename(args)?);
    let (how, new) = match args.u32()? {
        0 => (How::Unchecked, attributes::sattr(args)?),
        1 => (How::Guarded, attributes::sattr(args)?),
        2 => (How::Exclusive(args.verifier()?), sattr3::default()),
        _ => return Err(Malformed),
    };
    make(context, fh, name, reply, &new, |directory, name| match how {
        How::Exclusive(verifier) => exclusive(context, directory, name, verifier),
        How::Guarded => guarded(context, directory, name, &new),
        How::Unchecked => match guarded(context, directory, name, &new) {
            Err(NFS3ERR_EXIST) => existing(context, directory, name, &new),
            made => made,
        },
    });
    Ok(())
}

pub fn mkdir(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let (fh, name, new) = (fh(args)?, filename(args)?, attributes::sattr(args)?);
    make(context, fh, name, reply, &new, |directory, name| {
        let mode = mode(&new, 0o777);
        as_caller(context, directory, name, || {
            rustix::fs::mkdirat(directory.file.fd(), name, Mode::from_raw_mode(mode))
        })?;
        // The system call does not take the set-id bits.
        finish(context, directory, context.child(directory, name)?, &new, mode & 0o6000 != 0)
    });
    Ok(())
}

pub fn symlink(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let (fh, name, mut new) = (fh(args)?, filename(args)?, attributes::sattr(args)?);
    let text = args.opaque(usize::MAX)?;
    // A link has no mode of its own.
    new.mode = set_mode3::Void;
    make(context, fh, name, reply, &new, |directory, name| {
        if text.len() > MAX_LINK_TEXT {
            return Err(NFS3ERR_NAMETOOLONG);
        }
        if text.is_empty() || text.contains(&0) {
            return Err(NFS3ERR_INVAL);
        }
        as_caller(context, directory, name, || rustix::fs::symlinkat(text, directory.file.fd(), name))?;
        finish(context, directory, context.child(directory, name)?, &new, false)
    });
    Ok(())
}

pub fn mknod(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let (fh, name, kind) = (fh(args)?, filename(args)?, args.u32()?);
    // NF3BLK, NF3CHR with a device; NF3SOCK, NF3FIFO without; the others have their own procedures.
    let (file_type, new, device) = match kind {
        3 => (Some(FileType::BlockDevice), attributes::sattr(args)?, attributes::device(args)?),
        4 => (Some(FileType::CharacterDevice), attributes::sattr(args)?, attributes::device(args)?),
        6 => (Some(FileType::Socket), attributes::sattr(args)?, Some(0)),
        7 => (Some(FileType::Fifo), attributes::sattr(args)?, Some(0)),
        1 | 2 | 5 => (None, sattr3::default(), Some(0)),
        _ => return Err(Malformed),
    };
    make(context, fh, name, reply, &new, |directory, name| {
        let (file_type, device) = (file_type.ok_or(NFS3ERR_BADTYPE)?, device.ok_or(NFS3ERR_INVAL)?);
        let mode = Mode::from_raw_mode(mode(&new, 0o666));
        as_caller(context, directory, name, || {
            rustix::fs::mknodat(directory.file.fd(), name, file_type, mode, device)
        })?;
        finish(context, directory, context.child(directory, name)?, &new, false)
    });
    Ok(())
}

/// What a name is now.
struct Made {
    object: Object,
    stat: Stat,
    /// What brings it to the stick. The journal commits in order: where the file was changed after its name was made, its own
    /// commit brings the name too, and another one for the directory would bring nothing.
    by: By,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Directory,
    Itself,
    /// For what cannot be opened: the root's commit takes all in.
    Root,
}

impl Made {
    fn new((object, stat): (Object, Stat)) -> Self {
        Self { object, stat, by: By::Directory }
    }
}

/// The frame of all four: the directory, its attributes before and after, and the reply.
fn make(
    context: &Context<'_>,
    fh: &[u8],
    name: &[u8],
    reply: &mut Encoder,
    new: &sattr3,
    make: impl FnOnce(&Object, &[u8]) -> Result<Made, nfsstat3>,
) {
    let directory = match context.object(fh) {
        Ok(directory) => directory,
        Err(status) => {
            reply.value(&status);
            reply.value(&nfsserve::nfs::wcc_data::default());
            return;
        }
    };
    let (result, wcc) = {
        let _order = directory.export.lock(directory.handle);
        let before = context.stat(&directory);
        let result = before.and_then(|_| {
            context.directory(&directory)?;
            let name = component(name)?;
            if is_dot(name) {
                return Err(NFS3ERR_EXIST);
            }
            context.writable(&directory)?;
            attributes::settable(new)?;
            make(&directory, name)
        });
        (result, directory.wcc(before.ok().as_ref()))
    };
    let result = result.and_then(|made| {
        let by = match made.by {
            By::Directory => directory.itself(),
            By::Itself => made.object.itself(),
            By::Root => None,
        };
        context.owe(directory.owes(by, None, &wcc))?;
        Ok(made)
    });
    match result {
        Ok(Made { object, stat, .. }) => {
            reply.value(&NFS3_OK);
            reply.bool(true);
            reply.opaque(context.wire(&object).as_ref());
            reply.value(&object.post_op(Some(&stat)));
        }
        Err(status) => reply.value(&status),
    }
    reply.value(&wcc);
}

fn mode(new: &sattr3, otherwise: u32) -> u32 {
    if let set_mode3::mode(mode) = new.mode { mode & 0o7777 } else { otherwise }
}

/// The system call that makes `name`, as the caller.
fn as_caller(
    context: &Context<'_>,
    directory: &Object,
    name: &[u8],
    call: impl FnOnce() -> Result<(), Errno>,
) -> Result<(), nfsstat3> {
    let exists = |_: &Handle| NFS3ERR_EXIST;
    let room = charge::new_file(&directory.export)
        .map_err(|status| super::file_at(directory, name).as_ref().map_or(status, exists))?;
    let intent = || context.appears(directory, name, None);
    context.once(intent, || {
        let _caller = context.assume()?;
        call().map_err(|errno| context.fail(directory, errno))
    })?;
    room.settle();
    Ok(())
}

/// Attributes that making a file did not set, and what the client gets to know of it.
fn finish(
    context: &Context<'_>,
    directory: &Object,
    (made, stat): (Object, Stat),
    new: &sattr3,
    mode_again: bool,
) -> Result<Made, nfsstat3> {
    charge::made(&directory.export, &stat);
    let mut rest = *new;
    if !mode_again {
        rest.mode = set_mode3::Void;
    }
    if context.caller.uid != 0 {
        // The file is the caller's: naming an owner here is a habit of clients, not a wish.
        rest.uid = set_uid3::Void;
        rest.gid = set_gid3::Void;
    }
    let nothing = matches!(
        (rest.mode, rest.uid, rest.gid, rest.size, rest.atime, rest.mtime),
        (
            set_mode3::Void,
            set_uid3::Void,
            set_gid3::Void,
            set_size3::Void | set_size3::size(0),
            set_atime::DONT_CHANGE,
            set_mtime::DONT_CHANGE
        )
    );
    if nothing {
        return Ok(Made::new((made, stat)));
    }
    if !made.handle.is_regular() {
        rest.size = set_size3::Void;
    }
    apply(context, &made, &stat, &rest)?;
    // The directory's fsync does not answer for what was set on the file after it was named.
    let by = if made.handle.is_regular() || made.handle.is_directory() { By::Itself } else { By::Root };
    let stat = context.stat(&made)?;
    Ok(Made { object: made, stat, by })
}

/// A new regular file, or NFS3ERR_EXIST.
fn guarded(context: &Context<'_>, directory: &Object, name: &[u8], new: &sattr3) -> Result<Made, nfsstat3> {
    let mode = mode(new, 0o666);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::LARGEFILE;
    let mut opened = None;
    as_caller(context, directory, name, || {
        opened = Some(rustix::fs::openat(directory.file.fd(), name, flags, Mode::from_raw_mode(mode))?);
        Ok(())
    })?;
    let open = opened.is_some();
    let made = match opened {
        Some(fd) => context.written(directory, fd)?,
        // The server before this one made it.
        None => context.child(directory, name)?,
    };
    let mut made = finish(context, directory, made, new, false)?;
    if open && made.object.file.stable().is_some() {
        made.by = By::Itself;
    }
    Ok(made)
}

/// UNCHECKED on what is there already: a regular file is taken, and cut if a size was given.
fn existing(context: &Context<'_>, directory: &Object, name: &[u8], new: &sattr3) -> Result<Made, nfsstat3> {
    let (found, stat) = context.child(directory, name)?;
    if !found.handle.is_regular() {
        return Err(NFS3ERR_EXIST);
    }
    if let set_size3::size(_) = new.size {
        let size = sattr3 { size: new.size, ..sattr3::default() };
        apply(context, &found, &stat, &size)?;
        durable(context, &found)?;
    }
    let stat = context.stat(&found)?;
    Ok(Made::new((found, stat)))
}

/// EXCLUSIVE: a repeat of the call that made the file succeeds, any other call finds it existing.
fn exclusive(context: &Context<'_>, directory: &Object, name: &[u8], verifier: [u8; 8]) -> Result<Made, nfsstat3> {
    let (atime, mtime) = attributes::verifier_times(verifier);
    let new = sattr3 {
        mode: set_mode3::mode(0o600),
        atime: set_atime::SET_TO_CLIENT_TIME(nfstime3 { seconds: atime, nseconds: 0 }),
        mtime: set_mtime::SET_TO_CLIENT_TIME(nfstime3 { seconds: mtime, nseconds: 0 }),
        ..sattr3::default()
    };
    match guarded(context, directory, name, &new) {
        Err(NFS3ERR_EXIST) => {
            let (found, stat) = context.child(directory, name)?;
            let ours = attributes::made_by_verifier(&stat, verifier);
            if ours { Ok(Made::new((found, stat))) } else { Err(NFS3ERR_EXIST) }
        }
        made => made,
    }
}
