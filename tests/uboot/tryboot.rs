//! An update on the emulated Pi 3, up to its restart: the file on a USB stick behind dwc2,
//! the slot on an SD card behind sdhost, and the request to the firmware through the
//! mailbox. QEMU's firmware takes any request, so what a real one makes of it is not shown.

use std::path::Path;
use std::time::Duration;

use crate::support::emulated_pi::{self, Board, ENROLL, Pins};
use crate::support::qemu::Machine;
use crate::support::sd_image;
use crate::support::stick::{self, Content};
use crate::support::update_file::{self, Wanted, text, tool};

const LIMIT: Duration = Duration::from_secs(300);

pub fn ask_the_firmware(folder: &Path) -> Result<(), String> {
    let image = sd_image::path()?;
    let key = update_file::key(folder, "key")?;
    let wanted = Wanted { key: &key, version: "0.9.0", board: "raspberrypi,3-model-b", changes: None };
    let update = update_file::make(env!("CARGO_BIN_EXE_rootstock"), &image, folder, &wanted)?;
    let stick = folder.join("stick.img");
    stick::make(&stick, 128 << 20, 64 << 20, &[Content { to: "rootstock-0.9.0.update", from: &update }])?;
    let boot = sd_image::boot(&image, folder)?;
    let tree = sd_image::copy_file(&image, Board::Pi3.tree(), folder)?;
    emulated_pi::seed(&tree)?;
    tool("fdtput", &["-p", "-c", text(&tree)?, "/chosen/bootloader"])?;
    for (name, value) in [("partition", "2"), ("tryboot", "0")] {
        tool("fdtput", &["-t", "i", text(&tree)?, "/chosen/bootloader", name, value])?;
    }

    let socket = folder.join("qtest.sock");
    let mut command = Board::Pi3.start(&boot, &tree, "", &socket);
    let card = folder.join("tryboot.img");
    emulated_pi::insert_card(&mut command, &image, &card)?;
    update_file::put_setting(&card, &key.with_extension("pub"), "update.pub")?;
    emulated_pi::insert_stick(&mut command, &stick, "1");
    let mut machine = Machine::start("tryboot", &mut command, folder)?;
    let mut pins = Pins::connect(&socket, Board::Pi3)?;
    machine.wait_for("update 0.9.0 asks for a held ENROLL", 0, LIMIT)?;
    pins.level(ENROLL, false)?;
    machine.wait_for("confirmed: update 0.9.0", 0, LIMIT)?;
    pins.level(ENROLL, true)?;
    machine.wait_for("update 0.9.0 is written and checked", 0, LIMIT)?;
    machine.wait_for("the firmware is asked to try the other slot", 0, LIMIT)?;
    machine.wait_for("Restarting system with command '0 tryboot'", 0, LIMIT)?;
    machine.wait_exit(LIMIT)?;
    let slot = format!("{}@@{}M", text(&card)?, sd_image::SLOTS_MIB[1]);
    match tool("mtype", &["-i", &slot, "::version.txt"])?.trim() {
        "0.9.0" => Ok(()),
        other => Err(format!("the second slot holds {other:?}")),
    }
}
