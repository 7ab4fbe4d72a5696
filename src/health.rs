//! The board's own trouble: too little voltage, too hot. A thread looks at what the
//! kernel tells and reports changes. I/O; `judge` is pure.
//!
//! Under-voltage comes from the firmware by the kernel's raspberrypi-hwmon driver
//! (`in0_lcrit_alarm`), which Raspberry Pi's kernels have and Debian's 6.1 has not; it
//! slows the processor, and sticks fail by it. That kernel has no /dev/vcio either, and
//! the mailbox must not be asked behind its back (tag 0x00030046): its driver takes each
//! answer as that to its own request, which may be a clock's. Only `update::trial` asks,
//! when all else has ended. Heat comes from the processor's thermal zone; the firmware
//! slows it at 80 °C and more at 85 °C (Raspberry Pi documentation, "Frequency management
//! and thermal control"). Both are survived: they are told so that a person can help.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked. Heat moves slowly, and the driver asks the firmware every 2 s.
const EVERY: Duration = Duration::from_secs(5);
/// From here on the firmware slows the processor, and until here it is still told, in thousandths of a degree.
const HOT: i32 = 80_000;
const COOL: i32 = 75_000;
/// Looks without under-voltage until it counts as over: a weak supply dips again and again.
const CALM_LOOKS: u32 = 12;
const MAX_DEVICES: usize = 64;

/// What is wrong with the board now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    pub undervoltage: bool,
    /// Degrees, while it is too hot.
    pub hot: Option<i32>,
}

/// One look: `None` where the board does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Look {
    pub undervoltage: Option<bool>,
    pub millidegrees: Option<i32>,
}

/// Health over time, so that a figure at its limit does not flicker.
#[derive(Debug, Default)]
pub struct Judge {
    told: Health,
    calm: u32,
}

impl Judge {
    /// Takes a look in; `Some` when something changed.
    pub fn judge(&mut self, look: Look) -> Option<Health> {
        self.calm = if look.undervoltage == Some(true) { 0 } else { self.calm.saturating_add(1) };
        let undervoltage = look.undervoltage == Some(true) || (self.told.undervoltage && self.calm < CALM_LOOKS);
        let limit = if self.told.hot.is_some() { COOL } else { HOT };
        let hot = look.millidegrees.filter(|&heat| heat >= limit).map(|heat| heat / 1000);
        let now = Health { undervoltage, hot };
        // Each degree is no news.
        let same = now.undervoltage == self.told.undervoltage && now.hot.is_some() == self.told.hot.is_some();
        self.told = now;
        (!same).then_some(now)
    }
}

/// Looks for ever, on a thread of its own that ends with the process.
pub fn start(sink: Arc<dyn Fn(Health) + Send + Sync>) -> std::io::Result<()> {
    std::thread::Builder::new().name("health".to_owned()).spawn(move || {
        let mut judge = Judge::default();
        loop {
            if let Some(health) = judge.judge(look(Path::new("/sys/class"))) {
                sink(health);
            }
            std::thread::sleep(EVERY);
        }
    })?;
    Ok(())
}

/// What `/sys/class` tells.
pub fn look(class: &Path) -> Look {
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<i32>().ok();
    let devices = |name: &str| fs::read_dir(class.join(name)).into_iter().flatten().flatten().take(MAX_DEVICES);
    let alarm = devices("hwmon").find_map(|entry| number(entry.path().join("in0_lcrit_alarm")));
    let zones = devices("thermal").filter(|entry| entry.file_name().to_string_lossy().starts_with("thermal_zone"));
    Look {
        undervoltage: alarm.map(|alarm| alarm != 0),
        millidegrees: zones.filter_map(|entry| number(entry.path().join("temp"))).max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(looks: &[(bool, i32)]) -> Vec<Health> {
        let mut judge = Judge::default();
        let look = |&(undervoltage, degrees): &(bool, i32)| Look {
            undervoltage: Some(undervoltage),
            millidegrees: Some(degrees * 1000),
        };
        looks.iter().filter_map(|told| judge.judge(look(told))).collect()
    }

    #[test]
    fn heat_is_told_once_and_is_over_only_when_it_is_clearly_cooler() {
        let hot = |degrees| Health { undervoltage: false, hot: Some(degrees) };
        assert_eq!(check(&[(false, 60), (false, 79)]), []);
        assert_eq!(check(&[(false, 80), (false, 84), (false, 79), (false, 76)]), [hot(80)]);
        assert_eq!(check(&[(false, 81), (false, 74), (false, 79)]), [hot(81), Health::default()]);
    }

    #[test]
    fn a_supply_that_dips_now_and_then_is_told_once() {
        let low = Health { undervoltage: true, hot: None };
        let dips: Vec<(bool, i32)> = (0..100).map(|n| (n % 10 == 0, 50)).collect();
        assert_eq!(check(&dips), [low]);
        assert_eq!(check(&[vec![(true, 50)], vec![(false, 50); 20]].concat()), [low, Health::default()]);
    }

    #[test]
    fn a_board_that_tells_nothing_is_well() {
        let class = tempfile::tempdir().unwrap();
        assert_eq!(look(class.path()), Look::default());
        assert_eq!(Judge::default().judge(Look::default()), None);
        for (name, text) in [
            ("hwmon/hwmon0/temp1_input", "1"),
            ("hwmon/hwmon1/in0_lcrit_alarm", "1\n"),
            ("thermal/thermal_zone0/temp", "81234\n"),
            ("thermal/cooling_device0/temp", "99999\n"),
        ] {
            let path = class.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(look(class.path()), Look { undervoltage: Some(true), millidegrees: Some(81_234) });
    }
}
