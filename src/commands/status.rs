//! The server's status as text for people: `rootstock status`, and what stands
//! below the picture of `rootstock watch`.
//!
//! Pure. Names come from sticks and the wire, so each line is cleaned of what
//! could move a terminal's cursor.

use rootstock::panel::words::{board, bytes, clean, duration, time_left};
use rootstock::status::{
    Backup, Card, CardStep, ClientStatus, Enrolment, NewPlace, Room, SelfTest, Snapshot, Stage, Status, Stick,
    TestState, UNHEARD, Update, Usage,
};
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
    rows.extend(status.backup.as_ref().map(|second| row(["backup", &backup(second)])));
    rows.extend(status.card.as_ref().map(|disk| row(["card", &card(disk)])));
    rows.extend(status.update.as_ref().map(|new| row(["update", &update(new)])));
    rows.extend(status.self_test.as_ref().map(|test| row(["self-test", &self_test(test)])));
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
            stage(client),
            &since(client),
            &client.last_boot.map(duration).unwrap_or_default(),
            &client.usage.map(usage).unwrap_or_default(),
            &detail(client),
        ])
    }));
    rows
}

/// The same for a narrow terminal.
pub fn clients_in_short(status: &Status) -> Vec<Vec<String>> {
    let mut rows = vec![row(["CLIENT", "STAGE", "FOR", ""])];
    let short = |client: &ClientStatus| row([client.role.as_str(), stage(client), &since(client), &detail(client)]);
    rows.extend(status.clients.iter().map(short));
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
        let action = stranger.hint.map_or("press ENROLL".to_owned(), |hint| hint.to_string());
        match stranger.of {
            Some(of) => format!("{board} ({}) belongs to the other Rootstock, {of}", stranger.mac),
            None => format!("unknown {board} ({}) asks: {action}", stranger.mac),
        }
    });
    let problems = status.problems.iter().map(|problem| format!("problem: {}. {}", problem.message, problem.action));
    strangers.chain(problems).collect()
}

fn usage(usage: Usage) -> String {
    let used = bytes(usage.used_bytes);
    usage.quota_bytes.map_or(used.clone(), |quota| format!("{used} of {}", bytes(quota)))
}

/// As the panel and the counts above the table call it.
fn stage(client: &ClientStatus) -> &'static str {
    match client.stage {
        Stage::Stalled { .. } => "stuck",
        _ => client.stage.name(),
    }
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
            // The average of the first moment is not known yet.
            let rate = if *bytes_per_second == 0 { String::new() } else { format!(", {}/s", bytes(*bytes_per_second)) };
            format!("{file}: {part}{}{rate}", bytes(*loaded))
        }
        Stage::Up { after: Some(after) } | Stage::Running { after: Some(after) } => {
            format!("started in {}", duration(*after))
        }
        Stage::Stalled { at, hint } => format!("while {at}. {hint}"),
        Stage::Off if client.since >= UNHEARD => client.advice.map(|hint| hint.to_string()).unwrap_or_default(),
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

fn backup(second: &Backup) -> String {
    match second {
        Backup::Offered { name, renews: true } => format!("{name} holds an older copy: hold ENROLL to renew it"),
        Backup::Offered { name, renews: false } => format!("{name} can become a copy: hold ENROLL"),
        Backup::Running { name, per_mille } => format!("onto {name}: {} %. Leave both in", per_mille / 10),
        Backup::Done { name } => format!("{name} holds a complete copy and can be pulled"),
    }
}

fn card(disk: &Card) -> String {
    let name = &disk.name;
    match &disk.step {
        CardStep::Offered { bytes: size, boards } => {
            format!("{name} ({}) can become a recovery card for {boards}", bytes(*size))
        }
        CardStep::Writing { per_mille } => format!("being written onto {name}: {} %. Leave it in", per_mille / 10),
        CardStep::Written => format!("{name} is ready: put it into the Pi whose loader is to be updated"),
    }
}

fn update(new: &Update) -> String {
    match new {
        Update::Offered { version, older: true, .. } => format!("{version} is OLDER: hold ENROLL for 8 s to go back"),
        Update::Offered { version, tried: true, .. } => {
            format!("{version} was tried and not kept; hold ENROLL to try again")
        }
        Update::Offered { version, .. } => format!("{version} is on the stick: hold ENROLL to install it"),
        Update::Writing { version, per_mille } => format!("{version} is being written: {} %", per_mille / 10),
        Update::Restarting { version } => format!("restarting into {version}"),
        Update::OnTrial { version } => format!("{version} is on trial: kept once it serves"),
    }
}

fn self_test(test: &SelfTest) -> String {
    match test.state {
        TestState::Runs => format!("{}: runs", test.target),
        TestState::Passed => format!("{}: passed", test.target),
        TestState::Failed(step) => format!("{}: failed at {}", test.target, step.word()),
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
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use rootstock::client::{MacAddr, Model, Role, Serial};
    use rootstock::diagnose::Hint;
    use rootstock::self_test::{Step, Target};
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
            advice: None,
        }
    }

    fn stranger(number: u8, hint: Option<Hint>, of: Option<Ipv4Addr>) -> Stranger {
        let mac = MacAddr([0xd8, 0x3a, 0xdd, 1, 2, number]);
        Stranger { mac, model: Model::Pi5, serial: Some(Serial(0x77c1)), memory_mib: None, hint, of }
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
            strangers: vec![
                stranger(1, None, None),
                stranger(2, Some(Hint::PressAndRestart), None),
                stranger(3, None, Some([192, 168, 77, 2].into())),
            ],
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
pi-3    192.168.77.12  Pi 4B 4GB …9f3a  stuck    70 s                                 while kernel. HINT

unknown Pi 5 …77c1 (d8:3a:dd:01:02:01) asks: press ENROLL
unknown Pi 5 …77c1 (d8:3a:dd:01:02:02) asks: Press ENROLL, then switch it off and on.
Pi 5 …77c1 (d8:3a:dd:01:02:03) belongs to the other Rootstock, 192.168.77.2
problem: The stick is full. Delete an image
";
        let snapshot = Snapshot { rootstock: "0.1.0".to_owned(), ..status.into() };
        assert_eq!(text(&snapshot), expected.replace("HINT", Hint::KernelSilent.action()));
    }
    #[test]
    fn whatever_goes_on_with_a_stick_or_a_card_has_its_line() {
        let name = || "Kingston".to_owned();
        let card = |step| Some(Card { name: name(), shown: true, step });
        let offered = CardStep::Offered { bytes: 31_000_000_000, boards: "Pi 5".to_owned() };
        let new = |older, tried| Update::Offered { version: "0.2".to_owned(), older, tried };
        let test = |state| Some(SelfTest { target: Target::Client(Role::numbered(1)), state });
        let base = Status::default;
        for (status, line) in [
            (
                Status { backup: Some(Backup::Running { name: name(), per_mille: 421 }), ..base() },
                "backup     onto Kingston: 42 %. Leave both in",
            ),
            (
                Status { backup: Some(Backup::Offered { name: name(), renews: true }), ..base() },
                "backup     Kingston holds an older copy: hold ENROLL to renew it",
            ),
            (
                Status { backup: Some(Backup::Offered { name: name(), renews: false }), ..base() },
                "backup     Kingston can become a copy: hold ENROLL",
            ),
            (
                Status { backup: Some(Backup::Done { name: name() }), ..base() },
                "backup     Kingston holds a complete copy and can be pulled",
            ),
            (
                Status { card: card(offered), ..base() },
                "card       Kingston (31 GB) can become a recovery card for Pi 5",
            ),
            (
                Status { card: card(CardStep::Writing { per_mille: 470 }), ..base() },
                "card       being written onto Kingston: 47 %. Leave it in",
            ),
            (
                Status { card: card(CardStep::Written), ..base() },
                "card       Kingston is ready: put it into the Pi whose loader is to be updated",
            ),
            (
                Status { update: Some(new(false, false)), ..base() },
                "update     0.2 is on the stick: hold ENROLL to install it",
            ),
            (
                Status { update: Some(new(false, true)), ..base() },
                "update     0.2 was tried and not kept; hold ENROLL to try again",
            ),
            (
                Status { update: Some(new(true, true)), ..base() },
                "update     0.2 is OLDER: hold ENROLL for 8 s to go back",
            ),
            (
                Status { update: Some(Update::Writing { version: "0.2".to_owned(), per_mille: 5 }), ..base() },
                "update     0.2 is being written: 0 %",
            ),
            (Status { self_test: test(TestState::Passed), ..base() }, "self-test  client pi-1: passed"),
            (
                Status { self_test: test(TestState::Failed(Step::Mount)), ..base() },
                "self-test  client pi-1: failed at mount",
            ),
        ] {
            let text = text(&status.into());
            assert!(text.lines().any(|other| other == line), "{line:?} is not in\n{text}");
        }
        let unheard = |seconds| ClientStatus { advice: Some(Hint::PortsHeld), ..client(1, Stage::Off, seconds) };
        let told = |seconds| text(&Status { clients: vec![unheard(seconds)], ..base() }.into());
        assert!(!told(599).contains(Hint::PortsHeld.action()), "it may be off");
        assert!(told(600).contains(Hint::PortsHeld.action()));
    }
}
