//! Which files a Pi of each model must find in a boot tree.
//!
//! Pure: what is there is asked of the caller. From the order in which the loaders
//! ask (`tests/support/virtual_pi` has it in full); optional probes are left out.

use crate::client::Model;

/// One thing that a model needs: the first name that is there will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub what: &'static str,
    pub names: &'static [&'static str],
}

/// A loader family.
#[derive(Debug)]
pub struct Board {
    /// The models that are served by it.
    pub models: &'static [Model],
    /// What makes an image one for these boards: without it nothing is said of them.
    pub device_trees: &'static [&'static str],
    pub firmware: &'static [Need],
    pub kernels: &'static [&'static str],
}

const CONFIG: Need = Need { what: "config.txt", names: &["config.txt"] };

/// The boards, in the order of their age. Names with and without `upstream_kernel`.
pub static BOARDS: &[Board] = &[
    Board {
        models: &[Model::Pi3B, Model::Pi3BPlus, Model::Pi2B],
        device_trees: &[
            "bcm2710-rpi-3-b.dtb",
            "bcm2710-rpi-3-b-plus.dtb",
            "bcm2710-rpi-2-b.dtb",
            "bcm2837-rpi-3-b.dtb",
            "bcm2837-rpi-3-b-plus.dtb",
        ],
        firmware: &[
            Need { what: "bootcode.bin", names: &["bootcode.bin"] },
            CONFIG,
            Need { what: "start.elf", names: &["start.elf"] },
            Need { what: "fixup.dat", names: &["fixup.dat"] },
        ],
        kernels: &["kernel8.img", "kernel7.img"],
    },
    Board {
        models: &[Model::Pi4B, Model::Pi400, Model::Cm4],
        device_trees: &["bcm2711-rpi-4-b.dtb", "bcm2711-rpi-400.dtb", "bcm2711-rpi-cm4.dtb"],
        firmware: &[
            CONFIG,
            Need { what: "start4.elf", names: &["start4.elf"] },
            Need { what: "fixup4.dat", names: &["fixup4.dat"] },
        ],
        kernels: &["kernel8.img", "kernel7l.img"],
    },
    Board {
        models: &[Model::Pi5, Model::Cm5, Model::Pi500],
        device_trees: &[
            "bcm2712-rpi-5-b.dtb",
            "bcm2712-d-rpi-5-b.dtb",
            "bcm2712-rpi-500.dtb",
            "bcm2712-rpi-cm5-cm5io.dtb",
        ],
        firmware: &[CONFIG],
        kernels: &["kernel_2712.img", "kernel8.img"],
    },
];

impl Board {
    pub fn of(model: Model) -> Option<&'static Self> {
        BOARDS.iter().find(|board| board.models.contains(&model))
    }

    /// How the family is called.
    pub fn name(&self) -> String {
        self.models.first().map_or_else(String::new, Model::to_string)
    }
}

/// What `config.txt` says that decides which files are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    pub kernel: Option<String>,
    pub initramfs: Option<String>,
    pub auto_initramfs: bool,
    pub os_prefix: String,
}

/// Most bytes and lines of a `config.txt` that are read.
const MAX_CONFIG_BYTES: usize = 64 << 10;
const MAX_NAME_BYTES: usize = 100;

/// Reads it for one family: section filters by model, the last word counts.
pub fn config(text: &[u8], board: &Board) -> Config {
    let text = String::from_utf8_lossy(&text[..text.len().min(MAX_CONFIG_BYTES)]);
    let mut config = Config::default();
    let mut applies = true;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(filter) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            applies = filter == "all" || filters(board).contains(&filter);
            continue;
        }
        if !applies {
            continue;
        }
        if let Some(rest) = line.strip_prefix("initramfs").filter(|rest| rest.starts_with(char::is_whitespace)) {
            config.initramfs = rest.split_whitespace().next().and_then(name);
        } else if let Some((key, value)) = line.split_once('=') {
            match key.trim() {
                "kernel" => config.kernel = name(value.trim()),
                "auto_initramfs" => config.auto_initramfs = value.trim() == "1",
                "os_prefix" => config.os_prefix = name(value.trim()).unwrap_or_default(),
                _ => {}
            }
        }
    }
    config
}

/// A name of a file, bounded; one with a step upwards is none.
fn name(value: &str) -> Option<String> {
    let good = !value.is_empty() && value.len() <= MAX_NAME_BYTES && !value.contains("..") && !value.contains('\0');
    good.then(|| value.trim_start_matches('/').to_owned())
}

fn filters(board: &Board) -> &'static [&'static str] {
    match board.models.first() {
        Some(Model::Pi4B) => &["pi4", "pi400", "cm4"],
        Some(Model::Pi5) => &["pi5", "pi500", "cm5"],
        _ => &["pi3", "pi3+", "pi2"],
    }
}

/// The initramfs that belongs to a kernel with `auto_initramfs=1`.
pub fn initramfs_of(kernel: &str) -> Option<String> {
    let stem = kernel.strip_prefix("kernel")?.strip_suffix(".img")?;
    Some(format!("initramfs{stem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, model: Model, kernel: Option<&str>, initramfs: Option<&str>) {
        let config = config(text.as_bytes(), Board::of(model).unwrap());
        assert_eq!((config.kernel.as_deref(), config.initramfs.as_deref()), (kernel, initramfs), "{text:?}");
    }

    #[test]
    fn sections_count_for_their_own_models() {
        let text =
            "kernel=a.img\n[pi5]\nkernel=b.img\ninitramfs c followkernel\n[pi4]\nkernel=d.img\n[all]\narm_64bit=1\n";
        check(text, Model::Pi5, Some("b.img"), Some("c"));
        check(text, Model::Cm4, Some("d.img"), None);
        check(text, Model::Pi3BPlus, Some("a.img"), None);
    }

    #[test]
    fn names_that_lead_elsewhere_are_none() {
        check("kernel=../../etc/passwd\n", Model::Pi4B, None, None);
        check(&format!("kernel={}\n", "x".repeat(5000)), Model::Pi4B, None, None);
        check("kernel=/boot/k.img\n", Model::Pi4B, Some("boot/k.img"), None);
        check("\u{0}[\n=\ninitramfs\n", Model::Pi4B, None, None);
    }

    #[test]
    fn a_kernels_initramfs_has_its_ending() {
        for (kernel, initramfs) in
            [("kernel8.img", "initramfs8"), ("kernel_2712.img", "initramfs_2712"), ("kernel.img", "initramfs")]
        {
            assert_eq!(initramfs_of(kernel).as_deref(), Some(initramfs));
        }
        assert_eq!(initramfs_of("vmlinuz"), None);
    }

    #[test]
    fn every_model_but_the_unknown_has_a_family() {
        for model in [Model::Pi2B, Model::Pi3B, Model::Pi400, Model::Cm4, Model::Pi5, Model::Cm5, Model::Pi500] {
            assert!(Board::of(model).is_some(), "{model}");
        }
        assert!(Board::of(Model::Unknown).is_none());
    }
}
