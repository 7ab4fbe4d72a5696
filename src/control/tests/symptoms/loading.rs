//! Symptoms of boards that load their boot files.

use super::*;

pub(super) const SYMPTOMS: &[Symptom] = &[
    (
        16,
        "transfer dies in a file",
        &[Stuck(&[
            (PI3, Hint::SilentInFile, |pi| {
                pi.leased()
                    .fetches(&["bootcode.bin"])
                    .bootcode()
                    .stopped("kernel8.img", 5120, 9_000_000, false)
                    .wait(60);
            }),
            (PI3, Hint::BrokeOff, |pi| {
                for n in 1..=4 {
                    pi.leased().fetches(&["bootcode.bin"]).bootcode().stopped("start.elf", 5120 * n, 9_000_000, false);
                    pi.wait(20);
                }
                pi.leased().fetches(&["bootcode.bin"]);
            }),
        ])],
    ),
    (
        17,
        "RRQ again and again from the same port",
        &[Stuck(&[(PI4, Hint::FilesUnheard, |pi| {
            pi.leased().found("start4.elf").times(12, 2, |pi| {
                pi.tftp(|address, path| tftp::Event::Repeated { address, path }, "start4.elf");
            });
            pi.wait(60);
        })])],
    ),
    (
        18,
        "start4, start, config: all ERROR 1, and again",
        &[Stuck(&[
            (PI4, Hint::NoBootFiles, |pi| {
                pi.times(4, 30, |pi| {
                    pi.leased().missing(&["00009f3a/start4.elf", "00009f3a/start.elf", "config.txt", "start4.elf"]);
                });
            }),
            (PI3, Hint::NoBootFiles, |pi| {
                pi.leased().missing(&["bootcode.bin"]).wait(60);
            }),
            (PI5, Hint::NoBootFiles, |pi| {
                pi.leased().missing(&["00009f3a/config.txt", "config.txt"]).wait(60);
            }),
        ])],
    ),
    (
        19,
        "many \"Early terminate\"",
        &[NoFault(&[PI3, PI4, PI5], |pi| {
            pi.leased().loads();
            for _ in 0..9 {
                pi.found("kernel8.img").aborted("kernel8.img", 0);
            }
            pi.wait(4).kernel_leased().mounted().wait(60);
        })],
    ),
    (
        20,
        "stops behind fixup4.dat",
        &[Stuck(&[(PI4, Hint::FirmwareStopped, |pi| {
            pi.leased().fetches(&["config.txt", "start4.elf", "fixup4.dat"]).wait(60);
        })])],
    ),
    (21, "wrong size of memory, or a freeze", &[Unseen]),
    (
        22,
        "block N repeated, ACK N+1",
        &[Stuck(&[(PI4, Hint::BlockTwice, |pi| {
            pi.leased().stopped("start4.elf", 5120, 99_999, true).wait(60);
        })])],
    ),
    (
        23,
        "a large initramfs stops near 64 or 92 MiB",
        &[Stuck(&[
            (PI4, Hint::FileTooLarge, |pi| too_large(pi, 1024)),
            (PI5, Hint::FileTooLarge, |pi| too_large(pi, 1468)),
        ])],
    ),
    (
        24,
        "wrong kernel, or none",
        &[Stuck(&[
            (PI3, Hint::WrongKernel, |pi| {
                pi.leased().fetches(&["bootcode.bin"]).bootcode().fetches(&["start.elf", "bcm2710-rpi-3-b.dtb"]);
                pi.stopped("kernel8.img", 0, 9_000_000, false).fetches(&["kernel7.img"]).wait(60);
            }),
            (PI4, Hint::NoKernel, |pi| {
                pi.leased().fetches(&["config.txt", "start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb", "cmdline.txt"]);
                pi.missing(&["kernel8.img", "kernel7l.img", "kernel.img"]).wait(60);
            }),
        ])],
    ),
    (25, "config.txt seems ignored", &[Unseen]),
    (
        26,
        "Pi 5: the OS does not indicate support",
        &[Stuck(&[(PI5, Hint::NotForPi5, |pi| {
            pi.leased().fetches(&["config.txt"]).missing(&["bcm2712-rpi-5-b.dtb"]).wait(60);
        })])],
    ),
    (
        27,
        "Pi 5: black screen behind slow TFTP",
        &[Stuck(&[(PI5, Hint::Pi5Hung, |pi| {
            pi.leased().fetches(&["config.txt"]).stopped("kernel_2712.img", 5120, 9_000_000, false).wait(60);
        })])],
    ),
    (
        28,
        "boot.img broken off at once, and again",
        &[Stuck(&[(PI5, Hint::SignedBoot, |pi| {
            pi.leased().fetches(&["config.txt"]).times(3, 5, |pi| {
                pi.found("boot.img").aborted("boot.img", 1468);
            });
            pi.wait(60);
        })])],
    ),
    (29, "boots once, not after a reboot", &[Unseen]),
    (
        30,
        "kernel sent, no second DHCP",
        &[Stuck(&[
            (PI4, Hint::KernelSilent, |pi| {
                pi.leased().loads().wait(60);
            }),
            (PI4, Hint::NoDeviceTree, |pi| {
                pi.leased().fetches(&["config.txt", "start4.elf", "fixup4.dat"]).missing(&["bcm2711-rpi-4-b.dtb"]);
                pi.fetches(&["overlays/overlay_map.dtb", "cmdline.txt", "kernel8.img"]).wait(60);
            }),
        ])],
    ),
];

fn too_large(pi: &mut Script, block: u64) {
    pi.leased().fetches(&["config.txt"]).stopped("initramfs8", 65_535 * block, 200 << 20, false).wait(90);
}
