//! Reading everything again: whether a session's groups and records are still what was stored and signed.
//!
//! RocksDB notices a flipped bit only when somebody reads the value, its own checks pass over blob files, and an iterator
//! over groups stops at the first bad one and hides the rest. So groups are listed from what their points signed and from
//! the inventory, and each is read by its key and compared with the address its point signed. Records of the truth are read
//! through, and their chains and signatures checked.
//!
//! **A group that is bad is set aside.** Its address and its bit in the inventory go, its bytes stay, and `meta` goes on
//! knowing that it was here. So it is *lost* like any group a disk forgot ([`Archive::lost`]): it is given to nobody, no
//! receipt is signed over it, it is named, and it is fetched again. Should its bytes be good again when they are next read (a
//! cable, not the disk), it comes back by itself. Nothing that could be evidence is deleted.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use bytes::Bytes;

use super::{Archive, Error, Outline, put_group};
use crate::{
    db::{self, Batch, Durability},
    id::{GroupId, Hash, PointNumber, SessionId, TrackId},
    inventory::{Have, Page},
    journal, manifest,
    record::Record,
    schema::{self, Column},
    scrub::{Cursor, Fault, Progress},
    segment::{self, Group, Segment},
    session::Head,
    signed::Signed,
    verify::sentence,
};

/// Groups looked at in one stretch, however small they are: what is listed of them is in memory.
const STRETCH_MAX: usize = 512;

/// What one stretch of reading brought.
#[derive(Debug, Default)]
pub struct Stretch {
    /// Whether it is the first of its session.
    pub first: bool,
    /// Groups read.
    pub groups: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// Groups that are here and whose bytes are wrong or cannot be read.
    pub bad: Vec<GroupId>,
    /// Groups that were lost or not listed, and whose bytes are good.
    pub good: Vec<Record>,
    /// Where it goes on; `None` at the end of the session.
    pub next: Option<Cursor>,
}

impl Stretch {
    fn find(&mut self, fault: Fault) {
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }
}

/// What is known of a track: which groups should be looked at, and by which address to know them.
struct Expected {
    have: Have,
    numbers: Have,
    signed: BTreeMap<u64, Hash>,
}

impl Archive {
    /// Reads on in a session from `from`, or from its beginning, some `bytes` of groups; first of all its records. Reads
    /// only: what is to be changed is carried out by [`Archive::scrubbed`].
    pub fn scrub(&self, head: &Head, from: Option<Cursor>, bytes: u64) -> Result<Stretch, Error> {
        let mut stretch = Stretch { first: from.is_none(), ..Stretch::default() };
        if from.is_none() {
            self.read_truth(head, &mut stretch);
        }
        let tracks = self.tracks_to_read(head, &mut stretch);
        let first = from.map(|cursor| cursor.track);
        for track in tracks.into_iter().filter(|track| first.is_none_or(|first| *track >= first)) {
            let start = from.filter(|cursor| cursor.track == track).map_or(0, |cursor| cursor.seq);
            let expected = self.expected(head, track, &mut stretch)?;
            for seq in expected.numbers.runs().flatten().filter(|seq| *seq >= start) {
                if stretch.bytes >= bytes || stretch.groups as usize >= STRETCH_MAX {
                    stretch.next = Some(Cursor { track, seq });
                    return Ok(stretch);
                }
                self.look(&GroupId { session: head.id, track, seq }, &expected, &mut stretch)?;
            }
        }
        Ok(stretch)
    }

    /// Reads one group again.
    fn look(&self, id: &GroupId, expected: &Expected, stretch: &mut Stretch) -> Result<(), Error> {
        let key = schema::group_key(id);
        let read = self.readable(self.media.get(Column::Groups, &key), stretch)?;
        let address = self.media.get(Column::Addresses, &key);
        self.readable(address.clone(), stretch)?;
        let address = Address::of(id, address)?;
        let signed = expected.signed.get(&id.seq).copied();
        stretch.groups += 1;
        let is_listed = expected.have.contains(id.seq);
        let record = read.flatten().and_then(|bytes| Record::parse(bytes).ok());
        let record = record.filter(|record| is_good(record, id, address, signed));
        match record {
            Some(record) => {
                stretch.bytes += record.bytes().len() as u64;
                if !is_listed || address != Address::Known(record.hash()) {
                    stretch.good.push(record);
                }
            }
            None if is_listed => {
                stretch.find(Fault::Group { track: id.track, seq: id.seq });
                stretch.bad.push(*id);
            }
            // Known to be lost, and fetched as such.
            None => {}
        }
        Ok(())
    }

    /// `None` for what cannot be read for damage. Damage to a table concerns more than one value, and is told apart.
    fn readable<T>(&self, read: Result<T, db::Error>, stretch: &mut Stretch) -> Result<Option<T>, Error> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(db::Error::Damaged(what)) => {
                if what.contains(TABLE) {
                    stretch.find(Fault::Table { what: named(&what) });
                }
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The tracks of which there is or was something.
    fn tracks_to_read(&self, head: &Head, stretch: &mut Stretch) -> BTreeSet<TrackId> {
        let mut tracks: BTreeSet<TrackId> = BTreeSet::new();
        match self.tracks(&head.id) {
            Ok(there) => tracks.extend(there),
            Err(error) => stretch.find(Fault::Table { what: named(&sentence(&error)) }),
        }
        // Unreadable records are found where the truth is read.
        tracks.extend(self.kept(&head.id).unwrap_or_default().into_keys());
        tracks
    }

    fn expected(&self, head: &Head, track: TrackId, stretch: &mut Stretch) -> Result<Expected, Error> {
        let signed = self.signed(head, track.point());
        let signed: BTreeMap<u64, Hash> =
            signed.into_iter().filter(|((of, _), _)| *of == track).map(|((_, seq), group)| (seq, group.hash)).collect();
        let kept = self.kept(&head.id).unwrap_or_default().remove(&track).unwrap_or_default();
        let have = match self.have(&head.id, track) {
            Ok(have) => have,
            Err(Error::Storage(db::Error::Damaged(what))) => {
                stretch.find(Fault::Table { what: named(&what) });
                self.have_by_page(&head.id, track, &kept, &signed)?
            }
            Err(Error::Unreadable(what)) => {
                stretch.find(Fault::Table { what });
                self.have_by_page(&head.id, track, &kept, &signed)?
            }
            Err(error) => return Err(error),
        };
        let mut numbers = have.clone();
        numbers.merge(&kept);
        Ok(Expected { have, numbers, signed })
    }

    /// What of an inventory can still be read, page by page; of a page that cannot, what has an address.
    fn have_by_page(
        &self,
        session: &SessionId,
        track: TrackId,
        kept: &Have,
        signed: &BTreeMap<u64, Hash>,
    ) -> Result<Have, Error> {
        let mut candidates = kept.clone();
        for seq in signed.keys() {
            candidates.insert(*seq);
        }
        let mut have = Have::new();
        for (number, candidates) in candidates.pages() {
            let page = self.media.get(Column::Have, &schema::page_key(session, track, number));
            let page = page.ok().flatten().and_then(|bytes| Page::decode(&bytes).ok());
            let within = Have::from_pages([(number, page.unwrap_or(candidates.clone()))]);
            for seq in within.runs().flatten() {
                let is_there = matches!(self.outline(&GroupId { session: *session, track, seq }), Ok(Some(_)));
                if is_there {
                    have.insert(seq);
                }
            }
        }
        Ok(have)
    }

    /// What a point signed of its groups, as far as its segments here are good.
    pub fn signed(&self, head: &Head, point: PointNumber) -> BTreeMap<(TrackId, u64), Group> {
        let mut listed = BTreeMap::new();
        let Some(member) = head.member(point) else { return listed };
        let mut chain = segment::Chain::new(head.id, point, member.node);
        for bytes in self.segments(&head.id, point, 0, usize::MAX).unwrap_or_default() {
            let segment = Signed::<Segment>::parse(bytes).ok().filter(|segment| chain.accept(segment).is_ok());
            let Some(segment) = segment else { break };
            listed.extend(segment.content().groups().map(|(track, group)| ((track, group.seq), group.clone())));
        }
        listed
    }

    /// Reads a session's records, and what stands beside the sessions, and checks what is signed.
    fn read_truth(&self, head: &Head, stretch: &mut Stretch) {
        let session = head.id;
        let mut find = |what: String| stretch.find(Fault::Truth { what });
        for column in schema::Store::Meta.columns() {
            let prefix: &[u8] = if is_beside(column) { &[] } else { session.as_bytes() };
            let end = schema::after(prefix);
            let read = self.meta.scan(column, prefix, end.as_deref(), &mut |_, _| ControlFlow::Continue(()));
            if let Err(error) = read {
                find(format!("column {}: {}", column.name(), named(&error.to_string())));
            }
        }
        let journal = self.journal(&session, 0).map_err(|error| sentence(&error));
        let journal = journal.and_then(|entries| {
            journal::Chain::verify(session, head.central, entries).map_err(|error| sentence(&error))
        });
        if let Err(what) = journal {
            find(format!("journal of session {session}: {what}"));
        }
        for member in &head.points {
            let segments = self.segments(&session, member.number, 0, usize::MAX).map_err(|error| sentence(&error));
            let segments = segments.and_then(|segments| {
                segment::Chain::verify(session, member.number, member.node, segments).map_err(|error| sentence(&error))
            });
            if let Err(what) = segments {
                find(format!("segments of point {} in session {session}: {what}", member.number));
            }
        }
        let manifests = self.manifests(&session).map_err(|error| sentence(&error));
        let manifests = manifests.and_then(|found| manifests_in_order(head, found.manifests));
        if let Err(what) = manifests {
            find(format!("manifests of session {session}: {what}"));
        }
        if let Err(error) =
            self.all_wraps(&session).and_then(|_| self.receipts(&session)).and_then(|_| self.kept(&session))
        {
            find(sentence(&error));
        }
    }
}

/// What is to be changed after reading.
impl Archive {
    /// Carries out what a stretch of a session came to, and writes down how far it is.
    pub fn scrubbed(&self, session: &SessionId, stretch: &Stretch, now_ms: u64) -> Result<Progress, Error> {
        self.restore(&stretch.good)?;
        self.set_aside(&stretch.bad)?;
        let mut progress = self.scrub_progress(session)?.unwrap_or_else(|| Progress::new(now_ms));
        if stretch.first {
            progress.begin();
        }
        progress.advance(stretch.groups, stretch.faults.clone(), stretch.next, now_ms);
        self.put_scrub_progress(session, &progress)?;
        Ok(progress)
    }

    /// How far a session was read again.
    pub fn scrub_progress(&self, session: &SessionId) -> Result<Option<Progress>, Error> {
        let Some(bytes) = self.meta.get(Column::Scrubs, session.as_bytes())? else { return Ok(None) };
        // What another version wrote, or a disk changed, says nothing any more: the session is read from its beginning.
        Ok(Progress::decode(&bytes).ok())
    }

    /// Writes down how far a session was read again.
    pub fn put_scrub_progress(&self, session: &SessionId, progress: &Progress) -> Result<(), Error> {
        let _writing = self.write()?;
        let mut batch = Batch::new();
        batch.put(Column::Scrubs, session.as_bytes(), progress.encode());
        Ok(self.meta.write(batch, Durability::Synced)?)
    }

    /// Makes these groups lost ones, if their bytes are still bad. `meta` knows of them before `media` forgets them.
    fn set_aside(&self, bad: &[GroupId]) -> Result<(), Error> {
        let _writing = self.write()?;
        let mut by_track: BTreeMap<(SessionId, TrackId), Have> = BTreeMap::new();
        for id in bad.iter().filter(|id| self.get(id).is_err()) {
            by_track.entry((id.session, id.track)).or_default().insert(id.seq);
        }
        for ((session, track), bad) in by_track {
            let mut kept = self.kept(&session)?.remove(&track).unwrap_or_default();
            kept.merge(&bad);
            let mut known = Batch::new();
            known.put(Column::Kept, &schema::track_prefix(&session, track), kept.encode());
            self.meta.write(known, Durability::Synced)?;
            let mut batch = Batch::new();
            for (number, bad) in bad.pages() {
                let mut page = self.whole_page(&session, track, number, &kept)?;
                for seq in Have::from_pages([(number, bad.clone())]).runs().flatten() {
                    page.remove(Page::place(seq).1);
                    batch.delete(Column::Addresses, &schema::group_key(&GroupId { session, track, seq }));
                }
                batch.put(Column::Have, &schema::page_key(&session, track, number), page.encode());
            }
            self.media.write(batch, Durability::Synced)?;
        }
        Ok(())
    }

    /// Lists groups whose bytes are good and that were not listed, or by another address than their own.
    fn restore(&self, good: &[Record]) -> Result<(), Error> {
        let _writing = self.write()?;
        let mut batch = Batch::new();
        let mut pages: BTreeMap<(SessionId, TrackId, u32), Page> = BTreeMap::new();
        for record in good {
            let id = record.id();
            let (number, place) = Page::place(id.seq);
            let page = match pages.entry((id.session, id.track, number)) {
                std::collections::btree_map::Entry::Occupied(page) => page.into_mut(),
                std::collections::btree_map::Entry::Vacant(gap) => {
                    let kept = self.kept(&id.session)?.remove(&id.track).unwrap_or_default();
                    gap.insert(self.whole_page(&id.session, id.track, number, &kept)?)
                }
            };
            page.insert(place);
            put_group(&mut batch, record);
        }
        for ((session, track, number), page) in &pages {
            batch.put(Column::Have, &schema::page_key(session, *track, *number), page.encode());
        }
        if batch.is_empty() { Ok(()) } else { Ok(self.media.write(batch, Durability::Synced)?) }
    }

    /// A page of the inventory, or, if it cannot be read, what of `kept` has an address.
    fn whole_page(&self, session: &SessionId, track: TrackId, number: u32, kept: &Have) -> Result<Page, Error> {
        match self.page(session, track, number) {
            Err(Error::Storage(db::Error::Damaged(_)) | Error::Unreadable(_)) => {
                let have = self.have_by_page(session, track, kept, &BTreeMap::new())?;
                Ok(have.pages().find(|(of, _)| *of == number).map_or(Page::EMPTY, |(_, page)| page.clone()))
            }
            page => page,
        }
    }
}

/// What RocksDB calls its tables.
const TABLE: &str = ".sst";

/// What is stored beside a group to know its bytes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Address {
    /// This.
    Known(Hash),
    /// Something that cannot be read.
    Unreadable,
    /// Nothing: the group was set aside, or never stored.
    Absent,
}

impl Address {
    /// What was read where it lies.
    pub(super) fn of(id: &GroupId, read: Result<Option<Bytes>, db::Error>) -> Result<Address, db::Error> {
        match read {
            Ok(None) => Ok(Address::Absent),
            Ok(Some(bytes)) => {
                Ok(Outline::decode(*id, &bytes).map_or(Address::Unreadable, |it| Address::Known(it.hash)))
            }
            Err(db::Error::Damaged(_)) => Ok(Address::Unreadable),
            Err(error) => Err(error),
        }
    }
}

/// Whether bytes that lie under an id are that group: what its point signed, or what was stored. What was stored as it is and
/// signed otherwise is a dispute between points, and no fault of this disk. Bytes that nobody signed are believed without
/// their address if it cannot be read, as far as they could be read whole; not if it is gone, for then they were found bad.
pub(super) fn is_good(record: &Record, id: &GroupId, address: Address, signed: Option<Hash>) -> bool {
    let fits = |hash: Hash| hash == record.hash();
    let stored = match address {
        Address::Known(hash) => fits(hash),
        Address::Unreadable => signed.is_none(),
        Address::Absent => false,
    };
    record.id() == *id && (stored || signed.is_some_and(fits))
}

/// The table that RocksDB's message speaks of, without the folder it lies in.
fn named(message: &str) -> String {
    let table = message.split(|c: char| c == '/' || c.is_whitespace()).find(|word| word.ends_with(TABLE));
    table.map_or_else(|| message.to_owned(), |table| format!("table {table}"))
}

/// Whether a column's keys do not begin with a session.
fn is_beside(column: Column) -> bool {
    matches!(column, Column::Config | Column::Access | Column::Rosters)
}

fn manifests_in_order(head: &Head, manifests: Vec<Bytes>) -> Result<(), String> {
    let mut before: Option<Signed<manifest::Manifest>> = None;
    for bytes in manifests {
        let next = Signed::<manifest::Manifest>::parse(bytes).map_err(|error| sentence(&error))?;
        if next.signer() != head.central || next.content().session != head.id {
            return Err(format!("manifest {} is not by the session's central", next.content().n));
        }
        if let Some(what) = before.as_ref().and_then(|before| next.content().contradicts(before)) {
            return Err(format!("manifest {} {what}", next.content().n));
        }
        before = Some(next);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
