//! Cases that pass on a local ext4 and cannot on a client's root, each with the reason.

use crate::verdict::Known;

/// They make a character device 0:0, which is overlayfs's own mark for what was removed (its whiteout): the kernel makes none in an
/// overlay (`ovl_mknod`: EPERM). Devices of other numbers are judged by `tests/nfs_linux`, those of blocks here too.
const WHITEOUT: &str = "a character device 0:0";

pub const KNOWN: [Known; 44] = [
    // RFC 1813 §2.6: a time's seconds have 32 bits, so 2^32 is one too many; the client stores its largest instead.
    ("pjdfstest utimensat::y2038", "a time after February 2106"),
    // RFC 1813 has no OPEN: the client renames what is open and removed (".nfs…"), so it has one link until it is closed.
    // The C library's table of limits by file system type has ext4, and not NFS (glibc, `statfs_link_max`): no call tells it.
    ("pjdfstest link::link_count_max", "the suite is not told how many links a file may have, and skips it"),
    ("pjdfstest unlink::open_file_not_freed", "an open file that was removed has one link"),
    ("pjdfstest chmod::change_perm::char", WHITEOUT),
    ("pjdfstest chmod::enotdir_component::char", WHITEOUT),
    ("pjdfstest chmod::failed_chmod_unchanged_ctime::char", WHITEOUT),
    ("pjdfstest chmod::update_ctime::char", WHITEOUT),
    ("pjdfstest chown::enotdir_component::char", WHITEOUT),
    ("pjdfstest chown::lchown::enotdir_component::char", WHITEOUT),
    ("pjdfstest link::changed_ctime_success::char", WHITEOUT),
    ("pjdfstest link::eexist_dest_exists::char", WHITEOUT),
    ("pjdfstest link::enotdir_component_either::char", WHITEOUT),
    ("pjdfstest link::remove_link::char", WHITEOUT),
    ("pjdfstest link::share_metadata::char", WHITEOUT),
    ("pjdfstest link::unchanged_ctime_fails::char", WHITEOUT),
    ("pjdfstest mkdir::eexist_file_exists::char", WHITEOUT),
    ("pjdfstest mkdir::enotdir_component::char", WHITEOUT),
    ("pjdfstest mkfifo::eexist_file_exists::char", WHITEOUT),
    ("pjdfstest mkfifo::enotdir_component::char", WHITEOUT),
    ("pjdfstest mknod::eexist_file_exists::char", WHITEOUT),
    ("pjdfstest mknod::enotdir_comp_char_block::char", WHITEOUT),
    ("pjdfstest mknod::enotdir_component::char", WHITEOUT),
    ("pjdfstest mknod::privileged::eexist_file_exists::char", WHITEOUT),
    ("pjdfstest open::eexist_file_exists::char", WHITEOUT),
    ("pjdfstest rename::changed_ctime_success::char", WHITEOUT),
    ("pjdfstest rename::eexist_enotempty_to_non_empty::char", WHITEOUT),
    ("pjdfstest rename::eisdir_to_dir_from_not_dir::char", WHITEOUT),
    ("pjdfstest rename::enotdir_component_either::char", WHITEOUT),
    ("pjdfstest rename::enotdir_from_dir_to_not_dir::char", WHITEOUT),
    ("pjdfstest rename::preserve_metadata::char", WHITEOUT),
    ("pjdfstest rename::to_multiply_linked::char", WHITEOUT),
    ("pjdfstest rename::unchanged_ctime_failed::char", WHITEOUT),
    ("pjdfstest rmdir::eexist_enotempty_non_empty_dir::char", WHITEOUT),
    ("pjdfstest rmdir::enotdir_component::char", WHITEOUT),
    ("pjdfstest symlink::create_symlink::char", WHITEOUT),
    ("pjdfstest symlink::eexist_file_exists::char", WHITEOUT),
    ("pjdfstest symlink::enotdir_component::char", WHITEOUT),
    ("pjdfstest truncate::enotdir_component::char", WHITEOUT),
    ("pjdfstest unlink::enotdir_component::char", WHITEOUT),
    ("pjdfstest unlink::remove_type::char", WHITEOUT),
    ("pjdfstest unlink::unchanged_ctime_failed::char", WHITEOUT),
    ("pjdfstest unlink::update_ctime_success::char", WHITEOUT),
    ("pjdfstest unlink::update_mtime_ctime_success_folder::char", WHITEOUT),
    ("pjdfstest utimensat::changes_timestamps::char", WHITEOUT),
];
