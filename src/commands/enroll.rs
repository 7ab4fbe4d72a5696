//! `rootstock enroll`: opens the enrolment window of the server that runs here, as its button does.
//!
//! I/O: asks the server by its control socket.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use rootstock::orders::Request;

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
        super::tell_server(&self.run, Request::Enrol { batch: self.batch, close: self.close })
    }
}
