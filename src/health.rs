//! The board's own trouble: too little voltage, too hot, out of memory. A thread looks at
//! what the kernel tells and reports changes. I/O; `judge` is pure.
//!
//! Under-voltage comes from the firmware by the kernel's raspberrypi-hwmon driver
//! (`in0_lcrit_alarm`), which Raspberry Pi's kernels have and Debian's 6.1 has not; it
//! slows the processor, and sticks fail by it. That kernel has no /dev/vcio either, and
//! the mailbox must not be asked behind its back (tag 0x00030046): its driver takes each
//! answer as that to its own request, which may be a clock's. Only `update::trial` asks,
//! when all else has ended. Heat comes from the processor's thermal zone; the firmware
//! slows it at 80 °C and more at 85 °C (Raspberry Pi documentation, "Frequency management
//! and thermal control"). That memory ran out the kernel counts (`oom_kill` in /proc/vmstat):
//! it ended a program, perhaps the server before this one, whose count is kept in PID 1's
//! folder. All are survived: they are told so that a person can help.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::store::atomic;

/// How often it is looked. Heat moves slowly, and the driver asks the firmware every 2 s.
const EVERY: Duration = Duration::from_secs(5);
/// From here on the firmware slows the processor, and until here it is still told, in thousandths of a degree.
const HOT: i32 = 80_000;
const COOL: i32 = 75_000;
/// Looks without under-voltage until it counts as over: a weak supply dips again and again.
const CALM_LOOKS: u32 = 12;
/// Looks for which it is told that memory ran out: ten minutes.
const SHORT_LOOKS: u32 = 120;
const MAX_DEVICES: usize = 64;
const VMSTAT: &str = "/proc/vmstat";
const MAX_VMSTAT_BYTES: u64 = 64 << 10;
/// In PID 1's folder: how many programs had been ended for want of memory at the last look.
const KILLS_FILE: &str = "oom-kills";
const MAX_KILLS_BYTES: u64 = 32;

/// What is wrong with the board now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    pub undervoltage: bool,
    /// Degrees, while it is too hot.
    pub hot: Option<i32>,
    /// A program was ended for want of memory a while ago.
    pub memory_ran_out: bool,
}

/// One look: `None` where the board does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Look {
    pub undervoltage: Option<bool>,
    pub millidegrees: Option<i32>,
    /// Programs that the kernel ended for want of memory since it started.
    pub kills: Option<u64>,
}

/// Health over time, so that a figure at its limit does not flicker.
#[derive(Debug)]
pub struct Judge {
    told: Health,
    calm: u32,
    kills: u64,
    /// Looks since the last of them.
    spared: u32,
}

impl Judge {
    /// So many programs had been ended for want of memory before.
    pub fn new(kills: u64) -> Self {
        Self { told: Health::default(), calm: 0, kills, spared: SHORT_LOOKS }
    }

    /// Takes a look in; `Some` when something changed.
    pub fn judge(&mut self, look: Look) -> Option<Health> {
        self.calm = if look.undervoltage == Some(true) { 0 } else { self.calm.saturating_add(1) };
        let undervoltage = look.undervoltage == Some(true) || (self.told.undervoltage && self.calm < CALM_LOOKS);
        let limit = if self.told.hot.is_some() { COOL } else { HOT };
        let hot = look.millidegrees.filter(|&heat| heat >= limit).map(|heat| heat / 1000);
        let kills = look.kills.unwrap_or(self.kills);
        self.spared = if kills > self.kills { 0 } else { self.spared.saturating_add(1) };
        self.kills = kills;
        let now = Health { undervoltage, hot, memory_ran_out: self.spared < SHORT_LOOKS };
        // Each degree is no news.
        let news = |health: Health| (health.undervoltage, health.hot.is_some(), health.memory_ran_out);
        let same = news(now) == news(self.told);
        self.told = now;
        (!same).then_some(now)
    }
}

/// Looks for ever, on a thread of its own that ends with the process. On the appliance nothing was ended before PID 1's
/// folder was made; what a computer did before its `serve` is not told.
pub fn start(run: &Path, appliance: bool, sink: Arc<dyn Fn(Health) + Send + Sync>) -> std::io::Result<()> {
    let file = run.join(KILLS_FILE);
    let before = atomic::read_bounded(&file, MAX_KILLS_BYTES).ok();
    let before = before.and_then(|text| String::from_utf8_lossy(&text).trim().parse().ok());
    let before = before.or_else(|| if appliance { None } else { kills() }).unwrap_or_default();
    std::thread::Builder::new().name("health".to_owned()).spawn(move || {
        let (mut judge, mut kept) = (Judge::new(before), None);
        loop {
            let look = look(Path::new("/sys/class"));
            if look.kills.is_some() && look.kills != kept {
                kept = look.kills;
                // A folder in memory; without it the next server tells once more.
                let _ = fs::write(&file, look.kills.unwrap_or_default().to_string());
            }
            if let Some(health) = judge.judge(look) {
                sink(health);
            }
            std::thread::sleep(EVERY);
        }
    })?;
    Ok(())
}

/// What `/sys/class` tells, and the kernel's count.
pub fn look(class: &Path) -> Look {
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<i32>().ok();
    let devices = |name: &str| fs::read_dir(class.join(name)).into_iter().flatten().flatten().take(MAX_DEVICES);
    let alarm = devices("hwmon").find_map(|entry| number(entry.path().join("in0_lcrit_alarm")));
    let zones = devices("thermal").filter(|entry| entry.file_name().to_string_lossy().starts_with("thermal_zone"));
    Look {
        undervoltage: alarm.map(|alarm| alarm != 0),
        millidegrees: zones.filter_map(|entry| number(entry.path().join("temp"))).max(),
        kills: kills(),
    }
}

fn kills() -> Option<u64> {
    let text = atomic::read_bounded(Path::new(VMSTAT), MAX_VMSTAT_BYTES).ok()?;
    kills_in(&String::from_utf8_lossy(&text))
}

fn kills_in(vmstat: &str) -> Option<u64> {
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(looks: &[(bool, i32)]) -> Vec<Health> {
        let mut judge = Judge::new(0);
        let look = |&(undervoltage, degrees): &(bool, i32)| Look {
            undervoltage: Some(undervoltage),
            millidegrees: Some(degrees * 1000),
            kills: None,
        };
        looks.iter().filter_map(|told| judge.judge(look(told))).collect()
    }

    #[test]
    fn heat_is_told_once_and_is_over_only_when_it_is_clearly_cooler() {
        let hot = |degrees| Health { hot: Some(degrees), ..Health::default() };
        assert_eq!(check(&[(false, 60), (false, 79)]), []);
        assert_eq!(check(&[(false, 80), (false, 84), (false, 79), (false, 76)]), [hot(80)]);
        assert_eq!(check(&[(false, 81), (false, 74), (false, 79)]), [hot(81), Health::default()]);
    }

    #[test]
    fn a_supply_that_dips_now_and_then_is_told_once() {
        let low = Health { undervoltage: true, ..Health::default() };
        let dips: Vec<(bool, i32)> = (0..100).map(|n| (n % 10 == 0, 50)).collect();
        assert_eq!(check(&dips), [low]);
        assert_eq!(check(&[vec![(true, 50)], vec![(false, 50); 20]].concat()), [low, Health::default()]);
    }

    #[test]
    fn memory_that_ran_out_is_told_for_ten_minutes_once_each() {
        let check = |before, kills: &[u64]| {
            let mut judge = Judge::new(before);
            let look = |&kills: &u64| Look { kills: Some(kills), ..Look::default() };
            kills
                .iter()
                .enumerate()
                .filter_map(|(n, kills)| Some((n, judge.judge(look(kills))?.memory_ran_out)))
                .collect::<Vec<_>>()
        };
        let none: Vec<(usize, bool)> = Vec::new();
        assert_eq!(check(0, &[0; 500]), none);
        assert_eq!(check(3, &[3; 500]), none, "the server before this one told it");
        assert_eq!(check(0, &[1; 500]), [(0, true), (120, false)], "it was the server before this one");
        assert_eq!(check(0, &[vec![0; 10], vec![1; 60], vec![2; 130]].concat()), [(10, true), (190, false)]);
    }

    #[test]
    fn the_kernels_count_is_found_among_its_others() {
        assert_eq!(kills_in("pgmajfault 7\noom_kill 12\nnuma_hit 3\n"), Some(12));
        assert_eq!(kills_in("oom_killed 1\noom_kill many\n"), None);
        assert!(kills().is_some(), "this kernel's {VMSTAT}");
    }

    #[test]
    fn a_board_that_tells_nothing_is_well() {
        let look = |class: &Path| Look { kills: None, ..look(class) };
        let class = tempfile::tempdir().unwrap();
        assert_eq!(look(class.path()), Look::default());
        assert_eq!(Judge::new(0).judge(Look::default()), None);
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
        assert_eq!(look(class.path()), Look { undervoltage: Some(true), millidegrees: Some(81_234), kills: None });
    }
}
