//! The 22 procedures of NFS version 3 (RFC 1813 §3), one file a kind. I/O:
//! each runs on a system-call thread and may block on the stick.
//!
//! What all share is here: from a handle to an open file of the caller's own
//! export, the caller's identity, attributes before and after a change, and
//! making a change durable before it is answered.
//!
//! **Durability.** RFC 1813 §4.8: all but UNSTABLE data is on the stick before
//! the reply, names and attributes too. So a change ends with an fsync of the
//! directory or file, as the Linux server's does by default. It costs a journal
//! commit a change: CREATE, WRITE, COMMIT and REMOVE of one small file took 15 ms
//! on a disk with 5 ms a commit, against 1 ms in memory; commits of calls at the
//! same time are shared (16 at once: 3.4 ms a file; 2026-11-22). Without it an fsync of a
//! directory on the client, which an NFS client answers by itself, would be a lie, and
//! sqlite's commits are made of that.
//!
//! **Not by its word alone.** An fsync may answer 0 for a commit that failed while somebody else waited for it; so the journal
//! is asked behind each one (`OpenExport::synced`; `tests/nfs_failing_disk`).
//!
//! **By which file.** For ext4 an fsync of a directory is a commit of all that any call has begun by then, and a call that
//! comes in while a commit runs waits for that one and the next. An fsync of a regular file waits for the step
//! that changed the file last. So CREATE and REMOVE sync the file, where it is open and its data is on the stick already: the
//! journal takes name and file in one step, on overlayfs too (`nfs_power` cuts behind each answer, whiteouts included).
//!
//! **Together.** Changes of one name that came together on one connection wait for one commit, the last one's (`nfs::owed`,
//! `tests/nfs_together`).
//!
//! ext4's `fast_commit` would make such small files 2.1 times as fast (2026-11-29, Linux 6.18, 8 at once on a slow disk: 190
//! and 400 a second; 640 if CREATE synced the new file and not the directory, for which ext4 forces a full commit). It
//! outlived the cuts of `nfs_power` on that kernel. It is not used yet: the appliance's kernel is 6.1, and
//! no test here cuts the power under that one's fast commits.

mod attribute;
mod change;
mod create;
mod data;
mod list;
mod lookup;
mod system;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use nfsserve::nfs::nfsstat3::{self, *};
use nfsserve::nfs::{post_op_attr, wcc_data};
use rustix::fs::{Access, Stat};
use rustix::io::Errno;

use super::access::Rwx;
use super::attributes;
use super::charge;
use super::credentials::{self, Assumed};
use super::export::{Exports, OpenExport};
use super::file::{File, handle_at};
use super::handle::{self, Handle, HandleError, Wire};
use super::intent::{Intent, Place};
use super::owed::{Ledger, Owed};
use super::peer::Peer;
use super::pipe::Outlet;
use super::rpc::{Accept, AuthSys, Credentials};
use super::service::Attempt;
use super::xdr::{Cursor, Encoder, Malformed};
use crate::directory::Directory;

pub const PROGRAM: u32 = 100_003;
pub const VERSION: u32 = 3;
pub const WRITE: u32 = 7;

/// The most that one READ or WRITE carries, in bytes: rtmax and wtmax. Larger ones were not
/// faster here, and each open call costs as much memory as this.
pub const MAX_IO: usize = 256 << 10;
/// What a READDIR or READDIRPLUS answers at most, in bytes.
const MAX_LIST: usize = 64 << 10;
/// RFC 1813's `filename3` on the file systems we serve.
const MAX_NAME: usize = 255;
/// The kernel's PATH_MAX, less its NUL: the longest symbolic link.
const MAX_LINK_TEXT: usize = 4095;

/// One call as the procedures see it.
pub struct Context<'a> {
    pub exports: &'a Exports,
    pub directory: &'a Directory,
    pub peer: &'a Peer,
    /// The call came from a reserved port, or any port is allowed.
    pub privileged: bool,
    pub caller: AuthSys,
    pub attempt: Attempt<'a>,
    /// For data that goes behind the reply without a copy.
    pub outlet: Option<&'a Outlet>,
    /// For what the thread brings to the stick together with others; else the call does it itself.
    pub ledger: Option<&'a Ledger>,
    /// The procedure changes files: data, attributes or names.
    pub changing: bool,
}

type Arguments<'a, 'b> = &'a mut Cursor<'b>;
type Procedure = fn(&Context<'_>, Arguments<'_, '_>, &mut Encoder) -> Result<(), Malformed>;

/// By procedure number (RFC 1813 §3.3).
const PROCEDURES: [Procedure; 22] = [
    null,
    attribute::getattr,
    attribute::setattr,
    lookup::lookup,
    attribute::access,
    lookup::readlink,
    data::read,
    data::write,
    create::create,
    create::mkdir,
    create::symlink,
    create::mknod,
    change::remove,
    change::rmdir,
    change::rename,
    change::link,
    list::readdir,
    list::readdirplus,
    system::fsstat,
    system::fsinfo,
    system::pathconf,
    data::commit,
];

fn null(_: &Context<'_>, _: Arguments<'_, '_>, _: &mut Encoder) -> Result<(), Malformed> {
    Ok(())
}

/// Whether a repeat of the procedure would do harm: it goes through the reply cache.
pub fn is_idempotent(procedure: u32) -> bool {
    !matches!(procedure, 2 | 8..=15)
}

/// Whether the procedure changes files: all that the reply cache keeps, and WRITE.
pub fn is_change(procedure: u32) -> bool {
    procedure == WRITE || !is_idempotent(procedure)
}

/// Whether the procedure changes nothing, and so waits for the stick only where it reads what is not in
/// memory. Whole file systems are asked by FSSTAT, which may take long.
pub fn is_quick(procedure: u32) -> bool {
    matches!(procedure, 0 | 1 | 3..=6 | 16 | 17 | 19 | 20)
}

/// Whether the procedure makes or removes one name, which takes no time but for the commit behind it. (RENAME, LINK and SETATTR
/// copy a file of the image up, however large it is.)
pub fn is_of_one_name(procedure: u32) -> bool {
    matches!(procedure, 8..=13)
}

/// Whether the arguments of a WRITE leave it to COMMIT to reach the stick.
pub fn is_unstable(args: &mut Cursor<'_>) -> Result<bool, Malformed> {
    fh(args)?;
    let (_offset, _count, stable) = (args.u64()?, args.u32()?, args.u32()?);
    Ok(stable == data::UNSTABLE)
}

/// Who may make this call: `None` is AUTH_TOOWEAK. Without credentials a client gets
/// what it needs to mount (RFC 2623 §2.3.2: NULL, GETATTR and FSINFO), as nobody.
pub fn caller(procedure: u32, credentials: Credentials) -> Option<AuthSys> {
    match credentials {
        Credentials::Sys(sys) => Some(sys),
        Credentials::None => matches!(procedure, 0 | 1 | 19).then(AuthSys::nobody),
    }
}

/// Does one call: results behind what `reply` holds already.
pub fn handle(context: &Context<'_>, procedure: u32, args: &mut Cursor<'_>, reply: &mut Encoder) -> Accept {
    let Some(run) = PROCEDURES.get(procedure as usize) else { return Accept::ProcUnavail };
    match run(context, args, reply) {
        Ok(()) => Accept::Success,
        Err(Malformed) => Accept::GarbageArgs,
    }
}

/// A file that a call is about, open, in an export of the caller's own.
struct Object {
    export: Arc<OpenExport>,
    handle: Handle,
    file: Arc<File>,
    /// The call may change it.
    _change: Option<Change>,
}

/// While this lives, and from then on, attributes that were read before are not to be relied on.
struct Change(Arc<OpenExport>);

impl Change {
    fn begin(export: &Arc<OpenExport>) -> Self {
        export.changed();
        Self(export.clone())
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        self.0.changed();
    }
}

/// The opaque of an `nfs_fh3`.
fn fh<'b>(args: Arguments<'_, 'b>) -> Result<&'b [u8], Malformed> {
    args.opaque(handle::MAX_HANDLE_BYTES)
}

/// The opaque of a `filename3`. Its length is judged by `component`, which has a status to answer.
fn filename<'b>(args: Arguments<'_, 'b>) -> Result<&'b [u8], Malformed> {
    args.opaque(usize::MAX)
}

/// One name in a directory, as a client may make it.
fn component(name: &[u8]) -> Result<&[u8], nfsstat3> {
    if name.len() > MAX_NAME {
        return Err(NFS3ERR_NAMETOOLONG);
    }
    if name.is_empty() || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(NFS3ERR_INVAL);
    }
    Ok(name)
}

fn is_dot(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

impl Context<'_> {
    /// From a handle off the network to an open file.
    ///
    /// While no stick is open nothing is known of any client, and its handles may
    /// well be good again in a moment: whoever has no export gets JUKEBOX, so that a client which
    /// ran before the appliance restarted waits instead of losing its root. That
    /// tells a stranger nothing that a closed port would not.
    fn object(&self, fh: &[u8]) -> Result<Object, nfsstat3> {
        if !self.privileged {
            return Err(self.refused("the call came from an unprivileged port", NFS3ERR_ACCES));
        }
        let Some(client) = self.directory.client(self.peer.address) else {
            return Err(if handle::well_formed(fh) { NFS3ERR_JUKEBOX } else { NFS3ERR_BADHANDLE });
        };
        let handle = match handle::decode(fh, &self.directory.handle_key) {
            Ok(handle) => handle,
            Err(HandleError::Shape) => return Err(self.refused("not a handle", NFS3ERR_BADHANDLE)),
            Err(HandleError::Mac) if self.is_of_former_store(fh) => return Err(NFS3ERR_JUKEBOX),
            Err(HandleError::Mac) => return Err(self.refused("a forged handle", NFS3ERR_BADHANDLE)),
        };
        let Some(export) = client.exports().find(|export| export.id == handle.export) else {
            return Err(self.refused("a handle of another client's tree", NFS3ERR_ACCES));
        };
        let export = self.exports.get(export).ok_or(NFS3ERR_JUKEBOX)?;
        if self.changing && !export.takes_changes(Instant::now()) {
            return Err(self.exports.failed(&export, Errno::ROFS, false));
        }
        let file =
            export.files.get(&export.root, &handle).map_err(|errno| self.exports.failed(&export, errno, false))?;
        let change = self.changing.then(|| Change::begin(&export));
        Ok(Object { export, handle, file, _change: change })
    }

    fn refused(&self, reason: &'static str, status: nfsstat3) -> nfsstat3 {
        self.peer.bad_handle(reason);
        status
    }

    /// Another stick was put in place of the one that this client runs from, and has a client at its address: an error
    /// would cost it what it wrote and has not sent yet, and it gets its own files back with its own stick.
    fn is_of_former_store(&self, fh: &[u8]) -> bool {
        self.directory.former_keys.iter().any(|key| handle::decode(fh, key).is_ok())
    }

    /// The calling thread becomes the caller until the guard is dropped.
    fn assume(&self) -> Result<Assumed, nfsstat3> {
        credentials::assume(&self.caller)
    }

    /// The one step of a call that must not be taken twice: `act`, after `intent` was put down. It is left out
    /// where the server before this one was killed behind it.
    fn once(
        &self,
        intent: impl FnOnce() -> Option<Intent>,
        act: impl FnOnce() -> Result<(), nfsstat3>,
    ) -> Result<(), nfsstat3> {
        if self.attempt.done {
            return Ok(());
        }
        self.attempt.begin(intent);
        act()
    }

    /// That `name` is about to come, if it is free.
    fn appears(&self, directory: &Object, name: &[u8], file: Option<Handle>) -> Option<Intent> {
        let free = matches!(file_at(directory, name), Err(Errno::NOENT));
        free.then(|| Intent::Appear { at: Place::new(directory.handle, name), file })
    }

    fn fail(&self, object: &Object, errno: Errno) -> nfsstat3 {
        self.exports.failed(&object.export, errno, false)
    }

    /// Attributes now. A file that was removed while it was open here is as gone as any.
    fn stat(&self, object: &Object) -> Result<Stat, nfsstat3> {
        let stat = object.file.stat().map_err(|errno| self.fail(object, errno))?;
        if stat.st_nlink == 0 {
            object.export.files.forget(&object.handle);
            return Err(NFS3ERR_STALE);
        }
        Ok(stat)
    }

    /// Whether the caller may do `asked` to the file, by the kernel's own judgement.
    fn allowed(&self, object: &Object, stat: &Stat, asked: Rwx) -> Result<Rwx, nfsstat3> {
        let mut allowed = if self.caller.uid == 0 {
            attributes::ftype(stat.st_mode).map(|ftype| super::access::root(ftype, stat.st_mode)).unwrap_or_default()
        } else {
            let _caller = self.assume()?;
            let ask = |wanted: bool, access| wanted && object.file.may_access(access);
            Rwx {
                read: ask(asked.read, Access::READ_OK),
                write: ask(asked.write, Access::WRITE_OK),
                execute: ask(asked.execute, Access::EXEC_OK),
            }
        };
        allowed.write &= !object.export.read_only;
        Ok(allowed)
    }

    /// Refuses a change of a read-only tree.
    fn writable(&self, object: &Object) -> Result<(), nfsstat3> {
        if object.export.read_only { Err(NFS3ERR_ROFS) } else { Ok(()) }
    }

    fn directory(&self, object: &Object) -> Result<(), nfsstat3> {
        if object.handle.is_directory() { Ok(()) } else { Err(NFS3ERR_NOTDIR) }
    }

    /// `name` in `directory`, opened as the caller and with its attributes. Never follows a symbolic
    /// link, never leaves the mount.
    fn child(&self, directory: &Object, name: &[u8]) -> Result<(Object, Stat), nfsstat3> {
        if let Some(found) = self.open_child(directory, name)? {
            return Ok(found);
        }
        use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let mut name = name;
        if name == b".." {
            // The root's parent is the root; elsewhere NO_XDEV keeps it in the mount.
            if directory.file.stat().is_ok_and(|stat| stat.st_ino == directory.export.root_fileid) {
                name = b".";
            }
        } else {
            resolve |= ResolveFlags::BENEATH;
        }
        let fd = {
            let _caller = self.assume()?;
            let open = || openat2(directory.file.fd(), name, flags, Mode::empty(), resolve);
            // EAGAIN: a rename elsewhere crossed the walk. It is tried again, not for ever.
            let mut opened = open();
            for _ in 0..8 {
                if !matches!(opened, Err(Errno::AGAIN)) {
                    break;
                }
                opened = open();
            }
            opened.map_err(|errno| self.fail(directory, errno))?
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| self.fail(directory, errno))?;
        let ftype = attributes::ftype(stat.st_mode).ok_or(NFS3ERR_SERVERFAULT)?;
        let fd_ref = fd.as_fd();
        let (handle, _) =
            handle_at(fd_ref, b"", directory.handle.export, ftype).map_err(|errno| self.fail(directory, errno))?;
        let file = directory.export.files.insert(handle, fd);
        Ok((Object { export: directory.export.clone(), handle, file, _change: None }, stat))
    }

    /// A regular file that was just made in `directory` and is open to be written to: what most new files are next. To
    /// look the name up and to open it again would cost three system calls more.
    fn written(&self, directory: &Object, fd: OwnedFd) -> Result<(Object, Stat), nfsstat3> {
        let (export, fail) = (&directory.export, |errno| self.fail(directory, errno));
        let stat = rustix::fs::fstat(&fd).map_err(fail)?;
        let (handle, _) =
            handle_at(fd.as_fd(), b"", directory.handle.export, nfsserve::nfs::ftype3::NF3REG).map_err(fail)?;
        let file = export.files.insert_written(handle, fd);
        Ok((Object { export: export.clone(), handle, file, _change: None }, stat))
    }

    /// The same for a name whose file is open already: its handle tells which.
    fn open_child(&self, directory: &Object, name: &[u8]) -> Result<Option<(Object, Stat)>, nfsstat3> {
        if name == b".." {
            return Ok(None);
        }
        let named = {
            let _caller = self.assume()?;
            // The type is not known, and not part of the handle's identity.
            handle_at(directory.file.fd(), name, directory.handle.export, nfsserve::nfs::ftype3::NF3REG)
        };
        let (handle, mount) = match named {
            Ok(named) => named,
            // Another file system is mounted there, perhaps: judged where it is opened.
            Err(Errno::OPNOTSUPP | Errno::OVERFLOW) => return Ok(None),
            Err(errno) => return Err(self.fail(directory, errno)),
        };
        if !directory.export.is_mount(mount) {
            return Ok(None);
        }
        let Some((handle, file)) = directory.export.files.find(&handle) else { return Ok(None) };
        let object = Object { export: directory.export.clone(), handle, file, _change: None };
        let stat = object.file.stat().map_err(|errno| self.fail(directory, errno))?;
        Ok(Some((object, stat)))
    }

    /// Makes a change durable, or leaves that to the thread. By a regular file that is open to be written to
    /// it costs less than by the directory: ext4 changes both in one step of its journal, and a file's fsync waits
    /// for the last step that changed the file; a directory's commits, and waits for, whatever others have begun since.
    fn owe(&self, mut owed: Owed) -> Result<(), nfsstat3> {
        match self.ledger {
            Some(ledger) => {
                ledger.put(owed);
                Ok(())
            }
            None => owed.sync().map_err(|errno| self.exports.failed(&owed.export, errno, false)),
        }
    }

    /// Makes the names in a directory durable; also all that the journal took in before.
    fn sync(&self, object: &Object) -> Result<(), nfsstat3> {
        let file = object.file.syncer(&object.export.root, &object.handle);
        object.export.synced(file.and_then(rustix::fs::fsync)).map_err(|errno| self.fail(object, errno))
    }

    fn reader<'a>(&self, object: &'a Object) -> Result<BorrowedFd<'a>, nfsstat3> {
        object.file.reader(&object.export.root, &object.handle).map_err(|errno| self.fail(object, errno))
    }

    fn wire(&self, object: &Object) -> Wire {
        handle::encode(&object.handle, &self.directory.handle_key)
    }

    /// `writeverf3`: another one after each start of the server, each new
    /// mount of the tree, and each loss of data.
    fn write_verifier(&self, object: &Object) -> [u8; 8] {
        object.export.generation().to_be_bytes()
    }
}

/// What stands at `name`. Its type is not known here, and taken for a regular file's.
fn file_at(directory: &Object, name: &[u8]) -> Result<Handle, Errno> {
    let ftype = nfsserve::nfs::ftype3::NF3REG;
    handle_at(directory.file.fd(), name, directory.handle.export, ftype).map(|(handle, _)| handle)
}

impl Object {
    /// A change of names in this directory, made durable by `by`.
    fn owes(&self, by: Option<(Handle, Arc<File>)>, gone: Option<Arc<File>>, wcc: &wcc_data) -> Owed {
        Owed { export: self.export.clone(), by, gone, wcc: *wcc }
    }

    fn itself(&self) -> Option<(Handle, Arc<File>)> {
        Some((self.handle, self.file.clone()))
    }

    fn post_op(&self, stat: Option<&Stat>) -> post_op_attr {
        attributes::post_op(stat, self.export.id)
    }

    /// Attributes for a reply whose procedure failed, if they can be had.
    fn post_op_now(&self) -> post_op_attr {
        self.post_op(self.file.stat().ok().as_ref())
    }

    /// Attributes before a change, and now.
    fn wcc(&self, before: Option<&Stat>) -> wcc_data {
        let after = self.file.stat().ok();
        if let (Some(before), Some(after)) = (before, &after)
            && self.handle.is_directory()
        {
            charge::directory(&self.export, before, after);
        }
        attributes::wcc(before, after.as_ref(), self.export.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        let check = |name: &[u8], expected: Option<nfsstat3>| {
            let status = component(name).err().map(|status| status as u32);
            assert_eq!(status, expected.map(|status| status as u32), "{name:?}");
        };
        check(b"a", None);
        check(b"\xff\n\\", None);
        check(&[b'a'; 255], None);
        check(&[b'a'; 256], Some(NFS3ERR_NAMETOOLONG));
        check(b"", Some(NFS3ERR_INVAL));
        check(b"a/b", Some(NFS3ERR_INVAL));
        check(b"a\0b", Some(NFS3ERR_INVAL));
    }

    #[test]
    fn changes_go_through_the_reply_cache_and_questions_do_not() {
        let cached: Vec<u32> = (0..22).filter(|procedure| !is_idempotent(*procedure)).collect();
        // SETATTR, CREATE, MKDIR, SYMLINK, MKNOD, REMOVE, RMDIR, RENAME, LINK
        assert_eq!(cached, [2, 8, 9, 10, 11, 12, 13, 14, 15]);
    }

    #[test]
    fn without_credentials_only_mounting_works() {
        let allowed: Vec<u32> = (0..22).filter(|procedure| caller(*procedure, Credentials::None).is_some()).collect();
        assert_eq!(allowed, [0, 1, 19]);
        assert_eq!(caller(1, Credentials::None), Some(AuthSys::nobody()));
    }
}
