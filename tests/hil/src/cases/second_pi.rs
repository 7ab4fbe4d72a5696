//! Another Pi on the switch: enrolled by a person's press, booted, and its stages timed.
//!
//! I/O. The appliance's own server does it; this only asks it how far it is.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rootstock::orders::{self, Order, Reply, Request};
use rootstock::store::operate::{Operation, Outcome as Done};

use crate::ask;
use crate::bench::{Bench, Part};
use crate::verdict::{Outcome, failed, not_proven};

const RUN: &str = "/run/rootstock";
/// Less than the test's own limit, so that it can tell how far it came.
const PATIENCE: Duration = Duration::from_secs(20 * 60);
const LOOK: Duration = Duration::from_millis(250);

pub fn boots(bench: &Bench) -> Outcome {
    if !bench.expects(Part::SecondPi) {
        return not_proven("not asked for: hil.expect=second-pi (--expect second-pi), with an image on the stick");
    }
    if !bench.board.appliance {
        return not_proven("only on Rootstock's own card: another Linux has its network set up for itself");
    }
    let server = Command::new("/bin/rootstock").args(["serve", "--appliance"]).stdin(Stdio::null()).spawn();
    let mut server = match server {
        Ok(server) => server,
        Err(error) => return failed(format!("/bin/rootstock: {error}")),
    };
    ask::tell("wait for Ready on the display, press ENROLL, and power the other Pi on");
    let outcome = watch(Path::new(RUN), Instant::now());
    if let Some(pid) = rustix::process::Pid::from_raw(server.id().cast_signed()) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let _ = server.wait();
    outcome
}

/// Follows the clients until one is up.
pub fn watch(run: &Path, start: Instant) -> Outcome {
    let mut seen: Vec<(String, Duration)> = Vec::new();
    while start.elapsed() < PATIENCE {
        std::thread::sleep(LOOK);
        let order = Order { request: Request::Operation(Operation::Clients), force: false };
        let Ok(Some(Reply::Outcome(outcome))) = orders::client::ask(run, &order) else { continue };
        let Done::Clients(clients) = *outcome else { continue };
        for client in clients {
            // "loading, 3 s"
            let Some(stage) = client.stage.as_deref().and_then(|stage| stage.split(',').next()) else { continue };
            let up = stage == "up";
            let stage = format!("{} ({}) {stage}", client.role, client.model);
            if seen.last().is_none_or(|(last, _)| *last != stage) && seen.len() < 64 {
                seen.push((stage, start.elapsed()));
            }
            if up {
                return Ok(told(&seen));
            }
        }
    }
    failed(match seen.is_empty() {
        true => "no Pi asked and was enrolled in time".to_owned(),
        false => format!("it did not come up in time: {}", told(&seen)),
    })
}

fn told(seen: &[(String, Duration)]) -> String {
    let first = seen.first().map_or(Duration::ZERO, |(_, at)| *at);
    let parts: Vec<String> =
        seen.iter().map(|(stage, at)| format!("{stage} +{:.1} s", (*at - first).as_secs_f64())).collect();
    parts.join("; ")
}
