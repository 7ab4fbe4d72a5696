//! The packages' own programs, asked what they would do in a root: cloud-init
//! by its Python code, ifupdown by qemu-user. Neither touches this machine.

use std::path::Path;
use std::process::Command;

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/os_roots");

fn lines_of(command: &mut Command) -> Vec<String> {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; run: board/deps os"));
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{command:?}: {text}");
    text.lines().map(str::to_owned).collect()
}

/// What cloud-init would do, a line a question; see `ask_cloud_init.py`.
pub fn ask_cloud_init(root: &Path) -> Vec<String> {
    // Not the python3 of a developer's own version manager.
    lines_of(Command::new("/usr/bin/python3").arg("-B").arg(format!("{HERE}/ask_cloud_init.py")).arg(root))
}

/// Its user-data says otherwise in every point (`systems::USER_DATA`), and is
/// heard in what concerns users.
pub fn cloud_init_leaves_the_client_alone(root: &Path) {
    let told = ask_cloud_init(root);
    let expected = [
        "seed NoCloud",
        "network disabled",
        "set_hostname passes",
        "update_etc_hosts passes",
        "ssh_deletekeys False",
        "ssh_genkeytypes []",
        "growpart off",
        "resize_rootfs False",
        "swap {'filename': '', 'size': 0}",
        "disable_root False",
        "user ada",
    ];
    assert_eq!(told, expected);
}

/// The commands that ifupdown would run at a start and at a shutdown.
pub fn ifupdown(root: &Path) -> Vec<String> {
    let mut commands = Vec::new();
    for (program, more) in
        [("ifup", &[][..]), ("ifup", &["--allow=hotplug"]), ("ifdown", &[]), ("ifdown", &["--allow=hotplug"])]
    {
        let path = ["usr/sbin", "sbin"].map(|folder| root.join(folder).join(program));
        let path = path.iter().find(|path| path.is_file()).expect("ifupdown is in the root");
        let mut command = Command::new("qemu-aarch64-static");
        command.arg("-L").arg(root).arg(path).args(["-a", "--no-act", "--force", "--verbose", "--no-loopback"]);
        command.arg("-i").arg(root.join("etc/network/interfaces")).args(more);
        commands.extend(lines_of(&mut command).into_iter().filter(|line| !line.contains(": parsing file")));
    }
    commands
}

pub fn ifupdown_leaves_the_wired_interface(root: &Path) {
    let commands = ifupdown(root);
    assert!(!commands.iter().any(|line| line.contains("eth0")), "{commands:?}");
}
