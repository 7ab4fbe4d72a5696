//! Damaged things are set aside: told with their file and the reason, never deleted; the rest serves, and what is
//! repaired is there again.
//!
//! Needs root and the tools of `store_support`.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod store_support;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rootstock::client::{ImageId, Role};
use rootstock::directory::HandleKey;
use rootstock::store::{Command, Event};
use store_support::*;

/// A store with two images and a client on each, made once for all that is done to it.
struct Made {
    bench: Bench,
    images: [ImageId; 2],
}

/// What an opening tells.
#[derive(Debug, Default)]
struct Opening {
    clients: Vec<String>,
    images: Vec<ImageId>,
    key: HandleKey,
    damaged: Vec<(String, String)>,
    addresses: Vec<std::net::Ipv4Addr>,
}

impl Made {
    fn new() -> Self {
        let bench = Bench::new();
        let root = bench.path("root");
        fs::create_dir(&root).unwrap();
        pi_root(&root);
        make_image(&bench.store().join("one.img"), &root);
        fs::write(root.join("etc/second"), "other").unwrap();
        let mut running = bench.start_in_folder();
        running.opened();
        let one = running.imported().id;
        make_image(&bench.store().join("two.img"), &root);
        let two = running.imported().id;
        running.create(&client(1, &one));
        running.create(&client(2, &two));
        running.stop();
        // Elsewhere: what is damaged must not be imported anew behind the test's back.
        for name in ["one.img", "two.img"] {
            fs::rename(bench.store().join(name), bench.path(name)).unwrap();
        }
        Self { bench, images: [one, two] }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bench.store().join(name)
    }

    fn image(&self, n: usize, name: &str) -> PathBuf {
        self.path("images").join(self.images[n].as_str()).join(name)
    }

    /// Opens the store, sees what is told, and enrols nobody.
    fn open(&self) -> (Running, Opening) {
        let mut running = self.bench.start_in_folder();
        let mut opening = running.wait("Opened", |event| match event {
            Event::Opened { images, clients, handle_key, .. } => Some(Opening {
                clients: clients.iter().map(|open| open.client.role.to_string()).collect(),
                images: images.iter().map(|image| image.id.clone()).collect(),
                key: handle_key.clone(),
                addresses: clients.iter().map(|open| open.client.address).collect(),
                damaged: Vec::new(),
            }),
            _ => None,
        });
        // All that is damaged was told before this is answered.
        running.send(Command::CreateClient(Box::new(client(1, &self.images[0]))));
        running.wait("ClientFailed", |event| match event {
            Event::Damaged { file, reason, action } => {
                assert!(!action.is_empty());
                opening.damaged.push((file.clone(), reason.clone()));
                None
            }
            Event::ClientFailed { message, .. } => {
                assert!(message.contains("exists already"), "{message}");
                Some(())
            }
            _ => None,
        });
        (running, opening)
    }

    /// Damages, opens, checks; repairs, opens, and nothing is to be told any more.
    fn check(
        &self,
        what: &str,
        damage: impl FnOnce(),
        repair: impl FnOnce(),
        file: &str,
        reason: &str,
        serves: &[&str],
    ) {
        damage();
        let (running, opening) = self.open();
        running.stop();
        let told = opening.damaged.iter().any(|(at, why)| at == file && why.contains(reason));
        assert!(told, "{what}: {opening:?}");
        assert_eq!(opening.clients, serves, "{what}: {opening:?}");
        repair();
        let (running, opening) = self.open();
        running.stop();
        assert_eq!(opening.damaged, [], "{what}, repaired");
        assert_eq!(opening.clients, ["pi-1", "pi-2"], "{what}, repaired");
        assert_eq!(opening.images.len(), 2, "{what}, repaired");
    }
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn one_damaged_file_never_stops_the_rest_and_repaired_it_is_back() {
    let made = Made::new();
    let keep = made.bench.path("kept");

    // Whatever becomes of a client's manifest.
    let manifest = made.path("clients/pi-2/client.toml");
    let good = fs::read(&manifest).unwrap();
    let half = &good[..good.len() / 2];
    let huge = vec![b'#'; 100 << 10];
    let wrong = [&b""[..], b"\xff\xfe", half, &huge, b"role = 'pi-2'\nmac = 12\n", b"role = 'pi-7'\n"];
    for bytes in wrong {
        made.check(
            &format!("client.toml of {} bytes", bytes.len()),
            || fs::write(&manifest, bytes).unwrap(),
            || {
                assert_eq!(fs::read(&manifest).unwrap(), bytes, "it is not touched");
                fs::write(&manifest, &good).unwrap();
            },
            "clients/pi-2/client.toml",
            "",
            &["pi-1"],
        );
    }
    made.check(
        "a folder for a client.toml",
        || {
            fs::remove_file(&manifest).unwrap();
            fs::create_dir(&manifest).unwrap();
        },
        || {
            fs::remove_dir(&manifest).unwrap();
            fs::write(&manifest, &good).unwrap();
        },
        "clients/pi-2/client.toml",
        "regular",
        &["pi-1"],
    );

    // An image's manifest: who runs on it goes on.
    let manifest = made.image(1, "image.toml");
    let good = fs::read(&manifest).unwrap();
    let file = format!("images/{}/image.toml", made.images[1]);
    let damage = || fs::write(&manifest, "name = ").unwrap();
    made.check("image.toml", damage, || fs::write(&manifest, &good).unwrap(), &file, "", &["pi-1", "pi-2"]);

    // An image's root and boot tree: nobody new gets it.
    let root = made.image(1, "root.ext4");
    let file = format!("images/{}", made.images[1]);
    fs::copy(&root, &keep).unwrap();
    let back = || {
        fs::copy(&keep, &root).unwrap();
    };
    made.check("superblock gone", || overwrite(&root, 1024, &[0; 1024]), back, &file, "no ext4 superblock", &["pi-1"]);
    made.check("unknown features", || overwrite(&root, 1024 + 99, &[0x80]), back, &file, "unknown", &["pi-1"]);
    let length = fs::metadata(&root).unwrap().len();
    let cut = || OpenOptions::new().write(true).open(&root).unwrap().set_len(length / 2).unwrap();
    made.check("root cut", cut, back, &file, "is cut", &["pi-1"]);
    made.check("root gone", || fs::remove_file(&root).unwrap(), back, &file, "cannot be read", &["pi-1"]);
    let (boot, away) = (made.image(1, "boot"), made.bench.path("boot"));
    let gone = || fs::rename(&boot, &away).unwrap();
    made.check("boot gone", gone, || fs::rename(&away, &boot).unwrap(), &file, "boot", &["pi-1"]);

    // The state that lives, and its layer.
    let (upper, away) = (made.path("clients/pi-1/upper"), made.bench.path("upper"));
    let gone = || fs::rename(&upper, &away).unwrap();
    let mend = || fs::rename(&away, &upper).unwrap();
    made.check("upper gone", gone, mend, "clients/pi-1", "missing", &["pi-2"]);
}

#[test]
fn what_must_be_made_anew_is_kept_in_damaged() {
    let made = Made::new();
    let (running, first) = made.open();
    running.stop();
    let good = fs::read(made.path("handle.key")).unwrap();
    fs::write(made.path("handle.key"), "no key").unwrap();
    fs::write(made.path("store.toml"), "default_image = 7").unwrap();
    let (running, second) = made.open();
    running.stop();
    assert_eq!(second.clients, ["pi-1", "pi-2"]);
    assert_ne!(second.key, first.key);
    let files: Vec<&str> = second.damaged.iter().map(|(file, _)| file.as_str()).collect();
    assert_eq!(files, ["handle.key", "store.toml"], "{second:?}");
    assert_eq!(fs::read_to_string(made.path("damaged/handle.key")).unwrap(), "no key");
    assert_eq!(fs::read_to_string(made.path("damaged/store.toml")).unwrap(), "default_image = 7");
    fs::write(made.path("handle.key"), good).unwrap();
    let (running, third) = made.open();
    running.stop();
    assert_eq!((third.key, third.damaged), (first.key, Vec::new()));
}

#[test]
fn a_damaged_image_is_made_whole_by_its_file_and_its_clients_come_back() {
    let made = Made::new();
    let root = made.image(1, "root.ext4");
    overwrite(&root, 1024, &[0; 1024]);
    let (mut running, opening) = made.open();
    assert_eq!((opening.clients, opening.images), (vec!["pi-1".to_owned()], vec![made.images[0].clone()]));
    fs::rename(made.bench.path("two.img"), made.path("two.img")).unwrap();
    assert_eq!(running.imported().id, made.images[1]);
    let back = running.wait("ClientReady", |event| match event {
        Event::ClientReady(open) => Some(open.clone()),
        _ => None,
    });
    assert_eq!(back.client.role, Role::numbered(2));
    assert_eq!(fs::read_to_string(back.root.join("etc/second")).unwrap(), "other");
    assert!(made.path("damaged/root.ext4").exists());
    running.stop();
}

#[test]
fn an_address_that_was_given_away_meanwhile_keeps_nobody_out() {
    let made = Made::new();
    let manifest = made.path("clients/pi-1/client.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("192.168.77.11", "192.168.77.12")).unwrap();
    let (running, opening) = made.open();
    running.stop();
    assert_eq!((opening.clients.len(), opening.damaged.len()), (2, 0), "{opening:?}");
    assert_eq!(opening.addresses[0], opening.addresses[1]);
}
