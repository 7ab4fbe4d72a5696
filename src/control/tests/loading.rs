//! A script for each hint of a board that loads its boot files.

use super::script::*;
use super::*;
use crate::dhcp::packets::{PI3, PI4, PI5};
use crate::diagnose::Hint;

#[test]
fn transfers_that_end_early_tell_why() {
    check(PI4, Hint::FilesUnheard, |pi| {
        pi.leased().found("9f3a0000/start4.elf");
        pi.times(12, 2, |pi| {
            pi.tftp(|address, path| tftp::Event::Repeated { address, path }, "start4.elf");
        });
        pi.wait(60);
    });
    check(PI5, Hint::FilesUnheard, |pi| {
        pi.leased().stopped("config.txt", 0, 100, false).wait(60);
    });
    let broke: Play = |pi| {
        pi.leased().fetches(&["config.txt"]).stopped("kernel8.img", 5120, 99_999, false).wait(60);
    };
    check(PI3, Hint::SilentInFile, broke);
    check(PI4, Hint::SilentInFile, broke);
    check(PI5, Hint::Pi5Hung, broke);
    check(PI4, Hint::BlockTwice, |pi| {
        pi.leased().stopped("start4.elf", 5120, 99_999, true).wait(60);
    });
    for block in [512, 1024, 1468] {
        let mut script = Script::new(PI4);
        script.leased().loads().stopped("initramfs8", 65_535 * block, 200 << 20, false).wait(90);
        assert_eq!(script.hint(), Some(Hint::FileTooLarge), "{block}");
    }
    check(PI5, Hint::FileTooLarge, |pi| {
        pi.leased().fetches(&["config.txt"]).found("boot.img").aborted("boot.img", 65_535 * 1468).wait(70);
    });
    check(PI4, Hint::StickUnreadable, |pi| {
        pi.leased().fetches(&["config.txt"]).found("kernel8.img");
        pi.tftp(|address, path| tftp::Event::Failed { address, path, error: "i/o".to_owned() }, "kernel8.img").wait(60);
    });
}

#[test]
fn what_the_image_lacks_is_told() {
    let all = ["00009f3a/start4.elf", "00009f3a/start.elf", "config.txt", "start4.elf", "start.elf"];
    let restarts = move |pi: &mut Script| {
        pi.leased().missing(&all);
    };
    let mut script = Script::new(PI4);
    script.times(4, 30, restarts);
    assert_eq!(script.hint(), Some(Hint::NoBootFiles));
    check(PI3, Hint::NoBootFiles, |pi| {
        pi.leased().missing(&["bootcode.bin"]).wait(60);
    });
    check(PI5, Hint::NoBootFiles, |pi| {
        pi.leased().missing(&["00009f3a/config.txt", "config.txt"]).wait(60);
    });
    check(PI5, Hint::NotForPi5, |pi| {
        pi.leased().fetches(&["config.txt"]).missing(&["bcm2712-rpi-5-b.dtb"]).wait(60);
    });
    check(PI4, Hint::NoDeviceTree, |pi| {
        pi.leased().fetches(&["config.txt", "start4.elf", "fixup4.dat"]).missing(&["bcm2711-rpi-4-b.dtb"]);
        pi.fetches(&["overlays/overlay_map.dtb", "cmdline.txt", "kernel8.img"]).wait(60);
    });
    check(PI4, Hint::NoKernel, |pi| {
        pi.leased().fetches(&["config.txt", "start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb", "cmdline.txt"]);
        pi.missing(&["kernel8.img", "kernel7l.img", "kernel.img"]).wait(60);
    });
}

#[test]
fn firmware_and_kernels_that_stop_are_told_apart() {
    check(PI4, Hint::FirmwareStopped, |pi| {
        pi.leased().fetches(&["config.txt", "start4.elf", "fixup4.dat"]).wait(60);
    });
    check(PI4, Hint::KernelSilent, |pi| {
        pi.leased().loads().wait(60);
    });
    check(PI3, Hint::KernelSilent, |pi| {
        pi.leased().loads().wait(60);
    });
    check(PI3, Hint::WrongKernel, |pi| {
        pi.leased().fetches(&["bootcode.bin"]).bootcode().fetches(&["start.elf", "bcm2710-rpi-3-b.dtb"]);
        pi.stopped("kernel8.img", 0, 9_000_000, false).fetches(&["kernel7.img"]).wait(60);
    });
    check(PI5, Hint::SignedBoot, |pi| {
        pi.leased().fetches(&["config.txt"]);
        pi.times(3, 5, |pi| {
            pi.found("boot.img").aborted("boot.img", 1468);
        })
        .wait(60);
    });
}
