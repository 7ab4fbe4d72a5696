//! The TFTP server against clients that others wrote: curl, tftp-hpa, atftp.
//!
//! On loopback, unprivileged port. Needs `apt-get install curl tftp-hpa atftp`.

#![allow(clippy::unwrap_used)]

mod support;

use std::process::{Command, Output};

use support::tftp::*;

/// Runs a client in a folder of its own; a client that is not installed is a failure.
fn run_client(program: &str, arguments: &[&str]) -> (Output, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(program)
        .args(arguments)
        .current_dir(&folder)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; cure: apt-get install curl tftp-hpa atftp"));
    (output, folder)
}

/// The server, with the clients' own address (they cannot choose one) as a client's.
fn run_for_localhost() -> (Running, String) {
    let running = run();
    running.directory.set(rootstock::directory::Directory {
        clients: vec![served(SERVER, Some(SERIAL), running.tree.path())],
        ..Default::default()
    });
    let port = running.server.address().port().to_string();
    (running, port)
}

fn check(program: &str, arguments: &[&str], expected: &[u8]) {
    let (output, folder) = run_client(program, arguments);
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    let got = std::fs::read(folder.path().join("got")).unwrap();
    assert!(got == expected, "{program} {arguments:?}: {} bytes", got.len());
}

#[test]
fn curl_gets_files_at_every_block_size() {
    let (_running, port) = run_for_localhost();
    let url = |path: &str| format!("tftp://127.0.0.1:{port}/{path}");
    let kernel = pattern(3_000_001);
    check("curl", &["-sS", "-o", "got", &url("kernel8.img")], &kernel);
    check("curl", &["-sS", "-o", "got", "--tftp-blksize", "1468", &url("9ffefdef/kernel8.img")], &kernel);
    check("curl", &["-sS", "-o", "got", "--tftp-blksize", "8192", &url("kernel8.img")], &kernel);
    check("curl", &["-sS", "-o", "got", "--tftp-no-options", &url("kernel8.img")], &kernel);
    check("curl", &["-sS", "-o", "got", &url("overlays/README")], b"read me\n");
}

#[test]
fn curl_is_told_what_is_wrong() {
    let (_running, port) = run_for_localhost();
    let check = |path: &str, code: i32| {
        let url = format!("tftp://127.0.0.1:{port}/{path}");
        let (output, _folder) = run_client("curl", &["-sS", "--path-as-is", "-o", "got", &url]);
        assert_eq!(output.status.code(), Some(code), "{path}: {output:?}");
    };
    // CURLE_TFTP_NOTFOUND and CURLE_TFTP_PERM.
    check("recovery.elf", 68);
    check("../config.txt", 69);
    check("/etc/passwd", 69);
}

#[test]
fn tftp_hpa_gets_files_in_binary_mode() {
    let (_running, port) = run_for_localhost();
    let arguments = |path| ["-m", "binary", "127.0.0.1", &port, "-c", "get", path, "got"].map(str::to_owned);
    let get = |path, expected: &[u8]| {
        let arguments = arguments(path);
        check("tftp", &arguments.each_ref().map(String::as_str), expected);
    };
    get("kernel8.img", &pattern(3_000_001));
    get("9ffefdef/cmdline.txt", format!("console=serial0,115200 console=tty1 {WORDS}\n").as_bytes());
    get("empty", b"");
}

#[test]
fn atftp_gets_files_with_every_option() {
    let (_running, port) = run_for_localhost();
    let get = |options: &[&str]| {
        let fixed = ["-g", "-r", "kernel8.img", "-l", "got", "127.0.0.1", &port];
        check("atftp", &[options, &fixed].concat(), &pattern(3_000_001));
    };
    get(&[]);
    get(&["--option", "blksize 1468", "--option", "tsize 0", "--option", "timeout 2"]);
    get(&["--option", "blksize 1024", "--option", "windowsize 16"]);
}
