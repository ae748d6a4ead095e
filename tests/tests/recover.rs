//! Fire, water and thieves: what a point lost comes back from the others, and is what it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use node::identity::roster;
use serde_json::{Value, json};
use store::archive::Archive;
use store::id::{Hash, SessionId};
use store::journal::{Entry, Event};
use store::keys::{NodeKey, WrapKey};
use store::roster::{Membership, Revoked, Roster};
use store::segment::Segment;
use store::shares::split;
use store::signed::Signed;
use tests::office::{Kept, Point, SOON, alone, entry, init};
use tests::program::{Call, Folder, until};

/// A manifest is signed, offered, fetched and signed for.
const COPIED_WITHIN: Duration = Duration::from_secs(90);
/// A point signs at its start and every half minute, and tries again as often.
const SIGNED_WITHIN: Duration = Duration::from_secs(90);
/// A recovery of some megabytes on a busy machine.
const BACK_WITHIN: Duration = Duration::from_secs(120);

/// Points of a mesh whose authority this test is.
struct Mesh {
    folder: Folder,
    authority: NodeKey,
    recovery: WrapKey,
    membership: Membership,
    points: Vec<Point>,
}

impl Mesh {
    fn new(names: &[&str]) -> Self {
        let folder = Folder::new();
        let (authority, recovery) = (NodeKey::generate(), WrapKey::generate());
        let points: Vec<_> = (1..).zip(names).map(|(n, name)| Point::on(folder.join(format!("{n}")), name)).collect();
        let set_up = |point: &Point| {
            init(&point.data, &point.name);
            // Each in a zone of its own, so that any may hold copies.
            store::roster::Point { zone: point.name.clone(), ..entry(&point.data, &point.name) }
        };
        let roster = Roster {
            number: 1,
            prev: Hash::NONE,
            agency: "Thử".into(),
            recovery: recovery.public(),
            issued_unix_ms: 0,
            points: points.iter().map(set_up).collect(),
            revoked: vec![],
            void: vec![],
        };
        let membership = Membership::new(Signed::sound(roster, &authority).expect("a good roster"), &authority.id());
        let membership = membership.expect("signed by its authority");
        points.iter().for_each(|point| roster::save(&point.data, &membership).expect("room for a roster"));
        Self { folder, authority, recovery, membership, points }
    }

    /// Runs all that do not run yet, each calling those that do.
    fn run(&mut self, more: &[(&str, &str)]) {
        let mut peers: Vec<u16> = Vec::new();
        for point in &mut self.points {
            if !point.is_up() {
                let mut args = vec!["--port".to_owned(), "0".to_owned()];
                args.extend(peers.iter().flat_map(|port| ["--peer".to_owned(), format!("127.0.0.1:{port}")]));
                run(point, &args, more);
            }
            peers.push(point.status().own.mesh_port);
        }
    }

    /// Runs a point that calls all the others.
    fn run_one(&mut self, number: usize, more: &[(&str, &str)]) {
        let others = (0..self.points.len()).filter(|other| *other != number);
        let up: Vec<_> = others.filter(|other| self.points[*other].is_up()).collect();
        let ports = up.into_iter().map(|other| self.points[other].status().own.mesh_port);
        let peers = ports.flat_map(|port| ["--peer".to_owned(), format!("127.0.0.1:{port}")]);
        let args: Vec<_> = ["--port".to_owned(), "0".to_owned()].into_iter().chain(peers).collect();
        run(&mut self.points[number], &args, more);
    }

    /// A session of all points that lasts until so many groups more are at central; its id.
    fn session(&self, groups: u64) -> String {
        let central = &self.points[0];
        until("central sees all", SOON, || central.status().points.iter().all(|point| point.online).then_some(()));
        let id = central.start_session("Tiếp công dân").id;
        central.wait_for_all(&id);
        central.wait_for_groups(groups);
        id
    }

    /// The machine on `data` takes a point's place: every point that runs learns of it.
    fn replace(&mut self, number: usize, data: &Path) {
        let name = self.points[number].name.clone();
        let old = self.membership.named(&name).expect("a point").clone();
        init(data, &name);
        let heir = store::roster::Point { replaces: Some(old.node), ..entry(data, &name) };
        let mut next = self.membership.next_roster(1);
        next.revoked.push(Revoked {
            node: old.node,
            name: name.clone(),
            reason: "cháy".into(),
            unix_ms: 1,
            replaced_by: Some(heir.node),
        });
        next.points.retain(|point| point.node != old.node);
        next.points.insert(0, heir);
        let signed = Signed::sound(next, &self.authority).expect("a good roster");
        self.membership.merge_roster(signed).expect("it follows");
        roster::save(data, &self.membership).expect("room for a roster");
        let file = self.folder.join("roster");
        fs::write(&file, self.membership.encode()).expect("room for a roster");
        for point in self.points.iter().filter(|point| point.is_up()) {
            Call::new(["authority", "import-roster"]).arg(&file).data(&point.data).run().succeeded();
        }
        self.points[number] = Point::on(data.to_owned(), &name);
    }

    fn stop(&mut self) {
        self.points.iter_mut().filter(|point| point.is_up()).for_each(Point::stop);
    }
}

fn run(point: &mut Point, args: &[String], env: &[(&str, &str)]) {
    let usual = ["run", "--listen", "127.0.0.1", "--mdns", "false", "--media-port", "0", "--console-port", "0"];
    let call = Call::new(usual.into_iter().map(str::to_owned).chain(args.iter().cloned()));
    point.start(env.iter().fold(call, |call, (name, value)| call.env(*name, *value)));
}

fn recover(point: &Point) -> Call {
    Call::new(["archive", "recover", "--json"]).data(&point.data).limit(BACK_WITHIN)
}

/// Films and proofs of a session, as this point exports them.
fn export(point: &Point, to: &Path) {
    for (name, more) in [("films", &["--no-gallery"]), ("proof", &["--sealed"])] {
        let call = Call::new(["archive", "export", "last", "--to"]).arg(to.join(name)).args(more);
        call.data(&point.data).limit(BACK_WITHIN).run().succeeded();
    }
}

fn verify(point: &Point) {
    let verified = Call::new(["archive", "verify", "last"]).data(&point.data).run().succeeded();
    assert!(verified.stdout.contains("nothing is wrong"), "{verified}");
}

/// Every file below a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        match path.is_dir() {
            true => {
                files.extend(self::files(&path).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)))
            }
            false => drop(files.insert(name, fs::read(&path).expect("a file"))),
        }
    }
    files
}

/// Byte for byte, but for these files.
fn must_be_the_same(before: &Path, after: &Path, but: &[&str]) {
    let (mut before, mut after) = (files(before), files(after));
    for name in but {
        assert!(before.remove(*name).is_some() && after.remove(*name).is_some(), "{name} is there");
    }
    assert_eq!(before.keys().collect::<BTreeSet<_>>(), after.keys().collect::<BTreeSet<_>>());
    let other: Vec<_> = before.iter().filter(|(name, bytes)| after[*name] != **bytes).map(|(name, _)| name).collect();
    assert!(other.is_empty(), "these are not what they were: {other:?}");
}

/// Groups that lie in an archive of a session, whoever writes it.
fn groups(data: &Path, session: &SessionId) -> u64 {
    let Ok(archive) = Archive::open_read_only(&data.join("archive")) else { return 0 };
    archive.totals(session).map_or(0, |totals| totals.values().map(|track| track.groups).sum())
}

fn held_by(point: &Point, session: &str, others: u64) {
    until("others hold all of it", COPIED_WITHIN, || (point.session(session).holders >= others).then_some(()));
}

#[test]
fn an_archive_that_burnt_comes_back_byte_for_byte_whatever_else_burnt_and_however_often_it_is_killed() {
    let _machine = alone();
    let mut mesh = Mesh::new(&["Trung tâm", "Xã Kim Thành", "Xã Tân Phú", "Phường Sa Đéc", "Xã Mỹ Lộc"]);
    mesh.run(&[]);
    let session = mesh.session(40);
    // A point is gone for some seconds: its record has more than one beginning.
    mesh.points[4].kill();
    mesh.run_one(4, &[]);
    mesh.points[0].wait_for_all(&session);
    mesh.points[0].wait_for_groups(60);
    mesh.points[0].end_session();
    held_by(&mesh.points[0], &session, 2);
    let (before, folder) = (mesh.folder.join("before"), mesh.points[0].data.join("archive"));
    export(&mesh.points[0], &before);
    verify(&mesh.points[0]);
    mesh.points[0].stop();
    let kept = mesh.points[0].kept(&session);
    let lose = |mesh: &Mesh| fs::remove_dir_all(mesh.points[0].data.join("archive")).expect("an archive");
    let is_back = |mesh: &mut Mesh, name: &str, but: &[&str]| {
        verify(&mesh.points[0]);
        export(&mesh.points[0], &mesh.folder.join(name));
        must_be_the_same(&before, &mesh.folder.join(name), but);
        mesh.points[0].stop();
        let again = Kept::read(&folder, &session);
        again.must_have(&kept, "central");
        kept.must_have(&again, "the recovered");
    };

    lose(&mesh);
    mesh.run_one(0, &[]);
    until("the node says that others know more", SOON, || {
        mesh.points[0].log().contains("archive is empty, and another point knows").then_some(())
    });
    let back: Value = recover(&mesh.points[0]).json();
    assert_eq!((back["sessions"].as_u64(), back["whole"].as_u64()), (Some(1), Some(1)), "{back}");
    assert_eq!((back["missing_groups"].as_u64(), &back["wrong"], &back["locked"]), (Some(0), &json!([]), &json!([])));
    assert!(mesh.points[0].session(&session).holders >= 2, "who holds copies is known again");
    is_back(&mut mesh, "after", &[]);

    // One more house is gone, and the lines of the others are slow.
    lose(&mesh);
    mesh.points[1].stop();
    fs::remove_dir_all(&mesh.points[1].data).expect("a data folder");
    let slow = [("DIEMCAU_MEDIA_LINE_KBPS", "3000")];
    for number in 2..5 {
        mesh.points[number].stop();
        mesh.run_one(number, &slow);
    }
    let (id, all) = (session.parse::<SessionId>().expect("an id"), kept.groups.len() as u64);
    mesh.run_one(0, &slow);
    // The command is gone with its node each time; the node goes on by itself.
    let began = recover(&mesh.points[0]).start();
    let mut here = 0;
    for _ in 0..3 {
        until("it takes back more", BACK_WITHIN, || (groups(&mesh.points[0].data, &id) > here).then_some(()));
        mesh.points[0].kill();
        let after = groups(&mesh.points[0].data, &id);
        assert!((here + 1..all).contains(&after), "killed in the middle: {here}, then {after} of {all}");
        here = after;
        mesh.run_one(0, &slow);
    }
    drop(began);
    let back: Value = recover(&mesh.points[0]).json();
    assert_eq!((back["whole"].as_u64(), back["missing_groups"].as_u64()), (Some(1), Some(0)), "{back}");
    let (fetched, bytes) =
        (back["fetched_bytes"].as_u64().expect("a number"), back["bytes"].as_u64().expect("a number"));
    assert!(fetched < bytes, "what was here was not fetched again: {fetched} of {bytes}");
    // A countersignature may have come after the copies: then it burnt with the point that gave it and with central.
    is_back(&mut mesh, "again", &["proof/countersigned.cose"]);
    mesh.stop();
}

#[test]
fn a_new_machine_in_a_dead_ones_place_opens_what_comes_back_with_the_shares() {
    let _machine = alone();
    let mut mesh = Mesh::new(&["Trung tâm", "Xã Kim Thành", "Kho lưu trữ"]);
    mesh.run(&[]);
    let session = mesh.session(24);
    mesh.points[0].end_session();
    held_by(&mesh.points[0], &session, 2);
    let before = mesh.folder.join("before");
    export(&mesh.points[0], &before);
    mesh.points[0].stop();
    fs::remove_dir_all(&mesh.points[0].data).expect("a data folder");
    let data = mesh.folder.join("heir");
    mesh.replace(0, &data);
    mesh.run_one(0, &[]);

    let sealed = mesh.folder.join("sealed");
    let back: Value = recover(&mesh.points[0]).arg("--to").arg(&sealed).json();
    assert_eq!((back["whole"].as_u64(), back["locked"][0].as_str()), (Some(1), Some(&*session)), "{back}");
    let proof = sealed.join(&session);
    let checked = Call::new(["archive".into(), "verify".into(), proof]).run().succeeded();
    assert!(checked.stdout.contains("nothing is wrong"), "{checked}");
    let films = |to: &str| {
        let call = Call::new(["archive", "export", "last", "--no-gallery", "--to"]).arg(mesh.folder.join(to));
        call.data(&data).limit(BACK_WITHIN).run()
    };
    films("none").ended_with(5);

    let shares = split(&mesh.recovery, 5, 3).expect("shares");
    let file = |n: usize| {
        let path = mesh.folder.join(format!("share-{n}"));
        fs::write(&path, shares[n].to_text().as_bytes()).expect("room for a share");
        path
    };
    let with = |numbers: &[usize]| recover(&mesh.points[0]).arg("--shares").args(numbers.iter().map(|n| file(*n)));
    let done = with(&[0, 4]).run().ended_with(5);
    assert!(done.stderr.contains("2 of the 3 shares needed"), "{done}");
    let back: Value = with(&[0, 4, 2]).json();
    assert_eq!((back["opened"][0].as_str(), &back["locked"]), (Some(&*session), &json!([])), "{back}");
    assert_eq!(back["fetched_bytes"].as_u64(), Some(0), "it was here already");
    films("films").succeeded();
    must_be_the_same(&before.join("films"), &mesh.folder.join("films"), &[]);
    verify(&mesh.points[0]);
    until("the others know that it holds the session again", SOON, || {
        (mesh.points[1].session(&session).holders >= 2).then_some(())
    });
    let log = Call::new(["log", "access", "--json"]).data(&mesh.points[1].data).run().succeeded();
    assert!(log.stdout.contains("copy"), "who took what stands in the log: {log}");
    mesh.stop();
}

/// What this archive has of a point's signed segments.
fn signed_by(data: &Path, session: &SessionId, name: &str) -> Vec<Bytes> {
    let Ok(archive) = Archive::open_read_only(&data.join("archive")) else { return Vec::new() };
    let head = archive.head(session).ok().flatten();
    let number =
        head.and_then(|head| head.points.iter().find(|member| member.name == name).map(|member| member.number));
    number.map_or(Vec::new(), |number| archive.segments(session, number, 0, usize::MAX).unwrap_or_default())
}

#[test]
fn a_point_whose_archive_burns_while_a_session_runs_takes_back_what_it_signed_before_it_signs_again() {
    let _machine = alone();
    let mut mesh = Mesh::new(&["Trung tâm", "Xã Kim Thành"]);
    mesh.run(&[]);
    let session = mesh.session(16);
    let (id, central, name) =
        (session.parse::<SessionId>().expect("an id"), mesh.points[0].data.clone(), mesh.points[1].name.clone());
    let signed = || signed_by(&central, &id, &name);
    // A node that starts signs at once what the run before recorded.
    mesh.points[1].kill();
    mesh.run_one(1, &[]);
    until("central has what the point signed", SIGNED_WITHIN, || (!signed().is_empty()).then_some(()));
    mesh.points[0].wait_for_all(&session);
    mesh.points[0].wait_for_groups(16);
    mesh.points[1].kill();
    fs::remove_dir_all(mesh.points[1].data.join("archive")).expect("an archive");
    let before = signed();
    mesh.run_one(1, &[]);
    mesh.points[0].wait_for_all(&session);
    until("its own segments are here again", SIGNED_WITHIN, || {
        mesh.points[1].log().contains("what this point had signed is here again").then_some(())
    });
    assert_eq!(signed_by(&mesh.points[1].data, &id, &name)[..before.len()], before[..]);
    mesh.points[0].wait_for_groups(16);
    mesh.points[0].end_session();
    let closed =
        |segment: &Bytes| Signed::<Segment>::parse(segment.clone()).is_ok_and(|segment| segment.content().last);
    until("the point has signed its last", SIGNED_WITHIN, || signed().last().is_some_and(closed).then_some(()));
    let after = signed();
    assert!(after.len() > before.len() && after[..before.len()] == before[..], "it went on where it was");
    mesh.stop();
    let archive = Archive::open_read_only(&central.join("archive")).expect("an archive");
    for entry in archive.journal(&id, 0).expect("readable") {
        let entry = Signed::<Entry>::parse(entry).expect("good");
        assert!(!matches!(entry.content().event, Event::Forked { .. }), "{:?}", entry.content());
    }
}
