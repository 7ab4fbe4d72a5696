//! The kernel command line of a client: the image's own, without what only
//! fits a local disk, and with the words for a network root.
//!
//! Pure. What is dropped and why: `reference/pi-netboot.md` §5 and §6.

/// Longest `cmdline.txt` of an image that is read, in bytes.
pub const MAX_SOURCE_BYTES: usize = 4096;

/// Longest command line that is made, in bytes. arm64's `COMMAND_LINE_SIZE` is
/// 2048 with its NUL, and the firmware puts some 400 bytes of its own before
/// ours; a kernel cuts at the end, where the words for the root stand.
pub const MAX_LINE_BYTES: usize = 1535;

/// A command line, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// One line with one newline at its end.
    pub text: String,
    /// How many of the image's words did not fit.
    pub left_out: usize,
}

/// Makes the command line from the image's `cmdline.txt` (empty: it has none)
/// and the words that the appliance adds.
pub fn make(source: &[u8], kernel_words: &str) -> CommandLine {
    let source = String::from_utf8_lossy(&source[..source.len().min(MAX_SOURCE_BYTES)]);
    let words = split(first_line(&source));
    let first_run = words.iter().any(|word| is_first_run(word));
    // What stands behind `--` is for init; our words must stand before it.
    let (kernel, init) = match words.iter().position(|word| *word == "--") {
        Some(at) => words.split_at(at),
        None => (&words[..], &[][..]),
    };
    let kept = kernel.iter().filter(|word| !is_dropped(word, first_run));
    let mut room = MAX_LINE_BYTES.saturating_sub(kernel_words.len());
    let mut left_out = 0;
    let mut fits = |word: &&&str| {
        let fits = left_out == 0 && word.len() < room;
        if fits {
            room -= word.len() + 1;
        } else {
            left_out += 1;
        }
        fits
    };
    let mut line: Vec<&str> = kept.filter(&mut fits).copied().collect();
    let init: Vec<&str> = init.iter().filter(&mut fits).copied().collect();
    line.push(kernel_words.trim());
    line.extend(init);
    CommandLine { text: format!("{}\n", line.join(" ").trim()), left_out }
}

/// The firmware takes one line; leading empty ones are an editor's.
fn first_line(text: &str) -> &str {
    text.split(['\n', '\r', '\0']).map(str::trim).find(|line| !line.is_empty()).unwrap_or("")
}

/// Splits as the kernel does (`next_arg` in lib/cmdline.c): at blanks outside double quotes.
fn split(line: &str) -> Vec<&str> {
    let mut quoted = false;
    let blank = move |c: char| {
        quoted ^= c == '"';
        c.is_whitespace() && !quoted
    };
    line.split(blank).filter(|word| !word.is_empty()).collect()
}

/// Raspberry Pi Imager's hook: `systemd.run=/boot/firstrun.sh` with companions.
fn is_first_run(word: &str) -> bool {
    word.starts_with("systemd.run=") && word.contains("firstrun.sh")
}

fn is_dropped(word: &str, first_run: bool) -> bool {
    let (key, value) = word.split_once('=').unwrap_or((word, ""));
    match key {
        // The root: ours replace them.
        "root" | "rootfstype" | "rootflags" | "rootwait" | "ro" | "rw" | "nfsroot" | "nfsaddrs" | "ip" => true,
        // initramfs-tools' way to the root; `root=/dev/nfs` chooses nfs by itself.
        "boot" => true,
        // A local block device that is not there: fsck, growing, hibernation.
        "fsck.repair" | "fsck.mode" | "resize" | "resume" => true,
        // A network boot that stalls must be seen on the console; piserver drops it too.
        "quiet" => true,
        // First-boot programs that want to grow a local root and reboot. Any other init is the owner's wish.
        "init" => ["/firstboot", "/init_resize.sh"].iter().any(|name| value.ends_with(name)),
        "systemd.run" => is_first_run(word),
        "systemd.run_success_action" | "systemd.run_failure_action" => first_run,
        "systemd.unit" => first_run && value == "kernel-command-line.target",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = "root=/dev/nfs nfsroot=192.168.77.1:/clients/pi-1/root,vers=3,tcp rw ip=dhcp rootwait";

    /// `kept` is what must remain of the image's line.
    fn check(source: &str, kept: &str) {
        let line = make(source.as_bytes(), WORDS);
        assert_eq!(line.text, format!("{kept} {WORDS}").trim_start().to_owned() + "\n", "from {source:?}");
        assert_eq!(line.left_out, 0);
    }

    #[test]
    fn the_lines_of_raspberry_pi_os_lose_what_is_local() {
        check(
            "console=serial0,115200 console=tty1 root=PARTUUID=8a438930-02 rootfstype=ext4 fsck.repair=yes rootwait resize\n",
            "console=serial0,115200 console=tty1",
        );
        check(
            "console=serial0,115200 console=tty1 root=PARTUUID=4e639091-02 rootfstype=ext4 fsck.repair=yes rootwait \
             quiet init=/usr/lib/raspberrypi-sys-mods/firstboot splash plymouth.ignore-serial-consoles",
            "console=serial0,115200 console=tty1 splash plymouth.ignore-serial-consoles",
        );
        check(
            "console=tty1 root=/dev/mmcblk0p2 quiet init=/usr/lib/raspi-config/init_resize.sh \
             systemd.run=/boot/firstrun.sh systemd.run_success_action=reboot systemd.unit=kernel-command-line.target",
            "console=tty1",
        );
    }

    #[test]
    fn a_line_for_another_network_root_is_replaced() {
        check("root=/dev/nfs nfsroot=10.0.0.1:/x,vers=3 ro ip=10.0.0.2::: console=tty1", "console=tty1");
        check("boot=local resume=UUID=1 rootflags=noload nfsaddrs=x console=tty1", "console=tty1");
    }

    #[test]
    fn the_rest_stays_in_its_order() {
        let rest = "cfg80211.ieee80211_regdom=GB modules-load=dwc2 rootdelay=5 ds=nocloud;i=x overlayroot=tmpfs \
                    cgroup_enable=memory init=/bin/bash systemd.run=/usr/bin/mine systemd.run_success_action=none \
                    systemd.unit=rescue.target ipv6.disable=1 noresume";
        check(rest, rest);
    }

    #[test]
    fn an_absent_or_empty_file_still_gives_a_line() {
        check("", "");
        check("\r\n\n", "");
    }

    #[test]
    fn only_one_line_is_taken() {
        check("\nconsole=tty1\r\nroot=/dev/sda\n", "console=tty1");
        check("console=tty1\0quiet", "console=tty1");
    }

    #[test]
    fn quotes_hold_words_together() {
        check("dyndbg=\"file a.c +p; root=x\"  a  ro", "dyndbg=\"file a.c +p; root=x\" a");
        check("a \"b  c", "a \"b  c");
    }

    #[test]
    fn words_for_init_stay_behind_ours() {
        let line = make(b"console=tty1 root=/dev/sda -- single root=x", WORDS);
        assert_eq!(line.text, format!("console=tty1 {WORDS} -- single root=x\n"));
    }

    #[test]
    fn a_line_too_long_for_the_kernel_loses_the_images_last_words() {
        let source: Vec<String> = (0..500).map(|n| format!("word{n:03}")).collect();
        let line = make(source.join(" ").as_bytes(), WORDS);
        assert!(line.text.len() <= MAX_LINE_BYTES + 1 && line.text.len() > MAX_LINE_BYTES - 16, "{}", line.text.len());
        assert!(line.text.starts_with("word000 word001 ") && line.text.ends_with(&format!(" {WORDS}\n")));
        // 4,096 bytes hold 512 words of 8: all 500 were seen.
        assert_eq!(line.left_out, 500 - line.text.matches("word").count());
    }

    proptest::proptest! {
        #[test]
        fn the_line_is_one_bounded_line_with_our_words(source: Vec<u8>) {
            let line = make(&source, WORDS).text;
            proptest::prop_assert!(line.len() <= MAX_LINE_BYTES + 1 && line.contains(WORDS));
            proptest::prop_assert_eq!(line.matches('\n').count(), 1);
        }
    }
}
