//! What commands and the panel order.

use super::*;

fn reset() -> crate::orders::Order {
    use crate::store::operate::Operation;
    let request = Operation::Reset { role: Role::numbered(1), new_identity: false };
    crate::orders::Order { request: crate::orders::Request::Operation(request), force: false }
}

#[test]
fn a_client_that_answers_on_the_wire_is_left_alone() {
    let mut bench = Bench::with_store(vec![known()]);
    let (operations, replies) = ordered(&mut bench, order(7, reset()));
    assert!(operations.is_empty() && replies.is_empty());
    let address = *bench.probes.last().unwrap();
    let probed = Event::Net(net::Event::Probed { address, conflict: Some(known().mac) });
    let (operations, replies) = ordered(&mut bench, probed);
    assert!(operations.is_empty());
    assert!(refused(&replies).1, "{replies:?}");
    // Its own answer is no conflict about its address.
    assert_eq!(bench.directory.clients[0].address, known().address);
}

#[test]
fn a_client_that_is_off_is_unpublished_while_it_is_worked_on() {
    let mut bench = Bench::with_store(vec![known()]);
    ordered(&mut bench, order(7, reset()));
    let address = *bench.probes.last().unwrap();
    let (operations, _) = ordered(&mut bench, Event::Net(net::Event::Probed { address, conflict: None }));
    assert_eq!(operations.len(), 1);
    assert!(bench.directory.clients.is_empty());
    // A second order meanwhile is refused at once.
    let (operations, replies) = ordered(&mut bench, order(8, reset()));
    assert!(operations.is_empty());
    assert!(refused(&replies).0.contains("is being worked on"));
    // What another operation changes does not bring its trees back too early.
    let changed = || {
        Event::Store(store::Event::Changed {
            images: vec![image()],
            clients: vec![open(known())],
            taken_roles: vec![known().role],
        })
    };
    bench.event(changed());
    assert!(bench.directory.clients.is_empty());
    let done = store::operate::Outcome::Done { message: "done".to_owned(), warnings: Vec::new() };
    let (_, replies) =
        ordered(&mut bench, Event::Store(store::Event::Operated { ticket: 7, result: Ok(Box::new(done)) }));
    assert!(matches!(&replies[..], [crate::orders::Reply::Outcome(_)]));
    bench.event(changed());
    assert_eq!(bench.directory.clients.len(), 1);
}

#[test]
fn a_boot_that_begins_while_its_client_is_worked_on_gets_its_root_behind_that() {
    let mut bench = Bench::with_store(vec![ephemeral()]);
    let force = || crate::orders::Order { force: true, ..reset() };
    assert_eq!(ordered(&mut bench, order(7, force())).0.len(), 1);
    bench.asks(discover(MAC, Asker::PiEeprom)).probed(None);
    assert_eq!((bench.renewed, bench.sent.len()), (0, 0));
    let ends = |bench: &mut Bench, ticket| {
        bench.event(Event::Store(store::Event::Operated { ticket, result: Err(String::new()) }));
        let (images, clients) = (vec![image()], vec![open(ephemeral())]);
        bench.event(Event::Store(store::Event::Changed { images, clients, taken_roles: vec![ephemeral().role] }));
    };
    ends(&mut bench, 7);
    assert_eq!((bench.renewed, bench.directory.clients.len()), (1, 0));

    // A root that was asked for before is not served while the next order has it.
    assert_eq!(ordered(&mut bench, order(8, force())).0.len(), 1);
    bench.event(Event::Store(store::Event::ClientReady(open(ephemeral()))));
    assert_eq!((bench.directory.clients.len(), bench.sent.len()), (0, 0));
    ends(&mut bench, 8);
    bench.asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.renewed, 2);
    bench.event(Event::Store(store::Event::ClientReady(open(ephemeral()))));
    assert_eq!((bench.directory.clients.len(), bench.sent.len()), (1, 1));
}

#[test]
fn without_a_wire_an_order_goes_on_after_a_second_and_force_at_once() {
    let mut bench = Bench::with_store(vec![known()]);
    ordered(&mut bench, order(7, reset()));
    assert_eq!(bench.control.poll_timeout(bench.now), Some(Duration::from_secs(1)));
    bench.pass(1);
    assert!(bench.directory.clients.is_empty());
    let mut bench = Bench::with_store(vec![known()]);
    let force = crate::orders::Order { force: true, ..reset() };
    assert_eq!(ordered(&mut bench, order(7, force)).0.len(), 1);
}

#[test]
fn a_deleted_client_is_gone_and_one_being_made_stays() {
    let mut bench = Bench::with_store(vec![known()]);
    bench.press(Gesture::Short(Button::Enroll)).asks(discover(MAC, Asker::PiEeprom));
    assert_eq!(bench.created.len(), 1);
    let force = crate::orders::Order { force: true, ..reset() };
    ordered(&mut bench, order(7, force));
    bench.event(Event::Store(store::Event::Operated { ticket: 7, result: Err("gone".to_owned()) }));
    bench.event(Event::Store(store::Event::Changed { images: vec![image()], clients: vec![], taken_roles: vec![] }));
    let left: Vec<Role> = bench.control.status(bench.now).clients.iter().map(|client| client.role.clone()).collect();
    assert_eq!(left, [bench.created[0].role.clone()]);
}

#[test]
fn a_status_is_answered_without_a_stick() {
    let mut bench = Bench::new();
    let order = orders_shell::Order { request: orders_shell::Request::Status, force: false };
    let actions = bench.control.handle(bench.now, Event::Orders(orders_shell::Event::Ordered { ticket: 5, order }));
    let answer = actions.into_iter().find_map(|action| match action {
        Action::Answer(5, reply) => Some(*reply),
        _ => None,
    });
    let Some(orders_shell::Reply::Status(snapshot)) = answer else { panic!("{answer:?}") };
    assert_eq!(snapshot.status.uptime, bench.now);
}

fn notice(bench: &Bench) -> Option<(String, bool)> {
    bench.control.status(bench.now).notice.map(|notice| (notice.message, notice.failed))
}

#[test]
fn a_reset_by_the_panel_is_refused_while_the_client_runs_and_told_for_ten_seconds() {
    let (mut bench, address) = one_client();
    let asked = wish(&mut bench, panel::Wish::Reset(Role::numbered(1)));
    bench.take(asked);
    assert_eq!(bench.probes, [address], "the wire is asked whether it runs");
    bench.probed(Some(MAC));
    assert_eq!(notice(&bench), Some(("It runs. Switch that Pi off first".to_owned(), true)));
    bench.pass(9);
    assert!(notice(&bench).is_some());
    assert_eq!(bench.control.poll_timeout(bench.now), Some(Duration::from_secs(1)));
    bench.pass(1);
    assert_eq!(notice(&bench), None);
}

#[test]
fn a_reset_by_the_panel_reaches_the_store_and_its_end_is_told() {
    let (mut bench, address) = one_client();
    let asked = wish(&mut bench, panel::Wish::Reset(Role::numbered(1)));
    bench.take(asked);
    let free = Event::Net(net::Event::Probed { address, conflict: None });
    let actions = bench.control.handle(bench.now, free);
    let ticket = actions.iter().find_map(|action| match action {
        Action::Store(store::Command::Operate(ticket, operation)) => {
            assert!(matches!(**operation, store::operate::Operation::Reset { new_identity: false, .. }));
            Some(*ticket)
        }
        _ => None,
    });
    let done = store::operate::Outcome::Done { message: "pi-1 is fresh".to_owned(), warnings: Vec::new() };
    let event = store::Event::Operated { ticket: ticket.unwrap(), result: Ok(Box::new(done)) };
    let actions = bench.control.handle(bench.now, Event::Store(event));
    assert!(!actions.iter().any(|action| matches!(action, Action::Answer(..))), "no command waits");
    assert_eq!(notice(&bench), Some(("pi-1 is fresh".to_owned(), false)));
}
