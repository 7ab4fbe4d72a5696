//! Rules for boards that ask for an address and get no further: DHCP of the
//! loaders.
//!
//! Pure.

use super::evidence::Reached;
use super::rule::{Case, Rule};
use super::{Dialogue, Hint};
use crate::client::Model;
use crate::dhcp::Asker;

fn is_rom(case: &Case) -> bool {
    case.seen.asker == Some(Asker::PiRom)
}

/// That of a 2B or 3B. A 3B+ has another one, and asks as `bootcode.bin` on a card does: neither has that fault.
fn is_deaf_rom(case: &Case) -> bool {
    is_rom(case) && case.seen.model == Model::Pi3B
}

fn is_eeprom(case: &Case) -> bool {
    case.seen.asker == Some(Asker::PiEeprom)
}

/// Nothing but the board, whoever is to give the addresses, and one wire takes part.
fn is_plain(case: &Case) -> bool {
    let asks = &case.seen.loader;
    (asks.elsewhere == 0 || case.facts.beside) && asks.relay.is_none() && asks.declines < 2
}

/// Whoever asked last asked another server for its address, and us for nothing. Beside
/// another server that is as it should be.
fn went_elsewhere(case: &Case) -> bool {
    let seen = case.seen;
    if case.facts.beside {
        return false;
    }
    match seen.reached {
        Reached::FirstStage => seen.second.elsewhere > 0,
        Reached::System => seen.system.elsewhere > 0 && seen.system.acks == 0,
        _ => case.before_files() && seen.loader.elsewhere > 0,
    }
}

/// Beside another server: it asks for an address and takes none, of anybody.
fn gets_no_lease<'a>(case: &Case<'a>) -> Option<&'a Dialogue> {
    let (seen, calls) = (case.seen, &case.seen.calls);
    let no_call = calls.ports_asked + calls.asked_nfs2 + calls.asked_nfs4 + calls.refusals == 0;
    let asks = match seen.reached {
        Reached::System if no_call => &seen.system,
        _ if case.before_files() && is_plain(case) => &seen.loader,
        _ => return None,
    };
    (case.facts.beside && case.facts.store_open && asks.discovers > 0 && asks.requests == 0 && asks.declines < 2)
        .then_some(asks)
}

pub static RULES: &[Rule] = &[
    Rule {
        hint: Hint::OtherServer,
        symptoms: &[8, 10],
        observed: "It asked another DHCP server for its address, and then nothing of us.",
        cause: "A router or another DHCP server on this switch answers it too.",
        action: "Another DHCP server (router?) answers it: turn it off.",
        applies: went_elsewhere,
    },
    Rule {
        hint: Hint::NobodyLeases,
        symptoms: &[],
        observed: "It asks for an address, and the server that gives the addresses here does not answer.",
        cause: "The router or DHCP server is switched off, restarts, or is on another switch.",
        action: "The DHCP server gives no address: is the router on?",
        applies: |case| case.facts.nobody_leases && gets_no_lease(case).is_some(),
    },
    Rule {
        hint: Hint::NoLease,
        symptoms: &[],
        observed: "It asks for an address again and again, and the server that answers us gives it none that it takes.",
        cause: "That server has no free address or does not know this board; or the board does not hear it.",
        action: "Router gives it no address: free ones? Other cable.",
        applies: |case| {
            // A ROM of a 2B or 3B sends no REQUEST and has a trouble of its own.
            let takes = !is_deaf_rom(case) && !case.seen.old_eeprom || case.at(Reached::System);
            !case.facts.nobody_leases && takes && gets_no_lease(case).is_some_and(|asks| asks.discovers >= 3)
        },
    },
    Rule {
        hint: Hint::LoadsElsewhere,
        symptoms: &[8, 13],
        observed: "It took its address from the other server and then asked us for no file.",
        cause: "That server names a boot server of its own (option 66, next-server, a PXE menu), or its EEPROM does (TFTP_IP).",
        action: "It loads elsewhere: router's option 66, or EEPROM TFTP_IP?",
        applies: |case| {
            let asks = &case.seen.loader;
            case.before_files()
                && case.facts.beside
                && is_eeprom(case)
                && !case.seen.old_eeprom
                && asks.offers > 0
                && asks.requests > 0
                && is_plain(case)
        },
    },
    Rule {
        hint: Hint::StickAway,
        symptoms: &[],
        observed: "It asks for an address while no stick with its root is in.",
        cause: "The stick was pulled or is still being read.",
        action: "Its files are on the stick: put that in.",
        applies: |case| {
            let asks = &case.seen.loader;
            case.before_files()
                && !case.facts.store_open
                && asks.discovers > 0
                && asks.offers + asks.acks == 0
                && is_plain(case)
        },
    },
    Rule {
        hint: Hint::Relay,
        symptoms: &[7],
        observed: "It asks through a DHCP relay and does not take what we offer.",
        cause: "Its loader does not boot through a relay: no Pi 2 or 3 does, a Pi 4 only with an EEPROM since 2020-06.",
        action: "A relay is between: put it on the same switch as this Pi.",
        applies: |case| {
            let asks = &case.seen.loader;
            case.before_files() && asks.relay.is_some() && asks.elsewhere == 0 && asks.acks == 0 && asks.declines < 2
        },
    },
    Rule {
        hint: Hint::AddressClaimed,
        symptoms: &[],
        observed: "It declines one address after the other, because each is in use.",
        cause: "Another device answers for addresses that are not its own.",
        action: "A device claims all addresses: unplug that one.",
        applies: |case| {
            let loader = case.before_files() && case.seen.loader.declines >= 2;
            let system = case.at(Reached::System) && case.seen.system.declines >= 2 && !case.called();
            (loader || system) && !went_elsewhere(case)
        },
    },
    Rule {
        hint: Hint::OldEeprom,
        symptoms: &[9, 11],
        observed: "A Pi 4 with an EEPROM of before March 2020 does not get beyond its address.",
        cause: "Those loaders drop or misread replies that later ones take.",
        action: "Its EEPROM is too old: update it. README, step 0.",
        applies: |case| {
            let asks = &case.seen.loader;
            case.before_files()
                && is_eeprom(case)
                && !case.facts.nobody_leases
                && case.seen.old_eeprom
                && asks.offers >= 2
                && is_plain(case)
        },
    },
    Rule {
        hint: Hint::OffersUnheard,
        symptoms: &[],
        observed: "It repeats its question, our offers go out, and it does not take one.",
        cause: "What we send does not reach it: a cable or port that works in one direction only, or a filter.",
        action: "It does not hear us: other cable, other switch port.",
        applies: |case| {
            let asks = &case.seen.loader;
            case.before_files()
                && (is_eeprom(case) || is_rom(case) && !is_deaf_rom(case) && case.facts.other_dhcp.is_none())
                && !case.facts.beside
                && !case.seen.old_eeprom
                && asks.offers >= 3
                && asks.requests == 0
                && is_plain(case)
        },
    },
    Rule {
        hint: Hint::TwoServers,
        symptoms: &[6],
        observed: "A Pi 2 or 3 gets offers of two servers and goes on asking.",
        cause: "Its ROM locks up when two replies come within two seconds.",
        action: "Two DHCP servers on its wire: turn the other one off.",
        applies: |case| {
            let asks = &case.seen.loader;
            case.before_files() && is_rom(case) && case.facts.other_dhcp.is_some() && asks.offers >= 2 && is_plain(case)
        },
    },
    Rule {
        hint: Hint::RomDeaf,
        symptoms: &[5, 6],
        observed: "A Pi 2 or 3 repeats its question though our offers, with option 43, went out.",
        cause: "Its ROM keeps received packets back; it cannot be updated, but a card with bootcode.bin goes round it.",
        action: "It does not hear: SD card with only bootcode.bin in it.",
        applies: |case| {
            let asks = &case.seen.loader;
            case.before_files()
                && is_deaf_rom(case)
                && !case.facts.beside
                && case.facts.other_dhcp.is_none()
                && asks.offers >= 2
                && is_plain(case)
        },
    },
    Rule {
        hint: Hint::RomBeside,
        symptoms: &[6],
        observed: "A Pi 2 or 3 repeats its question beside a router that gives the addresses.",
        cause: "Its ROM can lock up where two servers answer; that router may also have no address for it.",
        action: "Router confuses it: SD card with only bootcode.bin.",
        applies: |case| {
            let asks = &case.seen.loader;
            case.before_files()
                && is_deaf_rom(case)
                && case.facts.beside
                && !case.facts.nobody_leases
                && asks.offers >= 2
                && is_plain(case)
        },
    },
    Rule {
        hint: Hint::RomGaveUp,
        symptoms: &[4],
        observed: "A Pi 2 or 3 asked up to five times, got no answer in time, and fell silent.",
        cause: "Its root was not ready while it asked, and its ROM asks for 25 seconds only.",
        action: "It gave up asking: switch it off and on.",
        applies: |case| {
            let asks = &case.seen.loader;
            case.before_files()
                && is_rom(case)
                && !case.facts.nobody_leases
                && case.silent
                && case.facts.store_open
                && asks.discovers >= 2
                && asks.offers == 0
                && is_plain(case)
        },
    },
    Rule {
        hint: Hint::AsksNoFile,
        symptoms: &[13],
        observed: "It took its address from us and then asked us for no file.",
        cause: "Its EEPROM names another TFTP server (TFTP_IP) or has no network boot, or a firewall here drops its requests.",
        action: "It asks no file: set its EEPROM, README step 0.",
        applies: |case| {
            let asks = &case.seen.loader;
            case.before_files()
                && is_eeprom(case)
                && !case.facts.beside
                && !case.seen.old_eeprom
                && asks.acks > 0
                && is_plain(case)
        },
    },
    Rule {
        hint: Hint::SecondStageUnheard,
        symptoms: &[14, 15],
        observed: "It has bootcode.bin, which asks for an address and for no file.",
        cause: "The second stage does not hear our answers, or sends its requests to a wrong address.",
        action: "Its 2nd stage hears nothing: switch it off and on.",
        applies: |case| {
            case.at(Reached::FirstStage)
                && (case.seen.second.discovers >= 2 || case.silent && case.seen.second.discovers > 0)
                && case.seen.second.elsewhere == 0
                && !case.seen.files.any(|file| !file.is_first_stage())
        },
    },
];
