//! Changes of names that are made, and not on the stick yet. I/O: the fsync that they wait for.
//!
//! What came together on one connection is made one after the other by one thread, and then brought to the stick by one
//! commit of the journal, and answered. With a thread for each they were woken for it, waited for each other's lock on the
//! directory, and each asked for a commit.
//!
//! ext4's journal commits in order, so what brings the last change of a tree to the stick brings
//! all before it (`procedures`, "By which file").

use std::cell::RefCell;
use std::sync::Arc;

use nfsserve::nfs::{nfsstat3, wcc_data};
use rustix::io::Errno;

use super::export::OpenExport;
use super::file::File;
use super::handle::Handle;
use super::xdr::Encoder;

/// One change that the client may not hear of yet.
#[derive(Debug)]
pub struct Owed {
    pub export: Arc<OpenExport>,
    /// What to fsync: the directory, or a regular file that the same step changed; `None` is the root, for what
    /// cannot be opened.
    pub by: Option<(Handle, Arc<File>)>,
    /// A file that lost its name: its room is to be free when that is answered.
    pub gone: Option<Arc<File>>,
    /// Of the directory, for the answer that it came to nothing.
    pub wcc: wcc_data,
}

impl Owed {
    /// Brings it to the stick, and all that the journal took in before it.
    pub fn sync(&mut self) -> Result<(), Errno> {
        drop(self.gone.take());
        let result = match &self.by {
            Some((handle, file)) => file.syncer(&self.export.root, handle).and_then(rustix::fs::fsync),
            None => rustix::fs::fsync(&self.export.root),
        };
        self.export.synced(result)
    }

    /// The results of a call whose change may be lost.
    pub fn refusal(&self, status: nfsstat3, reply: &mut Encoder) {
        reply.value(&status);
        reply.value(&self.wcc);
    }
}

/// Where a call leaves what it owes, for the thread that does several.
#[derive(Debug, Default)]
pub struct Ledger(RefCell<Option<Owed>>);

impl Ledger {
    pub fn put(&self, owed: Owed) {
        self.0.replace(Some(owed));
    }

    pub fn take(&self) -> Option<Owed> {
        self.0.take()
    }
}

/// Brings changes to the stick, the last of each tree for all of it; each with what became of it.
pub fn settle<'a>(changes: impl DoubleEndedIterator<Item = &'a mut Owed>) -> Vec<Result<(), Errno>> {
    let mut trees: Vec<(Arc<OpenExport>, Result<(), Errno>)> = Vec::new();
    let mut results: Vec<_> = changes
        .rev()
        .map(|owed| match trees.iter().find(|(export, _)| Arc::ptr_eq(export, &owed.export)) {
            Some((_, result)) => {
                drop(owed.gone.take());
                *result
            }
            None => {
                let result = owed.sync();
                trees.push((owed.export.clone(), result));
                result
            }
        })
        .collect();
    results.reverse();
    results
}
