//! A report: the files that tell what happened, made of the ring's entries and
//! of what control knows.
//!
//! Pure.

use std::fmt::Write;

use super::frames::Wire;
use super::html;
use super::pcapng::Capture;
use super::record::{Record, Seen};
use super::summary::Summary;

const ABOUT: &str = "what Rootstock's own sockets saw; Ethernet, IP, UDP and TCP headers are rebuilt, TFTP's data and \
                     what follows an RPC call's header are left out";

/// The files of a report, by name.
pub fn files(summary: &Summary, records: &[Record]) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("report.html", html::page(summary, records).into_bytes()),
        ("packets.pcapng", capture(records)),
        ("log.txt", log(records).into_bytes()),
    ]
}

fn capture(records: &[Record]) -> Vec<u8> {
    let mut capture = Capture::new(ABOUT);
    let mut wire = Wire::default();
    for record in records {
        if let Some(frame) = wire.frame(&record.seen) {
            capture.packet(record.at, &frame.bytes, frame.length, &frame.comment);
        }
    }
    capture.finish()
}

fn log(records: &[Record]) -> String {
    let mut text = String::new();
    for record in records {
        match &record.seen {
            Seen::Log(line) => text += line,
            Seen::Stage { role, stage, .. } => {
                let _ = write!(text, "-- {role}: {stage}");
            }
            _ => continue,
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
pub mod tests {
    use std::net::Ipv4Addr;

    use super::super::summary::{Client, Why};
    use super::*;
    use crate::client::MacAddr;
    use crate::diagnose::{Attempt, Hint};

    pub fn summary(reason: &str) -> Summary {
        Summary {
            why: Why::Stall,
            reason: reason.to_owned(),
            facts: vec![("Address".to_owned(), "192.168.77.1/24".to_owned())],
            clients: vec![Client {
                name: "pi-1".to_owned(),
                mac: "dc:a6:32:01:02:03".to_owned(),
                address: "192.168.77.10".to_owned(),
                model: "Pi 4B".to_owned(),
                stage: "stalled".to_owned(),
                hint: Some(Hint::AsksNoFile),
                boots: 2,
                seen: Some(Attempt::new(std::time::Duration::ZERO)),
            }],
        }
    }

    pub fn records() -> Vec<Record> {
        let (from, to) = ("192.168.77.10:49152".parse().unwrap(), "192.168.77.1:69".parse().unwrap());
        let bytes = b"\0\x019ffefdef/<script>alert(1)</script>\0octet\0".to_vec();
        let seen = [
            Seen::Segment(0),
            Seen::Log("[    1.000000]  INFO address 192.168.77.1/24".to_owned()),
            Seen::Stage {
                mac: MacAddr([0xdc, 0xa6, 0x32, 1, 2, 3]),
                address: Ipv4Addr::new(192, 168, 77, 10),
                role: "pi-1".to_owned(),
                stage: "loading".to_owned(),
            },
            Seen::Datagram { tcp: false, from, to, length: bytes.len() as u32, bytes },
            Seen::Log("tftp: <b>bold</b> & \"more\"".to_owned()),
        ];
        (1_700_000_000_000_000_000..).zip(seen).map(|(at, seen)| Record { at, seen }).collect()
    }

    #[test]
    fn a_report_has_three_files_and_its_log_has_lines_and_stages_in_order() {
        let files = files(&summary("pi-1 stopped"), &records());
        let names: Vec<_> = files.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["report.html", "packets.pcapng", "log.txt"]);
        let log = String::from_utf8(files[2].1.clone()).unwrap();
        let lines: Vec<_> = log.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].contains("address") && lines[1] == "-- pi-1: loading" && lines[2].contains("<b>"));
        let capture = &files[1].1;
        assert!(capture.windows(20).any(|part| part == b"client pi-1, loading"));
    }
}
