//! The datagrams of TFTP, both ways.
//!
//! Pure. RFC 1350 (§5), 2347 (options), 2348 (`blksize`), 2349 (`timeout`,
//! `tsize`), 7440 (`windowsize`). Numbers are big-endian.

/// The option values that are asked for, in the client's order and spelled as
/// numbers; unknown options and values out of range are ignored, as RFC 2347
/// asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// 8 to 65464 bytes.
    Blksize(u16),
    /// The file's size is wanted.
    Tsize,
    /// 1 to 255 seconds.
    Timeout(u8),
    /// 1 to 65535 blocks.
    Windowsize(u16),
}

/// How many options of one request are looked at.
const MAX_OPTIONS: usize = 16;

/// A read or write request. `path` holds no NUL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub path: Vec<u8>,
    /// Mode `octet`: the only one a Pi uses and the only one served.
    pub octet: bool,
    pub asked: Vec<Asked>,
}

/// A datagram from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    Rrq(Request),
    Wrq(Request),
    Ack(u16),
    Error(u16),
    /// DATA or OACK: only a server sends these to a reader.
    Other,
}

/// Not a datagram of TFTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Reads a datagram. Of a request every byte is checked to be there; what
/// follows the last complete option is ignored.
pub fn parse(datagram: &[u8]) -> Result<Packet, Malformed> {
    let (opcode, rest) = datagram.split_first_chunk::<2>().ok_or(Malformed)?;
    let number = || rest.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes)).ok_or(Malformed);
    match u16::from_be_bytes(*opcode) {
        1 => request(rest).map(Packet::Rrq),
        2 => request(rest).map(Packet::Wrq),
        4 => number().map(Packet::Ack),
        5 => number().map(Packet::Error),
        3 | 6 => Ok(Packet::Other),
        _ => Err(Malformed),
    }
}

fn request(rest: &[u8]) -> Result<Request, Malformed> {
    let (path, rest) = text(rest).ok_or(Malformed)?;
    let (mode, mut rest) = text(rest).ok_or(Malformed)?;
    let mut asked: Vec<Asked> = Vec::new();
    for _ in 0..MAX_OPTIONS {
        let Some((name, after)) = text(rest) else { break };
        let Some((value, after)) = text(after) else { break };
        rest = after;
        if let Some(option) = option(name, value) {
            let same = |other: &Asked| std::mem::discriminant(other) == std::mem::discriminant(&option);
            if !asked.iter().any(same) {
                asked.push(option);
            }
        }
    }
    Ok(Request { path: path.to_vec(), octet: mode.eq_ignore_ascii_case(b"octet"), asked })
}

fn option(name: &[u8], value: &[u8]) -> Option<Asked> {
    let number: u64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    match name.to_ascii_lowercase().as_slice() {
        b"blksize" if (8..=65464).contains(&number) => u16::try_from(number).ok().map(Asked::Blksize),
        b"tsize" => Some(Asked::Tsize),
        b"timeout" if number > 0 => u8::try_from(number).ok().map(Asked::Timeout),
        b"windowsize" if number > 0 => u16::try_from(number).ok().map(Asked::Windowsize),
        _ => None,
    }
}

/// The bytes before the first NUL, and those behind it.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&b| b == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// Bytes of a DATA datagram before its content.
pub const DATA_HEADER_BYTES: usize = 4;

/// The head of DATA for this block number.
pub fn data_header(block: u16) -> [u8; DATA_HEADER_BYTES] {
    let [high, low] = block.to_be_bytes();
    [0, 3, high, low]
}

/// ERROR. Codes: RFC 1350, appendix: 0 see message, 1 not found, 2 access
/// violation, 4 illegal operation, 5 unknown TID.
pub fn error(code: u16, message: &str) -> Vec<u8> {
    let mut datagram = vec![0, 5];
    datagram.extend(code.to_be_bytes());
    datagram.extend(message.bytes().filter(|&b| b != 0));
    datagram.push(0);
    datagram
}

/// OACK of these options and values.
pub fn oack(options: &[(&str, u64)]) -> Vec<u8> {
    let mut datagram = vec![0, 6];
    for (name, value) in options {
        datagram.extend(format!("{name}\0{value}\0").bytes());
    }
    datagram
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rrq(path: &str, octet: bool, asked: &[Asked]) -> Result<Packet, Malformed> {
        Ok(Packet::Rrq(Request { path: path.into(), octet, asked: asked.to_vec() }))
    }

    fn check(datagram: &[u8], expected: Result<Packet, Malformed>) {
        assert_eq!(parse(datagram), expected, "{}", datagram.escape_ascii());
    }

    #[test]
    fn requests_are_read_as_each_loader_sends_them() {
        check(b"\0\x01bootcode.bin\0octet\0", rrq("bootcode.bin", true, &[]));
        check(
            b"\0\x019ffefdef/start4.elf\0octet\0tsize\x000\0blksize\x001024\0",
            rrq("9ffefdef/start4.elf", true, &[Asked::Tsize, Asked::Blksize(1024)]),
        );
        check(
            b"\0\x01x\0OCTET\0BLKSIZE\x001468\0timeout\x003\0windowsize\x0016\0",
            rrq("x", true, &[Asked::Blksize(1468), Asked::Timeout(3), Asked::Windowsize(16)]),
        );
        check(b"\0\x01x\0netascii\0", rrq("x", false, &[]));
        check(b"\0\x02x\0octet\0", Ok(Packet::Wrq(Request { path: b"x".to_vec(), octet: true, asked: vec![] })));
    }

    #[test]
    fn options_unknown_repeated_cut_or_out_of_range_are_ignored() {
        check(b"\0\x01x\0octet\0multicast\0\0blksize\x007\0timeout\x000\0windowsize\x000\0", rrq("x", true, &[]));
        check(b"\0\x01x\0octet\0blksize\x0099999999999999999999\0blksize\0-8\0", rrq("x", true, &[]));
        check(b"\0\x01x\0octet\0blksize\x00512\0blksize\x001024\0", rrq("x", true, &[Asked::Blksize(512)]));
        check(b"\0\x01x\0octet\0tsize\x000\0blksize\x0010", rrq("x", true, &[Asked::Tsize]));
        let many = [&b"\0\x01x\0octet\0"[..], &b"a\0b\0".repeat(MAX_OPTIONS), b"tsize\x000\0"].concat();
        check(&many, rrq("x", true, &[]));
    }

    #[test]
    fn the_other_datagrams_are_read() {
        check(b"\0\x04\x01\x02", Ok(Packet::Ack(0x0102)));
        check(b"\0\x05\0\0Early terminate\0", Ok(Packet::Error(0)));
        check(b"\0\x03\0\x01abc", Ok(Packet::Other));
    }

    #[test]
    fn what_is_cut_or_unknown_is_malformed() {
        for datagram in [&b""[..], b"\0", b"\0\x01", b"\0\x01x", b"\0\x01x\0octet", b"\0\x04\0", b"\0\x07", b"\x01\x01"]
        {
            check(datagram, Err(Malformed));
        }
    }

    #[test]
    fn replies_are_written_as_the_rfc_draws_them() {
        assert_eq!(data_header(0xfffe), *b"\0\x03\xff\xfe");
        assert_eq!(error(1, "File not found"), b"\0\x05\0\x01File not found\0");
        assert_eq!(oack(&[("tsize", 7), ("blksize", 1024)]), b"\0\x06tsize\x007\0blksize\x001024\0");
    }

    proptest::proptest! {
        #[test]
        fn no_datagram_panics(datagram: Vec<u8>) {
            if let Ok(Packet::Rrq(request)) = parse(&datagram) {
                proptest::prop_assert!(!request.path.contains(&0) && request.asked.len() <= 4);
            }
        }
    }
}
