//! Copies: who had no part in a session comes to hold all of it, however often it is cut off, and cannot see a picture of it.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use node::identity::{Identity, roster};
use store::archive::Archive;
use store::id::{GroupId, NodeId, SessionId};
use store::keys::{NodeKey, SessionKey};
use store::record::{Flags, Record, Writer};
use store::roster::{Membership, Revoked, Right};
use store::seal::{Sealer, Start, Suite};
use store::signed::Signed;
use tests::office::{Office, Point, SOON, alone};
use tests::program::{Call, until};

/// A manifest is signed, offered, fetched and signed for.
const COPIED_WITHIN: Duration = Duration::from_secs(90);

/// How many groups of a session a point's archive has, as it lies on the disk.
fn groups(data: &Path, session: &SessionId) -> u64 {
    let Ok(archive) = Archive::open_read_only(&data.join("archive")) else { return 0 };
    archive.totals(session).map_or(0, |totals| totals.values().map(|track| track.groups).sum())
}

#[test]
fn who_had_no_part_in_a_session_holds_all_of_it_though_it_is_killed_while_it_copies() {
    let _machine = alone();
    let all: &[Right] = &Right::ALL;
    let mut office = Office::of(&[
        ("Trung tâm", all),
        ("Xã Kim Thành", &[Right::Read]),
        ("Kho lưu trữ", &[Right::Hold]),
        ("Xã Tân Phú", &[Right::Read, Right::Chair]),
    ]);
    // Slow lines, so that a copy takes a while.
    let slow = |peer: Option<u16>| {
        let usual = ["run", "--listen", "127.0.0.1", "--mdns", "false", "--media-port", "0", "--console-port", "0"];
        let peer = peer.into_iter().flat_map(|port| ["--peer".to_owned(), format!("127.0.0.1:{port}")]);
        let call =
            Call::new(usual.map(str::to_owned).into_iter().chain(["--port".to_owned(), "0".to_owned()]).chain(peer));
        call.env("DIEMCAU_MEDIA_LINE_KBPS", "2500")
    };
    let port = office.points[0].start(slow(None)).own.mesh_port;
    office.points[1..].iter_mut().for_each(|point| drop(point.start(slow(Some(port)))));
    office.wait_until_met();
    let central = &office.points[0];
    let call = Call::new(["session", "start", "--title", "Tiếp công dân", "--point", "Xã Kim Thành", "--json"]);
    let started: node::control::Session = call.data(&central.data).json();
    let (session, id) = (started.id.clone(), started.id.parse::<SessionId>().expect("an id"));
    central.wait_for_all(&session);
    for _ in 0..2 {
        central.wait_for_groups(40);
    }
    central.end_session();

    let all = groups(&office.points[0].data, &id);
    let mut before = 0;
    for _ in 0..2 {
        until("the holder copies", COPIED_WITHIN, || (groups(&office.points[2].data, &id) > before).then_some(()));
        office.points[2].kill();
        let after = groups(&office.points[2].data, &id);
        assert!((before + 1..all).contains(&after), "killed while it copied: {before}, then {after} of {all}");
        before = after;
        office.points[2].start(slow(Some(port)));
    }
    until("two others hold all of it", COPIED_WITHIN, || {
        (office.points[0].session(&session).holders == 2).then_some(())
    });
    let at_holder = office.points[2].session(&session);
    assert_eq!((at_holder.gaps, at_holder.central.as_str()), (0, "Trung tâm"));
    let verified = Call::new(["archive", "verify", "last"]).data(&office.points[2].data).run().succeeded();
    assert!(verified.stdout.contains("nothing is wrong"), "{verified}");
    Call::new(["archive", "export", "last", "--to"])
        .arg(office.folder.join("films"))
        .data(&office.points[2].data)
        .run()
        .ended_with(5);
    office.stop();
    let kept = office.points[0].kept(&session);
    for holder in [1, 2] {
        let copy = office.points[holder].kept(&session);
        copy.must_have(&kept, "central");
        kept.must_have(&copy, "the holder");
    }
    let other = Archive::open_read_only(&office.points[3].data.join("archive")).expect("the archive opens");
    assert_eq!(other.head(&id), Ok(None), "who has not the right to hold was not told of it");
}

#[test]
fn a_sender_of_other_bytes_is_found_out_and_another_used() {
    let _machine = alone();
    let mut office = Office::of(&[("Trung tâm", &Right::ALL), ("Xã Kim Thành", &[]), ("Kho lưu trữ", &[Right::Hold])]);
    let port = office.points[0].run(&["--port", "0"]).own.mesh_port;
    let peer = format!("127.0.0.1:{port}");
    office.points[1].run(&["--port", "0", "--peer", &peer]);
    until("central sees the delegate", SOON, || office.points[0].sees("Xã Kim Thành").then_some(()));
    let call = Call::new(["session", "start", "--title", "Tiếp công dân", "--point", "Xã Kim Thành", "--json"]);
    let started: node::control::Session = call.data(&office.points[0].data).json();
    let (session, id) = (started.id.clone(), started.id.parse::<SessionId>().expect("an id"));
    office.points[0].wait_for_all(&session);
    office.points[0].wait_for_groups(24);
    office.points[0].end_session();
    until("the delegate has countersigned", COPIED_WITHIN, || {
        let archive = Archive::open_read_only(&office.points[0].data.join("archive")).ok()?;
        let manifest = archive.last_manifest(&id).ok()??;
        (!archive.countersigners(&id, manifest.hash()).ok()?.is_empty()).then_some(())
    });
    office.points[1].stop();

    // From now on the delegate gives other groups under the same names.
    let own = office.points[1].kept(&session);
    let folder = office.points[1].data.join("archive");
    std::fs::remove_dir_all(folder.join("media")).expect("a folder of its own");
    let forged: Vec<_> = own.groups.iter().map(|(id, bytes)| forge(*id, bytes)).collect();
    Archive::open(&folder).expect("the archive opens").put_groups(&forged).expect("room for groups");
    office.points[1].run(&["--port", "0", "--peer", &peer]);
    until("central sees the delegate", SOON, || office.points[0].sees("Xã Kim Thành").then_some(()));

    office.points[2].run(&["--port", "0", "--peer", &peer]);
    until("the holder has all of it", COPIED_WITHIN, || {
        (office.points[0].session(&session).holders == 1).then_some(())
    });
    let log = office.points[2].log();
    assert!(log.contains("passed off something") && log.contains("another address"), "{log}");
    office.stop();
    let kept = office.points[0].kept(&session);
    let copy = office.points[2].kept(&session);
    copy.must_have(&kept, "central");
    kept.must_have(&copy, "the holder");
}

#[test]
fn when_central_is_shut_out_of_the_mesh_who_took_part_wins_another_holder() {
    let _machine = alone();
    let mut office = Office::of(&[
        ("Trung tâm", &Right::ALL),
        ("Xã Kim Thành", &[Right::Read, Right::Chair, Right::Hold]),
        ("Kho lưu trữ", &[Right::Hold]),
        ("Xã Tân Phú", &[Right::Hold]),
    ]);
    // The mesh anew, of an authority that can still sign.
    let authority = NodeKey::generate();
    let first = roster::load(&office.points[0].data, &node_of(&office.points[0].data)).expect("a roster");
    let signed = Signed::sound(first.roster().content().clone(), &authority).expect("a good roster");
    let first = Membership::new(signed, &authority.id()).expect("a good roster");
    office.points.iter().for_each(|point| roster::save(&point.data, &first).expect("room for a roster"));

    let port = office.points[0].run(&["--port", "0"]).own.mesh_port;
    let peer = format!("127.0.0.1:{port}");
    office.points[1..].iter_mut().for_each(|point| drop(point.run(&["--port", "0", "--peer", &peer])));
    office.wait_until_met();
    let call = Call::new(["session", "start", "--title", "Tiếp công dân", "--point", "Xã Kim Thành", "--json"]);
    let started: node::control::Session = call.data(&office.points[0].data).json();
    let (session, id) = (started.id.clone(), started.id.parse::<SessionId>().expect("an id"));
    office.points[0].wait_for_all(&session);
    office.points[0].wait_for_groups(24);
    office.points[0].end_session();
    until("two others hold all of it", COPIED_WITHIN, || {
        (office.points[0].session(&session).holders == 2).then_some(())
    });
    office.points.iter_mut().for_each(Point::stop);
    let kept = office.points[0].kept(&session);
    // Their names, which are drawn, decide which of the two others was chosen.
    let empty = if groups(&office.points[2].data, &id) == 0 { 2 } else { 3 };
    assert_eq!(groups(&office.points[empty].data, &id), 0, "two copies beside central's were wanted");

    let mut next = first.next_roster(1);
    let central = next.points.remove(0).node;
    next.revoked.push(Revoked {
        node: central,
        name: "Trung tâm".into(),
        reason: "mất máy".into(),
        unix_ms: 1,
        replaced_by: None,
    });
    let mut after = first.clone();
    assert!(after.merge_roster(Signed::sound(next, &authority).expect("a good roster")).expect("the next roster"));
    office.points[1..].iter().for_each(|point| roster::save(&point.data, &after).expect("room for a roster"));
    let port = office.points[1].run(&["--port", "0"]).own.mesh_port;
    let peer = format!("127.0.0.1:{port}");
    office.points[2..].iter_mut().for_each(|point| drop(point.run(&["--port", "0", "--peer", &peer])));
    until("another point holds all of it", COPIED_WITHIN, || {
        (groups(&office.points[empty].data, &id) == kept.groups.len() as u64
            && office.points[1].session(&session).holders == 3)
            .then_some(())
    });
    office.points[1..].iter_mut().for_each(Point::stop);
    office.points[empty].kept(&session).must_have(&kept, "central");
}

/// Who the machine on this folder is.
fn node_of(data: &Path) -> NodeId {
    Identity::load(data).expect("keys that `init` made").id()
}

/// A whole group with the name and the start of another, sealed with a key of the forger's own.
fn forge(id: GroupId, bytes: &Bytes) -> Record {
    let real = Record::parse(bytes.clone()).expect("it was checked when it was read");
    let (suite, start) = (Suite::default(), Start::random());
    let sealer = Sealer::new(&SessionKey::generate(), suite, id.session, real.header().point, id.track, 0, start);
    let (mut writer, _) = Writer::new(sealer, id.seq, real.header().t0);
    writer.frame(0, Flags { key: true, discardable: false }, b"something else").expect("a small frame");
    writer.finish().record
}
