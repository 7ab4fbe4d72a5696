//! What is measured, and how it is printed.

use std::time::Duration;

use crate::lab::{self, Ground, Lab};
use crate::load::nfs::{Load, Work};
use crate::load::{Figures, Result, floor, nfs, tftp};
use crate::offer;
use crate::peers::{Peer, Running};

/// A median of three leaves out one round that something disturbed.
const ROUNDS: usize = 3;
const DURATION: Duration = Duration::from_secs(2);

/// One kind of load.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    unit: &'static str,
    /// How many units of the load are one of the table.
    scale: f64,
    kind: Kind,
    clients: usize,
}

#[derive(Clone, Copy)]
enum Kind {
    Nfs {
        work: Work,
        depth: usize,
        memory: bool,
        floor: Option<Floor>,
    },
    Tftp,
    /// How long clients wait that ask all at once: no rate, and no peer.
    Offer,
}

/// What the same machine does without a server worth the name.
#[derive(Clone, Copy)]
enum Floor {
    /// The same load on a server that knows this one file, and does nothing for it that can be left out.
    OneFile,
    /// Answers of this length, and nothing else.
    Answers(usize),
    /// Data is received and written, and nothing else.
    Written,
    /// The file system's own rate, with each change on the disk before the next.
    Files,
}

const fn nfs_row(name: &'static str, unit: &'static str, scale: f64, work: Work, floor: Option<Floor>) -> Row {
    Row { name, unit, scale, kind: Kind::Nfs { work, depth: 8, memory: false, floor }, clients: 1 }
}

const READ: Work = Work::Read { bytes: 1 << 20, random: false };
const RANDOM: Work = Work::Read { bytes: 4096, random: true };
const WRITE: Work = Work::Write { bytes: 1 << 20, file_bytes: WRITTEN_BYTES };
const WRITTEN_BYTES: u64 = 128 << 20;
/// What our server takes at once.
const PIECE: usize = 256 << 10;

const fn rows() -> [Row; 14] {
    let files = Some(Floor::Files);
    let mut memory = nfs_row("create, write, commit, remove in memory", "files", 1.0, Work::Create, files);
    memory.kind = Kind::Nfs { work: Work::Create, depth: 8, memory: true, floor: files };
    let taken = Some(Floor::Written);
    let mut written = nfs_row("sequential write in memory", "MB", 1e6, WRITE, taken);
    written.kind = Kind::Nfs { work: WRITE, depth: 8, memory: true, floor: taken };
    [
        nfs_row("sequential read", "MB", 1e6, READ, Some(Floor::OneFile)),
        nfs_row("sequential write", "MB", 1e6, WRITE, None),
        written,
        nfs_row("random 4 KiB read", "reads", 1.0, RANDOM, Some(Floor::Answers(4096 + 128))),
        nfs_row("LOOKUP, GETATTR, ACCESS", "calls", 1.0, Work::Storm, Some(Floor::Answers(128))),
        nfs_row("create, write, commit, remove", "files", 1.0, Work::Create, files),
        memory,
        nfs_row("READDIRPLUS of 10,000", "entries", 1.0, Work::List, None),
        Row { clients: 32, ..nfs_row("sequential read, 32 clients", "MB", 1e6, READ, None) },
        Row { clients: 32, ..nfs_row("random 4 KiB read, 32 clients", "reads", 1.0, RANDOM, None) },
        Row { clients: 32, ..nfs_row("LOOKUP, GETATTR, ACCESS, 32 clients", "calls", 1.0, Work::Storm, None) },
        Row { name: "TFTP 1468", unit: "MB", scale: 1e6, kind: Kind::Tftp, clients: 1 },
        Row { name: "TFTP 1468, 64 clients", unit: "MB", scale: 1e6, kind: Kind::Tftp, clients: 64 },
        Row { name: "DHCP OFFER, 200 clients at once", unit: "ms", scale: 1.0, kind: Kind::Offer, clients: 200 },
    ]
}

/// A rate, and the server's CPU for one unit.
#[derive(Clone, Copy, Default)]
struct Point {
    rate: f64,
    cpu: f64,
}

pub fn run(words: &[&str]) -> Result<()> {
    let has = |row: &Row, word: &str| row.name.to_lowercase().contains(&word.to_lowercase());
    if let Some(word) = words.iter().find(|word| !rows().iter().any(|row| has(row, word))) {
        return Err(format!("no row's name holds {word:?}"));
    }
    let chosen = |row: &Row| words.is_empty() || words.iter().any(|word| has(row, word));
    let lab = Lab::new();
    println!(
        "Rate; the server's CPU for one; both against the first server of each row. On ext4 in a file on the disk, or in memory."
    );
    println!(
        "The floor does nothing but what the row is about: no server comes far beyond its rate, whatever it is measured against."
    );
    println!(
        "Of a change that was answered, ours is on the stick (RFC 1813 §4.8). Ganesha's is only after COMMIT, but for \"durable\", where the directory has the attribute D of chattr(1)."
    );
    for row in rows().iter().filter(|row| chosen(row)) {
        match row.kind {
            Kind::Offer => {
                println!("\n{}", row.name);
                offer::run(row.clients);
            }
            Kind::Nfs { .. } | Kind::Tftp => measure(&lab, row)?,
        }
    }
    Ok(())
}

/// The peers of a row; the first is the one that ratios are taken against.
fn servers(row: &Row) -> Vec<(&'static str, Peer, Ground)> {
    match row.kind {
        // With and without what we owe the client at each reply: it costs a journal commit a change, not one a file.
        Kind::Nfs { work: Work::Create, memory, .. } => {
            let [ext4, overlay, synced] = match memory {
                false => [Ground::Ext4, Ground::Overlay, Ground::Synced],
                true => [Ground::MemoryExt4, Ground::MemoryOverlay, Ground::MemorySynced],
            };
            vec![
                ("ganesha, ext4", Peer::Ganesha, ext4),
                ("ours, ext4", Peer::Rootstock, ext4),
                ("ours, overlay", Peer::Rootstock, overlay),
                (DURABLE, Peer::Ganesha, synced),
            ]
        }
        Kind::Nfs { memory: false, .. } => vec![
            ("ganesha, ext4", Peer::Ganesha, Ground::Ext4),
            ("ours, ext4", Peer::Rootstock, Ground::Ext4),
            ("ours, overlay", Peer::Rootstock, Ground::Overlay),
        ],
        Kind::Nfs { memory: true, .. } => vec![
            ("ganesha, ext4", Peer::Ganesha, Ground::MemoryExt4),
            ("ours, ext4", Peer::Rootstock, Ground::MemoryExt4),
            ("ours, overlay", Peer::Rootstock, Ground::MemoryOverlay),
        ],
        Kind::Offer => Vec::new(),
        Kind::Tftp => vec![
            ("dnsmasq", Peer::Dnsmasq, Ground::Ext4),
            ("atftpd", Peer::Atftpd, Ground::Ext4),
            ("ours", Peer::Rootstock, Ground::Ext4),
        ],
    }
}

/// A peer that promises with each reply what ours does.
const DURABLE: &str = "ganesha, durable";

fn measure(lab: &Lab, row: &Row) -> Result<()> {
    let servers = servers(row);
    let mut points = vec![Vec::new(); servers.len()];
    let mut memory = vec![(0, 0); servers.len()];
    for _ in 0..ROUNDS {
        for (n, (name, peer, ground)) in servers.iter().enumerate() {
            let running = peer.start(lab, *ground);
            let _ = load(lab, row, *peer, *ground, &running, Duration::from_millis(300))?;
            let before = running.memory();
            let point =
                load(lab, row, *peer, *ground, &running, DURATION).map_err(|error| format!("{name}: {error}"))?;
            memory[n] = (before, running.memory());
            points[n].push(point);
        }
    }
    let median = |points: &mut Vec<Point>, of: fn(&Point) -> f64| {
        points.sort_by(|a, b| of(a).total_cmp(&of(b)));
        of(&points[points.len() / 2])
    };
    let medians: Vec<Point> = points
        .iter_mut()
        .map(|points| Point { rate: median(points, |p| p.rate), cpu: median(points, |p| p.cpu) })
        .collect();
    println!("\n{} ({}/s)", row.name, row.unit);
    for (((name, ..), point), memory) in servers.iter().zip(&medians).zip(&memory) {
        println!(
            "  {name:<16} {:>11} {:>12}/{:<8} rate x{:<5.2} CPU x{:<5.2} memory {} -> {} KiB",
            number(point.rate),
            cpu(point.cpu),
            row.unit,
            point.rate / medians[0].rate,
            point.cpu / medians[0].cpu,
            memory.0,
            memory.1,
        );
    }
    if let Some(like) = servers.iter().position(|(name, ..)| *name == DURABLE) {
        let (ours, like) = (medians[1], medians[like]);
        println!(
            "  {:<16} against {DURABLE}: rate x{:.2} CPU x{:.2}",
            servers[1].0,
            ours.rate / like.rate,
            ours.cpu / like.cpu
        );
    }
    if let Kind::Nfs { floor: Some(floor), depth, memory, .. } = row.kind {
        let point = floor_point(lab, row, floor, depth, if memory { Ground::MemoryExt4 } else { Ground::Ext4 })?;
        println!(
            "  {:<16} {:>11} {:>12}/{:<8} rate x{:<5.2} CPU x{:<5.2} ours: rate x{:.2} of it",
            "floor",
            number(point.rate),
            cpu(point.cpu),
            row.unit,
            point.rate / medians[0].rate,
            point.cpu / medians[0].cpu,
            medians[1].rate / point.rate
        );
    }
    Ok(())
}

fn floor_point(lab: &Lab, row: &Row, floor: Floor, depth: usize, ground: Ground) -> Result<Point> {
    let (figures, cpu, each) = match floor {
        Floor::OneFile => {
            let running = Peer::OneFile.start(lab, ground);
            let _ = load(lab, row, Peer::OneFile, ground, &running, Duration::from_millis(300))?;
            return load(lab, row, Peer::OneFile, ground, &running, DURATION);
        }
        Floor::Files => {
            let (figures, cpu) = floor::create(&lab.trees(ground).join("1"), nfs::FILE_BYTES, depth, DURATION)?;
            (figures, cpu, 1)
        }
        Floor::Answers(_) | Floor::Written => {
            let running = Peer::Floor.start(lab, ground);
            let before = running.cpu();
            let (figures, each) = match floor {
                Floor::Answers(bytes) => {
                    let figures = lab.clients.run(|| floor::run(lab::SERVER, bytes, depth, DURATION))?;
                    (figures, if row.scale > 1.0 { bytes } else { 1 })
                }
                _ => {
                    let write = || floor::write(lab::SERVER, PIECE, WRITTEN_BYTES, depth as u64, DURATION);
                    (lab.clients.run(write)?, 1)
                }
            };
            (figures, running.cpu() - before, each)
        }
    };
    let units = figures.units as f64 * each as f64 / row.scale;
    Ok(Point { rate: units / figures.seconds, cpu: cpu / units })
}

fn load(lab: &Lab, row: &Row, peer: Peer, ground: Ground, running: &Running, duration: Duration) -> Result<Point> {
    let mut before = 0.0;
    let figures: Figures = match row.kind {
        Kind::Nfs { work, depth, .. } => {
            let load = Load {
                server: lab::SERVER,
                export: peer.export(lab, ground),
                clients: lab::clients(row.clients),
                depth,
                work,
                duration,
            };
            lab.clients.run(|| nfs::run(&load, || before = running.cpu()))?
        }
        Kind::Tftp => {
            before = running.cpu();
            let addresses = lab::clients(lab::CLIENTS);
            lab.clients.run(|| tftp::run(lab::SERVER, &addresses, row.clients, duration))?
        }
        Kind::Offer => return Err("that row is no rate".into()),
    };
    if let Some(error) = figures.errors.first() {
        return Err(error.clone());
    }
    let units = figures.units as f64 / row.scale;
    Ok(Point { rate: units / figures.seconds, cpu: (running.cpu() - before) / units })
}

fn number(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// CPU time for one unit.
fn cpu(seconds: f64) -> String {
    if seconds >= 1e-3 { format!("{:.2} ms", seconds * 1e3) } else { format!("{:.1} us", seconds * 1e6) }
}
