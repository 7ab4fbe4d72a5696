//! Stages by table, with a moved clock.

use super::*;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn check(signs: impl IntoIterator<Item = (u64, Sign)>, expected: Stage) -> Boot {
    let mut boot = Boot::default();
    for (seconds, sign) in signs {
        boot.poll(at(seconds));
        boot.observe(at(seconds), sign);
    }
    assert_eq!(*boot.stage(), expected);
    boot
}

fn file(path: &str) -> Sign {
    Sign::FileAsked { path: path.to_owned() }
}

fn loading(bytes: u64, bytes_per_second: u64, file: &str) -> Stage {
    Stage::Loading { bytes, total: None, bytes_per_second, file: file.to_owned() }
}

#[test]
fn a_boot_runs_through_every_stage() {
    use Sign::*;
    let begin = [(1, BootloaderAsks), (2, Leased), (3, file("start4.elf")), (4, FileSent { bytes: 10 })];
    check(begin.clone(), loading(10, 10, "start4.elf"));
    let more = [(5, file("kernel8.img")), (6, FileProgress { bytes: 50 }), (7, FileSent { bytes: 90 })];
    check(begin.clone().into_iter().chain(more[..2].to_vec()), loading(60, 20, "kernel8.img"));
    check(begin.clone().into_iter().chain(more.clone()), loading(100, 25, "kernel8.img"));
    let kernel = [(10, KernelAsks), (10, Leased)];
    check(begin.clone().into_iter().chain(more.clone()).chain(kernel.clone()), Stage::Kernel);
    let rest = [(12, RootMounted), (13, Traffic), (31, Up), (99, SystemAsks)];
    let all = begin.into_iter().chain(more).chain(kernel).chain(rest);
    check(all.clone(), Stage::Running { after: Some(at(30)) });
    check(all.take(12), Stage::Up { after: Some(at(30)) });
}

#[test]
fn who_asks_tells_the_kernel_from_the_initramfs_and_from_the_system() {
    use Sign::*;
    let cases: [(&[Sign], Stage); 8] = [
        (&[BootloaderAsks, KernelAsks], Stage::Kernel),
        (&[BootloaderAsks, KernelAsks, InitramfsAsks], Stage::Initramfs),
        // Debian 13's initramfs has another client: no system runs before its root is mounted.
        (&[BootloaderAsks, KernelAsks, SystemAsks], Stage::Initramfs),
        (&[RootMounted, SystemAsks], Stage::RootMounted),
        (&[RootMounted, Up, SystemAsks], Stage::Up { after: None }),
        // A reboot whose loader we did not hear.
        (&[RootMounted, Up, InitramfsAsks], Stage::Initramfs),
        // Of a client that ran before us nothing follows from its renewal.
        (&[SystemAsks], Stage::Off),
        (&[SystemAsks, Traffic], Stage::Running { after: None }),
    ];
    for (signs, expected) in cases {
        check(signs.iter().cloned().map(|sign| (1, sign)), expected);
    }
}

#[test]
fn a_late_request_of_the_kernel_does_not_undo_the_mount_and_a_reboot_does() {
    check([(20, Sign::KernelAsks), (20, Sign::RootMounted), (21, Sign::KernelAsks)], Stage::RootMounted);
    check([(20, Sign::KernelAsks), (20, Sign::RootMounted), (31, Sign::KernelAsks)], Stage::Kernel);
}

#[test]
fn a_file_that_was_given_up_does_not_count() {
    use Sign::*;
    let signs = [(1, file("a")), (2, FileProgress { bytes: 7 }), (3, file("b")), (4, FileSent { bytes: 2 })];
    let boot = check(signs, loading(2, 0, "b"));
    assert_eq!(boot.loaded(), 2);
}

#[test]
fn loading_is_measured_by_what_the_boot_is_known_to_need() {
    let mut boot = Boot::default();
    boot.expect(Some(200));
    boot.observe(at(1), Sign::BootloaderAsks);
    boot.observe(at(2), file("kernel8.img"));
    boot.observe(at(4), Sign::FileSent { bytes: 100 });
    assert_eq!(boot.stage().per_mille(), Some(500));
}

#[test]
fn a_repeated_discover_does_not_begin_a_new_boot() {
    use Sign::*;
    check(
        [(1, BootloaderAsks), (6, BootloaderAsks), (7, Leased), (8, BootloaderAsks), (9, Up)],
        Stage::Up { after: Some(at(8)) },
    );
}

#[test]
fn bootcode_asking_again_is_the_same_boot() {
    use Sign::*;
    let first = [(1, BootloaderAsks), (2, Leased), (3, file("bootcode.bin")), (4, BootloaderAsks), (5, Leased)];
    check(first.into_iter().chain([(41, Up)]), Stage::Up { after: Some(at(40)) });
}

#[test]
fn a_reboot_starts_over() {
    use Sign::*;
    let boot = check(
        [(1, BootloaderAsks), (2, file("a")), (3, FileSent { bytes: 9 }), (5, Up), (100, BootloaderAsks), (110, Up)],
        Stage::Up { after: Some(at(10)) },
    );
    assert_eq!(boot.loaded(), 0);
}

#[test]
fn silence_stalls_with_the_place_and_a_hint() {
    let mut boot = check([(1, Sign::BootloaderAsks)], Stage::Discovered);
    assert_eq!(boot.deadline(), Some(at(41)));
    assert!(!boot.poll(at(40)));
    assert!(boot.poll(at(41)));
    assert!(matches!(boot.stage(), Stage::Stalled { at, .. } if at == "asking"));
    assert!(boot.observe(at(50), file("start4.elf")), "a sign of life ends the stall");
}

#[test]
fn a_running_client_is_recognised_after_a_restart_of_the_server() {
    check([(1, Sign::Traffic)], Stage::Running { after: None });
    check([(1, Sign::RootMounted), (2, Sign::Traffic)], Stage::RootMounted);
}

/// Asks whenever that is due, and takes the same answer each time.
fn ask(boot: &mut Boot, from: u64, to: u64, answer: Sign) -> usize {
    let mut asked = 0;
    for second in from..to {
        boot.poll(at(second));
        if boot.ask_at().is_some_and(|due| at(second) >= due) {
            boot.asked(at(second));
            asked += 1;
            boot.observe(at(second), answer.clone());
        }
    }
    asked
}

#[test]
fn a_silent_client_that_answers_arp_is_still_there() {
    let mut boot = check([(1, Sign::Up)], Stage::Up { after: None });
    assert_eq!(ask(&mut boot, 1, 301, Sign::Answers), 9);
    assert_eq!(*boot.stage(), Stage::Running { after: None });
}

#[test]
fn a_client_is_gone_after_three_unanswered_questions_and_comes_back_by_a_sign() {
    let mut boot = check([(1, Sign::BootloaderAsks), (21, Sign::Up)], Stage::Up { after: Some(at(20)) });
    assert_eq!(ask(&mut boot, 21, 61, Sign::Silent), 2);
    assert!(boot.stage().is_up());
    assert_eq!(ask(&mut boot, 61, 600, Sign::Silent), 1);
    assert_eq!((boot.stage(), boot.since(at(71))), (&Stage::Gone, at(10)));
    assert!(boot.observe(at(90), Sign::Traffic));
    assert_eq!(*boot.stage(), Stage::Running { after: Some(at(20)) });
}

#[test]
fn one_that_ran_before_we_did_comes_back_as_running() {
    let mut boot = check([(1, Sign::Traffic)], Stage::Running { after: None });
    ask(&mut boot, 1, 99, Sign::Silent);
    assert_eq!(*boot.stage(), Stage::Gone);
    boot.observe(at(120), Sign::Traffic);
    assert_eq!((boot.stage(), boot.deadline()), (&Stage::Running { after: None }, None));
}

#[test]
fn an_unmount_has_it_asked_for_at_once_and_a_loader_is_never_asked_for() {
    let boot = check([(1, Sign::Up), (100, Sign::Traffic), (100, Sign::Unmounted)], Stage::Running { after: None });
    assert_eq!(boot.ask_at(), Some(at(100)));
    for sign in [Sign::BootloaderAsks, file("a"), Sign::KernelAsks] {
        let mut boot = Boot::default();
        boot.observe(at(1), sign);
        assert_eq!(boot.ask_at(), None);
    }
}

#[test]
fn an_answer_to_an_old_question_is_no_silence() {
    let mut boot = check([(1, Sign::Up)], Stage::Up { after: None });
    for second in 2..9 {
        boot.observe(at(second), Sign::Silent);
    }
    assert!(boot.stage().is_up());
}

#[test]
fn a_reset_of_one_that_is_not_up_means_nothing_and_a_word_of_a_new_boot_takes_it_back() {
    let mut boot = check([(1, Sign::RootMounted), (2, Sign::Reset)], Stage::RootMounted);
    assert_eq!(boot.deadline(), Some(at(301)));
    boot.observe(at(3), Sign::Up);
    assert_eq!(boot.deadline(), Some(at(63)), "what was before it was up is past");
    boot.observe(at(70), Sign::Reset);
    boot.observe(at(71), Sign::BootloaderAsks);
    assert_eq!(boot.deadline(), Some(at(111)));
}
