//! Reads ahead on a thread of its own: the stick is read while the bytes before
//! are hashed, those before are decoded, and those before are written.
//!
//! I/O by threads. At most `DEPTH` pieces wait between two of them, `HASHED_DEPTH` of three.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::hashing::{Hashing, HashingFile};

/// Pieces that wait to be taken.
const DEPTH: usize = 6;
/// The same where there are three threads in a row.
const HASHED_DEPTH: usize = 2;

/// Where in the packed file its decoder is, and why that stopped.
#[derive(Debug, Default)]
pub struct Position {
    /// Bytes of the file that were decoded, about.
    pub consumed: Arc<AtomicU64>,
    /// The decoder asked for more than the file has.
    ended: AtomicBool,
    /// The stick's own error, before a decoder wrapped it.
    failed: Mutex<Option<io::Error>>,
}

impl Position {
    /// For a decoder that counts elsewhere.
    pub fn counted_by(consumed: Arc<AtomicU64>) -> Self {
        Self { consumed, ..Self::default() }
    }

    pub fn consumed(&self) -> u64 {
        self.consumed.load(Ordering::Relaxed)
    }

    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Once.
    pub fn take_failure(&self) -> Option<io::Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

type Piece = io::Result<Vec<u8>>;

/// The bytes of `R`, read ahead.
pub struct Ahead<R> {
    pieces: Receiver<Piece>,
    /// Pieces that were used up go back.
    spent: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    position: Option<Arc<Position>>,
    thread: Option<JoinHandle<R>>,
}

impl<R: Read + Send + 'static> Ahead<R> {
    /// `position` is kept true to what was taken from here.
    pub fn new(name: &str, source: R, piece_bytes: usize, position: Option<Arc<Position>>) -> io::Result<Self> {
        let (to, pieces) = sync_channel(DEPTH);
        let (spent, used) = channel();
        let builder = Builder::new().name(name.to_owned());
        let thread = builder.spawn(move || read_all(source, piece_bytes, &to, &used))?;
        Ok(Self { pieces, spent, current: Vec::new(), at: 0, position, thread: Some(thread) })
    }
}

impl Ahead<HashingFile> {
    /// The same, hashed on a second thread: SHA-256 may take longer than all the rest.
    pub fn hashed(source: HashingFile, piece_bytes: usize, position: Arc<Position>) -> io::Result<Self> {
        let (file, hashing) = source.into_parts();
        let (read_to, read) = sync_channel(HASHED_DEPTH);
        let (to, pieces) = sync_channel(HASHED_DEPTH);
        let (spent, used) = channel();
        let builder = Builder::new().name("import-read".to_owned());
        let reader = builder.spawn(move || read_all(file, piece_bytes, &read_to, &used))?;
        let builder = Builder::new().name("import-hash".to_owned());
        let thread = builder.spawn(move || hash_all(hashing, reader, read, &to))?;
        Ok(Self { pieces, spent, current: Vec::new(), at: 0, position: Some(position), thread: Some(thread) })
    }
}

/// Hashes what comes and passes it on; ends with the reader, whose file may have been read further than the hash is.
fn hash_all(
    mut hashing: Hashing,
    reader: JoinHandle<File>,
    read: Receiver<Piece>,
    to: &SyncSender<Piece>,
) -> HashingFile {
    for piece in &read {
        if let Ok(bytes) = &piece {
            hashing.pass(bytes);
        }
        if to.send(piece).is_err() {
            break;
        }
    }
    // Without its receiver the reader ends.
    drop(read);
    let file = reader.join().unwrap_or_else(|panic| resume_unwind(panic));
    HashingFile::from_parts(file, hashing)
}

impl<R> Ahead<R> {
    /// The source; it may have been read further than what was taken here.
    pub fn into_inner(mut self) -> io::Result<R> {
        self.hang_up();
        let thread = self.thread.take().ok_or(io::ErrorKind::Other)?;
        thread.join().map_err(|_| io::Error::other("the reading thread ended early"))
    }

    /// Without its receiver the thread ends.
    fn hang_up(&mut self) {
        drop(std::mem::replace(&mut self.pieces, sync_channel(0).1));
    }
}

impl<R> Drop for Ahead<R> {
    fn drop(&mut self) {
        self.hang_up();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read_all<R: Read>(mut source: R, piece_bytes: usize, to: &SyncSender<Piece>, used: &Receiver<Vec<u8>>) -> R {
    loop {
        let mut piece = used.try_recv().unwrap_or_default();
        piece.resize(piece_bytes, 0);
        let (filled, error) = fill_as_far(&mut source, &mut piece);
        piece.truncate(filled);
        // Whoever went away does not want it any more.
        if filled > 0 && to.send(Ok(piece)).is_err() {
            return source;
        }
        if let Some(error) = error {
            let _ = to.send(Err(error));
            return source;
        }
        if filled < piece_bytes {
            return source;
        }
    }
}

/// Reads until `piece` is full or the source ends.
pub fn fill(source: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    let (filled, error) = fill_as_far(source, piece);
    error.map_or(Ok(filled), Err)
}

/// The same; what was read before an error is not lost.
fn fill_as_far(source: &mut impl Read, piece: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut filled = 0;
    while filled < piece.len() {
        match source.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(error)),
        }
    }
    (filled, None)
}

impl<R> BufRead for Ahead<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len() {
            let _ = self.spent.send(std::mem::take(&mut self.current));
            self.at = 0;
            match self.pieces.recv() {
                Ok(Ok(piece)) => self.current = piece,
                Ok(Err(error)) => {
                    let told = io::Error::new(error.kind(), error.to_string());
                    let Some(position) = &self.position else { return Err(error) };
                    *position.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return Err(told);
                }
                Err(_) => {
                    if let Some(position) = &self.position {
                        position.ended.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, bytes: usize) {
        let bytes = bytes.min(self.current.len() - self.at);
        self.at += bytes;
        if let Some(position) = &self.position {
            position.consumed.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }
}

impl<R> Read for Ahead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?.read(buffer)?;
        self.consume(bytes);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};
    use std::io::{Seek, SeekFrom, Write};

    /// Ends with an error after its bytes.
    struct Failing(io::Cursor<Vec<u8>>);

    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::Error::from_raw_os_error(libc::EIO)),
                bytes => Ok(bytes),
            }
        }
    }

    #[test]
    fn all_bytes_come_in_order_and_the_source_comes_back() {
        let data: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        for piece_bytes in [1, 777, 4096, 1 << 20] {
            let position = Arc::new(Position::default());
            let source = io::Cursor::new(data[..9000].to_vec());
            let mut ahead = Ahead::new("test", source, piece_bytes, Some(position.clone())).unwrap();
            let mut read = Vec::new();
            ahead.read_to_end(&mut read).unwrap();
            assert!(read == data[..9000]);
            assert!(position.ended() && position.consumed() == 9000);
            assert_eq!(ahead.into_inner().unwrap().position(), 9000);
        }
    }

    #[test]
    fn an_error_comes_after_the_bytes_before_it_and_is_kept_as_it_was() {
        let position = Arc::new(Position::default());
        let source = Failing(io::Cursor::new(vec![1; 5000]));
        let mut ahead = Ahead::new("test", source, 4096, Some(position.clone())).unwrap();
        let mut read = Vec::new();
        assert!(ahead.read_to_end(&mut read).is_err());
        assert_eq!((read.len(), position.ended()), (5000, false));
        assert_eq!(position.take_failure().unwrap().raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn the_hash_covers_the_file_however_much_of_it_was_taken() {
        let data: Vec<u8> = (0..300_000u32).map(|n| ((n * 31) >> 3) as u8).collect();
        for (skipped, taken) in [(0, 0), (0, 1), (0, 300_000), (70_000, 0), (70_000, 150_001), (300_000, 0)] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&data).unwrap();
            let mut file = HashingFile::new(file).unwrap();
            file.seek(SeekFrom::Start(skipped)).unwrap();
            let mut ahead = Ahead::hashed(file, 4096, Arc::default()).unwrap();
            let mut read = vec![0; taken];
            ahead.read_exact(&mut read).unwrap();
            assert!(read == data[skipped as usize..][..taken]);
            let hash = ahead.into_inner().unwrap().finish().unwrap();
            assert_eq!(hash, <[u8; 32]>::from(Sha256::digest(&data)), "skipped {skipped}, taken {taken}");
        }
    }

    #[test]
    fn a_reader_that_goes_away_ends_the_thread() {
        let ahead = Ahead::new("test", io::repeat(7), 4096, None).unwrap();
        drop(ahead); // joins
    }
}
