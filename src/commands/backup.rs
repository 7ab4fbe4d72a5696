//! `rootstock stick backup`: the store onto a second stick, by the server that
//! runs here or by this command itself.
//!
//! I/O: arguments in, words out.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use rootstock::orders::{self, Order, Request};
use rootstock::store::BackupOffer;
use rootstock::store::backup::command;
use rootstock::store::operate::Outcome;

use super::{Place, agreed, show};

const TOLD_EACH: Duration = Duration::from_secs(1);

#[derive(Args, Clone)]
pub struct Backup {
    #[command(flatten)]
    place: Place,
    /// The second stick (/dev/sdc); without it the other one that is plugged in
    #[arg(long, value_name = "DEVICE")]
    to: Option<PathBuf>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl Backup {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if self.place.store.is_none() && self.to.is_none() && orders::client::listens(&self.place.run) {
            let question = "Copy the store onto the second stick that is plugged in?";
            if !agreed(self.yes, question)? {
                return Ok(ExitCode::FAILURE);
            }
            let answer = self.place.order(&Order { request: Request::Backup, force: false })?;
            return self.place.show(answer);
        }
        let pair = command::open(self.place.store.as_deref(), self.to.as_deref())?;
        let (from, to) = &pair.names;
        let how = match pair.offer {
            BackupOffer::New => "as a new store beside what is there",
            BackupOffer::Renew(_) => "over its earlier copy there",
            BackupOffer::Former => "over the store there, which the copy once stood in for",
        };
        let question = format!("Copy {} from {from} to {to}, {how}?", show::size(pair.used_bytes));
        let to = to.clone();
        if !agreed(self.yes, &question)? {
            pair.close().context("taking the store down")?;
            return Ok(ExitCode::FAILURE);
        }
        let made = copy(pair)?;
        let message = format!("the copy on {to} is complete; {} were written", show::size(made.bytes));
        self.place.show(Ok(Outcome::Done { message, warnings: Vec::new() }))
    }
}

/// With its progress, where a person looks on.
fn copy(pair: command::Pair) -> anyhow::Result<rootstock::store::backup::Backup> {
    let (seen, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let used = pair.used_bytes.max(1);
    let teller = std::io::stderr().is_terminal().then(|| {
        let (seen, over) = (seen.clone(), over.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let percent = u128::from(seen.load(Ordering::Relaxed)) * 100 / u128::from(used);
                eprint!("\r{} % ", percent.min(99));
                let _ = std::io::stderr().flush();
                std::thread::park_timeout(TOLD_EACH);
            }
            eprint!("\r     \r");
        })
    });
    let made = pair.copy(&seen, &AtomicBool::new(false));
    over.store(true, Ordering::Relaxed);
    if let Some(teller) = teller {
        teller.thread().unpark();
        let _ = teller.join();
    }
    Ok(made?)
}
