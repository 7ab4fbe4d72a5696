//! A system-call thread acts as the caller of an AUTH_SYS call: file system
//! ids and groups, so that the kernel itself decides access, ownership, sticky
//! and set-id rules. I/O: changes only the calling thread.
//!
//! The C library's wrappers change every thread of a process, so these are raw
//! system calls. Leaving uid 0 takes the file-system capabilities away; coming
//! back gives them back (capabilities(7)), so opening by handle, which needs one,
//! is done before `assume`.

use std::cell::RefCell;
use std::marker::PhantomData;

use nfsserve::nfs::nfsstat3;
use rustix::process::Gid;

use super::rpc::AuthSys;

thread_local! {
    /// The supplementary groups this thread has now. Left as they are between
    /// calls: they mean nothing while it is root, and most calls repeat them.
    static GROUPS: RefCell<Option<Vec<u32>>> = const { RefCell::new(None) };
}

/// While this lives the thread acts as a caller; dropped, it is root again.
#[derive(Debug)]
#[must_use]
pub struct Assumed {
    uid: u32,
    gid: u32,
    /// It belongs to the thread that made it.
    not_send: PhantomData<*const ()>,
}

/// Makes the calling thread act as `caller`.
pub fn assume(caller: &AuthSys) -> Result<Assumed, nfsstat3> {
    let assumed = Assumed { uid: caller.uid, gid: caller.gid, not_send: PhantomData };
    if caller.uid != 0 {
        set_groups(caller.groups())?;
    }
    // The guard exists by now: each early return below goes back to root.
    if caller.gid != 0 && !set_fs_id(libc::SYS_setfsgid, caller.gid) {
        return Err(nfsstat3::NFS3ERR_SERVERFAULT);
    }
    if caller.uid != 0 && !set_fs_id(libc::SYS_setfsuid, caller.uid) {
        return Err(nfsstat3::NFS3ERR_SERVERFAULT);
    }
    Ok(assumed)
}

impl Drop for Assumed {
    fn drop(&mut self) {
        let root_again =
            (self.uid == 0 || set_fs_id(libc::SYS_setfsuid, 0)) && (self.gid == 0 || set_fs_id(libc::SYS_setfsgid, 0));
        if !root_again {
            // A thread with a foreign identity must not serve another call. Root may always
            // become root again, so this says that the process was never root.
            tracing::error!("a thread cannot become root again: NFS needs root");
        }
    }
}

fn set_groups(groups: &[u32]) -> Result<(), nfsstat3> {
    GROUPS.with_borrow_mut(|current| {
        if current.as_deref() == Some(groups) {
            return Ok(());
        }
        let gids: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        rustix::thread::set_thread_groups(&gids).map_err(|_| nfsstat3::NFS3ERR_SERVERFAULT)?;
        *current = Some(groups.to_vec());
        Ok(())
    })
}

/// `setfsuid` and `setfsgid` tell no errors, only the id before: so ask again
/// with an id that is none, which changes nothing.
fn set_fs_id(call: libc::c_long, id: u32) -> bool {
    // SAFETY: both calls take one integer and touch no memory of ours.
    unsafe {
        libc::syscall(call, id);
        libc::syscall(call, u32::MAX) as u32 == id
    }
}
