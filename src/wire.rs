//! The wire before the first client: what was seen on it, and what that means
//! for a person, as one traffic light with one sentence and one action.
//!
//! Pure. `net` collects the [`Facts`]; control knows how we serve; the faces
//! draw the [`Finding`]. The most urgent one is told, since one at a time can
//! be mended.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::MacAddr;
use crate::config::Subnet;

/// What listening and probing brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// The question who leases addresses here is under way, and nobody answered yet.
    pub asking: bool,
    /// Speed in Mbit/s, where the card tells it.
    pub mbit: Option<u32>,
    pub half_duplex: bool,
    /// Whether our own card could do more than it does now.
    pub could_be_faster: bool,
    /// Another device that uses our address.
    pub taken_by: Option<Station>,
    /// Another DHCP server that leases addresses.
    pub server: Option<OtherServer>,
    /// To the last question who leases addresses here nobody answered in time: there
    /// is no such server, or the one that is known is off or starts anew.
    pub silent: bool,
    /// Another appliance, by its own address.
    pub appliance: Option<Ipv4Addr>,
    /// The switch's port runs spanning tree: so long it listens, and so long it learns.
    pub forward_delay: Option<Duration>,
}

/// Somebody on the wire, with the maker's name if it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Station {
    pub mac: MacAddr,
    /// Told, but not taken back: it follows from `mac`.
    #[serde(skip_deserializing)]
    pub vendor: Option<&'static str>,
}

/// A DHCP server that offered an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OtherServer {
    pub address: Ipv4Addr,
    pub station: Station,
    /// The address it offered, with its wire.
    pub offered: Option<Subnet>,
}

/// How the appliance serves on this wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Serving {
    /// It leases addresses itself.
    #[default]
    Leasing,
    /// It leases beside another server, because a person wants it so.
    LeasingAnyway,
    /// Another server leases; it adds the boot.
    Beside,
    /// As before, but it has no address on that server's wire yet.
    BesideWithoutAddress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Light {
    /// Not known yet.
    #[default]
    Dark,
    Green,
    /// Works, with something to know.
    Yellow,
    /// Does not work until somebody does something.
    Red,
}

/// The one thing to tell of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "finding", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Finding {
    #[default]
    NoLink,
    /// Nothing that a cable could be in: the configured name is no interface's, or there is no wired one.
    NoInterface {
        named: bool,
    },
    AddressTaken {
        by: Station,
    },
    /// The other server's wire is not that of our address.
    OtherWire {
        server: OtherServer,
    },
    /// The other server gives us no address.
    NoAddress {
        server: OtherServer,
    },
    /// We are to add the boot only, and nobody gives addresses.
    NoServer,
    TwoServers {
        server: OtherServer,
    },
    /// It gave the addresses until now, and does not answer.
    ServerSilent {
        server: OtherServer,
        /// If it stays so, we give the addresses in its place.
        #[serde(default)]
        relieved: bool,
    },
    Asking,
    SlowPort {
        /// A new port's whole wait.
        #[serde(rename = "wait-seconds", with = "crate::status::seconds")]
        wait: Duration,
    },
    HalfDuplex,
    SlowLink {
        mbit: u32,
    },
    Beside {
        server: OtherServer,
    },
    Appliance {
        address: Ipv4Addr,
    },
    Clear,
}

/// A port that waits longer costs a Pi 3 several of its five requests in 25 s.
const LONG_WAIT: Duration = Duration::from_secs(10);

/// What is most urgent of all that is known. `own` is our address where it
/// was set by a person, so that no other one will be asked for.
pub fn find(carrier: bool, facts: &Facts, serving: Serving, own: Option<Subnet>) -> Finding {
    if !carrier {
        return Finding::NoLink;
    }
    if let Some(by) = facts.taken_by {
        return Finding::AddressTaken { by };
    }
    if let Some(server) = facts.server {
        let elsewhere = |own: Subnet| server.offered.is_some_and(|offered| offered.network() != own.network());
        match serving {
            Serving::Beside | Serving::BesideWithoutAddress if own.is_some_and(elsewhere) => {
                return Finding::OtherWire { server };
            }
            Serving::Beside | Serving::BesideWithoutAddress if facts.silent => {
                return Finding::ServerSilent { server, relieved: true };
            }
            Serving::BesideWithoutAddress => return Finding::NoAddress { server },
            Serving::LeasingAnyway => return Finding::TwoServers { server },
            // Control follows within the same event.
            Serving::Beside | Serving::Leasing => {}
        }
    } else if facts.silent && matches!(serving, Serving::Beside | Serving::BesideWithoutAddress) {
        return Finding::NoServer;
    }
    let wait = facts.forward_delay.map(|delay| delay * 2).filter(|wait| *wait > LONG_WAIT);
    match (wait, facts.mbit, facts.server, facts.appliance) {
        (Some(wait), ..) => Finding::SlowPort { wait },
        _ if facts.half_duplex => Finding::HalfDuplex,
        (_, Some(mbit), ..) if mbit < 1000 && facts.could_be_faster => Finding::SlowLink { mbit },
        (.., Some(server), _) => Finding::Beside { server },
        _ if facts.asking => Finding::Asking,
        (.., Some(address)) => Finding::Appliance { address },
        _ => Finding::Clear,
    }
}

impl Finding {
    pub fn light(&self) -> Light {
        match self {
            Self::NoLink | Self::AddressTaken { .. } | Self::OtherWire { .. } | Self::NoAddress { .. } => Light::Red,
            Self::NoServer | Self::NoInterface { .. } => Light::Red,
            // A router that restarts is back by itself, and what runs goes on.
            Self::ServerSilent { .. } => Light::Yellow,
            Self::TwoServers { .. } | Self::SlowPort { .. } | Self::HalfDuplex | Self::SlowLink { .. } => Light::Yellow,
            Self::Asking => Light::Dark,
            Self::Beside { .. } | Self::Appliance { .. } | Self::Clear => Light::Green,
        }
    }

    /// One sentence, at most some 60 characters.
    pub fn sentence(&self) -> String {
        match self {
            Self::NoLink => "No network cable, or nothing at its other end".to_owned(),
            Self::NoInterface { named: true } => "No interface has the name in network.interface".to_owned(),
            Self::NoInterface { named: false } => "This Pi has no wired network port".to_owned(),
            Self::AddressTaken { by } => format!("Our address is used by {by} too"),
            Self::OtherWire { server } => format!("{server} leases another network than our address's"),
            Self::NoAddress { server } => format!("{server} gives us no address"),
            Self::NoServer => "No DHCP server here gives addresses".to_owned(),
            Self::ServerSilent { server, .. } => format!("{server} gave the addresses and is silent now"),
            Self::TwoServers { server } => format!("Two DHCP servers: we and {server}"),
            Self::Asking => "Listening to the wire".to_owned(),
            Self::SlowPort { wait } => format!("This switch keeps a new Pi waiting {} s", wait.as_secs()),
            Self::HalfDuplex => "The cable works one way at a time".to_owned(),
            Self::SlowLink { mbit } => format!("The cable gives only {mbit} Mbit/s"),
            Self::Beside { server } => format!("{server} gives the addresses, this Pi the boot"),
            Self::Appliance { address } => format!("Another Rootstock, {address}: its Pis are not ours"),
            Self::Clear => "Good: nothing is in the way".to_owned(),
        }
    }

    /// What to do about it; empty when there is nothing to do.
    pub fn action(&self) -> &'static str {
        match self {
            Self::NoLink => "Connect this Pi and your other Pis to the same switch",
            Self::NoInterface { named: true } => "Correct it on the SD card, restart",
            Self::NoInterface { named: false } => "Plug in a USB network adapter",
            Self::AddressTaken { .. } => "Unplug that device or change our address",
            Self::OtherWire { .. } => "Remove network.address on the SD card, restart",
            Self::NoAddress { .. } => "Look at that server's free addresses",
            Self::NoServer => "Switch the router on, or set dhcp.mode to auto",
            // Three surveys (`net::survey`) without an answer.
            Self::ServerSilent { relieved: true, .. } => "Switch it on. If it stays off, we take over in 10 min",
            Self::ServerSilent { relieved: false, .. } => "Switch it on. Until then no Pi boots",
            Self::TwoServers { .. } => "Switch one of them off when no Pi runs",
            Self::SlowPort { .. } => "Set its ports to edge (portfast)",
            Self::HalfDuplex => "Set the switch's port to automatic",
            Self::SlowLink { .. } => "Try another cable or port",
            Self::Asking | Self::Beside { .. } | Self::Appliance { .. } | Self::Clear => "",
        }
    }
}

impl std::fmt::Display for Station {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.vendor {
            Some(vendor) => write!(f, "{} ({vendor})", self.mac),
            None => write!(f, "{}", self.mac),
        }
    }
}

impl std::fmt::Display for OtherServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.station.vendor {
            Some(vendor) => write!(f, "{} ({vendor})", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0xc8, 0x0e, 0x14, 1, 2, 3]);
    const STATION: Station = Station { mac: MAC, vendor: Some("AVM") };

    fn subnet(a: u8, prefix: u8) -> Subnet {
        Subnet { address: Ipv4Addr::new(192, 168, a, 20), prefix }
    }

    fn server() -> OtherServer {
        OtherServer { address: Ipv4Addr::new(192, 168, 1, 1), station: STATION, offered: Some(subnet(1, 24)) }
    }

    fn beside() -> Facts {
        Facts { server: Some(server()), ..Facts::default() }
    }

    #[track_caller]
    fn check(facts: Facts, serving: Serving, own: Option<Subnet>, light: Light, sentence: &str) {
        let finding = find(true, &facts, serving, own);
        assert_eq!((finding.light(), finding.sentence().as_str()), (light, sentence));
        assert_eq!(finding.action().is_empty(), light <= Light::Green, "{finding:?}");
    }

    #[test]
    fn each_fact_has_its_light_and_its_sentence() {
        use Serving::*;
        let delay = |seconds| Facts { forward_delay: Some(Duration::from_secs(seconds)), ..Facts::default() };
        let link = |mbit, could_be_faster| Facts { mbit: Some(mbit), could_be_faster, ..Facts::default() };
        let good = "Good: nothing is in the way";
        check(Facts::default(), Leasing, None, Light::Green, good);
        check(Facts { asking: true, ..Facts::default() }, Leasing, None, Light::Dark, "Listening to the wire");
        check(delay(15), Leasing, None, Light::Yellow, "This switch keeps a new Pi waiting 30 s");
        check(delay(4), Leasing, None, Light::Green, good);
        check(link(100, true), Leasing, None, Light::Yellow, "The cable gives only 100 Mbit/s");
        check(link(100, false), Leasing, None, Light::Green, good);
        check(link(1000, true), Leasing, None, Light::Green, good);
        let half = Facts { half_duplex: true, ..link(10, true) };
        check(half, Leasing, None, Light::Yellow, "The cable works one way at a time");
        let taken = Facts { taken_by: Some(STATION), ..beside() };
        check(taken, Leasing, None, Light::Red, "Our address is used by c8:0e:14:01:02:03 (AVM) too");
        let other = Facts { appliance: Some(Ipv4Addr::new(192, 168, 77, 2)), ..Facts::default() };
        check(other, Leasing, None, Light::Green, "Another Rootstock, 192.168.77.2: its Pis are not ours");
        assert_eq!(find(false, &taken, Leasing, None), Finding::NoLink);
        for named in [true, false] {
            let absent = Finding::NoInterface { named };
            assert!(absent.light() == Light::Red && !absent.action().is_empty() && absent.sentence().len() < 60);
        }
    }

    #[test]
    fn beside_another_server_it_is_green_only_where_a_pi_can_boot() {
        use Serving::*;
        let name = "192.168.1.1 (AVM)";
        check(beside(), Beside, None, Light::Green, &format!("{name} gives the addresses, this Pi the boot"));
        check(
            beside(),
            Beside,
            Some(subnet(1, 24)),
            Light::Green,
            &format!("{name} gives the addresses, this Pi the boot"),
        );
        let elsewhere = format!("{name} leases another network than our address's");
        check(beside(), Beside, Some(subnet(77, 24)), Light::Red, &elsewhere);
        check(beside(), BesideWithoutAddress, None, Light::Red, &format!("{name} gives us no address"));
        let silent = |facts| Facts { silent: true, ..facts };
        check(silent(beside()), Beside, None, Light::Yellow, &format!("{name} gave the addresses and is silent now"));
        check(silent(Facts::default()), Beside, None, Light::Red, "No DHCP server here gives addresses");
        check(silent(Facts::default()), BesideWithoutAddress, None, Light::Red, "No DHCP server here gives addresses");
        check(silent(Facts::default()), Leasing, None, Light::Green, "Good: nothing is in the way");
        check(beside(), LeasingAnyway, None, Light::Yellow, &format!("Two DHCP servers: we and {name}"));
    }
}
