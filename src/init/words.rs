//! The kernel's command line, as far as it is meant for us.
//!
//! Pure. Words are split as the kernel splits them (`next_arg` in lib/cmdline.c):
//! at blanks that are not inside double quotes.

use super::mbr::BootId;

/// What `/proc/cmdline` says to the appliance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Words {
    /// `rootstock.boot=52535430-01`: the partition that holds `rootstock.toml`.
    pub boot: Option<BootId>,
    /// `rootstock.panel=…`: passed to `serve` as `ROOTSTOCK_PANEL`.
    pub panel: Option<String>,
    /// `rootstock.log=debug`: passed to `serve` as `ROOTSTOCK_LOG`.
    pub log: Option<String>,
    /// `rootstock.watchdog=off`: leave the watchdog alone. QEMU's Raspberry Pis need it: they do not count, arming
    /// resets them at once (hw/misc/bcm2835_powermgt.c; seen with QEMU 10.0 on 2026-11-22).
    pub no_watchdog: bool,
    /// `rootstock.serve=/bin/rootstock-hil`: the program that runs in the place of `serve`, with `--appliance`.
    /// The card of `just hil-card` has it: the same kernel, modules and PID 1, with the board's tests instead.
    pub serve: Option<String>,
    /// Words of ours that were not understood, to be logged.
    pub unknown: Vec<String>,
}

impl Words {
    /// Of a word that comes twice the last one counts, as in the kernel.
    pub fn parse(cmdline: &str) -> Self {
        let mut words = Self::default();
        for word in split(cmdline) {
            let Some(ours) = word.strip_prefix("rootstock.") else { continue };
            match ours.split_once('=') {
                Some(("boot", id)) if id.parse::<BootId>().is_ok() => words.boot = id.parse().ok(),
                Some(("watchdog", "off")) => words.no_watchdog = true,
                Some(("serve", value)) if value.starts_with('/') => words.serve = Some(value.to_owned()),
                Some(("panel", value)) => words.panel = Some(value.to_owned()),
                Some(("log", value)) => words.log = Some(value.to_owned()),
                _ => words.unknown.push(word),
            }
        }
        words
    }
}

/// The parameters of one module: `i2c_bcm2835.clk_tout_ms=35` gives `clk_tout_ms=35` to `i2c_bcm2835`.
/// The kernel leaves these words to whoever loads the module. `-` and `_` are the same in a module's name.
pub fn module_parameters(cmdline: &str, module: &str) -> String {
    let mut parameters = String::new();
    for word in split(cmdline) {
        let Some((name, parameter)) = word.split_once('.') else { continue };
        // `a=b.c` is no parameter of a module `a=b`.
        if name.contains('=') || name.replace('-', "_") != module {
            continue;
        }
        if !parameters.is_empty() {
            parameters.push(' ');
        }
        parameters.push_str(parameter);
    }
    parameters
}

fn split(cmdline: &str) -> impl Iterator<Item = String> + '_ {
    let mut quoted = false;
    cmdline
        .split(move |c: char| {
            quoted ^= c == '"';
            !quoted && c.is_ascii_whitespace()
        })
        .filter(|word| !word.is_empty())
        .map(|word| word.replace('"', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_words_are_found_among_the_kernels() {
        let words = Words::parse(
            "console=ttyAMA0,115200 panic=10 iomem=relaxed rootstock.boot=52535430-01 rootstock.log=debug\n",
        );
        assert_eq!(words.boot, "52535430-01".parse().ok());
        assert_eq!(words.log.as_deref(), Some("debug"));
        assert_eq!(words.panel, None);
        assert_eq!(words.unknown, [""; 0]);
    }

    #[test]
    fn the_watchdog_is_left_alone_only_by_the_right_word() {
        assert!(Words::parse("rootstock.watchdog=off").no_watchdog);
        let wrong = Words::parse("rootstock.watchdog=maybe watchdog=off");
        assert!(!wrong.no_watchdog);
        assert_eq!(wrong.unknown, ["rootstock.watchdog=maybe"]);
    }

    #[test]
    fn only_a_whole_path_takes_the_servers_place() {
        assert_eq!(Words::parse("rootstock.serve=/bin/x").serve.as_deref(), Some("/bin/x"));
        let wrong = Words::parse("rootstock.serve=x rootstock.serve=");
        assert_eq!((wrong.serve, wrong.unknown.len()), (None, 2));
    }

    #[test]
    fn a_wrong_word_is_kept_for_the_log_and_does_nothing() {
        let words = Words::parse("rootstock.boot=sda1 rootstock.colour rootstock.boot=");
        assert_eq!(words.boot, None);
        assert_eq!(words.unknown, ["rootstock.boot=sda1", "rootstock.colour", "rootstock.boot="]);
    }

    #[test]
    fn quotes_hold_a_word_together() {
        assert_eq!(Words::parse("a rootstock.panel=\"128 x 64\" b").panel.as_deref(), Some("128 x 64"));
        assert_eq!(Words::parse("rootstock.panel=\"open end").panel.as_deref(), Some("open end"));
    }

    #[test]
    fn a_modules_parameters_are_collected_from_anywhere() {
        let line = "usb-storage.quirks=0bda:9210:u root=a.b usb_storage.delay_use=0 dwc2.x nbd.max_part=8";
        assert_eq!(module_parameters(line, "usb_storage"), "quirks=0bda:9210:u delay_use=0");
        assert_eq!(module_parameters(line, "dwc2"), "x");
        assert_eq!(module_parameters(line, "root=a"), "");
        assert_eq!(module_parameters(line, "ext4"), "");
    }
}
