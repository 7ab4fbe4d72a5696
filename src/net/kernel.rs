//! What the kernel has of links and addresses, and setting it, by rtnetlink.
//!
//! I/O, no deciding: each function is one question or one wish.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};

use super::Error;
use super::choose::Link;
use crate::client::MacAddr;
use crate::config::Subnet;

/// Neighbours that are read at a time: the kernel keeps no more by default (`gc_thresh3`).
const MAX_LISTED: usize = 1024;

pub(super) async fn links(netlink: &rtnetlink::Handle) -> Result<Vec<Link>, Error> {
    let messages: Result<Vec<LinkMessage>, _> = netlink.link().get().execute().try_collect().await;
    let messages = messages.map_err(|source| Error::List { what: "network interfaces", source })?;
    Ok(messages.iter().filter_map(link).collect())
}

fn link(message: &LinkMessage) -> Option<Link> {
    let (mut name, mut mac, mut made) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok().map(MacAddr),
            LinkAttribute::LinkInfo(infos) => made = infos.iter().any(|info| matches!(info, LinkInfo::Kind(_))),
            _ => {}
        }
    }
    let name = name?;
    let flags = message.header.flags;
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    Some(Link {
        index: message.header.index,
        mac: mac.filter(|_| ethernet),
        wireless: is_wireless(&name),
        made,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        name,
    })
}

/// The kernel forbids `/` in an interface's name, so this is one path component.
fn is_wireless(name: &str) -> bool {
    let folder = Path::new("/sys/class/net").join(name);
    ["wireless", "phy80211"].iter().any(|entry| folder.join(entry).exists())
}

pub(super) async fn has_address(netlink: &rtnetlink::Handle, index: u32, subnet: Subnet) -> Result<bool, Error> {
    let mut addresses = netlink.address().get().set_link_index_filter(index).execute().boxed_local();
    let mut found = false;
    while let Some(message) = addresses.try_next().await.map_err(|source| Error::List { what: "addresses", source })? {
        let ours = |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::Local(IpAddr::V4(address)) if *address == subnet.address);
        found |= message.header.prefix_len == subnet.prefix && message.attributes.iter().any(ours);
    }
    Ok(found)
}

pub(super) async fn set_up(netlink: &rtnetlink::Handle, link: &Link) -> Result<(), Error> {
    let up = netlink.link().change(LinkUnspec::new_with_index(link.index).up().build());
    up.execute().await.map_err(|source| Error::Up { interface: link.name.clone(), source })
}

pub(super) async fn set_address(netlink: &rtnetlink::Handle, link: &Link, address: Subnet) -> Result<(), Error> {
    let add = netlink.address().add(link.index, IpAddr::V4(address.address), address.prefix).replace();
    add.execute().await.map_err(|source| Error::Address { address, interface: link.name.clone(), source })
}

pub(super) async fn set_default_route(netlink: &rtnetlink::Handle, index: u32, gateway: Ipv4Addr) -> Result<(), Error> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index);
    let set = netlink.route().add(route.build()).replace();
    set.execute().await.map_err(|source| Error::Route { gateway, source })
}

pub(super) async fn set_neighbour(
    netlink: &rtnetlink::Handle,
    index: u32,
    address: Ipv4Addr,
    mac: MacAddr,
) -> Result<(), Error> {
    // Permanent is what rtnetlink asks for unless told otherwise.
    let add = netlink.neighbours().add(index, IpAddr::V4(address)).link_layer_address(&mac.0).replace();
    add.execute().await.map_err(|source| Error::Neighbour { address, source })
}

pub(super) async fn remove_address(netlink: &rtnetlink::Handle, index: u32, subnet: Subnet) -> Result<(), Error> {
    let mut addresses = netlink.address().get().set_link_index_filter(index).execute().boxed_local();
    while let Some(message) = addresses.try_next().await.map_err(|source| Error::List { what: "addresses", source })? {
        let is_it = |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::Local(IpAddr::V4(address)) if *address == subnet.address);
        if message.attributes.iter().any(is_it) {
            let gone = netlink.address().del(message).execute().await;
            gone.map_err(|source| Error::Remove { address: subnet, source })?;
        }
    }
    Ok(())
}

/// Whom the kernel knows on the interface: an address and its MAC each.
pub(super) async fn neighbours(netlink: &rtnetlink::Handle, index: u32) -> Result<Vec<(Ipv4Addr, MacAddr)>, Error> {
    let mut all = netlink.neighbours().get().execute().boxed_local();
    let mut found = Vec::new();
    while let Some(message) = all.try_next().await.map_err(|source| Error::List { what: "neighbours", source })? {
        if message.header.ifindex != index || found.len() == MAX_LISTED {
            continue;
        }
        let (mut address, mut mac) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(inet)) => address = Some(*inet),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(MacAddr),
                _ => {}
            }
        }
        found.extend(address.zip(mac));
    }
    Ok(found)
}

pub(super) async fn forget_neighbour(netlink: &rtnetlink::Handle, index: u32, address: Ipv4Addr) -> Result<(), Error> {
    let entry = netlink.neighbours().add(index, IpAddr::V4(address)).message_mut().clone();
    match netlink.neighbours().del(entry).execute().await {
        // Somebody else was quicker.
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code().abs() == libc::ENOENT => Ok(()),
        result => result.map_err(|source| Error::Neighbour { address, source }),
    }
}
