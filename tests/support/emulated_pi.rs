//! QEMU's Raspberry Pis: what their device trees need before they start, and
//! their pins moved from outside.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::command::run;

/// Where the peripherals lie: BCM2837, BCM2711.
pub const PI3: u32 = 0x3f00_0000;
pub const PI4: u32 = 0xfe00_0000;

/// A real Pi's firmware passes a seed; without one `getrandom` waits for ever here.
pub fn seed(dtb: &Path) -> Result<(), String> {
    let bytes: Vec<String> = (0..64u32).map(|n| format!("{:02x}", n.wrapping_mul(167) & 0xff)).collect();
    let words = ["-p", "-t", "bx"].map(OsStr::new).into_iter().chain([dtb.as_os_str()]);
    let words = words.chain(["/chosen", "rng-seed"].map(OsStr::new)).chain(bytes.iter().map(OsStr::new));
    run("fdtput", &words.collect::<Vec<_>>()).map(drop)
}

/// What QEMU 10.0 has not of a BCM2711, and whose drivers panic or wait for it; its USB port is a host's.
pub fn cut_to_qemus_pi4(dtb: &Path) -> Result<(), String> {
    const ABSENT: [&str; 16] = [
        "hdmi",
        "hvs",
        "pixelvalve",
        "dpi",
        "dsi",
        "vec",
        "txp",
        "gpu",
        "avs-monitor",
        "pcie",
        "ethernet",
        "rng",
        // What the displays' block has of its own.
        "interrupt-controller@7ef00100",
        "clock@7ef00000",
        "i2c@7ef04500",
        "i2c@7ef09500",
    ];
    let set = |node: &str, property: &str, value: &str| {
        let words = ["-t", "s"].map(OsStr::new).into_iter().chain([dtb.as_os_str()]);
        run("fdtput", &words.chain([node, property, value].map(OsStr::new)).collect::<Vec<_>>()).map(drop)
    };
    for parent in ["/", "/soc", "/scb"] {
        let nodes = run("fdtget", &["-l".as_ref(), dtb.as_os_str(), parent.as_ref()])?;
        for node in nodes.lines().filter(|node| ABSENT.iter().any(|absent| node.starts_with(absent))) {
            set(&format!("{}/{node}", parent.trim_end_matches('/')), "status", "disabled")?;
        }
    }
    set("/soc/usb@7e980000", "dr_mode", "host")
}

/// The machine's `-qtest` socket: registers read and written beside the running processor.
pub struct Pins {
    qtest: BufReader<UnixStream>,
    gpio: u32,
}

impl Pins {
    /// Connects to the socket of a machine whose peripherals lie at `base`.
    pub fn connect(socket: &Path, base: u32) -> Result<Self, String> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match UnixStream::connect(socket) {
                Ok(stream) => return Ok(Self { qtest: BufReader::new(stream), gpio: base + 0x20_0000 }),
                Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(10)),
                Err(error) => return Err(format!("{}: {error}", socket.display())),
            }
        }
    }

    /// Moves an input. GPSET0 and GPCLR0 (BCM2835 ARM Peripherals §6.1) do that too in QEMU.
    pub fn level(&mut self, pin: u32, high: bool) -> Result<(), String> {
        let register = self.gpio + if high { 0x1c } else { 0x28 };
        self.ask(&format!("writel {register:#x} {:#x}", 1u32 << pin)).map(drop)
    }

    /// What a pin drives, if it is an output: GPFSELn, GPLEV0.
    pub fn driven(&mut self, pin: u32) -> Result<Option<bool>, String> {
        let select = self.read(self.gpio + pin / 10 * 4)? >> (pin % 10 * 3) & 7;
        if select != 1 {
            return Ok(None);
        }
        Ok(Some(self.read(self.gpio + 0x34)? >> pin & 1 == 1))
    }

    fn read(&mut self, register: u32) -> Result<u32, String> {
        let answer = self.ask(&format!("readl {register:#x}"))?;
        let value = answer.trim().strip_prefix("OK 0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        value.map(|value| value as u32).ok_or_else(|| format!("qtest answered {answer:?}"))
    }

    fn ask(&mut self, line: &str) -> Result<String, String> {
        let mut answer = String::new();
        let done = writeln!(self.qtest.get_mut(), "{line}").and_then(|()| self.qtest.read_line(&mut answer));
        done.map_err(|e| format!("qtest: {e}"))?;
        if answer.starts_with("OK") { Ok(answer) } else { Err(format!("qtest answered {answer:?}")) }
    }
}
