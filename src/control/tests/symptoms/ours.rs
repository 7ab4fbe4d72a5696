//! Hints of our own, which the notes have no number for: a script for each.

use super::asking::asks_on;
use super::starting::kernel;
use super::*;

pub(super) const OURS: &[(MacAddr, Hint, Play)] = &[
    (PI4, Hint::NobodyLeases, |pi| {
        asks_on(pi.beside(false).beside(true));
    }),
    (PI4, Hint::NoLease, |pi| asks_on(pi.beside(false))),
    (PI4, Hint::OffersUnheard, asks_on),
    (PI4, Hint::StickAway, |pi| {
        pi.event(Event::Store(store::Event::Closed { name: "Stick".to_owned() }));
        asks_on(pi);
    }),
    (PI4, Hint::AddressClaimed, |pi| {
        pi.times(9, 5, |pi| {
            let address = pi.control.members.values().next().unwrap().client.address;
            pi.discovers();
            pi.says(pi.loader(DECLINE).address(54, US).address(50, address));
        });
    }),
    (PI4, Hint::StickUnreadable, |pi| {
        pi.leased().fetches(&["config.txt"]).found("kernel8.img");
        pi.tftp(|address, path| tftp::Event::Failed { address, path, error: "i/o".to_owned() }, "kernel8.img").wait(60);
    }),
    (PI4, Hint::SamePlace, |pi| {
        pi.times(4, 20, |pi| {
            pi.leased().fetches(&["config.txt"]).stopped("initramfs8", 5120, 9_000_000, false);
        });
    }),
    (PI4, Hint::PowerLost, |pi| {
        for n in 1..=4 {
            pi.leased().fetches(&["config.txt"]).found("start4.elf").wait(3).progress(70_000 * n).wait(3);
        }
        pi.discovers();
    }),
    (PI4, Hint::BrokeOff, |pi| {
        for n in 1..=4 {
            pi.leased().fetches(&["config.txt"]).stopped("start4.elf", 5120 * n, 2_000_000, false).wait(25);
        }
        pi.discovers();
    }),
    (PI4, Hint::StoppedStarting, |pi| {
        kernel(pi).mounted().event(Event::Net(net::Event::Carrier(true))).wait(60);
    }),
    (PI4, Hint::FilesChanged, |pi| {
        kernel(pi).mounted().wait(5).nfs(nfs::Event::BadHandle { address: ITS, count: 3, reason: "x" }).wait(310);
    }),
    (PI4, Hint::Unknown, |pi| {
        kernel(pi).mounted().wait(310);
    }),
];
