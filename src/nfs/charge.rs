//! What a change costs the client's account: asked before it is done, settled by the file's blocks behind it.
//!
//! I/O. Everything here is nothing for a tree without an account. Blocks are what `stat` tells, which on ext4
//! counts those that are promised and not yet placed.
//!
//! A file of the image is copied up whole by its first change, whatever that is. Its handle tells that it may be one;
//! that it was copied by this very call is told by the time at which its inode was made, which is another one then.

use std::os::fd::BorrowedFd;
use std::sync::MutexGuard;

use nfsserve::nfs::nfsstat3;
use rustix::fs::{AtFlags, SeekFrom, Stat, StatVfs, StatxFlags};
use rustix::io::Errno;

use super::export::OpenExport;
use super::file::{Birth, File};
use super::handle::Handle;
use crate::quota::{Amount, Claim, Figures, Look, Refusal, View};

/// ext4's block on every store that we make; elsewhere more or less is claimed than what is settled then.
const BLOCK: u64 = 4096;
/// A new name: a block for itself, if it is a directory or a long link, and one for the directory that it stands in.
const NEW_FILE: Amount = Amount { bytes: 2 * BLOCK as i64, files: 1 };

fn status(refusal: Refusal) -> nfsstat3 {
    match refusal {
        Refusal::Quota => nfsstat3::NFS3ERR_DQUOT,
        Refusal::Space => nfsstat3::NFS3ERR_NOSPC,
    }
}

#[allow(clippy::unnecessary_cast)] // the widths of `Stat`'s fields differ between architectures
fn occupied(stat: &Stat) -> i64 {
    (stat.st_blocks as i64).saturating_mul(512)
}

/// What the file system has now. An error is no reason to refuse: the change will meet it itself.
fn figures(export: &OpenExport) -> Option<Figures> {
    rustix::fs::fstatvfs(&export.root).ok().map(|vfs| Figures::of(&vfs))
}

/// Claims exactly so much; nothing for a tree without an account.
fn claim(export: &OpenExport, want: Amount) -> Result<Option<Claim<'_>>, nfsstat3> {
    let fresh = || figures(export);
    let claimed = export.account.as_deref().map(|account| account.claim(want, Look::Exact, &fresh));
    claimed.transpose().map_err(status)
}

/// A change of a file that may copy it up.
#[must_use]
pub struct Change<'a>(Option<Changing<'a>>);

struct Changing<'a> {
    claim: Claim<'a>,
    birth: Option<Birth>,
    /// What it occupied, where its growth is counted too.
    before: Option<i64>,
}

/// Before a file is opened to be written to, or gets another name: only its being copied up is counted.
pub fn copy_up<'a>(export: &'a OpenExport, handle: &Handle, file: &File, stat: &Stat) -> Result<Change<'a>, nfsstat3> {
    if export.account.is_none() || file.is_written() || !handle.may_be_lower() {
        return Ok(Change(None));
    }
    copying(export, handle.is_regular(), occupied(stat), file.birth(), None)
}

/// Before attributes are set, the size among them: called with the file's lock held.
pub fn change<'a>(export: &'a OpenExport, handle: &Handle, file: &File, stat: &Stat) -> Result<Change<'a>, nfsstat3> {
    if export.account.is_none() {
        return Ok(Change(None));
    }
    let copies = !file.is_written() && handle.may_be_lower();
    let birth = if copies { file.birth() } else { None };
    copying(export, copies && handle.is_regular(), occupied(stat), birth, Some(occupied(stat)))
}

/// The same as `copy_up` for a file that only a name is known of.
pub fn copy_up_at<'a>(
    export: &'a OpenExport,
    handle: Option<&Handle>,
    directory: BorrowedFd<'_>,
    name: &[u8],
) -> Result<Change<'a>, nfsstat3> {
    let lower = export.account.is_some() && handle.is_some_and(Handle::may_be_lower);
    match lower.then(|| born_at(directory, name)).flatten() {
        Some((birth, bytes, regular)) => copying(export, regular, bytes, Some(birth), None),
        None => Ok(Change(None)),
    }
}

fn copying(
    export: &OpenExport,
    copies_data: bool,
    bytes: i64,
    birth: Option<Birth>,
    before: Option<i64>,
) -> Result<Change<'_>, nfsstat3> {
    let claim = claim(export, Amount::bytes(if copies_data { bytes } else { 0 }))?;
    Ok(Change(claim.map(|claim| Changing { claim, birth, before })))
}

impl Change<'_> {
    pub fn settle(self, file: &File) {
        let Some(Changing { claim, birth, before }) = self.0 else { return };
        // Gone or unreadable: nothing is known, so nothing is counted.
        let Ok(after) = file.stat() else { return };
        let copied = birth.is_some() && file.birth() != birth;
        settle(claim, copied, before, occupied(&after));
    }

    pub fn settle_at(self, directory: BorrowedFd<'_>, name: &[u8]) {
        let Some(Changing { claim, birth, before }) = self.0 else { return };
        let Some((now, after, _)) = born_at(directory, name) else { return };
        settle(claim, birth.is_some_and(|birth| birth != now), before, after);
    }
}

fn settle(claim: Claim<'_>, copied: bool, before: Option<i64>, after: i64) {
    claim.settle(match (copied, before) {
        // One more inode, too.
        (true, _) => Amount { bytes: after, files: 1 },
        (false, Some(before)) => Amount::bytes(after - before),
        (false, None) => Amount::default(),
    });
}

/// When it was made, what it occupies, and whether it is a regular file.
fn born_at(directory: BorrowedFd<'_>, name: &[u8]) -> Option<(Birth, i64, bool)> {
    let flags = StatxFlags::BTIME | StatxFlags::BASIC_STATS;
    let statx = rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, flags).ok()?;
    let regular = u32::from(statx.stx_mode) & 0o170_000 == 0o100_000;
    let bytes = i64::try_from(statx.stx_blocks).ok()?.saturating_mul(512);
    Some(((statx.stx_btime.tv_sec, statx.stx_btime.tv_nsec), bytes, regular))
}

/// How much of a WRITE may be done.
#[must_use]
pub struct Room<'a> {
    pub bytes: usize,
    held: Option<Held<'a>>,
}

struct Held<'a> {
    claim: Claim<'a>,
    before: i64,
    /// Near a limit: the next one knows what this one leaves.
    _order: Option<MutexGuard<'a, ()>>,
}

/// Before a WRITE, with the file's lock held. Far from any limit it costs two counters; near one it is
/// looked which blocks the file has already, and the write is cut to what fits.
pub fn write<'a>(
    export: &'a OpenExport,
    writer: BorrowedFd<'_>,
    offset: u64,
    length: usize,
) -> Result<Room<'a>, nfsstat3> {
    let whole = Room { bytes: length, held: None };
    let Some(account) = export.account.as_deref() else { return Ok(whole) };
    let Ok(stat) = rustix::fs::fstat(writer) else { return Ok(whole) };
    let (before, fresh) = (occupied(&stat), || figures(export));
    let room = |bytes, claim, order| Ok(Room { bytes, held: Some(Held { claim, before, _order: order }) });
    let end = offset.saturating_add(length as u64);
    let most = Amount::bytes((up(end) - down(offset)) as i64);
    if let Ok(claim) = account.claim(most, Look::Loose, &fresh) {
        return room(length, claim, None);
    }
    let order = account.order();
    let Some(figures) = figures(export) else { return Ok(whole) };
    let (left, refusal) = account.left(&figures);
    let (bytes, growth) = fit(offset, length, left, |from| rustix::fs::seek(writer, from));
    if bytes == 0 && length > 0 {
        return Err(status(refusal));
    }
    let claim = account.claim(Amount::bytes(growth as i64), Look::Exact, &fresh).map_err(status)?;
    room(bytes, claim, Some(order))
}

impl Room<'_> {
    pub fn settle(self, writer: BorrowedFd<'_>) {
        let Some(held) = self.held else { return };
        let Ok(after) = rustix::fs::fstat(writer) else { return };
        held.claim.settle(Amount::bytes(occupied(&after) - held.before));
    }
}

fn down(at: u64) -> u64 {
    at & !(BLOCK - 1)
}

fn up(at: u64) -> u64 {
    down(at.saturating_add(BLOCK - 1))
}

/// How many bytes from `offset` on fit where no more than `left` may be added, and how many are
/// added then: the blocks of the range that the file has not yet. Pure but for `seek`.
fn fit(offset: u64, length: usize, left: u64, seek: impl Fn(SeekFrom) -> Result<u64, Errno>) -> (usize, u64) {
    let end = up(offset.saturating_add(length as u64));
    let (mut at, mut growth) = (down(offset), 0);
    while at < end {
        // Behind the last data there is none (ENXIO); where nobody knows, all of it is taken for new.
        let data = seek(SeekFrom::Data(at)).map_or(end, |data| down(data).clamp(at, end));
        let (hole, room) = (data - at, down(left - growth));
        if hole > room {
            let fits = (at + room).saturating_sub(offset);
            return (usize::try_from(fits).unwrap_or(length).min(length), growth + room);
        }
        growth += hole;
        if data < end {
            // At least one block, so that this ends.
            at = seek(SeekFrom::Hole(data)).map_or(end, |hole| up(hole).max(data + BLOCK));
        } else {
            at = end;
        }
    }
    (length, growth)
}

/// A file that is about to be made.
#[must_use]
pub struct NewFile<'a>(Option<Claim<'a>>);

pub fn new_file(export: &OpenExport) -> Result<NewFile<'_>, nfsstat3> {
    claim(export, NEW_FILE).map(NewFile)
}

impl NewFile<'_> {
    pub fn settle(self) {
        if let Some(claim) = self.0 {
            claim.settle(Amount { bytes: 0, files: 1 });
        }
    }
}

/// What a new file occupies at once: a directory's first block, a long link's.
pub fn made(export: &OpenExport, stat: &Stat) {
    if let Some(account) = &export.account {
        account.count(Amount::bytes(occupied(stat)));
    }
}

/// A directory before and after a change of its names.
pub fn directory(export: &OpenExport, before: &Stat, after: &Stat) {
    if let Some(account) = &export.account {
        account.count(Amount::bytes(occupied(after) - occupied(before)));
    }
}

/// A name that is about to lose its file.
pub struct Going<'a>(Option<(&'a OpenExport, Leaves)>);

enum Leaves {
    Room(Amount),
    /// Of a file that may be the image's: perhaps nothing.
    Doubt(u64),
}

impl<'a> Going<'a> {
    pub fn nothing() -> Self {
        Self(None)
    }

    pub fn of(export: &'a OpenExport, directory: BorrowedFd<'_>, name: &[u8], handle: Option<&Handle>) -> Self {
        let Some(handle) = handle.filter(|_| export.account.is_some()) else { return Self(None) };
        let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { return Self(None) };
        let is_directory = stat.st_mode & 0o170_000 == 0o040_000;
        // Another name keeps it.
        if !is_directory && stat.st_nlink > 1 {
            return Self(None);
        }
        let bytes = occupied(&stat);
        Self(Some((
            export,
            match handle.may_be_lower() {
                true => Leaves::Doubt(u64::try_from(bytes).unwrap_or(0)),
                false => Leaves::Room(Amount { bytes: -bytes, files: -1 }),
            },
        )))
    }

    pub fn gone(self) {
        let Some((export, leaves)) = self.0 else { return };
        let Some(account) = &export.account else { return };
        match leaves {
            Leaves::Room(amount) => account.count(amount),
            Leaves::Doubt(bytes) => account.doubt(bytes),
        }
    }
}

/// FSSTAT's figures: the client's own, or the file system's where nobody counts.
pub fn view(export: &OpenExport, vfs: &StatVfs) -> View {
    match &export.account {
        Some(account) => account.view(&Figures::of(vfs)),
        None => View {
            bytes: [vfs.f_blocks, vfs.f_bfree, vfs.f_bavail].map(|blocks| blocks.saturating_mul(vfs.f_frsize)),
            files: [vfs.f_files, vfs.f_ffree, vfs.f_favail],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with blocks where `data` says, in units of blocks.
    fn check(data: &[(u64, u64)], offset: u64, length: usize, left: u64, expected: (usize, u64)) {
        let found = fit(offset, length, left * BLOCK, |from| match from {
            SeekFrom::Data(at) => {
                let next = data.iter().find(|(_, end)| end * BLOCK > at).ok_or(Errno::NXIO)?;
                Ok(at.max(next.0 * BLOCK))
            }
            SeekFrom::Hole(at) => {
                let around = data.iter().find(|(start, end)| (start * BLOCK..end * BLOCK).contains(&at));
                Ok(around.unwrap().1 * BLOCK)
            }
            _ => unreachable!(),
        });
        assert_eq!(found, (expected.0, expected.1 * BLOCK), "{data:?} {offset}+{length}, {left} left");
    }

    #[test]
    fn a_write_is_cut_to_the_blocks_that_are_left() {
        // Behind the end.
        check(&[], 0, 8192, 2, (8192, 2));
        check(&[], 0, 8192, 1, (4096, 1));
        check(&[], 0, 8192, 0, (0, 0));
        check(&[], 100, 5000, 1, (3996, 1));
        check(&[(0, 1)], 100, 5000, 0, (3996, 0));
        // Over what is there already nothing is added.
        check(&[(0, 4)], 0, 16384, 0, (16384, 0));
        check(&[(0, 4)], 5000, 100, 0, (100, 0));
        // Holes between.
        check(&[(0, 1), (2, 3)], 0, 16384, 9, (16384, 2));
        check(&[(0, 1), (2, 3)], 0, 16384, 1, (12288, 1));
        check(&[(0, 1), (2, 3)], 4096, 4096, 0, (0, 0));
        check(&[], 0, 0, 0, (0, 0));
    }
}
