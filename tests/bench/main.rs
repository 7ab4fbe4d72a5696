//! `just bench`: our NFS and TFTP servers against nfs-ganesha, dnsmasq and atftpd
//! in one run on one machine, under the same load over the same wire.
//!
//! Each figure is the median of rounds in which the servers take turns. A rate
//! wanders with the machine, so read the ratios. CPU is the server's own, for
//! each unit of the row; a Pi's wire is slower than any of these, so there CPU counts.
//! Needs root, and `just deps bench`. Ends by itself and leaves nothing behind.

mod lab;
mod load;
mod offer;
mod peers;
mod serve;
#[path = "../serve_lab/mod.rs"]
#[allow(dead_code, clippy::unwrap_used)] // a test's module: other tests use the rest, and a panic is how it reports
mod serve_lab;
#[path = "../store_support/mod.rs"]
mod store_support;
#[path = "../support/mod.rs"]
mod support;
mod table;

use std::path::Path;
use std::process::ExitCode;

use support::netns;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["serve", trees] => serve::run(Path::new(trees)),
        ["one-file", file] => load::one_file::serve(lab::SERVER, Path::new(file)),
        ["floor", tree] => load::floor::serve(lab::SERVER, Path::new(tree)),
        ["--help"] => Err("just bench [WORD...]: only the rows whose name holds one of the words".into()),
        _ => table::run(&words),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
