//! Building `media` anew when one of its tables is damaged.
//!
//! A table is a file of many keys. When a block of it is bad, point reads of other keys go on, and a group that was fetched
//! again is read from a newer file; but whatever passes over the block fails: listing, and in the end RocksDB's own
//! compaction, after which it takes no more writes until it is opened again. A block cannot be taken out of a table, and
//! RocksDB's repair does not know of blob files. So all that can be read is copied, key by key, into a new database,
//! which takes the old one's place. `meta` knows what was there ([`Archive::lost`]), so what is missing after that is named
//! and fetched.
//!
//! It is done when the archive is opened, before anybody reads or writes: at once if it cannot be opened otherwise, else
//! when a scrub asked for it. A crash leaves the old database in place or the new one, never half of either. It needs as
//! much free space as the groups take; without, everything stays as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::scrub::is_good;
use super::{Archive, Error, Outline, put_group};
use crate::{
    db::{self, Batch, Db, Durability, rocks::Rocks},
    id::{GroupId, Hash, SessionId, TrackId},
    inventory::{Have, Page},
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
const BATCH: usize = 16;

/// Asks for `media` to be built anew when the archive in `dir` is opened next.
pub fn want(dir: &Path) -> Result<(), Error> {
    fs::write(dir.join(WANTED), b"").map_err(|error| system(&dir.join(WANTED), &error))
}

/// Whether `media` is to be built anew.
pub fn is_wanted(dir: &Path) -> bool {
    dir.join(WANTED).exists()
}

/// Puts a database that is ready in place of the old one, and takes away what is not.
pub(super) fn settle(dir: &Path) -> Result<(), Error> {
    let [new, ready, media] = [NEW, READY, Store::Media.name()].map(|name| dir.join(name));
    remove(&new)?;
    if ready.is_dir() {
        remove(&media)?;
        fs::rename(&ready, &media).map_err(|error| system(&media, &error))?;
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

/// Copies what can be read of `media` into a new database, and gives how many groups that were.
pub(super) fn rebuild(dir: &Path, meta: &Arc<dyn Db>) -> Result<u64, Error> {
    let (new, ready) = (dir.join(NEW), dir.join(READY));
    let built = copy(dir, meta, &new);
    let copied = match built {
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

fn copy(dir: &Path, meta: &Arc<dyn Db>, new: &Path) -> Result<u64, Error> {
    let old = Rocks::open_read_only(Store::Media, &dir.join(Store::Media.name()))?;
    let old = Archive::reading(Arc::clone(meta), Arc::new(old));
    let (new, _) = Rocks::open(Store::Media, new)?;
    let mut copied = 0;
    for ((session, track), numbers) in candidates(&old)? {
        let head = old.head(&session).ok().flatten();
        let signed = head.map(|head| old.signed(&head, track.point())).unwrap_or_default();
        let mut pages: BTreeMap<u32, Page> = BTreeMap::new();
        let mut batch = Batch::new();
        for (n, seq) in (1..).zip(numbers.runs().flatten()) {
            let signed = signed.get(&(track, seq)).map(|group| group.hash);
            if let Some(record) = good(&old, &GroupId { session, track, seq }, signed)? {
                put_group(&mut batch, &record);
                let (page, place) = Page::place(seq);
                pages.entry(page).or_insert(Page::EMPTY).insert(place);
                copied += 1;
            }
            if n % BATCH == 0 {
                new.write(std::mem::take(&mut batch), Durability::Buffered)?;
            }
        }
        for (number, page) in pages {
            batch.put(Column::Have, &schema::page_key(&session, track, number), page.encode());
        }
        new.write(batch, Durability::Synced)?;
    }
    new.settle()?;
    Ok(copied)
}

/// Every number under which a group may lie: those that were counted, those that were signed, and those that can still
/// be listed.
fn candidates(old: &Archive) -> Result<BTreeMap<(SessionId, TrackId), Have>, Error> {
    let mut all: BTreeMap<(SessionId, TrackId), Have> = BTreeMap::new();
    for head in old.sessions()?.heads {
        for (track, kept) in old.kept(&head.id)? {
            all.entry((head.id, track)).or_default().merge(&kept);
        }
        let points: BTreeSet<_> = head.points.iter().map(|member| member.number).collect();
        for (track, seq) in points.into_iter().flat_map(|point| old.signed(&head, point).into_keys()) {
            all.entry((head.id, track)).or_default().insert(seq);
        }
    }
    // As far as the first block that is bad; the rest is known from above.
    let _ = old.media.scan(Column::Addresses, &[], None, &mut |key, _| {
        if let Some(id) = schema::parse_group_key(key) {
            all.entry((id.session, id.track)).or_default().insert(id.seq);
        }
        ControlFlow::Continue(())
    });
    Ok(all)
}

/// A group, if its bytes can be read and are what was stored or signed.
fn good(old: &Archive, id: &GroupId, signed: Option<Hash>) -> Result<Option<Record>, Error> {
    let key = schema::group_key(id);
    let read = |column| -> Result<Option<Bytes>, Error> {
        match old.media.get(column, &key) {
            Err(db::Error::Damaged(_)) => Ok(None),
            read => Ok(read?),
        }
    };
    let address = read(Column::Addresses)?.and_then(|bytes| Outline::decode(*id, &bytes)).map(|outline| outline.hash);
    let record = read(Column::Groups)?.and_then(|bytes| Record::parse(bytes).ok());
    Ok(record.filter(|record| is_good(record, id, address, signed)))
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
