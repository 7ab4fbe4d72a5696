//! FSSTAT, FSINFO and PATHCONF (RFC 1813 §3.3.18 to §3.3.20).

use nfsserve::nfs::nfsstat3::*;
use nfsserve::nfs::{FSF_CANSETTIME, FSF_HOMOGENEOUS, FSF_LINK, FSF_SYMLINK, fsinfo3, nfstime3};

use super::{Arguments, Context, MAX_IO, MAX_LIST, MAX_NAME, fh};
use crate::nfs::charge;
use crate::nfs::xdr::{Encoder, Malformed};

/// ext4 with 4 KiB blocks ends there, and every tree's upper layer is ext4.
const MAX_FILE_BYTES: u64 = 0xffff_ffff * 4096;
/// ext4's EXT4_LINK_MAX.
const MAX_LINKS: u32 = 65_000;

pub fn fsstat(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let fh = fh(args)?;
    let answer = context.object(fh).and_then(|object| {
        let stat = context.stat(&object)?;
        // Of the root, which is a real descriptor: what the client's upper layer lies on.
        let space = rustix::fs::fstatvfs(&object.export.root).map_err(|errno| context.fail(&object, errno))?;
        Ok((object, stat, space))
    });
    match answer {
        Ok((object, stat, space)) => {
            reply.value(&NFS3_OK);
            reply.value(&object.post_op(Some(&stat)));
            let view = charge::view(&object.export, &space);
            for figure in view.bytes.into_iter().chain(view.files) {
                reply.u64(figure);
            }
            // invarsec: it may change at any time.
            reply.u32(0);
        }
        Err(status) => {
            reply.value(&status);
            reply.bool(false);
        }
    }
    Ok(())
}

pub fn fsinfo(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let fh = fh(args)?;
    match context.object(fh).and_then(|object| Ok((context.stat(&object)?, object))) {
        Ok((stat, object)) => {
            reply.value(&NFS3_OK);
            reply.value(&fsinfo3 {
                obj_attributes: object.post_op(Some(&stat)),
                rtmax: MAX_IO as u32,
                rtpref: MAX_IO as u32,
                rtmult: 4096,
                wtmax: MAX_IO as u32,
                wtpref: MAX_IO as u32,
                wtmult: 4096,
                dtpref: MAX_LIST as u32,
                maxfilesize: MAX_FILE_BYTES,
                time_delta: nfstime3 { seconds: 0, nseconds: 1 },
                properties: FSF_LINK | FSF_SYMLINK | FSF_HOMOGENEOUS | FSF_CANSETTIME,
            });
        }
        Err(status) => {
            reply.value(&status);
            reply.bool(false);
        }
    }
    Ok(())
}

pub fn pathconf(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let fh = fh(args)?;
    match context.object(fh).and_then(|object| Ok((context.stat(&object)?, object))) {
        Ok((stat, object)) => {
            reply.value(&NFS3_OK);
            reply.value(&object.post_op(Some(&stat)));
            reply.u32(MAX_LINKS);
            reply.u32(MAX_NAME as u32);
            reply.bool(true); // no_trunc: a longer name is an error
            reply.bool(true); // chown_restricted
            reply.bool(false); // case_insensitive
            reply.bool(true); // case_preserving
        }
        Err(status) => {
            reply.value(&status);
            reply.bool(false);
        }
    }
    Ok(())
}
