//! The stick: its store, its images, and copies of it.

use super::*;

#[test]
fn a_partition_is_made_only_after_a_held_press_and_a_file_after_any() {
    let prepared = |place, gesture| {
        let mut bench = Bench::new();
        let name = "Stick".to_owned();
        bench.event(Event::Store(store::Event::NeedsConfirmation { name, free_bytes: 1 << 33, place }));
        let actions = bench.control.handle(bench.now, Event::Panel(panel::Event::Pressed(gesture)));
        actions.iter().any(|action| matches!(action, Action::Store(store::Command::Prepare)))
    };
    assert!(!prepared(status::NewPlace::Partition, Gesture::Short(Button::Enroll)));
    assert!(prepared(status::NewPlace::Partition, Gesture::Long(Button::Enroll)));
    assert!(prepared(status::NewPlace::File, Gesture::Short(Button::Enroll)));
    assert!(prepared(status::NewPlace::File, Gesture::Long(Button::Enroll)));
}

#[test]
fn a_store_is_made_without_a_press_only_where_that_is_set() {
    let asks =
        |place| Event::Store(store::Event::NeedsConfirmation { name: "Ultra".to_owned(), free_bytes: 1 << 40, place });
    let prepares =
        |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::Store(store::Command::Prepare)));
    for (ask, place, expected) in [
        (true, status::NewPlace::File, false),
        (true, status::NewPlace::Partition, false),
        (false, status::NewPlace::File, true),
        (false, status::NewPlace::Partition, true),
        // That would put an old state in the place of a newer one.
        (false, status::NewPlace::Copy, false),
    ] {
        let config = Config { store: config::Store { ask, ..Config::default().store }, ..Config::default() };
        let mut control = Control::new(config, &[]);
        let actions = control.handle(Duration::from_secs(9), asks(place));
        assert_eq!(prepares(&actions), expected, "{ask} {place:?}");
        let shown = control.status(Duration::from_secs(9)).stick;
        assert_eq!(matches!(shown, Stick::NeedsConfirmation { .. }), !expected);
    }
}

#[test]
fn handles_of_the_store_before_are_known_until_a_copy_of_it_stands_in() {
    let mut bench = Bench::new();
    let mut keys = |key: u8, stands_in: bool| {
        let mut store = opened(vec![]);
        if let store::Event::Opened { handle_key, .. } = &mut store {
            *handle_key = HandleKey([key; 16]);
        }
        let mut actions = bench.control.handle(bench.now, Event::Store(store));
        if stands_in {
            actions.extend(bench.control.handle(bench.now, Event::Store(store::Event::OtherFiles { roles: vec![] })));
        }
        let directory = actions.into_iter().rev().find_map(|action| match action {
            Action::Publish(directory) => Some(directory),
            _ => None,
        });
        let directory = directory.unwrap();
        assert_eq!(directory.handle_key, HandleKey([key; 16]));
        directory.former_keys.into_iter().map(|key| key.0[0]).collect::<Vec<_>>()
    };
    assert_eq!(keys(1, false), [0u8; 0]);
    assert_eq!(keys(2, false), [1]);
    assert_eq!(keys(2, false), [1]);
    assert_eq!(keys(1, false), [2]);
    for (key, expected) in [(3, &[1, 2][..]), (4, &[3, 1, 2]), (5, &[4, 3, 1, 2]), (6, &[5, 4, 3, 1])] {
        assert_eq!(keys(key, false), expected);
    }
    assert_eq!(keys(7, true), [0u8; 0]);
}

#[test]
fn a_client_of_another_store_with_the_same_name_begins_as_one_that_is_off() {
    let stage = |mac: MacAddr| {
        let (mut bench, address) = one_client();
        bench.event(mounted(address));
        assert_eq!(bench.stage(), Stage::RootMounted);
        bench.event(Event::Store(store::Event::Closed { name: "Stick".to_owned() }));
        bench.event(Event::Store(opened(vec![Client { mac, ..enrolled() }])));
        bench.stage()
    };
    assert_eq!(stage(MAC), Stage::RootMounted);
    assert_eq!(stage(known().mac), Stage::Off);
}

fn failed(file: &str) -> Event {
    let (message, action) = ("is cut short".to_owned(), "Copy it again".to_owned());
    Event::Store(store::Event::ImportFailed { file: file.to_owned(), message, action })
}

#[test]
fn each_broken_image_is_told_until_it_is_tried_again_or_its_stick_is_gone() {
    let mut bench = Bench::with_store(Vec::new());
    let check = |bench: &Bench, expected: &[&str]| {
        let problems = bench.control.status(bench.now).problems;
        assert_eq!(problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>(), expected);
    };
    bench.event(failed("a.img")).event(failed("b.img"));
    check(&bench, &["a.img: is cut short", "b.img: is cut short"]);
    // Another file that is good mends neither.
    bench.event(Event::Store(store::Event::Imported { image: image() }));
    check(&bench, &["a.img: is cut short", "b.img: is cut short"]);
    let again = store::Event::ImportProgress { file: "a.img".to_owned(), per_mille: 0, left: None };
    bench.event(Event::Store(again));
    check(&bench, &["b.img: is cut short"]);
    let image = image().id;
    bench.event(Event::Store(store::Event::AlreadyThere { file: "c.img".to_owned(), image: image.clone() }));
    check(&bench, &["b.img: is cut short", &format!("c.img is the image {image}, which is there already")]);
    bench.event(Event::Store(store::Event::StickAbsent));
    check(&bench, &[]);
}

#[test]
fn that_nothing_is_kept_stays_told_first_whatever_else_the_stick_does_until_it_is_closed() {
    let mut bench = Bench::with_store(Vec::new());
    let told = |bench: &Bench| -> Vec<String> {
        bench.control.status(bench.now).problems.into_iter().map(|problem| problem.message).collect()
    };
    let said = |message: &str| {
        let (message, action) = (message.to_owned(), "Do it".to_owned());
        Event::Store(store::Event::Problem { message, action })
    };
    let (message, action) = ("Stick takes no writes any more".to_owned(), "Check its lock".to_owned());
    let not_kept = || Event::Store(store::Event::NotKept { message: message.clone(), action: action.clone() });
    bench.event(not_kept()).event(said("sdb1 cannot be read")).event(said("No import")).event(failed("a.img"));
    assert_eq!(told(&bench), [&message, "No import", "a.img: is cut short"]);
    bench.event(not_kept());
    assert_eq!(told(&bench), [&message, "No import", "a.img: is cut short"]);
    bench.event(Event::Store(store::Event::Closed { name: "Stick".to_owned() }));
    assert!(!told(&bench).contains(&message), "another stick may take writes");
}

#[test]
fn a_second_stick_becomes_a_copy_by_a_held_press_while_it_is_offered() {
    let offered = |wait: u64, gesture| {
        let mut bench = Bench::with_store(vec![enrolled()]);
        let offer = store::BackupOffer::New;
        bench.event(Event::Store(store::Event::BackupOffered { name: "Second".to_owned(), offer }));
        bench.pass(wait);
        let actions = bench.control.handle(bench.now, Event::Panel(panel::Event::Pressed(gesture)));
        actions.iter().any(|action| matches!(action, Action::Store(store::Command::Backup)))
    };
    assert!(offered(5, Gesture::Long(Button::Enroll)));
    assert!(!offered(5, Gesture::Short(Button::Enroll)), "a short press is about Pis");
    assert!(!offered(121, Gesture::Long(Button::Enroll)), "so is a held one, later");
}

#[test]
fn a_command_has_the_second_stick_copied_at_any_time_and_is_told_the_end() {
    let mut bench = Bench::with_store(vec![enrolled()]);
    let order = |bench: &mut Bench, ticket| {
        let order = crate::orders::Order { request: crate::orders::Request::Backup, force: false };
        bench.control.handle(bench.now, Event::Orders(crate::orders::Event::Ordered { ticket, order }))
    };
    let answers = |actions: &[Action]| -> Vec<(u64, bool)> {
        let answer = |action: &Action| match action {
            Action::Answer(ticket, reply) => Some((*ticket, matches!(**reply, crate::orders::Reply::Outcome(_)))),
            _ => None,
        };
        actions.iter().filter_map(answer).collect()
    };
    let copies = |actions: &[Action]| actions.iter().any(|a| matches!(a, Action::Store(store::Command::Backup)));
    assert_eq!(answers(&order(&mut bench, 1)), [(1, false)], "there is no second stick");
    let name = || "Second".to_owned();
    let offer = store::BackupOffer::New;
    bench.event(Event::Store(store::Event::BackupOffered { name: name(), offer }));
    bench.pass(600);
    let actions = order(&mut bench, 2);
    assert!(copies(&actions) && answers(&actions).is_empty());
    bench.event(Event::Store(store::Event::BackupProgress { name: name(), per_mille: 0 }));
    assert!(!copies(&order(&mut bench, 3)), "it runs already");
    let ended = Event::Store(store::Event::BackedUp { name: name(), taken: 1, bytes: 1 });
    assert_eq!(answers(&bench.control.handle(bench.now, ended)), [(2, true), (3, true)]);
    order(&mut bench, 4);
    let pulled = bench.control.handle(bench.now, Event::Store(store::Event::Closed { name: name() }));
    assert_eq!(answers(&pulled), [(4, false)]);
}

#[test]
fn who_runs_on_files_that_are_gone_is_named_until_it_boots() {
    let mut bench = Bench::with_store(vec![enrolled()]);
    let named = |bench: &Bench| {
        let problems = bench.control.status(bench.now).problems;
        problems.iter().any(|problem| problem.action == "Switch it off and on")
    };
    bench.event(Event::Store(store::Event::OtherFiles { roles: vec![enrolled().role] }));
    bench.pass(1);
    assert!(!named(&bench), "a client that is off has no files open");
    bench.event(Event::Store(store::Event::Up { role: enrolled().role }));
    bench.pass(1);
    assert!(named(&bench));
    bench.control.sign_role(bench.now, &enrolled().role, Sign::BootloaderAsks, &mut Vec::new());
    assert!(!named(&bench));
    bench.event(Event::Store(store::Event::Up { role: enrolled().role }));
    bench.pass(1);
    assert!(!named(&bench), "what booted since has the files of now");
}

#[test]
fn a_copy_that_runs_is_shown_until_it_ends_and_its_failure_says_what_to_do() {
    let mut bench = Bench::with_store(vec![enrolled()]);
    let name = || "Second".to_owned();
    bench.event(Event::Store(store::Event::BackupProgress { name: name(), per_mille: 100 }));
    bench.pass(600);
    let running = status::Backup::Running { name: name(), per_mille: 100 };
    assert_eq!(bench.control.status(bench.now).backup, Some(running));
    let (message, action) = ("it was pulled".to_owned(), "Begin again".to_owned());
    bench.event(Event::Store(store::Event::BackupFailed { name: name(), message, action }));
    let status = bench.control.status(bench.now);
    assert_eq!((status.backup, status.problems[0].action.as_str()), (None, "Begin again"));
    bench.event(Event::Store(store::Event::BackedUp { name: name(), taken: 1, bytes: 1 }));
    assert_eq!(bench.control.status(bench.now).backup, Some(status::Backup::Done { name: name() }));
    bench.pass(121);
    assert_eq!(bench.control.status(bench.now).backup, None);
}

#[test]
fn the_stick_is_let_go_of_only_where_a_store_is_open_and_clients_wait_for_it() {
    let releases = |actions: &[Action]| {
        actions.iter().filter(|action| matches!(action, Action::Store(store::Command::Release))).count()
    };
    let mut bench = Bench::new();
    assert_eq!(releases(&wish(&mut bench, panel::Wish::Release)), 0);
    let (mut bench, _) = one_client();
    assert_eq!(releases(&wish(&mut bench, panel::Wish::Release)), 1);
    let name = "Stick".to_owned();
    let actions = bench.control.handle(bench.now, Event::Store(store::Event::Releasing { name: name.clone() }));
    assert!(actions.iter().any(|action| matches!(action, Action::ReleaseTrees)));
    assert!(!actions.iter().any(|action| matches!(action, Action::Publish(_))), "their handles stay good");
    bench.event(Event::Store(store::Event::Released { name: name.clone() }));
    assert_eq!(bench.control.status(bench.now).stick, Stick::Released { name });
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert!(bench.sent.is_empty(), "nobody boots from a stick that is going");
}
