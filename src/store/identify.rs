//! What a partition holds, told by its first 4 KiB.
//!
//! Pure: bytes in, `Content` out. Not a check of the file system: only who
//! should be asked to mount it.

/// Bytes from the start of a partition that are enough to identify it.
pub const HEAD_BYTES: usize = 4096;

/// The label that makes an ext4 file system a store.
pub const STORE_LABEL: &str = "ROOTSTOCK";

/// What lies in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Ext4(Ext4),
    ExFat,
    /// FAT12, FAT16 or FAT32.
    Fat,
    /// All zero as far as we looked.
    Blank,
    Unknown,
}

/// The fields of an ext2, ext3 or ext4 superblock that we need
/// (Documentation/filesystems/ext4, "Super Block").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ext4 {
    pub label: String,
    pub uuid: [u8; 16],
    /// Size by the superblock's own count.
    pub bytes: u64,
    /// What its files take, by the superblock's own counts: without free inodes and the journal, which may be all
    /// zeros. Nothing where the journal holds changes, because the counts are older then.
    pub files_bytes: u64,
    /// `INCOMPAT_RECOVER`: the journal holds changes that were not replayed.
    pub needs_recovery: bool,
    /// Incompatible features that no kernel we know of mounts.
    pub unknown_features: u32,
}

/// Incompatible features of ext4 that Linux 6.x mounts: compression, filetype,
/// recover, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, dirdata is not,
/// csum_seed, largedir, inline_data, encrypt, casefold.
const KNOWN_INCOMPAT: u32 =
    0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x1_0000 | 0x2_0000;

/// Reads the superblock at byte 1024; `None` without its magic.
pub fn ext4(head: &[u8]) -> Option<Ext4> {
    let sb = head.get(1024..2048)?;
    let u16_at = |at: usize| u16::from_le_bytes([sb[at], sb[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes([sb[at], sb[at + 1], sb[at + 2], sb[at + 3]]);
    if u16_at(56) != 0xef53 {
        return None;
    }
    let incompat = u32_at(96);
    let high_blocks = if incompat & 0x80 == 0 { 0 } else { u64::from(u32_at(336)) };
    let blocks = u64::from(u32_at(4)) | high_blocks << 32;
    let block_bytes = 1024u64 << u32_at(24).min(6);
    let bytes = blocks.saturating_mul(block_bytes);
    let needs_recovery = incompat & 0x4 != 0;
    let high_free = if incompat & 0x80 == 0 { 0 } else { u64::from(u32_at(344)) };
    let free = (u64::from(u32_at(12)) | high_free << 32).saturating_mul(block_bytes);
    let inode_bytes = u64::from(u16_at(88));
    let (inode_tables, free_inodes) = (u64::from(u32_at(0)) * inode_bytes, u64::from(u32_at(16)) * inode_bytes);
    // `s_jnl_blocks` is a copy of the journal's inode, its size at the end.
    let has_journal = u32_at(92) & 0x4 != 0;
    let journal = if has_journal { u64::from(u32_at(332)) | u64::from(u32_at(328)) << 32 } else { 0 };
    let files = bytes.saturating_sub(free).saturating_sub(free_inodes.min(inode_tables)).saturating_sub(journal);
    let label = sb[120..136].split(|&b| b == 0).next().unwrap_or_default();
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&sb[104..120]);
    Some(Ext4 {
        label: String::from_utf8_lossy(label).into_owned(),
        uuid,
        bytes,
        files_bytes: if needs_recovery { 0 } else { files },
        needs_recovery,
        unknown_features: incompat & !KNOWN_INCOMPAT,
    })
}

/// Looks at the first bytes of a partition or of a whole disk.
pub fn identify(head: &[u8]) -> Content {
    if let Some(ext4) = ext4(head) {
        return Content::Ext4(ext4);
    }
    let has = |at: usize, text: &[u8]| head.get(at..at + text.len()) == Some(text);
    if has(3, b"EXFAT   ") && has(510, &[0x55, 0xaa]) {
        return Content::ExFat;
    }
    // The type text is informative only by Microsoft's specification, but
    // every formatter writes it; the jump tells a boot sector from an MBR.
    let jump = head.first() == Some(&0xeb) || head.first() == Some(&0xe9);
    if jump && has(510, &[0x55, 0xaa]) && (has(82, b"FAT32") || has(54, b"FAT1") || has(54, b"FAT  ")) {
        return Content::Fat;
    }
    if head.iter().all(|&b| b == 0) { Content::Blank } else { Content::Unknown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock(label: &[u8], incompat: u32) -> Vec<u8> {
        let mut head = vec![0; HEAD_BYTES];
        head[1024 + 56..1024 + 58].copy_from_slice(&0xef53u16.to_le_bytes());
        head[1024 + 4..1024 + 8].copy_from_slice(&1000u32.to_le_bytes());
        head[1024 + 24] = 2;
        head[1024 + 96..1024 + 100].copy_from_slice(&incompat.to_le_bytes());
        head[1024 + 120..1024 + 120 + label.len()].copy_from_slice(label);
        head
    }

    #[test]
    fn an_ext4_superblock_tells_label_size_and_features() {
        let found = ext4(&superblock(b"ROOTSTOCK", 0x2c2)).unwrap();
        assert_eq!((found.label.as_str(), found.bytes), (STORE_LABEL, 4_096_000));
        assert!(!found.needs_recovery && found.unknown_features == 0);
        let found = ext4(&superblock(b"sixteen bytes ok", 0x8000_0004)).unwrap();
        assert_eq!(found.label, "sixteen bytes ok");
        assert!(found.needs_recovery && found.unknown_features == 0x8000_0000);
    }

    #[test]
    fn what_an_ext4s_files_take_is_its_blocks_but_for_free_ones_free_inodes_and_the_journal() {
        let mut head = superblock(b"rootfs", 0x2c2);
        let mut put = |at: usize, value: u32| head[1024 + at..1028 + at].copy_from_slice(&value.to_le_bytes());
        // 1000 blocks of 4 KiB, 400 of them free; 512 inodes of 256 bytes, 448 free; a journal of 1 MiB.
        for (at, value) in [(12, 400), (0, 512), (16, 448), (88, 256), (92, 0x3c), (332, 1 << 20)] {
            put(at, value);
        }
        assert_eq!(ext4(&head).unwrap().files_bytes, 600 * 4096 - 448 * 256 - (1 << 20));
        // Not replayed: the counts are those of before.
        head[1024 + 96] |= 4;
        assert_eq!(ext4(&head).unwrap().files_bytes, 0);
        head[1024 + 12..1024 + 16].fill(0xff);
        assert_eq!(ext4(&head).unwrap().files_bytes, 0);
    }

    #[test]
    fn boot_sectors_are_told_from_partition_tables() {
        let mut fat = vec![0; HEAD_BYTES];
        fat[0] = 0xeb;
        fat[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(identify(&fat), Content::Unknown);
        fat[82..87].copy_from_slice(b"FAT32");
        assert_eq!(identify(&fat), Content::Fat);
        fat[3..11].copy_from_slice(b"EXFAT   ");
        assert_eq!(identify(&fat), Content::ExFat);
        assert_eq!(identify(&vec![0; HEAD_BYTES]), Content::Blank);
    }

    #[test]
    fn short_or_hostile_heads_are_unknown_and_nothing_panics() {
        assert_eq!(identify(&[1]), Content::Unknown);
        assert_eq!(identify(&vec![0xff; HEAD_BYTES]), Content::Unknown);
        let mut sb = superblock(b"", u32::MAX);
        sb[1024 + 24] = 0xff;
        sb[1024 + 336..1024 + 340].fill(0xff);
        assert!(ext4(&sb).is_some());
    }
}
