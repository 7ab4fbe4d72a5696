//! The records of a pax extended header: `LENGTH KEY=VALUE\n`.
//!
//! Pure (POSIX.1-2024, "pax Extended Header"; GNU tar's sparse formats 0.0,
//! 0.1 and 1.0; star's `SCHILY.xattr.`).

use super::{DataRun, MAX_RUNS};

/// What an extended header says of the entry behind it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub bytes: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub modified: Option<(i64, u32)>,
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// The name of a sparse file; `path` is then one for other programs.
    pub sparse_name: Option<Vec<u8>>,
    /// Of a sparse file with its holes.
    pub sparse_bytes: Option<u64>,
    /// In formats 0.0 and 0.1; in 1.0 it lies before the data.
    pub sparse_map: Option<Vec<DataRun>>,
}

pub fn parse(mut bytes: &[u8]) -> Result<Records, &'static str> {
    let mut records = Records::default();
    // Some programs fill up with zeros.
    while !bytes.is_empty() && bytes[0] != 0 {
        let (key, value, rest) = record(bytes).ok_or("an extended header that lies")?;
        bytes = rest;
        // An empty value takes back what stood in a global header.
        if !value.is_empty() {
            set(&mut records, key, value).ok_or("an extended header with a wrong value")?;
        }
    }
    Ok(records)
}

/// The first record and what follows it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(12).position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let text = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|&byte| byte == b'=')?;
    Some((&text[..equals], &text[equals + 1..], rest))
}

fn set(records: &mut Records, key: &[u8], value: &[u8]) -> Option<()> {
    match key {
        b"path" => records.path = Some(value.to_vec()),
        b"linkpath" => records.link = Some(value.to_vec()),
        b"size" => records.bytes = Some(decimal(value)?),
        b"uid" => records.uid = Some(decimal(value)?.try_into().ok()?),
        b"gid" => records.gid = Some(decimal(value)?.try_into().ok()?),
        b"mtime" => records.modified = Some(time(value)?),
        b"GNU.sparse.name" => records.sparse_name = Some(value.to_vec()),
        b"GNU.sparse.realsize" | b"GNU.sparse.size" => records.sparse_bytes = Some(decimal(value)?),
        b"GNU.sparse.map" => {
            let numbers: Vec<u64> = value.split(|&byte| byte == b',').map(decimal).collect::<Option<_>>()?;
            let pairs = numbers.chunks_exact(2).map(|pair| DataRun { offset: pair[0], bytes: pair[1] });
            records.sparse_map = Some(pairs.collect());
        }
        b"GNU.sparse.offset" => {
            let map = records.sparse_map.get_or_insert_default();
            map.push(DataRun { offset: decimal(value)?, bytes: 0 });
            if map.len() > MAX_RUNS {
                return None;
            }
        }
        b"GNU.sparse.numbytes" => records.sparse_map.as_mut()?.last_mut()?.bytes = decimal(value)?,
        key => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                records.attributes.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    Some(())
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with a fraction, which may be before 1970.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds = u32::try_from(decimal(digits.as_bytes())?).ok()?;
    // The fraction counts away from zero.
    match whole.starts_with('-') && nanoseconds > 0 {
        true => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
        false => Some((seconds, nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_with_any_bytes_in_their_values() {
        let record = |text: &[u8]| [format!("{} ", text.len() + 4).as_bytes(), text, b"\n"].concat();
        let texts = [&b"path=a\nb=c\xff/d\n"[..], b"mtime=-1.250000", b"SCHILY.xattr.user.x=a\0b\nc=", b"uid=70000"];
        let records = parse(&texts.map(record).concat()).unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"a\nb=c\xff/d\n"[..]));
        assert_eq!(records.modified, Some((-2, 750_000_000)));
        assert_eq!(records.attributes, [(b"user.x".to_vec(), b"a\0b\nc=".to_vec())]);
        assert_eq!(records.uid, Some(70_000));
    }

    #[test]
    fn records_that_lie_are_refused() {
        for text in [
            &b"5 a=b\n"[..],
            b"99 a=b\n",
            b"6 ab=\n6",
            b"x a=b\n",
            b"6 a=bc",
            b"0 a=b\n",
            b"13 size=-100\n",
            b"99999999999999999999 a=b\n",
            b"25 GNU.sparse.numbytes=4\n",
        ] {
            assert!(parse(text).is_err(), "{:?}", String::from_utf8_lossy(text));
        }
        assert_eq!(parse(b"8 path=\n\0\0").unwrap(), Records::default());
    }

    proptest::proptest! {
        #[test]
        fn no_records_panic(bytes in proptest::collection::vec(0u8.., 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
