//! Importing root tarballs, in folder mode: what comes out of them, and what
//! is refused and with which words.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod store_support;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rootstock::store::{Event, ImageInfo, Options};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};
use store_support::*;

/// A root with everything that a tarball can carry, and its boot folder.
fn full_root(folder: &Path, boot: &str) {
    pi_root(folder);
    let path = |name: &str| folder.join(name);
    fs::remove_dir_all(path("boot")).unwrap();
    fs::create_dir_all(path(boot).join("overlays")).unwrap();
    for (name, text) in [("config.txt", "arm_64bit=1\n"), ("kernel8.img", "kernel"), ("overlays/README", "r")] {
        fs::write(path(boot).join(name), text).unwrap();
    }
    std::os::unix::fs::symlink("kernel8.img", path(boot).join("vmlinuz")).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", path(boot).join("shadow")).unwrap();
    fs::write(path("usr/sudo"), "program").unwrap();
    std::os::unix::fs::chown(path("usr/sudo"), Some(1000), Some(27)).unwrap();
    fs::set_permissions(path("usr/sudo"), fs::Permissions::from_mode(0o4755)).unwrap();
    // cap_net_raw=ep, as `ping` has.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    setxattr(path("usr/sudo"), "security.capability", &capability, XattrFlags::empty()).unwrap();
    setxattr(path("usr"), "user.note", b"a\nb", XattrFlags::empty()).unwrap();
    setxattr(path("usr"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    std::os::unix::fs::symlink("usr/sudo", path("sudo")).unwrap();
    let long = path("usr").join("long/".repeat(30)).join("n".repeat(255));
    fs::create_dir_all(long.parent().unwrap()).unwrap();
    fs::write(long, "long").unwrap();
    fs::write(path("usr").join(std::ffi::OsStr::from_bytes(b"new\nline\xff")), "").unwrap();
    mknodat(CWD, path("dev/null"), FileType::CharacterDevice, Mode::from(0o666), makedev(1, 3)).unwrap();
    mknodat(CWD, path("dev/pipe"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
    let sparse = fs::File::create(path("usr/sparse")).unwrap();
    sparse.set_len(24 << 20).unwrap();
    sparse.write_all_at(b"middle", 12 << 20).unwrap();
    let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 5));
    for name in ["usr/share/doc", "usr/sudo"] {
        fs::File::open(path(name)).unwrap().set_times(time).unwrap();
    }
}

/// Everything about a tree's entries that a root depends on, as text.
fn describe(root: &Path) -> String {
    let mut lines = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let path = root.join(&relative);
        let found = fs::symlink_metadata(&path).unwrap();
        let content = if found.is_file() {
            format!("{:x}", checksum(&path))
        } else if found.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else {
            for entry in fs::read_dir(&path).into_iter().flatten().filter(|_| found.is_dir()) {
                pending.push(relative.join(entry.unwrap().file_name()));
            }
            String::new()
        };
        let size = if found.is_file() { found.size() } else { 0 };
        let links = if found.is_file() { found.nlink() } else { 0 };
        lines.push(format!(
            "{:?} {:o} {}:{} {size} {}.{} links {links} dev {} {content}",
            relative,
            found.mode(),
            found.uid(),
            found.gid(),
            found.mtime(),
            found.mtime_nsec(),
            found.rdev()
        ));
    }
    lines.sort();
    lines.join("\n")
}

/// Enough to tell two files apart.
fn checksum(path: &Path) -> u64 {
    let mut sum = 0u64;
    let file = fs::File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut &file, &mut buffer).unwrap() {
            0 => return sum,
            bytes => buffer[..bytes].iter().for_each(|&byte| sum = sum.rotate_left(5).wrapping_add(byte.into())),
        }
    }
}

fn tar(root: &Path, to: &Path, command: &str) {
    let command = command.replace("ROOT", root.to_str().unwrap()).replace("OUT", to.to_str().unwrap());
    run("sh", &["-ec", &command]);
}

/// Mounts an image's root and looks at it.
fn with_root<T>(bench: &Bench, image: &ImageInfo, look: impl FnOnce(&Path) -> T) -> T {
    let point = bench.path("looked at");
    fs::create_dir_all(&point).unwrap();
    let file = bench.store().join("images").join(image.id.as_str()).join("root.ext4");
    run("mount", &["-o", "ro,loop", file.to_str().unwrap(), point.to_str().unwrap()]);
    let found = look(&point);
    unmount(&point);
    found
}

#[test]
fn a_root_tarball_becomes_an_image_with_the_same_files() {
    let bench = Bench::new();
    let root = bench.path("root");
    fs::create_dir(&root).unwrap();
    full_root(&root, "boot/firmware");
    let options = "--xattrs --xattrs-include='*' --numeric-owner";
    for (name, command) in [
        ("0.tar.xz", format!("tar -cS {options} --format=posix -C ROOT . | xz -1 > OUT")),
        ("1.tar.zst", format!("tar -cS {options} --format=posix -C ROOT . | zstd -q > OUT")),
        ("2.tar.gz", format!("cd ROOT; tar -cS {options} * | gzip -1 > OUT")),
        ("3.tar", format!("tar -cS {options} --format=posix --sparse-version=0.1 -f OUT -C ROOT .")),
    ] {
        tar(&root, &bench.store().join(name), &command);
    }
    // What the image's root is to hold: no boot files, and an ext4's own folder.
    let boot = root.join("boot/firmware");
    fs::remove_dir_all(&boot).unwrap();
    fs::create_dir(&boot).unwrap();
    fs::create_dir(root.join("lost+found")).unwrap();
    let is_ours = |line: &&str| {
        let own = ["\"\" ", "\"boot\"", "\"boot/firmware\"", "\"lost+found\""];
        !own.iter().any(|own| line.starts_with(own))
    };
    let filter = |text: String| text.lines().filter(is_ours).collect::<Vec<_>>().join("\n");
    let expected = filter(describe(&root));

    let mut running = bench.start_in_folder();
    running.opened();
    for n in 0..4 {
        let imported = running.imported();
        assert_eq!(imported.name, n.to_string());
        let folder = bench.store().join("images").join(imported.id.as_str());
        run("e2fsck", &["-fn", folder.join("root.ext4").to_str().unwrap()]);
        let allocated = fs::metadata(folder.join("root.ext4")).unwrap().blocks() * 512;
        assert!(allocated < 40 * MIB, "{allocated} bytes for 1 MiB of files");
        with_root(&bench, &imported, |found| {
            let got = filter(describe(found));
            for (got, expected) in got.lines().zip(expected.lines()) {
                assert_eq!(got, expected, "{n}");
            }
            assert_eq!(got, expected);
            // `tar` without --format=posix writes it too, once there are attributes.
            let mut value = [0; 64];
            let mut attribute = |path: &str, name: &str| {
                let bytes = rustix::fs::getxattr(found.join(path), name, &mut value[..]);
                bytes.map(|bytes| value[..bytes].to_vec())
            };
            assert_eq!(attribute("usr/sudo", "security.capability").unwrap().len(), 20);
            assert_eq!(attribute("usr", "user.note").unwrap(), b"a\nb");
            assert!(attribute("usr", "trusted.overlay.opaque").is_err(), "our overlay would obey it");
            assert_eq!(fs::read_dir(found.join("boot/firmware")).unwrap().count(), 0);
        });
        let mut boot: Vec<_> = fs::read_dir(folder.join("boot")).unwrap().map(|e| e.unwrap().file_name()).collect();
        boot.sort();
        assert_eq!(boot, ["config.txt", "kernel8.img", "overlays", "vmlinuz"]);
        assert_eq!(fs::read_to_string(folder.join("boot/vmlinuz")).unwrap(), "kernel");
    }
    // A client can be made of it.
    let image = match running.seen.last() {
        Some(Event::Imported { image }) => image.id.clone(),
        other => panic!("{other:?}"),
    };
    let open = running.create(&client(1, &image));
    assert!(fs::read_to_string(open.root.join("etc/hostname")).unwrap().contains("pi-1"));
    assert!(fs::read_to_string(open.root.join("etc/fstab")).unwrap().contains("/boot/firmware nfs"));
}

#[test]
fn a_root_of_many_small_files_outgrows_its_first_size_and_is_begun_anew() {
    let bench = Bench::new();
    // More than the first size has inodes for, packed to next to nothing.
    let many = "add('boot/config.txt')\nfor n in range(40000): add('many/%d' % n, data=b'')";
    hostile(&bench, "many.tar", many);
    run("zstd", &["-q", "--rm", bench.store().join("many.tar").to_str().unwrap()]);
    let mut running = bench.start_in_folder();
    running.opened();
    let imported = running.imported();
    assert!(imported.root_bytes > 1024 * MIB, "{}", imported.root_bytes);
    let folder = bench.store().join("images").join(imported.id.as_str());
    run("e2fsck", &["-fn", folder.join("root.ext4").to_str().unwrap()]);
    assert!(fs::metadata(folder.join("root.ext4")).unwrap().blocks() * 512 < 100 * MIB);
    with_root(&bench, &imported, |found| {
        assert_eq!(fs::read_dir(found.join("many")).unwrap().count(), 40_000);
    });
}

/// Names, types, link targets and contents of entries, as Python's tarfile
/// writes them, which asks nothing.
fn hostile(bench: &Bench, name: &str, entries: &str) {
    let script = bench.path("hostile.py");
    let text = format!(
        "import tarfile, io, sys\n\
         t = tarfile.open(sys.argv[1], 'w', format=tarfile.PAX_FORMAT)\n\
         def add(name, kind=tarfile.REGTYPE, link='', data=b'evil', uid=0):\n\
         \x20   i = tarfile.TarInfo(name); i.type = kind; i.linkname = link; i.uid = uid\n\
         \x20   i.size = len(data) if kind == tarfile.REGTYPE else 0; i.mode = 0o755\n\
         \x20   t.addfile(i, io.BytesIO(data) if i.size else None)\n\
         add('etc', tarfile.DIRTYPE); add('usr', tarfile.DIRTYPE)\n\
         {entries}\n\
         t.close()\n"
    );
    fs::write(&script, text).unwrap();
    run("python3", &[script.to_str().unwrap(), bench.store().join(name).to_str().unwrap()]);
}

#[test]
fn no_entry_leaves_the_root() {
    let bench = Bench::new();
    let outside = bench.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "kept").unwrap();
    let target = outside.display();
    let cases = [
        ("add('../../../evil')", "leaves the root"),
        ("add('usr/../../evil')", "leaves the root"),
        (&format!("add('way', tarfile.SYMTYPE, '{target}'); add('way/evil')"), "behind a symbolic link"),
        (
            &format!("add('a', tarfile.SYMTYPE, '..'); add('b', tarfile.SYMTYPE, 'a/{target}'); add('b/evil')"),
            "symbolic link",
        ),
        (
            &format!("add('way', tarfile.SYMTYPE, '{target}'); add('hard', tarfile.LNKTYPE, 'way/file')"),
            "symbolic link",
        ),
        (&format!("add('hard', tarfile.LNKTYPE, '{target}/file')"), "a link to what is not there"),
        ("add('hard', tarfile.LNKTYPE, '../../etc/passwd')", "leaves the root"),
        ("add('hard', tarfile.LNKTYPE, 'etc')", "hard link to a folder"),
        ("add('etc/one'); add('etc')", "a folder with files is there already"),
        ("add('one'); add('one/two')", "below what is no folder"),
        ("add('n' * 256)", "name is too long"),
        ("add('a/' * 2100 + 'b')", "path is too long"),
        ("add('one', uid=2**32 - 1)", "owner is none"),
        ("", "no boot folder"),
        ("add('boot/readme')", "no boot files of a Raspberry Pi"),
        (&format!("add('boot', tarfile.SYMTYPE, '{target}')"), "no boot folder"),
    ];
    for (n, (entries, _)) in cases.iter().enumerate() {
        hostile(&bench, &format!("{n:02}.tar"), entries);
    }
    let mut running = bench.start_in_folder();
    running.opened();
    for (entries, expected) in cases {
        let message = running.import_failed();
        assert!(message.contains(expected), "{entries}: {message:?} does not say {expected:?}");
    }
    running.stop();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "kept");
    assert_eq!(fs::metadata(outside.join("file")).unwrap().nlink(), 1);
    assert_eq!(fs::read_dir(bench.store().join("images")).unwrap().count(), 0, "something was left behind");
}

#[test]
fn absolute_names_stay_inside_and_later_entries_replace_former_ones() {
    let bench = Bench::new();
    let outside = bench.path("outside");
    fs::write(&outside, "kept").unwrap();
    let entries = format!(
        "add('/boot/config.txt'); add('one', tarfile.SYMTYPE, '{}'); add('one', data=b'file'); \
         add('two', tarfile.DIRTYPE); add('two', tarfile.SYMTYPE, 'etc'); \
         add('three', tarfile.SYMTYPE, 'etc'); add('three', tarfile.DIRTYPE); add('three/in'); \
         add('four'); add('five', tarfile.LNKTYPE, 'four'); add('five', tarfile.LNKTYPE, './/five')",
        outside.display()
    );
    hostile(&bench, "a.tar", &entries);
    let mut running = bench.start_in_folder();
    running.opened();
    let imported = running.imported();
    with_root(&bench, &imported, |found| {
        assert_eq!(fs::read_to_string(found.join("one")).unwrap(), "file");
        assert_eq!(fs::read_link(found.join("two")).unwrap(), Path::new("etc"));
        assert!(found.join("three/in").is_file() && fs::read_dir(found.join("etc")).unwrap().count() == 0);
        assert_eq!(fs::metadata(found.join("five")).unwrap().nlink(), 2);
    });
    assert_eq!(fs::read_to_string(outside).unwrap(), "kept");
}

#[test]
fn cut_and_damaged_tarballs_are_refused_with_the_place() {
    let bench = Bench::new();
    let root = bench.path("root");
    fs::create_dir(&root).unwrap();
    full_root(&root, "boot");
    let mut expectations = Vec::new();
    let mut n = 0;
    for (ending, packer) in [("tar", "cat"), ("tar.gz", "gzip -1"), ("tar.xz", "xz -1"), ("tar.zst", "zstd -q")] {
        let mut make = |expected, change: &dyn Fn(&fs::File, u64)| {
            let path = bench.store().join(format!("{n:02}.{ending}"));
            tar(&root, &path, &format!("tar -cS -C ROOT . | {packer} > OUT"));
            let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
            change(&file, file.metadata().unwrap().len());
            expectations.push(expected);
            n += 1;
        };
        make("cut short at byte", &|file, bytes| file.set_len(bytes / 2 / 512 * 512).unwrap());
        if ending == "tar" {
            // In the last header that there is: data has no checksum of its own.
            make("damaged at about byte", &|file, bytes| {
                let mut block = [0; 512];
                let is_header = |at: &u64| file.read_exact_at(&mut block, *at).is_ok() && block[257..262] == *b"ustar";
                let at = (0..bytes / 512).rev().map(|at| at * 512).find(is_header).unwrap();
                file.write_all_at(b"xx", at + 100).unwrap();
            });
        } else {
            make("damaged at about byte", &|file, bytes| file.write_all_at(&[0x55; 64], bytes / 2).unwrap());
        }
    }
    // Whole by its packing, and cut inside.
    let path = bench.store().join("99.tar.gz");
    tar(&root, &path, "tar -cS -C ROOT . | head -c 1000000 | gzip -1 > OUT");
    expectations.push("tarball is damaged at about byte");
    let mut running = bench.start_in_folder();
    running.opened();
    for expected in expectations {
        let message = running.import_failed();
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    }
    running.stop();
    assert_eq!(fs::read_dir(bench.store().join("images")).unwrap().count(), 0, "something was left behind");
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert!(!mounts.contains(bench.folder.path().to_str().unwrap()), "{mounts}");
}

#[test]
fn a_tarball_that_does_not_fit_is_told_with_what_is_missing() {
    for (command, name) in
        [("tar -c -C ROOT . | xz -1 > OUT", "a.tar.xz"), ("tar -c -C ROOT . | zstd -q > OUT", "a.tar.zst")]
    {
        let bench = Bench::new();
        let root = bench.path("root");
        fs::create_dir(&root).unwrap();
        full_root(&root, "boot");
        fs::remove_file(root.join("usr/sparse")).unwrap();
        fs::write(root.join("usr/large"), "all work and no play\n".repeat(4 << 20)).unwrap();
        tar(&root, &bench.path(name), command);
        let stick = disk(&bench.path("disk"), 130 * MIB, "");
        run("mke2fs", &["-q", "-t", "ext4", "-L", "ROOTSTOCK", stick.node.to_str().unwrap()]);
        let point = bench.path("mounted");
        fs::create_dir(&point).unwrap();
        run("mount", &[stick.node.to_str().unwrap(), point.to_str().unwrap()]);
        fs::copy(bench.path(name), point.join(name)).unwrap();
        unmount(&point);
        let mut running = Running::start(Options { extra_devices: vec![stick.name()], ..bench.options() });
        running.opened();
        let message = running.import_failed();
        assert!(message.contains("no room on the stick") && message.contains("MiB more"), "{message}");
        assert_eq!(fs::read_dir(bench.path("run/store/images")).unwrap().count(), 0, "something was left behind");
        running.stop();
    }
}
