//! Images of a loader's flash as the format's description has them, made
//! without the code under test. The loaders in them are noise.

#![allow(dead_code, reason = "each test uses its own part")]

pub const LOADER: u32 = 0x55aa_f00f;
pub const BLOB: u32 = 0x55aa_f33f;
pub const FILE: u32 = 0x55aa_f11f;
pub const PADDING: u32 = 0x55aa_feef;

pub const PI4_BYTES: usize = 524_288;
pub const PI5_BYTES: usize = 2_097_152;

/// What a Pi 4's image says in its bootconf.txt, and a Pi 5's.
pub const PI4_CONFIG: &str = "[all]\nBOOT_UART=0\nWAKE_ON_GPIO=1\nPOWER_OFF_ON_HALT=0\n";
pub const PI5_CONFIG: &str = "[all]\nBOOT_UART=1\nPOWER_OFF_ON_HALT=0\nBOOT_ORDER=0xf461\n";

/// Sections one after the other in erased flash.
pub struct Flash {
    pub bytes: Vec<u8>,
    at: usize,
}

impl Flash {
    pub fn new(size: usize) -> Self {
        Self { bytes: vec![0xff; size], at: 0 }
    }

    pub fn header(&mut self, magic: u32, length: u32) -> &mut Self {
        let mut header = Vec::new();
        header.extend(magic.to_be_bytes());
        header.extend(length.to_be_bytes());
        self.put(&header)
    }

    pub fn section(&mut self, magic: u32, data: &[u8]) -> &mut Self {
        self.header(magic, data.len() as u32).put(data);
        self.at = self.at.next_multiple_of(8);
        self
    }

    pub fn file(&mut self, name: &str, content: &[u8]) -> &mut Self {
        let mut data = [0_u8; 16].to_vec();
        data[..name.len()].copy_from_slice(name.as_bytes());
        data.extend(content);
        self.section(FILE, &data)
    }

    /// A padding section, so that the next one begins at `at`.
    pub fn pad_to(&mut self, at: usize) -> &mut Self {
        let length = at - self.at - 8;
        self.section(PADDING, &vec![0xff; length])
    }

    /// A file in an erase block of its own.
    pub fn block(&mut self, name: &str, content: &[u8]) -> &mut Self {
        let start = self.at;
        self.file(name, content).pad_to(start + 4096)
    }

    pub fn done(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }
}

/// Bytes that are no section, and the same each time.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A Pi 4's, with its bootconf.txt at 0x73000 between other files.
pub fn pi4(config: &str) -> Vec<u8> {
    let mut flash = Flash::new(PI4_BYTES);
    flash.section(LOADER, &noise(90_001)).section(BLOB, &noise(200_003)).pad_to(0x72000);
    flash.block("pubkey.bin", b"").block("bootconf.txt", config.as_bytes()).block("bootconf.sig", b"");
    flash.file("updatetime", &[0; 4]).done()
}

/// An early one, with its bootconf.txt as the last section.
pub fn pi4_config_last(config: &str) -> Vec<u8> {
    let mut flash = Flash::new(PI4_BYTES);
    flash.section(LOADER, &noise(90_001)).pad_to(0x73000);
    flash.file("bootconf.txt", config.as_bytes()).done()
}

/// A Pi 5's of the first years, with one system.
pub fn pi5(config: &str) -> Vec<u8> {
    let mut flash = Flash::new(PI5_BYTES);
    flash.section(LOADER, &noise(120_000)).pad_to(0x20000).section(BLOB, &noise(400_000)).pad_to(0xa4000);
    flash.block("bootconf.txt", config.as_bytes()).block("pubkey.bin", b"");
    flash.file("cacert.der", b"").done()
}

/// A newer Pi 5's: 64 KiB for good, with a copy of the settings in them, then the first system of 988 KiB.
pub fn pi5_two_systems(config: &str) -> Vec<u8> {
    let mut flash = Flash::new(PI5_BYTES);
    flash.section(LOADER, &noise(40_000)).pad_to(0xe000);
    flash.file("bootconf.txt", b"[all]\nBOOT_ORDER=0xf461\n").pad_to(0x10000);
    flash.file("bootsys", &noise(500_000)).pad_to(0xa4000);
    flash.block("bootconf.txt", config.as_bytes()).file("pubkey.bin", b"").pad_to(0x107000).done()
}
