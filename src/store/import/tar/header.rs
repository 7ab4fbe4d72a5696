//! One 512-byte header of a tarball: ustar's fields, GNU's and the old ones.
//!
//! Pure (POSIX.1-2024, "ustar Interchange Format").

use super::DataRun;

pub const BLOCK_BYTES: usize = 512;

/// A header's fields. Names are bytes up to the first zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    /// The type flag as it stands there.
    pub kind: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub bytes: u64,
    pub modified: i64,
    /// Major and minor number.
    pub device: (u32, u32),
}

pub fn parse(block: &[u8; BLOCK_BYTES]) -> Result<Header, &'static str> {
    let stored = number(&block[148..156]).ok_or("a header without a checksum")?;
    if !sums(block).contains(&stored) {
        return Err("a header whose checksum is wrong");
    }
    let unsigned = |range: std::ops::Range<usize>| {
        number(&block[range]).and_then(|value| u32::try_from(value).ok()).ok_or("a header with a number out of range")
    };
    let mut path = text(&block[..100]).to_vec();
    // GNU uses the prefix's place for other things.
    let prefix = text(&block[345..500]);
    if block[257..263] == *b"ustar\0" && !prefix.is_empty() {
        path = [prefix, b"/", &path].concat();
    }
    let bytes = number(&block[124..136]).and_then(|bytes| u64::try_from(bytes).ok());
    let is_device = matches!(block[156], b'3' | b'4');
    Ok(Header {
        path,
        link: text(&block[157..257]).to_vec(),
        kind: block[156],
        mode: unsigned(100..108)? & 0o7777,
        uid: unsigned(108..116)?,
        gid: unsigned(116..124)?,
        bytes: bytes.ok_or("a header without a size")?,
        modified: number(&block[136..148]).unwrap_or(0),
        device: if is_device { (unsigned(329..337)?, unsigned(337..345)?) } else { (0, 0) },
    })
}

/// The sum of all bytes, the checksum's own counted as spaces; unsigned as the
/// standard says, and signed as some old programs did.
fn sums(block: &[u8; BLOCK_BYTES]) -> [i64; 2] {
    let byte = |(at, &byte): (usize, &u8)| if (148..156).contains(&at) { b' ' } else { byte };
    let bytes = || block.iter().enumerate().map(byte);
    [bytes().map(i64::from).sum(), bytes().map(|byte| i64::from(byte as i8)).sum()]
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// An octal number between spaces and zeros (0 when empty), or GNU's base 256.
pub fn number(field: &[u8]) -> Option<i64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Two's complement, big-endian; the mark is the sign's neighbour.
        let start = if first & 0x40 == 0 { i64::from(first & 0x7f) } else { i64::from(first as i8) };
        let join = |value: i64, &byte: &u8| value.checked_mul(256)?.checked_add(byte.into());
        return rest.iter().try_fold(start, join);
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0i64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add((digit - b'0').into()),
        _ => None,
    })
}

/// Pairs of offset and length, 12 bytes each, up to an empty one.
pub fn sparse_runs(pairs: &[u8], runs: &mut Vec<DataRun>) -> Result<(), &'static str> {
    for pair in pairs.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let field = |field: &[u8]| number(field).and_then(|value| u64::try_from(value).ok());
        let (offset, bytes) = field(&pair[..12]).zip(field(&pair[12..])).ok_or("a sparse map of no numbers")?;
        runs.push(DataRun { offset, bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        let check = |field: &[u8], expected| assert_eq!(number(field), expected, "{field:?}");
        check(b"0000755\0", Some(0o755));
        check(b"   644 \0", Some(0o644));
        check(b"\0\0\0\0", Some(0));
        check(b"77777777777\0", Some(0o77777777777));
        check(b"12x\0", None);
        check(&[0x80, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1], Some((3 << 32) + 1));
        check(&[0xff, 0xff, 0xff, 0xfe], Some(-2));
        check(&[0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], None);
        check(&[], None);
    }

    proptest::proptest! {
        #[test]
        fn no_header_panics(bytes in proptest::collection::vec(0u8.., 512)) {
            let mut block: [u8; BLOCK_BYTES] = bytes.try_into().unwrap();
            let _ = parse(&block);
            let sum = format!("{:06o}\0 ", sums(&block)[0]);
            block[148..156].copy_from_slice(sum.as_bytes());
            let _ = parse(&block);
            let _ = sparse_runs(&block[386..482], &mut Vec::new());
        }
    }
}
