//! PID 1 of the emulated client: from a bare initramfs to the mounted export.

use std::fs;
use std::time::Instant;

use crate::cases::Stride;
use crate::report::Report;
use crate::{files, journal, posix, programs, quota, suites, sys};

/// The wire's addresses, as the test beside this gives them to both ends.
const ADDRESS: [u8; 4] = [192, 168, 78, 2];

/// Judges and switches the machine off; never returns.
pub fn run() -> ! {
    match judge() {
        Ok(()) => {}
        Err(error) => println!("judge: FAIL the machine: {error}\njudge: done: 0 passed, 1 failed"),
    }
    sys::power_off()
}

fn judge() -> Result<(), String> {
    let told = |what: &str| {
        let what = what.to_owned();
        move |errno| format!("{what}: {}", sys::errno_name(errno))
    };
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")] {
        let _ = fs::create_dir_all(at);
        sys::mount(kind, at, kind, "").map_err(told(at))?;
    }
    let modules = fs::read_to_string("/modules.list").map_err(|e| format!("/modules.list: {e}"))?;
    for module in modules.lines() {
        sys::load_module(module).map_err(told(module))?;
    }
    let words = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let word = |key: &str| words.split_whitespace().find_map(|word| word.strip_prefix(key)).map(str::to_owned);
    let number = |key: &str| word(key).and_then(|word| word.parse::<u64>().ok());
    let server = word("judge.server=").ok_or("no judge.server= on the kernel's command line")?;
    let path = word("judge.path=").ok_or("no judge.path=")?;
    wait_for("/sys/class/net/eth0")?;
    sys::configure("eth0", ADDRESS).map_err(told("eth0"))?;
    for at in ["/subject", "/reference", "/limited"] {
        fs::create_dir_all(at).map_err(|e| format!("{at}: {e}"))?;
    }
    // The words of a client's own command line (`control/publish.rs`), with what `nfsroot` adds to them.
    let options = format!("vers=3,tcp,rsize=131072,wsize=131072,nolock,hard,addr={server},mountproto=tcp");
    let mount = |path: &str, at: &str| {
        sys::mount(&format!("{server}:{path}"), at, "nfs", &options).map_err(told("mount of the export"))
    };
    mount(&path, "/subject")?;
    println!("judge: mounted {:.1} s after the start", uptime());
    let began = Instant::now();
    let mut report = Report::new();
    if let Some(commits) = number("judge.commits=") {
        programs::judge(&mut report, "/subject", commits as u32)?;
    } else {
        wait_for("/dev/vda")?;
        sys::mount("/dev/vda", "/reference", "ext4", "").map_err(told("mount of the local ext4"))?;
        for at in ["/subject/judged", "/reference/judged"] {
            fs::create_dir_all(at).map_err(|e| format!("{at}: {e}"))?;
        }
        if word("judge.suites=").is_some() {
            report.part("foreign suites");
            let ran = suites::run([("local", "/reference/judged"), ("root", "/subject/judged")])?;
            report.add(ran, 0);
        } else {
            files::judge(&mut report, "/subject/judged", true);
            mount(&word("judge.limited=").ok_or("no judge.limited=")?, "/limited")?;
            let bytes = number("judge.quota=").ok_or("no judge.quota=")?;
            quota::judge(&mut report, "/limited", "/subject/judged", bytes);
            sys::unmount("/limited").map_err(told("unmount of a quota"))?;
            let disks = number("judge.failing=").ok_or("no judge.failing=")?;
            for disk in 0..disks {
                wait_for(&journal::device(disk))?;
            }
            journal::judge(&mut report, disks);
            let stride = Stride::new(number("judge.every=").unwrap_or(1), number("judge.from=").unwrap_or(0));
            posix(&mut report, "/subject/judged", "/reference/judged", &stride);
        }
    }
    sys::unmount("/subject").map_err(told("unmount"))?;
    println!("judge: {:.1} s of judging", began.elapsed().as_secs_f32());
    report.done();
    Ok(())
}

fn uptime() -> f32 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// A device that its driver is about to make.
fn wait_for(path: &str) -> Result<(), String> {
    let began = Instant::now();
    while fs::symlink_metadata(path).is_err() {
        if began.elapsed().as_secs() > 20 {
            return Err(format!("{path} did not come"));
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}
