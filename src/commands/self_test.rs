//! `rootstock self-test`: has the server that runs here boot a fake Pi against itself.
//!
//! I/O: asks the server by its control socket.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use rootstock::client::{ImageId, Role};
use rootstock::orders::{self, Order, Reply, Request};
use rootstock::self_test::Target;
use rootstock::store::operate::Outcome;

#[derive(Args)]
pub struct SelfTest {
    /// A client or an image; without it the image for new clients
    #[arg(value_name = "CLIENT|IMAGE")]
    name: Option<String>,
    /// Where the server that runs here has its trees
    #[arg(long, value_name = "FOLDER", default_value = "/run/rootstock")]
    run: PathBuf,
}

impl SelfTest {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        // A name may be that of a client and of an image: the client is tried first.
        let mut targets: Vec<Option<Target>> = Vec::new();
        if let Some(name) = &self.name {
            targets.extend(name.parse::<Role>().ok().map(|role| Some(Target::Client(role))));
            targets.extend(name.parse::<ImageId>().ok().map(|image| Some(Target::Image(image))));
        } else {
            targets.push(None);
        }
        let mut refused = format!("{:?} is no client's name and no image's", self.name.as_deref().unwrap_or_default());
        for target in targets {
            let order = Order { request: Request::SelfTest { target }, force: false };
            match orders::client::ask(&self.run, &order).context("asking the server")? {
                Some(Reply::Outcome(outcome)) => {
                    if let Outcome::Done { message, .. } = *outcome {
                        println!("{message}");
                    }
                    return Ok(ExitCode::SUCCESS);
                }
                Some(Reply::Refused { message, .. }) if message.starts_with("there is no such") => refused = message,
                Some(Reply::Refused { message, .. }) => bail!("{message}"),
                Some(Reply::Status(_)) => bail!("the server answered something else"),
                None => bail!("no server runs here"),
            }
        }
        bail!("{refused}")
    }
}
