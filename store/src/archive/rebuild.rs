//! Building `media` anew when one of its tables is damaged.
//!
//! A table is a file of many keys. When a block of it is bad, point reads of other keys go on, and a group that was fetched
//! again is read from a newer file; but whatever passes over the block fails: listing, and in the end RocksDB's own
//! compaction, after which it takes no more writes until it is opened again. A block cannot be taken out of a table, and
//! RocksDB's repair does not know of blob files. So all that can be read is copied, key by key, into a new database,
//! which takes the old one's place. Before it does, `meta` is told of everything that was there, so what is missing after that
//! is lost by name ([`Archive::lost`]) and fetched.
//!
//! It is done when the archive is opened, before anybody reads or writes: at once if it cannot be listed, else when a scrub
//! asked for it. A crash leaves the old database in place or the new one, never half of either. It needs as
//! much free space as the database takes; without, everything stays as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::scrub::{Address, is_good};
use super::{Archive, Error, put_group};
use crate::{
    db::{
        self, Batch, Db, Durability,
        rocks::{self, Rocks},
    },
    id::{GroupId, Hash, SEQ_MAX, SessionId, TrackId, TrackKind},
    inventory::{Have, PAGE_LEN, Page},
    record::Record,
    schema::{self, Column, Store},
};

/// Says, beside the databases, that `media` is to be built anew.
const WANTED: &str = "media.rebuild";
/// The new database while it is written.
const NEW: &str = "media.new";
/// The new database when it is whole.
const READY: &str = "media.ready";

/// Groups written at once.
const BATCH: u64 = 16;

/// Tries of a write the disk does not keep up with. Each waits some seconds by itself; hours of copying are worth minutes of
/// patience.
const TRIES: u32 = 60;

/// Asks for `media` to be built anew when the archive in `dir` is opened next.
pub fn want(dir: &Path) -> Result<(), Error> {
    fs::write(dir.join(WANTED), b"").map_err(|error| system(&dir.join(WANTED), &error))
}

/// Whether `media` is to be built anew.
pub fn is_wanted(dir: &Path) -> bool {
    dir.join(WANTED).exists()
}

/// Puts a database that is ready in place of the old one, and takes away what is not. A name is on the disk before the next
/// step relies on it: a power cut must not find the old database gone and the new one still under its first name.
pub(super) fn settle(dir: &Path) -> Result<(), Error> {
    let [new, ready, media] = [NEW, READY, Store::Media.name()].map(|name| dir.join(name));
    remove(&new)?;
    if ready.is_dir() {
        sync(dir)?;
        remove(&media)?;
        fs::rename(&ready, &media).map_err(|error| system(&media, &error))?;
        sync(dir)?;
        let _ = fs::remove_file(dir.join(WANTED));
    }
    Ok(())
}

/// Whether `media` cannot be listed for damage.
pub(super) fn is_damaged(media: &dyn Db) -> bool {
    [Column::Have, Column::Addresses].into_iter().any(|column| {
        let read = media.scan(column, &[], None, &mut |_, _| ControlFlow::Continue(()));
        matches!(read, Err(db::Error::Damaged(_)))
    })
}

/// Copies what can be read of `media` into a new database, and gives how many groups that were. Without room for all of it
/// nothing is begun: that is [`db::Error::Full`].
pub(super) fn rebuild(dir: &Path, meta: &Arc<dyn Db>) -> Result<u64, Error> {
    let [new, ready, media] = [NEW, READY, Store::Media.name()].map(|name| dir.join(name));
    let (taken, free) = (len(&media)?, rocks::free_space(dir)?);
    if !is_enough(free, taken) {
        return Err(db::Error::Full.into());
    }
    tracing::warn!(bytes = taken, "the recordings are copied out of a damaged database before this point starts");
    let built = || {
        let old = Rocks::open_read_only(Store::Media, &media)?;
        let new = Rocks::open_alone(Store::Media, &new)?;
        build(&Archive::reading(Arc::clone(meta), Arc::new(old)), &new)
    };
    let copied = match built() {
        Ok(copied) => copied,
        Err(error) => {
            remove(&new)?;
            return Err(error);
        }
    };
    fs::rename(&new, &ready).map_err(|error| system(&ready, &error))?;
    settle(dir)?;
    Ok(copied)
}

/// Whether a database that takes so many bytes can be copied onto a disk with so many free, and written to afterwards.
fn is_enough(free: u64, taken: u64) -> bool {
    free >= taken.saturating_add(rocks::FREE_MIN)
}

/// Bytes in the files of a folder.
fn len(folder: &Path) -> Result<u64, Error> {
    let mut sum = 0;
    for entry in fs::read_dir(folder).map_err(|error| system(folder, &error))? {
        let metadata = entry.and_then(|entry| entry.metadata()).map_err(|error| system(folder, &error))?;
        sum += metadata.len();
    }
    Ok(sum)
}

/// Copies what can be read of the old archive's groups into `new`, and makes `meta` know of all that were there, so that
/// what could not be copied is lost by name before the old database goes.
fn build(old: &Archive, new: &dyn Db) -> Result<u64, Error> {
    let all = candidates(old)?;
    let mut copied = 0;
    for ((session, track), candidates) in &all {
        copied += copy(old, new, *session, *track, &candidates.numbers())?;
    }
    new.settle()?;
    for ((session, track), candidates) in all {
        let before = old.kept(&session)?.remove(&track).unwrap_or_default();
        let mut kept = candidates.listed;
        kept.merge(&before);
        if kept != before {
            let mut known = Batch::new();
            known.put(Column::Kept, &schema::track_prefix(&session, track), kept.encode());
            old.meta.write(known, Durability::Synced)?;
        }
    }
    Ok(copied)
}

/// Copies those groups of a track that can be read.
fn copy(old: &Archive, new: &dyn Db, session: SessionId, track: TrackId, numbers: &Have) -> Result<u64, Error> {
    let head = old.head(&session).ok().flatten();
    let signed = head.map(|head| old.signed(&head, track.point())).unwrap_or_default();
    let mut pages: BTreeMap<u32, Page> = BTreeMap::new();
    let (mut batch, mut copied) = (Batch::new(), 0);
    for seq in numbers.runs().flatten() {
        let signed = signed.get(&(track, seq)).map(|group| group.hash);
        let Some(record) = good(old, &GroupId { session, track, seq }, signed)? else { continue };
        put_group(&mut batch, &record);
        let (page, place) = Page::place(seq);
        pages.entry(page).or_insert(Page::EMPTY).insert(place);
        copied += 1;
        if copied % BATCH == 0 {
            write(new, std::mem::take(&mut batch), Durability::Buffered)?;
        }
    }
    for (number, page) in pages {
        batch.put(Column::Have, &schema::page_key(&session, track, number), page.encode());
    }
    write(new, batch, Durability::Synced)?;
    Ok(copied)
}

/// Writes, and waits for a disk that does not keep up.
fn write(new: &dyn Db, batch: Batch, durability: Durability) -> Result<(), db::Error> {
    for _ in 1..TRIES {
        match new.write(batch.clone(), durability) {
            Err(db::Error::Stalled) => {}
            written => return written,
        }
    }
    new.write(batch, durability)
}

/// The numbers of a track under which a group may lie.
#[derive(Debug, Default)]
struct Candidates {
    /// Groups that were here: counted, in the inventory, or with an address.
    listed: Have,
    /// Groups that may have been here: signed by their point, or on a page of the inventory that cannot be read.
    possible: Have,
}

impl Candidates {
    fn numbers(&self) -> Have {
        let mut numbers = self.listed.clone();
        numbers.merge(&self.possible);
        numbers
    }
}

/// Every number under which a group may lie. A listing ends at the first block that is bad, so each session is listed by
/// itself: a bad block of an old one must not hide the one that was recorded when the power went, whose last groups nobody
/// has counted or signed.
fn candidates(old: &Archive) -> Result<BTreeMap<(SessionId, TrackId), Candidates>, Error> {
    let mut all: BTreeMap<(SessionId, TrackId), Candidates> = BTreeMap::new();
    let session_ids = session_ids(old)?;
    for &session in &session_ids {
        for (track, kept) in old.kept(&session)? {
            all.entry((session, track)).or_default().listed.merge(&kept);
        }
    }
    for head in old.sessions()?.heads {
        let points: BTreeSet<_> = head.points.iter().map(|member| member.number).collect();
        for point in points {
            for kind in TrackKind::ALL {
                all.entry((head.id, TrackId::new(point, kind))).or_default();
            }
            for (track, seq) in old.signed(&head, point).into_keys() {
                all.entry((head.id, track)).or_default().possible.insert(seq);
            }
        }
    }
    // Those that `meta` does not know may lie between the others.
    let mut from = Vec::new();
    for to in session_ids.iter().map(|session| Some(session.as_bytes().to_vec())).chain([None]) {
        list(old, &from, to.as_deref(), &mut all)?;
        from = to.unwrap_or_default();
    }
    for ((session, track), candidates) in &mut all {
        look_up(old, session, *track, candidates)?;
    }
    all.retain(|_, candidates| !candidates.numbers().is_empty());
    Ok(all)
}

/// Every session of which `meta` knows something.
fn session_ids(old: &Archive) -> Result<BTreeSet<SessionId>, Error> {
    let mut ids = BTreeSet::new();
    for column in [Column::Sessions, Column::Kept, Column::Touched] {
        old.meta.scan(column, &[], None, &mut |key, _| {
            ids.extend(key.first_chunk().map(|id| SessionId::from_bytes(*id)));
            ControlFlow::Continue(())
        })?;
    }
    Ok(ids)
}

/// Adds what is listed of the groups from one key to another, as far as the first bad block of each list.
fn list(
    old: &Archive,
    from: &[u8],
    to: Option<&[u8]>,
    all: &mut BTreeMap<(SessionId, TrackId), Candidates>,
) -> Result<(), Error> {
    let as_far_as_it_goes = |listed| match listed {
        Err(db::Error::Damaged(_)) => Ok(()),
        listed => listed,
    };
    let pages = old.media.scan(Column::Have, from, to, &mut |key, value| {
        let page = Page::decode(value).ok().and_then(|page| Some((schema::parse_page_key(key)?, page)));
        if let Some(((session, track, number), page)) = page {
            let listed = Have::from_pages([(number, page)]);
            all.entry((session, track)).or_default().listed.merge(&listed);
        }
        ControlFlow::Continue(())
    });
    as_far_as_it_goes(pages)?;
    let addresses = old.media.scan(Column::Addresses, from, to, &mut |key, _| {
        if let Some(id) = schema::parse_group_key(key) {
            all.entry((id.session, id.track)).or_default().listed.insert(id.seq);
        }
        ControlFlow::Continue(())
    });
    Ok(as_far_as_it_goes(addresses)?)
}

/// Adds what the pages of a track's inventory say that no listing came to. Of one that cannot be read any number may be that of
/// a group; to ask for one that is not there costs next to nothing.
fn look_up(old: &Archive, session: &SessionId, track: TrackId, candidates: &mut Candidates) -> Result<(), Error> {
    let known: BTreeSet<u32> = candidates.numbers().pages().map(|(number, _)| number).collect();
    // The page after each, too: the latest groups may have begun it.
    let numbers: BTreeSet<u32> =
        known.iter().flat_map(|number| [Some(*number), number.checked_add(1)]).flatten().collect();
    for number in numbers.into_iter().chain(known.is_empty().then_some(0)) {
        match old.page(session, track, number) {
            Ok(page) => candidates.listed.merge(&Have::from_pages([(number, page)])),
            Err(Error::Unreadable(_) | Error::Storage(db::Error::Damaged(_))) => {
                let first = u64::from(number) * PAGE_LEN;
                for seq in (first..first + PAGE_LEN).take_while(|seq| *seq <= SEQ_MAX) {
                    candidates.possible.insert(seq);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A group, if its bytes can be read and are what was stored or signed.
fn good(old: &Archive, id: &GroupId, signed: Option<Hash>) -> Result<Option<Record>, Error> {
    let key = schema::group_key(id);
    let bytes = match old.media.get(Column::Groups, &key) {
        Err(db::Error::Damaged(_)) => None,
        read => read?,
    };
    let address = Address::of(id, old.media.get(Column::Addresses, &key))?;
    let record = bytes.and_then(|bytes| Record::parse(bytes).ok());
    Ok(record.filter(|record| is_good(record, id, address, signed)))
}

/// Brings the names in a folder to the disk.
#[cfg(unix)]
fn sync(dir: &Path) -> Result<(), Error> {
    fs::File::open(dir).and_then(|folder| folder.sync_all()).map_err(|error| system(dir, &error))
}

/// On this system a folder cannot be synced; its journal keeps the order.
#[cfg(not(unix))]
fn sync(_dir: &Path) -> Result<(), Error> {
    Ok(())
}

fn remove(folder: &PathBuf) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(system(folder, &error)),
        _ => Ok(()),
    }
}

fn system(path: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::StorageFull => db::Error::Full.into(),
        _ => db::Error::Other(format!("{}: {error}", path.display())).into(),
    }
}

#[cfg(test)]
mod tests;
