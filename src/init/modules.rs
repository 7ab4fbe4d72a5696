//! Which modules a device or a name needs, and in which order: what depmod
//! wrote to `/lib/modules/<release>/`, read as kmod reads it.
//!
//! Pure: texts in, load orders out. `loader.rs` reads the files and loads.

use std::collections::{HashMap, HashSet};

/// Longest text that is read of each file; Debian's whole `modules.alias` is 1.3 MB.
pub const MAX_TEXT_BYTES: u64 = 8 << 20;
/// Most modules that one name may pull in; the deepest in Debian's kernel needs about 20.
const MAX_PULLED: usize = 128;

/// The files' contents; a file that is not there is an empty text.
#[derive(Debug, Clone, Copy, Default)]
pub struct Texts<'t> {
    pub dep: &'t str,
    pub alias: &'t str,
    pub softdep: &'t str,
    pub builtin: &'t str,
}

/// What depmod knows.
#[derive(Debug, Clone, Default)]
pub struct Modules {
    by_name: HashMap<String, Module>,
    /// Patterns by what stands before their first `:`, for a device names its bus there and no pattern has a
    /// wildcard in it (`acpi*:` has: those are under the empty key).
    aliases: HashMap<String, Vec<(String, String)>>,
    builtin: HashSet<String>,
}

#[derive(Debug, Clone, Default)]
struct Module {
    /// Below the modules' directory, such as `kernel/fs/ext4/ext4.ko`.
    path: String,
    /// In the order to load them.
    before: Vec<String>,
    after: Vec<String>,
}

/// One module to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load<'m> {
    pub name: &'m str,
    pub path: &'m str,
}

impl Modules {
    pub fn parse(texts: Texts<'_>) -> Self {
        let mut modules = Self::default();
        modules.builtin.extend(texts.builtin.lines().map(name_of));
        for line in texts.dep.lines() {
            let Some((path, needs)) = line.split_once(':') else { continue };
            // depmod writes what is nearest first and what must be there first last.
            let before = needs.split_ascii_whitespace().rev().map(name_of).collect();
            modules.by_name.insert(name_of(path), Module { path: path.to_owned(), before, after: Vec::new() });
        }
        for line in texts.alias.lines() {
            let mut words = line.split_ascii_whitespace();
            if let (Some("alias"), Some(pattern), Some(name)) = (words.next(), words.next(), words.next()) {
                let pattern = normalize(pattern);
                modules.aliases.entry(bus_of(&pattern)).or_default().push((pattern, name_of(name)));
            }
        }
        for line in texts.softdep.lines() {
            modules.add_softdep(line);
        }
        modules
    }

    /// `softdep NAME pre: A B post: C`.
    fn add_softdep(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let (Some("softdep"), Some(name)) = (words.next(), words.next()) else { return };
        let Some(module) = self.by_name.get_mut(&normalize(name)) else { return };
        let mut pre = Vec::new();
        let mut in_post = false;
        for word in words {
            match word {
                "pre:" => in_post = false,
                "post:" => in_post = true,
                _ if in_post => module.after.push(normalize(word)),
                _ => pre.push(normalize(word)),
            }
        }
        module.before.splice(0..0, pre);
    }

    /// The modules that say they drive a device, or that have this second name. Built-in ones are not told.
    pub fn for_alias(&self, alias: &str) -> Vec<&str> {
        let alias = normalize(alias);
        let mut found: Vec<&str> = Vec::new();
        for key in [bus_of(&alias), String::new()] {
            for (pattern, name) in self.aliases.get(&key).into_iter().flatten() {
                if !found.contains(&name.as_str()) && matches(pattern.as_bytes(), alias.as_bytes()) {
                    found.push(name);
                }
            }
        }
        found
    }

    /// Everything to load for `name`, a module's name or an alias, first to last. Empty when it is built in
    /// or unknown: `knows` tells which.
    pub fn load_order(&self, name: &str) -> Vec<Load<'_>> {
        let mut order = Vec::new();
        self.pull(name, &mut order, &mut HashSet::new());
        order
    }

    /// Whether `name` is a module here, built into the kernel, or an alias of a module here.
    pub fn knows(&self, name: &str) -> bool {
        let normal = normalize(name);
        self.by_name.contains_key(&normal) || self.builtin.contains(&normal) || !self.for_alias(name).is_empty()
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Depth first; `seen` ends circles, and its size bounds the depth.
    fn pull<'m>(&'m self, name: &str, order: &mut Vec<Load<'m>>, seen: &mut HashSet<String>) {
        let normal = normalize(name);
        if seen.len() >= MAX_PULLED || self.builtin.contains(&normal) || !seen.insert(normal.clone()) {
            return;
        }
        let Some((name, module)) = self.by_name.get_key_value(&normal) else {
            for target in self.for_alias(name) {
                self.pull(target, order, seen);
            }
            return;
        };
        for needed in &module.before {
            self.pull(needed, order, seen);
        }
        order.push(Load { name, path: &module.path });
        for wanted in &module.after {
            self.pull(wanted, order, seen);
        }
    }
}

/// `kernel/drivers/usb/storage/usb-storage.ko.xz` is the module `usb_storage`.
pub fn name_of(path: &str) -> String {
    let file = path.trim().rsplit('/').next().unwrap_or_default();
    let stem = file.split_once(".ko").map_or(file, |(stem, _)| stem);
    stem.replace('-', "_")
}

/// `-` and `_` are the same everywhere but inside a bracket.
fn normalize(alias: &str) -> String {
    let mut in_bracket = false;
    let normal = |c| {
        match c {
            '[' => in_bracket = true,
            ']' => in_bracket = false,
            '-' if !in_bracket => return '_',
            _ => {}
        }
        c
    };
    alias.trim().chars().map(normal).collect()
}

fn bus_of(alias: &str) -> String {
    match alias.split_once(':') {
        Some((bus, _)) if !bus.contains(['*', '?', '[']) => bus.to_owned(),
        Some(_) => String::new(),
        // A plain name such as `crc32c`, or `fs-*`: few, and all in one place.
        None => "no bus".to_owned(),
    }
}

/// Shell matching as fnmatch(3) without flags: `*`, `?`, `[abc]`, `[a-z]`, `[!a]`; `*` also matches `/`.
/// Takes at most pattern × text steps, whatever the pattern is.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when a try fails: after the last star, one byte of text further.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, t));
            p += 1;
            continue;
        }
        let step = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some(b'?'), Some(_)) => Some(1),
            (Some(b'['), Some(&byte)) => match bracket(&pattern[p + 1..], byte) {
                Some((true, length)) => Some(1 + length),
                Some((false, _)) => None,
                // An open end is an ordinary `[`.
                None => (byte == b'[').then_some(1),
            },
            (Some(literal), Some(byte)) if literal == byte => Some(1),
            _ => None,
        };
        match (step, retry) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((after_star, from))) if from < text.len() => {
                retry = Some((after_star, from + 1));
                (p, t) = (after_star, from + 1);
            }
            (None, _) => return false,
        }
    }
}

/// Whether `byte` is in the set that starts after `[`, and the set's length with its `]`.
fn bracket(set: &[u8], byte: u8) -> Option<(bool, usize)> {
    let inverted = matches!(set.first(), Some(b'!' | b'^'));
    let mut at = usize::from(inverted);
    let first = at;
    let mut found = false;
    loop {
        let low = *set.get(at)?;
        if low == b']' && at > first {
            return Some((found != inverted, at + 1));
        }
        if set.get(at + 1) == Some(&b'-') && set.get(at + 2).is_some_and(|&b| b != b']') {
            found |= (low..=set[at + 2]).contains(&byte);
            at += 3;
        } else {
            found |= low == byte;
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Lines as depmod writes them for Debian's arm64 kernel 6.1.
    const ALIAS: &str = "\
# Aliases extracted from modules themselves.
alias usb:v*p*d*dc*dsc*dp*ic08isc06ip50in* usb_storage
alias usb:v*p*d*dc*dsc*dp*ic08isc06ip62in* uas
alias usb:v0525p[0-9a-f]*d*dc*dsc*dp*ic02isc06ip00in* cdc_ether
alias usb:v0424pEC00d*dc*dsc*dp*ic*isc*ip*in* smsc95xx
alias usb:v0424p780[0-9]d*dc*dsc*dp*ic*isc*ip*in* lan78xx
alias of:N*T*Cbrcm,bcm2835-i2cC* i2c_bcm2835
alias of:N*T*Cbrcm,bcm2835-i2c i2c_bcm2835
alias of:N*T*Cbrcm,bcm2835-sdhostC* bcm2835
alias of:N*T*Cbrcm,bcm2711-genet-v5 genet
alias of:N*T*Cbrcm,bcm2835-usb dwc2
alias platform:bcm2835-wdt bcm2835_wdt
alias virtio:d00000001v* virtio_net
alias virtio:d00000002v* virtio_blk
alias pci:v00008086d000025ABsv*sd*bc*sc*i* i6300esb
alias pci:v*d*sv*sd*bc0Csc03i30* xhci_pci
alias acpi*:PNP0A08:* acpi_thing
alias crc32c crc32c_generic
alias crypto-crc32c crc32c_generic
alias fs-ext4 ext4
";
    const DEP: &str = "\
kernel/drivers/usb/storage/uas.ko: kernel/drivers/usb/storage/usb-storage.ko kernel/drivers/scsi/scsi_mod.ko kernel/drivers/usb/core/usbcore.ko kernel/drivers/usb/common/usb-common.ko
kernel/drivers/usb/storage/usb-storage.ko: kernel/drivers/scsi/scsi_mod.ko kernel/drivers/usb/core/usbcore.ko kernel/drivers/usb/common/usb-common.ko
kernel/drivers/scsi/scsi_mod.ko:
kernel/drivers/usb/core/usbcore.ko: kernel/drivers/usb/common/usb-common.ko
kernel/drivers/usb/common/usb-common.ko:
kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko
kernel/lib/crc16.ko:
kernel/fs/mbcache.ko:
kernel/fs/jbd2/jbd2.ko:
kernel/crypto/crc32c_generic.ko:
kernel/drivers/net/usb/lan78xx.ko: kernel/drivers/usb/core/usbcore.ko
kernel/drivers/net/phy/microchip.ko.xz:
";
    const SOFTDEP: &str = "\
# Soft dependencies extracted from modules themselves.
softdep ext4 pre: crc32c
softdep lan78xx post: microchip
softdep absent pre: a
softdep
";

    fn modules() -> Modules {
        Modules::parse(Texts {
            dep: DEP,
            alias: ALIAS,
            softdep: SOFTDEP,
            builtin: "kernel/drivers/usb/common/usb-common.ko\n",
        })
    }

    fn check_alias(alias: &str, expected: &[&str]) {
        assert_eq!(modules().for_alias(alias), expected, "{alias}");
    }

    fn check_order(name: &str, expected: &[&str]) {
        let modules = modules();
        let order: Vec<&str> = modules.load_order(name).iter().map(|load| load.name).collect();
        assert_eq!(order, expected, "{name}");
    }

    #[test]
    fn devices_of_every_bus_find_their_module() {
        check_alias("usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00", &["usb_storage"]);
        check_alias("usb:v0BDAp9210d2001dc00dsc00dp00ic08isc06ip62in00", &["uas"]);
        check_alias("usb:v0424pEC00d0200dcFFdsc00dp01icFFisc00ipFFin00", &["smsc95xx"]);
        check_alias("usb:v0424p7800d0300dcFFdsc00dpFFicFFisc00ipFFin00", &["lan78xx"]);
        check_alias("of:Ni2cT(null)Cbrcm,bcm2711-i2cCbrcm,bcm2835-i2c", &["i2c_bcm2835"]);
        check_alias("of:NmmcT(null)Cbrcm,bcm2835-sdhost", &[]);
        check_alias("of:NmmcT(null)Cbrcm,bcm2835-sdhostCx", &["bcm2835"]);
        check_alias("of:NethernetT(null)Cbrcm,bcm2711-genet-v5", &["genet"]);
        check_alias("platform:bcm2835-wdt", &["bcm2835_wdt"]);
        check_alias("platform:bcm2835_wdt", &["bcm2835_wdt"]);
        check_alias("virtio:d00000001v00001AF4", &["virtio_net"]);
        check_alias("pci:v00008086d000025ABsv00001AF4sd00001100bc08sc80i00", &["i6300esb"]);
        check_alias("pci:v00001106d00003483sv00001106sd00003483bc0Csc03i30", &["xhci_pci"]);
        check_alias("acpi:PNP0A08:PNP0A03:", &["acpi_thing"]);
        check_alias("input:b0003v*", &[]);
    }

    #[test]
    fn what_is_needed_comes_first() {
        check_order("uas", &["usbcore", "scsi_mod", "usb_storage", "uas"]);
        check_order("usb-storage", &["usbcore", "scsi_mod", "usb_storage"]);
        check_order("ext4", &["crc32c_generic", "jbd2", "mbcache", "crc16", "ext4"]);
        check_order("lan78xx", &["usbcore", "lan78xx", "microchip"]);
    }

    #[test]
    fn an_alias_can_be_loaded_by_name() {
        check_order("crypto-crc32c", &["crc32c_generic"]);
        check_order("fs-ext4", &["crc32c_generic", "jbd2", "mbcache", "crc16", "ext4"]);
    }

    #[test]
    fn built_in_and_unknown_modules_load_nothing() {
        check_order("usb-common", &[]);
        check_order("nonsense", &[]);
        assert!(modules().knows("usb_common") && modules().knows("fs-ext4") && !modules().knows("nonsense"));
    }

    #[test]
    fn compressed_modules_are_named_without_their_endings() {
        assert_eq!(name_of("kernel/drivers/net/phy/microchip.ko.xz"), "microchip");
        assert_eq!(modules().load_order("microchip")[0].path, "kernel/drivers/net/phy/microchip.ko.xz");
    }

    #[test]
    fn circles_and_endless_chains_end() {
        let circle = Modules::parse(Texts {
            dep: "a.ko: b.ko\nb.ko: a.ko\n",
            softdep: "softdep a pre: a b post: a",
            ..Texts::default()
        });
        let names: Vec<&str> = circle.load_order("a").iter().map(|load| load.name).collect();
        assert_eq!(names, ["b", "a"]);
        let chain: String = (0..10_000).map(|n| format!("m{n}.ko: m{}.ko\n", n + 1)).collect();
        assert!(Modules::parse(Texts { dep: &chain, ..Texts::default() }).load_order("m0").len() <= MAX_PULLED);
        let aliases: String = (0..10_000).map(|n| format!("alias m{n} m{}\n", n + 1)).collect();
        assert!(Modules::parse(Texts { alias: &aliases, ..Texts::default() }).load_order("m0").is_empty());
    }

    #[test]
    fn patterns_match_as_a_shells_do() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("*", "", true),
            ("**a", "bca", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?", "", false),
            ("[0-9a]x", "ax", true),
            ("[!0-9]x", "5x", false),
            ("[]]", "]", true),
            ("[a-]", "-", true),
            ("[a", "[a", true),
            ("[", "x", false),
            ("*[0-9]", "ab7", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
        // A pattern made to explode does not.
        assert!(!matches("*a".repeat(200).as_bytes(), "a".repeat(199).as_bytes()));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[ -~\n]{0,200}", name in "[ -~]{0,20}") {
            let modules = Modules::parse(Texts { dep: &text, alias: &text, softdep: &text, builtin: &text });
            let _ = modules.load_order(&name);
            let _ = matches(text.as_bytes(), name.as_bytes());
        }
    }
}
