//! Suites of others on a root of ours, by the real Linux NFS client in an emulated machine: pjdfstest (what POSIX says of
//! each call), fsx (random reads and writes of one file, with fixed seeds), and stress-ng's file stressors, which look at
//! what they did (`--verify`).
//!
//! The client is the judge's (`tests/nfs_linux`), and runs each suite on the root and on a local ext4. What passes there
//! must pass on the root, but for what `known.rs` names, case by case. At the end pjdfstest is run once more, and fsx with
//! some seeds, while our server is killed (SIGKILL) and started again, every few seconds: no call may be lost or done twice.
//! `tests/run posix` runs it.
//!
//!     ROOTSTOCK_SEEDS=20   fsx seeds of either kind, instead of a few; `just soak`

#[path = "../support/mod.rs"]
mod support;

#[path = "../nfs_linux/console.rs"]
mod console;
#[path = "../nfs_linux/guest.rs"]
mod guest;
#[path = "../nfs_linux/lab.rs"]
#[allow(dead_code)] // a part of it is used
mod lab;

mod apart;
mod known;
mod verdict;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use apart::Apart;
use known::KNOWN;
use lab::Lab;
use support::command::run;
use support::qemu::{Machine, Start, virt};
use verdict::{CASES, Place, REMOUNTS, judge, sees_differences};

const SEEDS: u64 = 4;
const OPERATIONS: u64 = 1000;
/// Longer than a client waits before it connects again.
const BETWEEN_KILLS: Duration = Duration::from_secs(4);
/// In the names of suites, for that.
const KILLED: &str = "-killed";
/// A suite that lost most of its cases would pass as well.
const LEAST_CASES: usize = 200;
/// Emulation on busy cores is slow: a limit only tells "hangs" from "slow". For one line.
const LIMIT: Duration = Duration::from_secs(900);

const STORE: &str = "truncate -s 64M image.ext4; truncate -s 4G upper.ext4; truncate -s 2G reference.ext4
    for disk in image upper reference; do mkfs.ext4 -q -E lazy_itable_init=1 $disk.ext4; done
    mount -o loop upper.ext4 upper";

/// What ext4 and an NFSv3 client have; and whether the suite may mount anew without writing, which is refused while one
/// of its other cases still has a file open. Times differ after as long as a busy machine's emulated clock needs.
const PJDFSTEST: &str = "[features]\nposix_fallocate = {}\nrename_ctime = {}\nutime_now = {}\nutimensat = {}\n
[settings]\nnaptime = 0.2\nallow_remount = ";

/// All that it has but holes, which NFSv3 has no call for.
const FSX: &str =
    "[weights]\nclose_open = 5\ninvalidate = 5\nmapread = 10\nmapwrite = 10\nread = 10\nwrite = 10\ntruncate = 10
fsync = 2\nfdatasync = 2\nposix_fallocate = 2\nsendfile = 5\nposix_fadvise = 3\ncopy_file_range = 5\n";

/// pjdfstest's two people.
const PASSWD: &str = "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\ntests:x:1001:1001::/:/bin/false\n";
const GROUP: &str = "root:x:0:\nnobody:x:65534:\ntests:x:1001:\n";

/// stress-ng's stressors, and how many rounds of each, within its 20 seconds. Not those of links, whose one round is
/// 8,192 of them.
const STRESSORS: [(&str, u64); 19] = [
    ("access", 20),
    ("chmod", 10),
    ("chown", 20),
    ("copy-file", 20),
    ("dentry", 100),
    ("dir", 150),
    ("dirdeep", 100),
    ("dirmany", 200),
    ("filename", 30),
    ("fstat", 200),
    ("getdent", 200),
    ("hdd", 200),
    ("iomix", 200),
    ("mknod", 50),
    ("open", 100),
    ("rename", 200),
    ("seek", 200),
    ("touch", 100),
    ("utime", 200),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ended = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [apart::WORD, store] => apart::serve(Path::new(store)),
        _ => suites(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nnfs_posix failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn suites() -> Result<(), String> {
    sees_differences();
    let began = Instant::now();
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = top.join("target/nfs_posix");
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let tar = run(top.join("tests/nfs_posix/fetch").to_str().unwrap_or_default(), &[])?;
    let guest = guest::build(&folder, |root| fill(root, tar.trim(), &top.join("target/posix/bin")))?;
    let store = lab::own_store(&folder)?;
    let lab = Lab::new(&folder, STORE)?;
    println!("{:6.1} s  the client starts", began.elapsed().as_secs_f32());

    let words =
        format!("console=ttyAMA0 quiet panic=-1 judge.server={} judge.path={} judge.suites=1", lab::SERVER, lab::PATH);
    let start = Start { kernel: &guest.kernel, initramfs: &guest.initramfs, words: &words };
    let mut command = virt(&lab.wire, lab::TAP, "52:54:00:78:00:02", &start);
    lab::give_reference(&mut command, &store);
    let (killing, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut places = [Place::default(), Place::default()];
    let (followed, kills) = std::thread::scope(|scope| {
        let server = scope.spawn(|| serve(&lab, &store, &killing, &done));
        let followed = Machine::start("posix", &mut command, &folder).and_then(|mut machine| {
            let mut broken = Ok(());
            let last = console::follow(&mut machine, began, LIMIT, |line| {
                let [what, suite, place, rest] = words_of(line);
                let at = &mut places[usize::from(place == "root")];
                match what {
                    "begin" if place == "root" => killing.store(suite.contains(KILLED), Ordering::SeqCst),
                    "said" => at.said(suite, rest),
                    "end" => broken = std::mem::replace(&mut broken, Ok(())).and(at.ended(suite, rest)),
                    "begin" => {}
                    _ => return true,
                }
                what == "end" && place == "root"
            });
            last.and_then(|last| broken.map(|()| last))
        });
        done.store(true, Ordering::SeqCst);
        (followed, server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let kills = kills?;
    let checked = lab.check_disk("upper.ext4");
    followed?;
    checked?;
    told(&places, kills, began)
}

/// `begin`, `said` or `end`, the suite, the place, and the rest.
fn words_of(line: &str) -> [&str; 4] {
    let mut words = line.splitn(4, ' ');
    std::array::from_fn(|_| words.next().unwrap_or_default())
}

/// What the emulated client finds beside its judge.
fn fill(root: &Path, tar: &str, programs: &Path) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{}: {error}", root.display());
    run(
        "tar",
        &["-x".as_ref(), "-f".as_ref(), tar.as_ref(), "-C".as_ref(), root.as_os_str(), "--exclude=*.a".as_ref()],
    )?;
    for inside in ["suites", "etc", "second"] {
        fs::create_dir_all(root.join(inside)).map_err(told)?;
    }
    let seeds = match std::env::var("ROOTSTOCK_SEEDS") {
        Ok(seeds) => seeds.parse().map_err(|_| format!("ROOTSTOCK_SEEDS={seeds} is no number"))?,
        Err(_) => SEEDS,
    };
    for program in ["pjdfstest", "fsx"] {
        fs::copy(programs.join(program), root.join("suites").join(program)).map_err(told)?;
    }
    for (file, text) in [
        ("suites/list", list(seeds)),
        ("suites/pjdfstest.toml", format!("{PJDFSTEST}false\n")),
        ("suites/remount.toml", format!("{PJDFSTEST}true\n")),
        ("suites/fsx.toml", FSX.to_owned()),
        ("etc/passwd", PASSWD.to_owned()),
        ("etc/group", GROUP.to_owned()),
        ("etc/nsswitch.conf", "passwd: files\ngroup: files\n".to_owned()),
    ] {
        fs::write(root.join(file), text).map_err(told)?;
    }
    for program in ["mount", "umount", "which"] {
        symlink("/bin/busybox", root.join("usr/bin").join(program)).map_err(told)?;
    }
    Ok(())
}

/// For the client: what to run, in this order.
fn list(seeds: u64) -> String {
    let mut list = format!(
        "{CASES} /suites/pjdfstest -c /suites/pjdfstest.toml -s /second -p {{}}\n\
         {REMOUNTS} /suites/pjdfstest -c /suites/remount.toml -p {{}} erofs\n",
    );
    for (stressor, rounds) in STRESSORS {
        list += &format!(
            "stress-ng-{stressor} /usr/bin/stress-ng --temp-path {{}} --verify --oomable --timeout 20 --{stressor} 2 \
             --{stressor}-ops {rounds}\n"
        );
    }
    for kind in ["", KILLED] {
        if !kind.is_empty() {
            list += &format!("{CASES}{kind} /suites/pjdfstest -c /suites/pjdfstest.toml -s /second -p {{}}\n");
        }
        for seed in 1..=seeds {
            let name = format!("fsx{kind}-{seed}");
            list += &format!("{name} /suites/fsx -f /suites/fsx.toml -S {seed} -N {OPERATIONS} -P /tmp {{}}/{name}\n");
        }
    }
    list
}

/// Serves the store until all is done; kills the server again and again while that is wanted: how often.
fn serve(lab: &Lab, store: &Path, killing: &AtomicBool, done: &AtomicBool) -> Result<u32, String> {
    let mut server = Apart::start(&lab.wire, store)?;
    let (mut kills, mut began) = (0, Instant::now());
    while !done.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(20));
        if killing.load(Ordering::SeqCst) && began.elapsed() >= BETWEEN_KILLS {
            drop(server);
            server = Apart::start(&lab.wire, store)?;
            (kills, began) = (kills + 1, Instant::now());
        }
    }
    Ok(kills)
}

fn told(places: &[Place; 2], kills: u32, began: Instant) -> Result<(), String> {
    let [local, root] = places;
    let verdict = judge(local, root, &KNOWN);
    println!("\nnot judged, since a local ext4 does not pass it here either:");
    verdict.not_judged.iter().for_each(|case| println!("  {case}"));
    println!(
        "\n{} cases passed on our root and on ext4, {} known ones failed, {} were not judged; {kills} kills, {:.0} s",
        verdict.passed,
        verdict.known,
        verdict.not_judged.len(),
        began.elapsed().as_secs_f32()
    );
    if !verdict.problems.is_empty() {
        return Err(format!("{} differ:\n  {}", verdict.problems.len(), verdict.problems.join("\n  ")));
    }
    if verdict.passed < LEAST_CASES {
        return Err(format!("fewer than {LEAST_CASES} cases were judged"));
    }
    if kills == 0 {
        return Err("the server was never killed".into());
    }
    Ok(())
}
