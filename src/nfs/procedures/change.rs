//! REMOVE, RMDIR, RENAME and LINK (RFC 1813 §3.3.12 to §3.3.15).

use std::os::fd::AsRawFd;
use std::sync::Arc;

use nfsserve::nfs::nfsstat3::{self, *};
use nfsserve::nfs::wcc_data;
use rustix::fs::{AtFlags, RenameFlags};

use super::{Arguments, Context, Object, component, fh, file_at, filename, is_dot};
use crate::nfs::attributes;
use crate::nfs::charge;
use crate::nfs::file::File;
use crate::nfs::handle::Handle;
use crate::nfs::intent::{Intent, Place};
use crate::nfs::xdr::{Encoder, Malformed};

pub fn remove(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    unlink(context, args, reply, AtFlags::empty())
}

pub fn rmdir(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    unlink(context, args, reply, AtFlags::REMOVEDIR)
}

fn unlink(
    context: &Context<'_>,
    args: Arguments<'_, '_>,
    reply: &mut Encoder,
    flags: AtFlags,
) -> Result<(), Malformed> {
    let (fh, name) = (fh(args)?, filename(args)?);
    let directory = match context.object(fh) {
        Ok(directory) => directory,
        Err(status) => {
            reply.value(&status);
            reply.value(&wcc_data::default());
            return Ok(());
        }
    };
    // Closed behind the lock on the directory: to free a file's room takes its time.
    let mut gone = None;
    let (result, wcc) = {
        let _order = directory.export.lock(directory.handle);
        let before = context.stat(&directory);
        let result = before.and_then(|_| {
            context.directory(&directory)?;
            let name = component(name)?;
            match name {
                b"." => return Err(NFS3ERR_INVAL),
                b".." => return Err(NFS3ERR_EXIST),
                _ => context.writable(&directory)?,
            }
            let gone = gone.insert(Leaving::new(&directory, name));
            let intent = || gone.handle.map(|file| Intent::Vanish { at: Place::new(directory.handle, name), file });
            let going = gone.charge();
            context.once(intent, || {
                let _caller = context.assume()?;
                rustix::fs::unlinkat(directory.file.fd(), name, flags).map_err(|errno| context.fail(&directory, errno))
            })?;
            going.gone();
            Ok(())
        });
        (result, directory.wcc(before.ok().as_ref()))
    };
    let result = result.and_then(|()| {
        let file = gone.as_ref().and_then(|gone| gone.handle.zip(gone.file.clone())).filter(|_| !context.attempt.done);
        // Out of the cache: what is owed holds the file until it is settled.
        drop(gone);
        context.owe(match file {
            Some((handle, file)) if file.stable().is_some() => directory.owes(Some((handle, file)), None, &wcc),
            file => directory.owes(directory.itself(), file.map(|(_, file)| file), &wcc),
        })
    });
    reply.value(&result.err().unwrap_or(NFS3_OK));
    reply.value(&wcc);
    Ok(())
}

/// A name that is about to lose its file: when this is dropped the file is not
/// held open here any more, or its room would not be free at once.
struct Leaving<'a> {
    directory: &'a Object,
    name: &'a [u8],
    handle: Option<Handle>,
    /// If it is open.
    file: Option<Arc<File>>,
}

impl<'a> Leaving<'a> {
    fn new(directory: &'a Object, name: &'a [u8]) -> Self {
        // The type is part of the key: a regular file's is all that holds room.
        let handle = file_at(directory, name).ok();
        let file = handle.and_then(|handle| directory.export.files.find(&handle)).map(|(_, file)| file);
        Self { directory, name, handle, file }
    }

    /// What its file gives back when it is gone.
    fn charge(&self) -> charge::Going<'a> {
        charge::Going::of(&self.directory.export, self.directory.file.fd(), self.name, self.handle.as_ref())
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let Some(handle) = &self.handle {
            self.directory.export.files.forget(handle);
        }
    }
}

pub fn rename(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let (from_fh, from_name) = (fh(args)?, filename(args)?);
    let (to_fh, to_name) = (fh(args)?, filename(args)?);
    let (from, to) = match context.object(from_fh).and_then(|from| Ok((from, context.object(to_fh)?))) {
        Ok(both) => both,
        Err(status) => {
            reply.value(&status);
            reply.value(&wcc_data::default());
            reply.value(&wcc_data::default());
            return Ok(());
        }
    };
    let mut gone = None;
    let (result, from_wcc, to_wcc) = {
        let _order = from.export.lock_two(from.handle, to.handle);
        let (from_before, to_before) = (context.stat(&from), context.stat(&to));
        let result = from_before.and_then(|_| {
            if let Err(status) = &to_before {
                return Err(*status);
            }
            context.directory(&from)?;
            context.directory(&to)?;
            if from.handle.export != to.handle.export {
                return Err(NFS3ERR_XDEV);
            }
            let (from_name, to_name) = (component(from_name)?, component(to_name)?);
            if is_dot(from_name) || is_dot(to_name) {
                return Err(NFS3ERR_INVAL);
            }
            context.writable(&from)?;
            let gone = gone.insert(Leaving::new(&to, to_name));
            let moved = file_at(&from, from_name).ok();
            let intent = || {
                let (old, new) = (Place::new(from.handle, from_name), Place::new(to.handle, to_name));
                Some(Intent::Move { from: old, to: new, file: moved? })
            };
            let copy = charge::copy_up_at(&from.export, moved.as_ref(), from.file.fd(), from_name)?;
            let going = if moved == gone.handle { charge::Going::nothing() } else { gone.charge() };
            context.once(intent, || {
                let _caller = context.assume()?;
                rustix::fs::renameat_with(from.file.fd(), from_name, to.file.fd(), to_name, RenameFlags::empty())
                    .map_err(|errno| context.fail(&from, errno))
            })?;
            copy.settle_at(to.file.fd(), to_name);
            going.gone();
            Ok(())
        });
        let to_wcc = match &to_before {
            // One directory is charged once.
            Ok(same) if from.handle == to.handle => {
                attributes::wcc(Some(same), to.file.stat().ok().as_ref(), to.export.id)
            }
            before => to.wcc(before.as_ref().ok()),
        };
        (result, from.wcc(from_before.ok().as_ref()), to_wcc)
    };
    drop(gone);
    // Both directories change in one step of the journal, which commits in order.
    let result = result.and_then(|()| context.sync(&to));
    reply.value(&result.err().unwrap_or(NFS3_OK));
    reply.value(&from_wcc);
    reply.value(&to_wcc);
    Ok(())
}

pub fn link(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let (file_fh, directory_fh, name) = (fh(args)?, fh(args)?, filename(args)?);
    let (file, directory) = match context.object(file_fh).and_then(|file| Ok((file, context.object(directory_fh)?))) {
        Ok(both) => both,
        Err(status) => {
            reply.value(&status);
            reply.bool(false);
            reply.value(&wcc_data::default());
            return Ok(());
        }
    };
    let (result, attributes, wcc) = {
        let _order = directory.export.lock_two(file.handle, directory.handle);
        let before = context.stat(&directory);
        let result = before.and_then(|_| {
            let stat = context.stat(&file)?;
            context.directory(&directory)?;
            if file.handle.export != directory.handle.export {
                return Err(NFS3ERR_XDEV);
            }
            let name = component(name)?;
            if is_dot(name) {
                return Err(NFS3ERR_EXIST);
            }
            if file.handle.is_directory() {
                return Err(NFS3ERR_ISDIR);
            }
            context.writable(&directory)?;
            let intent = || context.appears(&directory, name, Some(file.handle));
            let copy = charge::copy_up(&file.export, &file.handle, &file.file, &stat)?;
            let result = context.once(intent, || link_to(context, &file, &directory, name));
            copy.settle(&file.file);
            result
        });
        (result, file.post_op_now(), directory.wcc(before.ok().as_ref()))
    };
    let result = result.and_then(|()| context.sync(&directory));
    reply.value(&result.err().unwrap_or(NFS3_OK));
    reply.value(&attributes);
    reply.value(&wcc);
    Ok(())
}

/// By the descriptor's name: linking an empty path needs a capability that the caller has not.
fn link_to(context: &Context<'_>, file: &Object, directory: &Object, name: &[u8]) -> Result<(), nfsstat3> {
    let path = format!("/proc/thread-self/fd/{}", file.file.fd().as_raw_fd());
    let _caller = context.assume()?;
    rustix::fs::linkat(rustix::fs::CWD, path, directory.file.fd(), name, AtFlags::SYMLINK_FOLLOW)
        .map_err(|errno| context.fail(directory, errno))
}
