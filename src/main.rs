//! The command line: PID 1, the server, and the tools for people.

mod commands;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use rootstock::appliance::{self, End};
use rootstock::{eeprom, init, log, memory, panel, update};

#[derive(Parser)]
#[command(version = version(), about = "Turns a Raspberry Pi into a netboot appliance")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve DHCP, TFTP and NFS from a stick until told to stop
    Serve(Serve),
    /// What is going on, as a table: clients and their stages, stick, images, problems
    Status {
        #[command(flatten)]
        server: commands::Server,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The same live, with the panel's picture; q or Ctrl-C ends it
    Watch(commands::Server),
    /// Open the enrolment window, as the button ENROLL does
    Enroll(commands::Enroll),
    /// Clients: list, reset, snapshot, restore, rename, move, swap, delete
    #[command(subcommand)]
    Client(commands::Client),
    /// Images: list, default, promote a client's root, verify, remove
    #[command(subcommand)]
    Image(commands::Image),
    /// The stick itself: what lies on it, and whether it is sound
    #[command(subcommand)]
    Stick(commands::Stick),
    /// Save what the server's black box holds as a report on the stick
    Report(commands::Report),
    /// Boot a fake Pi against the server that runs here, and say which step failed
    SelfTest(commands::SelfTest),
    /// Teach a Pi 4 or 5 to try the network: show and set the boot order in its EEPROM's image
    #[command(subcommand)]
    Eeprom(eeprom::command::Command),
    /// The appliance's own system: make, show and verify update files
    #[command(subcommand)]
    Update(update::command::Command),
}

#[derive(clap::Args)]
struct Serve {
    /// Take what PID 1 left in the folder of --run: configuration, devices
    #[arg(long)]
    appliance: bool,
    /// Configuration file; without it all defaults
    #[arg(long)]
    config: Option<PathBuf>,
    /// A folder that stands for the stick: images lie in it, and the store is made in it
    #[arg(long)]
    stick: Option<PathBuf>,
    /// A disk that is a stick though it is not on USB, such as nvme0n1; may be given several times
    #[arg(long, value_name = "NAME", conflicts_with = "stick")]
    disk: Vec<String>,
    /// The wired interface, instead of the first one
    #[arg(long)]
    interface: Option<String>,
    /// auto, hardware, none, or the path of a terminal such as /dev/tty: keys e and n are
    /// ENROLL and NEXT, E and N the same held, L is ENROLL held for 8 seconds; the log goes to standard error, so redirect it
    #[arg(long)]
    panel: Option<String>,
    /// Where trees are mounted
    #[arg(long, default_value = "/run/rootstock")]
    run: PathBuf,
}

/// `serve` asks PID 1 for a power-off by this exit code.
const POWER_OFF: u8 = 64;
/// And for a restart from the other slot by this one.
const TRY: u8 = 66;

/// The program's version, and on the appliance its image's.
fn version() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let program = env!("CARGO_PKG_VERSION");
        update::shell::image_version().map_or_else(|| program.to_owned(), |image| format!("{program}, image {image}"))
    })
}

fn main() -> ExitCode {
    // The kernel starts us without arguments that are ours.
    if std::process::id() == 1 {
        init::run()
    }
    if let Some(helper) = init::Helper::from_args(std::env::args_os()) {
        return helper.run();
    }
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rootstock: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Status { server, json } => server.status(json),
        Command::Watch(server) => {
            // The terminal gets its mode back whatever ends it.
            let signals = Signals::block().context("cannot take signals")?;
            let stop = Arc::new(AtomicBool::new(false));
            let ended = stop.clone();
            signals.forward(move || ended.store(true, Ordering::Relaxed));
            server.watch(&stop)
        }
        Command::Enroll(enroll) => enroll.run(),
        Command::Client(client) => client.run(),
        Command::Image(image) => image.run(),
        Command::Stick(stick) => stick.run(),
        Command::Report(report) => report.run(),
        Command::SelfTest(test) => test.run(),
        Command::Serve(serve) => {
            memory::settle();
            // Before any thread starts, that of the log too, since threads inherit what is blocked.
            let signals = Signals::block().context("cannot take signals")?;
            log::start(level(std::env::var("ROOTSTOCK_LOG").ok().as_deref()));
            serve.check()?;
            let end = appliance::run(serve.options(), |inbox| signals.forward(move || inbox.stop()));
            log::flush();
            let end = end?;
            Ok(match end {
                End::Stopped => ExitCode::SUCCESS,
                End::PowerOff => ExitCode::from(POWER_OFF),
                End::Try => ExitCode::from(TRY),
            })
        }
        Command::Update(command) => {
            update::command::run(&command, &mut std::io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Eeprom(command) => {
            eeprom::command::run(&command, &mut std::io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl Serve {
    /// What a person got wrong on the command line ends the server; on the appliance nothing may.
    fn check(&self) -> anyhow::Result<()> {
        if self.appliance {
            return Ok(());
        }
        if let Some(stick) = self.stick.as_ref().filter(|stick| !stick.is_dir()) {
            bail!("--stick {}: is no folder", stick.display());
        }
        if let Some(config) = self.config.as_ref().filter(|config| !config.is_file()) {
            bail!("--config {}: is no file", config.display());
        }
        if !rustix::process::geteuid().is_root() {
            bail!("serve needs root: it takes ports below 1024, mounts trees, and acts as the clients' users");
        }
        Ok(())
    }

    fn options(self) -> appliance::Options {
        let panel = self.panel.or_else(|| std::env::var("ROOTSTOCK_PANEL").ok()).unwrap_or_default();
        let panel = match panel.as_str() {
            "" | "auto" => panel::Source::Auto,
            "hardware" => panel::Source::Hardware,
            "none" => panel::Source::None,
            path => panel::Source::Terminal(path.into()),
        };
        // PID 1 leaves what it found on the SD card in the folder that it mounted.
        let found = |name| match self.appliance {
            true => std::fs::read_to_string(self.run.join(name)).unwrap_or_default(),
            false => String::new(),
        };
        appliance::Options {
            config: if self.appliance { Some(self.run.join("rootstock.toml")) } else { self.config },
            boot_problem: Some(found("boot-problem").trim().to_owned()).filter(|problem| !problem.is_empty()),
            stick: self.stick,
            disks: self.disk,
            interface: self.interface,
            panel,
            ignore_devices: found("boot-device").split_whitespace().map(str::to_owned).collect(),
            updates: self.appliance,
            run: self.run,
        }
    }
}

fn level(word: Option<&str>) -> tracing::Level {
    word.and_then(|word| word.parse().ok()).unwrap_or(tracing::Level::INFO)
}

fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: sigaction is plain data, nothing is set, and the former action is written to a valid place.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// SIGTERM, SIGINT and SIGHUP (a closed terminal), taken by a thread instead of a handler.
struct Signals(libc::sigset_t);

impl Signals {
    fn block() -> std::io::Result<Self> {
        // SAFETY: sigset_t is plain data, and sigemptyset makes it a valid set before any other use.
        let set = unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            // `nohup` has it ignored, and a blocked signal would come all the same.
            if !is_ignored(libc::SIGHUP) {
                libc::sigaddset(&raw mut set, libc::SIGHUP);
            }
            set
        };
        // SAFETY: `set` is a valid set, and the former mask is not asked for.
        match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
            0 => Ok(Self(set)),
            error => Err(std::io::Error::from_raw_os_error(error)),
        }
    }

    fn forward(self, stop: impl Fn() + Send + 'static) {
        std::thread::spawn(move || {
            let mut signal = 0;
            // SAFETY: the set is valid and blocked in every thread, and `signal` outlives the call.
            while unsafe { libc::sigwait(&raw const self.0, &raw mut signal) } == 0 {
                stop();
            }
        });
    }
}
