//! The contract, checked alike on RocksDB and on its twin.

use std::{ops::ControlFlow, sync::Arc};

use super::{memory::Memory, rocks::Rocks, *};
use crate::schema::Store;

/// Runs a check on both databases.
fn on_both(check: impl Fn(&dyn Db)) {
    check(&Memory::new());
    let dir = tempfile::tempdir().unwrap();
    check(&Rocks::open(Store::Media, dir.path()).unwrap().0);
}

fn put(db: &dyn Db, column: Column, key: &[u8], value: &'static [u8]) {
    let mut batch = Batch::new();
    batch.put(column, key, value);
    db.write(batch, Durability::Synced).unwrap();
}

fn keys(db: &dyn Db, from: &[u8], to: Option<&[u8]>) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    db.scan(Column::Have, from, to, &mut |key, _| {
        keys.push(key.to_vec());
        ControlFlow::Continue(())
    })
    .unwrap();
    keys
}

#[test]
fn the_last_change_of_a_batch_wins() {
    on_both(|db| {
        put(db, Column::Have, b"old", b"1");
        let mut batch = Batch::new();
        batch.put(Column::Have, b"a", &b"1"[..]);
        batch.put(Column::Have, b"a", &b"2"[..]);
        batch.put(Column::Have, b"b", &b"1"[..]);
        batch.delete(Column::Have, b"b");
        batch.delete(Column::Have, b"old");
        batch.delete(Column::Have, b"never there");
        db.write(batch, Durability::Buffered).unwrap();
        assert_eq!(db.get(Column::Have, b"a").unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(db.get(Column::Have, b"b").unwrap(), None);
        assert_eq!(db.get(Column::Have, b"old").unwrap(), None);
    });
}

#[test]
fn the_last_key_of_a_column_is_found() {
    on_both(|db| {
        assert_eq!(db.last(Column::Have, b"", None), Ok(None));
        for (column, key) in
            [(Column::Addresses, &b"z"[..]), (Column::Have, b"a"), (Column::Have, b"b"), (Column::Groups, b"c")]
        {
            put(db, column, key, b"v");
        }
        assert_eq!(db.last(Column::Have, b"", None), Ok(Some((b"b".to_vec(), Bytes::from_static(b"v")))));
        let mut batch = Batch::new();
        batch.delete(Column::Have, b"b");
        db.write(batch, Durability::Synced).unwrap();
        assert_eq!(db.last(Column::Have, b"", None).unwrap().map(|(key, _)| key), Some(b"a".to_vec()));
    });
}

#[test]
fn the_last_key_of_a_range_is_found() {
    on_both(|db| {
        for key in [&b"a1"[..], b"b1", b"b2", b"b3", b"d1", b"\xff"] {
            put(db, Column::Have, key, b"v");
        }
        put(db, Column::Addresses, b"b4", b"v");
        let check = |from: &[u8], to: Option<&[u8]>, expected: Option<&[u8]>| {
            let last = db.last(Column::Have, from, to).unwrap().map(|(key, _)| key);
            assert_eq!(last.as_deref(), expected, "{from:?} to {to:?}");
        };
        check(b"b", Some(b"c"), Some(b"b3"));
        check(b"b", Some(b"b3"), Some(b"b2"));
        check(b"b1", Some(b"b2"), Some(b"b1"));
        check(b"c", Some(b"d"), None);
        check(b"d", Some(b"b"), None);
        check(b"a", None, Some(b"\xff"));
        check(b"\xff\xff", None, None);
        let mut batch = Batch::new();
        batch.delete_range(Column::Have, b"b2", b"c");
        db.write(batch, Durability::Synced).unwrap();
        check(b"b", Some(b"c"), Some(b"b1"));
    });
}

#[test]
fn columns_do_not_mix() {
    on_both(|db| {
        put(db, Column::Have, b"k", b"have");
        put(db, Column::Groups, b"k", b"group");
        assert_eq!(db.get(Column::Have, b"k").unwrap().as_deref(), Some(&b"have"[..]));
        assert_eq!(db.get(Column::Addresses, b"k").unwrap(), None);
        assert_eq!(keys(db, b"", None), [b"k"]);
    });
}

#[test]
fn a_scan_visits_its_range_in_order_until_told_to_stop() {
    on_both(|db| {
        for key in [&b"c"[..], b"a", b"\xff", b"b", b"bb"] {
            put(db, Column::Have, key, b"");
        }
        assert_eq!(keys(db, b"", None), [&b"a"[..], b"b", b"bb", b"c", b"\xff"]);
        assert_eq!(keys(db, b"b", Some(b"c")), [&b"b"[..], b"bb"]);
        assert_eq!(keys(db, b"d", Some(b"e")), [b""; 0]);
        let mut seen = 0;
        db.scan(Column::Have, b"", None, &mut |_, _| {
            seen += 1;
            if seen == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert_eq!(seen, 2);
    });
}

#[test]
fn a_range_is_deleted_up_to_its_end() {
    on_both(|db| {
        for key in [b"a", b"b", b"c"] {
            put(db, Column::Have, key, b"");
            put(db, Column::Groups, key, b"");
        }
        let mut batch = Batch::new();
        batch.delete_range(Column::Have, b"a", b"c");
        db.write(batch, Durability::Synced).unwrap();
        assert_eq!(keys(db, b"", None), [b"c"]);
        assert!(db.get(Column::Groups, b"a").unwrap().is_some());
    });
}

#[test]
#[should_panic(expected = "groups are read by key")]
fn rocksdb_is_never_asked_to_scan_groups() {
    let dir = tempfile::tempdir().unwrap();
    let (db, _) = Rocks::open(Store::Media, dir.path()).unwrap();
    let _ = db.scan(Column::Groups, b"", None, &mut |_, _| ControlFlow::Continue(()));
}

#[test]
fn threads_may_share_a_database() {
    let dir = tempfile::tempdir().unwrap();
    let db: Arc<dyn Db> = Arc::new(Rocks::open(Store::Media, dir.path()).unwrap().0);
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let db = db.clone();
            scope.spawn(move || (0..20u8).for_each(|n| put(&*db, Column::Have, &[thread, n], b"")));
        }
    });
    assert_eq!(keys(&*db, b"", None).len(), 80);
}

#[test]
fn a_power_cut_on_the_twin_takes_a_tail_and_never_a_middle() {
    let twin = || {
        let db = Memory::new();
        put(&db, Column::Have, b"0", b"");
        for key in [b"1", b"2", b"3"] {
            let mut batch = Batch::new();
            batch.put(Column::Have, key, &b""[..]);
            db.write(batch, Durability::Buffered).unwrap();
        }
        db
    };
    for kept in 0..=3 {
        let db = twin();
        assert_eq!(db.unsynced(), 3);
        db.crash(kept);
        assert_eq!(keys(&db, b"", None).len(), 1 + kept);
    }
    let db = twin();
    put(&db, Column::Have, b"4", b"");
    db.crash(0);
    assert_eq!(keys(&db, b"", None).len(), 5, "a synced write makes what came before it durable");
}

#[test]
fn a_full_twin_refuses_whole_batches_but_takes_deletes() {
    let db = Memory::new();
    put(&db, Column::Have, b"a", b"12345");
    db.set_capacity(Some(10));
    let mut batch = Batch::new();
    batch.put(Column::Have, b"b", &b"1"[..]);
    batch.put(Column::Have, b"c", &b"12345"[..]);
    assert_eq!(db.write(batch.clone(), Durability::Synced), Err(Error::Full));
    assert_eq!(keys(&db, b"", None), [b"a"]);
    let mut delete = Batch::new();
    delete.delete(Column::Have, b"a");
    db.set_capacity(Some(0));
    db.write(delete, Durability::Synced).unwrap();
    db.set_capacity(Some(10));
    db.write(batch, Durability::Synced).unwrap();
    assert_eq!(keys(&db, b"", None), [b"b", b"c"]);
}
