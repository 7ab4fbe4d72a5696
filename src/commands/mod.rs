//! `rootstock client`, `rootstock image`, `rootstock stick`: what a person says
//! becomes an operation, which the server that runs here carries out, or this
//! command itself on a stick.
//!
//! I/O: arguments in, words out. What is allowed lies in `store::operate`.

mod backup;
mod enroll;
mod report;
mod self_test;
mod show;
mod status;
mod watch;

pub use enroll::Enroll;
pub use report::Report;
pub use self_test::SelfTest;

use std::io::{IsTerminal, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use rootstock::client::{ImageId, MacAddr, Model, Role, Serial};
use rootstock::eeprom;
use rootstock::eeprom::order::BootOrder;
use rootstock::orders::{self, Order, Reply, Request};
use rootstock::store::offline;
use rootstock::store::operate::{Board, Operation, Outcome};
use rootstock::store::states::SnapshotName;

pub use watch::Server;

/// The client runs: asked again later, it may work.
const RUNNING: u8 = 3;
/// Between two questions of `--wait`.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Asks the server that runs here for something that only it can do, and prints what it says.
fn tell_server(run: &Path, request: Request) -> anyhow::Result<ExitCode> {
    let order = Order { request, force: false };
    match orders::client::ask(run, &order).context("asking the server")? {
        Some(Reply::Outcome(outcome)) => {
            if let Outcome::Done { message, .. } = *outcome {
                println!("{message}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(Reply::Refused { message, .. }) => bail!("{message}"),
        Some(Reply::Status(_)) => bail!("the server answered something else"),
        None => bail!("no server runs here"),
    }
}

/// Where the store is, and how to answer.
#[derive(Args, Clone)]
pub struct Place {
    /// Work on this store, without a server: a stick (/dev/sdb), its partition, a folder, or an
    /// image of the partition; without it the server that runs here is asked, or else the stick
    /// that is plugged in is taken
    #[arg(long, value_name = "PATH")]
    store: Option<PathBuf>,
    /// Where the server that runs here has its trees
    #[arg(long, value_name = "FOLDER", default_value = "/run/rootstock")]
    run: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// For what takes a client's root away for a moment.
#[derive(Args, Clone)]
pub struct Care {
    #[command(flatten)]
    place: Place,
    /// Wait until the client is off
    #[arg(long, conflicts_with = "force")]
    wait: bool,
    /// Also while the client runs: what it has open is lost to it
    #[arg(long)]
    force: bool,
}

#[derive(Args, Clone)]
pub struct Sure {
    #[command(flatten)]
    care: Care,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

#[derive(Subcommand)]
pub enum Client {
    /// All clients
    List(Place),
    /// One client, with its snapshots and what it takes on the stick
    Show {
        role: Role,
        #[command(flatten)]
        place: Place,
    },
    /// Make a client's root as it was when it was enrolled; its snapshots stay
    Reset {
        role: Role,
        /// New SSH host keys and a new machine-id too
        #[arg(long)]
        new_identity: bool,
        #[command(flatten)]
        sure: Sure,
    },
    /// Keep a client's root as it is now, under a name
    Snapshot {
        role: Role,
        /// Without it: date and time
        name: Option<SnapshotName>,
        #[command(flatten)]
        care: Care,
    },
    /// A client's snapshots
    Snapshots {
        role: Role,
        #[command(flatten)]
        place: Place,
    },
    /// Make a client's root as it was at a snapshot
    Restore {
        role: Role,
        name: SnapshotName,
        #[command(flatten)]
        sure: Sure,
    },
    /// Delete a snapshot; the client stays as it is
    Forget {
        role: Role,
        name: SnapshotName,
        #[command(flatten)]
        place: Place,
    },
    /// Give a client another name
    Rename {
        role: Role,
        to: Role,
        #[command(flatten)]
        care: Care,
    },
    /// Give a client a fresh root of another image
    Move {
        role: Role,
        image: ImageId,
        /// Copy this path, such as /home, from the old root; may be given several times
        #[arg(long, value_name = "PATH")]
        keep: Vec<String>,
        #[command(flatten)]
        sure: Sure,
    },
    /// Let another board take a client over, with its name, address, keys and root
    Swap {
        role: Role,
        /// The new board's; without it the next unknown Pi that asks is taken (by the server that runs)
        #[arg(long)]
        mac: Option<MacAddr>,
        #[arg(long, requires = "mac")]
        serial: Option<Serial>,
        #[command(flatten)]
        care: Care,
    },
    /// Let a client that netboots update its EEPROM at its next start
    Eeprom {
        role: Role,
        /// A folder with the official pieeprom.bin (or pieeprom-<date>.bin, the newest)
        #[arg(long, value_name = "FOLDER", required_unless_present = "remove")]
        from: Option<PathBuf>,
        /// What to try, one digit each from right to left: 1 SD card, 2 network, 4 USB, 6 NVMe, f again
        #[arg(long, default_value_t = BootOrder::SD_THEN_NETWORK)]
        boot_order: BootOrder,
        /// Take an update that waits out again
        #[arg(long, conflicts_with = "from")]
        remove: bool,
        #[command(flatten)]
        care: Care,
    },
    /// Forget a client, with its root and its snapshots
    Delete {
        role: Role,
        #[command(flatten)]
        sure: Sure,
    },
}

#[derive(Subcommand)]
pub enum Image {
    /// All images; the last one is for new clients
    List(Place),
    /// One image, and who uses it
    Show {
        image: ImageId,
        #[command(flatten)]
        place: Place,
    },
    /// Choose what new clients get
    Default {
        #[arg(required_unless_present = "newest")]
        image: Option<ImageId>,
        /// The newest, whichever that is
        #[arg(long, conflicts_with = "image")]
        newest: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Make a new image of a client's root
    Promote {
        role: Role,
        /// What the image is called
        #[arg(long)]
        name: Option<String>,
        /// Of this snapshot: then the client may run
        #[arg(long)]
        snapshot: Option<SnapshotName>,
        #[command(flatten)]
        care: Care,
    },
    /// Delete an image that no client and no snapshot uses
    Remove {
        image: ImageId,
        #[command(flatten)]
        place: Place,
    },
    /// Read images and compare them with their hashes
    Verify {
        /// Without it all of them
        image: Option<ImageId>,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Subcommand)]
pub enum Stick {
    /// The store on the stick that is plugged in
    List(Place),
    /// The same
    Show(Place),
    /// Read everything that can be compared, and tell what is broken
    Check(Place),
    /// Copy everything onto a second stick, which can then stand in for the first
    Backup(backup::Backup),
}

impl Client {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(place) => place.look(Operation::Clients),
            Self::Show { role, place } => place.look(Operation::Client { role }),
            Self::Snapshots { role, place } => place.snapshots(role),
            Self::Reset { role, new_identity, sure } => {
                let question =
                    format!("Throw away all that {role} changed since its enrolment, but for its snapshots?");
                sure.run(&question, Operation::Reset { role, new_identity })
            }
            Self::Snapshot { role, name, care } => {
                let name = name.map_or_else(|| show::stamp(now()).parse(), Ok).context("naming the snapshot")?;
                care.run(Request::Operation(Operation::Snapshot { role, name }))
            }
            Self::Restore { role, name, sure } => {
                let question = format!("Throw away all that {role} changed since {name}, but for its other snapshots?");
                sure.run(&question, Operation::Restore { role, name })
            }
            Self::Forget { role, name, place } => place.look(Operation::ForgetSnapshot { role, name }),
            Self::Rename { role, to, care } => care.run(Request::Operation(Operation::Rename { role, to })),
            Self::Move { role, image, keep, sure } => {
                let kept = if keep.is_empty() { String::new() } else { format!(", {}", keep.join(", ")) };
                let question = format!(
                    "Give {role} a fresh root of {image}? Kept are its name, address, SSH host keys, machine-id, \
                     snapshots and profile{kept}; not packages, settings and accounts made inside it."
                );
                sure.run(&question, Operation::Move { role, image, keep })
            }
            Self::Swap { role, mac: Some(mac), serial, care } => {
                let board = Board { mac, serial, revision: None, model: Model::default() };
                care.run(Request::Operation(Operation::Swap { role, board }))
            }
            Self::Eeprom { role, from: Some(from), boot_order, care, .. } => {
                update_loader(role, from, boot_order, &care)
            }
            Self::Eeprom { role, care, .. } => care.run(Request::Operation(Operation::Eeprom { role, files: None })),
            Self::Swap { role, mac: None, care, .. } => care.run(Request::SwapNext { role }),
            Self::Delete { role, sure } => {
                let question = format!("Delete {role}, with its root and its snapshots?");
                sure.run(&question, Operation::Delete { role })
            }
        }
    }
}

impl Image {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(place) => place.look(Operation::Images),
            Self::Show { image, place } => place.look(Operation::Image { image }),
            Self::Default { image, place, .. } => place.look(Operation::ImageDefault { image }),
            Self::Promote { role, name, snapshot, care } => {
                let name = name.unwrap_or_else(|| format!("{role}-{}", show::day(now())));
                care.run(Request::Operation(Operation::Promote { role, snapshot, name }))
            }
            Self::Remove { image, place } => place.look(Operation::ImageRemove { image }),
            Self::Verify { image, place } => place.look(Operation::Verify { image }),
        }
    }
}

impl Stick {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Backup(backup) => backup.run(),
            Self::List(place) | Self::Show(place) => place.look(Operation::Stick),
            Self::Check(place) => {
                let stick = place.ask(Operation::Stick)?;
                let Ok(Outcome::Stick(entry)) = &stick else { return place.show(stick) };
                let sound = entry.problems.is_empty();
                let checked = place.ask(Operation::Verify { image: None })?;
                if !place.json {
                    place.show(stick)?;
                }
                let code = place.show(checked)?;
                Ok(if sound { code } else { ExitCode::FAILURE })
            }
        }
    }
}

/// What was refused, and whether because the client runs.
struct Refused {
    message: String,
    running: bool,
}

impl Place {
    fn look(&self, operation: Operation) -> anyhow::Result<ExitCode> {
        let answer = self.ask(operation)?;
        self.show(answer)
    }

    fn ask(&self, operation: Operation) -> anyhow::Result<Result<Outcome, Refused>> {
        self.order(&Order { request: Request::Operation(operation), force: false })
    }

    fn snapshots(&self, role: Role) -> anyhow::Result<ExitCode> {
        match self.ask(Operation::Client { role })? {
            Ok(Outcome::Client(entry)) if self.json => {
                println!("{}", serde_json::to_string_pretty(&entry.snapshots)?);
                Ok(ExitCode::SUCCESS)
            }
            Ok(Outcome::Client(entry)) => {
                print!("{}", show::snapshots(&entry));
                Ok(ExitCode::SUCCESS)
            }
            other => self.show(other),
        }
    }

    /// The server's answer, or our own where none runs.
    fn order(&self, order: &Order) -> anyhow::Result<Result<Outcome, Refused>> {
        if self.store.is_none()
            && let Some(reply) = orders::client::ask(&self.run, order).context("asking the server")?
        {
            return Ok(match reply {
                Reply::Outcome(outcome) => Ok(*outcome),
                Reply::Status(_) => bail!("the server answered something else"),
                Reply::Refused { message, running } => Err(Refused { message, running }),
            });
        }
        let Request::Operation(operation) = &order.request else {
            bail!("no server runs here that could see the new Pi; name its --mac");
        };
        let stop = AtomicBool::new(false);
        let open = offline::open(self.store.as_deref())?;
        for broken in &open.broken {
            eprintln!("rootstock: {broken}");
        }
        let result = open.perform(operation, &stop);
        open.close(&stop).context("taking the store down")?;
        Ok(Ok(result?))
    }

    fn show(&self, answer: Result<Outcome, Refused>) -> anyhow::Result<ExitCode> {
        let outcome = match answer {
            Ok(outcome) => outcome,
            Err(Refused { message, running }) => {
                eprintln!("rootstock: {message}");
                return Ok(ExitCode::from(if running { RUNNING } else { 1 }));
            }
        };
        if self.json {
            println!("{}", show::json(&outcome)?);
        } else {
            print!("{}", show::text(&outcome));
        }
        std::io::stdout().flush()?;
        let damaged = matches!(&outcome, Outcome::Checked(all) if all.iter().any(|one| !one.damaged.is_empty()));
        Ok(if damaged { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

impl Care {
    fn run(&self, request: Request) -> anyhow::Result<ExitCode> {
        let order = Order { request, force: self.force };
        let mut said = false;
        loop {
            match self.place.order(&order)? {
                Err(Refused { running: true, .. }) if self.wait => {
                    if !said {
                        eprintln!("rootstock: the client runs; waiting until it is off");
                        said = true;
                    }
                    std::thread::sleep(ASK_AGAIN);
                }
                answer => return self.place.show(answer),
            }
        }
    }
}

impl Sure {
    /// Asks a person; a script has decided already.
    fn run(&self, question: &str, operation: Operation) -> anyhow::Result<ExitCode> {
        match agreed(self.yes, question)? {
            true => self.care.run(Request::Operation(operation)),
            false => Ok(ExitCode::FAILURE),
        }
    }
}

fn agreed(yes: bool, question: &str) -> anyhow::Result<bool> {
    if yes || !std::io::stdin().is_terminal() {
        return Ok(true);
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    let agreed = matches!(answer.trim(), "y" | "Y" | "yes");
    if !agreed {
        eprintln!("rootstock: nothing was done");
    }
    Ok(agreed)
}

/// Makes the update, tells what it changes, and has it put into the client's boot tree.
fn update_loader(role: Role, from: PathBuf, order: BootOrder, care: &Care) -> anyhow::Result<ExitCode> {
    let folder = std::env::temp_dir().join(format!("rootstock-eeprom-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&folder).with_context(|| folder.display().to_string())?;
    let made = eeprom::command::make_files(&from, order, &folder);
    let done = made.map_err(anyhow::Error::from).and_then(|report| {
        if !care.place.json {
            println!("{report}");
        }
        care.run(Request::Operation(Operation::Eeprom { role, files: Some(folder.clone()) }))
    });
    let removed = std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string());
    done.and_then(|code| removed.map(|()| code))
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
