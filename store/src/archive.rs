//! The archive of one node: sealed groups, the sessions they belong to, the journal, wrapped keys.
//!
//! **Acknowledged means synced.** Whatever returns `Ok` here survives a power cut. A group, its address and its bit in the
//! inventory are one batch, so no crash leaves them apart.
//!
//! **Wrong bytes are never given out as right.** A group's address (BLAKE3 of its bytes) is kept beside it and compared at
//! every read; a group that does not match is [`Error::Damaged`], others are not touched by it.
//!
//! An `Archive` may be shared between threads: writes take turns, reads run beside them. Everything here may wait for a disk,
//! so it belongs on its own thread.

mod logbook;
mod manifests;
pub mod rebuild;
mod receipts;
mod restored;
mod rosters;
mod scrub;
mod segments;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{ControlFlow, Range},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;

use crate::{
    cbor,
    db::{self, Batch, Db, Durability, Loss, rocks::Rocks},
    id::{GroupId, Hash, NodeId, PointNumber, SEQ_MAX, SessionId, TrackId},
    inventory::{Have, Page},
    journal::Entry,
    keys::{Epoch, Wrap},
    record::Record,
    schema::{self, Column, Store},
    seal, segment,
    session::{self, Head, State},
    signed::Signed,
};

pub use logbook::{Logbook, Logged};
pub use manifests::Manifests;
pub use receipts::Received;
pub use restored::Recovery;
pub use scrub::Stretch;
pub use segments::Signing;

/// Why the archive did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no archive at this place.
    #[error("there is no archive in {0}")]
    Absent(PathBuf),
    /// It was made by another version of this program. Use that one, or one that can bring it up.
    #[error("the archive has layout {found}; this program reads layout {known}", known = schema::VERSION)]
    Layout {
        /// The layout found, if it can be read at all.
        found: String,
    },
    /// We never had it, or forgot it. Ask another holder.
    #[error("group {0} is not here")]
    Missing(GroupId),
    /// The bytes changed since they were stored. Treat as missing, and report the disk.
    #[error("group {0} is damaged")]
    Damaged(GroupId),
    /// Another group is stored under this name. One of the two was not made by an honest point.
    #[error("another group is already stored as {0}")]
    Conflict(GroupId),
    /// A record beside the groups cannot be read. Restore `meta` from a checkpoint, or fetch it from others.
    #[error("the archive's {0} cannot be read")]
    Unreadable(String),
    /// The journal has another entry here already, or not yet the one before.
    #[error("journal entry {n} of session {session} does not continue what is stored")]
    Journal {
        /// The session.
        session: SessionId,
        /// Number of the entry that was to be stored.
        n: u64,
    },
    /// The segment does not continue what is stored of its point.
    #[error("the segment cannot be stored")]
    Segment(#[from] segment::Error),
    /// The point signed two different segments with one number. It is not honest, or its archive was set back.
    #[error("point {point} has signed two different segments {n} in session {session}")]
    Forked {
        /// The session.
        session: SessionId,
        /// The point.
        point: PointNumber,
        /// The number.
        n: u32,
    },
    /// Central signed two different manifests with one number. It is not honest, or its archive was set back.
    #[error("another manifest {n} of session {session} is stored already")]
    Manifest {
        /// The session.
        session: SessionId,
        /// The number.
        n: u32,
    },
    /// Central cannot honestly have signed this manifest after the one before it.
    #[error("manifest {n} of session {session} {what}")]
    Sequel {
        /// The session.
        session: SessionId,
        /// The number.
        n: u32,
        /// What is wrong, after its name.
        what: &'static str,
    },
    /// A group cannot be signed for without the key it is sealed with.
    #[error("the segment cannot be signed")]
    Unsealed(#[source] seal::Error),
    /// The head contradicts itself.
    #[error("the head cannot be stored")]
    Head(#[from] session::Error),
    /// All numbers of the session are used.
    #[error("session {0} has no group numbers left")]
    Exhausted(SessionId),
    /// One of the two databases is damaged as a whole. `meta` is the truth: restore it. `media` can be fetched again.
    #[error("the archive's database {} is damaged: {what}", .store.name())]
    Broken {
        /// Which.
        store: Store,
        /// What was found.
        what: String,
    },
    /// The archive was opened for reading.
    #[error("the archive was opened for reading only")]
    ReadOnly,
    /// The disk or another process stands in the way. Trying again may help.
    #[error("archive storage")]
    Storage(#[from] db::Error),
}

/// What is known of a stored group without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outline {
    /// Which group.
    pub id: GroupId,
    /// BLAKE3 of its bytes.
    pub hash: Hash,
    /// Bytes of header and frames.
    pub len: u32,
    /// Number of frames.
    pub frames: u32,
    /// Session time of its start, in microseconds.
    pub t0: u64,
}

impl Outline {
    const VERSION: u8 = 1;
    const LEN: usize = 1 + 32 + 4 + 4 + 8;

    fn of(record: &Record) -> Self {
        Outline {
            id: record.id(),
            hash: record.hash(),
            len: record.bytes().len() as u32,
            frames: record.frame_count(),
            t0: record.header().t0,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::LEN);
        bytes.push(Self::VERSION);
        bytes.extend_from_slice(self.hash.as_bytes());
        bytes.extend_from_slice(&self.len.to_be_bytes());
        bytes.extend_from_slice(&self.frames.to_be_bytes());
        bytes.extend_from_slice(&self.t0.to_be_bytes());
        bytes
    }

    fn decode(id: GroupId, bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        if bytes[0] != Self::VERSION {
            return None;
        }
        Some(Outline {
            id,
            hash: Hash::from_bytes(bytes[1..33].try_into().ok()?),
            len: u32::from_be_bytes(bytes[33..37].try_into().ok()?),
            frames: u32::from_be_bytes(bytes[37..41].try_into().ok()?),
            t0: u64::from_be_bytes(bytes[41..].try_into().ok()?),
        })
    }
}

/// Sums over groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Groups stored.
    pub groups: u64,
    /// Frames in them.
    pub frames: u64,
    /// Bytes of header and frames.
    pub bytes: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Totals) {
        self.groups += other.groups;
        self.frames += other.frames;
        self.bytes += other.bytes;
    }
}

/// The sessions of an archive, by start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sessions {
    /// Those whose head is good.
    pub heads: Vec<Head>,
    /// Those whose head cannot be read. Their groups may still be whole.
    pub damaged: Vec<SessionId>,
}

/// One node's archive.
#[derive(Debug)]
pub struct Archive {
    meta: Arc<dyn Db>,
    media: Arc<dyn Db>,
    writing: Mutex<Writing>,
    /// The access log's turn.
    logging: Arc<Mutex<()>>,
    read_only: bool,
    loss: Option<Loss>,
}

/// What the one who writes remembers from one write to the next.
#[derive(Debug, Default)]
struct Writing {
    /// Groups stored since they were last counted, by session. Every session in it is marked in [`Column::Touched`].
    fresh: BTreeMap<SessionId, u64>,
}

impl Archive {
    /// Opens the archive in `dir` for writing, and makes it (for its owner's eyes only) if it is not there. One
    /// process at a time can: [`db::Error::Busy`]. If `media` lost something it is opened nevertheless: see
    /// [`Archive::loss`] and [`Archive::lost`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        make_private(dir)?;
        rebuild::settle(dir)?;
        let open = |store: Store| Rocks::open(store, &dir.join(store.name())).map_err(broken(store));
        let (meta, _) = open(Store::Meta)?;
        let meta: Arc<dyn Db> = Arc::new(meta);
        let (mut media, mut loss) = open(Store::Media)?;
        if let Some(Loss { changes }) = loss {
            tracing::error!(changes, "the log of recorded groups was damaged: what could be read of it was kept");
        }
        if rebuild::is_wanted(dir) || rebuild::is_damaged(&media) {
            // What lies in the log goes into tables first, so that a reader finds it.
            let settled = media.settle();
            drop(media);
            match settled.map_err(Error::from).and_then(|()| rebuild::rebuild(dir, &meta)) {
                Ok(groups) => {
                    tracing::error!(groups, "a table of recorded groups was damaged: the rest is copied out of it")
                }
                Err(error) => tracing::error!(%error, "a table of recorded groups is damaged, and no copy can be made"),
            }
            let (reopened, further) = open(Store::Media)?;
            (media, loss) = (reopened, loss.or(further));
        }
        Archive::start(meta, Arc::new(media), loss)
    }

    /// An archive on two databases that are only read.
    fn reading(meta: Arc<dyn Db>, media: Arc<dyn Db>) -> Self {
        let (writing, logging) = (Mutex::default(), Arc::default());
        Archive { meta, media, writing, logging, read_only: true, loss: None }
    }

    /// Opens an archive for reading, as it is at this moment, even while a node writes it.
    pub fn open_read_only(dir: &Path) -> Result<Self, Error> {
        if ![Store::Meta, Store::Media].iter().all(|store| dir.join(store.name()).join("CURRENT").is_file()) {
            return Err(Error::Absent(dir.to_owned()));
        }
        let open = |store: Store| Rocks::open_read_only(store, &dir.join(store.name())).map_err(broken(store));
        let archive = Archive::reading(Arc::new(open(Store::Meta)?), Arc::new(open(Store::Media)?));
        check_layout(&*archive.meta)?;
        Ok(archive)
    }

    /// An archive on two databases of the caller's.
    pub fn over(meta: Arc<dyn Db>, media: Arc<dyn Db>) -> Result<Self, Error> {
        Archive::start(meta, media, None)
    }

    fn start(meta: Arc<dyn Db>, media: Arc<dyn Db>, loss: Option<Loss>) -> Result<Self, Error> {
        set_layout(&*meta)?;
        check_layout(&*meta)?;
        let (writing, logging) = (Mutex::default(), Arc::default());
        let archive = Archive { meta, media, writing, logging, read_only: false, loss };
        archive.look_through()?;
        Ok(archive)
    }

    /// What was found lost when the archive was opened. Which groups it was is known as far as [`Archive::lost`] names them;
    /// the newest may be known to nobody here.
    pub fn loss(&self) -> Option<Loss> {
        self.loss
    }

    /// Copies the archive's present state into `dir`, which must not exist, on the same disk: files are shared, so it
    /// costs little. Another process can open the copy beside this one.
    pub fn checkpoint(&self, dir: &Path) -> Result<(), Error> {
        // Both while nothing is written, so that meta never tells of what media lacks.
        let _writing = self.lock();
        make_private(dir)?;
        self.meta.checkpoint(&dir.join(Store::Meta.name()))?;
        self.media.checkpoint(&dir.join(Store::Media.name()))?;
        Ok(())
    }

    /// Takes the turn to write.
    fn write(&self) -> Result<MutexGuard<'_, Writing>, Error> {
        if self.read_only { Err(Error::ReadOnly) } else { Ok(self.lock()) }
    }

    fn lock(&self) -> MutexGuard<'_, Writing> {
        // A writer that panicked left a count that may be too low, which makes the next one late.
        self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Groups.
impl Archive {
    /// Stores groups in one synced batch and gives how many were new. Storing a group again does nothing. If one of
    /// them differs from what is stored under its name, nothing of the batch is stored and the error names it.
    pub fn put_groups(&self, records: &[Record]) -> Result<usize, Error> {
        self.put_all(records, false)
    }

    /// The same over whatever is stored under their names: for groups that were compared with what their points signed, in a session of
    /// which others gave something else before.
    pub fn put_groups_over(&self, records: &[Record]) -> Result<usize, Error> {
        self.put_all(records, true)
    }

    fn put_all(&self, records: &[Record], over: bool) -> Result<usize, Error> {
        let mut writing = self.write()?;
        let mut batch = Batch::new();
        let mut pages: BTreeMap<(SessionId, TrackId, u32), Page> = BTreeMap::new();
        let mut fresh: BTreeMap<GroupId, Hash> = BTreeMap::new();
        for record in records {
            let id = record.id();
            let known = match fresh.get(&id) {
                Some(hash) => Some(*hash),
                None => self.outline(&id)?.map(|outline| outline.hash),
            };
            match known {
                Some(hash) if hash == record.hash() => continue,
                Some(_) if !over => return Err(Error::Conflict(id)),
                Some(_) | None => fresh.insert(id, record.hash()),
            };
            put_group(&mut batch, record);
            let (number, place) = Page::place(id.seq);
            let page = match pages.entry((id.session, id.track, number)) {
                std::collections::btree_map::Entry::Occupied(page) => page.into_mut(),
                std::collections::btree_map::Entry::Vacant(gap) => {
                    gap.insert(self.page(&id.session, id.track, number)?)
                }
            };
            page.insert(place);
        }
        for ((session, track, number), page) in &pages {
            batch.put(Column::Have, &schema::page_key(session, *track, *number), page.encode());
        }
        let mut sessions: BTreeMap<SessionId, u64> = BTreeMap::new();
        for id in fresh.keys() {
            *sessions.entry(id.session).or_default() += 1;
        }
        sessions.keys().try_for_each(|session| self.touch(&mut writing, session))?;
        if !batch.is_empty() {
            self.media.write(batch, Durability::Synced)?;
        }
        sessions.iter().for_each(|(session, groups)| self.stored(&mut writing, session, *groups));
        Ok(fresh.len())
    }

    /// Writes a group again over its damaged bytes. Only the very group is taken; it must have been stored before.
    pub fn heal(&self, record: &Record) -> Result<(), Error> {
        let _writing = self.write()?;
        let id = record.id();
        let outline = self.outline(&id)?.ok_or(Error::Missing(id))?;
        if outline.hash != record.hash() {
            return Err(Error::Conflict(id));
        }
        let mut batch = Batch::new();
        put_group(&mut batch, record);
        Ok(self.media.write(batch, Durability::Synced)?)
    }

    /// The group, its bytes compared with its address.
    pub fn get(&self, id: &GroupId) -> Result<Record, Error> {
        let outline = self.outline(id)?.ok_or(Error::Missing(*id))?;
        let record = self.bytes(id)?;
        if record.hash() == outline.hash { Ok(record) } else { Err(Error::Damaged(*id)) }
    }

    /// The record that lies under a group's name, whether or not it is what was stored.
    fn bytes(&self, id: &GroupId) -> Result<Record, Error> {
        let bytes = match self.media.get(Column::Groups, &schema::group_key(id)) {
            Ok(Some(bytes)) => bytes,
            // Its address was written in one batch with it: it was here.
            Ok(None) | Err(db::Error::Damaged(_)) => return Err(Error::Damaged(*id)),
            Err(error) => return Err(error.into()),
        };
        Record::parse(bytes).ok().filter(|record| record.id() == *id).ok_or(Error::Damaged(*id))
    }

    /// What is known of a group without reading it; `None` if it is not here.
    pub fn outline(&self, id: &GroupId) -> Result<Option<Outline>, Error> {
        match self.media.get(Column::Addresses, &schema::group_key(id)) {
            Ok(Some(bytes)) => Outline::decode(*id, &bytes).ok_or(Error::Damaged(*id)).map(Some),
            Ok(None) => Ok(None),
            Err(db::Error::Damaged(_)) => Err(Error::Damaged(*id)),
            Err(error) => Err(error.into()),
        }
    }

    /// The groups of a track with numbers in `seqs`, rising, at most `limit`. Damaged groups are among them: they
    /// are listed by address and not read.
    pub fn outlines(
        &self,
        session: &SessionId,
        track: TrackId,
        seqs: Range<u64>,
        limit: usize,
    ) -> Result<Vec<Outline>, Error> {
        let key = |seq| schema::group_key(&GroupId { session: *session, track, seq });
        let mut outlines = Vec::new();
        let mut bad = None;
        self.media.scan(Column::Addresses, &key(seqs.start), Some(&key(seqs.end)), &mut |key, value| {
            if outlines.len() == limit {
                return ControlFlow::Break(());
            }
            match schema::parse_group_key(key).map(|id| Outline::decode(id, value).ok_or(id)) {
                Some(Ok(outline)) => outlines.push(outline),
                Some(Err(id)) => bad = Some(id),
                None => {}
            }
            ControlFlow::Continue(())
        })?;
        match bad {
            Some(id) => Err(Error::Damaged(id)),
            None => Ok(outlines),
        }
    }

    /// Which groups of a track are here.
    pub fn have(&self, session: &SessionId, track: TrackId) -> Result<Have, Error> {
        let prefix = schema::track_prefix(session, track);
        let mut pages = Vec::new();
        let mut bad = false;
        self.scan_prefix(&self.media, Column::Have, &prefix, &mut |key, value| {
            match (key[prefix.len()..].try_into().map(u32::from_be_bytes), Page::decode(value)) {
                (Ok(number), Ok(page)) => pages.push((number, page)),
                _ => bad = true,
            }
            ControlFlow::Continue(())
        })?;
        if bad {
            return Err(Error::Unreadable(format!("inventory of track {track} of session {session}")));
        }
        Ok(Have::from_pages(pages))
    }

    /// The tracks of a session of which there is at least one group.
    pub fn tracks(&self, session: &SessionId) -> Result<Vec<TrackId>, Error> {
        let mut tracks = BTreeSet::new();
        self.scan_prefix(&self.media, Column::Have, session.as_bytes(), &mut |key, _| {
            let number = key.get(16..18).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
            tracks.extend(number.and_then(|number| TrackId::try_from(number).ok()));
            ControlFlow::Continue(())
        })?;
        Ok(tracks.into_iter().collect())
    }

    /// How much of each track of a session is here. Reads some fifty bytes a group.
    pub fn totals(&self, session: &SessionId) -> Result<BTreeMap<TrackId, Totals>, Error> {
        let mut totals: BTreeMap<TrackId, Totals> = BTreeMap::new();
        self.scan_prefix(&self.media, Column::Addresses, session.as_bytes(), &mut |key, value| {
            let outline = schema::parse_group_key(key).and_then(|id| Outline::decode(id, value));
            if let Some(outline) = outline {
                *totals.entry(outline.id.track).or_default() +=
                    Totals { groups: 1, frames: outline.frames.into(), bytes: outline.len.into() };
            }
            ControlFlow::Continue(())
        })?;
        Ok(totals)
    }

    fn page(&self, session: &SessionId, track: TrackId, number: u32) -> Result<Page, Error> {
        match self.media.get(Column::Have, &schema::page_key(session, track, number))? {
            Some(bytes) => Page::decode(&bytes)
                .map_err(|_| Error::Unreadable(format!("inventory of track {track} of session {session}"))),
            None => Ok(Page::EMPTY),
        }
    }

    /// Visits all keys that begin with `prefix`.
    fn scan_prefix(
        &self,
        db: &Arc<dyn Db>,
        column: Column,
        prefix: &[u8],
        visit: &mut db::Visitor<'_>,
    ) -> Result<(), Error> {
        Ok(db.scan(column, prefix, schema::after(prefix).as_deref(), visit)?)
    }

    /// The value of the last key that begins with `prefix`.
    fn last_with(&self, db: &Arc<dyn Db>, column: Column, prefix: &[u8]) -> Result<Option<Bytes>, Error> {
        let last = db.last(column, prefix, schema::after(prefix).as_deref())?;
        Ok(last.map(|(_, value)| value))
    }
}

/// The changes that store a group, but for its bit in the inventory.
fn put_group(batch: &mut Batch, record: &Record) {
    let key = schema::group_key(&record.id());
    batch.put(Column::Groups, &key, record.bytes().clone());
    batch.put(Column::Addresses, &key, Outline::of(record).encode());
}

/// Sessions.
impl Archive {
    /// Stores a session's head in place of the one before.
    pub fn put_head(&self, head: &Head) -> Result<(), Error> {
        let _writing = self.write()?;
        head.check()?;
        let mut batch = Batch::new();
        batch.put(Column::Sessions, head.id.as_bytes(), head.encode());
        if head.state == State::Ended
            && let Err(error) = self.count(&head.id, &mut batch)
        {
            tracing::warn!(session = %head.id, %error, "what is stored of an ended session could not be counted");
        }
        Ok(self.meta.write(batch, Durability::Synced)?)
    }

    /// The head of a session, if it is known here.
    pub fn head(&self, session: &SessionId) -> Result<Option<Head>, Error> {
        let Some(bytes) = self.meta.get(Column::Sessions, session.as_bytes())? else {
            return Ok(None);
        };
        match Head::decode(&bytes) {
            Ok(head) if head.id == *session => Ok(Some(head)),
            _ => Err(Error::Unreadable(format!("head of session {session}"))),
        }
    }

    /// All sessions, by start.
    pub fn sessions(&self) -> Result<Sessions, Error> {
        let mut sessions = Sessions::default();
        self.meta.scan(Column::Sessions, &[], None, &mut |key, value| {
            let Ok(id) = key.try_into().map(SessionId::from_bytes) else {
                return ControlFlow::Continue(());
            };
            match Head::decode(value) {
                Ok(head) if head.id == id => sessions.heads.push(head),
                _ => sessions.damaged.push(id),
            }
            ControlFlow::Continue(())
        })?;
        Ok(sessions)
    }

    /// Stores the next journal entry. Storing the same entry again does nothing.
    pub fn append_journal(&self, entry: &Signed<Entry>) -> Result<(), Error> {
        let _writing = self.write()?;
        let (session, n) = (entry.content().session, entry.content().n);
        let stored = |n| self.meta.get(Column::Journal, &schema::journal_key(&session, n));
        match stored(n)? {
            Some(bytes) if bytes == *entry.bytes() => return Ok(()),
            Some(_) => return Err(Error::Journal { session, n }),
            None => {}
        }
        if n > 0 && stored(n - 1)?.is_none() {
            return Err(Error::Journal { session, n });
        }
        let mut batch = Batch::new();
        batch.put(Column::Journal, &schema::journal_key(&session, n), entry.bytes().clone());
        Ok(self.meta.write(batch, Durability::Synced)?)
    }

    /// The journal's signed entries from number `from` on, in order and unchecked: see [`crate::journal::Chain`].
    pub fn journal(&self, session: &SessionId, from: u64) -> Result<Vec<Bytes>, Error> {
        let mut entries = Vec::new();
        let (first, end) = (schema::journal_key(session, from), schema::after(session.as_bytes()));
        self.meta.scan(Column::Journal, &first, end.as_deref(), &mut |_, value| {
            entries.push(Bytes::copy_from_slice(value));
            ControlFlow::Continue(())
        })?;
        Ok(entries)
    }

    /// Whether anything of a session's journal is here.
    pub fn has_journal(&self, session: &SessionId) -> Result<bool, Error> {
        Ok(self.meta.get(Column::Journal, &schema::journal_key(session, 0))?.is_some())
    }

    /// Stores wraps of a session key. They may be added at any time; nothing is taken back by removing one.
    pub fn put_wraps(&self, session: &SessionId, epoch: Epoch, wraps: &[(NodeId, Wrap)]) -> Result<(), Error> {
        let _writing = self.write()?;
        let mut batch = Batch::new();
        for (recipient, wrap) in wraps {
            batch.put(Column::Wraps, &schema::wrap_key(session, epoch, recipient), wrap.as_bytes().to_vec());
        }
        if !batch.is_empty() {
            self.meta.write(batch, Durability::Synced)?;
        }
        Ok(())
    }

    /// The wraps made for a node, by epoch.
    pub fn wraps(&self, session: &SessionId, recipient: &NodeId) -> Result<BTreeMap<Epoch, Wrap>, Error> {
        let mut wraps = BTreeMap::new();
        let mut bad = false;
        self.scan_prefix(&self.meta, Column::Wraps, session.as_bytes(), &mut |key, value| {
            if key.ends_with(recipient.as_bytes()) {
                match (key.get(19), Wrap::decode(value)) {
                    (Some(epoch), Ok(wrap)) => drop(wraps.insert(*epoch, wrap)),
                    _ => bad = true,
                }
            }
            ControlFlow::Continue(())
        })?;
        if bad { Err(Error::Unreadable(format!("keys of session {session}"))) } else { Ok(wraps) }
    }

    /// Every wrap of a session's keys, by epoch and recipient.
    pub fn all_wraps(&self, session: &SessionId) -> Result<BTreeMap<Epoch, BTreeMap<NodeId, Wrap>>, Error> {
        let mut wraps: BTreeMap<Epoch, BTreeMap<NodeId, Wrap>> = BTreeMap::new();
        let mut bad = false;
        self.scan_prefix(&self.meta, Column::Wraps, session.as_bytes(), &mut |key, value| {
            match (schema::parse_wrap_key(key), Wrap::decode(value)) {
                (Some((epoch, recipient)), Ok(wrap)) => drop(wraps.entry(epoch).or_default().insert(recipient, wrap)),
                _ => bad = true,
            }
            ControlFlow::Continue(())
        })?;
        if bad { Err(Error::Unreadable(format!("keys of session {session}"))) } else { Ok(wraps) }
    }

    /// Sets aside the next `count` group numbers of this node in a session and gives them. They are given once,
    /// whatever crashes: the promise is on disk before this returns. A node that restarts begins with numbers it asks
    /// for anew and leaves unused ones out.
    /// None is below `used`: others may know of numbers that a lost disk has forgotten.
    pub fn reserve_seqs(&self, session: &SessionId, used: u64, count: u64) -> Result<Range<u64>, Error> {
        let _writing = self.write()?;
        let from = self.reserved(session)?.max(used);
        let to = from.checked_add(count).filter(|to| *to <= SEQ_MAX).ok_or(Error::Exhausted(*session))?;
        let mut batch = Batch::new();
        batch.put(Column::Reserved, session.as_bytes(), cbor::encode_versioned(RESERVED_VERSION, &to));
        self.meta.write(batch, Durability::Synced)?;
        Ok(from..to)
    }

    /// The first number of this node in a session that was never set aside.
    pub fn reserved(&self, session: &SessionId) -> Result<u64, Error> {
        match self.meta.get(Column::Reserved, session.as_bytes())? {
            None => Ok(0),
            Some(bytes) => cbor::decode_versioned(RESERVED_VERSION, &bytes, 16)
                .map_err(|_| Error::Unreadable(format!("group numbers of session {session}"))),
        }
    }
}

/// Gives damage to a whole database the name of that database.
fn broken(store: Store) -> impl Fn(db::Error) -> Error {
    move |error| match error {
        db::Error::Damaged(what) => Error::Broken { store, what },
        error => error.into(),
    }
}

/// Version of the values in [`Column::Reserved`].
const RESERVED_VERSION: u8 = 1;

/// Writes the layout's version into a new `meta`.
fn set_layout(meta: &dyn Db) -> Result<(), Error> {
    if meta.get(Column::Config, schema::SCHEMA_KEY)?.is_none() {
        let mut batch = Batch::new();
        batch.put(Column::Config, schema::SCHEMA_KEY, vec![schema::VERSION]);
        meta.write(batch, Durability::Synced)?;
    }
    Ok(())
}

fn check_layout(meta: &dyn Db) -> Result<(), Error> {
    match meta.get(Column::Config, schema::SCHEMA_KEY)?.as_deref() {
        Some([schema::VERSION]) => Ok(()),
        Some([version]) => Err(Error::Layout { found: version.to_string() }),
        _ => Err(Error::Layout { found: "of no known kind".into() }),
    }
}

/// Makes a folder, and those above it, that only its owner can enter.
fn make_private(dir: &Path) -> Result<(), Error> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|error| match error.kind() {
        std::io::ErrorKind::StorageFull => db::Error::Full.into(),
        _ => db::Error::Other(format!("{}: {error}", dir.display())).into(),
    })
}

mod kept;

#[cfg(test)]
mod tests;
