//! Statuses for the tests of views and pages.

use std::time::Duration;

use super::View;
use crate::client::{Model, Role};
use crate::status::{Card, CardStep, ClientStatus, Enrolment, Network, Problem, Stage, Status, Stick};

pub const SECOND: Duration = Duration::from_secs(1);

pub fn ready() -> Status {
    Status {
        uptime: SECOND * 60,
        network: Network { address: Some([192, 168, 77, 1].into()), carrier: true, ..Network::default() },
        stick: Stick::Ready { name: "Stick".to_owned(), free_bytes: 1 },
        images: vec!["debian-1".parse().unwrap()],
        ..Status::default()
    }
}

pub fn client(n: u32, stage: Stage, seconds: u64) -> ClientStatus {
    ClientStatus {
        role: Role::numbered(n),
        address: [192, 168, 77, 10].into(),
        model: Model::Pi4B,
        memory_mib: Some(4096),
        serial: None,
        image: "debian-1".parse().unwrap(),
        stage,
        since: Duration::from_secs(seconds),
        last_boot: None,
        usage: None,
        advice: None,
    }
}

pub fn card(shown: bool, step: CardStep) -> Status {
    Status { card: Some(Card { name: "Reader".to_owned(), shown, step }), ..ready() }
}

pub fn offered() -> CardStep {
    CardStep::Offered { bytes: 1 << 34, boards: "Pi 4, 400".to_owned() }
}

pub fn open() -> Enrolment {
    Enrolment::Open { left: SECOND, batch: false, enrolled: 0, swap: None }
}

pub fn problem(message: &str) -> Problem {
    Problem { message: message.to_owned(), action: "Do it.".to_owned() }
}

pub fn pi(n: u32) -> View {
    View::Client(Role::numbered(n))
}
