//! The recorded update, cut at many moments: what each leaves must start one of the two systems, whole.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::replay::Record;
use super::support::random::Random;
use super::support::sd_image::{SETTINGS_MIB, SLOTS_MIB};
use super::support::update_file::tool;
use super::{CARD, CUT, FORMER, Lab, MIB, RECORD, settings};
use rootstock::update::Slot;

/// Cuts that are looked at, for each one that is started and beside them.
const FOR_EACH: usize = 20;
const BESIDE: usize = 120;
const SETTINGS_BYTES: usize = 8 << 20;
const SLOT_BYTES: usize = 64 << 20;

/// Judges cards. It reads what the firmware would.
struct Judge<'l> {
    lab: &'l Lab,
    disk: File,
    /// What the slots have where they are whole.
    whole: [Vec<u8>; 2],
    toml: String,
    /// Settings partitions that foreign programs found good, and the slot that starts.
    seen: Vec<(Vec<u8>, Slot)>,
}

impl Lab {
    /// Cuts it, and starts `boots` of the cards, which say the first or second of `says`.
    pub fn cuts(&self, boots: usize, says: &[&str; 2]) -> Result<String, String> {
        let record = Record::read(&self.at(RECORD))?;
        let mut random = Random(0x5253_5430);
        let moments = record.moments(FOR_EACH * boots + BESIDE, &mut random);
        let mut chosen = [0usize; 2];
        let mut judge = Judge::new(self)?;
        record.cut(&judge.disk()?, &moments, &mut random, |n, cut| {
            let told = |error: String| format!("cut {n}, {cut:?}: {error}");
            let slot = judge.judge().map_err(told)?;
            let which = usize::from(slot == Slot::B);
            chosen[which] += 1;
            // As many, and the last one too.
            if (n + 1) * boots % moments.len() < boots {
                let mut appliance = self.start(false, "none.img").map_err(told)?;
                appliance.wait_all(&[says[which], "serving as 192.168.99.1/24"]).map_err(told)?;
            }
            Ok(())
        })?;

        let (cuts, sectors, flushes) = (moments.len(), record.sectors(), record.flushes());
        // An update that would choose its slot before that is written.
        let hasty = record.with_the_last_write_first();
        let mut judge = Judge::new(self)?;
        if hasty.cut(&judge.disk()?, &moments, &mut random, |_, _| judge.judge().map(drop)).is_ok() {
            return Err("an update in a wrong order was not found out".to_owned());
        }
        self.inserted.set(CARD);
        let _ = fs::remove_file(self.at(CUT));
        let [former, new] = chosen;
        if former == 0 || new == 0 {
            return Err(format!("{former} cuts left the former system, {new} the new one: some of each were to be"));
        }
        Ok(format!(
            "{cuts} cuts in {sectors} sectors and {flushes} flushes: {former} left the former, {new} the new; {boots} of them were started"
        ))
    }
}

impl<'l> Judge<'l> {
    /// Puts the card as it was before the update into the slot.
    fn new(lab: &'l Lab) -> Result<Self, String> {
        fs::copy(lab.at(FORMER), lab.at(CUT)).map_err(|e| e.to_string())?;
        lab.inserted.set(CUT);
        let whole = [used(&lab.at(FORMER), SLOTS_MIB[0])?, used(&lab.at(CARD), SLOTS_MIB[1])?];
        let toml = tool("mtype", &["-i", &settings(&lab.at(FORMER))?, "::rootstock.toml"])?;
        let disk = File::options().read(true).write(true).open(lab.at(CUT)).map_err(|e| e.to_string())?;
        Ok(Self { lab, disk, whole, toml, seen: Vec::new() })
    }

    fn disk(&self) -> Result<File, String> {
        self.disk.try_clone().map_err(|e| e.to_string())
    }

    /// The slot that would start, which is whole, beside settings that are.
    fn judge(&mut self) -> Result<Slot, String> {
        let read = |bytes: &mut [u8], mib: u64| self.disk.read_exact_at(bytes, mib * MIB).map_err(|e| e.to_string());
        let mut sectors = vec![0; SETTINGS_BYTES];
        read(&mut sectors, SETTINGS_MIB)?;
        let slot = match self.seen.iter().find(|(known, _)| *known == sectors) {
            Some((_, slot)) => *slot,
            None => {
                let slot = self.lab.choose(false)?;
                self.lab.fsck_part(SETTINGS_MIB, 8)?;
                if tool("mtype", &["-i", &settings(&self.lab.card())?, "::rootstock.toml"])? != self.toml {
                    return Err("the person's settings are others".to_owned());
                }
                self.seen.push((sectors, slot));
                slot
            }
        };
        let which = usize::from(slot == Slot::B);
        let mut there = vec![0; self.whole[which].len()];
        read(&mut there, SLOTS_MIB[which])?;
        if there == self.whole[which] { Ok(slot) } else { Err(format!("slot {slot} would start, and is not whole")) }
    }
}

/// What a slot has up to its last byte that is not zero.
fn used(card: &Path, at_mib: u64) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; SLOT_BYTES];
    let read = |bytes: &mut [u8]| File::open(card)?.read_exact_at(bytes, at_mib * MIB);
    read(&mut bytes).map_err(|e| format!("{}: {e}", card.display()))?;
    bytes.truncate(bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1));
    Ok(bytes)
}
