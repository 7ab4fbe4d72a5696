//! PID 1 of the emulated client: from a bare initramfs to the mounted export.

use std::fs;
use std::time::Instant;

use crate::report::Report;
use crate::{files, journal, posix, programs, quota, sys};

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
    let server = word("judge.server=").ok_or("no judge.server= on the kernel's command line")?;
    let path = word("judge.path=").ok_or("no judge.path=")?;
    let every = word("judge.every=").and_then(|every| every.parse().ok()).unwrap_or(1);
    let commits = word("judge.commits=").and_then(|commits| commits.parse().ok());

    wait_for("/sys/class/net/eth0")?;
    sys::configure("eth0", ADDRESS).map_err(told("eth0"))?;
    for at in ["/subject", "/reference", "/limited"] {
        fs::create_dir_all(at).map_err(|e| format!("{at}: {e}"))?;
    }
    let options = format!("vers=3,proto=tcp,nolock,hard,addr={server},mountproto=tcp");
    sys::mount(&format!("{server}:{path}"), "/subject", "nfs", &options).map_err(told("mount of the export"))?;
    println!("judge: mounted {:.1} s after the start", uptime());
    let began = Instant::now();
    let mut report = Report::new();
    match commits {
        Some(commits) => programs::judge(&mut report, "/subject", commits)?,
        None => {
            wait_for("/dev/vda")?;
            sys::mount("/dev/vda", "/reference", "ext4", "").map_err(told("mount of the local ext4"))?;
            for at in ["/subject/judged", "/reference/judged"] {
                fs::create_dir_all(at).map_err(|e| format!("{at}: {e}"))?;
            }
            files::judge(&mut report, "/subject/judged", true);
            let limited = word("judge.limited=").ok_or("no judge.limited=")?;
            let bytes = word("judge.quota=").and_then(|bytes| bytes.parse().ok()).ok_or("no judge.quota=")?;
            sys::mount(&format!("{server}:{limited}"), "/limited", "nfs", &options)
                .map_err(told("mount of a quota"))?;
            quota::judge(&mut report, "/limited", "/subject/judged", bytes);
            sys::unmount("/limited").map_err(told("unmount of a quota"))?;
            let disks = word("judge.failing=").and_then(|disks| disks.parse().ok()).ok_or("no judge.failing=")?;
            for disk in 0..disks {
                wait_for(&journal::device(disk))?;
            }
            journal::judge(&mut report, disks);
            posix(&mut report, "/subject/judged", "/reference/judged", every);
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
