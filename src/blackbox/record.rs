//! One entry of the ring: length, kind, time, and what was seen.
//!
//! Pure. All numbers little-endian. A ring may end in the middle of an entry (the
//! server was killed while it wrote) and may hold anything (it is a file).

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::client::MacAddr;

/// Our own interface, whose MAC address the sockets do not show: locally administered.
pub const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 0]);

/// Longest entry behind its length field.
pub const MAX_BYTES: usize = 2048;
/// Bytes of a packet that are kept.
pub const MAX_PACKET_BYTES: usize = 1518;
/// Length, kind and time.
const HEADER_BYTES: usize = 4 + 1 + 8;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// First in each segment: the higher number is the later one.
    Segment(u64),
    /// A payload of IPv4; `length` is its whole one.
    Datagram {
        tcp: bool,
        from: SocketAddrV4,
        to: SocketAddrV4,
        length: u32,
        bytes: Vec<u8>,
    },
    /// What follows an Ethernet header of this type, sent or received.
    Frame {
        from: MacAddr,
        to: MacAddr,
        ethertype: u16,
        bytes: Vec<u8>,
    },
    Log(String),
    /// How far a client is from now on.
    Stage {
        mac: MacAddr,
        address: Ipv4Addr,
        role: String,
        stage: String,
    },
    /// The server ended in order.
    End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds since 1970, by the machine's clock.
    pub at: u64,
    pub seen: Seen,
}

impl Record {
    /// Its bytes; what is too long is cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![self.kind()];
        body.extend(self.at.to_le_bytes());
        match &self.seen {
            Seen::Segment(number) => body.extend(number.to_le_bytes()),
            Seen::Datagram { tcp, from, to, length, bytes } => {
                body.push(u8::from(*tcp));
                for end in [from, to] {
                    body.extend(end.ip().octets());
                    body.extend(end.port().to_le_bytes());
                }
                body.extend(length.to_le_bytes());
                body.extend(&bytes[..bytes.len().min(MAX_PACKET_BYTES)]);
            }
            Seen::Frame { from, to, ethertype, bytes } => {
                body.extend(from.0);
                body.extend(to.0);
                body.extend(ethertype.to_le_bytes());
                body.extend(&bytes[..bytes.len().min(MAX_PACKET_BYTES)]);
            }
            Seen::Log(line) => body.extend(line.bytes()),
            Seen::Stage { mac, address, role, stage } => {
                body.extend(mac.0);
                body.extend(address.octets());
                body.push(u8::try_from(role.len().min(255)).unwrap_or(255));
                body.extend(role.bytes().take(255));
                body.extend(stage.bytes());
            }
            Seen::End => {}
        }
        body.truncate(MAX_BYTES);
        let length = u32::try_from(body.len()).unwrap_or(0);
        [&length.to_le_bytes()[..], &body].concat()
    }

    fn kind(&self) -> u8 {
        match self.seen {
            Seen::Segment(_) => 0,
            Seen::Datagram { .. } => 1,
            Seen::Frame { .. } => 2,
            Seen::Log(_) => 3,
            Seen::Stage { .. } => 4,
            Seen::End => 5,
        }
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(body);
        let [kind] = cursor.array()?;
        let at = u64::from_le_bytes(cursor.array()?);
        let seen = match kind {
            0 => Seen::Segment(u64::from_le_bytes(cursor.array()?)),
            1 => {
                let [tcp] = cursor.array()?;
                let (from, to) = (cursor.end()?, cursor.end()?);
                let length = u32::from_le_bytes(cursor.array()?);
                Seen::Datagram { tcp: tcp != 0, from, to, length, bytes: cursor.0.to_vec() }
            }
            2 => {
                let (from, to) = (MacAddr(cursor.array()?), MacAddr(cursor.array()?));
                let ethertype = u16::from_le_bytes(cursor.array()?);
                Seen::Frame { from, to, ethertype, bytes: cursor.0.to_vec() }
            }
            3 => Seen::Log(cursor.text()),
            4 => {
                let (mac, address) = (MacAddr(cursor.array()?), Ipv4Addr::from(cursor.array::<4>()?));
                let [length] = cursor.array()?;
                let (role, rest) = cursor.0.split_at_checked(usize::from(length))?;
                let role = String::from_utf8_lossy(role).into_owned();
                Seen::Stage { mac, address, role, stage: Cursor(rest).text() }
            }
            5 => Seen::End,
            _ => return None,
        };
        Some(Self { at, seen })
    }
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn end(&mut self) -> Option<SocketAddrV4> {
        let address = Ipv4Addr::from(self.array::<4>()?);
        Some(SocketAddrV4::new(address, u16::from_le_bytes(self.array()?)))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(self.0).into_owned()
    }
}

/// All entries of one segment, up to the first that is not whole.
pub fn read(mut segment: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some((length, rest)) = segment.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_BYTES || length + 4 < HEADER_BYTES {
            break;
        }
        let Some((body, rest)) = rest.split_at_checked(length) else { break };
        records.extend(Record::decode(body));
        segment = rest;
    }
    records
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some() -> Vec<Record> {
        let (from, to) = ("10.0.0.9:49152".parse().unwrap(), "10.0.0.1:69".parse().unwrap());
        let mac = MacAddr([0xdc, 0xa6, 0x32, 1, 2, 3]);
        let seen = [
            Seen::Segment(7),
            Seen::Datagram { tcp: false, from, to, length: 900, bytes: vec![1, 2, 3] },
            Seen::Frame { from: mac, to: MacAddr([255; 6]), ethertype: 0x806, bytes: vec![9; 28] },
            Seen::Log("a line".to_owned()),
            Seen::Stage { mac, address: *from.ip(), role: "pi-1".to_owned(), stage: "loading".to_owned() },
            Seen::End,
        ];
        (1..).zip(seen).map(|(at, seen)| Record { at, seen }).collect()
    }

    #[test]
    fn entries_read_back_as_written_and_a_cut_costs_the_last_one_only() {
        let records = some();
        let bytes: Vec<u8> = records.iter().flat_map(Record::encode).collect();
        assert_eq!(read(&bytes), records);
        for cut in 0..bytes.len() {
            let read = read(&bytes[..cut]);
            assert_eq!(read, records[..read.len()], "cut at {cut}");
        }
    }

    #[test]
    fn long_texts_are_cut_and_the_next_entry_is_found() {
        let long = Record { at: 1, seen: Seen::Log("ü".repeat(9000)) };
        let bytes = [long.encode(), some()[0].encode()].concat();
        let read = read(&bytes);
        assert!(
            matches!(&read[..], [Record { seen: Seen::Log(line), .. }, second] if line.len() < 3000 && *second == some()[0])
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
            prop_assert!(read(&bytes).len() <= bytes.len());
        }
    }
}
