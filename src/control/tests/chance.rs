//! Evenings by chance: symptoms on top of each other and cut off anywhere. Whatever comes,
//! at most one rule applies (`diagnose::judge` holds that in tests), and a boot that comes
//! up ends every hint.

use super::script::*;
use super::*;
use crate::dhcp::packets::{self, PI3, PI4, PI5, Packet};
use crate::diagnose::Hint;
use crate::nfs::Refusal;

/// A generator whose row is the same everywhere (Knuth's MMIX).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

const FILES: &[&str] = &[
    "bootcode.bin",
    "config.txt",
    "start.elf",
    "start4.elf",
    "fixup4.dat",
    "bcm2711-rpi-4-b.dtb",
    "bcm2712-rpi-5-b.dtb",
    "cmdline.txt",
    "kernel8.img",
    "kernel_2712.img",
    "initramfs8",
    "boot.img",
    "overlays/vc4.dtbo",
];
const REFUSALS: &[Refusal] = &[
    Refusal::NotAnExport,
    Refusal::NoSuchFolder,
    Refusal::NotAFolder,
    Refusal::LeadsOut,
    Refusal::TooLong,
    Refusal::NotMounted,
    Refusal::Unreadable,
    Refusal::Unprivileged,
];

fn step(pi: &mut Script, chance: &mut Chance) {
    let file = chance.of(FILES);
    match chance.below(32) {
        0 => pi.leased(),
        1 => pi.loads(),
        2 => pi.kernel_leased(),
        3 => pi.mounted(),
        4 => pi.works(),
        5 => pi.discovers(),
        6 => pi.times(5, 5, |pi| {
            pi.discovers();
        }),
        7 => pi.requests(ROUTER),
        8 => pi.says(pi.loader(DISCOVER).giaddr(Ipv4Addr::new(10, 0, 0, 1))),
        9 => pi.says(pi.loader(DECLINE).address(54, US).address(50, ITS)),
        10 if pi.mac == PI3 => pi.bootcode(),
        10 if pi.mac == PI4 => pi.says(packets::pi4_of_2019(DISCOVER)),
        11 => pi.fetches(&[file]),
        12 | 13 => pi.missing(&[file, chance.of(FILES)]),
        14 => pi.stopped(file, chance.of(&[0, 1024, 5120, 65_535 * 1024]), 200 << 20, chance.below(4) == 0),
        15 => pi.found(file).wait(2).progress(7000 * chance.below(9) as u64),
        16 => pi.found(file).aborted(file, chance.of(&[0, 1468, 65_535 * 1468])),
        17 => pi.times(4, 2, |pi| {
            pi.tftp(|address, path| tftp::Event::Repeated { address, path }, "start4.elf");
        }),
        18 => pi.tftp(|address, path| tftp::Event::Failed { address, path, error: "i/o".to_owned() }, file),
        19 => pi.times(5, 6, |pi| {
            pi.kernel_discovers();
        }),
        20 => {
            let system = Packet::new(REQUEST, pi.mac).option(55, &[1, 3, 6, 15, 28]).address(50, ITS);
            pi.says(system)
        }
        21 => pi.ports(&[(nfs::MOUNT_PROGRAM, 3)]).refused(chance.of(REFUSALS)),
        22 => pi.ports(&[(nfs::PROGRAM, 2)]),
        23 => pi.nfs(nfs::Event::VersionRefused { address: ITS, program: nfs::PROGRAM, version: 4 }),
        24 => pi.times(5, 8, |pi| {
            pi.ports(&[(nfs::MOUNT_PROGRAM, 3)]);
        }),
        25 => pi.nfs(nfs::Event::BadHandle { address: ITS, count: 2, reason: "x" }),
        26 => pi.event(Event::Store(store::Event::Closed { name: "Stick".to_owned() })),
        27 => pi.plug(),
        28 => pi.event(Event::Net(net::Event::Carrier(chance.below(2) == 0))),
        29 => pi.nfs(nfs::Event::Unmounted { address: ITS }),
        30 => pi.event(Event::Store(store::Event::Up { role: Role::numbered(1) })),
        _ => pi.wait(chance.of(&[1, 9, 35, 70, 310])),
    };
    pi.wait(chance.of(&[0, 1, 3, 12, 31]));
}

#[test]
fn two_symptoms_at_once_never_make_two_rules_apply_and_a_good_boot_ends_every_hint() {
    let mut hints = BTreeMap::<Hint, u32>::new();
    let mut wrong = BTreeMap::<String, u64>::new();
    for seed in 0..800 {
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| evening(seed, &mut hints)));
        if let Err(why) = played {
            let why = why.downcast::<String>().map_or("a panic without words".to_owned(), |why| *why);
            wrong.entry(why).or_insert(seed);
        }
    }
    assert!(wrong.is_empty(), "what, and the first seed: {wrong:#?}");
    // The scripts reach most rules, or they would prove little.
    assert!(hints.len() >= 30, "{hints:?}");
}

fn evening(seed: u64, hints: &mut BTreeMap<Hint, u32>) {
    let mut chance = Chance(seed);
    let mut pi = Script::new(chance.of(&[PI3, PI4, PI5]));
    let beside = chance.below(4) == 0;
    if beside {
        pi.beside(chance.below(3) == 0);
    }
    for _ in 0..14 {
        step(&mut pi, &mut chance);
        if let Some(hint) = pi.hint() {
            *hints.entry(hint).or_default() += 1;
        }
    }
    if !beside {
        pi.event(Event::Net(net::Event::Carrier(true)));
        pi.plug().wait(1).leased().loads().wait(4).kernel_leased().wait(1).mounted();
        pi.event(Event::Store(store::Event::Up { role: Role::numbered(1) }));
        assert_eq!(pi.hint(), None, "behind a good boot");
    }
}
