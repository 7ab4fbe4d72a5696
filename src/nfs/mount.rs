//! The MOUNT protocol, version 3 (RFC 1813 appendix I): the first handle of a
//! client's own trees. I/O: opens the tree.
//!
//! A client is told of its own exports only, and gets nothing else.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::export::Exports;
use super::handle::{self, Wire};
use super::peer::Peer;
use super::rpc::{AUTH_SYS, Accept};
use super::xdr::{Cursor, Encoder};
use super::{Event, file};
use crate::directory::{Directory, Export};

pub const PROGRAM: u32 = 100_005;
pub const VERSION: u32 = 3;
/// MNTPATHLEN.
const MAX_PATH: usize = 1024;

/// `mountstat3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MountStat {
    NoEnt = 2,
    Io = 5,
    Acces = 13,
    NotDir = 20,
    NameTooLong = 63,
    ServerFault = 10006,
}

/// Why MNT was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the path is too long")]
    TooLong,
    #[error("the call came from an unprivileged port")]
    Unprivileged,
    #[error("not an export of this client")]
    NotAnExport,
    #[error("its tree is not mounted now")]
    NotMounted,
    #[error("no such directory in the export")]
    NoSuchFolder,
    #[error("not a directory of the export")]
    NotAFolder,
    #[error("the path leads out of the export")]
    LeadsOut,
    #[error("its tree cannot be read")]
    Unreadable,
}

impl Refusal {
    fn stat(self) -> MountStat {
        match self {
            Self::TooLong => MountStat::NameTooLong,
            Self::Unprivileged | Self::NotAnExport | Self::LeadsOut => MountStat::Acces,
            Self::NotMounted => MountStat::ServerFault,
            Self::NoSuchFolder => MountStat::NoEnt,
            Self::NotAFolder => MountStat::NotDir,
            Self::Unreadable => MountStat::Io,
        }
    }
}

pub struct Context<'a> {
    pub exports: &'a Exports,
    pub directory: &'a Directory,
    pub peer: &'a Peer,
    pub privileged: bool,
    pub sink: &'a (dyn Fn(Event) + Send + Sync),
}

/// Answers one call: writes the results of a success, or says what was wrong.
pub fn handle(context: &Context<'_>, procedure: u32, args: &mut Cursor<'_>, reply: &mut Encoder) -> Accept {
    let address = context.peer.address;
    match procedure {
        0 => {}
        1 => {
            // A path over the bound has a status of its own; one over the record is garbage.
            let Ok(path) = args.opaque(usize::MAX) else { return Accept::GarbageArgs };
            match mnt(context, path) {
                Ok((export, wire)) => {
                    context.peer.mounted(&String::from_utf8_lossy(path));
                    reply.u32(0);
                    reply.opaque(wire.as_ref());
                    reply.u32(1);
                    reply.u32(AUTH_SYS);
                    (context.sink)(Event::Mounted { address, tree: export.tree });
                }
                Err(reason) => {
                    reply.u32(reason.stat() as u32);
                    let shown = &path[..path.len().min(MAX_PATH)];
                    let path = String::from_utf8_lossy(shown).into_owned();
                    (context.sink)(Event::MountRefused { address, path, reason });
                }
            }
        }
        2 => {
            for path in context.peer.mounts() {
                reply.bool(true);
                reply.opaque(address.to_string().as_bytes());
                reply.opaque(path.as_bytes());
            }
            reply.bool(false);
        }
        3 => {
            let Ok(path) = args.opaque(usize::MAX) else { return Accept::GarbageArgs };
            if context.peer.unmounted(&String::from_utf8_lossy(path)) {
                (context.sink)(Event::Unmounted { address });
            }
        }
        4 => {
            if context.peer.unmounted_all() {
                (context.sink)(Event::Unmounted { address });
            }
        }
        5 => {
            for export in context.directory.exports(address) {
                reply.bool(true);
                reply.opaque(export.path.as_bytes());
                reply.bool(true);
                reply.opaque(address.to_string().as_bytes());
                reply.bool(false);
            }
            reply.bool(false);
        }
        _ => return Accept::ProcUnavail,
    }
    Accept::Success
}

fn mnt<'a>(context: &'a Context<'_>, path: &[u8]) -> Result<(&'a Export, Wire), Refusal> {
    if path.len() > MAX_PATH {
        return Err(Refusal::TooLong);
    }
    if !context.privileged {
        return Err(Refusal::Unprivileged);
    }
    let (export, below) = find(context.directory.exports(context.peer.address), path).ok_or(Refusal::NotAnExport)?;
    let open = context.exports.get(export).ok_or(Refusal::NotMounted)?;
    let wrong = |errno| match errno {
        Errno::NOENT => Refusal::NoSuchFolder,
        Errno::NOTDIR | Errno::LOOP => Refusal::NotAFolder,
        Errno::NAMETOOLONG => Refusal::TooLong,
        Errno::ACCESS | Errno::XDEV => Refusal::LeadsOut,
        _ => Refusal::Unreadable,
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let below = if below.is_empty() { b"." } else { below };
    let fd = rustix::fs::openat2(&open.root, below, flags, Mode::empty(), resolve).map_err(wrong)?;
    let (handle, _) = file::handle_at(fd.as_fd(), b"", export.id, nfsserve::nfs::ftype3::NF3DIR).map_err(wrong)?;
    Ok((export, handle::encode(&handle, &context.directory.handle_key)))
}

/// The export that `path` names, or lies in, and the rest of the path.
fn find<'e, 'p>(exports: impl Iterator<Item = &'e Export>, path: &'p [u8]) -> Option<(&'e Export, &'p [u8])> {
    let path = path.trim_ascii_end();
    exports.into_iter().find_map(|export| match path.strip_prefix(export.path.as_bytes())? {
        [] => Some((export, &b""[..])),
        [b'/', below @ ..] => {
            let slashes = below.iter().take_while(|byte| **byte == b'/').count();
            Some((export, &below[slashes..]))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Tree;

    fn check(path: &str, expected: Option<(u32, &str)>) {
        let export = |id, path: &str, tree| Export {
            account: None,
            id,
            path: path.into(),
            directory: "/nowhere".into(),
            tree,
            read_only: false,
        };
        let exports = [export(2, "/clients/pi-1/root", Tree::Root), export(3, "/clients/pi-1/boot", Tree::Boot)];
        let found = find(exports.iter(), path.as_bytes());
        assert_eq!(found.map(|(export, below)| (export.id, below)), expected.map(|(id, b)| (id, b.as_bytes())));
    }

    #[test]
    fn a_path_names_an_export_or_a_directory_in_it() {
        check("/clients/pi-1/root", Some((2, "")));
        check("/clients/pi-1/root/", Some((2, "")));
        check("/clients/pi-1/boot//overlays", Some((3, "overlays")));
    }

    #[test]
    fn a_path_that_only_begins_like_an_export_is_not_one() {
        check("/clients/pi-1/rootless", None);
        check("/clients/pi-1", None);
        check("/", None);
        check("", None);
        check("/clients/pi-2/root", None);
    }
}
