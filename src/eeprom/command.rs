//! `rootstock eeprom`: shows a loader's boot order, makes a recovery card, and
//! makes an update for TFTP.
//!
//! I/O: files that a person named. Everything is checked before the first file
//! is written, and each is written whole or not at all.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::bootconf::{self, Change};
use super::image::{Image, ImageError};
use super::order::BootOrder;
use super::signature;
use super::{Soc, card};
use crate::store::atomic;

/// The boot order in the EEPROM of a Pi 4 or 5: whether it ever tries the network
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show the settings in a pieeprom.bin
    Show {
        /// A pieeprom.bin or pieeprom.upd
        file: PathBuf,
    },
    /// Make the image of an SD card that sets the boot order of every Pi it is put into
    Card {
        #[command(flatten)]
        source: Source,
        /// The image to make, such as recovery.img
        #[arg(long)]
        out: PathBuf,
    },
    /// Make the files by which a Pi that netboots already updates itself: pieeprom.upd and pieeprom.sig
    Update {
        #[command(flatten)]
        source: Source,
        /// The folder to write them to: the client's /boot/firmware
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub struct Source {
    /// A folder with the official pieeprom.bin (or pieeprom-<date>.bin, the newest) and recovery.bin
    #[arg(long)]
    from: PathBuf,
    /// What to try, one digit each from right to left: 1 SD card, 2 network, 4 USB, 6 NVMe, f again
    #[arg(long, default_value_t = BootOrder::SD_THEN_NETWORK)]
    boot_order: BootOrder,
    /// Seconds since 1970 to put into pieeprom.sig, instead of now
    #[arg(long)]
    timestamp: Option<u32>,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} cannot be used", .path.display())]
    Image { path: PathBuf, source: ImageError },
    #[error("no pieeprom.bin and no pieeprom-<date>.bin in {}", .0.display())]
    NoImage(PathBuf),
    #[error("{} is damaged: pieeprom.sig beside it has another check sum", .0.display())]
    Damaged(PathBuf),
    #[error(
        "{} has SIGNED_BOOT set: its settings count only with a signature, which only the owner of its key can make", .0.display()
    )]
    Signed(PathBuf),
    #[error("{} is no recovery.bin: {what}", .path.display())]
    Recovery { path: PathBuf, what: &'static str },
    #[error(
        "boot order {0} never tries the network: the update would be this client's last; give an order with a 2, such as 0xf21"
    )]
    LastUpdate(BootOrder),
    #[error("this computer's clock says 1970 or thereabouts, and a Pi takes only a later update: give --timestamp")]
    Clock,
    #[error("{} exists already; nothing is written over it", .0.display())]
    Exists(PathBuf),
    #[error("{} is no folder", .0.display())]
    NoFolder(PathBuf),
    #[error("--from and --out are one folder, whose pieeprom.sig would be lost")]
    SameFolder,
    #[error("cannot make the card")]
    Card(#[source] io::Error),
    #[error("cannot write {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot print")]
    Print(#[source] io::Error),
}

/// Largest file that is read; a Pi 5's image has 2 MiB.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Most names that are looked at in a folder; the official package has some 30.
const MAX_NAMES: usize = 4096;
/// 2025-01-01: a clock before this was never set.
const FIRST_SENSIBLE_TIME: u64 = 1_735_689_600;

/// 2020-04-16, when a Pi 4's loader first had netboot outside of tests.
const FIRST_NETBOOT: u32 = 1_586_995_200;

/// Does it, and tells the person on `out`.
pub fn run(command: &Command, out: &mut dyn Write) -> Result<(), Error> {
    let told = match command {
        Command::Show { file } => show(file)?,
        Command::Card { source, out } => make_card(source, out)?,
        Command::Update { source, out } => make_update(source, out)?,
    };
    out.write_all(told.as_bytes()).map_err(Error::Print)
}

fn show(file: &Path) -> Result<String, Error> {
    let image = read_image(file)?;
    let layout = if image.has_two_systems() { ", with place for two systems" } else { "" };
    let text = image.config();
    let mut told = format!(
        "{}: {}, {} KiB{layout}\n\nbootconf.txt, {} bytes:\n",
        file.display(),
        name(&image),
        image.bytes().len() >> 10,
        text.len()
    );
    for line in String::from_utf8_lossy(text).lines() {
        told += &format!("    {}\n", line.trim_end());
    }
    told += &match bootconf::order(text) {
        Some(order) => format!("\nBoot order {order}: {}.\n", order.words()),
        None => {
            let order = BootOrder::BUILT_IN;
            format!("\nNo boot order is set, so the loader's own counts, {order}: {}.\n", order.words())
        }
    };
    if !bootconf::order(text).unwrap_or(BootOrder::BUILT_IN).tries_network() {
        told += "It never tries the network.\n";
    }
    Ok(told + &notes(&image, text))
}

fn make_card(source: &Source, out: &Path) -> Result<String, Error> {
    // Also a device, a folder, or a link to nowhere.
    if out.symlink_metadata().is_ok() {
        return Err(Error::Exists(out.to_owned()));
    }
    let made = Made::from(source)?;
    let recovery = read_recovery(&source.from)?;
    let disk = card::make(&recovery, &made.bytes, source.timestamp()?, made.image.soc()).map_err(Error::Card)?;
    write(out, &disk)?;
    let boards = made.image.soc().boards_with_card();
    let warning = match source.boot_order.tries_network() {
        true => "",
        false => "\nWith this order the Pi never tries the network.\n",
    };
    Ok(format!(
        "{}{warning}\n{} is made: {} MiB. Write it to an SD card (Raspberry Pi Imager: Use custom), put the card into \
         the Pi ({boards}), give it power, and wait for the green light to blink fast and steadily (a screen turns \
         green): some ten seconds. Take the card out; it can go into the next Pi. All other settings in the EEPROM \
         become the ones of this file.\n",
        made.report(),
        out.display(),
        disk.len() >> 20,
    ))
}

fn make_update(source: &Source, out: &Path) -> Result<String, Error> {
    if !source.boot_order.tries_network() {
        return Err(Error::LastUpdate(source.boot_order));
    }
    let folder = |path: &Path| {
        let folder = path.canonicalize().ok().filter(|path| path.is_dir());
        folder.ok_or_else(|| Error::NoFolder(path.to_owned()))
    };
    if folder(&source.from)? == folder(out)? {
        return Err(Error::SameFolder);
    }
    let made = write_update(source, out)?;
    Ok(format!(
        "{}\npieeprom.upd and pieeprom.sig are in {}. If that is the boot folder of a client ({}), it updates itself \
         at its next start and starts once more; it must keep its power for those seconds. All its other EEPROM \
         settings become the ones of this file.\n",
        made.report(),
        out.display(),
        made.image.soc().boards(),
    ))
}

/// The update's two files in an empty folder; what was changed.
pub fn make_files(from: &Path, boot_order: BootOrder, out: &Path) -> Result<String, Error> {
    if !boot_order.tries_network() {
        return Err(Error::LastUpdate(boot_order));
    }
    let source = Source { from: from.to_owned(), boot_order, timestamp: None };
    Ok(write_update(&source, out)?.report())
}

fn write_update(source: &Source, out: &Path) -> Result<Made, Error> {
    let made = Made::from(source)?;
    let signature = signature::make(&made.bytes, source.timestamp()?, made.image.soc());
    // The signature last: until then a Pi that starts meanwhile finds none, or one that does not fit, and goes on.
    write(&out.join("pieeprom.upd"), &made.bytes)?;
    write(&out.join("pieeprom.sig"), signature.as_bytes())?;
    Ok(made)
}

/// Whether `recovery_card` can make one, and for which boards.
pub fn check_card(from: &Path) -> Result<Soc, Error> {
    let source = Source { from: from.to_owned(), boot_order: BootOrder::SD_THEN_NETWORK, timestamp: None };
    let made = Made::from(&source)?;
    read_recovery(from)?;
    Ok(made.image.soc())
}

/// The card that `eeprom card` makes of a folder with the boot order that is its default, and for which boards.
pub fn recovery_card(from: &Path) -> Result<(Vec<u8>, Soc), Error> {
    let source = Source { from: from.to_owned(), boot_order: BootOrder::SD_THEN_NETWORK, timestamp: None };
    let made = Made::from(&source)?;
    let recovery = read_recovery(from)?;
    let disk = card::make(&recovery, &made.bytes, source.timestamp()?, made.image.soc()).map_err(Error::Card)?;
    Ok((disk, made.image.soc()))
}

/// An official image with the order set.
struct Made {
    path: PathBuf,
    image: Image,
    bytes: Vec<u8>,
    edited: bootconf::Edited,
    order: BootOrder,
}

impl Made {
    fn from(source: &Source) -> Result<Self, Error> {
        let path = find_image(&source.from)?;
        let image = read_image(&path)?;
        if bootconf::needs_signature(image.config()) {
            return Err(Error::Signed(path));
        }
        let beside = source.from.join("pieeprom.sig");
        // Only the file of that very name is what the signature is of.
        if path.ends_with("pieeprom.bin") && beside.exists() && !signature::matches(&read(&beside)?, image.bytes()) {
            return Err(Error::Damaged(path));
        }
        let order = source.boot_order;
        let edited = bootconf::with_order(image.config(), order);
        let made = image.with_config(&edited.text);
        let bytes = made.map_err(|source| Error::Image { path: path.clone(), source })?;
        Ok(Self { path, image, bytes, edited, order })
    }

    /// What was changed, and what that means.
    fn report(&self) -> String {
        let mut told = format!(
            "{}: {}\nsha256 {}\n\nbootconf.txt in it:\n",
            self.path.display(),
            name(&self.image),
            signature::sha256(self.image.bytes())
        );
        for change in &self.edited.changes {
            told += &match change {
                Change::Removed(line) => format!("  - {line}\n"),
                Change::Added(line) => format!("  + {line}\n"),
            };
        }
        if self.edited.changes.is_empty() {
            told += "  nothing to change\n";
        } else {
            told += "Nothing else in it was changed.\n";
        }
        told += &format!("\nBoot order {}: {}.\n", self.order, self.order.words());
        let before = bootconf::order(self.image.config()).unwrap_or(BootOrder::BUILT_IN);
        let lost: Vec<&str> = before.places().filter(|place| self.order.places().all(|kept| kept != *place)).collect();
        if !lost.is_empty() {
            told += &format!("No longer tried: {}.\n", lost.join(", "));
        }
        told + &notes(&self.image, &self.edited.text)
    }
}

/// Which boards the image is for, and from which day.
fn name(image: &Image) -> String {
    let built = image.built().map(|built| format!(", built {}", date(built))).unwrap_or_default();
    format!("loader of {} ({}){built}", image.soc().boards(), image.soc())
}

/// The day in the Gregorian calendar.
fn date(seconds: u32) -> String {
    // Years from March on, so that the leap day is a year's last: 400 of them have 146,097 days, 719,468 of which
    // (from the year 0 on) lie before 1970.
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year)
}

/// What else in the image bears on netbooting.
fn notes(image: &Image, text: &[u8]) -> String {
    let mut told = String::new();
    if image.soc() == Soc::Bcm2711 && image.built().is_some_and(|built| built < FIRST_NETBOOT) {
        told += "It is older than 2020-04-16, the first release for a Pi 4 that netboots: take a newer one.\n";
    }
    for filter in bootconf::filtered_orders(text) {
        told += &format!("Under {filter} stands a boot order of its own, for the boards it names; it is left.\n");
    }
    if !bootconf::takes_updates(text) {
        told += "ENABLE_SELF_UPDATE or FREEZE_VERSION is set so that this loader takes no updates by TFTP.\n";
    }
    if image.is_signed() {
        told += "It holds a bootconf.sig, which fits the unchanged settings only; a Pi without secure boot does not ask for it.\n";
    }
    told
}

impl Source {
    fn timestamp(&self) -> Result<u32, Error> {
        if let Some(timestamp) = self.timestamp {
            return Ok(timestamp);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let sensible = Some(now).filter(|now| *now >= FIRST_SENSIBLE_TIME);
        sensible.and_then(|now| u32::try_from(now).ok()).ok_or(Error::Clock)
    }
}

/// `pieeprom.bin`, or else the newest of the names that the official package has, such as `pieeprom-2026-08-04.bin`.
fn find_image(folder: &Path) -> Result<PathBuf, Error> {
    let plain = folder.join("pieeprom.bin");
    if plain.exists() {
        return Ok(plain);
    }
    let names = folder.read_dir().map_err(|source| Error::Read { path: folder.to_owned(), source })?;
    let names = names.take(MAX_NAMES).flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let newest = names.filter(|name| is_dated(name)).max();
    newest.map(|name| folder.join(name)).ok_or_else(|| Error::NoImage(folder.to_owned()))
}

/// The dates sort as text.
fn is_dated(name: &str) -> bool {
    let date = name.strip_prefix("pieeprom-").and_then(|rest| rest.strip_suffix(".bin"));
    date.is_some_and(|date| {
        date.len() == 10
            && date.bytes().enumerate().all(|(at, b)| if matches!(at, 4 | 7) { b == b'-' } else { b.is_ascii_digit() })
    })
}

fn read_image(path: &Path) -> Result<Image, Error> {
    Image::parse(read(path)?).map_err(|source| Error::Image { path: path.to_owned(), source })
}

/// It cannot be told from its bytes which family it is for; a ROM ignores another's.
fn read_recovery(folder: &Path) -> Result<Vec<u8>, Error> {
    let path = folder.join("recovery.bin");
    let bytes = read(&path)?;
    let what = if bytes.is_empty() {
        "it is empty"
    } else if bytes.len() > card::MAX_RECOVERY_BYTES {
        "it is too large"
    } else if bytes.iter().take(512).all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) {
        "it is text, perhaps a web page saved under its name"
    } else {
        return Ok(bytes);
    };
    Err(Error::Recovery { path, what })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let read = || {
        let mut bytes = Vec::new();
        // One byte more than allowed is wrong whatever it is, and is said by whoever looks at the size.
        File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| Error::Read { path: path.to_owned(), source })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    // A bare name has an empty parent, which cannot be opened.
    let whole = Path::new(".").join(path);
    atomic::write(&whole, bytes, 0o644).map_err(|source| Error::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_told_as_the_calendar_has_it() {
        // By `date -u -d @…`.
        for (seconds, day) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_799, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (FIRST_NETBOOT, "2020-04-16"),
            (1_735_689_599, "2024-12-31"),
            (1_785_801_600, "2026-08-04"),
            (u32::MAX, "2106-02-07"),
        ] {
            assert_eq!(date(seconds), day, "{seconds}");
        }
    }

    #[test]
    fn only_the_official_names_have_a_date() {
        assert!(is_dated("pieeprom-2026-08-04.bin"));
        for name in ["pieeprom-.bin", "pieeprom-2026-08-4.bin", "pieeprom-2026x08x04.bin", "pieeprom-2026-08-04.sig"] {
            assert!(!is_dated(name), "{name}");
        }
    }
}
