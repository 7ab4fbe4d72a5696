//! LOOKUP and READLINK (RFC 1813 §3.3.3, §3.3.5).

use nfsserve::nfs::nfsstat3::{self, *};

use super::{Arguments, Context, MAX_LINK_TEXT, Object, component, fh, filename};
use crate::nfs::xdr::{Encoder, Malformed};

pub fn lookup(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let (fh, name) = (fh(args)?, filename(args)?);
    let directory = match context.object(fh) {
        Ok(directory) => directory,
        Err(status) => {
            reply.value(&status);
            reply.bool(false);
            return Ok(());
        }
    };
    let find = || {
        context.directory(&directory)?;
        let name = component(name)?;
        context.child(&directory, name).or_else(|status| {
            // In a directory that is itself gone there is nothing to find.
            context.stat(&directory)?;
            Err(status)
        })
    };
    match find() {
        Ok((child, stat)) => {
            reply.value(&NFS3_OK);
            reply.opaque(context.wire(&child).as_ref());
            reply.value(&child.post_op(Some(&stat)));
        }
        Err(status) => reply.value(&status),
    }
    reply.value(&directory.post_op_now());
    Ok(())
}

pub fn readlink(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let fh = fh(args)?;
    let object = match context.object(fh) {
        Ok(object) => object,
        Err(status) => {
            reply.value(&status);
            reply.bool(false);
            return Ok(());
        }
    };
    let text = text(context, &object);
    reply.value(text.as_ref().err().unwrap_or(&NFS3_OK));
    reply.value(&object.post_op_now());
    if let Ok(text) = text {
        reply.opaque(&text);
    }
    Ok(())
}

fn text(context: &Context<'_>, object: &Object) -> Result<Vec<u8>, nfsstat3> {
    context.stat(object)?;
    if !object.handle.is_symlink() {
        return Err(NFS3ERR_INVAL);
    }
    let text = rustix::fs::readlinkat(object.file.fd(), "", Vec::with_capacity(MAX_LINK_TEXT + 1))
        .map_err(|errno| context.fail(object, errno))?;
    Ok(text.into_bytes())
}
