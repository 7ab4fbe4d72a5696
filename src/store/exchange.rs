//! What can be asked of the store, and what it tells.
//!
//! Pure: the words between control and the store, and nothing that acts on them.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{history, operate, reports};
use crate::client::{Client, ImageId, Role};
use crate::directory::HandleKey;
use crate::quota::{Account, Level};
use crate::status::NewPlace;

/// What control can ask for. Each is answered by an event.
#[derive(Debug, Clone)]
pub enum Command {
    /// The person confirmed: make the store on the stick that the last
    /// `NeedsConfirmation` named.
    Prepare,
    /// The person confirmed: make the stick that the last `BackupOffered` named
    /// a copy of the store. Answered by `BackedUp` or `BackupFailed`.
    Backup,
    /// The person confirmed: write the recovery card onto the disk that the last `CardEvent::Offered` named.
    WriteCard,
    /// Answered by `ClientReady` or `ClientFailed`.
    CreateClient(Box<Client>),
    /// Writes `client.toml` anew; only a failure is told.
    SaveClient(Box<Client>),
    /// Answered by `Operated` with this ticket, and by `Changed` behind that
    /// unless it only looked.
    Operate(u64, Box<operate::Operation>),
    /// The appliance's own address is another one: roots that name the former
    /// are fitted by `RenewClient`.
    Appliance(Ipv4Addr),
    /// The client's boot begins and it must get what `renew_at_boot` tells of;
    /// its trees are served no more. Answered as `CreateClient`.
    RenewClient(Role),
    /// Let go of the stick, so that it can be pulled: answered by `Releasing` and, when nothing of it
    /// is in use any more, by `Released`.
    Release,
    /// Use it again, if it is still there.
    Resume,
    /// A client's boot has ended: into its history, stamped with the time. With `amends` it takes
    /// the last record's place. Answered by `Boots`.
    SaveBoot { role: Role, record: history::BootRecord, amends: bool },
    /// Mount an image's root for a test of it. Answered by `ImageMounted`.
    MountImage(ImageId),
    /// That test has ended: the image is let go where no client needs it.
    ReleaseImage(ImageId),
    /// Answered by `ReportSaved` with this ticket.
    SaveReport(Option<u64>, Box<reports::Report>),
    /// Watch for this client's evidence that its start is complete, or stop.
    WatchUp(Role, bool),
}

/// What the store tells. Messages are for people; actions say what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    StickAbsent,
    StickReading {
        name: String,
    },
    /// No store on any stick; one could be made in this much free space.
    NeedsConfirmation {
        name: String,
        free_bytes: u64,
        place: NewPlace,
    },
    Preparing {
        name: String,
    },
    Opened {
        name: String,
        free_bytes: u64,
        /// The one for new clients last.
        images: Vec<ImageInfo>,
        clients: Vec<OpenClient>,
        /// Roles whose folder exists, also of clients that could not be
        /// opened: a new client must not have one of them.
        taken_roles: Vec<Role>,
        handle_key: HandleKey,
    },
    StickUnusable {
        message: String,
        action: String,
    },
    /// At most four a second.
    ImportProgress {
        file: String,
        per_mille: u16,
        left: Option<Duration>,
    },
    /// Also when the file turned out to hold an image that is there already.
    Imported {
        image: ImageInfo,
    },
    /// Before `Imported`: the file holds what is stored already, under this id.
    AlreadyThere {
        file: String,
        image: ImageId,
    },
    ImportFailed {
        file: String,
        message: String,
        action: String,
    },
    ClientReady(OpenClient),
    ClientFailed {
        role: Role,
        message: String,
        action: String,
    },
    /// What there is after an operation: as in `Opened`.
    Changed {
        images: Vec<ImageInfo>,
        clients: Vec<OpenClient>,
        taken_roles: Vec<Role>,
    },
    Operated {
        ticket: u64,
        /// The error is for people.
        result: Result<Box<operate::Outcome>, String>,
    },
    /// A watched client wrote that its start is complete.
    Up {
        role: Role,
    },
    /// A client's last boots, oldest first: behind `Opened` for those that have any, and after each `SaveBoot`.
    Boots {
        role: Role,
        boots: Vec<history::BootRecord>,
    },
    /// Names and sizes of an image's boot files: behind `Opened`, `Imported` and `Changed`.
    BootFiles {
        image: ImageId,
        files: Vec<(String, u64)>,
    },
    ImageMounted {
        image: ImageId,
        /// Its root and its boot files, both to be read only; the error is for people.
        trees: Result<(PathBuf, PathBuf), String>,
    },
    ReportSaved {
        ticket: Option<u64>,
        /// The folder below the store's; the error is for people.
        saved: Result<String, String>,
    },
    /// How large the open store is, and how much of it clients do not get: behind `Opened`.
    Room {
        total_bytes: u64,
        reserve_bytes: u64,
    },
    /// What clients may still write, and how near that is to nothing.
    FreeSpace {
        free_bytes: u64,
        level: Level,
    },
    /// How much of its quota a client has used: told when it comes near or away from it.
    Quota {
        role: Role,
        used_bytes: u64,
        quota_bytes: u64,
        level: Level,
    },
    /// Beside the open store: this stick can become its copy.
    BackupOffered {
        name: String,
        offer: BackupOffer,
    },
    /// At most one a second.
    BackupProgress {
        name: String,
        per_mille: u16,
    },
    /// The copy is complete.
    BackedUp {
        name: String,
        /// Unix seconds.
        taken: u64,
        /// What was written for it.
        bytes: u64,
    },
    BackupFailed {
        name: String,
        message: String,
        action: String,
    },
    /// Behind `Opened`: other files than before are served to these, of a copy or from memory. Handles that they hold
    /// since before are of no use any more.
    OtherFiles {
        roles: Vec<Role>,
    },
    /// The stick that was offered, or held the copy, was pulled.
    BackupGone,
    /// The stick is being let go of: clients' trees are to be let go of. Comes twice, before and
    /// after they are taken away.
    Releasing {
        name: String,
    },
    /// It can be pulled.
    Released {
        name: String,
    },
    /// The stick with the store was pulled; its clients' trees are gone.
    Closed {
        name: String,
    },
    /// About a recovery card for other Pis' EEPROMs.
    Card(CardEvent),
    /// The update files on all sticks are these now.
    UpdateFiles(Vec<PathBuf>),
    Problem {
        message: String,
        action: String,
    },
    /// Of a stick beside the open store's: why it is of no use.
    SecondUnused {
        message: String,
        action: String,
    },
    /// What clients write is refused, or lives in memory only. So as long as this store is open, whatever else is said.
    NotKept {
        message: String,
        action: String,
    },
    /// A look at an image is done: what is damaged in it, and files that lie there.
    Scrubbed {
        image: ImageId,
        damaged: Vec<String>,
        files: Vec<String>,
    },
    /// Something in the store is damaged and passed over: which file, and why. The rest serves.
    Damaged {
        file: String,
        reason: String,
        action: String,
    },
}

/// A recovery card for other Pis' EEPROMs, on a disk beside the store's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CardEvent {
    /// All that is on this disk would be lost.
    Offered { name: String, bytes: u64, boards: &'static str },
    /// At most four a second, while it is written and compared.
    Progress { per_mille: u16 },
    /// It can be taken out.
    Written { name: String },
    /// It was not made, or cannot be.
    Failed { message: String, action: String },
    /// Nothing is offered or written any more.
    Gone,
}

/// What a second stick is before it becomes a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupOffer {
    /// It has no store; one is made, by the rules for a store of its own.
    New,
    /// It is a copy, complete at that time (Unix seconds) or not.
    Renew(Option<u64>),
    /// The store that a copy stood in for; it is written over.
    Former,
}

/// An image that clients can be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    pub id: ImageId,
    /// For people: the file's name without its endings.
    pub name: String,
    /// Unix seconds, by the appliance's clock at that time.
    pub imported: u64,
    pub root_bytes: u64,
}

/// A client whose trees are mounted. Two are equal whatever was charged to them.
#[derive(Debug, Clone)]
pub struct OpenClient {
    pub client: Client,
    /// `/` of the client.
    pub root: PathBuf,
    /// Its boot partition.
    pub boot: PathBuf,
    /// The folder of its block volume.
    pub volume: Option<PathBuf>,
    /// What its changes are charged to.
    pub account: Option<Arc<Account>>,
    /// Its next boot must begin with `RenewClient`.
    pub renew_at_boot: bool,
    /// False while the stick takes no writes, whatever the client's mode says.
    pub writable: bool,
}

impl PartialEq for OpenClient {
    fn eq(&self, other: &Self) -> bool {
        let of = |open: &Self| (open.renew_at_boot, open.writable);
        let Self { client, root, boot, volume, account: _, renew_at_boot: _, writable: _ } = self;
        (client, root, boot, volume) == (&other.client, &other.root, &other.boot, &other.volume)
            && of(self) == of(other)
    }
}

impl Eq for OpenClient {}
