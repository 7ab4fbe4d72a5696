//! `pieeprom.sig`: what a loader or `recovery.bin` holds an image against
//! before it writes it.
//!
//! Pure. Lines: the SHA-256 of the image in hexadecimal; `ts: ` and seconds
//! since 1970, of which a loader takes only a later one than its last update's;
//! `target-soc: `, by which a board leaves another family's image alone. It is a
//! check sum against damage, no proof of origin.

use sha2::{Digest, Sha256};

use super::Soc;

/// The text for this image.
pub fn make(image: &[u8], timestamp: u32, soc: Soc) -> String {
    format!("{}\nts: {timestamp}\ntarget-soc: {}\n", sha256(image), soc.number())
}

/// Whether the first line of a signature is this image's check sum.
pub fn matches(signature: &[u8], image: &[u8]) -> bool {
    let line = signature.split(|&b| b == b'\n').next().unwrap_or_default();
    line.trim_ascii().eq_ignore_ascii_case(sha256(image).as_bytes())
}

/// The check sum in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_check_sum_time_and_family() {
        // The check sum of "abc" is FIPS 180-4's own example.
        let text = make(b"abc", 1_790_000_000, Soc::Bcm2712);
        let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(text, format!("{sum}\nts: 1790000000\ntarget-soc: 2712\n"));
        assert!(matches(text.as_bytes(), b"abc"));
        assert!(matches(sum.to_uppercase().as_bytes(), b"abc"));
        assert!(!matches(text.as_bytes(), b"abd"));
        assert!(!matches(b"", b"abc"));
    }
}
