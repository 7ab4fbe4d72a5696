//! The tests by name, in the order they run: what needs nobody first, what
//! needs a person last.

mod board;
mod display;
mod gpio;
mod jumpers;
mod nfs;
mod rest;
mod second_pi;
mod services;
mod stick;
mod wire;

use crate::verdict::Case;
use crate::verdict::Proof::{Anywhere, Board};

const fn case(
    name: &'static str,
    proof: crate::verdict::Proof,
    run: fn(&crate::bench::Bench) -> crate::verdict::Outcome,
    proves: &'static str,
) -> Case {
    Case { name, proves, proof, run, minutes: 5 }
}

pub const ALL: &[Case] = &[
    case("board_is_a_raspberry_pi", Anywhere, board::is_a_pi, "The kernel's device tree and rppal agree on the model."),
    case(
        "firmware_tells_the_revision",
        Board("no firmware ran"),
        board::revision,
        "The firmware handed over its revision code, and it names the same model.",
    ),
    case("all_processors_run", Anywhere, board::processors, "The kernel has started all four cores."),
    case(
        "memory_is_all_there_and_keeps_what_is_written",
        Board("with this machine's memory"),
        board::memory,
        "The kernel has the memory that the revision code names, and 64 MiB of it keep a pattern.",
    ),
    case("random_numbers_are_there", Board("with a seed given"), board::random, "Keys and DHCP need not wait."),
    case(
        "temperature_is_sane",
        Board("without a sensor"),
        board::temperature,
        "The sensor is read, and the processor is below 80 °C.",
    ),
    case(
        "power_supply_suffices",
        Board("without a supply"),
        board::power,
        "Neither under-voltage nor throttling since power-on.",
    ),
    case(
        "boot_is_fast",
        Board("on another processor"),
        board::boot_time,
        "The appliance's first program starts within 15 s of the kernel.",
    ),
    case(
        "watchdog_takes_food",
        Board("where arming it ends the machine"),
        board::watchdog,
        "The watchdog opens, tells its time, is fed, and closes again. It is not left to bite.",
    ),
    case("gpio_chip_is_the_boards", Anywhere, gpio::chip, "The kernel's GPIO driver is the Pi's, with all its lines."),
    case("panel_pins_are_free", Anywhere, gpio::free, "No driver holds the pins of ENROLL, NEXT and the lamp."),
    case(
        "pulls_hold_free_pins",
        Board("without resistors"),
        gpio::pulls,
        "Inputs follow their own pull-up and pull-down, which the buttons rely on.",
    ),
    case("i2c_bus_opens", Anywhere, display::bus, "The display's bus has a driver that moves plain bytes."),
    case(
        "i2c_scan_names_what_answers",
        Board("with what the lab put on the bus"),
        display::scan,
        "All addresses are asked; a short circuit or a missing pull-up shows here.",
    ),
    case(
        "display_answers_at_its_address",
        Board("with a memory chip in its place"),
        display::answers,
        "The display of the settings acknowledges its whole set-up.",
    ),
    case(
        "panel_at_rest_costs_little",
        Board("on another processor"),
        rest::costs_little,
        "Buttons, display and lamp take less than one per cent of a core while nothing goes on.",
    ),
    case(
        "wired_port_is_the_boards",
        Board("with another network card"),
        wire::port,
        "The board's own port has its driver.",
    ),
    case(
        "link_is_as_fast_as_the_board",
        Board("without a cable"),
        wire::link,
        "The cable carries what this board can do, full duplex.",
    ),
    case("stick_is_seen", Board("with a file as the stick"), stick::seen, "The USB port finds a stick."),
    case("stick_reads_fast", Board("with a file as the stick"), stick::reads, "64 MiB of it read past the cache."),
    case(
        "stick_keeps_what_is_written",
        Board("with a file as the stick"),
        stick::writes,
        "32 MiB written into a store of ours, read back past the cache, and deleted again.",
    ),
    case(
        "services_answer_on_the_wire",
        Anywhere,
        services::answer,
        "A virtual Pi in a network namespace is enrolled by DHCP, loads by TFTP, and reads its root by NFS.",
    ),
    case(
        "jumpers_press_the_buttons",
        Board("with wires of software"),
        jumpers::press,
        "Short and held presses of both buttons, made by GPIO 5 and 6, are told apart.",
    ),
    case(
        "jumper_carries_an_output_to_an_input",
        Board("with a wire of software"),
        jumpers::carry,
        "200 levels of GPIO 16 arrive at GPIO 26.",
    ),
    case(
        "buttons_are_pressed_by_a_finger",
        Board("without fingers"),
        gpio::finger,
        "ENROLL, then NEXT, pressed by a person.",
    ),
    case(
        "display_shows_the_test_pattern",
        Board("with a memory chip in its place"),
        display::pattern,
        "A person sees the whole picture, upright.",
    ),
    Case {
        // An import on a slow stick, and a person who walks over to the other board.
        minutes: 25,
        ..case(
            "second_pi_is_enrolled_and_boots",
            Board("without a second one"),
            second_pi::boots,
            "Another Pi boots from this one; the times of its stages.",
        )
    },
];
