//! NFS without its sockets and threads, for the fuzzer and for the test that
//! replays its corpus (`crate::hostile`).

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use super::connection::MAX_RECORD;
use super::export::Exports;
use super::file::Budget;
use super::peer::Peers;
use super::portmap::Ports;
use super::record::RecordReader;
use super::service::{Outcome, Service, Source};
use super::xdr::{Cursor, Encoder};
use super::{attributes, handle, intent, rpc};
use crate::directory::{Directory, HandleKey, Published};

/// All that answers calls, for one client's address.
pub struct Probe {
    service: Service<()>,
    address: Ipv4Addr,
}

impl Probe {
    pub fn new(directory: Directory, address: Ipv4Addr) -> Self {
        let service = Service {
            exports: Exports::new(1, Budget::new(64 << 20, 256)),
            peers: Peers::new(4),
            directory: Arc::new(Published::new(directory)),
            sink: Arc::new(|_| {}),
            ports: Ports { nfs: 2049, mount: 20048, portmap: 111 },
            allow_unprivileged_ports: false,
            replies: Mutex::default(),
            memory: None,
        };
        Self { service, address }
    }

    /// The reply to one record, if it is one that can be answered.
    pub fn answer(&self, record: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let peer = self.service.peers.get(self.address);
        let mut reply = Encoder::default();
        match self.service.handle(
            Source { peer: &peer, port: 700, tcp, outlet: None, ledger: None },
            record,
            &mut reply,
            || (),
        ) {
            Outcome::Reply(_) => Some(reply.into_bytes()),
            Outcome::Owed(_) | Outcome::Later | Outcome::NotRpc => None,
        }
    }
}

/// What a call asks, for people: as far as its header is whole.
pub(crate) fn call_name(record: &[u8]) -> String {
    match rpc::parse(&mut Cursor::new(record)) {
        Ok(rpc::Parsed::Call(call)) => {
            let program = match call.program {
                super::procedures::PROGRAM => "NFS".to_owned(),
                super::mount::PROGRAM => "MOUNT".to_owned(),
                super::portmap::PROGRAM => "portmap".to_owned(),
                other => format!("program {other}"),
            };
            format!("{program} version {}, procedure {}", call.version, call.procedure)
        }
        _ => "RPC".to_owned(),
    }
}

/// A connection's bytes, in pieces of the length that the first byte says.
pub(crate) fn record(stream: &[u8]) {
    let Some((&piece, stream)) = stream.split_first() else { return };
    let mut reader = RecordReader::new(MAX_RECORD);
    for mut piece in stream.chunks(usize::from(piece).max(1)) {
        while !piece.is_empty() {
            match reader.next(&mut piece) {
                Ok(Some(record)) => assert!(record.len() <= MAX_RECORD),
                Ok(None) => assert!(piece.is_empty()),
                Err(_) => return,
            }
        }
    }
}

/// Items of the kinds that the first bytes say.
pub(crate) fn xdr(bytes: &[u8]) {
    let (kinds, record) = bytes.split_at(bytes.len().min(8));
    let mut cursor = Cursor::new(record);
    for kind in kinds {
        let before = cursor.rest().len();
        let read = match kind % 6 {
            0 => cursor.u32().map(drop),
            1 => cursor.u64().map(drop),
            2 => cursor.bool().map(drop),
            3 => cursor.opaque(64).map(|bytes| assert!(bytes.len() <= 64)),
            4 => cursor.opaque(usize::MAX).map(drop),
            _ => attributes::sattr(&mut cursor).map(drop),
        };
        assert!(cursor.rest().len() <= before);
        if read.is_err() {
            return;
        }
    }
}

pub(crate) fn rpc(record: &[u8]) {
    let _ = rpc::parse(&mut Cursor::new(record));
}

/// As it stands, and under a MAC that is right.
pub(crate) fn handle(bytes: &[u8]) {
    let key = HandleKey([7; 16]);
    assert!(handle::decode(bytes, &HandleKey([1; 16])).is_err() || bytes.len() >= 16);
    let _ = handle::well_formed(bytes);
    if let Ok(handle) = handle::decode(bytes, &key) {
        assert_eq!(handle::encode(&handle, &key).as_ref(), bytes);
    }
}

/// A slot of the journal.
pub(crate) fn journal(slot: &[u8]) {
    let _ = intent::unchecked(&mut Cursor::new(slot));
    if let Some(record) = intent::decode(slot) {
        assert!(intent::encode(record.address, record.began, record.key, &record.state).is_some());
    }
}
