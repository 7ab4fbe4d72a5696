//! READDIR and READDIRPLUS (RFC 1813 §3.3.16, §3.3.17).
//!
//! Cookies and windows are explained in `listing.rs`. The cookie verifier is
//! always zero and never looked at: a cookie cannot become wrong.

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::Instant;

use nfsserve::nfs::nfsstat3::{self, *};
use nfsserve::nfs::post_op_attr;
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, Stat};

use super::{Arguments, Context, MAX_LIST, Object, fh};
use crate::nfs::access::Rwx;
use crate::nfs::attributes;
use crate::nfs::file::handle_at;
use crate::nfs::handle;
use crate::nfs::listing::{Builder, COOKIE_DOT, COOKIE_DOT_DOT, Known, Listed, POST_OP_ATTR, WINDOW_BYTES, Window};
use crate::nfs::xdr::{Encoder, Malformed, padding};

/// What a call asked for.
struct Asked {
    cookie: u64,
    /// Bytes that fileids, names and cookies may take together (READDIRPLUS), a hint.
    dircount: usize,
    /// Bytes of the whole result.
    maxcount: usize,
    plus: bool,
}

pub fn readdir(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let (fh, cookie, _verifier, count) = (fh(args)?, args.u64()?, args.verifier()?, args.u32()?);
    let asked = Asked { cookie, dircount: usize::MAX, maxcount: count as usize, plus: false };
    list(context, fh, &asked, reply);
    Ok(())
}

pub fn readdirplus(context: &Context<'_>, args: Arguments<'_, '_>, reply: &mut Encoder) -> Result<(), Malformed> {
    let (fh, cookie, _verifier) = (fh(args)?, args.u64()?, args.verifier()?);
    let (dircount, maxcount) = (args.u32()? as usize, args.u32()? as usize);
    list(context, fh, &Asked { cookie, dircount, maxcount, plus: true }, reply);
    Ok(())
}

fn list(context: &Context<'_>, fh: &[u8], asked: &Asked, reply: &mut Encoder) {
    let directory = match context.object(fh) {
        Ok(directory) => directory,
        Err(status) => {
            reply.value(&status);
            reply.bool(false);
            return;
        }
    };
    let start = reply.len();
    if let Err(status) = list_into(context, &directory, asked, reply) {
        reply.truncate(start);
        reply.value(&status);
        reply.value(&directory.post_op_now());
    }
}

fn list_into(context: &Context<'_>, directory: &Object, asked: &Asked, reply: &mut Encoder) -> Result<(), nfsstat3> {
    let stat = context.stat(directory)?;
    context.directory(directory)?;
    let allowed = context.allowed(directory, &stat, Rwx { read: true, write: false, execute: true })?;
    if !allowed.read {
        return Err(NFS3ERR_ACCES);
    }
    // While names are looked up one by one, none of them changes its file: the attributes and
    // the handle of an entry are of one file.
    let _order = asked.plus.then(|| directory.export.lock(directory.handle));
    let mut page = Page::new(context, directory, asked, reply, allowed.execute);
    page.reply.value(&NFS3_OK);
    page.reply.value(&directory.post_op(Some(&stat)));
    page.reply.fixed(&[0; 8]);
    let mut cookie = asked.cookie;
    for (dot, name) in [(COOKIE_DOT, &b"."[..]), (COOKIE_DOT_DOT, b"..")] {
        if cookie < dot {
            let parent = name == b".." && stat.st_ino != directory.export.root_fileid;
            let stat = if parent { entry_stat(context, directory, name)? } else { stat };
            if !page.add(Listed { cookie: dot, fileid: stat.st_ino, name, place: 0 }, None) {
                return page.end(false);
            }
            cookie = dot;
        }
    }
    let mut eof = false;
    while !eof {
        let window = window(context, directory, cookie)?;
        // All that is asked of the entries is asked as the caller.
        let _caller = if asked.plus { Some(context.assume()?) } else { None };
        let mut known = if asked.plus && page.may_search { window.known() } else { None };
        for entry in window.behind(cookie) {
            let known = known.as_mut().and_then(|known| known.get_mut(entry.place));
            if !page.add(entry, known) {
                return page.end(false);
            }
            cookie = entry.cookie;
        }
        eof = window.is_complete();
    }
    page.end(true)
}

fn entry_stat(context: &Context<'_>, directory: &Object, name: &[u8]) -> Result<Stat, nfsstat3> {
    rustix::fs::statat(directory.file.fd(), name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| context.fail(directory, errno))
}

/// The entries behind `cookie`: kept from an earlier call, or read.
fn window(context: &Context<'_>, directory: &Object, cookie: u64) -> Result<Arc<Window>, nfsstat3> {
    let fail = |errno| context.fail(directory, errno);
    let now = Instant::now();
    let stat = context.stat(directory)?;
    #[allow(clippy::unnecessary_cast)] // the widths of `Stat`'s fields differ between architectures
    let stamp = [stat.st_mtime as i64, stat.st_mtime_nsec as i64, stat.st_ctime as i64, stat.st_ctime_nsec as i64];
    let listings = &directory.export.listings;
    if let Some(window) = listings.get(now, &directory.handle, cookie, stamp) {
        return Ok(window);
    }
    // A descriptor of its own, since the place in the directory belongs to the descriptor.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory.file.fd(), ".", flags, Mode::empty()).map_err(fail)?;
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let clock = [clock.tv_sec, clock.tv_nsec];
    let mut builder = Builder::new(&context.directory.handle_key, cookie, stamp, clock, WINDOW_BYTES);
    let mut buffer = vec![MaybeUninit::uninit(); 32 << 10];
    let mut entries = RawDir::new(fd, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_bytes();
        if !super::is_dot(name) {
            builder.add(name, entry.ino());
        }
    }
    let window = Arc::new(builder.finish());
    listings.keep(now, directory.handle, window.clone());
    Ok(window)
}

/// One reply as it fills up.
struct Page<'a> {
    context: &'a Context<'a>,
    directory: &'a Object,
    reply: &'a mut Encoder,
    plus: bool,
    start: usize,
    maxcount: usize,
    dircount: usize,
    directory_bytes: usize,
    entries: usize,
    /// The caller may look at what the names stand for.
    may_search: bool,
    /// Before any attributes were read.
    changes: u64,
}

/// The end of the list and eof, which must always fit.
const TAIL: usize = 8;

impl<'a> Page<'a> {
    fn new(
        context: &'a Context<'a>,
        directory: &'a Object,
        asked: &Asked,
        reply: &'a mut Encoder,
        may_search: bool,
    ) -> Self {
        let start = reply.len() + 4; // the status is not of the result
        let (maxcount, dircount) = (asked.maxcount.min(MAX_LIST), asked.dircount);
        Self {
            context,
            directory,
            reply,
            plus: asked.plus,
            start,
            maxcount,
            dircount,
            directory_bytes: 0,
            entries: 0,
            may_search,
            changes: directory.export.changes(),
        }
    }

    /// Whether the entry had room.
    fn add(&mut self, entry: Listed<'_>, known: Option<&mut Option<Known>>) -> bool {
        let before = self.reply.len();
        let bytes = 8 + 4 + entry.name.len() + padding(entry.name.len()) + 8;
        // The hint never keeps out the first one: the listing must go on.
        if self.entries > 0 && self.directory_bytes.saturating_add(bytes) > self.dircount {
            return false;
        }
        self.reply.bool(true);
        let fileid_at = self.reply.len();
        self.reply.u64(entry.fileid);
        self.reply.opaque(entry.name);
        self.reply.u64(entry.cookie);
        if self.plus {
            self.attributes(&entry, fileid_at, known);
        }
        if self.reply.len() - self.start + TAIL > self.maxcount {
            self.reply.truncate(before);
            return false;
        }
        self.directory_bytes += bytes;
        self.entries += 1;
        true
    }

    /// Attributes and handle of an entry, or neither: for a name that is gone, not ours to look
    /// at, or on another file system the client asks LOOKUP, and gets the right answer there.
    fn attributes(&mut self, entry: &Listed<'_>, fileid_at: usize, known: Option<&mut Option<Known>>) {
        let mut here = None;
        let known = known.unwrap_or(&mut here);
        if known.as_ref().is_none_or(|known| known.changes != self.changes) {
            *known = self.find(entry.name, known.as_ref().map(|known| known.wire));
        }
        match known {
            Some(known) => {
                // One number for one file, also where the directory tells another (a mount's or a copied-up file's).
                self.reply.patch_u32(fileid_at, (known.fileid >> 32) as u32);
                self.reply.patch_u32(fileid_at + 4, known.fileid as u32);
                self.reply.fixed(&known.attributes);
                self.reply.bool(true);
                self.reply.opaque(known.wire.as_ref());
            }
            None => {
                self.reply.value(&post_op_attr::Void);
                self.reply.bool(false);
            }
        }
    }

    fn find(&self, name: &[u8], wire: Option<handle::Wire>) -> Option<Known> {
        let (stat, wire) = if super::is_dot(name) {
            let (found, stat) = self.context.child(self.directory, name).ok()?;
            (stat, self.context.wire(&found))
        } else {
            let fd = self.directory.file.fd();
            let stat = rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            (stat, wire.or_else(|| self.handle(name, &stat))?)
        };
        let mut encoded = Encoder::with_capacity(POST_OP_ATTR);
        encoded.value(&self.directory.post_op(Some(&stat)));
        let mut attributes = [0; POST_OP_ATTR];
        attributes.copy_from_slice(encoded.bytes().get(..POST_OP_ATTR)?);
        #[allow(clippy::unnecessary_cast)] // the widths of `Stat`'s fields differ between architectures
        Some(Known { fileid: stat.st_ino as u64, wire, changes: self.changes, attributes })
    }

    fn handle(&self, name: &[u8], stat: &Stat) -> Option<handle::Wire> {
        let ftype = attributes::ftype(stat.st_mode)?;
        let (handle, mount) = handle_at(self.directory.file.fd(), name, self.directory.handle.export, ftype).ok()?;
        self.directory.export.is_mount(mount).then(|| handle::encode(&handle, &self.context.directory.handle_key))
    }

    fn end(self, eof: bool) -> Result<(), nfsstat3> {
        if self.entries == 0 && !eof {
            return Err(NFS3ERR_TOOSMALL);
        }
        self.reply.bool(false);
        self.reply.bool(eof);
        if self.reply.len() - self.start > self.maxcount {
            return Err(NFS3ERR_TOOSMALL);
        }
        Ok(())
    }
}
