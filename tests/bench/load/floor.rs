//! What the machine itself allows: a server that does nothing but answer, and
//! the load that asks it over the same wire. Ratios to it outlive the machine.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::{Figures, Result};

pub const PORT: u16 = 9049;
/// A request is as long as a GETATTR; its first word says how long an answer it wants.
const REQUEST: usize = 128;
const MAX_ANSWER: usize = 1 << 20;

/// Answers for ever.
pub fn serve(address: Ipv4Addr) -> Result<()> {
    let listener = TcpListener::bind((address, PORT)).map_err(|error| error.to_string())?;
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || answer(stream));
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let zeros = vec![0; MAX_ANSWER];
    let mut requests = vec![0; 64 << 10];
    let mut have = 0;
    loop {
        match stream.read(&mut requests[have..])? {
            0 => return Ok(()),
            count => have += count,
        }
        let mut answers = 0;
        let mut whole = requests[..have].chunks_exact(REQUEST);
        for request in &mut whole {
            answers += u32::from_be_bytes([request[0], request[1], request[2], request[3]]) as usize;
        }
        let rest = whole.remainder().len();
        requests.copy_within(have - rest..have, 0);
        have = rest;
        while answers > 0 {
            let count = answers.min(zeros.len());
            stream.write_all(&zeros[..count])?;
            answers -= count;
        }
    }
}

/// Answers of `bytes` over one connection with `depth` requests open. Counts answers.
pub fn run(server: Ipv4Addr, bytes: usize, depth: usize, duration: Duration) -> Result<Figures> {
    let failed = |error: std::io::Error| format!("the floor: {error}");
    let mut stream = TcpStream::connect((server, PORT)).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let mut request = [0; REQUEST];
    request[..4].copy_from_slice(&(bytes as u32).to_be_bytes());
    let mut buffer = vec![0; MAX_ANSWER];
    let start = Instant::now();
    let (mut figures, mut due, mut received) = (Figures::default(), depth, 0);
    while start.elapsed() < duration {
        stream.write_all(&request.repeat(due)).map_err(failed)?;
        received += stream.read(&mut buffer).map_err(failed)?;
        due = received / bytes;
        received %= bytes;
        figures.units += due as u64;
    }
    figures.seconds = start.elapsed().as_secs_f64();
    Ok(figures)
}
