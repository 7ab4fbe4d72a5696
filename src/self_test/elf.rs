//! What a program needs beside itself: its loader and its libraries (ELF, System
//! V ABI chapter 5), or the interpreter of a script.
//!
//! Pure. The bytes are a client's: every offset is checked, every loop bounded.

/// What a program asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// The dynamic loader, or a script's interpreter, by its path.
    pub interpreter: Option<String>,
    /// Libraries by name (DT_NEEDED).
    pub libraries: Vec<String>,
    /// Where its own libraries lie (DT_RUNPATH, DT_RPATH), in order.
    pub folders: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    #[error("it is neither a program nor a script")]
    NoProgram,
    #[error("it is cut short or damaged")]
    Damaged,
}

const MAX_HEADERS: usize = 64;
const MAX_DYNAMIC: usize = 512;
const MAX_LIBRARIES: usize = 64;
const MAX_TEXT: usize = 255;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// Reads a whole program, little-endian as every Pi's.
pub fn needs(file: &[u8]) -> Result<Needs, ElfError> {
    if let Some(line) = file.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let text = String::from_utf8_lossy(&line[..line.len().min(MAX_TEXT)]).into_owned();
        let interpreter = text.split_whitespace().next().ok_or(ElfError::NoProgram)?.to_owned();
        return Ok(Needs { interpreter: Some(interpreter), ..Needs::default() });
    }
    let wide = match file.get(..6) {
        Some([0x7f, b'E', b'L', b'F', 2, 1]) => true,
        Some([0x7f, b'E', b'L', b'F', 1, 1]) => false,
        _ => return Err(ElfError::NoProgram),
    };
    parse(file, wide).ok_or(ElfError::Damaged)
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    bytes: u64,
}

/// `None`: an offset leads out of the file.
fn parse(file: &[u8], wide: bool) -> Option<Needs> {
    let half = |at: u64| number(file, at, 2);
    let word = |at: u64| number(file, at, if wide { 8 } else { 4 });
    let (table, size, count) = if wide { (word(32)?, half(54)?, half(56)?) } else { (word(28)?, half(42)?, half(44)?) };
    let mut segments = Vec::new();
    for n in 0..count.min(MAX_HEADERS as u64) {
        let at = table.checked_add(n.checked_mul(size)?)?;
        let kind = u32::try_from(number(file, at, 4)?).ok()?;
        let field = |wide_at, narrow_at| word(at.checked_add(if wide { wide_at } else { narrow_at })?);
        segments.push(Segment { kind, offset: field(8, 4)?, address: field(16, 8)?, bytes: field(32, 16)? });
    }
    let mut needs = Needs::default();
    if let Some(segment) = segments.iter().find(|segment| segment.kind == PT_INTERP) {
        needs.interpreter = Some(text(file, segment.offset)?);
    }
    let Some(dynamic) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) else { return Some(needs) };
    let entry = if wide { 16 } else { 8 };
    let mut entries = Vec::new();
    for n in 0..(dynamic.bytes / entry).min(MAX_DYNAMIC as u64) {
        let at = dynamic.offset.checked_add(n * entry)?;
        match (word(at)?, word(at.checked_add(entry / 2)?)?) {
            (0, _) => break,
            pair => entries.push(pair),
        }
    }
    let strings = entries.iter().find(|(tag, _)| *tag == DT_STRTAB)?.1;
    let strings = segments.iter().find_map(|segment| {
        let inside = segment.kind == PT_LOAD && strings.checked_sub(segment.address)? < segment.bytes;
        inside.then(|| segment.offset.checked_add(strings - segment.address)).flatten()
    })?;
    for (tag, value) in entries {
        let text = || text(file, strings.checked_add(value)?);
        match tag {
            DT_NEEDED if needs.libraries.len() < MAX_LIBRARIES => needs.libraries.push(text()?),
            DT_RPATH | DT_RUNPATH => needs.folders.extend(text()?.split(':').take(8).map(str::to_owned)),
            _ => {}
        }
    }
    Some(needs)
}

fn number(file: &[u8], at: u64, bytes: usize) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let field = file.get(at..at.checked_add(bytes)?)?;
    Some(field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// A text up to its NUL.
fn text(file: &[u8], at: u64) -> Option<String> {
    let rest = file.get(usize::try_from(at).ok()?..)?;
    let rest = &rest[..rest.len().min(MAX_TEXT + 1)];
    let end = rest.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(&rest[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn this_very_test_names_its_loader_and_its_c_library() {
        let program = std::fs::read("/proc/self/exe").unwrap();
        let needs = needs(&program).unwrap();
        assert!(needs.interpreter.is_some_and(|path| path.starts_with("/lib")), "a dynamic program");
        assert!(needs.libraries.iter().any(|name| name.starts_with("libc.so")), "{:?}", needs.libraries);
    }

    #[test]
    fn scripts_name_their_interpreter_and_other_files_nothing() {
        let of = |file: &[u8]| needs(file).map(|needs| needs.interpreter.unwrap_or_default());
        assert_eq!(of(b"#!/bin/sh -e\necho\n"), Ok("/bin/sh".to_owned()));
        assert_eq!(of(b"#!\n"), Err(ElfError::NoProgram));
        assert_eq!(of(b"hello"), Err(ElfError::NoProgram));
        assert_eq!(of(b"\x7fELF\x02\x01"), Err(ElfError::Damaged));
    }

    proptest! {
        #[test]
        fn any_bytes_behind_an_elf_head_are_read_without_harm(
            wide in 1_u8..3,
            bytes in proptest::collection::vec(any::<u8>(), 0..800),
        ) {
            let file = [&[0x7f, b'E', b'L', b'F', wide, 1][..], &bytes].concat();
            if let Ok(needs) = needs(&file) {
                prop_assert!(needs.libraries.len() <= MAX_LIBRARIES);
            }
        }
    }
}
