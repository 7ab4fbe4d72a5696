//! `config.txt` as the firmware reads it, as far as it decides which files are
//! fetched: section filters, kernel, initramfs, overlays.
//!
//! Pure. Source: the config.txt pages of Raspberry Pi's documentation.

use super::Board;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    pub kernel: Option<String>,
    pub initramfs: Option<String>,
    pub auto_initramfs: bool,
    /// `None`: the board's own default.
    pub arm_64bit: Option<bool>,
    pub device_tree: Option<String>,
    pub os_prefix: String,
    pub overlay_prefix: String,
    pub cmdline: String,
    pub overlays: Vec<String>,
    pub upstream_kernel: bool,
    pub boot_ramdisk: bool,
    pub os_check: bool,
    /// `include FILE`: what stands there counts as standing here.
    pub includes: Vec<String>,
}

/// Reads the file for this board with this serial.
pub fn parse(text: &str, board: Board, serial: u32) -> Config {
    let mut config = Config {
        overlay_prefix: "overlays/".to_owned(),
        cmdline: "cmdline.txt".to_owned(),
        os_check: true,
        ..Config::default()
    };
    let mut os_prefix = None;
    // Filters of different kinds are all to be met; [all] lifts every one.
    let (mut model, mut mine) = (true, true);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(filter) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            match filter {
                "all" => (model, mine) = (true, true),
                "none" | "tryboot" => model = false,
                _ if filter.starts_with("0x") => mine = u32::from_str_radix(&filter[2..], 16) == Ok(serial),
                _ if filter.starts_with("gpio") || filter.contains('=') => mine = false,
                _ => model = board.filters().contains(&filter),
            }
            continue;
        }
        if !model || !mine {
            continue;
        }
        if let Some(("initramfs" | "include", rest)) = line.split_once(char::is_whitespace) {
            let word = rest.split_whitespace().next().unwrap_or("").to_owned();
            if line.starts_with("include") {
                config.includes.push(word);
            } else {
                config.initramfs = Some(word);
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let (value, on) = (value.trim(), value.trim() != "0");
        match key.trim() {
            "kernel" => config.kernel = Some(value.to_owned()),
            "ramfsfile" => config.initramfs = Some(value.to_owned()),
            "auto_initramfs" => config.auto_initramfs = on,
            "arm_64bit" => config.arm_64bit = Some(on),
            "device_tree" => config.device_tree = Some(value.to_owned()),
            "os_prefix" => os_prefix = Some(value.to_owned()),
            "overlay_prefix" => config.overlay_prefix = value.to_owned(),
            "cmdline" => config.cmdline = value.to_owned(),
            "upstream_kernel" => config.upstream_kernel = on,
            "boot_ramdisk" => config.boot_ramdisk = on,
            "os_check" => config.os_check = on,
            "dtoverlay" => {
                let name = value.split([',', ':']).next().unwrap_or("");
                if !name.is_empty() {
                    config.overlays.push(name.to_owned());
                }
            }
            _ => {}
        }
    }
    config.os_prefix = os_prefix.unwrap_or_default();
    config
}

/// `kernel8.img` has `initramfs8`, `kernel_2712.img` has `initramfs_2712`.
pub fn initramfs_of(kernel: &str) -> Option<String> {
    let rest = kernel.strip_prefix("kernel")?;
    Some(format!("initramfs{}", rest.strip_suffix(".img").unwrap_or(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_of_raspberry_pi_os_is_read_for_each_board() {
        let text = "dtparam=audio=on\nauto_initramfs=1\ndtoverlay=vc4-kms-v3d\narm_64bit=1\n[cm4]\notg_mode=1\n\
                    [pi5]\ndtoverlay=dwc2,dr_mode=host\n[all]\n# end\n";
        let pi4 = parse(text, Board::Pi4B, 1);
        assert_eq!((pi4.overlays, pi4.auto_initramfs, pi4.arm_64bit), (vec!["vc4-kms-v3d".into()], true, Some(true)));
        assert_eq!(parse(text, Board::Pi5, 1).overlays, ["vc4-kms-v3d", "dwc2"]);
    }

    #[test]
    fn explicit_names_filters_and_prefixes_are_taken() {
        let text = "kernel=vmlinuz\ninitramfs initrd.img followkernel\n[pi3]\nkernel=other\n[0x00000007]\nos_prefix=new/\n\
                    [all]\ninclude more.txt\n[none]\nboot_ramdisk=1\n";
        let config = parse(text, Board::Pi4B, 7);
        assert_eq!((config.kernel.as_deref(), config.initramfs.as_deref()), (Some("vmlinuz"), Some("initrd.img")));
        assert_eq!((config.os_prefix.as_str(), config.boot_ramdisk), ("", false));
        assert_eq!(config.includes, ["more.txt"]);
        assert_eq!(parse("[0x00000007]\nos_prefix=new/\n", Board::Pi4B, 7).os_prefix, "new/");
    }

    #[test]
    fn an_initramfs_is_named_after_its_kernel() {
        assert_eq!(initramfs_of("kernel8.img").as_deref(), Some("initramfs8"));
        assert_eq!(initramfs_of("kernel_2712.img").as_deref(), Some("initramfs_2712"));
        assert_eq!(initramfs_of("vmlinuz"), None);
    }
}
