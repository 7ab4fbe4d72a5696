//! CRC-32 (ISO-HDLC, reflected 0xedb88320) as GPT and xz use it.
//!
//! Pure. Only for headers of some kilobytes: bit by bit, no table.

/// The checksum of `bytes`.
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_of_the_catalogue_comes_out() {
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926);
    }
}
