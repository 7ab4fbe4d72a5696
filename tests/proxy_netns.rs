//! The real server beside DHCP servers of others, in namespaces: dnsmasq and
//! Kea lease, a virtual Pi boots from us with their address.

#![allow(clippy::unwrap_used)] // a panic is how a test reports

#[allow(dead_code)] // other tests use the rest
mod serve_lab;
mod store_support;
mod support;

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use nfs3_client::Nfs3ConnectionBuilder;
use nfs3_client::nfs3_types::rpc::{auth_unix, opaque_auth};
use nfs3_client::nfs3_types::xdr_codec::Opaque;
use nfs3_client::tokio::TokioConnector;
use serve_lab::{Lab, PATIENCE, Pi, boot_files};
use support::netns::{Child, Netns};
use support::virtual_pi::{Board, Fetched};

const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const POOL: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 100), Ipv4Addr::new(10, 77, 0, 150)];

/// A router on the switch: AVM by its MAC.
fn router(lab: &Lab) -> Netns {
    let router = lab.station("port-r", [0xc8, 0x0e, 0x14, 1, 2, 3]);
    router.ip(&format!("address add {ROUTER}/24 dev eth0"));
    router
}

fn start(router: &Netns, mut command: Command) -> Child {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Child(router.run(|| command.spawn()).unwrap())
}

fn dnsmasq(router: &Netns) -> Child {
    let mut command = Command::new("dnsmasq");
    command
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--user=root"])
        .args(["--dhcp-leasefile=/dev/null", "--dhcp-authoritative"])
        .arg(format!("--dhcp-range={},{},255.255.255.0,1h", POOL[0], POOL[1]));
    start(router, command)
}

fn kea(router: &Netns, folder: &std::path::Path) -> Child {
    let config = folder.join("kea.json");
    let text = format!(
        r#"{{"Dhcp4": {{"interfaces-config": {{"interfaces": ["eth0"]}}, "valid-lifetime": 3600,
            "lease-database": {{"type": "memfile", "persist": false}},
            "subnet4": [{{"subnet": "10.77.0.0/24", "pools": [{{"pool": "{} - {}"}}],
                "option-data": [{{"name": "routers", "data": "{ROUTER}"}}]}}]}}}}"#,
        POOL[0], POOL[1]
    );
    fs::write(&config, text).unwrap();
    assert!(
        std::path::Path::new("/usr/sbin/kea-dhcp4").exists(),
        "no kea-dhcp4; cure: apt-get install kea-dhcp4-server"
    );
    let mut command = Command::new("/usr/sbin/kea-dhcp4");
    command.arg("-c").arg(&config).env("KEA_PIDFILE_DIR", folder).env("KEA_LOCKFILE_DIR", folder);
    start(router, command)
}

/// Boots it; its files are the image's, its address is the router's, and its root is at ours.
#[track_caller]
fn boots(lab: &Lab, pi: &Pi) -> (Fetched, Ipv4Addr) {
    let fetched = pi.netns.run(|| pi.board.boot(PATIENCE));
    let fetched = fetched.unwrap_or_else(|failure| panic!("{failure}\n{}", lab.log()));
    assert!((POOL[0]..=POOL[1]).contains(&fetched.address), "{}", fetched.address);
    let image = boot_files();
    for (name, content) in fetched.files.iter().filter(|(name, _)| *name != "cmdline.txt") {
        assert!(image.iter().any(|(file, bytes)| file == name && bytes == content), "{name}");
    }
    assert!(fetched.kernel().is_some() && fetched.initramfs().is_some(), "{:?}", fetched.files.keys());
    let line = fetched.command_line("ttyAMA0");
    let own = line.split(' ').find_map(|word| word.strip_prefix("nfsroot=")?.split(':').next()).unwrap().to_owned();
    let own: Ipv4Addr = own.parse().unwrap();
    assert!((POOL[0]..=POOL[1]).contains(&own) && own != fetched.address && own == fetched.server, "{line}");
    (fetched, own)
}

/// Its root by NFS from this namespace, as its kernel mounts it.
async fn mounts(server: Ipv4Addr, path: &str) -> Result<(), String> {
    let root = auth_unix { stamp: 0, machinename: Opaque::borrowed(b"pi"), uid: 0, gid: 0, gids: Vec::new() };
    let builder = Nfs3ConnectionBuilder::new(TokioConnector, server.to_string(), path);
    let mounting = builder.credential(opaque_auth::auth_unix(&root)).mount();
    let limited = tokio::time::timeout(PATIENCE, mounting).await.map_err(|_| "no answer".to_owned())?;
    limited.map(drop).map_err(|error| format!("{error:?}"))
}

#[test]
fn beside_dnsmasq_a_pi_boots_from_us_with_the_routers_address() {
    let mut lab = Lab::new();
    let router = router(&lab);
    let _dnsmasq = dnsmasq(&router);
    lab.put_image();
    lab.start();
    lab.logged("imported", 0);
    lab.logged("another server leases addresses; we add the boot", 0);
    lab.logged("wire green: 10.77.0.1 (AVM) gives the addresses", 0);

    // Enrolled beside the router by one press; a Pi 4 asks the router for its address.
    let pi = lab.plug(Board::Pi4B, 4);
    lab.open_window();
    let (fetched, own) = boots(&lab, &pi);
    pi.netns.ip(&format!("address add {}/24 dev eth0", fetched.address));
    pi.net(async || mounts(own, "/clients/pi-1/root").await).unwrap();
    lab.logged("client pi-1: root mounted", 0);

    // Another machine on that wire gets nothing of it, whatever it says of itself.
    let other = lab.station("port-o", [2, 0, 0, 0, 0, 9]);
    other.ip("address add 10.77.0.200/24 dev eth0");
    let refused = other.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(mounts(own, "/clients/pi-1/root"))
    });
    assert!(refused.is_err());

    // A Pi 3 uses what the ROM was offered, and hears us later than the router.
    let pi = lab.plug(Board::Pi3B, 3);
    lab.open_window();
    boots(&lab, &pi);

    // The server dies and comes back: it knows its clients' places by the kernel's table.
    lab.kill();
    let (_, from) = (0, lab.log().len());
    lab.start();
    lab.logged(&format!("client pi-1 is at {}", fetched.address), from);
}

#[test]
fn beside_kea_a_pi_boots_from_us_with_the_routers_address() {
    let mut lab = Lab::new();
    let folder = tempfile::tempdir().unwrap();
    let router = router(&lab);
    let _kea = kea(&router, folder.path());
    lab.put_image();
    lab.start();
    lab.logged("imported", 0);
    lab.logged("another server leases addresses; we add the boot", 0);
    let pi = lab.plug(Board::Pi5, 5);
    lab.open_window();
    let (fetched, own) = boots(&lab, &pi);
    pi.netns.ip(&format!("address add {}/24 dev eth0", fetched.address));
    pi.net(async || mounts(own, "/clients/pi-1/root").await).unwrap();
}

#[test]
fn a_router_that_comes_later_turns_us_and_running_clients_stay() {
    let mut lab = Lab::ready();
    let (pi, address) = lab.enrolled(Board::Pi4B, 4);
    pi.net(async || mounts(serve_lab::SERVER, "/clients/pi-1/root").await).unwrap();
    let router = router(&lab);
    let _dnsmasq = dnsmasq(&router);
    // A Pi of somebody else's that chose the router makes us look.
    let stranger = lab.plug(Board::Pi4B, 44);
    let asked = stranger.netns.run(|| {
        let mut session = support::virtual_pi::session::Session::open("eth0", stranger.board.mac, PATIENCE).unwrap();
        let manner = stranger.board.first_manner();
        support::virtual_pi::dhcp::take_any(&mut session, &manner)
    });
    assert!((POOL[0]..=POOL[1]).contains(&asked.unwrap()));
    lab.logged("another server leases addresses; we add the boot", 0);
    // The running one still reaches its root where it was; the next boot is the router's.
    assert_eq!(address.octets()[..3], [192, 168, 77]);
    pi.net(async || mounts(serve_lab::SERVER, "/clients/pi-1/root").await).unwrap();
    pi.netns.ip("address flush dev eth0");
    boots(&lab, &pi);
}
