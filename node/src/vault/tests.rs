//! What the vault promises those who store: order, one answer each, and that an answer is worth something.

use std::sync::mpsc::channel;

use store::db::memory::Memory;
use store::id::{NodeId, PointNumber, SessionId, TrackId, TrackKind};
use store::keys::SessionKey;
use store::record::{Flags, Writer};
use store::seal::{Sealer, Start, Suite};

use super::*;

fn memory() -> (Arc<Memory>, Arc<Memory>) {
    (Arc::new(Memory::new()), Arc::new(Memory::new()))
}

fn vault(meta: &Arc<Memory>, media: &Arc<Memory>) -> Vault {
    let archive = Archive::over(meta.clone(), media.clone()).expect("a database that works");
    Vault::over(archive).expect("a thread")
}

/// Group `seq` of some track, different for each `start`.
fn record(seq: u64, start: u64) -> Record {
    let (session, key) = (SessionId::from_bytes([1; 16]), SessionKey::from_bytes(&[2; 32]));
    let track = TrackId::new(PointNumber::new(1).expect("a small number"), TrackKind::Audio);
    let node = NodeId::from_bytes([3; 32]);
    let sealer = Sealer::new(&key, Suite::default(), session, node, track, 0, Start::from_bits(start));
    let (mut writer, _) = Writer::new(sealer, seq, seq * 2_000_000);
    writer.frame(0, Flags { key: true, discardable: false }, b"sound").expect("a small frame");
    writer.finish().record
}

/// Holds the vault's thread until the sender is dropped, so that what is put meanwhile waits.
fn hold(vault: &Vault) -> std::sync::mpsc::Sender<()> {
    let (release, held) = channel::<()>();
    vault.then(move |_| assert!(held.recv().is_err())).expect("an open vault");
    release
}

#[test]
fn a_confirmed_group_survives_a_power_cut() {
    let (meta, media) = memory();
    let vault = vault(&meta, &media);
    let (confirm, confirmed) = channel();
    for seq in 0..100 {
        let confirm = confirm.clone();
        let then = Box::new(move |result: Result<(), _>| confirm.send((seq, result.is_ok())).expect("a test waits"));
        vault.put(record(seq, 1), then).expect("an open vault");
    }
    let (seqs, results): (Vec<u64>, Vec<bool>) = confirmed.iter().take(100).unzip();
    assert!(seqs.is_sorted() && results.iter().all(|stored| *stored));
    media.crash(0);
    meta.crash(0);
    let archive = Archive::over(meta.clone(), media.clone()).expect("a database that works");
    for seq in 0..100 {
        assert_eq!(archive.get(&record(seq, 1).id()), Ok(record(seq, 1)));
    }
    vault.close();
}

#[test]
fn what_was_queued_before_closing_is_stored_and_later_work_is_refused() {
    let (meta, media) = memory();
    let vault = vault(&meta, &media);
    let release = hold(&vault);
    let (confirm, confirmed) = channel();
    for seq in 0..20 {
        let confirm = confirm.clone();
        vault.put(record(seq, 1), Box::new(move |result| drop(confirm.send(result)))).expect("an open vault");
    }
    drop((release, confirm));
    vault.close();
    let results: Vec<_> = confirmed.iter().collect();
    assert_eq!(results, vec![Ok(()); 20]);
    assert_eq!(vault.then(|_| ()), Err(Closed));
    assert_eq!(vault.put(record(20, 1), Box::new(|_| ())), Err(Closed));
    vault.close();
}

#[test]
fn work_is_done_in_the_order_it_was_queued() {
    let (meta, media) = memory();
    let vault = vault(&meta, &media);
    let release = hold(&vault);
    let (note, notes) = channel();
    for seq in 0..5 {
        vault.put(record(seq, 1), Box::new(|_| ())).expect("an open vault");
        let (note, id) = (note.clone(), record(seq, 1).id());
        let look = move |archive: &Archive| {
            let next = GroupId { seq: seq + 1, ..id };
            note.send((archive.get(&id).is_ok(), archive.get(&next).is_ok())).expect("a test waits");
        };
        vault.then(look).expect("an open vault");
    }
    drop((release, note));
    assert_eq!(notes.iter().collect::<Vec<_>>(), vec![(true, false); 5]);
    vault.close();
}

#[test]
fn a_group_that_is_refused_takes_no_other_with_it() {
    let (meta, media) = memory();
    let vault = vault(&meta, &media);
    let release = hold(&vault);
    let (confirm, confirmed) = channel();
    for group in [record(0, 1), record(1, 1), record(1, 2), record(2, 1)] {
        let confirm = confirm.clone();
        let hash = group.hash();
        vault.put(group, Box::new(move |result| drop(confirm.send((hash, result))))).expect("an open vault");
    }
    drop((release, confirm));
    let results: Vec<_> = confirmed.iter().collect();
    let conflict = Err(archive::Error::Conflict(record(1, 2).id()));
    let expected = [
        (record(0, 1).hash(), Ok(())),
        (record(1, 1).hash(), Ok(())),
        (record(1, 2).hash(), conflict),
        (record(2, 1).hash(), Ok(())),
    ];
    assert_eq!(results, expected);
    vault.close();
}

#[test]
fn a_full_disk_is_told_and_the_next_group_is_stored_when_there_is_room() {
    let (meta, media) = memory();
    let vault = vault(&meta, &media);
    let put = |seq| {
        let (confirm, confirmed) = channel();
        vault.put(record(seq, 1), Box::new(move |result| drop(confirm.send(result)))).expect("an open vault");
        confirmed.recv().expect("an answer to each")
    };
    media.set_capacity(Some(0));
    assert!(matches!(put(0), Err(archive::Error::Storage(_))));
    media.set_capacity(None);
    assert_eq!(put(1), Ok(()));
    assert_eq!(vault.get(record(0, 1).id()), Held::Missing);
    assert_eq!(vault.get(record(1, 1).id()), Held::Whole(record(1, 1).bytes().clone()));
    vault.close();
}

#[test]
fn a_group_that_waits_for_the_disk_is_not_said_to_be_missing() {
    let (meta, media) = memory();
    let vault = vault(&meta, &media);
    let release = hold(&vault);
    let id = record(0, 1).id();
    assert_eq!(vault.get(id), Held::Missing);
    vault.put(record(0, 1), Box::new(|result| assert!(result.is_ok()))).expect("an open vault");
    assert_eq!(vault.get(id), Held::NotYet);
    drop(release);
    vault.run(|_| ()).expect("an open vault");
    assert_eq!(vault.get(id), Held::Whole(record(0, 1).bytes().clone()));
    // One that the disk refuses is missing once that is known.
    media.set_full(true);
    let release = hold(&vault);
    vault.put(record(1, 1), Box::new(|result| assert!(result.is_err()))).expect("an open vault");
    assert_eq!(vault.get(record(1, 1).id()), Held::NotYet);
    drop(release);
    vault.run(|_| ()).expect("an open vault");
    assert_eq!(vault.get(record(1, 1).id()), Held::Missing);
    vault.close();
}

#[test]
fn a_damaged_group_is_not_served() {
    let (meta, media) = memory();
    let vault = vault(&meta, &media);
    vault.run(|archive| archive.put_groups(&[record(0, 1)])).expect("an open vault").expect("a disk that works");
    let key = store::schema::group_key(&record(0, 1).id());
    media.damage(store::schema::Column::Groups, &key);
    assert_eq!(vault.get(record(0, 1).id()), Held::Missing);
    vault.close();
}
