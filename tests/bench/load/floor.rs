//! What the machine itself allows: a server that does nothing but answer, or write down what it is sent, and
//! the load that asks it over the same wire; and a file system that is asked for small files by nobody but threads.
//! Ratios to it outlive the machine.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Figures, Result};
use crate::peers::cpu_of;

pub const PORT: u16 = 9049;
/// A request is as long as a GETATTR; its first word says how long an answer it wants, the second how many bytes of data
/// follow, the third where in the file they belong, in units of that length.
const REQUEST: usize = 128;
const MAX_ANSWER: usize = 1 << 20;

/// Answers for ever; what is written lies in `tree`.
pub fn serve(address: Ipv4Addr, tree: &Path) -> Result<()> {
    let listener = TcpListener::bind((address, PORT)).map_err(|error| error.to_string())?;
    for stream in listener.incoming().flatten() {
        let file = tree.join("work/floor");
        std::thread::spawn(move || answer(stream, &file));
    }
    Ok(())
}

fn word(request: &[u8], n: usize) -> usize {
    request[4 * n..4 * n + 4].iter().fold(0, |value, byte| value << 8 | usize::from(*byte))
}

/// The first request of a connection says what it is about.
fn answer(mut stream: TcpStream, file: &Path) -> std::io::Result<()> {
    let mut first = [0; REQUEST];
    stream.set_nodelay(true)?;
    stream.peek(&mut first)?;
    if word(&first, 1) > 0 {
        return take(stream, file, word(&first, 1));
    }
    let zeros = vec![0; MAX_ANSWER];
    super::take_requests(&mut stream, |stream, requests| {
        let whole = requests.chunks_exact(REQUEST);
        let rest = whole.remainder().len();
        let mut answers: usize = whole.map(|request| word(request, 0)).sum();
        while answers > 0 {
            let count = answers.min(zeros.len());
            stream.write_all(&zeros[..count])?;
            answers -= count;
        }
        Ok(requests.len() - rest)
    })
}

/// Pieces of `bytes`, each received into one buffer and written from there.
fn take(mut stream: TcpStream, file: &Path, bytes: usize) -> std::io::Result<()> {
    let file = File::create(file)?;
    let (mut request, mut data) = ([0; REQUEST], vec![0; bytes.min(MAX_ANSWER)]);
    loop {
        stream.read_exact(&mut request)?;
        match word(&request, 2) {
            // As COMMIT, and the next file.
            END => {
                file.sync_all()?;
                file.set_len(0)?;
            }
            at => {
                stream.read_exact(&mut data)?;
                file.write_all_at(&data, (at * bytes) as u64)?;
            }
        }
        stream.write_all(&request)?;
    }
}

const END: usize = u32::MAX as usize;

/// Pieces of `bytes` over one connection, `depth` of them open, until `file_bytes` are written and synced; again and
/// again. Counts bytes.
pub fn write(server: Ipv4Addr, bytes: usize, file_bytes: u64, depth: u64, duration: Duration) -> Result<Figures> {
    let failed = |error: std::io::Error| format!("the floor: {error}");
    let mut stream = TcpStream::connect((server, PORT)).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let request = |at: usize| {
        let mut request = [0; REQUEST];
        for (place, value) in request.chunks_exact_mut(4).zip([REQUEST, bytes, at]) {
            place.copy_from_slice(&(value as u32).to_be_bytes());
        }
        request
    };
    let (data, pieces) = (vec![7; bytes], file_bytes / bytes as u64);
    let (start, mut figures, mut answer) = (Instant::now(), Figures::default(), [0; REQUEST]);
    while start.elapsed() < duration {
        for piece in 0..pieces + depth {
            if piece < pieces {
                stream.write_all(&request(piece as usize)).and_then(|()| stream.write_all(&data)).map_err(failed)?;
            }
            if piece >= depth {
                stream.read_exact(&mut answer).map_err(failed)?;
            }
        }
        stream.write_all(&request(END)).and_then(|()| stream.read_exact(&mut answer)).map_err(failed)?;
        figures.units += pieces * bytes as u64;
    }
    figures.seconds = start.elapsed().as_secs_f64();
    Ok(figures)
}

/// Small files made, written and removed by so many threads, each change on the disk before the next: what a file system
/// takes without any server. The CPU is this process's.
pub fn create(tree: &Path, bytes: usize, threads: usize, duration: Duration) -> Result<(Figures, f64)> {
    let folder = tree.join("work/floor-files");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let one = |path: PathBuf, data: &[u8]| -> std::io::Result<()> {
        let file = File::create_new(&path)?;
        file.sync_all()?;
        file.write_all_at(data, 0)?;
        file.sync_all()?;
        std::fs::remove_file(&path)?;
        file.sync_all()
    };
    let work = |thread: usize| -> std::io::Result<u64> {
        let (start, data) = (Instant::now(), vec![7; bytes]);
        let numbers = (0..).take_while(|_| start.elapsed() < duration);
        numbers.map(|n| one(folder.join(format!("{thread}-{n}")), &data).map(|()| 1)).sum()
    };
    let (start, before) = (Instant::now(), cpu_of("self"));
    let counts: std::io::Result<Vec<u64>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(std::io::Error::other("a panic"))))
            .collect()
    });
    let units = counts.map_err(|error| format!("the floor: {error}"))?.into_iter().sum();
    Ok((Figures { units, seconds: start.elapsed().as_secs_f64(), ..Figures::default() }, cpu_of("self") - before))
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
