//! CRC-32 (ISO-HDLC, reflected 0xedb88320) as GPT and xz use it, and CRC-32C (Castagnoli) as ext4 does.
//!
//! Pure. Only for headers of some kilobytes: bit by bit, no table.

/// The checksum of `bytes`.
pub fn crc32(bytes: &[u8]) -> u32 {
    reflected(bytes, 0xedb8_8320)
}

/// The same with Castagnoli's polynomial. ext4 stores it without the last inversion.
pub fn crc32c(bytes: &[u8]) -> u32 {
    reflected(bytes, 0x82f6_3b78)
}

fn reflected(bytes: &[u8], polynomial: u32) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (polynomial & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_values_of_the_catalogue_come_out() {
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(super::crc32c(b"123456789"), 0xe306_9283);
    }
}
