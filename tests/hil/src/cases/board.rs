//! The board itself: model, memory, heat, power, watchdog.
//!
//! I/O, by /proc, /sys and the watchdog's device.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;

use rootstock::client::Revision;

use crate::bench::Bench;
use crate::verdict::{Outcome, failed, not_proven};

const WATCHDOG: &str = "/dev/watchdog";
/// `_IOR('W', 7, int)` and `_IOR('W', 5, int)` of include/uapi/linux/watchdog.h.
const WDIOC_GETTIMEOUT: libc::Ioctl = 0x8004_5707_u32 as libc::Ioctl;
const WDIOC_KEEPALIVE: libc::Ioctl = 0x8004_5705_u32 as libc::Ioctl;

const PATTERN_BYTES: usize = 64 << 20;
/// The firmware throttles at 80 °C.
const HOT_MILLIDEGREES: i64 = 80_000;
const SLOW_BOOT_SECONDS: f64 = 15.0;

pub fn is_a_pi(bench: &Bench) -> Outcome {
    let model = &bench.board.model;
    match rppal::system::DeviceInfo::new() {
        Ok(info) if model.starts_with("Raspberry Pi") => Ok(format!("{model}; rppal: {}", info.model())),
        Ok(info) => failed(format!("the device tree says {model}, rppal {}", info.model())),
        Err(error) => failed(format!("{model}: {error}")),
    }
}

pub fn revision(bench: &Bench) -> Outcome {
    let Some(code) = bench.board.revision else {
        let what = "the device tree has no system/linux,revision";
        return if bench.board.emulated.is_some() { not_proven(what) } else { failed(what) };
    };
    // "Pi 3B" is "Raspberry Pi 3 Model B Rev 1.2" there.
    let revision = Revision(code);
    let number: String = revision.model().to_string().chars().filter(char::is_ascii_digit).collect();
    let told = format!("{code:06x} is a {}", revision.model());
    if number.is_empty() || !bench.board.model.contains(&number) {
        return failed(format!("{told}, the device tree says {}", bench.board.model));
    }
    Ok(told)
}

pub fn processors(_: &Bench) -> Outcome {
    let online = read("/sys/devices/system/cpu/online")?;
    if online == "0-3" { Ok(String::new()) } else { failed(format!("running are {online}")) }
}

pub fn memory(bench: &Bench) -> Outcome {
    let kib = meminfo("MemTotal:")?;
    if let Some(mib) = bench.board.revision.and_then(|code| Revision(code).memory_mib()) {
        // The GPU keeps 64 to 76 MiB, and the kernel's own tables some per cent.
        if kib / 1024 < u64::from(mib) * 3 / 4 {
            return failed(format!("the kernel has {} MiB of the board's {mib}", kib / 1024));
        }
    }
    let available = meminfo("MemAvailable:")?;
    if available < 2 * (PATTERN_BYTES as u64 >> 10) {
        return failed(format!("only {} MiB are available", available / 1024));
    }
    let word = |index: usize| (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let words: Vec<u64> = (0..PATTERN_BYTES / 8).map(word).collect();
    // Read as if somebody else had written it, or the compiler knows the answer.
    let words = std::hint::black_box(words);
    match words.iter().enumerate().find(|(index, found)| **found != word(*index)) {
        Some((index, _)) => failed(format!("the pattern differs at byte {}", index * 8)),
        None => Ok(format!("{} MiB, {} available", kib / 1024, available / 1024)),
    }
}

pub fn random(_: &Bench) -> Outcome {
    let mut bytes = [0u8; 32];
    // SAFETY: the buffer is valid for its length; the call does not wait.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    if got == 32 { Ok(String::new()) } else { failed("the kernel has no entropy yet") }
}

pub fn temperature(bench: &Bench) -> Outcome {
    let Ok(text) = fs::read_to_string("/sys/class/thermal/thermal_zone0/temp") else {
        let what = "no thermal zone";
        return if bench.board.emulated.is_some() { not_proven(what) } else { failed(what) };
    };
    let Ok(value) = text.trim().parse::<i64>() else { return failed(format!("the sensor says {text:?}")) };
    let told = format!("{:.1} °C", value as f64 / 1000.0);
    if (1..HOT_MILLIDEGREES).contains(&value) { Ok(told) } else { failed(told) }
}

/// The firmware's own word where its kernel driver is there, else the alarm that mainline's has.
pub fn power(_: &Bench) -> Outcome {
    let throttled = "/sys/devices/platform/soc/soc:firmware/get_throttled";
    if let Ok(text) = fs::read_to_string(throttled) {
        let Ok(bits) = u32::from_str_radix(text.trim().trim_start_matches("0x"), 16) else {
            return failed(format!("{throttled}: {text:?}"));
        };
        return throttling(bits);
    }
    let sensors = fs::read_dir("/sys/class/hwmon").into_iter().flatten().flatten().map(|entry| entry.path());
    let volt =
        sensors.take(32).find(|path| fs::read_to_string(path.join("name")).is_ok_and(|name| name.trim() == "rpi_volt"));
    let Some(volt) = volt else { return not_proven("no driver tells it (raspberrypi-hwmon, or get_throttled)") };
    match read(volt.join("in0_lcrit_alarm"))?.as_str() {
        "0" => Ok("no under-voltage".to_owned()),
        _ => failed("under-voltage since power-on: use the board's own power supply and a short cable"),
    }
}

/// Bits of the firmware's get_throttled: now, and 16 bits higher since power-on.
fn throttling(bits: u32) -> Outcome {
    let names = ["under-voltage", "clock capped", "throttled", "hot"];
    let told: Vec<&str> = (0..4)
        .filter(|bit| bits >> bit & 1 == 1 || bits >> (bit + 16) & 1 == 1)
        .map(|bit| names[bit as usize])
        .collect();
    if told.is_empty() {
        Ok("no under-voltage, never throttled".to_owned())
    } else {
        failed(format!("since power-on: {} ({bits:#x})", told.join(", ")))
    }
}

pub fn boot_time(bench: &Bench) -> Outcome {
    // Field 22 of stat, behind the name in brackets: ticks since the kernel's start.
    let stat = read("/proc/self/stat")?;
    let ticks = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse::<f64>().ok());
    let Some(ticks) = ticks else { return failed(format!("/proc/self/stat: {stat:?}")) };
    // USER_HZ is 100 on every Linux that runs on a Pi.
    let seconds = ticks / 100.0;
    let told = format!("{seconds:.1} s from the kernel's start to this program's");
    match (bench.board.appliance, seconds < SLOW_BOOT_SECONDS) {
        (false, _) => not_proven(format!("another Linux: only Rootstock's own start counts ({told})")),
        (true, true) => Ok(told),
        (true, false) => failed(told),
    }
}

pub fn watchdog(bench: &Bench) -> Outcome {
    if bench.board.emulated.is_some() {
        return not_proven("emulated: QEMU's does not count, arming it ends the machine");
    }
    let file = match OpenOptions::new().write(true).open(WATCHDOG) {
        Ok(file) => file,
        // PID 1 of the appliance has it.
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => return fed_by_another(),
        Err(error) => return failed(format!("{WATCHDOG}: {error}")),
    };
    let mut seconds: libc::c_int = 0;
    // SAFETY: the request writes one int to the pointer, which is valid for it.
    if unsafe { libc::ioctl(file.as_raw_fd(), WDIOC_GETTIMEOUT, &raw mut seconds) } != 0 {
        return close(file, Err(format!("it does not tell its time: {}", std::io::Error::last_os_error())));
    }
    for _ in 0..3 {
        std::thread::sleep(std::time::Duration::from_millis(500));
        // SAFETY: the request takes no argument that it would read.
        if unsafe { libc::ioctl(file.as_raw_fd(), WDIOC_KEEPALIVE, 0) } != 0 {
            return close(file, Err(format!("it takes no food: {}", std::io::Error::last_os_error())));
        }
    }
    close(file, Ok(format!("{seconds} s")))
}

/// The magic close: it must not bite afterwards.
fn close(mut file: File, told: Result<String, String>) -> Outcome {
    if let Err(error) = file.write_all(b"V") {
        return failed(format!("it cannot be closed ({error}), so this board restarts soon"));
    }
    told.or_else(failed)
}

fn fed_by_another() -> Outcome {
    let folder = Path::new("/sys/class/watchdog/watchdog0");
    let state = read(folder.join("state"))?;
    let identity = read(folder.join("identity"))?;
    if state != "active" {
        return failed(format!("it is held, but {state}"));
    }
    // Fed for longer than it waits: a machine that is still here is fed.
    let timeout: u64 = read(folder.join("timeout"))?.parse().unwrap_or(60);
    let uptime: f64 = read("/proc/uptime")?.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    let told = format!("{identity}, {timeout} s, fed by PID 1");
    if uptime > timeout as f64 { Ok(told) } else { not_proven(format!("{told}; too early to tell")) }
}

fn meminfo(key: &str) -> Result<u64, crate::verdict::Trouble> {
    let text = read("/proc/meminfo")?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB")?.trim().parse().ok());
    value.map_or_else(|| failed(format!("/proc/meminfo has no {key}")), Ok)
}

pub fn read(path: impl AsRef<Path>) -> Result<String, crate::verdict::Trouble> {
    let path = path.as_ref();
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => failed(format!("{}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Trouble;

    #[test]
    fn throttling_now_or_earlier_is_named() {
        assert!(throttling(0).is_ok());
        let check = |bits, told: &str| match throttling(bits) {
            Err(Trouble::Failed(why)) => assert!(why.contains(told), "{why}"),
            other => panic!("{bits:#x}: {other:?}"),
        };
        check(0x1, "under-voltage");
        check(0x5_0000, "under-voltage, throttled");
        check(0x8_0008, "hot");
    }
}
