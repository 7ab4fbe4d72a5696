//! `rootstock report`: what the black box of the server that runs here holds, as
//! files on its stick.
//!
//! I/O: asks the server by its control socket.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use rootstock::orders::Request;

#[derive(Args)]
pub struct Report {
    /// Where the server that runs here has its trees
    #[arg(long, value_name = "FOLDER", default_value = "/run/rootstock")]
    run: PathBuf,
}

impl Report {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::tell_server(&self.run, Request::Report)
    }
}
