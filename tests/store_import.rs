//! Importing image files, in folder mode: what goes in, what is refused and
//! with which words.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod store_support;

use std::fs::{self, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rootstock::store::{Event, Options};
use store_support::*;

fn sha256(path: &Path) -> String {
    run("sha256sum", &[path.to_str().unwrap()]).split(' ').next().unwrap().to_owned()
}

#[test]
fn an_img_becomes_an_image_with_the_same_root_and_boot_files() {
    let bench = Bench::new();
    let image = pi_image(&bench.store(), "My Pi.img");
    let hash = sha256(&image);
    fs::write(bench.store().join("My Pi.img.sha256"), format!("{hash}  My Pi.img\n")).unwrap();

    let mut running = bench.start_in_folder();
    running.opened();
    let imported = running.imported();
    assert_eq!(imported.id.as_str(), format!("my-pi-{}", &hash[..8]));

    let folder = bench.store().join("images").join(imported.id.as_str());
    let mut original = vec![0; ROOT_BYTES as usize];
    fs::File::open(&image).unwrap().read_exact_at(&mut original, ROOT_START).unwrap();
    assert!(fs::read(folder.join("root.ext4")).unwrap() == original);
    let blocks = fs::metadata(folder.join("root.ext4")).unwrap().blocks();
    assert!(blocks * 512 < ROOT_BYTES / 2, "{blocks} blocks are not sparse");
    assert_eq!(fs::read_to_string(folder.join("boot/config.txt")).unwrap(), "arm_64bit=1\n");
    assert!(folder.join("boot/overlays").is_dir() && !folder.join("boot.fat").exists());
    assert!(fs::read_to_string(folder.join("image.toml")).unwrap().contains(&hash));
}

/// Packs a file by the real tools; `IN` and `OUT` stand in the command.
fn pack_by(command: &str, from: &Path, to: &Path) {
    let command = command.replace("IN", from.to_str().unwrap()).replace("OUT", to.to_str().unwrap());
    run("sh", &["-ec", &command]);
}

/// Every way to pack a card's image, and its ending.
const PACKERS: [(&str, &str); 14] = [
    ("img.gz", "gzip -c IN > OUT"),
    // Two members, as `cat a.gz b.gz`, and a tape's padding.
    ("img.gz", "(head -c 5000000 IN | gzip -c; tail -c +5000001 IN | gzip -c; head -c 512 /dev/zero) > OUT"),
    ("img.zst", "zstd -q IN -o OUT"),
    ("img.zst", "zstd -q --ultra -20 --long=27 IN -o OUT"),
    // No size in the header, no checksum, two frames.
    ("img.zst", "(head -c 5000000 IN | zstd -q --no-check; tail -c +5000001 IN | zstd -q) > OUT"),
    // Streamed: sizes behind the data.
    ("zip", "zip -q -j - IN | cat > OUT"),
    ("zip", "zip -q -j OUT IN"),
    ("zip", "zip -q -0 -j OUT IN"),
    ("zip", "echo text > IN.txt; zip -q -fz -j OUT IN.txt IN"),
    // Windows does so with what is larger than 2 GiB.
    ("zip", "7zz a -tzip -mm=Deflate64 -bso0 -bsp0 OUT IN"),
    // A folder around it, and what macOS puts beside each file.
    (
        "zip",
        "mkdir -p OUT.d/made OUT.d/__MACOSX/made; cp IN OUT.d/made/made.img; echo > OUT.d/made/.DS_Store; \
         echo > OUT.d/made/._made.img; echo > OUT.d/__MACOSX/made/._made.img; (cd OUT.d; zip -q -r OUT .); rm -r OUT.d",
    ),
    ("img.xz", "xz -c -1 IN > OUT"),
    // Two streams, with padding between and behind them, of which one has many blocks.
    (
        "img.xz",
        "(head -c 5000000 IN | xz -1; head -c 8 /dev/zero; tail -c +5000001 IN | xz -1 --block-size=1MiB; \
         head -c 512 /dev/zero) > OUT",
    ),
    // A frame that others put their notes into, before the data.
    ("img.zst", "(printf '\\120\\052\\115\\030\\004\\000\\000\\000note'; zstd -qc IN) > OUT"),
];

#[test]
fn every_packing_gives_its_image_and_knows_its_hash() {
    let bench = Bench::new();
    let plain = pi_image(bench.folder.path(), "a.img");
    let mut roots = Vec::new();
    for (n, (ending, command)) in PACKERS.iter().enumerate() {
        // Each holds another image: the same one is noticed.
        make_another(&plain, &[n as u8; 16]);
        let mut root = vec![0; ROOT_BYTES as usize];
        fs::File::open(&plain).unwrap().read_exact_at(&mut root, ROOT_START).unwrap();
        roots.push(root);
        let packed = bench.store().join(format!("packed-{n}.{ending}"));
        pack_by(command, &plain, &packed);
        let hash = sha256(&packed);
        // As `sha256sum` writes it, as BSD does, and bare.
        let line = match n % 3 {
            0 => format!("{hash} *packed-{n}.{ending}\n"),
            1 => format!("SHA256 (packed-{n}.{ending}) = {hash}\n"),
            _ => hash,
        };
        fs::write(bench.store().join(format!("packed-{n}.{ending}.sha256")), line).unwrap();
    }
    let mut running = bench.start_in_folder();
    running.opened();
    for _ in PACKERS {
        let imported = running.imported();
        let n: usize = imported.name.trim_start_matches("packed-").parse().unwrap();
        let folder = bench.store().join("images").join(imported.id.as_str());
        let root = fs::read(folder.join("root.ext4"))
            .unwrap_or_else(|error| panic!("{imported:?}: {error} {:?}", running.seen));
        assert!(root == roots[n], "{}", imported.name);
        assert_eq!(fs::read_to_string(folder.join("boot/config.txt")).unwrap(), "arm_64bit=1\n");
        assert!(fs::metadata(folder.join("root.ext4")).unwrap().blocks() * 512 < ROOT_BYTES / 2);
        fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn the_same_image_in_another_packing_is_known() {
    let bench = Bench::new();
    let image = pi_image(&bench.store(), "a.img");
    let mut running = bench.start_in_folder();
    running.opened();
    let first = running.imported();
    for (file, command) in [("b.img.xz", "xz -1 -c IN > OUT"), ("c.zip", "zip -q -j OUT IN")] {
        let packed = bench.path(file);
        pack_by(command, &image, &packed);
        fs::rename(packed, bench.store().join(file)).unwrap();
        assert_eq!(running.imported().id, first.id);
        let told = Event::AlreadyThere { file: file.into(), image: first.id.clone() };
        assert!(running.seen.contains(&told), "{:?}", running.seen);
    }
    // The same root with other boot files, and another root: neither is the same.
    fn other_boot(path: &Path) {
        let content = fs::read(path).unwrap();
        let at = content.windows(12).position(|window| window == b"arm_64bit=1\n").unwrap();
        write_at(path, at as u64, b"arm_64bit=0\n");
    }
    let other_root = |path: &Path| make_another(path, b"other");
    for (file, change) in [("d.img", other_boot as fn(&Path)), ("e.img", other_root)] {
        fs::copy(&image, bench.path(file)).unwrap();
        change(&bench.path(file));
        fs::rename(bench.path(file), bench.store().join(file)).unwrap();
        assert_ne!(running.imported().id, first.id);
    }
    running.stop();
    assert_eq!(fs::read_dir(bench.store().join("images")).unwrap().count(), 3);
    // They are known again, and nothing is unpacked.
    let mut running = bench.start_in_folder();
    assert_eq!(running.opened().0.len(), 3);
}

/// An image remembers 16 files; more of them must not take turns.
#[test]
fn very_many_copies_of_one_image_are_each_looked_at_once() {
    let bench = Bench::new();
    let image = pi_image(&bench.store(), "a.img");
    for n in 0..18 {
        fs::hard_link(&image, bench.store().join(format!("b{n:02}.img"))).unwrap();
    }
    let mut running = bench.start_in_folder();
    running.opened();
    for _ in 0..19 {
        running.imported();
    }
    pi_image(bench.folder.path(), "z.img");
    make_another(&bench.path("z.img"), b"other");
    fs::rename(bench.path("z.img"), bench.store().join("z.img")).unwrap();
    let soon = (0..3).any(|_| running.imported().name == "z");
    assert!(soon, "the copies take turns");
    let copies = running.seen.iter().filter(|event| matches!(event, Event::AlreadyThere { .. })).count();
    // The first may have been forgotten, and is known by now.
    assert!((18..=19).contains(&copies), "{copies}");
}

/// Browsers unpack what they download, and people rename.
#[test]
fn a_file_is_unpacked_as_what_it_is_whatever_its_name_says() {
    let bench = Bench::new();
    let image = pi_image(&bench.store(), "a.img");
    let mut running = bench.start_in_folder();
    running.opened();
    let first = running.imported();
    for (file, command) in [
        ("b.img", "xz -1 -c IN > OUT"),
        ("c.img.xz", "cp IN OUT"),
        ("d.zip", "zstd -q IN -o OUT"),
        ("e.img.zst", "zip -q -j - IN | cat > OUT"),
        ("f.img.xz", "gzip -c IN > OUT"),
    ] {
        pack_by(command, &image, &bench.path("packed"));
        fs::rename(bench.path("packed"), bench.store().join(file)).unwrap();
        // The same image, so it is known.
        assert_eq!(running.imported().id, first.id, "{file}");
    }
}

#[test]
fn the_hash_of_the_image_inside_is_checked_too() {
    let bench = Bench::new();
    let plain = pi_image(bench.folder.path(), "a.img");
    for name in ["good", "bad"] {
        pack_by("zstd -q IN -o OUT", &plain, &bench.store().join(format!("{name}.img.zst")));
    }
    fs::write(bench.store().join("good.img.sha256"), sha256(&plain)).unwrap();
    fs::write(bench.store().join("bad.img.sha256"), "12".repeat(32)).unwrap();
    let mut running = bench.start_in_folder();
    running.opened();
    assert!(running.import_failed().contains("does not match bad.img.sha256"));
    assert_eq!(running.imported().name, "good");
}

#[test]
fn the_same_file_again_is_known_also_under_another_name() {
    let bench = Bench::new();
    let image = pi_image(&bench.store(), "a.img");
    let mut running = bench.start_in_folder();
    running.opened();
    let first = running.imported();
    fs::copy(&image, bench.store().join("b.img")).unwrap();
    assert_eq!(running.imported().id, first.id);
    let told = Event::AlreadyThere { file: "b.img".into(), image: first.id.clone() };
    assert!(running.seen.contains(&told), "{:?}", running.seen);
    // It was hashed first, and not unpacked for nothing.
    let unpacked =
        |event: &Event| matches!(event, Event::ImportProgress { file, per_mille: 1.., .. } if file == "b.img");
    assert!(!running.seen.iter().any(unpacked));
    assert_eq!(fs::read_dir(bench.store().join("images")).unwrap().count(), 1);
    running.stop();

    let mut running = bench.start_in_folder();
    let (images, _) = running.opened();
    assert_eq!(images, [first]);
    let manifest = fs::read_to_string(bench.store().join("images").join(images[0].id.as_str()).join("image.toml"));
    assert!(manifest.unwrap().contains("b.img"));
}

/// Makes one file from the usual image and expects its refusal.
fn check_refused(name: &str, change: impl FnOnce(&Path), expected: &str) {
    let bench = Bench::new();
    let image = pi_image(bench.folder.path(), "made.img");
    change(&image);
    let target = bench.store().join(name);
    // What a packer made of it lies beside it, under the name it is to have.
    let packed = bench.path(name);
    fs::rename(if packed.exists() { &packed } else { &image }, &target).unwrap();
    let mut running = bench.start_in_folder();
    running.opened();
    let message = running.import_failed();
    assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    running.stop();
    assert_eq!(fs::read_dir(bench.store().join("images")).unwrap().count(), 0, "something was left behind");
}

fn write_at(image: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(image).unwrap().write_all_at(bytes, at).unwrap();
}

fn pack(image: &Path) -> PathBuf {
    let packed = image.with_file_name("a.img.xz");
    pack_by("xz -1 -c --block-size=1MiB IN > OUT", image, &packed);
    packed
}

fn cut(file: &Path, bytes: u64) {
    OpenOptions::new().write(true).open(file).unwrap().set_len(bytes).unwrap();
}

/// Many refusals in one run: each file, what makes it of the usual image, what
/// is changed in it, and the words expected.
#[derive(Default)]
struct Refusals(Vec<Refusal>);

type Change = Box<dyn FnOnce(&Path, u64)>;

struct Refusal {
    ending: String,
    command: String,
    change: Change,
    expected: &'static str,
}

impl Refusals {
    fn add(&mut self, ending: &str, command: &str, expected: &'static str, change: impl FnOnce(&Path, u64) + 'static) {
        let (ending, command) = (ending.to_owned(), command.to_owned());
        self.0.push(Refusal { ending, command, change: Box::new(change), expected });
    }

    fn check(self) {
        let bench = Bench::new();
        let image = pi_image(bench.folder.path(), "made.img");
        let mut expectations = Vec::new();
        for (n, refusal) in self.0.into_iter().enumerate() {
            let file = format!("{n:02}.{}", refusal.ending);
            let path = bench.store().join(&file);
            pack_by(&refusal.command, &image, &path);
            (refusal.change)(&path, fs::metadata(&path).unwrap().len());
            expectations.push((file, refusal.command, refusal.expected));
        }
        let mut running = bench.start_in_folder();
        running.opened();
        for (expected_file, command, expected) in expectations {
            let (file, message) = running.wait("ImportFailed", |event| match event {
                Event::ImportFailed { file, message, .. } => Some((file.clone(), message.clone())),
                Event::Imported { image } => panic!("imported {image:?} ({command})"),
                _ => None,
            });
            assert_eq!(file, expected_file);
            assert!(message.contains(expected), "{command}: {message:?} does not say {expected:?}");
        }
        running.stop();
        assert_eq!(fs::read_dir(bench.store().join("images")).unwrap().count(), 0, "something was left behind");
    }
}

#[test]
fn a_cut_file_of_any_packing_is_refused_with_the_place() {
    let mut refusals = Refusals::default();
    for (ending, command) in PACKERS {
        let expected = if ending == "zip" { "no directory at its end" } else { "cut short at byte" };
        refusals.add(ending, command, expected, |file, bytes| cut(file, bytes / 2));
    }
    refusals.check();
}

#[test]
fn a_damaged_file_of_any_packing_is_refused_with_the_place() {
    let mut refusals = Refusals::default();
    // Without a checksum in the frame zstd cannot know; it is left out.
    for (ending, command) in PACKERS.iter().filter(|(_, command)| !command.contains("no-check")) {
        refusals.add(ending, command, "damaged at about byte", |file, bytes| write_at(file, bytes / 2, &[0x55; 64]));
    }
    // The list of an xz's blocks at its end: the file is not cut there.
    refusals.add("img.xz", "xz -1 -c --block-size=1MiB IN > OUT", "damaged at about byte", |file, bytes| {
        write_at(file, bytes - 20, &[0x55; 4]);
    });
    refusals.check();
}

#[test]
fn an_empty_file_of_any_packing_is_refused() {
    let mut refusals = Refusals::default();
    for (ending, expected) in [
        ("img", "is empty"),
        ("img.xz", "is empty"),
        ("img.gz", "is empty"),
        ("img.zst", "is empty"),
        ("zip", "is empty"),
        ("tar", "is empty"),
        ("tar.gz", "is empty"),
    ] {
        refusals.add(ending, ": > OUT", expected, |_, _| {});
    }
    refusals.check();
}

#[test]
fn a_zip_of_several_images_or_none_is_refused_by_name() {
    let mut refusals = Refusals::default();
    let two = "cp IN OUT-1.img; zip -q -j OUT IN OUT-1.img; rm OUT-1.img";
    refusals.add("zip", two, "holds 2 images, and one is wanted: made.img, 00.zip-1.img", |_, _| {});
    refusals.add("zip", "echo > OUT.txt; zip -q -j OUT OUT.txt; rm OUT.txt", "holds no .img", |_, _| {});
    let twice = "xz -1 -k IN; zip -q -j OUT IN.xz; rm IN.xz";
    refusals.add("zip", twice, "holds made.img.xz, which is packed once more", |_, _| {});
    refusals.add("zip", "zip -q -j -P secret OUT IN", "made.img in the zip is encrypted", |_, _| {});
    refusals.add(
        "zip",
        "zip -q -j -Z bzip2 OUT IN",
        "packed by bzip2 (method 12), and only deflated and stored files are read",
        |_, _| {},
    );
    refusals.add("zip", "7zz a -tzip -mm=LZMA -bso0 -bsp0 OUT IN", "packed by LZMA (method 14)", |_, _| {});
    refusals.add(
        "zip",
        "7zz a -tzip -mem=AES256 -psecret -bso0 -bsp0 OUT IN",
        "made.img in the zip is encrypted",
        |_, _| {},
    );
    refusals.add("zip", "zip -q -s 64k -j OUT IN", "is one part of several", |_, _| {});
    let noise = "head -c 100000 /dev/urandom > OUT; printf x | dd of=OUT conv=notrunc status=none";
    refusals.add("zip", noise, "no directory at its end", |_, _| {});
    for ending in ["img.xz", "img.gz", "img.zst"] {
        refusals.add(ending, noise, "damaged at about byte", |_, _| {});
    }
    refusals.add("img", noise, "it has no partition table", |_, _| {});
    refusals.check();
}

#[test]
fn a_bomb_of_zeros_ends_at_the_tables_end() {
    let mut refusals = Refusals::default();
    // 200 MiB behind the last partition, in 200 KiB.
    let bomb = "(cat IN; head -c 200M /dev/zero) | gzip -1 > OUT";
    refusals.add("img.gz", bomb, "far more than its partitions", |_, _| {});
    // By one thread, and by several at once.
    for options in ["", "--block-size=16MiB"] {
        let bomb = format!("(cat IN; head -c 200M /dev/zero) | xz -0 -T1 {options} > OUT");
        refusals.add("img.xz", &bomb, "far more than its partitions", |_, _| {});
    }
    // A table that promises 2 TiB.
    let vast = "cp IN OUT.raw; printf '\\377\\377\\377\\377' | dd of=OUT.raw bs=1 seek=474 conv=notrunc status=none; \
                zstd -q --rm OUT.raw -o OUT";
    refusals.add("img.zst", vast, "take more than 320 GiB", |_, _| {});
    refusals.check();
}

#[test]
fn a_checksum_file_without_a_checksum_is_told() {
    let bench = Bench::new();
    pi_image(&bench.store(), "a.img");
    fs::write(bench.store().join("a.img.sha256"), "404: Not Found").unwrap();
    let mut running = bench.start_in_folder();
    running.opened();
    assert!(running.import_failed().contains("a.img.sha256 holds no SHA-256"));
}

#[test]
fn names_of_255_bytes_and_with_newlines_are_imported() {
    let bench = Bench::new();
    let plain = pi_image(bench.folder.path(), "a.img");
    let long = format!("{}.img", "x".repeat(251));
    fs::copy(&plain, bench.store().join(&long)).unwrap();
    let other = fs::read(&plain).unwrap();
    fs::write(bench.store().join("a\nb.img"), &other[..]).unwrap();
    make_another(&bench.store().join("a\nb.img"), b"other");
    let raw = std::ffi::OsStr::from_bytes(b"raw\xff.img");
    fs::copy(&plain, bench.store().join(raw)).unwrap();
    make_another(&bench.store().join(raw), b"raw");
    let mut running = bench.start_in_folder();
    running.opened();
    let mut names = [(); 3].map(|()| running.imported().name);
    names.sort();
    assert_eq!(names, ["a\u{fffd}b".to_owned(), "raw\u{fffd}".to_owned(), "x".repeat(80)]);
    running.stop();
    // They are known again.
    let mut running = bench.start_in_folder();
    assert_eq!(running.opened().0.len(), 3);
}

#[test]
fn what_is_not_imported_of_a_stick_is_said_once() {
    let bench = Bench::new();
    for n in 0..66 {
        fs::write(bench.store().join(format!("{n:02}.img")), "no image").unwrap();
    }
    fs::write(bench.store().join("old.img.bz2"), "BZh").unwrap();
    let mut running = bench.start_in_folder();
    running.opened();
    for (expected, words) in [
        ("old.img.bz2", "is packed in a way that is not read"),
        ("64.img", "is left out, and so are 1 more: of one stick the first 64 images by name are taken"),
        // All that is told of them has been told before the first import ends.
        ("00.img", "not a Raspberry Pi image"),
        ("01.img", "not a Raspberry Pi image"),
    ] {
        let (file, message) = running.wait("ImportFailed", |event| match event {
            Event::ImportFailed { file, message, .. } => Some((file.clone(), message.clone())),
            _ => None,
        });
        assert_eq!(file, expected);
        assert!(message.contains(words), "{file}: {message}");
    }
}

#[test]
fn ten_thousand_files_beside_it_do_not_hide_an_image() {
    let bench = Bench::new();
    for n in 0..10_000 {
        fs::File::create(bench.store().join(format!("{n:05}.jpg"))).unwrap();
    }
    pi_image(&bench.store(), "z.img");
    let mut running = bench.start_in_folder();
    running.opened();
    assert_eq!(running.imported().name, "z");
}

#[test]
fn with_a_clock_at_1970_the_newest_import_still_is_the_newest() {
    let bench = Bench::new();
    pi_image(&bench.store(), "b.img");
    let mut running = bench.start_in_folder();
    running.opened();
    let first = running.imported();
    running.stop();
    // The first was imported when the clock was right: in the far future.
    let manifest = bench.store().join("images").join(first.id.as_str()).join("image.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    let text = text.replace(&format!("imported = {}", first.imported), "imported = 9000000000");
    fs::write(&manifest, text).unwrap();
    fs::copy(bench.store().join("b.img"), bench.path("a.img")).unwrap();
    make_another(&bench.path("a.img"), b"other");
    fs::rename(bench.path("a.img"), bench.store().join("a.img")).unwrap();
    let mut running = bench.start_in_folder();
    running.opened();
    assert_eq!(running.imported().imported, 9_000_000_001);
}

#[test]
fn a_cut_image_is_refused() {
    let cut = |image: &Path| OpenOptions::new().write(true).open(image).unwrap().set_len(ROOT_START + MIB).unwrap();
    check_refused("a.img", cut, "past the end");
}

#[test]
fn a_cut_xz_of_many_blocks_is_refused_at_once() {
    let cut = |image: &Path| {
        let packed = pack(image);
        cut(&packed, fs::metadata(&packed).unwrap().len() / 2);
    };
    check_refused("a.img.xz", cut, "cut short at byte");
}

#[test]
fn a_damaged_xz_is_refused_with_the_place() {
    let damage = |image: &Path| {
        let packed = pack(image);
        let middle = fs::metadata(&packed).unwrap().len() / 2;
        write_at(&packed, middle, &[0x55; 64]);
    };
    check_refused("a.img.xz", damage, "damaged at about byte");
}

#[test]
fn a_partition_table_that_lies_is_refused() {
    check_refused("a.img", |image| write_at(image, 446 + 16 + 12, &[0xff; 4]), "past the end");
    check_refused("a.img", |image| write_at(image, 446 + 16 + 8, &2048u32.to_le_bytes()), "overlap");
}

#[test]
fn what_is_no_pi_image_is_refused() {
    check_refused("a.img", |image| write_at(image, 510, &[0, 0]), "no partition table");
    check_refused("a.img", |image| write_at(image, ROOT_START + 1080, &[0, 0]), "no ext4 root");
    check_refused("a.img", |image| write_at(image, ROOT_START + 1024 + 104, &[0; 16]), "no UUID");
    check_refused("a.img", |image| write_at(image, ROOT_START + 1024 + 99, &[0x80]), "unknown ext4 features");
    // A PC's: it has the same partitions.
    let pc = |image: &Path| {
        let (boot, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(boot.path().join("EFI/BOOT")).unwrap();
        fs::write(boot.path().join("EFI/BOOT/BOOTX64.EFI"), "MZ").unwrap();
        pi_root(root.path());
        make_image_of(image, boot.path(), root.path());
    };
    check_refused("a.img", pc, "its boot partition has none of a Pi's boot files, such as config.txt");
    let fat = |image: &Path| write_at(image, MIB, &[0; 512]);
    check_refused("a.img", fat, "no FAT boot partition");
}

#[test]
fn a_file_that_does_not_match_its_checksum_is_refused() {
    let bench = Bench::new();
    pi_image(&bench.store(), "a.img");
    fs::write(bench.store().join("a.img.sha256"), format!("{}  a.img\n", "ab".repeat(32))).unwrap();
    let mut running = bench.start_in_folder();
    running.opened();
    assert!(running.import_failed().contains("does not match a.img.sha256"));
}

#[test]
fn an_ext4_without_a_system_is_refused() {
    let bench = Bench::new();
    let root = bench.path("root");
    fs::create_dir(&root).unwrap();
    make_image(&bench.store().join("a.img"), &root);
    let mut running = bench.start_in_folder();
    running.opened();
    assert!(running.import_failed().contains("holds no Linux system"));
}

/// Both ways to write.
fn check_no_room(name: &str) {
    [false, true].into_iter().for_each(|plain_writes| check_no_room_by(name, plain_writes));
}

/// A stick of 100 MiB that holds a store and one image file.
fn check_no_room_by(name: &str, plain_writes: bool) {
    let bench = Bench::new();
    let (root, plain) = (bench.path("root"), bench.path("a.img"));
    fs::create_dir(&root).unwrap();
    pi_root(&root);
    // Takes room once unpacked, and next to none before.
    fs::write(root.join("usr/share/doc/large"), vec![b'a'; 20 << 20]).unwrap();
    make_image(&plain, &root);
    pack(&plain);
    let stick = disk(&bench.path("disk"), 100 * MIB, "");
    run("mke2fs", &["-q", "-t", "ext4", "-L", "ROOTSTOCK", stick.node.to_str().unwrap()]);
    let point = bench.path("mounted");
    fs::create_dir(&point).unwrap();
    run("mount", &[stick.node.to_str().unwrap(), point.to_str().unwrap()]);
    fs::copy(bench.path(name), point.join(name)).unwrap();
    unmount(&point);

    let mut running = Running::start(Options { extra_devices: vec![stick.name()], plain_writes, ..bench.options() });
    running.opened();
    let message = running.import_failed();
    assert!(message.contains("no room on the stick") && message.contains("MiB more"), "{message}");
    let left = fs::read_dir(bench.path("run/store/images")).unwrap().count();
    assert_eq!(left, 0, "something was left behind");
    running.stop();
}

#[test]
fn a_full_stick_is_told_with_what_is_missing() {
    check_no_room("a.img");
}

#[test]
fn a_stick_that_fills_up_on_the_way_keeps_its_reserve() {
    check_no_room("a.img.xz");
}

/// What a stick of so many MiB says is missing for this packed image; nothing: it fits.
fn missing_on(bench: &Bench, mib: u64, packed: &Path) -> Option<u64> {
    let (stick, point) = (disk(&bench.path("disk"), mib * MIB, ""), bench.path("mounted"));
    run("mke2fs", &["-q", "-t", "ext4", "-L", "ROOTSTOCK", stick.node.to_str().unwrap()]);
    fs::create_dir_all(&point).unwrap();
    run("mount", &[stick.node.to_str().unwrap(), point.to_str().unwrap()]);
    fs::copy(packed, point.join(packed.file_name().unwrap())).unwrap();
    unmount(&point);
    let mut running = Running::start(Options { extra_devices: vec![stick.name()], ..bench.options() });
    running.opened();
    let said = running.wait("its end", |event| match event {
        Event::Imported { .. } => Some(None),
        Event::ImportFailed { message, .. } => Some(Some(message.clone())),
        _ => None,
    });
    running.stop();
    said.map(|message| {
        let figure = message.strip_prefix("no room on the stick: ").and_then(|rest| rest.split_once(" MiB more"));
        figure.unwrap_or_else(|| panic!("{message}")).0.parse().unwrap()
    })
}

#[test]
fn a_stick_with_so_much_more_room_as_is_said_takes_the_packed_file() {
    let bench = Bench::new();
    let (root, plain) = (bench.path("root"), bench.path("a.img"));
    pi_root(&root);
    fs::write(root.join("boot/firmware/config.txt"), "").unwrap();
    let (large, boot) = (root.join("usr/share/doc/large"), root.join("boot/firmware"));
    // Packed it is next to nothing.
    fs::write(&large, vec![b'a'; 100 << 20]).unwrap();
    make_image_sized(&plain, &boot, &root, 200 * MIB, &[]);
    pack_by("xz -0 -c IN > OUT", &plain, &bench.path("a.img.xz"));
    pack_by("gzip -1 -c IN > OUT", &plain, &bench.path("b.img.gz"));
    // Packed it is three quarters.
    run("sh", &["-c", &format!("head -c 30M /dev/urandom | base64 > {}", large.display())]);
    pack_by("tar -c -C IN . | zstd -q > OUT", &root, &bench.path("c.tar.zst"));
    // The figure is known before, shows on the way, and is reckoned from what is packed still.
    for (file, mib) in [("a.img.xz", 120), ("b.img.gz", 165), ("c.tar.zst", 145)] {
        let missing = missing_on(&bench, mib, &bench.path(file)).expect("no room");
        let enough = missing_on(&bench, mib + missing, &bench.path(file));
        assert_eq!(enough, None, "{file} on {mib} MiB and {missing} more");
        if file == "a.img.xz" {
            continue;
        }
        // And not far more than that.
        let too_small = missing_on(&bench, mib + missing.saturating_sub(48), &bench.path(file));
        assert!(too_small.is_some(), "{file} on {mib} MiB: {missing} is too much");
    }
}

#[test]
fn an_unfinished_import_is_removed_and_begun_anew() {
    let bench = Bench::new();
    pi_image(&bench.store(), "a.img");
    let left = bench.store().join("images/.importing-7");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("root.ext4"), "half").unwrap();
    let mut running = bench.start_in_folder();
    running.opened();
    running.imported();
    assert!(!left.exists());
    let shown = running.seen.iter().any(|event| matches!(event, Event::ImportProgress { per_mille: 1000, .. }));
    assert!(shown, "{:?}", running.seen);
}

#[test]
fn a_client_is_made_while_another_image_is_imported() {
    let bench = Bench::new();
    pi_image(&bench.store(), "a.img");
    fs::copy(bench.store().join("a.img"), bench.store().join("b.img")).unwrap();
    make_another(&bench.store().join("b.img"), b"other");
    let mut running = bench.start_in_folder();
    running.opened();
    let first = running.imported();
    running.create(&client(1, &first.id));
    let imports = running.seen.iter().filter(|event| matches!(event, Event::Imported { .. })).count();
    assert_eq!(imports, 1, "the client waited for the second import");
    running.imported();
}

#[test]
fn a_file_that_is_still_being_copied_is_left_alone() {
    let bench = Bench::new();
    let whole = fs::read(pi_image(bench.folder.path(), "a.img")).unwrap();
    let mut running = bench.start_in_folder();
    running.opened();
    let copy = fs::File::create(bench.store().join("a.img")).unwrap();
    // Grows by a piece at each of the worker's looks and between them.
    for (index, piece) in whole.chunks(whole.len() / 12).enumerate() {
        copy.write_all_at(piece, (index * (whole.len() / 12)) as u64).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    running.imported();
    assert!(!running.seen.iter().any(|event| matches!(event, Event::ImportFailed { .. })));
}

#[test]
fn a_write_protected_store_is_told() {
    let bench = Bench::new();
    let file = bench.path("disk");
    fs::File::create(&file).unwrap().set_len(100 * MIB).unwrap();
    run("mke2fs", &["-q", "-t", "ext4", "-L", "ROOTSTOCK", file.to_str().unwrap()]);
    let node = run("losetup", &["-r", "-f", "--show", file.to_str().unwrap()]);
    let stick = LoopDisk { node: node.trim().into(), file };
    let mut running = Running::start(Options { extra_devices: vec![stick.name()], ..bench.options() });
    let said = running.wait("StickUnusable", |event| match event {
        Event::StickUnusable { message, .. } => Some(message.clone()),
        _ => None,
    });
    assert!(said.contains("write-protected"), "{said}");
}
