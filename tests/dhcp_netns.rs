//! Our DHCP against foreign clients, udhcpc and ISC's dhclient, in namespaces of
//! its own. The loop here stands in for control.

#![allow(clippy::unwrap_used)] // a panic is how a test reports

mod net_support;

use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use net_support::{CLIENT, CLIENT_MAC, PATIENCE, SERVER, Wire, eventually};
use rootstock::client::Role;
use rootstock::config::Subnet;
use rootstock::dhcp::{
    Answer, Binding, Counters, Decision, Event, How, Ignored, Kind, Server, Silence, Socket, decide,
};

const US: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const ITS: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 10);
const ROOT_PATH: &str = "192.168.77.1:/clients/pi-1/root,vers=3,tcp";

/// What the loop did with one event.
#[derive(Debug, PartialEq)]
enum Done {
    Answered(Kind, Answer, How),
    Other(Kind, Decision),
    Ignored(Counters),
}

struct Dhcp {
    done: Receiver<Done>,
    stop: Sender<Option<Event>>,
    thread: Option<JoinHandle<()>>,
}

impl Dhcp {
    /// Serves the one client of the wire, or nobody.
    fn serve(wire: &Wire, known: bool) -> Self {
        wire.server_ip("addr add 192.168.77.1/24 dev s0");
        wire.server_ip("link set s0 up");
        wire.client_ip("link set c0 up");
        let index = wire.server_ip("-o link show dev s0").split(':').next().unwrap().parse().unwrap();
        let (events_in, events) = channel();
        let sink = Mutex::new(events_in.clone());
        let sink = Arc::new(move |event| drop(sink.lock().unwrap().send(Some(event))));
        let socket = wire.in_server(|| Socket::open(SERVER, index, sink).unwrap());
        let server = Server {
            subnet: Subnet { address: US, prefix: 24 },
            gateway: Some(Ipv4Addr::new(192, 168, 77, 254)),
            dns: vec![Ipv4Addr::new(9, 9, 9, 9)],
            lease: Duration::from_secs(3600),
        };
        let binding = Binding { address: ITS, role: Role::numbered(1), root_path: ROOT_PATH.to_owned() };
        let (report, done) = channel();
        let thread = thread::spawn(move || {
            while let Ok(Some(event)) = events.recv() {
                let event = match event {
                    Event::Ignored(counters) => Done::Ignored(counters),
                    Event::Request(request) => {
                        let ours = request.mac.to_string() == CLIENT_MAC && known;
                        match decide(&server, ours.then_some(&binding), &request) {
                            Decision::Reply(reply) => {
                                socket.send(&reply).unwrap();
                                Done::Answered(request.kind, reply.answer, reply.to.how)
                            }
                            other => Done::Other(request.kind, other),
                        }
                    }
                };
                let _ = report.send(event);
            }
        });
        Self { done, stop: events_in, thread: Some(thread) }
    }

    #[track_caller]
    fn expect(&self, expected: &Done) {
        assert_eq!(&self.done.recv_timeout(PATIENCE).unwrap(), expected);
    }

    #[track_caller]
    fn expect_answer(&self, kind: Kind, answer: Answer, how: How) {
        self.expect(&Done::Answered(kind, answer, how));
    }

    /// Waits for something that other messages may come before; gives all of them.
    #[track_caller]
    fn wait(&self, wanted: impl Fn(&Done) -> bool) -> Vec<Done> {
        let mut all = Vec::new();
        while !all.last().is_some_and(&wanted) {
            all.push(self.done.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("only came: {all:?}")));
        }
        all
    }

    #[track_caller]
    fn wait_for(&self, wanted: &Done) -> Vec<Done> {
        self.wait(|done| done == wanted)
    }
}

impl Drop for Dhcp {
    fn drop(&mut self) {
        let _ = self.stop.send(None);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A client process, ended with the test.
struct Client(Child);

impl Client {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts udhcpc; each of its events writes its environment to a file of the
/// event's name in the scratch folder.
fn udhcpc(wire: &Wire, arguments: &[&str]) -> Client {
    let folder = wire.scratch.path().display();
    let script = wire.script(
        "udhcpc.sh",
        &format!(
            "#!/bin/sh\n[ $1 = bound ] && ip addr add $ip/24 dev {CLIENT}\n\
             env > {folder}/$1.new && mv {folder}/$1.new {folder}/$1\nexit 0\n"
        ),
    );
    let mut command = wire.client_command("udhcpc");
    command.args(["-f", "-i", CLIENT, "-t", "5", "-T", "1", "-O", "rootpath", "-O", "tftp"]);
    Client(command.arg("-s").arg(script).args(arguments).spawn().unwrap())
}

/// Waits for an event of the client and reads its environment.
#[track_caller]
fn environment(path: &Path) -> Vec<String> {
    eventually(&format!("{} is written", path.display()), || path.exists());
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

#[track_caller]
fn check_environment(path: &Path, expected: &[&str]) {
    let environment = environment(path);
    for expected in expected {
        assert!(environment.iter().any(|line| line == expected), "{expected} is not in {environment:#?}");
    }
}

#[test]
fn udhcpc_gets_its_lease_renews_and_releases_it() {
    let wire = Wire::plugged();
    let dhcp = Dhcp::serve(&wire, true);
    let client = udhcpc(&wire, &[]);
    dhcp.expect_answer(Kind::Discover, Answer::Offer, How::Unicast);
    dhcp.expect_answer(Kind::Request, Answer::Ack, How::Unicast);
    let expected = [
        "ip=192.168.77.10",
        "subnet=255.255.255.0",
        "broadcast=192.168.77.255",
        "router=192.168.77.254",
        "dns=9.9.9.9",
        "hostname=pi-1",
        &format!("rootpath={ROOT_PATH}"),
        "tftp=192.168.77.1",
        "serverid=192.168.77.1",
        "siaddr=192.168.77.1",
        "lease=3600",
    ];
    check_environment(&wire.scratch.path().join("bound"), &expected);

    client.signal(rustix::process::Signal::USR1);
    dhcp.expect_answer(Kind::Request, Answer::Ack, How::Ciaddr);
    check_environment(&wire.scratch.path().join("renew"), &["ip=192.168.77.10"]);

    // It may have asked twice: on a quiet machine udhcpc 1.35 misses the first ACK
    // (seen 2026-11-22), as if a quick reply reached the socket that it only sends with.
    client.signal(rustix::process::Signal::USR2);
    dhcp.wait_for(&Done::Other(Kind::Release, Decision::Released { address: ITS }));
}

#[test]
fn a_client_that_finds_its_address_in_use_declines_it() {
    let wire = Wire::plugged();
    let dhcp = Dhcp::serve(&wire, true);
    wire.server_ip("addr add 192.168.77.10/24 dev s0");
    let _client = udhcpc(&wire, &["-a"]);
    dhcp.wait_for(&Done::Other(Kind::Decline, Decision::Declined { address: ITS }));
}

#[test]
fn a_client_that_asks_for_broadcasts_gets_them() {
    let wire = Wire::plugged();
    let dhcp = Dhcp::serve(&wire, true);
    let _client = udhcpc(&wire, &["-B", "-q"]);
    dhcp.expect_answer(Kind::Discover, Answer::Offer, How::Broadcast);
    dhcp.expect_answer(Kind::Request, Answer::Ack, How::Broadcast);
    check_environment(&wire.scratch.path().join("bound"), &["ip=192.168.77.10"]);
}

#[test]
fn a_stranger_gets_no_answer() {
    let wire = Wire::plugged();
    let dhcp = Dhcp::serve(&wire, false);
    let mut client = udhcpc(&wire, &["-n", "-t", "2"]);
    let silent = || Done::Other(Kind::Discover, Decision::Silent(Silence::UnknownClient));
    dhcp.expect(&silent());
    dhcp.expect(&silent());
    assert!(!client.0.wait().unwrap().success());
    assert!(!wire.scratch.path().join("bound").exists());
}

/// dhclient's files in the scratch folder, and its arguments.
fn dhclient(wire: &Wire) -> (PathBuf, Vec<String>) {
    let folder = wire.scratch.path();
    let script = wire.script(
        "dhclient.sh",
        &format!(
            "#!/bin/sh\ncase $reason in BOUND|REBOOT) ip addr add $new_ip_address/24 dev {CLIENT};; esac\n\
             env > {0}/$reason.new && mv {0}/$reason.new {0}/$reason\nexit 0\n",
            folder.display()
        ),
    );
    let leases = folder.join("leases");
    let configuration = folder.join("dhclient.conf");
    let request = "request subnet-mask, routers, host-name, root-path, tftp-server-name;\n\
                   send dhcp-client-identifier = \"another-key-than-the-mac\";\n";
    std::fs::write(&configuration, request).unwrap();
    let pid = folder.join("pid");
    let files = [("-sf", &script), ("-lf", &leases), ("-cf", &configuration), ("-pf", &pid)];
    let files = files.iter().flat_map(|(flag, path)| [(*flag).to_owned(), path.display().to_string()]);
    let arguments = ["-4".to_owned(), "-d".to_owned()].into_iter().chain(files).chain([CLIENT.to_owned()]).collect();
    (leases, arguments)
}

#[test]
fn dhclient_gets_a_lease_under_a_client_identifier_of_its_own() {
    let wire = Wire::plugged();
    let dhcp = Dhcp::serve(&wire, true);
    let (_, arguments) = dhclient(&wire);
    let _client = Client(wire.client_command("dhclient").args(arguments).spawn().unwrap());
    dhcp.wait_for(&Done::Answered(Kind::Request, Answer::Ack, How::Unicast));
    let expected = [
        "new_ip_address=192.168.77.10",
        "new_host_name=pi-1",
        &format!("new_root_path={ROOT_PATH}"),
        "new_tftp_server_name=192.168.77.1",
        "new_routers=192.168.77.254",
        "new_dhcp_lease_time=3600",
    ];
    check_environment(&wire.scratch.path().join("BOUND"), &expected);
}

#[test]
fn dhclient_with_an_old_address_is_told_so_and_gets_its_own() {
    let wire = Wire::plugged();
    let dhcp = Dhcp::serve(&wire, true);
    let (leases, arguments) = dhclient(&wire);
    let old = "lease {\n interface \"c0\";\n fixed-address 192.168.77.99;\n option subnet-mask 255.255.255.0;\n \
               option dhcp-lease-time 3600;\n option dhcp-message-type 5;\n \
               option dhcp-server-identifier 192.168.77.1;\n renew never;\n rebind never;\n expire never;\n}\n";
    std::fs::write(leases, old).unwrap();
    let _client = Client(wire.client_command("dhclient").args(arguments).spawn().unwrap());
    dhcp.expect_answer(Kind::Request, Answer::Nak, How::Broadcast);
    dhcp.wait_for(&Done::Answered(Kind::Request, Answer::Ack, How::Unicast));
    check_environment(&wire.scratch.path().join("BOUND"), &["new_ip_address=192.168.77.10"]);
}

#[test]
fn hostile_datagrams_are_counted_and_the_next_client_is_served() {
    let wire = Wire::plugged();
    let dhcp = Dhcp::serve(&wire, true);
    wire.client_ip("addr add 192.168.77.200/24 dev c0");
    let hlen_255 = [&[1, 1, 255][..], &[0; 300]].concat();
    let junk = [vec![], vec![1; 10], hlen_255, vec![0xff; 300], vec![1; 60_000]];
    wire.in_client(|| {
        let socket = UdpSocket::bind("192.168.77.200:0").unwrap();
        socket.set_broadcast(true).unwrap();
        for datagram in &junk {
            socket.send_to(datagram, "192.168.77.1:67").unwrap();
        }
    });
    let mut counted = 0;
    while counted < junk.len() as u32 {
        let all = dhcp.wait(|done| matches!(done, Done::Ignored(_)));
        let Some(Done::Ignored(counters)) = all.last() else { unreachable!() };
        counted += counters.malformed;
        assert!(counted < 5 || counters.last == Some(Ignored::TooLong), "{counters:?}");
    }
    wire.client_ip("addr flush dev c0");
    let _client = udhcpc(&wire, &["-q"]);
    dhcp.wait_for(&Done::Answered(Kind::Request, Answer::Ack, How::Unicast));
}

#[test]
fn a_client_in_a_busy_loop_is_held_back() {
    let wire = Wire::plugged();
    let dhcp = Dhcp::serve(&wire, true);
    wire.client_ip("addr add 192.168.77.200/24 dev c0");
    let mut discover = vec![0; 300];
    discover[..3].copy_from_slice(&[1, 1, 6]);
    discover[28..34].copy_from_slice(&[0x02, 0, 0, 0, 0, 9]);
    discover[236..244].copy_from_slice(&[99, 130, 83, 99, 53, 1, 1, 255]);
    wire.in_client(|| {
        let socket = UdpSocket::bind("192.168.77.200:0").unwrap();
        for _ in 0..100 {
            socket.send_to(&discover, "192.168.77.1:67").unwrap();
        }
    });
    let all = dhcp.wait(|done| matches!(done, Done::Ignored(_)));
    let throttled: u32 =
        all.iter().map(|done| if let Done::Ignored(counters) = done { counters.throttled } else { 0 }).sum();
    // Eight in each second; the hundred may lie across a second's end or be slow.
    assert!(throttled >= 50, "{throttled} of 100 in {} events", all.len());
}

#[test]
fn a_second_server_on_the_port_is_told_why_it_cannot() {
    let wire = Wire::plugged();
    let _dhcp = Dhcp::serve(&wire, true);
    let error = wire.in_server(|| Socket::open(SERVER, 2, Arc::new(|_| {})).unwrap_err());
    assert!(error.to_string().contains("another DHCP server"), "{error}");
}
