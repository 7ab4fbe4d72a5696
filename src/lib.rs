//! Rootstock: firmware that turns a Raspberry Pi into a netboot appliance.
//!
//! # Processes
//! One crate, one static binary. The kernel starts it as PID 1 ([`init`]), which
//! mounts, feeds the watchdog, reaps, and keeps `rootstock serve` running. `serve`
//! is everything that talks to the network, the stick and the person. It may die
//! at any moment: file handles, leases and the write verifier are made so that
//! clients notice a pause and nothing else. The same `serve` runs on any Linux.
//!
//! # The path of a boot
//! 1. [`dhcp`] answers a known client, or a new Pi while the window of [`enrol`]
//!    is open. Everybody else gets silence.
//! 2. [`tftp`] sends the files of that client's boot tree, with a `cmdline.txt`
//!    of ours over the image's.
//! 3. [`nfs`] answers MNT for that client's own trees only, and serves them.
//! 4. [`stage`] follows the client through all that; [`status`] tells it, and
//!    [`panel`] shows it.
//!
//! # The map
//!
//! | module | what | pure |
//! |---|---|---|
//! | [`client`], [`size`] | identities: MAC, serial, revision, model, role, image | yes |
//! | [`config`] | `rootstock.toml`, its defaults, and what is wrong in it | yes |
//! | [`control`] | events in, actions out: the one place that decides | yes |
//! | [`enrol`] | the enrolment window, role names, export numbers | yes |
//! | [`stage`] | how far a boot has come, by which evidence, and its deadlines | yes |
//! | [`diagnose`] | why a boot does not go on, and what to try: hints by rules | yes |
//! | [`wire`] | what was seen on the wire, and its traffic light | yes |
//! | [`blackbox`] | the last packets and log lines, kept over a crash; the reports made of them | partly |
//! | [`status`] | the snapshot that all faces draw from, also as JSON | yes |
//! | [`directory`] | what TFTP and NFS may serve, published by control | yes |
//! | [`quota`] | what each client may occupy on the stick; the appliance's reserve | yes |
//! | [`appliance`] | the only wiring: shells, queue, actions carried out | I/O |
//! | [`dhcp`] | parse, decide, encode, allocate; the socket | mostly |
//! | [`net`] | interface, address, carrier, ARP probes, neighbour entries | I/O |
//! | [`tftp`] | paths, `cmdline.txt`, the transfer state machine; the server | partly |
//! | [`nfs`] | XDR, RPC, portmap, MOUNT, handles, the 22 procedures; the server | partly |
//! | [`store`] | finding the stick, its store, import, clients' roots, adaptation | partly |
//! | [`orders`] | what a person orders by a command: the control socket | partly |
//! | [`self_test`] | a fake Pi that boots against ourselves | partly |
//! | [`panel`] | gestures, pages, screens, drawing; GPIO, OLED, terminal | partly |
//! | [`eeprom`] | a client's loader: its boot order, recovery cards, updates | mostly |
//! | [`init`] | PID 1: plan, supervision, modules, boot configuration, power | partly |
//! | [`update`] | a signed file on the stick becomes the card's other slot, on trial first | partly |
//! | [`hostile`] | all that takes bytes from outside, by name, for the fuzzer | yes |
//! | [`health`] | the board's heat, supply and memory | I/O |
//! | [`priority`] | which threads the kernel runs first | I/O |
//! | [`memory`] | what the allocator gives back to the kernel | I/O |
//! | [`ext4`] | whether a file system still takes changes | I/O |
//! | [`log`] | one line an event, with the time since the machine's start | I/O |
//!
//! Pure means: no sockets, files, clocks, threads or environment; time and
//! bytes are arguments, and answers are values.
//!
//! # Invariants
//! - A shell does one kind of I/O and uses no other shell. It reports events,
//!   never waits for control, and never decides.
//! - TFTP and NFS read the published [`directory`] and ask control nothing.
//! - An image is never written after its import. What a client changes lies in
//!   its own upper layers.
//! - State files are written whole or not at all (`store::atomic`).
//! - Nothing from the wire, a file or a stick makes us panic, abort, or allocate
//!   without a bound. Every queue, table and loop has its bound beside it.
//! - Nothing is written to the SD card outside an update, and no update writes to what runs.

pub mod appliance;
pub mod blackbox;
pub mod client;
pub mod config;
pub mod control;
pub mod dhcp;
pub mod diagnose;
pub mod directory;
pub mod eeprom;
pub mod enrol;
pub mod ext4;
pub mod health;
pub mod hostile;
pub mod init;
pub mod log;
pub mod memory;
pub mod net;
pub mod nfs;
pub mod orders;
pub mod panel;
pub mod priority;
pub mod quota;
pub mod self_test;
pub mod size;
pub mod stage;
pub mod status;
pub mod store;
pub mod tftp;
pub mod update;
pub mod wire;
