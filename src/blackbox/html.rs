//! The page of a report: what happened, per client and in time order, with the
//! hint. One file, readable anywhere: no scripts, nothing from elsewhere.
//!
//! Pure. Everything that came from outside is escaped, and the number of lines is
//! bounded by the ring.

use std::fmt::Write;

use super::frames::Wire;
use super::record::{Record, Seen};
use super::summary::{Client, Summary};
use crate::diagnose::{Attempt, Dialogue, File};
use crate::tftp::packet::{self as tftp, Packet};
use crate::{dhcp, nfs};

/// Lines of the time line: the newest are told.
const MAX_LINES: usize = 4000;

const HEAD: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
<meta name=\"viewport\" content=\"width=device-width\">\n<title>Rootstock report</title>\n<style>\n\
body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222;background:#fff}\n\
h1,h2{line-height:1.2}table{border-collapse:collapse;margin:.5em 0}\n\
td,th{border:1px solid #ccc;padding:.1em .6em;text-align:left;vertical-align:top}\n\
.hint{border-left:.4em solid #c60;background:#fff6ec;padding:.5em 1em;margin:.5em 0}\n\
.time td{font:13px/1.4 monospace;border:0;white-space:pre-wrap}.packet{color:#046}.stage{font-weight:bold}\n\
</style></head><body>\n";

/// The whole page.
pub fn page(summary: &Summary, records: &[Record]) -> String {
    let mut page = String::from(HEAD);
    // Writing to a String does not fail.
    let _ = body(&mut page, summary, records);
    page
}

fn body(page: &mut String, summary: &Summary, records: &[Record]) -> std::fmt::Result {
    writeln!(page, "<h1>{}</h1>", Escaped(&summary.reason))?;
    writeln!(page, "<p>A report of Rootstock {}.</p>\n<table>", env!("CARGO_PKG_VERSION"))?;
    for (name, value) in &summary.facts {
        writeln!(page, "<tr><th>{}</th><td>{}</td></tr>", Escaped(name), Escaped(value))?;
    }
    writeln!(page, "</table>")?;
    for client in &summary.clients {
        board(page, client)?;
    }
    writeln!(page, "<h2>What happened</h2>\n<p>Packets are in <code>packets.pcapng</code> beside this file.</p>")?;
    writeln!(page, "<table class=\"time\">")?;
    let lines: Vec<(u64, &str, String)> = told(records);
    let skipped = lines.len().saturating_sub(MAX_LINES);
    if skipped > 0 {
        writeln!(page, "<tr><td></td><td>{skipped} earlier lines are in log.txt and packets.pcapng only.</td></tr>")?;
    }
    for (at, class, line) in lines.into_iter().skip(skipped) {
        writeln!(page, "<tr class=\"{class}\"><td>{}</td><td>{}</td></tr>", clock(at), Escaped(&line))?;
    }
    writeln!(page, "</table>\n</body></html>")
}

fn board(page: &mut String, client: &Client) -> std::fmt::Result {
    writeln!(page, "<h2>{}</h2>", Escaped(&client.name))?;
    let (model, mac, address) = (Escaped(&client.model), Escaped(&client.mac), Escaped(&client.address));
    writeln!(page, "<p>{model}, {mac}, {address}: {}</p>", Escaped(&client.stage))?;
    if let Some(hint) = client.hint {
        writeln!(page, "<div class=\"hint\"><p><b>Seen:</b> {}</p>", Escaped(hint.observed()))?;
        writeln!(page, "<p><b>Likely:</b> {}</p>", Escaped(hint.cause()))?;
        writeln!(page, "<p><b>To do:</b> {}</p></div>", Escaped(hint.action()))?;
    }
    let Some(seen) = &client.seen else { return Ok(()) };
    if client.boots > 1 {
        writeln!(page, "<p>Boot {} since it was last up.</p>", client.boots)?;
    }
    dhcp_table(page, seen)?;
    files(page, seen.files.all())
}

fn dhcp_table(page: &mut String, seen: &Attempt) -> std::fmt::Result {
    let dialogues = [("loader", &seen.loader), ("second stage", &seen.second), ("system", &seen.system)];
    let spoke = |asks: &Dialogue| asks.discovers + asks.requests + asks.declines > 0;
    if !dialogues.iter().any(|(_, asks)| spoke(asks)) {
        return Ok(());
    }
    writeln!(page, "<table><tr><th>DHCP</th><th>it asked</th><th>we answered</th><th>other server</th></tr>")?;
    for (who, asks) in dialogues.iter().filter(|(_, asks)| spoke(asks)) {
        let other = asks.other.map_or_else(String::new, |other| format!("{other}, {} times", asks.elsewhere));
        writeln!(
            page,
            "<tr><td>{who}</td><td>{} DISCOVER, {} REQUEST, {} DECLINE</td><td>{} OFFER, {} ACK, {} NAK</td><td>{other}</td></tr>",
            asks.discovers, asks.requests, asks.declines, asks.offers, asks.acks, asks.naks
        )?;
    }
    writeln!(page, "</table>")
}

fn files(page: &mut String, files: &[File]) -> std::fmt::Result {
    if files.is_empty() {
        return Ok(());
    }
    writeln!(page, "<table><tr><th>Boot file</th><th>what became of it</th></tr>")?;
    for file in files {
        let mut words = Vec::new();
        for (count, word) in [(file.sent, "sent"), (file.missing, "not there"), (file.failed, "could not be read")] {
            if count > 0 {
                words.push(word.to_owned());
            }
        }
        if let Some(stop) = file.stop {
            words.push(format!("stopped at byte {} of {}", stop.at, stop.size));
        }
        if words.is_empty() && file.aborted > 0 {
            words.push("looked at only".to_owned());
        }
        writeln!(page, "<tr><td>{}</td><td>{}</td></tr>", Escaped(&file.name), Escaped(&words.join(", ")))?;
    }
    writeln!(page, "</table>")
}

/// Each entry in words, with its kind.
fn told(records: &[Record]) -> Vec<(u64, &'static str, String)> {
    let mut wire = Wire::default();
    let mut lines = Vec::new();
    for record in records {
        let whose = wire.frame(&record.seen).map(|frame| frame.comment).unwrap_or_default();
        match &record.seen {
            Seen::Log(line) => lines.push((record.at, "log", line.clone())),
            Seen::Stage { role, stage, .. } => lines.push((record.at, "stage", format!("{role}: {stage}"))),
            Seen::Datagram { .. } | Seen::Frame { .. } => {
                lines.push((record.at, "packet", format!("{} ({whose})", packet(&record.seen))));
            }
            Seen::Segment(_) | Seen::End => {}
        }
    }
    lines
}

/// A packet in one line.
fn packet(seen: &Seen) -> String {
    match seen {
        Seen::Datagram { tcp, from, to, length, bytes } => {
            let what = match (*tcp, from.port(), to.port()) {
                (false, _, 67) => match dhcp::parse(bytes) {
                    Ok(request) => format!("DHCP {:?}", request.kind),
                    Err(reason) => format!("DHCP: {reason}"),
                },
                (false, 67, _) => "DHCP reply".to_owned(),
                (_, _, 111 | 2049 | 20048) => nfs::probe::call_name(bytes),
                (false, ..) => tftp_name(bytes),
                _ => "TCP".to_owned(),
            };
            format!("{from} → {to}: {what}, {length} bytes")
        }
        Seen::Frame { from, to, ethertype, bytes } => {
            let what = match ethertype {
                0x0800 => "DHCP reply",
                0x0806 => "ARP",
                _ => "frame",
            };
            format!("{from} → {to}: {what}, {} bytes", bytes.len())
        }
        _ => String::new(),
    }
}

fn tftp_name(bytes: &[u8]) -> String {
    match tftp::parse(bytes) {
        Ok(Packet::Rrq(request)) => format!("TFTP RRQ {}", crate::tftp::path::display(&request.path)),
        Ok(Packet::Wrq(request)) => format!("TFTP WRQ {}", crate::tftp::path::display(&request.path)),
        Ok(Packet::Error(_)) => "TFTP ERROR".to_owned(),
        _ if bytes.starts_with(&[0, 6]) => "TFTP OACK".to_owned(),
        _ => "TFTP".to_owned(),
    }
}

/// Hours, minutes and seconds of the day (UTC), by the appliance's clock.
fn clock(at: u64) -> String {
    let (seconds, millis) = (at / 1_000_000_000, at / 1_000_000 % 1000);
    format!("{:02}:{:02}:{:02}.{millis:03}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// Text in HTML: nothing of it is markup, and control characters are shown as `·`.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // Direction marks could make a line read otherwise than it is.
                '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => f.write_str("·")?,
                c if c.is_control() => f.write_str("·")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{records, summary};
    use super::*;

    #[test]
    fn the_page_names_the_client_its_hint_and_its_packets_in_order() {
        let page = page(&summary("pi-1 stopped"), &records());
        let order =
            ["<h1>pi-1 stopped</h1>", "Pi 4B", "To do:", "What happened", "INFO address", "pi-1: loading", "TFTP RRQ"];
        let mut from = 0;
        for part in order {
            from += page[from..].find(part).unwrap_or_else(|| panic!("no {part:?} behind {from} in\n{page}"));
        }
        assert!(page.ends_with("</body></html>\n"));
    }

    #[test]
    fn nothing_from_the_wire_becomes_markup_and_nothing_comes_from_elsewhere() {
        let page = page(&summary("<img src=x onerror=alert(1)>\u{202e}\u{7}"), &records());
        assert!(!page.contains("<img") && !page.contains("<script") && !page.contains("<b>bold"));
        assert!(page.contains("&lt;script&gt;") && page.contains("&lt;b&gt;bold&lt;/b&gt; &amp; &quot;more&quot;"));
        assert!(!page.contains('\u{202e}') && !page.contains('\u{7}'));
        for foreign in ["http:", "https:", "src=\"", "href=", "@import", "url("] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_long_time_line_keeps_its_newest_part() {
        let records: Vec<Record> = (0..9000).map(|at| Record { at, seen: Seen::Log(format!("line-{at}-")) }).collect();
        let page = page(&summary("x"), &records);
        assert!(page.contains("line-8999-") && !page.contains("line-100-") && page.contains("5000 earlier lines"));
    }
}
