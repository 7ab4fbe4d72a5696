//! A capture file for tcpdump and Wireshark (pcapng, draft-ietf-opsawg-pcapng):
//! one section, one Ethernet interface, packets with comments.
//!
//! Pure. Little-endian; times in nanoseconds.

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const ETHERNET: u16 = 1;

const OPTION_END: u16 = 0;
const COMMENT: u16 = 1;
const IF_DESCRIPTION: u16 = 3;
const SHB_APPLICATION: u16 = 4;
const IF_NAME: u16 = 2;
const IF_RESOLUTION: u16 = 9;

/// Longest comment, in bytes.
const MAX_COMMENT: usize = 200;

#[derive(Debug)]
pub struct Capture(Vec<u8>);

impl Capture {
    /// `about` describes how the packets came in.
    pub fn new(about: &str) -> Self {
        let mut capture = Self(Vec::new());
        let mut section = 0x1a2b_3c4d_u32.to_le_bytes().to_vec();
        section.extend(1_u16.to_le_bytes());
        section.extend(0_u16.to_le_bytes());
        // Its length is not told.
        section.extend(u64::MAX.to_le_bytes());
        option(&mut section, SHB_APPLICATION, concat!("rootstock ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(&mut section, OPTION_END, &[]);
        capture.block(SECTION, &section);
        let mut interface = ETHERNET.to_le_bytes().to_vec();
        interface.extend([0; 2]);
        interface.extend(0_u32.to_le_bytes());
        option(&mut interface, IF_NAME, b"rootstock");
        option(&mut interface, IF_DESCRIPTION, about.as_bytes());
        option(&mut interface, IF_RESOLUTION, &[9]);
        option(&mut interface, OPTION_END, &[]);
        capture.block(INTERFACE, &interface);
        capture
    }

    /// One frame, of which `length` bytes were on the wire.
    pub fn packet(&mut self, at: u64, frame: &[u8], length: usize, comment: &str) {
        let mut body = 0_u32.to_le_bytes().to_vec();
        body.extend(((at >> 32) as u32).to_le_bytes());
        body.extend((at as u32).to_le_bytes());
        for length in [frame.len(), length.max(frame.len())] {
            body.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        }
        body.extend(frame);
        pad(&mut body);
        if !comment.is_empty() {
            let mut end = comment.len().min(MAX_COMMENT);
            while !comment.is_char_boundary(end) {
                end -= 1;
            }
            option(&mut body, COMMENT, &comment.as_bytes()[..end]);
            option(&mut body, OPTION_END, &[]);
        }
        self.block(PACKET, &body);
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    fn block(&mut self, kind: u32, body: &[u8]) {
        // Type, both lengths, and the body, which is padded already.
        let length = u32::try_from(body.len() + 12).unwrap_or(u32::MAX).to_le_bytes();
        self.0.extend(kind.to_le_bytes());
        self.0.extend(length);
        self.0.extend(body);
        self.0.extend(length);
    }
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(1000)];
    body.extend(code.to_le_bytes());
    body.extend(u16::try_from(value.len()).unwrap_or(0).to_le_bytes());
    body.extend(value);
    pad(body);
}

/// To a multiple of four bytes; every block's body begins at one.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_says_its_length_at_both_ends() {
        let mut capture = Capture::new("a test, länger");
        for length in 0..9 {
            capture.packet(1_700_000_000_000_000_000, &vec![7; length], 1500, "pi-1: loading ü");
            capture.packet(0, &vec![7; length], 0, "");
        }
        let bytes = capture.finish();
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let (mut at, mut kinds) = (0, Vec::new());
        while at < bytes.len() {
            let length = word(at + 4) as usize;
            assert!(length.is_multiple_of(4) && word(at + length - 4) as usize == length);
            kinds.push(word(at));
            at += length;
        }
        assert_eq!(kinds[..2], [SECTION, INTERFACE]);
        assert!(kinds.len() == 20 && kinds[2..].iter().all(|kind| *kind == PACKET));
    }

    #[test]
    fn long_comments_are_cut_between_characters() {
        let mut capture = Capture::new("");
        capture.packet(0, &[], 0, &"ü".repeat(5000));
        assert!(capture.finish().len() < 600);
    }
}
