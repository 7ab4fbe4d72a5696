//! Recovery cards.

use super::*;

/// The recovery card that is shown, told by the store to be offered.
fn card_offered(bench: &mut Bench) -> status::Card {
    let offered = store::CardEvent::Offered { name: "Reader".to_owned(), bytes: 1 << 35, boards: "Pi 4, 400" };
    bench.event(Event::Store(store::Event::Card(offered)));
    bench.control.status(bench.now).card.unwrap()
}

fn writes_card(bench: &mut Bench, event: panel::Event) -> bool {
    let actions = bench.control.handle(bench.now, Event::Panel(event));
    actions.iter().any(|action| matches!(action, Action::Store(store::Command::WriteCard)))
}

#[test]
fn a_recovery_card_is_written_when_its_own_page_was_confirmed_and_once() {
    let mut bench = Bench::with_store(vec![enrolled()]);
    let wish = |name: &str| panel::Event::Wished(panel::Wish::WriteCard(name.to_owned()));
    let card = |event| Event::Store(store::Event::Card(event));
    assert!(!writes_card(&mut bench, wish("Reader")), "nothing is offered");
    assert!(card_offered(&mut bench).shown);
    // Without its page in sight a press is about Pis.
    for gesture in [Gesture::Short(Button::Enroll), Gesture::Long(Button::Enroll)] {
        assert!(!writes_card(&mut bench, panel::Event::Pressed(gesture)));
    }
    assert!(!writes_card(&mut bench, wish("Another")), "another disk was seen");
    assert!(writes_card(&mut bench, wish("Reader")));
    assert!(!writes_card(&mut bench, wish("Reader")), "it is being written");
    bench.event(card(store::CardEvent::Progress { per_mille: 500 })).pass(600);
    let shown = |step| Some(status::Card { name: "Reader".to_owned(), shown: true, step });
    assert_eq!(bench.control.status(bench.now).card, shown(status::CardStep::Writing { per_mille: 500 }));
    bench.event(card(store::CardEvent::Written { name: "Reader".to_owned() }));
    assert_eq!(bench.control.status(bench.now).card, shown(status::CardStep::Written));
    assert!(!writes_card(&mut bench, wish("Reader")));
    bench.event(card(store::CardEvent::Gone));
    assert_eq!(bench.control.status(bench.now).card, None);
}

#[test]
fn a_disk_that_could_be_a_backup_is_asked_about_as_that_and_has_the_cards_page_too() {
    let mut bench = Bench::with_store(vec![enrolled()]);
    let offer = store::BackupOffer::New;
    bench.event(Event::Store(store::Event::BackupOffered { name: "Reader".to_owned(), offer }));
    assert!(!card_offered(&mut bench).shown);
    bench.pass(121);
    let card = bench.control.status(bench.now).card.unwrap();
    assert!(!card.shown, "an old question does not come up again");
    assert!(writes_card(&mut bench, panel::Event::Wished(panel::Wish::WriteCard(card.name))), "the page stays");
}

#[test]
fn a_card_is_made_before_there_is_a_store_and_not_while_one_is_being_made() {
    let mut bench = Bench::new();
    let name = "Stick".to_owned();
    let place = status::NewPlace::File;
    bench.event(Event::Store(store::Event::NeedsConfirmation { name: name.clone(), free_bytes: 1 << 33, place }));
    assert!(card_offered(&mut bench).shown);
    let wish = || panel::Event::Wished(panel::Wish::WriteCard("Reader".to_owned()));
    bench.event(Event::Store(store::Event::Preparing { name: name.clone() }));
    assert_eq!(bench.control.status(bench.now).card, None);
    assert!(!writes_card(&mut bench, wish()), "the stick is being written");
    bench.event(Event::Store(store::Event::NeedsConfirmation { name, free_bytes: 1 << 33, place }));
    assert!(writes_card(&mut bench, wish()));
}

#[test]
fn a_card_that_failed_says_what_to_do_until_it_is_pulled() {
    let mut bench = Bench::with_store(vec![]);
    card_offered(&mut bench);
    let card = |event| Event::Store(store::Event::Card(event));
    let (message, action) = ("it broke".to_owned(), "Try another".to_owned());
    bench.event(card(store::CardEvent::Failed { message, action }));
    let status = bench.control.status(bench.now);
    assert_eq!((status.card, status.problems[0].action.as_str()), (None, "Try another"));
    bench.event(card(store::CardEvent::Gone));
    assert_eq!(bench.control.status(bench.now).problems, []);
}
