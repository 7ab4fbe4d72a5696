//! Rules for boards that load their boot files: TFTP.
//!
//! Pure. A file that the image lacks is normal for most names (each model probes
//! for dozens); what counts is which kind is lacking altogether.

use std::time::Duration;

use super::evidence::Reached;
use super::files::File;
use super::rule::{Case, Rule};
use super::{Files, Hint};
use crate::client::Model;
use crate::dhcp::Asker;

/// An EEPROM waits 30 s for a file (TFTP_FILE_TIMEOUT) before it begins anew: who does so sooner was reset.
const GIVES_UP: Duration = Duration::from_secs(25);

/// Block sizes of the Pi's loaders: ROM, `start4.elf`, EEPROM since 2022-10.
const BLOCK_SIZES: [u64; 3] = [512, 1024, 1468];

fn is_pi5(case: &Case) -> bool {
    let by_files = case.seen.files.any(|file| file.name.starts_with("bcm2712") || file.name == "kernel_2712.img");
    matches!(case.seen.model, Model::Pi5 | Model::Cm5 | Model::Pi500) || by_files
}

fn is_eeprom(case: &Case) -> bool {
    case.seen.asker == Some(Asker::PiEeprom)
}

fn unreadable(case: &Case) -> bool {
    case.loads() && case.seen.files.last().is_some_and(|file| file.failed > 0)
}

/// Nothing of any file ever got there.
fn unheard(case: &Case) -> bool {
    let files = &case.seen.files;
    let deaf = |file: &File| file.repeated >= 3 || file.stop.is_some_and(|stop| stop.at == 0);
    // Who asks for another name has heard that there is none of the first.
    let heard = |file: &File| file.sent + file.aborted + file.missing > 0 || file.stop.is_some_and(|stop| stop.at > 0);
    case.loads() && !unreadable(case) && files.any(deaf) && !files.any(heard)
}

/// The file under way when it ended.
fn broken<'a>(case: &Case<'a>) -> Option<&'a File> {
    let file = case.seen.files.last().filter(|_| case.loads() && !unreadable(case))?;
    file.broke_off().then_some(file)
}

fn twice(file: &File) -> bool {
    file.stop.is_some_and(|stop| stop.ahead)
}

/// It ended where block numbers of two bytes end.
fn rolled_over(file: &File) -> bool {
    let edge = |at: u64| BLOCK_SIZES.iter().any(|block| (65_534..=65_536).any(|last| at == last * block));
    let stop = file.stop.map_or(0, |stop| stop.at);
    edge(stop) || (file.sent == 0 && edge(file.aborted_at))
}

/// It ended inside a file, with nothing that tells more of that file.
fn broke(case: &Case) -> bool {
    broken(case).is_some_and(|file| !twice(file)) && !too_large(case)
}

/// The same in boot after boot, at another place each time.
fn breaks(case: &Case) -> bool {
    case.loops && broke(case) && case.same_place < 2
}

fn was_reset(case: &Case) -> bool {
    is_eeprom(case) && case.gap < GIVES_UP
}

/// The last thing that it ended itself was ended at that edge.
fn too_large(case: &Case) -> bool {
    case.loads() && case.seen.files.last().is_some_and(rolled_over) && !unreadable(case)
}

fn signed(case: &Case) -> bool {
    let image = case.seen.files.get("boot.img");
    case.loads() && image.is_some_and(|image| image.aborted >= 2 && image.sent == 0 && !rolled_over(image))
}

/// It stopped in the last file, which tells more than what others lack.
fn stopped(case: &Case) -> bool {
    broken(case).is_some() || too_large(case) || unreadable(case)
}

/// Of what a model cannot begin without, nothing is there.
fn lacks_all(case: &Case) -> bool {
    let files = &case.seen.files;
    let first = match (is_pi5(case), is_eeprom(case)) {
        (true, _) => files.is_missing("config.txt"),
        (false, true) => files.is_missing("start4.elf") && !files.any(|file| file.is_firmware() && file.found > 0),
        (false, false) => {
            files.is_missing("bootcode.bin")
                || (files.is_missing("start.elf") && !files.any(|file| file.is_firmware() && file.found > 0))
        }
    };
    case.loads() && first && !stopped(case) && !case.at(Reached::Kernel)
}

/// Descriptions of boards were asked for, and none is there.
fn no_device_tree(case: &Case) -> bool {
    case.loads()
        && case.ended()
        && !lacks_all(case)
        && !stopped(case)
        && case.seen.files.all_missing(File::is_device_tree)
}

fn no_kernel(files: &Files) -> bool {
    files.all_missing(File::is_kernel)
}

/// One kernel did not come in time, and another one was loaded in its place.
fn wrong_kernel(files: &Files) -> bool {
    let late = |file: &File| file.is_kernel() && file.sent == 0 && (file.stops > 0 || file.failed > 0);
    files.any(late) && files.any(|file| file.is_kernel() && file.sent > 0)
}

/// Its firmware is there and asked for nothing of the system.
fn firmware_only(files: &Files) -> bool {
    let last = files.last().is_some_and(|file| file.is_firmware() && file.sent > 0);
    last && !files.any(|file| file.is_kernel() || file.is_device_tree() || file.name == "cmdline.txt")
}

pub static RULES: &[Rule] = &[
    Rule {
        hint: Hint::StickUnreadable,
        symptoms: &[],
        observed: "A boot file is there and could not be read.",
        cause: "The stick was pulled or fails.",
        action: "The stick cannot be read: put it in again.",
        applies: unreadable,
    },
    Rule {
        hint: Hint::FilesUnheard,
        symptoms: &[17],
        observed: "It asks for the same file again and again and acknowledges nothing of it.",
        cause: "What we send does not reach it: a filter, or a cable that works in one direction only.",
        action: "Files do not reach it: other cable, other switch port.",
        applies: unheard,
    },
    Rule {
        hint: Hint::BlockTwice,
        symptoms: &[22],
        observed: "It acknowledged a block that was never sent, and hung.",
        cause: "The wire doubled a packet, which loaders before 2021-02 do not survive.",
        action: "Packets come twice: is a cable looped? Update its EEPROM.",
        applies: |case| broken(case).is_some_and(twice),
    },
    Rule {
        hint: Hint::FileTooLarge,
        symptoms: &[23],
        observed: "A large file stopped at block 65535.",
        cause: "Its loader cannot count further: 64 MB, or 92 MB with larger blocks, until 2025-09.",
        action: "A file is too large: update its EEPROM, README step 0.",
        applies: |case| too_large(case) && !broken(case).is_some_and(twice),
    },
    Rule {
        hint: Hint::Pi5Hung,
        symptoms: &[27],
        observed: "A Pi 5 fell silent inside a file and did not ask for it again.",
        cause: "Its loader does not try again after a timeout; or it was switched off.",
        action: "Silent in a file: if it is on, switch it off and on.",
        applies: |case| is_pi5(case) && case.silent && broke(case),
    },
    Rule {
        hint: Hint::SilentInFile,
        symptoms: &[16],
        observed: "It fell silent inside a file and did not begin anew.",
        cause: "It was switched off or lost its power, its cable is out, or its loader hangs.",
        action: "Silent in a file: is it on, its cable in? Restart it.",
        applies: |case| !is_pi5(case) && case.silent && broke(case),
    },
    Rule {
        hint: Hint::SamePlace,
        symptoms: &[],
        observed: "Boot after boot it stops at the same byte of the same file.",
        cause: "Its loader cannot take more of that file, or the stick gives those bytes too late.",
        action: "Same place each time: newer EEPROM? Other stick?",
        applies: |case| case.loops && broke(case) && case.same_place >= 2,
    },
    Rule {
        hint: Hint::PowerLost,
        symptoms: &[],
        observed: "Boot after boot it begins anew inside a file, sooner than its loader gives one up.",
        cause: "Its power is cut: a weak supply or a loose plug, if it was no hand.",
        action: "Lost power in a file: other supply? Or off by hand?",
        applies: |case| breaks(case) && was_reset(case),
    },
    Rule {
        hint: Hint::BrokeOff,
        symptoms: &[16],
        observed: "Boot after boot it breaks off inside a file and begins anew.",
        cause: "Packets are lost for as long as its loader waits, or its power is cut.",
        action: "Files break off: other cable or power supply.",
        applies: |case| breaks(case) && !was_reset(case),
    },
    Rule {
        hint: Hint::SignedBoot,
        symptoms: &[28],
        observed: "It asks for boot.img, breaks it off at once, and asks again.",
        cause: "Signed boot over TFTP fails in its loader.",
        action: "Signed boot fails over the wire: turn it off.",
        applies: signed,
    },
    Rule {
        hint: Hint::NoBootFiles,
        symptoms: &[18],
        observed: "None of the files that its loader begins with is there.",
        cause: "The image is for other boards, or its boot files were deleted.",
        action: "The image lacks its boot files: use another image.",
        applies: lacks_all,
    },
    Rule {
        hint: Hint::NotForPi5,
        symptoms: &[26],
        observed: "A Pi 5 found no description of itself (bcm2712….dtb).",
        cause: "The image is older than the Pi 5, so its loader refuses it.",
        action: "The image is too old for a Pi 5: use a newer one.",
        applies: |case| is_pi5(case) && no_device_tree(case),
    },
    Rule {
        hint: Hint::NoDeviceTree,
        symptoms: &[30],
        observed: "It found no description of its board (a .dtb file).",
        cause: "The image is older than this board.",
        action: "The image does not know this Pi: use a newer one.",
        applies: |case| !is_pi5(case) && no_device_tree(case),
    },
    Rule {
        hint: Hint::NoKernel,
        symptoms: &[24],
        observed: "It found none of the kernels that it asked for.",
        cause: "The image has no kernel for this board, or config.txt names one that is not there.",
        action: "No kernel for this Pi in the image: use another image.",
        applies: |case| {
            case.loads()
                && case.ended()
                && no_kernel(&case.seen.files)
                && !no_device_tree(case)
                && !lacks_all(case)
                && !stopped(case)
        },
    },
    Rule {
        hint: Hint::WrongKernel,
        symptoms: &[24],
        observed: "A kernel did not come in time and it took another one.",
        cause: "A slow stick or a lossy wire: its loader takes a timeout for a missing file.",
        action: "It took a wrong kernel: switch it off and on.",
        applies: |case| {
            case.at(Reached::Kernel)
                && case.ended()
                && wrong_kernel(&case.seen.files)
                && !case.called()
                && !stopped(case)
                && !no_device_tree(case)
        },
    },
    Rule {
        hint: Hint::FirmwareStopped,
        symptoms: &[20],
        observed: "It has its firmware and asked for nothing after it.",
        cause: "Start and fixup files that do not fit each other, or too little voltage.",
        action: "Its firmware stops: good power supply? Newer image?",
        applies: |case| {
            case.loads() && case.ended() && firmware_only(&case.seen.files) && !lacks_all(case) && !stopped(case)
        },
    },
    Rule {
        hint: Hint::KernelSilent,
        symptoms: &[30],
        observed: "It has its kernel, and nothing was heard of that.",
        cause: "The kernel does not start on this board, or lacks the driver of its network.",
        action: "Kernel is silent: see its screen. Old image?",
        applies: |case| {
            case.at(Reached::Kernel)
                && case.ended()
                && !wrong_kernel(&case.seen.files)
                && !case.called()
                && !stopped(case)
                && !no_device_tree(case)
        },
    },
];
