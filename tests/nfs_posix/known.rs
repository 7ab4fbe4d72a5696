//! Cases that pass on a local ext4 and cannot on a client's root, each with the reason.

use crate::verdict::Known;

/// They make a character device 0:0, which is overlayfs's own mark for what was removed (its whiteout): the kernel makes none in an
/// overlay (`ovl_mknod`: EPERM). Devices of other numbers are judged by `tests/nfs_linux`, those of blocks here too.
const WHITEOUT: &str = "a character device 0:0";

pub const KNOWN: [Known; 44] = [
    // RFC 1813 §2.6: a time's seconds have 32 bits, so 2^32 is one too many; the client stores its largest instead.
    ("utimensat::y2038", "a time after February 2106"),
    // RFC 1813 has no OPEN: the client renames what is open and removed (".nfs…"), so it has one link until it is closed.
    // The C library's table of limits by file system type has ext4, and not NFS (glibc, `statfs_link_max`): no call tells it.
    ("link::link_count_max", "the suite is not told how many links a file may have, and skips it"),
    ("unlink::open_file_not_freed", "an open file that was removed has one link"),
    ("chmod::change_perm::char", WHITEOUT),
    ("chmod::enotdir_component::char", WHITEOUT),
    ("chmod::failed_chmod_unchanged_ctime::char", WHITEOUT),
    ("chmod::update_ctime::char", WHITEOUT),
    ("chown::enotdir_component::char", WHITEOUT),
    ("chown::lchown::enotdir_component::char", WHITEOUT),
    ("link::changed_ctime_success::char", WHITEOUT),
    ("link::eexist_dest_exists::char", WHITEOUT),
    ("link::enotdir_component_either::char", WHITEOUT),
    ("link::remove_link::char", WHITEOUT),
    ("link::share_metadata::char", WHITEOUT),
    ("link::unchanged_ctime_fails::char", WHITEOUT),
    ("mkdir::eexist_file_exists::char", WHITEOUT),
    ("mkdir::enotdir_component::char", WHITEOUT),
    ("mkfifo::eexist_file_exists::char", WHITEOUT),
    ("mkfifo::enotdir_component::char", WHITEOUT),
    ("mknod::eexist_file_exists::char", WHITEOUT),
    ("mknod::enotdir_comp_char_block::char", WHITEOUT),
    ("mknod::enotdir_component::char", WHITEOUT),
    ("mknod::privileged::eexist_file_exists::char", WHITEOUT),
    ("open::eexist_file_exists::char", WHITEOUT),
    ("rename::changed_ctime_success::char", WHITEOUT),
    ("rename::eexist_enotempty_to_non_empty::char", WHITEOUT),
    ("rename::eisdir_to_dir_from_not_dir::char", WHITEOUT),
    ("rename::enotdir_component_either::char", WHITEOUT),
    ("rename::enotdir_from_dir_to_not_dir::char", WHITEOUT),
    ("rename::preserve_metadata::char", WHITEOUT),
    ("rename::to_multiply_linked::char", WHITEOUT),
    ("rename::unchanged_ctime_failed::char", WHITEOUT),
    ("rmdir::eexist_enotempty_non_empty_dir::char", WHITEOUT),
    ("rmdir::enotdir_component::char", WHITEOUT),
    ("symlink::create_symlink::char", WHITEOUT),
    ("symlink::eexist_file_exists::char", WHITEOUT),
    ("symlink::enotdir_component::char", WHITEOUT),
    ("truncate::enotdir_component::char", WHITEOUT),
    ("unlink::enotdir_component::char", WHITEOUT),
    ("unlink::remove_type::char", WHITEOUT),
    ("unlink::unchanged_ctime_failed::char", WHITEOUT),
    ("unlink::update_ctime_success::char", WHITEOUT),
    ("unlink::update_mtime_ctime_success_folder::char", WHITEOUT),
    ("utimensat::changes_timestamps::char", WHITEOUT),
];
