//! The test's steps in their order, on a thread of its own.
//!
//! I/O, by `tftp` and `mount`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use super::elf::{self, Needs};
use super::mount::{self, Root};
use super::script::{self, BOARDS, Board};
use super::tftp::Client;
use super::{ADDRESS, Failure, Passed, Step, Target, Tested, dhcp};
use crate::client::Model;
use crate::dhcp::{Binding, Server};

/// Of `/sbin/init` and its libraries, in bytes each.
const MAX_PROGRAM: usize = 32 << 20;
/// Programs and libraries that are followed from `/sbin/init`.
const MAX_LIBRARIES: usize = 100;

/// What to test, and with what.
#[derive(Debug, Clone)]
pub struct Plan {
    pub target: Target,
    pub server: Server,
    /// Where our own servers are reached from this machine.
    pub reached_at: Ipv4Addr,
    /// What the board would be bound to; its address is not used for anything else.
    pub binding: Binding,
    /// The one model that must boot it; without it, each that the image is made for.
    pub model: Option<Model>,
    /// The root's name for MNT.
    pub export: String,
    /// A word that `cmdline.txt` must have.
    pub kernel_word: String,
    /// What tells TFTP's folder of this client.
    pub folder: Option<String>,
    pub tftp_port: u16,
}

/// Runs the whole test; takes as long as a boot loads.
pub fn run(plan: &Plan) -> Tested {
    let start = Instant::now();
    let result = steps(plan);
    let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    Tested { target: plan.target.clone(), result, millis }
}

fn steps(plan: &Plan) -> Result<Passed, Failure> {
    let mut passed = boot_files(plan)?;
    for model in &passed.models {
        dhcp::check(&plan.server, &plan.binding, *model)?;
    }
    let mut root = Root::mount(ADDRESS, plan.reached_at, &plan.export).map_err(|error| failed(Step::Mount, &error))?;
    passed.libraries = init(&mut root)?;
    Ok(passed)
}

/// The files that were fetched so far, by name, with their sizes; `None`: not there.
struct Loader<'a> {
    plan: &'a Plan,
    client: Client,
    known: BTreeMap<String, Option<usize>>,
}

impl Loader<'_> {
    fn fetch(&mut self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        let path = match &self.plan.folder {
            // The ROM asks for its own file without a folder.
            Some(folder) if name != "bootcode.bin" => format!("{folder}/{name}"),
            _ => name.to_owned(),
        };
        let file = self.client.fetch(&path).map_err(|error| failed(Step::BootFiles, &error))?;
        self.known.insert(name.to_owned(), file.as_ref().map(Vec::len));
        Ok(file)
    }

    fn has(&mut self, name: &str) -> Result<bool, Failure> {
        match self.known.get(name) {
            Some(size) => Ok(size.is_some()),
            None => Ok(self.fetch(name)?.is_some()),
        }
    }

    fn first(&mut self, names: &[&str]) -> Result<Option<String>, Failure> {
        for name in names {
            if self.has(name)? {
                return Ok(Some((*name).to_owned()));
            }
        }
        Ok(None)
    }
}

fn boot_files(plan: &Plan) -> Result<Passed, Failure> {
    let server = SocketAddrV4::new(plan.reached_at, plan.tftp_port);
    let mut loader = Loader { plan, client: Client { from: ADDRESS, server }, known: BTreeMap::new() };
    let wanted = plan.model.and_then(Board::of);
    let mut passed = Passed::default();
    for board in BOARDS.iter().filter(|board| wanted.is_none_or(|wanted| std::ptr::eq(wanted, *board))) {
        let is_for_it = loader.first(board.device_trees)?.is_some();
        if !is_for_it && wanted.is_none() {
            continue;
        }
        match lack(&mut loader, board, is_for_it)? {
            None => passed.models.extend(board.models.first()),
            Some(what) => passed.lacking.push(format!("{}: no {what}", board.name())),
        }
    }
    // A test of one model tells that one.
    if let (Some(model), [found]) = (plan.model, &mut passed.models[..]) {
        *found = model;
    }
    if passed.models.is_empty() {
        return Err(match passed.lacking.is_empty() {
            true => Failure::new(Step::Board, "there is no description (.dtb file) of any board"),
            false => Failure::new(Step::BootFiles, passed.lacking.join("; ")),
        });
    }
    match loader.fetch("cmdline.txt")? {
        Some(line) if String::from_utf8_lossy(&line).split_whitespace().any(|word| word == plan.kernel_word) => {}
        Some(_) => return Err(Failure::new(Step::CommandLine, format!("it lacks {}", plan.kernel_word))),
        None => return Err(Failure::new(Step::CommandLine, "it is not there")),
    }
    let sizes = || loader.known.values().flatten();
    (passed.files, passed.bytes) = (sizes().count(), sizes().map(|size| *size as u64).sum());
    Ok(passed)
}

/// The first thing that this family cannot do without and does not find.
fn lack(loader: &mut Loader<'_>, board: &'static Board, has_tree: bool) -> Result<Option<String>, Failure> {
    for need in board.firmware {
        if loader.first(need.names)?.is_none() {
            return Ok(Some(need.what.to_owned()));
        }
    }
    if !has_tree {
        return Ok(Some("description of it (.dtb file)".to_owned()));
    }
    let text = loader.fetch("config.txt")?.unwrap_or_default();
    let config = script::config(&text, board);
    let prefixed = |name: &str| format!("{}{name}", config.os_prefix);
    let kernel = match &config.kernel {
        Some(kernel) => loader.first(&[prefixed(kernel).as_str()])?.map(|_| kernel.clone()),
        None => {
            let mut found = None;
            for name in board.kernels {
                if found.is_none() && loader.has(&prefixed(name))? {
                    found = Some((*name).to_owned());
                }
            }
            found
        }
    };
    let Some(kernel) = kernel else {
        return Ok(Some(config.kernel.unwrap_or_else(|| "kernel".to_owned())));
    };
    // A kernel may do without one that only `auto_initramfs` would look for.
    if let Some(name) = &config.initramfs
        && !loader.has(&prefixed(name))?
    {
        return Ok(Some(name.clone()));
    }
    if let Some(name) = script::initramfs_of(&kernel).filter(|_| config.auto_initramfs) {
        loader.has(&prefixed(&name))?;
    }
    Ok(None)
}

/// Reads `/sbin/init`, its loader and every library of it; how many there are.
fn init(root: &mut Root) -> Result<usize, Failure> {
    let init = root.read("/sbin/init", MAX_PROGRAM).map_err(|error| failed(Step::Init, &error))?;
    let init = init.ok_or_else(|| Failure::new(Step::Init, "/sbin/init is not there"))?;
    let needs = elf::needs(&init).map_err(|error| Failure::new(Step::Init, format!("/sbin/init: {error}")))?;
    let failure = |error: &mount::Error| failed(Step::Libraries, error);
    let mut todo: Vec<(String, Vec<String>)> = wanted(&needs);
    let mut done: Vec<String> = Vec::new();
    while let Some((name, places)) = todo.pop() {
        if done.contains(&name) || done.len() >= MAX_LIBRARIES {
            continue;
        }
        let mut found = None;
        for place in &places {
            if let Some(file) = root.read(place, MAX_PROGRAM).map_err(|error| failure(&error))? {
                found = Some(file);
                break;
            }
        }
        let missing = || Failure::new(Step::Libraries, format!("{name} is in none of {}", places.join(", ")));
        let file = found.ok_or_else(missing)?;
        done.push(name.clone());
        // A loader's own file, or a script of another language, needs nothing that we follow.
        if let Ok(needs) = elf::needs(&file) {
            todo.extend(wanted(&needs));
        }
    }
    Ok(done.len())
}

/// Folders of libraries in which the loaders of Debian's systems look.
const FOLDERS: [&str; 6] = [
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/arm-linux-gnueabihf",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/lib",
];

fn wanted(needs: &Needs) -> Vec<(String, Vec<String>)> {
    let places = |name: &String| {
        let own = needs.folders.iter().filter(|folder| folder.starts_with('/')).map(String::as_str);
        own.chain(FOLDERS).map(|folder| format!("{folder}/{name}")).collect()
    };
    let interpreter = needs.interpreter.iter().map(|path| (path.clone(), vec![path.clone()]));
    interpreter.chain(needs.libraries.iter().map(|name| (name.clone(), places(name)))).collect()
}

/// The address that a board is bound to for the test of an image: never used on the wire.
pub fn spare_address(subnet: crate::config::Subnet) -> Ipv4Addr {
    let us = u32::from(subnet.address);
    let neighbours = [us.wrapping_add(1), us.wrapping_sub(1)].map(Ipv4Addr::from);
    neighbours.into_iter().find(|address| subnet.has_host(*address)).unwrap_or(subnet.address)
}

/// With its causes, in one line.
fn failed(step: Step, error: &dyn std::error::Error) -> Failure {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    Failure::new(step, line)
}
