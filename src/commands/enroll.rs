//! `rootstock enroll`: opens the enrolment window of the server that runs here, as its button does.
//!
//! I/O: asks the server by its control socket.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use rootstock::orders::{self, Order, Reply, Request};
use rootstock::store::operate::Outcome;

#[derive(Args)]
pub struct Enroll {
    /// For several Pis: each one that is let in starts the time anew
    #[arg(long)]
    batch: bool,
    /// Close the window
    #[arg(long, conflicts_with = "batch")]
    close: bool,
    /// Where the server that runs here has its trees
    #[arg(long, value_name = "FOLDER", default_value = "/run/rootstock")]
    run: PathBuf,
}

impl Enroll {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let order = Order { request: Request::Enrol { batch: self.batch, close: self.close }, force: false };
        match orders::client::ask(&self.run, &order).context("asking the server")? {
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
}
