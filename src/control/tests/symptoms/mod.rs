//! The 39 symptoms of the project's notes on netboot ("Failure modes by stage"), one by
//! one: what is told of each, by a scripted exchange, or why it cannot be seen from here.
//!
//! The numbers at the rules (`diagnose::Rule::symptoms`) and those here must agree. The
//! scripts are minimal; what comes close to each, and two at once, are in `scenes`.

mod asking;
mod loading;
mod ours;
mod starting;

use super::script::*;
use super::*;
use crate::dhcp::packets::{self, PI3, PI4, PI5, Packet};
use crate::diagnose::{Hint, all, rule};
use crate::nfs::Refusal;

enum Answer {
    /// The client counts as stuck, with this hint, once each.
    Stuck(&'static [(MacAddr, Hint, Play)]),
    /// A problem that stands for itself, in the words of that hint.
    Problem(Hint, Play),
    /// It is none; the script looks for itself, and no client counts as stuck.
    NoFault(&'static [MacAddr], Play),
    /// No rule can know, for the reason in the docs of `diagnose`.
    Unseen,
}

use Answer::{NoFault, Problem, Stuck, Unseen};

/// Its number, what the notes call it, and what comes of it here.
type Symptom = (u8, &'static str, &'static [Answer]);

fn symptoms() -> impl Iterator<Item = &'static Symptom> {
    asking::SYMPTOMS.iter().chain(loading::SYMPTOMS).chain(starting::SYMPTOMS)
}

#[test]
fn each_of_the_39_symptoms_is_told_or_has_a_reason_why_not() {
    let numbers: Vec<u8> = symptoms().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, (1..=39).collect::<Vec<u8>>());
    let mut unseen = Vec::new();
    for (number, looks, answers) in symptoms() {
        let mut told = Vec::new();
        for answer in *answers {
            match answer {
                Stuck(scripts) => {
                    for &(mac, hint, play) in *scripts {
                        println!("symptom {number}, {looks}: {hint:?}");
                        check(mac, hint, play);
                        told.push(hint);
                    }
                }
                Problem(hint, play) => {
                    let mut script = Script::new(PI4);
                    play(&mut script);
                    assert_eq!(script.control.status(script.now).problems[0].message, hint.action());
                    told.push(*hint);
                }
                NoFault(boards, play) => {
                    for mac in *boards {
                        let mut script = Script::new(*mac);
                        play(&mut script);
                        assert_eq!(script.hint(), None, "symptom {number}");
                        assert!(!script.log.iter().any(|line| line.contains("is stuck")), "{:#?}", script.log);
                    }
                }
                Unseen => unseen.push(*number),
            }
        }
        for hint in &told {
            assert!(rule(*hint).symptoms.contains(number), "{hint:?} is not said to answer symptom {number}");
        }
        // These three are told on a page of their own, where the client is not stuck.
        let elsewhere = [Hint::NeverHeard, Hint::PressAndRestart];
        for other in all().filter(|rule| rule.symptoms.contains(number) && !elsewhere.contains(&rule.hint)) {
            assert!(
                told.contains(&other.hint),
                "{:?} answers symptom {number} and no script here shows it",
                other.hint
            );
        }
    }
    assert_eq!(unseen, reasons());
}

/// The symptoms that the docs of `diagnose` give a reason for.
fn reasons() -> Vec<u8> {
    let rows = include_str!("../../../diagnose/mod.rs").lines().filter_map(|line| line.strip_prefix("//! | "));
    rows.filter_map(|row| row.split(' ').next()?.parse().ok()).collect()
}

#[test]
fn every_hint_has_a_script() {
    for &(mac, hint, play) in ours::OURS {
        check(mac, hint, play);
    }
    for rule in all().filter(|rule| rule.symptoms.is_empty()) {
        assert!(ours::OURS.iter().any(|(_, hint, _)| *hint == rule.hint), "{:?} has no script", rule.hint);
    }
}

#[test]
fn a_client_that_was_never_heard_has_advice_by_what_the_switch_does() {
    let mut script = Script::new(PI3);
    let advice = |script: &Script| script.control.status(script.now).clients[0].advice;
    assert_eq!(advice(&script), Some(Hint::NeverHeard));
    assert_eq!(advice(asking::slow_ports(&mut script)), Some(Hint::PortsHeld));
    script.discovers();
    assert_eq!(advice(&script), None, "it was heard");
}
