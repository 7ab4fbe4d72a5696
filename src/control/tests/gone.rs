//! A client that was up and is another system now, before it was seen gone: its power was cut, and it
//! started from a card of its own with the same address. And what looks like that and is none.

use super::scenes::{boots, falls_silent, nobody_was_blamed, up};
use super::script::{DISCOVER, ITS, REQUEST, Script, US};
use super::*;
use crate::dhcp::packets::{PI4, Packet};
use crate::diagnose::Hint;
use crate::status::Stage;

/// Up for some minutes, and something answers for its address whatever happens.
fn runs() -> Script {
    let mut script = Script::new(PI4);
    boots(&mut script);
    up(&mut script);
    script.event(Event::Net(net::Event::Carrier(true)));
    script.answers = true;
    script.wait(100).works().wait(20);
    assert!(stage(&script).is_up());
    script
}

fn stage(script: &Script) -> Stage {
    script.control.status(script.now).clients[0].stage.clone()
}

fn is_gone(script: &Script) -> bool {
    matches!(stage(script), Stage::Gone | Stage::Stalled { hint: Hint::OwnCard, .. })
}

fn reset(script: &mut Script) -> &mut Script {
    script.nfs(nfs::Event::Reset { address: ITS })
}

/// A system's questions as it starts: with a lease that it remembers, or none.
fn asks(script: &mut Script, remembers: bool) {
    let system = |kind| Packet::new(kind, PI4).option(55, &[1, 3, 6, 15, 28, 42, 119, 121]);
    if remembers {
        script.says(system(REQUEST).address(50, ITS));
    } else {
        script.says(system(DISCOVER)).says(system(REQUEST).address(54, US).address(50, ITS));
    }
}

#[test]
fn one_that_does_not_know_its_connection_is_gone_in_a_quarter_of_a_minute_and_told_to_take_its_card_out() {
    for asked in [None, Some(true), Some(false)] {
        let mut script = runs();
        if let Some(remembers) = asked {
            asks(&mut script, remembers);
        }
        reset(script.wait(20)).wait(14);
        assert!(stage(&script).is_up(), "it may open another connection");
        script.wait(1);
        assert_eq!(stage(&script), Stage::Gone);
        assert!(script.log.iter().any(|line| line.contains("another system answers at 192.168.77.10")));
        script.wait(30);
        assert_eq!(script.hint(), Some(Hint::OwnCard), "{asked:?}");
        // It goes on answering, and renews.
        asks(&mut script, true);
        script.wait(3600);
        assert_eq!(script.hint(), Some(Hint::OwnCard), "{asked:?}");
        boots(&mut script);
        up(&mut script);
        assert!(stage(&script).is_up(), "the card is out");
    }
}

#[test]
fn one_that_asks_for_an_address_and_does_without_its_root_is_gone_in_five_minutes() {
    for remembers in [true, false] {
        let mut script = runs();
        asks(&mut script, remembers);
        script.wait(150);
        // Each question more does not put it off.
        asks(&mut script, remembers);
        script.wait(149);
        assert!(stage(&script).is_up());
        script.wait(1);
        assert!(is_gone(&script));
        script.wait(30);
        assert_eq!(script.hint(), Some(Hint::OwnCard));
    }
}

#[test]
fn one_that_uses_its_root_is_not_gone_whatever_else_it_does() {
    // Its connection broke, or its cable was out for a moment: it asks anew, and goes on.
    let disturbances: [fn(&mut Script); 3] =
        [|script| _ = reset(script), |script| asks(script, true), |script| asks(script, false)];
    for disturbs in disturbances {
        let mut script = runs();
        disturbs(&mut script);
        script.wait(10).works().wait(3600);
        assert!(stage(&script).is_up());
        nobody_was_blamed(&script);
    }
    // It renews, as its lease demands, and rests.
    let mut script = runs();
    let renews = Packet::new(REQUEST, PI4).ciaddr(ITS).option(55, &[1, 3, 6]);
    for _ in 0..6 {
        script.says(renews.clone()).wait(600);
    }
    assert!(stage(&script).is_up());
    nobody_was_blamed(&script);
}

#[test]
fn one_that_was_seen_gone_and_answers_again_without_its_root_is_gone_once_more() {
    let mut script = runs();
    script.answers = false;
    falls_silent(&mut script, 60);
    assert_eq!(stage(&script), Stage::Gone);
    script.answers = true;
    asks(&mut script, true);
    script.event(Event::Net(net::Event::Probed { address: ITS, conflict: Some(PI4) })).wait(331);
    assert_eq!(script.hint(), Some(Hint::OwnCard));
}

#[test]
fn a_connection_that_breaks_in_the_middle_of_a_start_is_no_restart() {
    let mut script = Script::new(PI4);
    boots(&mut script);
    reset(&mut script).wait(20).works().wait(5);
    assert_eq!(stage(&script), Stage::RootMounted);
    nobody_was_blamed(&script);
}
