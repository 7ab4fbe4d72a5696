//! A QEMU machine as a test sees it: started, its console read, ended on drop.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::netns::Netns;

/// How often a waiting test looks at what came.
const LOOK: Duration = Duration::from_millis(20);

/// Console text kept in memory, in bytes; the log file has all of it.
const MAX_TEXT_BYTES: usize = 4 << 20;

/// What a machine printed so far, with the times of its lines.
#[derive(Clone, Default)]
pub struct Console {
    text: Arc<Mutex<String>>,
}

impl Console {
    pub fn text(&self) -> String {
        self.text.lock().expect("no reader panics").clone()
    }

    /// Reads on until the end, copying into a log file.
    pub fn follow(&self, mut from: impl Read + Send + 'static, log: &Path) -> std::io::Result<()> {
        let mut log = File::create(log)?;
        let text = self.text.clone();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                let _ = log.write_all(&bytes[..count]);
                let mut text = text.lock().expect("no reader panics");
                text.push_str(&String::from_utf8_lossy(&bytes[..count]));
                if text.len() > MAX_TEXT_BYTES {
                    let cut = text.ceil_char_boundary(text.len() - MAX_TEXT_BYTES / 2);
                    text.drain(..cut);
                }
            }
        });
        Ok(())
    }
}

/// What a machine's firmware would start.
pub struct Start<'s> {
    pub kernel: &'s Path,
    pub initramfs: &'s Path,
    pub words: &'s str,
}

/// A `-M virt` machine with a network card on a tap of the namespace; its console is standard output.
pub fn virt(wire: &Netns, tap: &str, mac: &str, start: &Start<'_>) -> Command {
    let mut command = wire.command("qemu-system-aarch64");
    command
        .args(["-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "1024"])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-chardev", "stdio,id=serial", "-serial", "chardev:serial", "-device", "virtio-rng-pci"])
        .args(["-netdev", &format!("tap,id=wire,ifname={tap},script=no,downscript=no")])
        .args(["-device", &format!("virtio-net-pci,netdev=wire,mac={mac},romfile=")])
        .arg("-kernel")
        .arg(start.kernel)
        .arg("-initrd")
        .arg(start.initramfs)
        .args(["-append", start.words]);
    command
}

/// A running machine; dropping it ends it.
pub struct Machine {
    name: String,
    child: Child,
    pub console: Console,
    pub started: Instant,
}

impl Machine {
    /// Starts `command` (a QEMU with its console on standard output).
    pub fn start(name: &str, command: &mut Command, logs: &Path) -> Result<Self, String> {
        let errors = File::create(logs.join(format!("{name}.stderr"))).map_err(|e| format!("{name}: log: {e}"))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("{name}: {command:?}: {e} (`just deps qemu` installs it)"))?;
        let console = Console::default();
        let output = child.stdout.take().expect("it was piped");
        console.follow(output, &logs.join(format!("{name}.log"))).map_err(|e| format!("{name}: log: {e}"))?;
        Ok(Self { name: name.to_owned(), child, console, started: Instant::now() })
    }

    /// Waits until the console shows `needle` at or after byte `from`; gives the byte after it.
    pub fn wait_for(&mut self, needle: &str, from: usize, limit: Duration) -> Result<usize, String> {
        let end = Instant::now() + limit;
        loop {
            let text = self.console.text();
            if let Some(at) = text.get(from..).and_then(|rest| rest.find(needle)) {
                return Ok(from + at + needle.len());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!(
                    "{} ended ({status}) before {needle:?}; its last lines:\n{}",
                    self.name,
                    self.tail()
                ));
            }
            if Instant::now() >= end {
                return Err(format!(
                    "{} did not print {needle:?} in {limit:?}; its last lines:\n{}",
                    self.name,
                    self.tail()
                ));
            }
            thread::sleep(LOOK);
        }
    }

    /// Waits for the machine to end by itself.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<(), String> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Ok(Some(_)) = self.child.try_wait() {
                return Ok(());
            }
            thread::sleep(LOOK);
        }
        Err(format!("{} did not end in {limit:?}; its last lines:\n{}", self.name, self.tail()))
    }

    /// By which signal QEMU itself was ended, if it was: a crash of its own, and no end of the system in it.
    pub fn crash(&mut self) -> Option<i32> {
        // Its connections are closed a moment before it is gone.
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.signal();
            }
            thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// Types on the console.
    pub fn type_text(&mut self, text: &str) -> Result<(), String> {
        let stdin = self.child.stdin.as_mut().expect("it was piped");
        stdin
            .write_all(text.as_bytes())
            .and_then(|()| stdin.flush())
            .map_err(|e| format!("{}: console: {e}", self.name))
    }

    pub fn tail(&self) -> String {
        let text = self.console.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
