//! Which part of a file lies in the page cache: reading that waits for no stick.
//!
//! I/O. A mapping that nothing is read through, so that neither a file that shrinks nor a stick that goes can hurt,
//! and mincore(2) on it. Boot trees are overlays, and those know neither `RWF_NOWAIT` (EOPNOTSUPP) nor cachestat(2)
//! (no page is ever there; both Linux 6.18), but they do map the file beneath.

use std::ffi::c_void;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

/// Pages that are asked after at once.
const MAX_PAGES: usize = 16;

/// A file's page cache, as far as the file went when this was made.
pub struct Resident {
    address: NonNull<c_void>,
    bytes: usize,
    page_bytes: usize,
}

// SAFETY: the address is only handed to the kernel, which takes it from any thread.
unsafe impl Send for Resident {}

impl Resident {
    /// `None` where the file cannot be mapped: then nothing is known of it.
    pub fn of(file: &File, size: u64) -> Option<Self> {
        let bytes = usize::try_from(size).ok()?;
        // SAFETY: the kernel chooses a place that nothing else has; bytes of 0 are an error, not a mapping.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        // SAFETY: no memory is passed.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let mapped = (address != libc::MAP_FAILED).then_some(address).and_then(NonNull::new)?;
        // Made first, so that it is unmapped whatever the kernel says of its pages.
        let resident = Self { address: mapped, bytes, page_bytes: usize::try_from(page_bytes).unwrap_or(0) };
        resident.page_bytes.is_power_of_two().then_some(resident)
    }

    /// Whether all of these bytes can be read at once. Of a file that we could not write the kernel says yes always.
    pub fn holds(&self, at: u64, length: usize) -> bool {
        let Ok(at) = usize::try_from(at) else { return false };
        let start = at & !(self.page_bytes - 1);
        let Some(end) = at.checked_add(length).filter(|&end| end <= self.bytes && end > start) else { return false };
        let mut pages = [0_u8; MAX_PAGES];
        let Some(pages) = pages.get_mut(..(end - start).div_ceil(self.page_bytes)) else { return false };
        // SAFETY: the bytes are within the mapping, from the beginning of a page, and there is one of `pages` for each page.
        let told = unsafe { libc::mincore(self.address.as_ptr().byte_add(start), end - start, pages.as_mut_ptr()) };
        told == 0 && pages.iter().all(|page| page & 1 == 1)
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing points into it.
        unsafe { libc::munmap(self.address.as_ptr(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_was_written_is_held_and_what_was_never_read_is_not() {
        const PART: usize = 1 << 16;
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 * PART as u64 + 5).unwrap();
        file.write_all_at(&[1; PART], PART as u64).unwrap();
        let resident = Resident::of(&file, 3 * PART as u64 + 5).unwrap();
        let at = |part: usize, more: usize| (part * PART + more) as u64;
        assert!(!resident.holds(at(0, 0), 100) && !resident.holds(at(2, 0), 1));
        assert!(resident.holds(at(1, 0), PART / 2) && resident.holds(at(1, 7), 1));
        assert!(!resident.holds(at(1, PART - 1), 2), "one byte of each");
        assert!(!resident.holds(at(3, 0), 6) && !resident.holds(u64::MAX, 2), "beyond its end");
        assert!(
            !resident.holds(at(1, 0), PART) || resident.page_bytes * MAX_PAGES >= PART,
            "more than is asked at once"
        );
        file.set_len(10).unwrap();
        assert!(!resident.holds(at(1, 0), 1), "cut off meanwhile");
        assert!(Resident::of(&file, 0).is_none());
    }
}
