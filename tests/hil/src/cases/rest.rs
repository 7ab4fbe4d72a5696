//! What the panel takes of the processor while nothing goes on: its threads as the
//! appliance runs them, with the real pins and the real bus.
//!
//! I/O. In an emulated Pi the time counted is the emulator's, so it proves nothing of a
//! board's; where QEMU counts instructions (`-icount`) it is a number of those.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rootstock::client::{ImageId, Model, Role};
use rootstock::panel::{Event, Options, Source, start};
use rootstock::status::{ClientStatus, Network, Stage, Status, Stick};
use rustix::time::{ClockId, clock_gettime};

use crate::bench::{Bench, Part};
use crate::verdict::{Outcome, failed};

/// Until the first pictures are drawn.
const SETTLES: Duration = Duration::from_secs(4);
const TIME: Duration = Duration::from_secs(10);
/// Of one core.
const MOST_PER_MILLE: f64 = 10.0;
const CLIENTS: u32 = 24;

/// A rack that runs.
fn status(image: &ImageId) -> Status {
    let client = |n| ClientStatus {
        role: Role::numbered(n),
        address: [192, 168, 77, 10].into(),
        model: Model::Pi4B,
        memory_mib: Some(4096),
        serial: None,
        image: image.clone(),
        stage: Stage::Running { after: Some(Duration::from_secs(41)) },
        since: Duration::from_secs(900),
        last_boot: Some(Duration::from_secs(41)),
        usage: None,
        advice: None,
    };
    Status {
        network: Network { address: Some([192, 168, 77, 1].into()), carrier: true, ..Network::default() },
        stick: Stick::Ready { name: "Ultra".to_owned(), free_bytes: 1 << 30 },
        clients: (1..=CLIENTS).map(client).collect(),
        ..Status::default()
    }
}

/// The time of all threads of this program, in the kernel too.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

pub fn costs_little(bench: &Bench) -> Outcome {
    let Ok(image) = "raspios-12345678".parse() else { return failed("that is no name of an image") };
    let (tell, told) = channel();
    let options = Options { config: bench.config.panel.clone(), source: Source::Hardware };
    let panel = start(
        options,
        Arc::new(move |event| {
            // Who listens has ended before the panel does.
            let _ = tell.send(event);
        }),
    );
    panel.show(status(&image));
    std::thread::sleep(SETTLES);
    let has_display =
        told.try_iter().any(|event| matches!(event, Event::Hardware(what) if what.starts_with("display")));
    if !has_display {
        return bench.absent(Part::Display, "no display answers, and without one nothing is drawn");
    }
    let (before, began) = (processor_time(), Instant::now());
    std::thread::sleep(TIME);
    let took = processor_time().saturating_sub(before);
    let per_mille = took.as_secs_f64() * 1000.0 / began.elapsed().as_secs_f64();
    let share = format!("{:.2} % of a core, with {CLIENTS} clients that run", per_mille / 10.0);
    match per_mille < MOST_PER_MILLE || bench.board.emulated.is_some() {
        true => Ok(share),
        false => failed(share),
    }
}
