//! What the program says to a person who typed something wrong.

use std::process::{Command, Output};

fn rootstock(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rootstock")).args(arguments).output().expect("the program starts")
}

fn check(arguments: &[&str], said: &str) {
    let output = rootstock(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{arguments:?} was taken");
    assert!(errors.contains(said), "{arguments:?} said {errors:?}, not {said:?}");
}

#[test]
fn a_stick_that_is_no_folder_is_refused_by_name() {
    check(&["serve", "--stick", "/nonexistent/stick"], "--stick /nonexistent/stick: is no folder");
}

#[test]
fn a_mistyped_configuration_is_refused_and_not_replaced_by_defaults() {
    check(&["serve", "--config", "/nonexistent.toml"], "--config /nonexistent.toml: is no file");
}

#[test]
fn help_names_the_keys_of_the_terminal_panel() {
    let help = rootstock(&["serve", "--help"]);
    assert!(help.status.success());
    assert!(String::from_utf8_lossy(&help.stdout).contains("keys e and n"));
}
