//! One value of the file: what is taken, and in words what was expected.
//!
//! Pure.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::Duration;

use toml::de::DeValue;

use super::{Controller, DAY, DhcpMode, Glass, Opens, Subnet};
use crate::client::{Mode, QUOTA_MINIMUM, VOLUME_MAXIMUM, VOLUME_MINIMUM};
use crate::size::Size;

/// What should stand there.
pub(super) type Expected = &'static str;

pub(super) fn controller(value: &DeValue<'_>) -> Result<Controller, Expected> {
    match text(value) {
        Some("ssd1306") => Ok(Controller::Ssd1306),
        Some("sh1106") => Ok(Controller::Sh1106),
        _ => Err("\"ssd1306\" or \"sh1106\""),
    }
}

pub(super) fn glass(value: &DeValue<'_>) -> Result<Glass, Expected> {
    match text(value) {
        Some("128x64") => Ok(Glass::Rows64),
        Some("128x32") => Ok(Glass::Rows32),
        _ => Err("\"128x64\" or \"128x32\""),
    }
}

pub(super) fn half_turn(value: &DeValue<'_>) -> Result<bool, Expected> {
    let expected = "0 or 180";
    match byte(value, 0..181).map_err(|_| expected)? {
        0 => Ok(false),
        180 => Ok(true),
        _ => Err(expected),
    }
}

pub(super) fn set<T>(place: &mut T, value: Result<T, Expected>) -> Result<(), Expected> {
    *place = value?;
    Ok(())
}

pub(super) fn text<'v>(value: &'v DeValue<'_>) -> Option<&'v str> {
    match value {
        DeValue::String(text) => Some(text.as_ref()),
        _ => None,
    }
}

pub(super) fn interface(value: &DeValue<'_>) -> Result<String, Expected> {
    // IFNAMSIZ is 16 with its NUL (include/uapi/linux/if.h).
    let valid = |name: &&str| (1..16).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
    text(value).filter(valid).map(str::to_owned).ok_or("an interface name such as \"eth0\"")
}

pub(super) fn mode(value: &DeValue<'_>) -> Result<Mode, Expected> {
    match text(value) {
        Some("persistent") => Ok(Mode::Persistent),
        Some("ephemeral") => Ok(Mode::Ephemeral),
        Some("read-only") => Ok(Mode::ReadOnly),
        _ => Err("\"persistent\", \"ephemeral\" or \"read-only\""),
    }
}

pub(super) fn opens(value: &DeValue<'_>) -> Result<Opens, Expected> {
    match text(value) {
        Some("press") => Ok(Opens::Press),
        Some("plug") => Ok(Opens::Plug),
        Some("always") => Ok(Opens::Always),
        _ => Err("\"press\", \"plug\" or \"always\""),
    }
}

pub(super) fn dhcp_mode(value: &DeValue<'_>) -> Result<DhcpMode, Expected> {
    match text(value) {
        Some("auto") => Ok(DhcpMode::Auto),
        Some("server") => Ok(DhcpMode::Server),
        Some("proxy") => Ok(DhcpMode::Proxy),
        _ => Err("\"auto\", \"server\" or \"proxy\""),
    }
}

pub(super) fn volume_size(value: &DeValue<'_>) -> Result<Size, Expected> {
    let fits = |size: &Size| (VOLUME_MINIMUM..=VOLUME_MAXIMUM).contains(size);
    text(value).and_then(|text| text.parse().ok()).filter(fits).ok_or("a size of 64M to 16T such as \"8G\"")
}

pub(super) fn quota(value: &DeValue<'_>) -> Result<Size, Expected> {
    size(value)
        .and_then(|size| if size >= QUOTA_MINIMUM { Ok(size) } else { Err("a size of 16M or more such as \"8G\"") })
}

pub(super) fn size(value: &DeValue<'_>) -> Result<Size, Expected> {
    text(value).and_then(|text| text.parse().ok()).ok_or("a size such as \"512M\"")
}

pub(super) fn address(value: &DeValue<'_>) -> Result<Ipv4Addr, Expected> {
    text(value).and_then(|text| text.parse().ok()).ok_or("an address such as \"192.168.77.1\"")
}

pub(super) fn addresses(value: &DeValue<'_>) -> Result<Vec<Ipv4Addr>, Expected> {
    let expected = "a list of at most 4 addresses such as [\"192.168.77.1\"]";
    let DeValue::Array(items) = value else { return Err(expected) };
    if items.len() > 4 {
        return Err(expected);
    }
    items.iter().map(|item| address(item.get_ref()).map_err(|_| expected)).collect()
}

pub(super) fn subnet(value: &DeValue<'_>) -> Result<Subnet, Expected> {
    let parse = |text: &str| {
        let (address, prefix) = text.split_once('/')?;
        let subnet = Subnet { address: address.parse().ok()?, prefix: prefix.parse().ok()? };
        let usable = (8..=30).contains(&subnet.prefix) && subnet.has_host(subnet.address);
        (usable && !subnet.address.is_loopback() && !subnet.address.is_multicast()).then_some(subnet)
    };
    text(value).and_then(parse).ok_or("a host's address with prefix length, such as \"192.168.77.1/24\"")
}

pub(super) fn integer(value: &DeValue<'_>) -> Option<i64> {
    match value {
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    }
}

pub(super) fn seconds(value: &DeValue<'_>, range: Range<i64>) -> Result<Duration, Expected> {
    let number = integer(value).filter(|number| range.contains(number));
    number.map(|number| Duration::from_secs(number.unsigned_abs())).ok_or("a number of seconds in the key's range")
}

/// 0 is never.
pub(super) fn days(value: &DeValue<'_>) -> Result<Option<Duration>, Expected> {
    let number = integer(value).filter(|number| (0..3651).contains(number)).and_then(|days| u32::try_from(days).ok());
    number.map(|days| (days > 0).then(|| DAY * days)).ok_or("a whole number of days, 0 to 3650")
}

pub(super) fn byte(value: &DeValue<'_>, range: Range<i64>) -> Result<u8, Expected> {
    let number = integer(value).filter(|number| range.contains(number));
    number.and_then(|number| u8::try_from(number).ok()).ok_or("a whole number in the key's range")
}

pub(super) fn gib(value: &DeValue<'_>) -> Result<u16, Expected> {
    let number = integer(value).filter(|number| (1..2049).contains(number));
    number.and_then(|number| u16::try_from(number).ok()).ok_or("a whole number of GiB, 1 to 2048")
}

pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Expected> {
    match value {
        DeValue::Boolean(value) => Ok(*value),
        _ => Err("true or false"),
    }
}
