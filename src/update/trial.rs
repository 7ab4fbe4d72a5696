//! What the firmware told of this start, and asking it to try the other slot once. I/O.
//!
//! The firmware keeps the one-shot flag "tryboot" and is asked by a property message
//! (tag 0x00038064). Raspberry Pi's own kernels send it when reboot(2) has the words
//! `0 tryboot`; mainline's, which the image has, drop them. So the helper `rootstock
//! tryboot` sends it itself, through `/dev/mem`, when everything else has ended; the
//! words are given to reboot(2) all the same.
//!
//! The message lies in ordinary memory that the GPU can reach (`fdt` says which). That a
//! real Pi takes it was never seen; one that does not starts the old slot again.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::{Slot, fdt};

/// Where the firmware leaves what it did ("Device trees", `/chosen/bootloader`).
const BOOTLOADER: &str = "/proc/device-tree/chosen/bootloader";
/// The whole device tree as the firmware gave it, with where its mailbox is.
const TREE: &str = "/sys/firmware/fdt";
const COMPATIBLE: &str = "/proc/device-tree/compatible";
/// Longest of both that is read.
const MAX_PROPERTY_BYTES: usize = 1024;

/// Written by `serve` in PID 1's folder once the system on trial is kept.
pub const KEPT_FILE: &str = "update-kept";

/// How this system came to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    /// `None` where the firmware does not say, or was not the one that started us.
    pub running: Option<Slot>,
    /// By the one-shot flag: the next start is the other slot's, unless this one is kept.
    pub on_trial: bool,
}

impl Told {
    /// By the device tree; nothing where there is none.
    pub fn here() -> Self {
        let read = |name: &str| fs::read(Path::new(BOOTLOADER).join(name)).unwrap_or_default();
        Self::of(&read("partition"), &read("tryboot"))
    }

    fn of(partition: &[u8], tryboot: &[u8]) -> Self {
        let cell = |bytes: &[u8]| bytes.try_into().map(u32::from_be_bytes).ok();
        let running = cell(partition).and_then(|number| u8::try_from(number).ok()).and_then(Slot::of_partition);
        Self { running, on_trial: running.is_some() && cell(tryboot).is_some_and(|flag| flag != 0) }
    }
}

/// The words of the board's `compatible`, most exact first.
pub fn compatible() -> Vec<String> {
    let bytes = fs::read(COMPATIBLE).unwrap_or_default();
    let bytes = bytes.get(..MAX_PROPERTY_BYTES).unwrap_or(&bytes);
    bytes.split(|&byte| byte == 0).filter(|w| !w.is_empty()).map(|w| String::from_utf8_lossy(w).into_owned()).collect()
}

#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error("this machine has no Raspberry Pi's mailbox")]
    NoMailbox,
    #[error("cannot reach the mailbox by /dev/mem (iomem=relaxed?)")]
    Memory(#[source] io::Error),
    #[error("no memory that the GPU can reach was to be had")]
    NoLowMemory,
    #[error("the firmware did not answer")]
    Silent,
    #[error("the firmware knows no tryboot")]
    Refused,
}

/// The property message "set reboot flags" with the tryboot flag.
const SET_REBOOT_FLAGS: u32 = 0x0003_8064;
const TRYBOOT: u32 = 1;

/// Message layout: bytes, code, tag, value bytes, tag code, value, end.
fn request() -> [u32; 7] {
    [28, 0, SET_REBOOT_FLAGS, 4, 0, TRYBOOT, 0]
}

/// What the firmware made of it: bit 31 of the message's code and of the tag's.
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code))] // only a Pi asks
fn accepted(code: u32, tag_code: u32) -> Result<(), TrialError> {
    match (code, tag_code >> 31) {
        (0, _) => Err(TrialError::Silent),
        (0x8000_0000, 1) => Ok(()),
        _ => Err(TrialError::Refused),
    }
}

/// Sets the flag. The restart that follows tries the other slot.
pub fn ask() -> Result<(), TrialError> {
    let mut tree = Vec::new();
    let read = File::open(TREE).and_then(|file| file.take(fdt::MAX_BYTES as u64).read_to_end(&mut tree));
    read.map_err(|_| TrialError::NoMailbox)?;
    let place = fdt::mailbox(&tree).ok_or(TrialError::NoMailbox)?;
    let memory = File::options().read(true).write(true).open("/dev/mem").map_err(TrialError::Memory)?;
    mailbox::property(&memory, place, &request())
}

#[cfg(target_arch = "aarch64")]
mod mailbox {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;
    use std::ptr::NonNull;
    use std::time::{Duration, Instant};

    use super::super::fdt::Mailbox;
    use super::{TrialError, accepted};

    const PAGE_BYTES: usize = 4096;
    /// Registers of mailbox 1, which the ARM writes, and of both.
    const WRITE: usize = 0x20;
    const STATUS: usize = 0x38;
    const ALL_BYTES: usize = 0x40;
    const FULL: u32 = 1 << 31;
    const PROPERTY_CHANNEL: u32 = 8;
    /// Memory is taken in such pieces until a page of it lies low; user memory comes from the top.
    const PIECE_BYTES: usize = 64 << 20;
    const MAX_PIECES: usize = 256;
    const ANSWER_WITHIN: Duration = Duration::from_secs(1);

    /// A mapping that is never taken back: the machine ends, or the process does.
    fn map(bytes: usize, flags: i32, fd: i32, at: u64) -> Option<NonNull<u8>> {
        let at = libc::off_t::try_from(at).ok()?;
        // SAFETY: a new mapping at a place of the kernel's choice touches nothing that exists.
        let place =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, fd, at) };
        if place == libc::MAP_FAILED { None } else { NonNull::new(place.cast()) }
    }

    /// A page of ours that the GPU can see, and what it calls it.
    fn low_page(seen: &Mailbox) -> Option<(NonNull<u32>, u32)> {
        let pagemap = File::open("/proc/self/pagemap").ok()?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE | libc::MAP_LOCKED;
        for _ in 0..MAX_PIECES {
            let piece = map(PIECE_BYTES, flags, -1, 0)?;
            for page in 0..PIECE_BYTES / PAGE_BYTES {
                // SAFETY: inside the mapping that was just made.
                let place = unsafe { piece.add(page * PAGE_BYTES) };
                let mut entry = [0; 8];
                let at = place.as_ptr() as u64 / PAGE_BYTES as u64 * 8;
                pagemap.read_exact_at(&mut entry, at).ok()?;
                // Bits 0 to 54 are the page frame, bit 63 says that it is there (pagemap.rst).
                let entry = u64::from_le_bytes(entry);
                let physical = (entry & ((1 << 55) - 1)) * PAGE_BYTES as u64;
                if entry >> 63 == 1
                    && physical != 0
                    && let Some(bus) = seen.bus_address(physical, PAGE_BYTES as u64)
                {
                    return Some((place.cast(), bus));
                }
            }
        }
        None
    }

    /// Writes the page's first line back to memory and forgets it, since the GPU does not see the ARM's caches.
    fn clean(place: NonNull<u32>) {
        // SAFETY: cache maintenance of an address that is mapped; Linux lets user space do it (SCTLR_EL1.UCI).
        unsafe { core::arch::asm!("dc civac, {0}", "dsb sy", in(reg) place.as_ptr()) };
    }

    pub fn property(memory: &File, place: Mailbox, request: &[u32; 7]) -> Result<(), TrialError> {
        let fault = || TrialError::Memory(std::io::Error::last_os_error());
        let inside = usize::try_from(place.registers % PAGE_BYTES as u64).unwrap_or(PAGE_BYTES);
        if inside % 4 != 0 || inside + ALL_BYTES > PAGE_BYTES {
            return Err(TrialError::NoMailbox);
        }
        let at = place.registers - inside as u64;
        let registers = map(PAGE_BYTES, libc::MAP_SHARED, memory.as_raw_fd(), at).ok_or_else(fault)?;
        // SAFETY: inside the page that is mapped, with all behind it.
        let registers = unsafe { registers.add(inside) };
        let (page, bus) = low_page(&place).ok_or(TrialError::NoLowMemory)?;
        // SAFETY: both registers are aligned and inside the page that is mapped.
        let (write, status) = unsafe { (registers.add(WRITE).cast::<u32>(), registers.add(STATUS).cast::<u32>()) };
        // SAFETY: `page` is 4096 bytes that only we write; `code` and `tag_code` are inside it, and what the GPU writes
        // there is any bits, which a u32 may be.
        let (code, tag_code) = unsafe {
            for (index, &word) in request.iter().enumerate() {
                page.add(index).write_volatile(word);
            }
            (page.add(1), page.add(4))
        };
        clean(page);
        let until = Instant::now() + ANSWER_WITHIN;
        // SAFETY: reading and writing these registers is what they are for; the address is of memory that stays ours.
        unsafe {
            while status.read_volatile() & FULL != 0 {
                if Instant::now() >= until {
                    return Err(TrialError::Silent);
                }
            }
            write.write_volatile(bus | PROPERTY_CHANNEL);
        }
        loop {
            clean(page);
            // SAFETY: as above.
            let (answer, tag) = unsafe { (code.read_volatile(), tag_code.read_volatile()) };
            if answer != 0 || Instant::now() >= until {
                return accepted(answer, tag);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(not(target_arch = "aarch64"))]
mod mailbox {
    use std::fs::File;

    use super::super::fdt::Mailbox;
    use super::TrialError;

    pub fn property(_: &File, _: Mailbox, _: &[u32; 7]) -> Result<(), TrialError> {
        Err(TrialError::NoMailbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmwares_words_are_cells_and_anything_else_is_nothing() {
        let check = |partition: &[u8], tryboot: &[u8], running, on_trial| {
            assert_eq!(Told::of(partition, tryboot), Told { running, on_trial });
        };
        check(&[0, 0, 0, 2], &[0, 0, 0, 0], Some(Slot::A), false);
        check(&[0, 0, 0, 3], &[0, 0, 0, 1], Some(Slot::B), true);
        check(&[0, 0, 0, 3], &[], Some(Slot::B), false);
        // An old loader of the Pi 5 says 0, one that netboots 1.
        check(&[0, 0, 0, 0], &[0, 0, 0, 1], None, false);
        check(&[0, 0, 0, 1], &[0, 0, 0, 1], None, false);
        check(&[], &[], None, false);
        check(&[3], &[1], None, false);
    }

    #[test]
    fn only_a_tag_that_was_answered_counts() {
        assert!(accepted(0x8000_0000, 0x8000_0004).is_ok());
        assert!(matches!(accepted(0, 0), Err(TrialError::Silent)));
        assert!(matches!(accepted(0x8000_0000, 0), Err(TrialError::Refused)));
        assert!(matches!(accepted(0x8000_0001, 0x8000_0004), Err(TrialError::Refused)));
        assert_eq!(request().len() * 4, 28);
    }
}
