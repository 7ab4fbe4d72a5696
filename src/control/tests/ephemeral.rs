//! Clients whose root is made anew at each boot.

use super::*;

#[test]
fn an_ephemeral_client_is_answered_when_its_root_is_fresh() {
    let mut bench = Bench::with_store(vec![ephemeral()]);
    assert_eq!((bench.directory.clients.len(), bench.renewed), (1, 0), "it may be running: it is served as it was");
    bench.asks(discover(MAC, Asker::PiEeprom)).probed(None);
    assert_eq!((bench.directory.clients.len(), bench.renewed), (0, 1), "its former run is served no more");
    assert!(bench.sent.is_empty());
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.renewed, 1, "a repeated DISCOVER is the same boot");
    bench.event(Event::Store(store::Event::ClientReady(open(ephemeral()))));
    assert_eq!((bench.sent.as_slice(), bench.directory.clients.len()), (&[Answer::Offer][..], 1));
    bench.event(Event::Nfs(nfs::Event::Mounted { address: ephemeral().address, tree: Tree::Root }));
    assert_eq!(bench.renewed, 1);
    // Its next boot.
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.renewed, 2);
}

#[test]
fn an_ephemeral_client_that_runs_through_our_restart_keeps_its_root() {
    let mut bench = Bench::with_store(vec![ephemeral()]);
    let address = ephemeral().address;
    bench.event(Event::Nfs(nfs::Event::Traffic { address, calls: 1, read_bytes: 0, written_bytes: 0 }));
    bench.asks(discover(MAC, Asker::Other)).probed(None);
    assert_eq!((bench.renewed, bench.directory.clients.len()), (0, 1));
}

#[test]
fn a_boot_that_began_without_the_stick_gets_a_fresh_root_when_it_is_back() {
    let mut bench = Bench::with_store(vec![ephemeral()]);
    bench.event(Event::Store(store::Event::Closed { name: "Stick".to_owned() }));
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.renewed, 0);
    bench.event(Event::Store(opened(vec![ephemeral()])));
    assert_eq!((bench.renewed, bench.directory.clients.len()), (1, 0));
}

#[test]
fn a_root_that_could_not_be_made_fresh_is_tried_again_and_the_client_stays() {
    let mut bench = Bench::with_store(vec![ephemeral()]);
    bench.asks(discover(MAC, Asker::PiEeprom));
    let (message, action) = ("full".to_owned(), "Remove something".to_owned());
    bench.event(Event::Store(store::Event::ClientFailed { role: ephemeral().role, message, action }));
    assert_eq!(bench.control.status(bench.now).clients.len(), 1);
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert_eq!((bench.renewed, bench.sent.len()), (2, 0));
}
