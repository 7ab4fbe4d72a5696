//! How long a client waits for its OFFER when all of them ask at once: the real
//! server, its clients enrolled, the load from the same machine.

use crate::serve_lab::{Lab, storm};
use crate::support::virtual_pi::{Board, VirtualPi};

/// Three runs; each is a storm of its own, and each must hold.
const RUNS: usize = 3;

pub fn run(clients: usize) {
    let mut lab = Lab::ready();
    let station = lab.station("port-load", [2, 0, 0, 0, 0xee, 0]);
    let boards: Vec<VirtualPi> = (0..clients)
        .map(|number| {
            let board = [Board::Pi3B, Board::Pi3BPlus, Board::Pi4B, Board::Pi5][number % 4];
            VirtualPi::new(board, number as u8, "eth0")
        })
        .collect();
    storm::enrol_all(&mut lab, &station, &boards);
    for _ in 0..RUNS {
        println!("  {}", storm::offers(&station, &boards));
    }
}
