//! Rules for boards whose kernel runs: its address, its root, its start.
//!
//! Pure.

use std::time::Duration;

use super::evidence::{Attempt, Reached};
use super::rule::{Case, Rule};
use super::{Hint, evidence::Calls};
use crate::nfs::Refusal;

/// An undisturbed mount asks the portmapper once or twice, within a second.
const FEW_PORTS: u32 = 4;
/// A client of the network that was just changed has nothing to ask any more.
const AT_ONCE: Duration = Duration::from_secs(10);

/// Before MNT was answered.
fn mounts(case: &Case) -> bool {
    matches!(case.seen.reached, Reached::Kernel | Reached::System)
}

fn version_differs(calls: &Calls) -> bool {
    calls.asked_nfs2 > 0 || calls.asked_nfs4 > 0
}

fn refused_for(case: &Case, wanted: &[Refusal]) -> bool {
    let calls = &case.seen.calls;
    mounts(case) && !version_differs(calls) && calls.refused.is_some_and(|reason| wanted.contains(&reason))
}

/// Nothing wrong was said: it is only too quiet.
fn no_word(case: &Case) -> bool {
    let calls = &case.seen.calls;
    mounts(case) && !version_differs(calls) && calls.refused.is_none() && case.seen.system.declines < 2
}

/// A system that has an address, and nothing of what a boot from here shows before.
pub(super) fn starts_itself(seen: &Attempt) -> bool {
    let (asks, calls) = (&seen.system, &seen.calls);
    let loaded = seen.loader.discovers + seen.second.discovers > 0 || !seen.files.is_empty();
    let used = calls.ports_asked + calls.refusals > 0 || calls.traffic_at.is_some();
    // A client that was switched off has nothing to renew.
    let asked = asks.requests > 0 && (asks.discovers > 0 || seen.was_up);
    seen.reached == Reached::System && (asked || seen.restarted) && !seen.kernel_asked && !loaded && !used
}

fn runs(case: &Case) -> bool {
    case.at(Reached::Mounted)
}

/// Its system asked for an address of its own and was not heard of since.
fn network_lost(calls: &Calls) -> bool {
    let last = calls.traffic_at.or(calls.mounted_at).unwrap_or_default();
    calls.dhcp_since > 0 && last <= calls.dhcp_at + AT_ONCE
}

pub static RULES: &[Rule] = &[
    Rule {
        hint: Hint::NfsTwo,
        symptoms: &[32],
        observed: "It asks for NFS version 2.",
        cause: "The words nfsroot=…,vers=3 do not reach its kernel, whose default is version 2.",
        action: "It asks for NFS 2: its cmdline.txt needs vers=3.",
        applies: |case| mounts(case) && case.seen.calls.asked_nfs2 > 0,
    },
    Rule {
        hint: Hint::NfsFour,
        symptoms: &[33],
        observed: "It asks for NFS version 4.",
        cause: "vers=4 stands in the words of its root; NFS 3 is served.",
        action: "It asks for NFS 4: take vers=4 out of its cmdline.txt.",
        applies: |case| {
            let calls = &case.seen.calls;
            mounts(case) && calls.asked_nfs4 > 0 && calls.asked_nfs2 == 0
        },
    },
    Rule {
        hint: Hint::NotItsRoot,
        symptoms: &[34],
        observed: "It asks for a folder that is not its root, and was refused.",
        cause: "cmdline.txt or fstab names another client's root, or a folder that is not there.",
        action: "It asks for a root that is not its own: see cmdline.txt.",
        applies: |case| {
            refused_for(
                case,
                &[
                    Refusal::NotAnExport,
                    Refusal::TooLong,
                    Refusal::NoSuchFolder,
                    Refusal::NotAFolder,
                    Refusal::LeadsOut,
                ],
            )
        },
    },
    Rule {
        hint: Hint::TreeAway,
        symptoms: &[34],
        observed: "It asks for its root, which is not mounted here now.",
        cause: "The stick was pulled or fails.",
        action: "Its files are away: put the stick in, then restart it.",
        applies: |case| refused_for(case, &[Refusal::NotMounted, Refusal::Unreadable]),
    },
    Rule {
        hint: Hint::HighPort,
        symptoms: &[34],
        observed: "It asks for its root from a port above 1023, and was refused.",
        cause: "Its NFS client does not use a reserved port, or an address translation is between.",
        action: "Its NFS port is over 1023: see [nfs] in the README.",
        applies: |case| refused_for(case, &[Refusal::Unprivileged]),
    },
    Rule {
        hint: Hint::KernelUnheard,
        symptoms: &[31],
        observed: "Its kernel repeats its question for an address and does not take our offer.",
        cause: "What we send does not reach it since the kernel drives the network.",
        action: "Kernel hears nothing: other cable, other port.",
        applies: |case| {
            let asks = &case.seen.system;
            no_word(case)
                && !case.facts.beside
                && case.seen.calls.ports_asked == 0
                && asks.offers >= 2
                && asks.acks == 0
                && asks.elsewhere == 0
        },
    },
    Rule {
        hint: Hint::CallsLost,
        symptoms: &[36],
        observed: "It asks for the NFS port again and again and gets no further.",
        cause: "Packets get lost on the way.",
        action: "Its calls get lost: other cable, other switch port.",
        applies: |case| {
            let calls = &case.seen.calls;
            no_word(case) && calls.ports_asked >= FEW_PORTS && calls.last_port > calls.first_port + AT_ONCE
        },
    },
    Rule {
        hint: Hint::MountsNothing,
        symptoms: &[33],
        observed: "Its kernel has an address and asks for no root.",
        cause: "Its initramfs stops at an NFS option that it does not know (proto=, mountport=), or has no NFS at all.",
        action: "It mounts no root: see its screen. Own NFS options?",
        applies: |case| {
            let (asks, calls) = (&case.seen.system, &case.seen.calls);
            // Beside another server that one answers it.
            let leased = asks.acks > 0 && asks.elsewhere == 0 || case.facts.beside && asks.requests > 0;
            no_word(case) && case.ended() && leased && calls.ports_asked == 0 && !starts_itself(case.seen)
        },
    },
    Rule {
        hint: Hint::OwnCard,
        symptoms: &[1, 2],
        observed: "A system runs on it, and neither a loader nor a kernel of it asked for an address before.",
        cause: "It starts from an SD card, a disk or a stick of its own.",
        action: "It starts from its own card or disk: take that out.",
        applies: |case| starts_itself(case.seen),
    },
    Rule {
        hint: Hint::LeaseMoved,
        symptoms: &[35],
        observed: "Its running system asked for another address than the one its root is mounted by.",
        cause: "A fixed address in its network settings, or a lease of another server that it remembers.",
        action: "It wants another address: set eth0 to DHCP or leave it be.",
        applies: |case| runs(case) && case.ended() && case.seen.system.naks > 0,
    },
    Rule {
        hint: Hint::NetworkLost,
        symptoms: &[35],
        observed: "Its starting system asked for an address anew and was not heard of since.",
        cause: "A network manager took eth0 down, under its own root.",
        action: "Its system took eth0 down: undo its network settings.",
        applies: |case| {
            let calls = &case.seen.calls;
            runs(case) && case.silent && case.seen.system.naks == 0 && calls.bad_handles == 0 && network_lost(calls)
        },
    },
    Rule {
        hint: Hint::StoppedStarting,
        symptoms: &[],
        observed: "It mounted its root, and before it was up it answered nothing any more.",
        cause: "Its kernel stopped (a panic: its root lacks something), or its power was cut.",
        action: "It stopped in its start: see its screen. Power good?",
        applies: |case| {
            let (asks, calls) = (&case.seen.system, &case.seen.calls);
            let lost = asks.naks > 0 || calls.bad_handles > 0 || network_lost(calls);
            runs(case) && case.silent && case.facts.unanswered && !lost
        },
    },
    Rule {
        hint: Hint::FilesChanged,
        symptoms: &[],
        observed: "It uses file handles that are not valid any more.",
        cause: "Its root was made anew or restored under it.",
        action: "Its files changed under it: switch it off and on.",
        applies: |case| runs(case) && case.ended() && case.seen.system.naks == 0 && case.seen.calls.bad_handles > 0,
    },
    Rule {
        hint: Hint::RestartsAgain,
        symptoms: &[37],
        observed: "It mounts its root, starts, and restarts, again and again.",
        cause: "A first-boot script that never ends its work, a kernel panic, or a weak power supply.",
        action: "It restarts for ever: see its screen. Power good?",
        applies: |case| runs(case) && case.loops && case.seen.system.naks == 0 && case.seen.calls.bad_handles == 0,
    },
];
