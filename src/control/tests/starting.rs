//! A script for each hint of a board whose kernel runs, and good boots that give none.

use super::script::*;
use super::*;
use crate::dhcp::packets::{self, PI3, PI4, PI5};
use crate::diagnose::Hint;
use crate::nfs::Refusal;

#[test]
fn a_kernel_that_does_not_get_its_root_tells_why() {
    let kernel: fn(&mut Script) -> &mut Script = |pi| pi.leased().loads().wait(5).kernel_leased();
    check(PI4, Hint::KernelUnheard, |pi| {
        pi.leased().loads().times(9, 6, |pi| {
            pi.kernel_discovers();
        });
    });
    for asked in [[(nfs::PROGRAM, 2), (nfs::MOUNT_PROGRAM, 1)], [(nfs::MOUNT_PROGRAM, 1), (nfs::MOUNT_PROGRAM, 1)]] {
        let mut script = Script::new(PI4);
        kernel(&mut script).ports(&asked).wait(100);
        assert_eq!(script.hint(), Some(Hint::NfsTwo));
    }
    let four = |pi: &mut Script| {
        kernel(pi);
        let (address, program, version) = (ITS, nfs::PROGRAM, 4);
        pi.times(9, 5, |pi| {
            pi.nfs(nfs::Event::VersionRefused { address, program, version });
        });
    };
    let mut script = Script::new(PI5);
    four(&mut script);
    assert_eq!(script.hint(), Some(Hint::NfsFour));
    for (reason, hint) in [
        (Refusal::NotAnExport, Hint::NotItsRoot),
        (Refusal::NoSuchFolder, Hint::NotItsRoot),
        (Refusal::NotMounted, Hint::TreeAway),
        (Refusal::Unprivileged, Hint::HighPort),
    ] {
        let mut script = Script::new(PI4);
        kernel(&mut script).times(40, 1, |pi| {
            pi.ports(&[(nfs::MOUNT_PROGRAM, 3)]).refused(reason);
        });
        assert_eq!(script.hint(), Some(hint), "{reason}");
    }
    let mut script = Script::new(PI4);
    kernel(&mut script)
        .times(6, 8, |pi| {
            pi.ports(&[(nfs::MOUNT_PROGRAM, 3)]);
        })
        .wait(95);
    assert_eq!(script.hint(), Some(Hint::CallsLost));
    let mut script = Script::new(PI4);
    kernel(&mut script).wait(95);
    assert_eq!(script.hint(), Some(Hint::MountsNothing));
}

#[test]
fn a_system_that_starts_and_falls_silent_tells_why() {
    let starts: fn(&mut Script) -> &mut Script = |pi| pi.leased().loads().wait(5).kernel_leased().mounted().wait(5);
    let mut script = Script::new(PI4);
    starts(&mut script).works().kernel_leased().wait(310);
    assert_eq!(script.hint(), Some(Hint::NetworkLost));
    let mut script = Script::new(PI4);
    starts(&mut script).works();
    script.says(packets::kernel_of(REQUEST, PI4).address(50, Ipv4Addr::new(192, 168, 77, 99))).wait(310);
    assert_eq!(script.hint(), Some(Hint::LeaseMoved));
    let mut script = Script::new(PI4);
    starts(&mut script).nfs(nfs::Event::BadHandle { address: ITS, count: 3, reason: "x" }).wait(310);
    assert_eq!(script.hint(), Some(Hint::FilesChanged));
    let mut script = Script::new(PI4);
    script.times(4, 30, |pi| {
        starts(pi).works();
    });
    assert_eq!(script.hint(), Some(Hint::RestartsAgain));
    let mut script = Script::new(PI4);
    starts(&mut script).wait(310);
    assert_eq!(script.hint(), Some(Hint::Unknown), "no rule says why");
    assert!(script.log.iter().any(|line| line.contains("report saved")));
}

#[test]
fn a_good_boot_never_shows_a_hint() {
    for mac in [PI3, PI4, PI5] {
        let mut script = Script::new(mac);
        // Three boots, as an update of the EEPROM or a person may want them.
        for _ in 0..3 {
            script.leased().loads();
            assert_eq!(script.hint(), None);
            script.wait(4).kernel_leased().wait(1).mounted();
            script.times(30, 1, |pi| {
                assert_eq!(pi.works().hint(), None);
            });
            script.kernel_leased().works();
            script.event(Event::Store(store::Event::Up { role: Role::numbered(1) }));
            script.times(30, 40, |pi| assert_eq!(pi.hint(), None));
        }
        assert!(!script.log.iter().any(|line| line.contains("is stuck")), "{:#?}", script.log);
    }
}

#[test]
fn a_stall_ends_when_the_boot_comes_further() {
    let mut script = Script::new(PI4);
    script.times(9, 5, |pi| {
        pi.discovers();
    });
    assert_eq!(script.hint(), Some(Hint::OffersUnheard));
    script.discovers();
    assert_eq!(script.hint(), Some(Hint::OffersUnheard), "the same again is no progress");
    script.requests(US).loads();
    assert_eq!(script.hint(), None);
    let mut script = Script::new(PI4);
    script.leased().loads().wait(70);
    assert_eq!(script.hint(), Some(Hint::KernelSilent));
    script.discovers();
    assert_eq!(script.hint(), None, "switched off and on");
}
