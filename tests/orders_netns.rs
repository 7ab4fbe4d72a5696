//! `rootstock client`, `image` and `stick` as a person types them: against the
//! server that runs, with virtual Pis on its wire, and on its stick without it.
//!
//! Needs what `serve_netns` needs.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]
#![allow(dead_code, reason = "serve_netns uses the rest of the lab")]

mod serve_lab;
mod store_support;
mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serve_lab::*;
use support::virtual_pi::Board;

/// Runs a command of ours to its end.
fn command(lab: &Lab, arguments: &[&str]) -> Output {
    let run = lab.run_folder();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rootstock"));
    command.args(arguments).arg("--run").arg(run).output().unwrap()
}

/// Its words, when it ends well.
#[track_caller]
fn says(lab: &Lab, arguments: &[&str]) -> String {
    let output = command(lab, arguments);
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {error}\n{}", lab.log());
    text.into_owned()
}

/// Its complaint, and its exit code.
#[track_caller]
fn refuses(lab: &Lab, arguments: &[&str]) -> (String, Option<i32>) {
    let output = command(lab, arguments);
    assert!(!output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code())
}

#[test]
fn a_client_is_listed_kept_reset_and_restored_while_the_server_runs() {
    let mut lab = Lab::ready();
    let (pi, address) = lab.enrolled(Board::Pi4B, 1);
    let listed = says(&lab, &["client", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["role"], "pi-1");
    assert_eq!(listed[0]["address"], address.to_string());
    assert!(says(&lab, &["client", "list"]).contains(&address.to_string()));
    assert!(says(&lab, &["image", "list"]).contains("for new clients"));
    assert!(says(&lab, &["stick", "show"]).contains("clients    1"));

    // Its address is on its interface: it answers, so it runs.
    let (error, code) = refuses(&lab, &["client", "reset", "pi-1"]);
    assert!(error.contains("pi-1 runs: shut it down first") && code == Some(3), "{error}");
    let (error, _) = refuses(&lab, &["client", "reset", "pi-9"]);
    assert!(error.contains("there is no client pi-9"), "{error}");

    let upper = lab.run_folder().join("clients/pi-1/root");
    fs::write(upper.join("mine"), "first").unwrap();
    // It says that it waits, and goes on by itself when the client is off.
    let mut waiting = Command::new(env!("CARGO_BIN_EXE_rootstock"));
    waiting.args(["client", "snapshot", "pi-1", "good", "--wait", "--run"]).arg(lab.run_folder());
    let mut waiting = waiting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(waiting.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "rootstock: the client runs; waiting until it is off\n");
    assert!(waiting.try_wait().unwrap().is_none());
    pi.netns.ip("address flush dev eth0");
    let waited = waiting.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&waited.stdout).contains("snapshot good of pi-1 is taken"), "{}", lab.log());
    fs::write(upper.join("mine"), "second").unwrap();
    assert!(says(&lab, &["client", "snapshots", "pi-1"]).contains("good"));
    assert!(says(&lab, &["client", "reset", "pi-1", "--yes"]).contains("pi-1 is pristine. Kept: its name"));
    assert!(!upper.join("mine").exists());
    says(&lab, &["client", "restore", "pi-1", "good"]);
    assert_eq!(fs::read_to_string(upper.join("mine")).unwrap(), "first");

    // By the buttons: NEXT to its page, ENROLL asks, ENROLL held does it.
    lab.turn_to_client();
    lab.press('e');
    lab.screen("Reset pi-1?");
    lab.press('E');
    lab.told("pi-1 is pristine");
    assert!(!upper.join("mine").exists());

    // It boots as ever, and mounts what it booted.
    assert_eq!(lab.boots(&pi).address, address);
    says(&lab, &["client", "rename", "pi-1", "pi-77", "--force"]);
    let fetched = lab.boots(&pi);
    assert_eq!(fetched.address, address);
    assert!(fetched.command_line("ttyAMA0").contains(":/clients/pi-77/root,"));
}

#[test]
fn a_new_board_takes_a_dead_ones_place() {
    let mut lab = Lab::ready();
    let (dead, address) = lab.enrolled(Board::Pi4B, 1);
    dead.netns.ip("address flush dev eth0");
    let key = || fs::read_to_string(lab.run_folder().join("clients/pi-1/root/etc/ssh/ssh_host_ed25519_key")).unwrap();
    let before = key();
    assert!(says(&lab, &["client", "swap", "pi-1", "--wait"]).contains("it becomes pi-1"));
    let new = lab.plug(Board::Pi5, 2);
    let fetched = lab.boots(&new);
    assert_eq!(fetched.address, address);
    assert!(fetched.command_line("ttyAMA0").contains(":/clients/pi-1/root,"));
    assert_eq!(key(), before);
    assert!(!lab.stick("clients/pi-2").exists());
    let shown: serde_json::Value = serde_json::from_str(&says(&lab, &["client", "show", "pi-1", "--json"])).unwrap();
    assert_eq!((shown["model"].as_str(), shown["role"].as_str()), (Some("Pi 5"), Some("pi-1")));
}

#[test]
fn the_same_commands_work_on_the_stick_without_a_server() {
    let mut lab = Lab::ready();
    let (pi, _) = lab.enrolled(Board::Pi4B, 1);
    pi.netns.ip("address flush dev eth0");
    let stick = lab.stick("").display().to_string();
    let (error, _) = refuses(&lab, &["client", "list", "--store", &stick]);
    assert!(error.contains("is being worked on by another rootstock"), "{error}");
    assert!(lab.end_by(Signal::TERM).success());

    let listed: serde_json::Value =
        serde_json::from_str(&says(&lab, &["client", "list", "--json", "--store", &stick])).unwrap();
    assert_eq!(listed[0]["role"], "pi-1");
    says(&lab, &["client", "snapshot", "pi-1", "offline", "--store", &stick]);
    says(&lab, &["client", "reset", "pi-1", "--store", &stick]);
    says(&lab, &["client", "rename", "pi-1", "pi-88", "--store", &stick]);
    let made = says(&lab, &["image", "promote", "pi-88", "--name", "lab", "--store", &stick]);
    let image = made.lines().next().unwrap().rsplit(' ').next().unwrap().to_owned();
    assert!(image.starts_with("lab-"), "{made}");
    says(&lab, &["image", "default", &image, "--store", &stick]);
    assert!(says(&lab, &["image", "verify", &image, "--store", &stick]).contains("hashes are noted"));
    assert!(says(&lab, &["stick", "check", "--store", &stick]).contains("all as it was"));
    says(&lab, &["client", "move", "pi-88", &image, "--keep", "/home", "--store", &stick]);
    let (error, _) = refuses(&lab, &["image", "remove", &image, "--store", &stick]);
    assert!(error.contains("is used by pi-88"), "{error}");
    let (error, _) = refuses(&lab, &["client", "list", "--store", "/proc"]);
    assert!(error.contains("holds no store"), "{error}");

    lab.start();
    lab.screen("Ready");
    let fetched = { lab.boots(&pi) };
    assert!(fetched.command_line("ttyAMA0").contains(":/clients/pi-88/root,"));
    let (other, _) = lab.enrolled(Board::Pi5, 2);
    drop(other);
    let images: serde_json::Value = serde_json::from_str(&says(&lab, &["image", "list", "--json"])).unwrap();
    let last = images.as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["used_by"], serde_json::json!(["pi-1", "pi-88"]));
    assert_eq!(last["default"], true);
}
