//! What holds of the archive, on RocksDB in a folder and on the twin that crashes and fills up.

use std::{fs, io::Write as _};

use super::*;
use crate::{
    db::memory::Memory,
    id::{PointNumber, TrackKind},
    journal::{Chain, Event},
    keys::{NodeKey, SessionKey, WrapContext, WrapKey, WrapPublic, recovery_recipient},
    record::{Flags, Writer},
    seal::{Opener, Sealer, Start, Suite},
    session::{Member, Period, State},
};

fn session(byte: u8) -> SessionId {
    SessionId::from_parts(1_700_000_000_000, [byte; 10])
}

fn track(point: u16, kind: TrackKind) -> TrackId {
    TrackId::new(PointNumber::new(point).unwrap(), kind)
}

const MAIN: TrackKind = TrackKind::Main;

fn writer(session: SessionId, track: TrackId, seq: u64, start: u64) -> Writer {
    let point = NodeKey::from_bytes(&[1; 32]).id();
    let key = SessionKey::from_bytes(&[7; 32]);
    let start = Start::from_bits(start);
    Writer::new(Sealer::new(&key, Suite::default(), session, point, track, 0, start), seq, seq * 2_000_000).0
}

/// A group of three frames, of these many bytes in all.
fn record(session: SessionId, track: TrackId, seq: u64, len: usize) -> Record {
    let mut writer = writer(session, track, seq, seq);
    for dt in 0..3 {
        writer.frame(dt, Flags::default(), &vec![dt as u8; len / 3]).unwrap();
    }
    writer.finish().record
}

fn group(seq: u64) -> Record {
    record(session(1), track(3, MAIN), seq, 50_000)
}

struct Twin {
    archive: Archive,
    meta: Arc<Memory>,
    media: Arc<Memory>,
}

impl Twin {
    fn new() -> Self {
        Self::over(Arc::default(), Arc::default())
    }

    fn over(meta: Arc<Memory>, media: Arc<Memory>) -> Self {
        Twin { archive: Archive::over(meta.clone(), media.clone()).unwrap(), meta, media }
    }

    /// Power cut that loses all it can.
    fn crash(self) -> Self {
        self.meta.crash(0);
        self.media.crash(0);
        Self::over(self.meta, self.media)
    }
}

/// Runs a check on both kinds of archive.
fn on_both(check: impl Fn(&Archive)) {
    check(&Twin::new().archive);
    let dir = tempfile::tempdir().unwrap();
    check(&Archive::open(dir.path()).unwrap());
}

#[test]
fn what_was_put_is_got_and_listed() {
    on_both(|archive| {
        let records = [group(0), group(1), group(5000), record(session(1), track(3, TrackKind::Audio), 1, 300)];
        assert_eq!(archive.put_groups(&records), Ok(4));
        for record in &records {
            assert_eq!(archive.get(&record.id()).as_ref(), Ok(record));
        }
        assert_eq!(archive.tracks(&session(1)).unwrap(), [track(3, TrackKind::Audio), track(3, MAIN)]);
        let have = archive.have(&session(1), track(3, MAIN)).unwrap();
        assert_eq!(have.runs().collect::<Vec<_>>(), [0..=1, 5000..=5000]);
        let outlines = archive.outlines(&session(1), track(3, MAIN), 1..SEQ_MAX, 9).unwrap();
        assert_eq!(outlines, [Outline::of(&records[1]), Outline::of(&records[2])]);
        assert_eq!(archive.outlines(&session(1), track(3, MAIN), 0..9, 1).unwrap(), [Outline::of(&records[0])]);
        let bytes = |range: &[Record]| range.iter().map(|record| record.bytes().len() as u64).sum();
        let totals = archive.totals(&session(1)).unwrap();
        assert_eq!(totals[&track(3, MAIN)], Totals { groups: 3, frames: 9, bytes: bytes(&records[..3]) });
        assert_eq!(totals[&track(3, TrackKind::Audio)], Totals { groups: 1, frames: 3, bytes: bytes(&records[3..]) });
    });
}

#[test]
fn what_was_never_put_is_missing_not_damaged() {
    on_both(|archive| {
        assert_eq!(archive.get(&group(0).id()), Err(Error::Missing(group(0).id())));
        assert!(archive.have(&session(1), track(3, MAIN)).unwrap().is_empty());
        assert!(archive.tracks(&session(1)).unwrap().is_empty());
        assert!(archive.totals(&session(1)).unwrap().is_empty());
        assert_eq!(archive.head(&session(1)), Ok(None));
        assert_eq!(archive.sessions(), Ok(Sessions::default()));
        assert!(archive.journal(&session(1), 0).unwrap().is_empty());
    });
}

#[test]
fn sessions_and_tracks_do_not_mix() {
    on_both(|archive| {
        let here = record(session(1), track(3, MAIN), 0, 300);
        let there = record(session(2), track(3, MAIN), 1, 300);
        let beside = record(session(1), track(4, MAIN), 2, 300);
        archive.put_groups(&[here, there, beside]).unwrap();
        for (session_, track_, seq) in [(1, 3, 0), (2, 3, 1), (1, 4, 2)] {
            let have = archive.have(&session(session_), track(track_, MAIN)).unwrap();
            assert_eq!(have.runs().collect::<Vec<_>>(), [seq..=seq]);
        }
        assert_eq!(archive.tracks(&session(2)).unwrap(), [track(3, MAIN)]);
    });
}

#[test]
fn putting_a_group_twice_changes_nothing() {
    on_both(|archive| {
        assert_eq!(archive.put_groups(&[group(0), group(0)]), Ok(1));
        assert_eq!(archive.put_groups(&[group(0), group(1)]), Ok(1));
        assert_eq!(archive.totals(&session(1)).unwrap()[&track(3, MAIN)].groups, 2);
    });
}

#[test]
fn another_group_under_the_same_name_is_refused_and_nothing_of_its_batch_stored() {
    on_both(|archive| {
        archive.put_groups(&[group(0)]).unwrap();
        let other = record(session(1), track(3, MAIN), 0, 60_000);
        let refused = Err(Error::Conflict(other.id()));
        assert_eq!(archive.put_groups(&[group(1), other.clone()]), refused);
        assert_eq!(archive.get(&group(1).id()), Err(Error::Missing(group(1).id())));
        assert_eq!(archive.get(&group(0).id()), Ok(group(0)));
        assert_eq!(archive.heal(&other).map(|()| 0), refused);
    });
}

#[test]
fn a_group_gives_way_where_it_is_said_and_is_counted_once() {
    on_both(|archive| {
        archive.put_groups(&[group(0)]).unwrap();
        let signed = record(session(1), track(3, MAIN), 0, 60_000);
        assert_eq!(archive.put_groups_over(&[signed.clone(), group(1)]), Ok(2));
        assert_eq!(archive.get(&signed.id()), Ok(signed));
        assert_eq!(archive.totals(&session(1)).unwrap()[&track(3, MAIN)].groups, 2);
        assert_eq!(archive.have(&session(1), track(3, MAIN)).unwrap().len(), 2);
    });
}

fn head(byte: u8) -> Head {
    let member =
        Member { number: PointNumber::new(0).unwrap(), node: NodeId::from_bytes([1; 32]), name: "Trung tâm".into() };
    Head {
        id: SessionId::from_parts(byte.into(), [byte; 10]),
        title: "Định kỳ".into(),
        state: State::Open,
        central: member.node,
        points: vec![member],
        epochs: vec![Period::first(Hash::NONE)],
        suite: Suite::default(),
        started_unix_ms: byte.into(),
        ended_unix_ms: None,
    }
}

#[test]
fn heads_are_listed_by_start_and_a_damaged_one_hides_no_other() {
    on_both(|archive| {
        for byte in [2, 1, 3] {
            archive.put_head(&head(byte)).unwrap();
        }
        let ended = Head { state: State::Ended, ended_unix_ms: Some(9), ..head(2) };
        archive.put_head(&ended).unwrap();
        assert_eq!(archive.head(&ended.id).unwrap(), Some(ended.clone()));
        assert_eq!(archive.sessions().unwrap().heads, [head(1), ended, head(3)]);

        let mut batch = Batch::new();
        batch.put(Column::Sessions, head(2).id.as_bytes(), &b"\x01rubbish"[..]);
        archive.meta.write(batch, Durability::Synced).unwrap();
        let sessions = Sessions { heads: vec![head(1), head(3)], damaged: vec![head(2).id] };
        assert_eq!(archive.sessions(), Ok(sessions));
        assert!(matches!(archive.head(&head(2).id), Err(Error::Unreadable(_))));
        assert!(matches!(archive.put_head(&Head { points: vec![], ..head(1) }), Err(Error::Head(_))));
    });
}

#[test]
fn the_journal_only_grows_at_its_end() {
    on_both(|archive| {
        let key = NodeKey::from_bytes(&[5; 32]);
        let mut chain = Chain::new(session(1), key.id());
        let entries: Vec<_> = (0..300).map(|n| chain.append(&key, n, n, Event::Resumed {})).collect();
        let refused = |n| Err(Error::Journal { session: session(1), n });
        assert_eq!(archive.append_journal(&entries[1]), refused(1));
        for entry in &entries {
            archive.append_journal(entry).unwrap();
        }
        assert_eq!(archive.append_journal(&entries[7]), Ok(()));
        let other = Chain::new(session(1), key.id()).append(&key, 9, 9, Event::Resumed {});
        assert_eq!(archive.append_journal(&other), refused(0));
        assert_eq!(Chain::verify(session(1), key.id(), archive.journal(&session(1), 0).unwrap()), Ok(chain));
        assert_eq!(archive.journal(&session(1), 299).unwrap(), [entries[299].bytes().clone()]);
        assert!(archive.journal(&session(2), 0).unwrap().is_empty());
    });
}

#[test]
fn wraps_are_found_by_recipient_and_epoch() {
    on_both(|archive| {
        let nodes = [1, 2].map(|byte| NodeId::from_bytes([byte; 32]));
        let wrap = |epoch, recipient| {
            let context = WrapContext { session: session(1), epoch, recipient };
            SessionKey::from_bytes(&[7; 32]).wrap(&WrapKey::from_bytes(&[2; 32]).public(), &context).unwrap()
        };
        let (first, second) = (wrap(0, nodes[0]), wrap(1, nodes[0]));
        archive.put_wraps(&session(1), 0, &[(nodes[0], first), (nodes[1], wrap(0, nodes[1]))]).unwrap();
        archive.put_wraps(&session(1), 1, &[(nodes[0], second)]).unwrap();
        assert_eq!(archive.wraps(&session(1), &nodes[0]).unwrap(), BTreeMap::from([(0, first), (1, second)]));
        assert_eq!(archive.wraps(&session(1), &nodes[1]).unwrap().len(), 1);
        assert!(archive.wraps(&session(2), &nodes[0]).unwrap().is_empty());
        let all = archive.all_wraps(&session(1)).unwrap();
        assert_eq!(all[&0].keys().collect::<Vec<_>>(), nodes.iter().collect::<Vec<_>>());
        assert_eq!(all[&1], BTreeMap::from([(nodes[0], second)]));
    });
}

#[test]
fn with_the_recovery_secret_alone_a_session_of_several_epochs_opens() {
    on_both(|archive| {
        let recovery = WrapKey::generate();
        let recipient = recovery_recipient(&recovery.public());
        let point = WrapKey::generate().public();
        let keys = [SessionKey::generate(), SessionKey::generate()];
        let first = Head { epochs: vec![Period::first(keys[0].commitment())], ..head(1) };
        let head = first.next(keys[1].commitment(), 2_000_000, vec![]).unwrap();
        let track = TrackId::new(PointNumber::new(0).unwrap(), TrackKind::Audio);
        for (epoch, key) in (0..).zip(&keys) {
            let wrap = |recipient, public: &WrapPublic| {
                (recipient, key.wrap(public, &WrapContext { session: head.id, epoch, recipient }).unwrap())
            };
            let wraps = [wrap(head.central, &point), wrap(recipient, &recovery.public())];
            archive.put_wraps(&head.id, epoch, &wraps).unwrap();
            let sealer = Sealer::new(key, head.suite, head.id, head.central, track, epoch, Start::random());
            let (mut writer, _) = Writer::new(sealer, epoch.into(), u64::from(epoch) * 2_000_000);
            writer.frame(0, Flags::default(), &[epoch; 20]).unwrap();
            archive.put_groups(&[writer.finish().record]).unwrap();
        }
        archive.put_head(&head).unwrap();

        // Nothing but the archive and the secret from here on.
        let head = archive.head(&head.id).unwrap().unwrap();
        let wraps = archive.wraps(&head.id, &recipient).unwrap();
        let mut opener = Opener::new(head.id);
        for (epoch, key) in head.open(&wraps, &recovery, recipient).unwrap() {
            opener.insert(epoch, key);
        }
        for seq in 0..2 {
            let record = archive.get(&GroupId { session: head.id, track, seq }).unwrap();
            let frame = record.frames().next().unwrap();
            let plain = opener.group(record.header()).unwrap().open(&frame).unwrap();
            assert_eq!(plain[..], [seq as u8; 20]);
        }
    });
}

#[test]
fn group_numbers_are_given_once() {
    on_both(|archive| {
        assert_eq!(archive.reserved(&session(1)), Ok(0));
        assert_eq!(archive.reserve_seqs(&session(1), 0, 10), Ok(0..10));
        assert_eq!(archive.reserve_seqs(&session(1), 0, 5), Ok(10..15));
        assert_eq!(archive.reserve_seqs(&session(2), 0, 5), Ok(0..5));
        assert_eq!(archive.reserve_seqs(&session(2), 3, 5), Ok(5..10));
        assert_eq!(archive.reserve_seqs(&session(2), 40, 5), Ok(40..45));
        assert_eq!(archive.reserved(&session(1)), Ok(15));
        assert_eq!(archive.reserve_seqs(&session(1), 0, SEQ_MAX), Err(Error::Exhausted(session(1))));
        assert_eq!(archive.reserve_seqs(&session(1), 0, u64::MAX), Err(Error::Exhausted(session(1))));
        assert_eq!(archive.reserved(&session(1)), Ok(15));
    });
}

#[test]
fn no_group_number_is_given_twice_whatever_crashes() {
    let mut twin = Twin::new();
    let mut given = 0;
    for round in 0..50 {
        for count in 1..=round % 4 {
            let seqs = twin.archive.reserve_seqs(&session(1), 0, count).unwrap();
            assert!(seqs.start >= given, "{seqs:?} after {given}");
            given = seqs.end;
        }
        twin = twin.crash();
    }
    assert!(given > 0);
}

#[test]
fn a_power_cut_takes_nothing_that_was_acknowledged() {
    let twin = Twin::new();
    let key = NodeKey::from_bytes(&[5; 32]);
    let entry = Chain::new(session(1), key.id()).append(&key, 0, 0, Event::Resumed {});
    let wrap = (key.id(), Wrap::decode(&[1; Wrap::LEN]).unwrap());
    twin.archive.put_groups(&[group(0), group(1)]).unwrap();
    twin.archive.put_head(&head(1)).unwrap();
    twin.archive.append_journal(&entry).unwrap();
    twin.archive.put_wraps(&session(1), 0, &[wrap]).unwrap();
    assert_eq!((twin.media.unsynced(), twin.meta.unsynced()), (0, 0));

    let Twin { archive, .. } = twin.crash();
    assert_eq!(archive.get(&group(0).id()), Ok(group(0)));
    assert_eq!(archive.have(&session(1), track(3, MAIN)).unwrap().len(), 2);
    assert_eq!(archive.sessions().unwrap().heads, [head(1)]);
    assert_eq!(archive.journal(&session(1), 0).unwrap(), [entry.bytes().clone()]);
    assert_eq!(archive.wraps(&session(1), &key.id()).unwrap(), BTreeMap::from([(0, wrap.1)]));
}

#[test]
fn a_full_disk_refuses_without_harm_and_takes_on_once_there_is_space() {
    let twin = Twin::new();
    twin.archive.put_groups(&[group(0)]).unwrap();
    twin.media.set_capacity(Some(60_000));
    twin.meta.set_capacity(Some(0));
    let full = db::Error::Full;
    assert_eq!(twin.archive.put_groups(&[group(1)]), Err(full.clone().into()));
    assert_eq!(twin.archive.put_head(&head(1)), Err(full.clone().into()));
    assert_eq!(twin.archive.reserve_seqs(&session(1), 0, 1), Err(full.into()));
    assert_eq!(twin.archive.get(&group(0).id()), Ok(group(0)));
    assert_eq!(twin.archive.have(&session(1), track(3, MAIN)).unwrap().len(), 1);
    assert_eq!(twin.archive.get(&group(1).id()), Err(Error::Missing(group(1).id())));

    twin.media.set_capacity(None);
    twin.meta.set_capacity(None);
    assert_eq!(twin.archive.put_groups(&[group(1)]), Ok(1));
    assert_eq!(twin.archive.reserve_seqs(&session(1), 0, 1), Ok(0..1), "the refused numbers were given to nobody");
}

#[test]
fn a_damaged_value_is_damaged_until_it_is_healed() {
    let twin = Twin::new();
    twin.archive.put_groups(&[group(0), group(1)]).unwrap();
    twin.media.damage(Column::Groups, &schema::group_key(&group(0).id()));
    assert_eq!(twin.archive.get(&group(0).id()), Err(Error::Damaged(group(0).id())));
    assert_eq!(twin.archive.get(&group(1).id()), Ok(group(1)));
    assert_eq!(twin.archive.have(&session(1), track(3, MAIN)).unwrap().len(), 2);
    twin.archive.heal(&group(0)).unwrap();
    assert_eq!(twin.archive.get(&group(0).id()), Ok(group(0)));
    assert_eq!(twin.archive.heal(&group(9)), Err(Error::Missing(group(9).id())));
}

#[test]
fn bytes_that_a_database_gives_out_wrongly_are_not_believed() {
    let twin = Twin::new();
    twin.archive.put_groups(&[group(0), group(1)]).unwrap();
    for (what, wrong) in [
        ("another group", group(1).bytes().clone()),
        ("a shorter one", group(0).bytes().slice(..group(0).bytes().len() - 1)),
        ("none", Bytes::new()),
    ] {
        let mut batch = Batch::new();
        batch.put(Column::Groups, &schema::group_key(&group(0).id()), wrong);
        twin.media.write(batch, Durability::Synced).unwrap();
        assert_eq!(twin.archive.get(&group(0).id()), Err(Error::Damaged(group(0).id())), "{what}");
    }
}

#[test]
fn a_flipped_bit_in_a_blob_file_is_noticed_and_hides_no_other_group() {
    let dir = tempfile::tempdir().unwrap();
    let records: Vec<_> = (0..5).map(group).collect();
    Archive::open(dir.path()).unwrap().put_groups(&records).unwrap();
    // Opening again moves the groups from the log into a blob file.
    drop(Archive::open(dir.path()).unwrap());

    let needle = &records[2].bytes()[1000..1064];
    let blob = fs::read_dir(dir.path().join("media"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "blob"))
        .find_map(|path| {
            let bytes = fs::read(&path).unwrap();
            let at = bytes.windows(needle.len()).position(|window| window == needle)?;
            Some((path, bytes, at))
        });
    let (path, mut bytes, at) = blob.expect("the group lies in a blob file");
    bytes[at] ^= 4;
    fs::File::create(path).unwrap().write_all(&bytes).unwrap();

    let archive = Archive::open(dir.path()).unwrap();
    assert_eq!(archive.get(&records[2].id()), Err(Error::Damaged(records[2].id())));
    for other in [0, 1, 3, 4] {
        assert_eq!(archive.get(&records[other].id()).as_ref(), Ok(&records[other]));
    }
    assert_eq!(archive.have(&session(1), track(3, MAIN)).unwrap().len(), 5);
    assert_eq!(archive.outlines(&session(1), track(3, MAIN), 0..9, 9).unwrap().len(), 5);
    archive.heal(&records[2]).unwrap();
    assert_eq!(archive.get(&records[2].id()).as_ref(), Ok(&records[2]));
}

#[test]
fn one_process_writes_while_others_read() {
    let dir = tempfile::tempdir().unwrap();
    let (home, copy) = (dir.path().join("archive"), dir.path().join("copy"));
    assert_eq!(Archive::open_read_only(&home).unwrap_err(), Error::Absent(home.clone()));
    let writer = Archive::open(&home).unwrap();
    writer.put_groups(&[group(0)]).unwrap();
    writer.put_head(&head(1)).unwrap();
    assert_eq!(Archive::open(&home).unwrap_err(), Error::Storage(db::Error::Busy));

    let reader = Archive::open_read_only(&home).unwrap();
    writer.checkpoint(&copy).unwrap();
    let copied = Archive::open_read_only(&copy).unwrap();
    writer.put_groups(&[group(1)]).unwrap();
    for beside in [&reader, &copied] {
        assert_eq!(beside.get(&group(0).id()), Ok(group(0)));
        assert_eq!(beside.sessions().unwrap().heads, [head(1)]);
        assert_eq!(beside.get(&group(1).id()), Err(Error::Missing(group(1).id())), "it came after");
        assert_eq!(beside.put_groups(&[group(2)]), Err(Error::ReadOnly));
    }
    assert_eq!(Archive::open_read_only(&home).unwrap().get(&group(1).id()), Ok(group(1)));
    drop(copied);
    let owned = Archive::open(&copy).unwrap();
    owned.put_groups(&[group(2)]).unwrap();
    assert_eq!(writer.get(&group(2).id()), Err(Error::Missing(group(2).id())), "a copy is its own");
}

#[test]
fn an_archive_of_another_layout_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(dir.path()).unwrap();
    let mut batch = Batch::new();
    batch.put(Column::Config, schema::SCHEMA_KEY, vec![9]);
    archive.meta.write(batch, Durability::Synced).unwrap();
    drop(archive);
    let refused = Error::Layout { found: "9".into() };
    assert_eq!(Archive::open(dir.path()).unwrap_err(), refused);
    assert_eq!(Archive::open_read_only(dir.path()).unwrap_err(), refused);
    assert_eq!(refused.to_string(), "the archive has layout 9; this program reads layout 1");
}

#[cfg(unix)]
#[test]
fn only_its_owner_can_enter_an_archive() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("a").join("archive");
    drop(Archive::open(&home).unwrap());
    assert_eq!(fs::metadata(home).unwrap().permissions().mode() & 0o777, 0o700);
}

/// Stored values of the first version; must be readable for ever.
#[test]
fn stored_values_are_kept_for_ever() {
    let twin = Twin::new();
    let record = record(session(1), track(3, MAIN), 7, 3);
    let key = schema::group_key(&record.id());
    twin.archive.put_groups(std::slice::from_ref(&record)).unwrap();
    assert_eq!(twin.media.get(Column::Groups, &key).unwrap().as_ref(), Some(record.bytes()));
    let address = twin.media.get(Column::Addresses, &key).unwrap().unwrap();
    assert_eq!(hex::encode(address), format!("01{}000000a8000000030000000000d59f80", record.hash()));
    let page = twin.media.get(Column::Have, &schema::page_key(&session(1), track(3, MAIN), 0)).unwrap().unwrap();
    assert_eq!(hex::encode(page), format!("010000000000000080{}", "00".repeat(504)));
    twin.archive.reserve_seqs(&session(1), 0, 1000).unwrap();
    let reserved = twin.meta.get(Column::Reserved, session(1).as_bytes()).unwrap().unwrap();
    assert_eq!(hex::encode(reserved), "011903e8");
}
