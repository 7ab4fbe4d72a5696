//! Mounting: overlays, loop devices over image files and block ranges, and
//! taking everything below the run folder down again.
//!
//! I/O. Everything is mounted `nodev,nosuid`: what lies on a stick was written
//! by clients and strangers, and the appliance itself only hands it out over
//! NFS, which opens no device node and runs nothing. Device nodes and setuid
//! bits in a client's root are kept as they are; only *this* kernel ignores
//! them. Not `noexec`: it would make `faccessat(X_OK)` lie to NFS's ACCESS.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

/// What went wrong with a mount, and where.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("making the mount point {path}")]
    MakePoint { path: PathBuf, source: io::Error },
    #[error("mounting {what} on {path}")]
    Mount { what: String, path: PathBuf, source: io::Error },
    #[error(
        "overlay on {path} without the NFS export feature: the file system below has no UUID or cannot give handles"
    )]
    NoHandles { path: PathBuf },
    #[error("unmounting {path}")]
    Unmount { path: PathBuf, source: io::Error },
    #[error("a loop device for {path}")]
    Loop { path: PathBuf, source: io::Error },
    #[error("reading the list of mounts")]
    List { source: io::Error },
}

const SAFE: MountFlags = MountFlags::NODEV.union(MountFlags::NOSUID).union(MountFlags::NOATIME);

/// Mounts a block device; the mount point is made.
pub fn device(device: &Path, point: &Path, kind: &str, read_only: bool, options: &str) -> Result<(), MountError> {
    make_point(point)?;
    let flags = if read_only { SAFE | MountFlags::RDONLY } else { SAFE };
    let options = CString::new(options).unwrap_or_default();
    rustix::mount::mount(device, point, kind, flags, &*options).map_err(|source| MountError::Mount {
        what: format!("{} ({kind})", device.display()),
        path: point.to_owned(),
        source: source.into(),
    })
}

/// Mounts memory, at most so many bytes.
pub fn memory(point: &Path, bytes: u64) -> Result<(), MountError> {
    make_point(point)?;
    let options = CString::new(format!("size={bytes},mode=700,nr_inodes=64")).unwrap_or_default();
    rustix::mount::mount("tmpfs", point, "tmpfs", SAFE, &*options).map_err(|source| MountError::Mount {
        what: "memory".into(),
        path: point.to_owned(),
        source: source.into(),
    })
}

/// Mounts a folder a second time.
pub fn bind(folder: &Path, point: &Path) -> Result<(), MountError> {
    make_point(point)?;
    let failed = |source: rustix::io::Errno| MountError::Mount {
        what: folder.display().to_string(),
        path: point.to_owned(),
        source: source.into(),
    };
    rustix::mount::mount_bind(folder, point).map_err(failed)?;
    // A bind mount that shares its events would pass our mounts on to others.
    rustix::mount::mount_change(point, rustix::mount::MountPropagationFlags::PRIVATE).map_err(failed)?;
    rustix::mount::mount_remount(point, MountFlags::BIND | SAFE, c"").map_err(failed)
}

/// The layers of one overlay.
#[derive(Debug)]
pub struct Layers<'a> {
    /// The topmost first; at least one.
    pub lower: &'a [PathBuf],
    pub upper: &'a Path,
    pub work: &'a Path,
}

/// Mounts an overlay whose file handles outlive remounts.
///
/// `index` and `nfs_export` make `name_to_handle_at` handles that decode again
/// after a copy-up and after a remount, and keep hard links together;
/// `redirect_dir` lets a client rename a directory of the image, which would
/// be EXDEV without it; `metacopy` excludes `nfs_export`. All are given in
/// words, because a kernel's defaults differ.
///
/// There is always an upper layer, also for a read-only root: without one the
/// kernel gives handles only with `redirect_dir=nofollow`, and then a folder
/// that was renamed in the layers is missing from the tree (tried 2026-11-22,
/// Linux 6.18).
pub fn overlay(layers: &Layers<'_>, point: &Path) -> Result<(), MountError> {
    make_point(point)?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={},index=on,nfs_export=on,xino=on,redirect_dir=on,metacopy=off",
        joined(layers.lower),
        layers.upper.display(),
        layers.work.display(),
    );
    let options = CString::new(options).unwrap_or_default();
    rustix::mount::mount("overlay", point, "overlay", SAFE, &*options).map_err(|source| MountError::Mount {
        what: "overlay".into(),
        path: point.to_owned(),
        source: source.into(),
    })?;
    // The kernel only warns and goes on without `nfs_export` when a layer
    // cannot give handles; a client of such a root would see ESTALE later.
    // Asked for one as NFS will ask: such an overlay gives none that it could
    // find again, and says so (tried 2026-11-22, Linux 6.18). Its options
    // would tell too, but only in the list of all mounts.
    if gives_handles(point) {
        Ok(())
    } else {
        unmount(point)?;
        Err(MountError::NoHandles { path: point.to_owned() })
    }
}

/// `struct file_handle` with room for what any file system gives (MAX_HANDLE_SZ).
#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; 128],
}

fn gives_handles(point: &Path) -> bool {
    let Ok(path) = CString::new(point.as_os_str().as_encoded_bytes()) else { return false };
    let mut handle = FileHandle { bytes: 128, kind: 0, handle: [0; 128] };
    let mut mount_id: libc::c_int = 0;
    // SAFETY: the path ends with a zero byte, the handle has the kernel's
    // layout and the 128 bytes that it announces, and all outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_name_to_handle_at, libc::AT_FDCWD, path.as_ptr(), &raw mut handle, &raw mut mount_id, 0)
    };
    result == 0
}

/// Mounts layers to look at, the topmost first: nothing can be written, and
/// handles are not asked for. One layer alone is shown as it is.
pub fn read_only_overlay(lower: &[PathBuf], point: &Path) -> Result<(), MountError> {
    if let [alone] = lower {
        return bind(alone, point);
    }
    make_point(point)?;
    let options = format!("lowerdir={},redirect_dir=follow,metacopy=off,xino=on", joined(lower));
    let options = CString::new(options).unwrap_or_default();
    rustix::mount::mount("overlay", point, "overlay", SAFE | MountFlags::RDONLY, &*options)
        .map_err(|source| MountError::Mount { what: "overlay".into(), path: point.to_owned(), source: source.into() })
}

fn joined(lower: &[PathBuf]) -> String {
    lower.iter().map(|lower| lower.display().to_string()).collect::<Vec<_>>().join(":")
}

/// Lets a mount take writes or not; what is mounted stays the same, with the
/// handles that were given of it.
pub fn set_read_only(point: &Path, read_only: bool) -> Result<(), MountError> {
    let flags = if read_only { SAFE | MountFlags::RDONLY } else { SAFE };
    rustix::mount::mount_remount(point, MountFlags::BIND | flags, c"").map_err(|source| MountError::Mount {
        what: "it again".into(),
        path: point.to_owned(),
        source: source.into(),
    })
}

/// Whether a file system is mounted there. Asked of the point itself: with
/// many clients the list of all mounts takes long to read.
pub fn is_mounted(point: &Path) -> Result<bool, MountError> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(CWD, point, flags, StatxFlags::empty()) {
        Ok(found) if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
            Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        // What is mounted there may be dead, its stick pulled.
        Ok(_) | Err(_) => Ok(list()?.iter().any(|mount| mount.point == point)),
    }
}

fn make_point(point: &Path) -> Result<(), MountError> {
    std::fs::create_dir_all(point).map_err(|source| MountError::MakePoint { path: point.to_owned(), source })
}

/// Unmounts; when something still uses it, takes it out of sight at once and
/// lets the kernel finish when the last user is gone.
pub fn unmount(point: &Path) -> Result<(), MountError> {
    match rustix::mount::unmount(point, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::BUSY) => detach(point),
        Err(source) => Err(MountError::Unmount { path: point.to_owned(), source: source.into() }),
    }
}

/// Takes a mount out of sight without waiting for its users.
pub fn detach(point: &Path) -> Result<(), MountError> {
    rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        .map_err(|source| MountError::Unmount { path: point.to_owned(), source: source.into() })
}

/// One line of `mountinfo` (proc(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    pub point: PathBuf,
}

/// All mounts of this thread's namespace, in the order they were made.
pub fn list() -> Result<Vec<Mounted>, MountError> {
    // Of the thread: tests put a thread of their own into a mount namespace.
    let text = std::fs::read_to_string("/proc/thread-self/mountinfo").map_err(|source| MountError::List { source })?;
    Ok(parse(&text))
}

fn parse(text: &str) -> Vec<Mounted> {
    let line = |line: &str| {
        let (front, _) = line.split_once(" - ")?;
        Some(Mounted { point: unescape(front.split(' ').nth(4)?) })
    };
    text.lines().filter_map(line).collect()
}

/// Undoes the octal escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()).filter(|_| first == b'\\') {
            Some(byte) => (bytes.push(byte), rest = &after[3..]).1,
            None => (bytes.push(first), rest = after).1,
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// Takes down everything mounted below `folder`, newest first. What an earlier
/// run left behind when it was killed goes this way too.
pub fn unmount_below(folder: &Path, lazily: bool) -> Result<(), MountError> {
    let mut first_error = Ok(());
    for mount in list()?.iter().rev().filter(|mount| mount.point.starts_with(folder)) {
        let result = if lazily { detach(&mount.point) } else { unmount(&mount.point) };
        if first_error.is_ok() {
            first_error = result;
        }
    }
    first_error
}

// include/uapi/linux/loop.h; all numbers are in the machine's byte order.
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// A loop device that goes away by itself when it is closed and unmounted.
#[derive(Debug)]
pub struct LoopDevice {
    pub path: PathBuf,
    _open: File,
}

/// Which bytes of the backing file a loop device shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Window {
    pub offset: u64,
    /// 0: to the end.
    pub bytes: u64,
}

/// Others may take the free device between the question and the claim.
const LOOP_ATTEMPTS: u32 = 32;

/// Sets up a loop device over a file or over a range of a block device.
pub fn loop_device(backing: &Path, window: Window, read_only: bool) -> Result<LoopDevice, MountError> {
    let flags = if read_only { LO_FLAGS_READ_ONLY } else { 0 };
    make_loop(backing, window, flags)
}

/// The same to read and write, past the page cache of what lies below; where
/// the alignment does not allow that, the kernel goes through the cache.
pub fn loop_device_direct(backing: &Path, window: Window) -> Result<LoopDevice, MountError> {
    make_loop(backing, window, LO_FLAGS_DIRECT_IO)
}

fn make_loop(backing: &Path, window: Window, flags: u32) -> Result<LoopDevice, MountError> {
    let read_only = flags & LO_FLAGS_READ_ONLY != 0;
    let failed = |source: io::Error| MountError::Loop { path: backing.to_owned(), source };
    let file = OpenOptions::new().read(true).write(!read_only).open(backing).map_err(failed)?;
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control").map_err(failed)?;
    for _ in 0..LOOP_ATTEMPTS {
        // SAFETY: LOOP_CTL_GET_FREE takes no argument; the descriptor is open.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
        if number < 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = OpenOptions::new().read(true).write(!read_only).open(&path).map_err(failed)?;
        let flags = flags | LO_FLAGS_AUTOCLEAR;
        let config = LoopConfig {
            fd: file.as_fd().as_raw_fd() as u32,
            block_size: 0,
            info: LoopInfo64 {
                device: 0,
                inode: 0,
                rdevice: 0,
                offset: window.offset,
                sizelimit: window.bytes,
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags,
                file_name: [0; 64],
                crypt_name: [0; 64],
                encrypt_key: [0; 32],
                init: [0; 2],
            },
            reserved: [0; 8],
        };
        // SAFETY: `config` has the layout of struct loop_config and outlives the call,
        // which only reads it.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &config) };
        if result == 0 {
            return Ok(LoopDevice { path, _open: device });
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(failed(error));
        }
    }
    Err(failed(io::Error::from_raw_os_error(libc::EBUSY)))
}

/// Mounts an image's root read-only. `noload`: the journal is not replayed, so
/// not one byte of the image is written.
pub fn image_root(file: &Path, window: Window, point: &Path) -> Result<(), MountError> {
    let image = loop_device(file, window, true)?;
    device(&image.path, point, "ext4", true, "noload,errors=continue")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_read_with_their_escapes() {
        let text = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
                    broken line\n37 36 0:5 / /a rw - overlay overlay rw,nfs_export=on\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].point, Path::new("/mnt 2"));
        assert_eq!(mounts[1].point, Path::new("/a"));
    }

    #[test]
    fn the_loop_structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<LoopInfo64>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }
}
