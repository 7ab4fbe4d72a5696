//! The server's status as text for people: `rootstock status`, and what stands
//! below the picture of `rootstock watch`.
//!
//! Pure. Names come from sticks and the wire, so each line is cleaned of what
//! could move a terminal's cursor.

use rootstock::panel::words::{board, bytes, clean, duration, time_left};
use rootstock::status::{ClientStatus, Enrolment, NewPlace, Room, Snapshot, Stage, Status, Stick, Usage};
use rootstock::wire::Finding;

use super::show::{row, table};

/// Everything, line by line.
pub fn text(snapshot: &Snapshot) -> String {
    let status = &snapshot.status;
    let image = status.image_version.as_ref().map_or_else(String::new, |image| format!(" (image {image})"));
    let mut rows = vec![
        row(["rootstock", &format!("{}{image}, on for {}", snapshot.rootstock, duration(status.uptime))]),
        row(["network", &network(status)]),
        row(["stick", &(stick(&status.stick) + &room(status))]),
        row(["images", &images(status)]),
        row(["enrolment", &enrolment(&status.enrolment)]),
    ];
    if let Some(import) = &status.import {
        let left = time_left(import.left);
        rows.push(row(["import", &format!("{}: {} %. {left}", import.file, import.per_mille.min(1000) / 10)]));
    }
    rows.push(row(["clients", &counts(status)]));
    let mut text = table(&rows);
    if !status.clients.is_empty() {
        text += &format!("\n{}", table(&clients(status)));
    }
    let notes = notes(status);
    if !notes.is_empty() {
        text += &format!("\n{}", notes.iter().map(|note| format!("{note}\n")).collect::<String>());
    }
    text.lines().map(|line| format!("{}\n", clean(line))).collect()
}

/// The clients' table, with its heading.
pub fn clients(status: &Status) -> Vec<Vec<String>> {
    let mut rows = vec![row(["CLIENT", "ADDRESS", "BOARD", "STAGE", "FOR", "LAST BOOT", "ON STICK", ""])];
    rows.extend(status.clients.iter().map(|client| {
        row([
            client.role.as_str(),
            &client.address.to_string(),
            &board(client.model, client.memory_mib, client.serial),
            client.stage.name(),
            &since(client),
            &client.last_boot.map(duration).unwrap_or_default(),
            &client.usage.map(usage).unwrap_or_default(),
            &detail(client),
        ])
    }));
    rows
}

/// `7 of 24 up`, and what else is worth counting.
pub fn counts(status: &Status) -> String {
    let count = |wanted: fn(&Stage) -> bool| status.clients.iter().filter(|client| wanted(&client.stage)).count();
    let mut text = format!("{} of {} up", count(Stage::is_up), status.clients.len());
    for (number, word) in [
        (count(Stage::is_booting), "booting"),
        (count(|stage| matches!(stage, Stage::Stalled { .. })), "stuck"),
        (count(|stage| matches!(stage, Stage::Gone)), "gone"),
    ] {
        if number > 0 {
            text += &format!(", {number} {word}");
        }
    }
    text
}

/// Strangers and problems, each with what to do.
pub fn notes(status: &Status) -> Vec<String> {
    let strangers = status.strangers.iter().map(|stranger| {
        let board = board(stranger.model, stranger.memory_mib, stranger.serial);
        format!("unknown {board} ({}) asks: press ENROLL", stranger.mac)
    });
    let problems = status.problems.iter().map(|problem| format!("problem: {}. {}", problem.message, problem.action));
    strangers.chain(problems).collect()
}

fn usage(usage: Usage) -> String {
    let used = bytes(usage.used_bytes);
    usage.quota_bytes.map_or(used.clone(), |quota| format!("{used} of {}", bytes(quota)))
}

fn since(client: &ClientStatus) -> String {
    match client.stage {
        Stage::Off => String::new(),
        _ => duration(client.since),
    }
}

fn detail(client: &ClientStatus) -> String {
    match &client.stage {
        Stage::Loading { bytes: loaded, bytes_per_second, file, .. } => {
            let part = client.stage.per_mille().map(|part| format!("{} %, ", part / 10)).unwrap_or_default();
            format!("{file}: {part}{}, {}/s", bytes(*loaded), bytes(*bytes_per_second))
        }
        Stage::Up { after: Some(after) } | Stage::Running { after: Some(after) } => {
            format!("started in {}", duration(*after))
        }
        Stage::Stalled { at, hint } => format!("while {at}. {hint}"),
        _ => String::new(),
    }
}

fn network(status: &Status) -> String {
    let address = status.network.address.map_or("no address".to_owned(), |address| address.to_string());
    match status.network.wire {
        Finding::Clear => format!("{address}, cable connected"),
        finding => format!("{address}. {}", finding.sentence()),
    }
}

fn stick(stick: &Stick) -> String {
    match stick {
        Stick::Absent => "none".to_owned(),
        Stick::Reading => "being read".to_owned(),
        Stick::NeedsConfirmation { name, free_bytes, place } => {
            let press = if *place == NewPlace::File { "press" } else { "hold" };
            format!("{name} has no store yet; {} are free: {press} ENROLL", bytes(*free_bytes))
        }
        Stick::Preparing => "being prepared".to_owned(),
        Stick::Ready { name, free_bytes } => format!("{name}, {} free", bytes(*free_bytes)),
        Stick::Unusable { message } => format!("unusable: {message}"),
        Stick::Releasing { name } => format!("{name} is being let go of: leave it in"),
        Stick::Released { name } => format!("{name} can be pulled; ENROLL uses it again"),
    }
}

fn room(status: &Status) -> String {
    let kept = |room: Room| format!(" of {}, {} more kept back", bytes(room.total_bytes), bytes(room.reserve_bytes));
    status.room.map(kept).unwrap_or_default()
}

fn images(status: &Status) -> String {
    let names: Vec<String> = status.images.iter().map(ToString::to_string).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn enrolment(enrolment: &Enrolment) -> String {
    match enrolment {
        Enrolment::Closed => "closed".to_owned(),
        Enrolment::Always => "always open (enrol.open)".to_owned(),
        Enrolment::Open { left, swap: Some(role), .. } => {
            format!("open for {} s: power on the new board of {role}", left.as_secs())
        }
        Enrolment::Open { left, batch: true, enrolled, .. } => {
            format!("open for {} s, {enrolled} enrolled: power on the next Pi", left.as_secs())
        }
        Enrolment::Open { left, .. } => format!("open for {} s: power on the new Pi", left.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rootstock::client::{MacAddr, Model, Role, Serial};
    use rootstock::diagnose::Hint;
    use rootstock::status::{Network, Problem, Stranger};

    use super::*;

    fn client(n: u32, stage: Stage, seconds: u64) -> ClientStatus {
        ClientStatus {
            role: Role::numbered(n),
            address: [192, 168, 77, 9 + n as u8].into(),
            model: Model::Pi4B,
            memory_mib: Some(4096),
            serial: Some(Serial(0x9f3a)),
            image: "raspios-1".parse().unwrap(),
            stage,
            since: Duration::from_secs(seconds),
            last_boot: None,
            usage: None,
        }
    }

    #[test]
    fn a_status_is_a_table_that_a_person_reads() {
        let loading = Stage::Loading {
            bytes: 12_400_000,
            total: Some(24_800_000),
            bytes_per_second: 1_500_000,
            file: "kernel8.img".to_owned(),
        };
        let mut status = Status {
            uptime: Duration::from_secs(3700),
            network: Network { address: Some([192, 168, 77, 1].into()), carrier: true, wire: Finding::Clear },
            stick: Stick::Ready { name: "Ultra \u{1b}[2J".to_owned(), free_bytes: 27_900_000_000 },
            images: vec!["raspios-1".parse().unwrap()],
            clients: vec![
                client(1, Stage::Running { after: Some(Duration::from_secs(41)) }, 900),
                client(2, loading, 8),
                client(3, Stage::Stalled { at: "kernel".into(), hint: Hint::KernelSilent }, 70),
            ],
            strangers: vec![Stranger {
                mac: MacAddr([0xd8, 0x3a, 0xdd, 1, 2, 3]),
                model: Model::Pi5,
                serial: Some(Serial(0x77c1)),
                memory_mib: None,
                hint: None,
                of: None,
            }],
            problems: vec![Problem { message: "The stick is full".to_owned(), action: "Delete an image".to_owned() }],
            ..Status::default()
        };
        status.clients[0].last_boot = Some(Duration::from_secs(41));
        status.clients[0].usage = Some(Usage { used_bytes: 6_900_000_000, quota_bytes: Some(8_500_000_000) });
        status.clients[1].usage = Some(Usage { used_bytes: 31 << 20, quota_bytes: None });
        status.room = Some(Room { total_bytes: 30_000_000_000, reserve_bytes: 512 << 20 });
        let expected = "\
rootstock  0.1.0, on for 1 h 1 min
network    192.168.77.1, cable connected
stick      Ultra ?[2J, 27 GB free of 30 GB, 536 MB more kept back
images     raspios-1
enrolment  closed
clients    1 of 3 up, 1 booting, 1 stuck

CLIENT  ADDRESS        BOARD            STAGE    FOR     LAST BOOT  ON STICK
pi-1    192.168.77.10  Pi 4B 4GB …9f3a  running  15 min  41 s       6.9 GB of 8.5 GB  started in 41 s
pi-2    192.168.77.11  Pi 4B 4GB …9f3a  loading  8 s                32 MB             kernel8.img: 50 %, 12 MB, 1.5 MB/s
pi-3    192.168.77.12  Pi 4B 4GB …9f3a  stalled  70 s                                 while kernel. HINT

unknown Pi 5 …77c1 (d8:3a:dd:01:02:03) asks: press ENROLL
problem: The stick is full. Delete an image
";
        let snapshot = Snapshot { rootstock: "0.1.0".to_owned(), ..status.into() };
        assert_eq!(text(&snapshot), expected.replace("HINT", Hint::KernelSilent.action()));
    }
}
