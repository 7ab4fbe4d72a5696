//! The real binary, `rootstock serve`, from its command line to the wire: in
//! network namespaces, with a folder as the stick and no emulator.
//!
//! Needs root, loop devices, ext4, overlayfs, and `apt-get install iproute2
//! e2fsprogs fdisk mtools libnfs-utils xz-utils`.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod serve_lab;
mod store_support;
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nfs3_client::nfs3_types::nfs3::*;
use nfs3_client::nfs3_types::rpc::{auth_unix, opaque_auth};
use nfs3_client::nfs3_types::xdr_codec::Opaque;
use nfs3_client::tokio::{TokioConnector, TokioIo};
use nfs3_client::{Nfs3Client, net::Connector};
use rustix::process::Signal;
use serve_lab::*;
use support::tftp::rrq;
use support::virtual_pi::session::Session;
use support::virtual_pi::wire::{BROADCAST, after};
use support::virtual_pi::{Board, Loss, VirtualPi, message};

#[test]
fn a_press_enrols_a_board_of_each_model_and_its_next_boot_needs_none() {
    let mut lab = Lab::ready();
    let mut addresses = Vec::new();
    let boards = [(Board::Pi3B, 1, "Pi 3"), (Board::Pi4B, 2, "Pi 4"), (Board::Pi5, 3, "Pi 5")];
    for (board, number, name) in boards {
        let pi = lab.plug(board, number);
        lab.open_window();
        let first = lab.boots(&pi);
        lab.told(&format!("pi-{number} {name}"));
        assert_eq!((first.server, first.prefix.as_str()), (SERVER, pi.board.prefix().as_str()), "{board:?}");
        assert!(first.command_line("ttyAMA0").contains(&format!(":/clients/pi-{number}/root,")));
        let again = lab.boots(&pi);
        assert_eq!(again.address, first.address, "{board:?}");
        assert!(!addresses.contains(&first.address));
        addresses.push(first.address);
    }
    let log = lab.log();
    assert_eq!(log.matches("enrolment window open").count(), 3, "{log}");
    assert!(!log.contains("stalled"), "{log}");
}

/// A kernel's folder of devices made of files: no machine here has a Pi's sensors.
#[test]
fn heat_and_a_weak_supply_stay_on_the_display_until_they_are_over() {
    let mut lab = Lab::new();
    // In this thread's and the server's view of mounts only.
    let mounted = Command::new("mount").args(["-t", "tmpfs", "sensors", "/sys/class"]).status().unwrap();
    assert!(mounted.success());
    let class = Path::new("/sys/class");
    let put = |name: &str, figure: &str| {
        fs::create_dir_all(class.join(name).parent().unwrap()).unwrap();
        // In place at once, or the server could read half a figure.
        fs::write(class.join("new"), figure).unwrap();
        fs::rename(class.join("new"), class.join(name)).unwrap();
    };
    put("thermal/thermal_zone0/temp", "81234\n");
    lab.start();
    lab.logged("board: This Pi is too hot and runs slower (81 degrees). Give it air, or a heat sink", 0);
    lab.told("This Pi is too hot and runs slower");
    put("thermal/thermal_zone0/temp", "61000\n");
    let (_, cool) = lab.logged("supply, heat and memory are well again", 0);
    lab.screen("image");
    put("hwmon/hwmon0/in0_lcrit_alarm", "1\n");
    lab.logged("board: Too little voltage from the supply", cool);
    lab.told("Too little voltage from the supply");
}

#[test]
fn without_a_button_the_stick_or_a_command_lets_a_new_pi_in_and_nothing_else_does() {
    let mut lab = Lab::new();
    lab.put_image();
    fs::write(lab.config(), "[enrol]\nopen = 'plug'\nwindow = 3600\n").unwrap();
    lab.start();
    lab.logged("ENROLL by the stick: enrol.open is plug", 0);
    let first = lab.plug(Board::Pi4B, 1);
    lab.boots(&first);
    lab.end_by(Signal::TERM);

    // By default a start lets nobody in.
    fs::remove_file(lab.config()).unwrap();
    let from = lab.log().len();
    lab.start();
    lab.logged("store open", from);
    let second = lab.plug(Board::Pi5, 2);
    assert!(second.netns.run(|| second.board.boot(Duration::from_secs(6))).is_err());
    lab.logged("press ENROLL to take it", from);
    let run = lab.run_folder();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_rootstock"))
        .args(["enroll", "--run"])
        .arg(&run)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "power on the new Pi within 120 s\n", "{output:?}");
    lab.boots(&second);
    lab.boots(&first);
    assert!(!lab.log()[from..].contains("ENROLL by the stick"));
}

#[test]
fn a_bad_wire_costs_time_but_no_boot() {
    let mut lab = Lab::ready();
    let boards = [(Board::Pi3B, 1), (Board::Pi4B, 2), (Board::Pi5, 3), (Board::Pi4B, 4)];
    let pis = boards.map(|(board, number)| {
        let mut pi = lab.plug(board, number);
        pi.board.loss = Some(Loss { seed: number.into(), one_in: 250 });
        pi
    });
    // Held: all of them are taken.
    lab.press('E');
    lab.screen("Waiting for Pis");
    let lab = &lab;
    let boots = pis.each_ref().map(|pi| {
        let boot = pi.netns.spawn({
            let board = pi.board.clone();
            move || board.boot(2 * PATIENCE)
        });
        (pi, boot)
    });
    let mut lost = 0;
    for (pi, boot) in boots {
        let fetched = boot.join().unwrap().unwrap_or_else(|failure| panic!("{failure}\n{}", lab.log()));
        check_files(&fetched);
        lost += fetched.steps().iter().filter(|step| step.starts_with("lost")).count();
        println!("{:?}: {:?}", pi.board.board, fetched.log.last().unwrap().at);
    }
    assert!(lost >= 8, "only {lost} datagrams were lost");
}

/// Sends a DISCOVER and counts what comes back to its port.
fn answers(lab: &Lab, port: &str, mac: [u8; 6], class: &str, arch: u8) -> usize {
    let netns = lab.station(port, mac);
    netns.run(|| {
        let mut session = Session::open("eth0", mac, PATIENCE).unwrap();
        let guid = [&[0][..], &[0x5a; 16]].concat();
        let options = [
            (53, vec![message::DISCOVER]),
            (55, vec![1, 3, 43, 60, 66, 67]),
            (60, class.as_bytes().to_vec()),
            (93, vec![0, arch]),
            (97, guid),
        ];
        let discover = message::write(0x1234_5678, mac, &options);
        session.send_udp(BROADCAST, 68, "255.255.255.255:67".parse().unwrap(), &discover).unwrap();
        let until = after(Duration::from_millis(1500));
        std::iter::from_fn(|| session.receive_udp(68, until).unwrap()).count()
    })
}

#[test]
fn whoever_is_no_client_and_no_pi_in_the_window_gets_silence() {
    let mut lab = Lab::ready();
    let pi = lab.plug(Board::Pi4B, 1);
    let impatient = |pi: &Pi| pi.netns.run(|| pi.board.boot(Duration::from_secs(2)));
    let failure = impatient(&pi).unwrap_err();
    assert!(failure.reason.contains("no answer to DISCOVER"), "{failure}");
    lab.told("A new Pi asks");

    lab.open_window();
    assert_eq!(answers(&lab, "pc7", [0x52, 0x54, 0, 1, 2, 3], "PXEClient:Arch:00007:UNDI:003016", 7), 0);
    assert_eq!(answers(&lab, "pc0", [0x52, 0x54, 0, 1, 2, 4], "PXEClient:Arch:00000:UNDI:002001", 0), 0);
    // The window was open all the time, and the server awake.
    lab.boots(&pi);
    assert!(!lab.stick("clients/pi-2").exists());

    // A second board comes when the window has closed behind the first.
    let other = lab.plug(Board::Pi5, 2);
    assert!(impatient(&other).is_err());
    assert!(!lab.stick("clients/pi-2").exists());
}

/// NFS without MNT, as a kernel goes on with the handles that it has.
async fn nfs() -> std::io::Result<Nfs3Client<TokioIo<tokio::net::TcpStream>>> {
    let root = auth_unix { stamp: 0, machinename: Opaque::borrowed(b"pi"), uid: 0, gid: 0, gids: Vec::new() };
    // A port that no other connection of these tests has.
    static PORT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let port = 100 + PORT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 190;
    let io = TokioConnector.connect_with_port((SERVER, 2049).into(), port).await?;
    Ok(Nfs3Client::new_with_auth(io, opaque_auth::auth_unix(&root), opaque_auth::default()))
}

async fn find(client: &mut Mounted, path: &str) -> nfs_fh3 {
    let mut handle = client.root_nfs_fh3();
    for name in path.split('/') {
        let what = diropargs3 { dir: handle, name: filename3(Opaque::borrowed(name.as_bytes())) };
        handle = client.lookup(&LOOKUP3args { what }).await.unwrap().unwrap().object;
    }
    handle
}

async fn read_file(client: &mut Mounted, path: &str) -> String {
    let file = find(client, path).await;
    let read = client.read(&READ3args { file, offset: 0, count: 65536 }).await.unwrap().unwrap();
    String::from_utf8_lossy(read.data.as_ref()).into_owned()
}

#[test]
fn a_killed_server_is_back_within_two_seconds_and_every_handle_is_good() {
    let mut lab = Lab::ready();
    let (pi, address) = lab.enrolled(Board::Pi4B, 1);
    let handles = pi.net(async || {
        let mut client = mount("/clients/pi-1/root").await.unwrap();
        let lower = find(&mut client, "usr/share/doc/one").await;
        let upper = write_file(&mut client, "new", b"before the kill").await;
        vec![client.root_nfs_fh3(), lower, upper]
    });
    for round in 0..2 {
        lab.kill();
        let started = Instant::now();
        lab.start();
        let mut waited = 0;
        for handle in &handles {
            loop {
                let args = GETATTR3args { object: handle.clone() };
                let answer = pi.net(async || match nfs().await {
                    Ok(mut client) => tokio::time::timeout(PATIENCE, client.getattr(&args)).await.unwrap().ok(),
                    // Nobody listens yet.
                    Err(_) => None,
                });
                match answer {
                    Some(Nfs3Result::Ok(_)) => break,
                    // The kernel waits and asks again.
                    None | Some(Nfs3Result::Err((nfsstat3::NFS3ERR_JUKEBOX, _))) => waited += 1,
                    Some(Nfs3Result::Err((status, _))) => panic!("round {round}: {status:?}\n{}", lab.log()),
                }
                assert!(started.elapsed() < Duration::from_secs(2), "not back\n{}", lab.log());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        println!("back {:?} after the start, asked again {waited} times", started.elapsed());
        let text = pi.net(async || {
            let args = READ3args { file: handles[2].clone(), offset: 0, count: 100 };
            nfs().await.unwrap().read(&args).await.unwrap().unwrap().data.as_ref().to_vec()
        });
        assert_eq!(text, b"before the kill");
    }
    pi.netns.ip("address flush dev eth0");
    assert_eq!(lab.boots(&pi).address, address);
}

#[test]
fn the_address_is_kept_when_only_the_clients_own_file_is_left() {
    let mut lab = Lab::ready();
    // Not the first of the pool's order by luck: the second of two.
    lab.enrolled(Board::Pi3B, 1);
    let (pi, address) = lab.enrolled(Board::Pi4B, 2);
    pi.netns.ip("address flush dev eth0");
    assert!(lab.end_by(Signal::TERM).success());
    fs::remove_dir_all(lab.run_folder()).unwrap();
    for entry in fs::read_dir(lab.stick("")).unwrap().map(|entry| entry.unwrap()) {
        if entry.path().is_file() {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    fs::remove_dir_all(lab.stick("clients/pi-1")).unwrap();
    lab.start();
    assert_eq!(lab.boots(&pi).address, address);
}

#[test]
fn a_clients_root_is_for_its_own_address_and_keeps_what_is_written() {
    let mut lab = Lab::ready();
    let (one, address) = lab.enrolled(Board::Pi4B, 1);
    let (two, _) = lab.enrolled(Board::Pi5, 2);
    let url = format!("nfs://{SERVER}/clients/pi-1/root/etc/hostname");
    let cat = |pi: &Pi| pi.netns.command("nfs-cat").arg(&url).output().expect("apt-get install libnfs-utils");
    let output = cat(&one);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "pi-1\n", "{output:?}");
    let output = cat(&two);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    let stranger = lab.station("port9", [2, 0, 0, 0, 0, 9]);
    stranger.ip("address add 192.168.77.240/24 dev eth0");
    let stranger = Pi { netns: stranger, board: VirtualPi::new(Board::Pi4B, 9, "eth0") };
    for (pi, path) in [(&two, "/clients/pi-1/root"), (&stranger, "/clients/pi-1/root"), (&two, "/etc"), (&one, "/")] {
        let refused = pi.net(async || mount(path).await.err());
        assert!(
            refused.as_ref().is_some_and(|error| error.contains("ACCES") || error.contains("NOENT")),
            "{refused:?}"
        );
    }
    lab.logged("nfs: 192.168.77.240 may not mount", 0);

    one.net(async || {
        let mut client = mount("/clients/pi-1/root").await.unwrap();
        assert_eq!(read_file(&mut client, "etc/hostname").await, "pi-1\n");
        write_file(&mut client, "kept", b"by the stick").await;
    });
    assert!(lab.end_by(Signal::TERM).success());
    lab.start();
    lab.logged("1 images, 2 clients", 0);
    let kept = one.net(async || read_file(&mut mount("/clients/pi-1/root").await.unwrap(), "kept").await);
    assert_eq!(kept, "by the stick", "{address}");
}

/// Over what is there, as dpkg and the kernel packages' hooks do.
async fn replace_file(client: &mut Mounted, name: &str, text: &[u8]) {
    write_file(client, "new.dpkg-new", text).await;
    let dir = client.root_nfs_fh3();
    let from = diropargs3 { dir: dir.clone(), name: filename3(Opaque::borrowed(b"new.dpkg-new")) };
    let to = diropargs3 { dir, name: filename3(Opaque::borrowed(name.as_bytes())) };
    client.rename(&RENAME3args { from, to }).await.unwrap().unwrap();
}

#[test]
fn a_kernel_upgraded_inside_a_client_is_loaded_next_and_never_without_our_words() {
    let mut lab = Lab::ready();
    let (pi, address) = lab.enrolled(Board::Pi4B, 1);
    // The hook of each kind of package: its kernel, its initramfs, the file with the command line, config.txt.
    let ways = [
        ("kernel8.img", "initramfs8", "cmdline.txt", "arm_64bit=1\nauto_initramfs=1\n"),
        // Debian's raspi-firmware: names with the version, cmdline.txt made anew of the running system.
        (
            "vmlinuz-6.12.9-arm64",
            "initrd.img-6.12.9-arm64",
            "cmdline.txt",
            "arm_64bit=1\nkernel=vmlinuz-6.12.9-arm64\ninitramfs initrd.img-6.12.9-arm64\n",
        ),
        // Ubuntu's flash-kernel, with its former name for the command line.
        (
            "vmlinuz",
            "initrd.img",
            "nobtcmd.txt",
            "kernel=vmlinuz\ninitramfs initrd.img followkernel\ncmdline=nobtcmd.txt\n",
        ),
    ];
    for (kernel, initramfs, line, config) in ways {
        let (new_kernel, new_initramfs) =
            (format!("new {kernel}").repeat(3000), format!("new {initramfs}").repeat(2000));
        pi.net(async || {
            let mut client = mount("/clients/pi-1/boot").await.unwrap();
            replace_file(&mut client, kernel, new_kernel.as_bytes()).await;
            replace_file(&mut client, initramfs, new_initramfs.as_bytes()).await;
            replace_file(&mut client, "config.txt", config.as_bytes()).await;
            let own =
                "console=tty1 root=LABEL=RASPIROOT rootfstype=ext4 fsck.repair=yes quiet ro added=by-the-client\n";
            replace_file(&mut client, line, own.as_bytes()).await;
        });
        pi.netns.ip("address flush dev eth0");
        let fetched =
            pi.netns.run(|| pi.board.boot(PATIENCE)).unwrap_or_else(|failure| panic!("{failure}\n{}", lab.log()));
        assert!(fetched.kernel() == Some(new_kernel.as_bytes()), "{kernel}: {:?}", fetched.files.keys());
        assert!(fetched.initramfs() == Some(new_initramfs.as_bytes()), "{initramfs}: {:?}", fetched.files.keys());
        let words = fetched.command_line("ttyAMA0");
        assert!(
            words
                .starts_with("console=tty1 added=by-the-client root=/dev/nfs nfsroot=192.168.77.1:/clients/pi-1/root,"),
            "{words}"
        );
        assert!(
            words.contains(" rw ip=dhcp rootwait") && !words.contains("LABEL") && !words.contains(" ro "),
            "{words}"
        );
        pi.netns.ip(&format!("address add {address}/24 dev eth0"));
    }

    // And by Debian's own hook, as the kernel's package runs it on the client.
    let made = debian_hook();
    let content = |start: &str| made.iter().find(|(name, _)| name.starts_with(start)).unwrap().1.as_slice();
    pi.net(async || {
        let mut client = mount("/clients/pi-1/boot").await.unwrap();
        for (name, bytes) in &made {
            replace_file(&mut client, name, bytes).await;
        }
    });
    pi.netns.ip("address flush dev eth0");
    let fetched = pi.netns.run(|| pi.board.boot(PATIENCE)).unwrap_or_else(|failure| panic!("{failure}\n{}", lab.log()));
    assert!(fetched.kernel() == Some(content("vmlinuz-6.12.99")), "{:?}", fetched.files.keys());
    assert!(fetched.initramfs() == Some(content("initrd.img-6.12.99")), "{:?}", fetched.files.keys());
    assert!(String::from_utf8_lossy(content("cmdline.txt")).contains("fsck.repair=yes"), "the hook made its own line");
    let words = fetched.command_line("ttyAMA0");
    assert!(
        words.contains(" net.ifnames=0 ") && words.contains(" root=/dev/nfs nfsroot=192.168.77.1:/clients/pi-1/root,")
    );
    assert!(words.matches(" root=").count() == 1 && !words.contains("fsck.repair"), "{words}");
}

/// What raspi-firmware's hook, from the pinned package, leaves in /boot/firmware when a kernel 6.12.99 was installed.
fn debian_hook() -> Vec<(String, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"set -eu
        cd "$1"
        grep '^raspi-firmware/' "$2/board/pi3-4/packages.lock" > lock
        dpkg-deb -x "$("$2/board/fetch" "$PWD/lock" | cut -d ' ' -f 4)" package
        mkdir -p boot/firmware stub out
        # This machine is no Pi, which the hook asks dpkg first.
        printf '#!/bin/sh\necho arm64\n' > stub/dpkg
        chmod +x stub/dpkg
        seq -f 'kernel %g' 2000 > boot/vmlinuz-6.12.99-arm64
        seq -f 'initramfs %g' 2000 > boot/initrd.img-6.12.99-arm64
        mkdir -p /boot
        mount --bind boot /boot
        mount -t tmpfs firmware /boot/firmware
        PATH=$PWD/stub:$PATH DEB_MAINT_PARAMS="'configure' '6.12.99-arm64'" \
            sh package/etc/kernel/postinst.d/z50-raspi-firmware
        cp /boot/firmware/* out/"#;
    let top = env!("CARGO_MANIFEST_DIR");
    store_support::run("unshare", &["-m", "sh", "-c", script, "sh", folder.path().to_str().unwrap(), top]);
    let files = fs::read_dir(folder.path().join("out")).unwrap().map(|entry| entry.unwrap());
    files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())).collect()
}

#[test]
fn hostile_traffic_costs_no_boot_and_little_memory() {
    let mut lab = Lab::ready();
    let (pi, _) = lab.enrolled(Board::Pi4B, 1);
    let before = lab.memory_kib("VmRSS");
    let evil = lab.station("port8", [2, 0, 0, 0, 0, 8]);
    evil.ip("address add 192.168.77.241/24 dev eth0");
    evil.run(hostile_dhcp);
    // From an address that is served, which gets further than a stranger.
    for netns in [&pi.netns, &evil] {
        netns.run(hostile_tftp);
        netns.run(hostile_rpc);
    }
    // Many more than a process may have open by default, and than one address may.
    let limit = rustix::process::Rlimit { current: Some(8192), maximum: Some(8192) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let silent = |netns: &support::netns::Netns| {
        netns.run(|| {
            let ports = [2049, 20048, 111].into_iter().cycle().take(1000);
            ports.filter_map(|port| std::net::TcpStream::connect((SERVER, port)).ok()).collect::<Vec<_>>()
        })
    };
    let open = (silent(&evil), silent(&pi.netns));
    assert!(open.0.len() >= 900, "only {} connections", open.0.len());

    lab.logged("carrier up", 0);
    let (other, _) = lab.enrolled(Board::Pi5, 2);
    let hostname = other.net(async || read_file(&mut mount("/clients/pi-2/root").await.unwrap(), "etc/hostname").await);
    assert_eq!(hostname, "pi-2\n");
    let after = lab.memory_kib("VmRSS");
    println!("resident: {before} KiB, then {after} KiB");
    assert!(after < 48 << 10, "{after} KiB");
    drop(open);
    // The attacker whose address is a client's has only hurt itself, and only for as long as it went on.
    let hostname = eventually("service for the first client", || {
        pi.net(async || Some(read_file(&mut mount("/clients/pi-1/root").await.ok()?, "etc/hostname").await))
    });
    assert_eq!(hostname, "pi-1\n");
    assert!(!lab.log().contains("panicked"), "{}", lab.log());
}

fn hostile_dhcp() {
    let mac = [0xdc, 0xa6, 0x32, 6, 6, 6];
    let good = message::write(7, mac, &[(53, vec![message::DISCOVER]), (60, message::CLASS.to_vec())]);
    let changed = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        bad
    };
    let packets = [
        changed(2, &[255]),
        changed(236, &[1, 2, 3, 4]),
        // The option's length points behind the end.
        [&good[..240], &[53, 1, 1, 60, 255, b'P']].concat(),
        [&good[..240], &[53]].concat(),
        Vec::new(),
        vec![0xff; 60_000],
        [&good[..240], &[12; 59_000][..]].concat(),
    ];
    let socket = UdpSocket::bind("0.0.0.0:68").unwrap();
    for packet in packets.iter().cycle().take(700) {
        socket.send_to(packet, (SERVER, 67)).unwrap();
    }
}

fn hostile_tftp() {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let long = "a/".repeat(5_000);
    let paths: [&[u8]; 7] = [
        b"../../../etc/passwd",
        b"9ffefd01/../../../../etc/passwd",
        b"/etc/passwd",
        b"overlays/../../root/etc/shadow",
        b"config.txt\0../../etc/passwd",
        b"\xff\xfe\x01",
        long.as_bytes(),
    ];
    for path in paths {
        socket.send_to(&rrq(path, "octet", &[]), (SERVER, 69)).unwrap();
        let mut answer = [0; 2000];
        if let Ok((length, _)) = socket.recv_from(&mut answer) {
            let shown = answer[..length].escape_ascii().to_string();
            assert_eq!(answer[..2], [0, 5], "{}: {shown}", path.escape_ascii());
        }
    }
}

/// An RPC call up to its procedure; `rest` goes on with the credential.
fn call(program: u32, version: u32, procedure: u32, rest: &[u32]) -> Vec<u8> {
    let words = [&[1, 0, 2, program, version, procedure], rest].concat();
    let body: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    [&(0x8000_0000 | body.len() as u32).to_be_bytes()[..], &body].concat()
}

fn hostile_rpc() {
    const LYING: u32 = 0xffff_fff0;
    let records = [
        (2049, vec![0xff; 4096]),
        (2049, [&[0x7f, 0xff, 0xff, 0xff][..], &[0; 4096]].concat()),
        (2049, call(100_003, 3, 1, &[1, LYING, 0, 0])),
        (2049, call(100_003, 3, 1, &[0, 0, 0, 0, LYING, 0])),
        (20048, call(100_005, 3, 1, &[0, 0, 0, 0, LYING, 0])),
        (111, call(100_000, 2, 3, &[0, LYING, 0, 0])),
    ];
    for (port, record) in records.iter().cycle().take(120) {
        // One that is refused at once is no worse.
        let Ok(mut stream) = connect_reserved(*port) else { continue };
        if stream.write_all(record).is_err() {
            continue;
        }
        let mut reply = [0; 512];
        let length = match stream.read(&mut reply) {
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("port {port}: neither an answer nor the end: {error}"),
        };
        // Accepted with success would be 0 as the sixth word.
        assert!(length < 28 || reply[24..28] != [0; 4] || reply[12..16] != [0; 4], "{:?}", &reply[..length]);
    }
}

#[test]
fn a_wrong_configuration_is_told_with_key_and_line_and_the_defaults_serve() {
    let mut lab = Lab::new();
    fs::write(lab.config(), "[network]\naddress = '300.1.1.1/24'\n\n[enrol]\nwindow = 'long'\n").unwrap();
    lab.put_image();
    lab.start();
    lab.told("rootstock.toml line 2, network.address: expected");
    lab.logged("line 2, network.address: expected", 0);
    lab.logged("line 5, enrol.window: expected", 0);
    lab.logged("serving as 192.168.77.1/24", 0);
    lab.logged("imported", 0);
    lab.enrolled(Board::Pi4B, 1);
    lab.logged("enrolment window open for 120 s", 0);
}

#[test]
fn a_broken_image_is_told_once_and_the_earlier_one_goes_on_serving() {
    let mut lab = Lab::ready();
    let mut from = 0;
    let whole = fs::read(image()).unwrap();
    let mut check = |name: &str, content: &[u8], sum: Option<&str>, says: &str| {
        if let Some(sum) = sum {
            fs::write(lab.stick(&format!("{name}.sha256")), sum).unwrap();
        }
        fs::write(lab.stick(name), content).unwrap();
        let (line, end) = lab.logged(&format!("import of {name} failed"), from);
        from = end;
        assert!(line.contains(says), "{line}");
        lab.told(&format!("Problem {name}: {}", &says[..says.len().min(20)]));
    };
    check("short.img", &whole[..whole.len() - (1 << 20)], None, "the file is cut short, or its partition table lies");
    let mut lying = whole.clone();
    lying[446 + 16 + 8..][..4].copy_from_slice(&2048u32.to_le_bytes());
    check("lying.img", &lying, None, "the file is cut short, or its partition table lies");
    let sum = format!("{}  sum.img\n", "ab".repeat(32));
    check("sum.img", &whole, Some(&sum), "the file does not match sum.img.sha256");

    lab.enrolled(Board::Pi4B, 1);
    let log = lab.log();
    for name in ["short.img", "lying.img", "sum.img"] {
        let told = log.lines().filter(|line| line.contains(name) && line.contains("failed"));
        assert_eq!(told.count(), 1, "{log}");
    }
    assert_eq!(fs::read_dir(lab.stick("images")).unwrap().count(), 1);
}

#[test]
fn a_file_that_is_not_there_is_told_at_once() {
    let mut lab = Lab::ready();
    let (pi, _) = lab.enrolled(Board::Pi4B, 1);
    let mut times = pi.netns.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let ask = |number| {
            let path = format!("9ffefd01/missing{number}.bin");
            let request = rrq(path.as_bytes(), "octet", &[("tsize", "0"), ("blksize", "1468")]);
            let asked = Instant::now();
            socket.send_to(&request, (SERVER, 69)).unwrap();
            let mut answer = [0; 600];
            let (length, _) = socket.recv_from(&mut answer).unwrap();
            assert_eq!(answer[..4], [0, 5, 0, 1], "{:?}", &answer[..length]);
            asked.elapsed()
        };
        (0..200).map(ask).collect::<Vec<_>>()
    });
    times.sort();
    println!("missing file: median {:?}, slowest {:?}", times[100], times[199]);
    assert!(times[100] < Duration::from_millis(20), "{times:?}");
}

#[test]
fn a_second_server_says_what_is_taken_and_leaves_the_first_alone() {
    let mut lab = Lab::ready();
    let (pi, _) = lab.enrolled(Board::Pi4B, 1);
    let mounts = lab.mounts();
    let output = lab.second();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap_or_default();
    let taken = "rootstock: tftp: cannot listen for TFTP on 0.0.0.0:69: Address already in use";
    assert!(last.starts_with(taken), "{said}");
    assert_eq!(lab.mounts(), mounts);
    let hostname = pi.net(async || read_file(&mut mount("/clients/pi-1/root").await.unwrap(), "etc/hostname").await);
    assert_eq!(hostname, "pi-1\n");
}

#[test]
fn under_nohup_a_closed_terminal_does_not_end_it() {
    let mut lab = Lab::new();
    lab.start_under_nohup();
    lab.logged("store open on", 0);
    lab.signal(Signal::HUP);
    std::thread::sleep(support::tftp::QUIET);
    assert!(lab.runs(), "{}", lab.log());
    assert_eq!(lab.end_by(Signal::TERM).code(), Some(0));
}

#[test]
fn a_signal_or_a_held_next_unmounts_everything_and_ends_with_its_own_code() {
    let mut lab = Lab::ready();
    let (pi, _) = lab.enrolled(Board::Pi4B, 1);
    // SIGHUP: the terminal that it was started from was closed.
    for (signal, code) in [(Some(Signal::TERM), 0), (Some(Signal::HUP), 0), (Some(Signal::INT), 0), (None, 64)] {
        // A client that is busy, with an open connection, does not keep the stick.
        let busy = pi.net(async || {
            let mut client = mount("/clients/pi-1/root").await.unwrap();
            read_file(&mut client, "etc/hostname").await;
            connect_reserved(2049).unwrap()
        });
        assert!(lab.mounts().len() >= 3 && !lab.loops().is_empty(), "{:?} {:?}", lab.mounts(), lab.loops());
        let asked = Instant::now();
        let status = match signal {
            Some(signal) => lab.end_by(signal),
            None => {
                lab.press('N');
                lab.ended()
            }
        };
        assert_eq!(status.code(), Some(code), "{}", lab.log());
        assert!(asked.elapsed() < Duration::from_secs(8), "{:?}\n{}", asked.elapsed(), lab.log());
        println!("ended after {:?}", asked.elapsed());
        assert_eq!((lab.mounts(), lab.loops()), (Vec::new(), Vec::new()), "{}", lab.log());
        drop(busy);
        if signal.is_some() {
            let from = lab.log().len();
            lab.start();
            lab.logged("1 images, 1 clients", from);
        }
    }
}
