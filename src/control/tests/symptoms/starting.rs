//! Symptoms of boards whose kernel runs.

use super::*;

pub(super) const SYMPTOMS: &[Symptom] = &[
    (
        31,
        "\"Retrying forever (NFS root)\"",
        &[Stuck(&[(PI4, Hint::KernelUnheard, |pi| {
            pi.leased().loads().times(9, 6, |pi| {
                pi.kernel_discovers();
            });
        })])],
    ),
    (
        32,
        "version 2 asked of a server of 3",
        &[Stuck(&[(PI4, Hint::NfsTwo, |pi| {
            kernel(pi).ports(&[(nfs::PROGRAM, 2), (nfs::MOUNT_PROGRAM, 1)]).wait(100);
        })])],
    ),
    (
        33,
        "nfsmount: bad option",
        &[Stuck(&[
            (PI4, Hint::MountsNothing, |pi| {
                kernel(pi).wait(95);
            }),
            (PI5, Hint::NfsFour, |pi| {
                let (address, program, version) = (ITS, nfs::PROGRAM, 4);
                kernel(pi).times(3, 5, |pi| {
                    pi.nfs(nfs::Event::VersionRefused { address, program, version });
                });
                pi.wait(90);
            }),
        ])],
    ),
    (
        34,
        "MNT denied",
        &[Stuck(&[
            (PI4, Hint::NotItsRoot, |pi| denied(pi, Refusal::NotAnExport)),
            (PI4, Hint::TreeAway, |pi| denied(pi, Refusal::NotMounted)),
            (PI4, Hint::HighPort, |pi| denied(pi, Refusal::Unprivileged)),
        ])],
    ),
    (
        35,
        "starts, then \"nfs: server not responding\"",
        &[Stuck(&[
            (PI4, Hint::NetworkLost, |pi| {
                kernel(pi).mounted().wait(5).works().kernel_leased().wait(310);
            }),
            (PI4, Hint::LeaseMoved, |pi| {
                kernel(pi).mounted().wait(5).works();
                let other = Ipv4Addr::new(192, 168, 77, 99);
                pi.says(packets::kernel_of(REQUEST, PI4).address(50, other)).wait(310);
            }),
        ])],
    ),
    (
        36,
        "stands for 50 s before the mount",
        &[Stuck(&[(PI4, Hint::CallsLost, |pi| {
            kernel(pi).times(6, 8, |pi| {
                pi.ports(&[(nfs::MOUNT_PROGRAM, 3)]);
            });
            pi.wait(95);
        })])],
    ),
    (
        37,
        "the first boot loops",
        &[Stuck(&[(PI4, Hint::RestartsAgain, |pi| {
            pi.times(4, 30, |pi| {
                kernel(pi).mounted().wait(5).works();
            });
        })])],
    ),
    (38, "modules do not load after an upgrade", &[Unseen]),
    (39, "containers: invalid argument", &[Unseen]),
];

pub(super) fn kernel(pi: &mut Script) -> &mut Script {
    pi.leased().loads().wait(5).kernel_leased()
}

fn denied(pi: &mut Script, reason: Refusal) {
    kernel(pi).times(40, 1, |pi| {
        pi.ports(&[(nfs::MOUNT_PROGRAM, 3)]).refused(reason);
    });
}
