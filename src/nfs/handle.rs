//! File handles (`nfs_fh3`): what is inside, and the proof that we made it. Pure.
//!
//! ```text
//! 0      version (1)
//! 1      the kernel's handle type (overlayfs: 0xf8)
//! 2      length n of the kernel's handle, at most 48
//! 3      ftype3 of the file, which no handle ever changes
//! 4..8   export id, big endian
//! 8..    the kernel's handle, n bytes, then n.wrapping_neg() % 4 zeros
//! ..     SipHash-2-4 of all that, keyed, 8 bytes
//! ```
//!
//! There is no table behind it: a handle of an overlay opens again after a
//! restart, a remount and a copy-up (measured 2026-11-22: 32 bytes, so 48 in
//! all), and the key lies in the store. The type is inside so that READ and
//! WRITE open at once: opening a FIFO or a device by mistake would block or act.

use siphasher::sip::SipHasher24;
use std::hash::{Hash, Hasher};

use nfsserve::nfs::ftype3;

use crate::directory::HandleKey;

const VERSION: u8 = 1;
const HEAD: usize = 8;
const MAC: usize = 8;
/// What fits: `NFS3_FHSIZE` less the head and the MAC.
pub const MAX_KERNEL_BYTES: usize = 48;
pub const MAX_HANDLE_BYTES: usize = HEAD + MAX_KERNEL_BYTES + MAC;

/// A file of one export, as the kernel names it. The type is not part of what makes
/// two of them equal: a file has one for life, and who has only a name does not know it yet.
#[derive(Clone, Copy)]
pub struct Handle {
    pub export: u32,
    /// The kernel's `handle_type`.
    pub kind: u8,
    ftype: u8,
    length: u8,
    bytes: [u8; MAX_KERNEL_BYTES],
}

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        (self.export, self.kind, self.kernel_bytes()) == (other.export, other.kind, other.kernel_bytes())
    }
}

impl Eq for Handle {}

impl Hash for Handle {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write(self.kernel_bytes());
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handle({}:{:x}:{:02x?})", self.export, self.kind, self.kernel_bytes())
    }
}

impl Handle {
    /// `None` for a kernel handle that does not fit.
    pub fn new(export: u32, kind: i32, ftype: ftype3, kernel_bytes: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_KERNEL_BYTES];
        bytes.get_mut(..kernel_bytes.len())?.copy_from_slice(kernel_bytes);
        let kind = u8::try_from(kind).ok()?;
        Some(Self { export, kind, ftype: ftype as u8, length: kernel_bytes.len() as u8, bytes })
    }

    pub fn kernel_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Whether both name one file, whatever is known of its type.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.export, self.kind, self.kernel_bytes()) == (other.export, other.kind, other.kernel_bytes())
    }

    pub fn is_directory(&self) -> bool {
        self.ftype == ftype3::NF3DIR as u8
    }

    pub fn is_regular(&self) -> bool {
        self.ftype == ftype3::NF3REG as u8
    }

    pub fn is_symlink(&self) -> bool {
        self.ftype == ftype3::NF3LNK as u8
    }

    /// Whether the file may lie in a lower layer of an overlay: its handle is one of overlayfs (`OVL_FILEID_V1`,
    /// or `V0` before Linux 5.5) and does not say that the file never did (`OVL_FH_FLAG_PATH_UPPER`).
    pub fn may_be_lower(&self) -> bool {
        let header = match self.kind {
            0xf8 => self.kernel_bytes().get(3..),
            0xfb => Some(self.kernel_bytes()),
            _ => return false,
        };
        // fs/overlayfs/overlayfs.h, struct ovl_fb: version, magic, length, flags.
        const PATH_UPPER: u8 = 1 << 2;
        header.and_then(|header| header.get(3)).is_none_or(|flags| flags & PATH_UPPER == 0)
    }
}

/// A handle as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    bytes: [u8; MAX_HANDLE_BYTES],
    length: u8,
}

impl AsRef<[u8]> for Wire {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Why bytes are no handle of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandleError {
    /// Not in our layout.
    Shape,
    /// In our layout, but not made with our key.
    Mac,
}

pub fn encode(handle: &Handle, key: &HandleKey) -> Wire {
    let mut bytes = [0; MAX_HANDLE_BYTES];
    bytes[..4].copy_from_slice(&[VERSION, handle.kind, handle.length, handle.ftype]);
    bytes[4..HEAD].copy_from_slice(&handle.export.to_be_bytes());
    let end = HEAD + usize::from(handle.length);
    bytes[HEAD..end].copy_from_slice(handle.kernel_bytes());
    let end = end + super::xdr::padding(end);
    let mac = mac(&bytes[..end], key);
    bytes[end..end + MAC].copy_from_slice(&mac.to_be_bytes());
    Wire { bytes, length: (end + MAC) as u8 }
}

/// Whether `bytes` have a handle's layout, made with whatever key: all that
/// can be said while no stick has told its key yet.
pub fn well_formed(bytes: &[u8]) -> bool {
    shape(bytes).is_ok()
}

pub fn decode(bytes: &[u8], key: &HandleKey) -> Result<Handle, HandleError> {
    let (handle, signed, given) = shape(bytes)?;
    // Comparing two words takes the same time whatever they hold.
    if mac(signed, key) != given { Err(HandleError::Mac) } else { Ok(handle) }
}

/// The handle, the bytes under the MAC, and the MAC.
fn shape(bytes: &[u8]) -> Result<(Handle, &[u8], u64), HandleError> {
    let (signed, given) = bytes.split_last_chunk::<MAC>().ok_or(HandleError::Shape)?;
    let (&[version, kind, length, ftype, e0, e1, e2, e3], kernel) =
        signed.split_first_chunk::<HEAD>().ok_or(HandleError::Shape)?;
    let expected = usize::from(length) + super::xdr::padding(length.into());
    if version != VERSION || usize::from(length) > MAX_KERNEL_BYTES || kernel.len() != expected {
        return Err(HandleError::Shape);
    }
    let (kernel, zeros) = kernel.split_at(length.into());
    // One file has one handle: clients compare them by their bytes.
    if zeros.iter().any(|byte| *byte != 0) {
        return Err(HandleError::Shape);
    }
    let mut place = [0; MAX_KERNEL_BYTES];
    place[..length.into()].copy_from_slice(kernel);
    let export = u32::from_be_bytes([e0, e1, e2, e3]);
    Ok((Handle { export, kind, ftype, length, bytes: place }, signed, u64::from_be_bytes(*given)))
}

fn mac(bytes: &[u8], key: &HandleKey) -> u64 {
    let mut hasher = SipHasher24::new_with_key(&key.0);
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: HandleKey = HandleKey([9; 16]);

    fn handle(export: u32, bytes: &[u8]) -> Handle {
        Handle::new(export, 0xf8, ftype3::NF3REG, bytes).unwrap()
    }

    #[test]
    fn an_overlay_handle_takes_48_of_64_bytes() {
        assert_eq!(encode(&handle(2, &[1; 32]), &KEY).as_ref().len(), 48);
        assert_eq!(encode(&handle(2, &[1; MAX_KERNEL_BYTES]), &KEY).as_ref().len(), 64);
        assert!(Handle::new(2, 0xf8, ftype3::NF3REG, &[1; MAX_KERNEL_BYTES + 1]).is_none());
    }

    #[test]
    fn a_handle_of_another_key_is_refused() {
        let wire = encode(&handle(2, &[1; 32]), &HandleKey([8; 16]));
        assert_eq!(decode(wire.as_ref(), &KEY), Err(HandleError::Mac));
        assert!(well_formed(wire.as_ref()));
    }

    #[test]
    fn a_handle_has_nothing_but_zeros_behind_the_kernels() {
        let mut wire = encode(&handle(2, &[1; 30]), &KEY).as_ref().to_vec();
        wire[39] = 1;
        let mac = mac(&wire[..40], &KEY);
        wire[40..].copy_from_slice(&mac.to_be_bytes());
        assert_eq!(decode(&wire, &KEY), Err(HandleError::Shape));
    }

    proptest! {
        #[test]
        fn handles_read_back_as_made(export: u32, bytes in proptest::collection::vec(any::<u8>(), 0..=48)) {
            let handle = handle(export, &bytes);
            prop_assert_eq!(decode(encode(&handle, &KEY).as_ref(), &KEY), Ok(handle));
        }

        #[test]
        fn one_changed_bit_or_a_cut_is_refused(bit in 0usize..48 * 8, cut in 0usize..48) {
            let wire = encode(&handle(2, &[1; 32]), &KEY);
            let mut bytes = wire.as_ref().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&bytes, &KEY).is_err());
            prop_assert!(decode(&wire.as_ref()[..cut], &KEY).is_err());
        }

        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(decode(&bytes, &KEY).is_err());
        }
    }
}
