//! The store's side of quotas and the reserve: measured, and told before it hurts.
//!
//! Needs root and the tools of `store_support`.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod store_support;

use std::fs;

use rootstock::client::Client;
use rootstock::quota::Level;
use rootstock::size::Size;
use rootstock::store::Event;
use store_support::*;

fn level(running: &mut Running) -> (Level, u64) {
    running.wait("Quota", |event| match event {
        Event::Quota { level, used_bytes, .. } => Some((*level, *used_bytes)),
        _ => None,
    })
}

#[test]
fn a_client_that_comes_near_its_quota_is_told_and_so_is_its_relief() {
    let bench = Bench::new();
    let root = bench.path("root");
    pi_root(&root);
    make_image(&bench.store().join("pi.img"), &root);
    let mut running = bench.start_in_folder();
    running.opened();
    let image = running.imported();
    let limited = Client { quota: Some(Size(16 << 20)), ..client(1, &image.id) };
    let open = running.create(&limited);
    let account = open.account.clone().unwrap();
    assert_eq!(account.quota(), Some(16 << 20));
    // Behind NFS's back: only a measurement sees it.
    fs::write(open.root.join("large"), vec![1; 15 << 20]).unwrap();
    account.doubt(1 << 30);
    let (near, used) = level(&mut running);
    assert_eq!(near, Level::Near);
    assert!(((15 << 20)..(16 << 20)).contains(&used), "{used}");
    fs::remove_file(open.root.join("large")).unwrap();
    account.doubt(1 << 30);
    assert_eq!(level(&mut running).0, Level::Fine);
    running.stop();

    // Its figures are measured anew when the store is opened, and a changed quota holds.
    let manifest = bench.store().join("clients/pi-1/client.toml");
    let text = fs::read_to_string(&manifest).unwrap().replace("16M", "20M");
    fs::write(&manifest, text).unwrap();
    let large = bench.store().join("clients/pi-1/upper/large");
    fs::write(large, vec![1; 21 << 20]).unwrap();
    let mut running = bench.start_in_folder();
    let (_, clients) = running.opened();
    assert_eq!(clients[0].account.as_ref().unwrap().quota(), Some(20 << 20));
    assert_eq!(level(&mut running).0, Level::Full);
}
