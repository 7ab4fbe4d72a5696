//! File handles as the NFS server keeps them, taken and opened by the kernel's own calls.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file handle with its type, as the NFS server keeps it.
pub fn handle(path: &Path) -> Vec<u8> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut buffer = vec![0u8; 8 + 128];
    buffer[..4].copy_from_slice(&128u32.to_ne_bytes());
    let mut mount = 0;
    // SAFETY: the buffer has the header and the 128 bytes that it announces.
    let result =
        unsafe { libc::name_to_handle_at(libc::AT_FDCWD, path.as_ptr(), buffer.as_mut_ptr().cast(), &mut mount, 0) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    let bytes = u32::from_ne_bytes(buffer[..4].try_into().unwrap()) as usize;
    buffer.truncate(8 + bytes);
    buffer
}

/// Its inode.
pub fn open(root: &Path, handle: &[u8]) -> std::io::Result<u64> {
    let root = fs::File::open(root)?;
    let mut buffer = handle.to_vec();
    // SAFETY: the buffer is a handle that name_to_handle_at wrote.
    let fd = unsafe { libc::open_by_handle_at(root.as_raw_fd(), buffer.as_mut_ptr().cast(), libc::O_PATH) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    let inode = fs::metadata(format!("/proc/self/fd/{fd}"))?.ino();
    // SAFETY: the descriptor is ours and not used again.
    unsafe { libc::close(fd) };
    Ok(inode)
}
