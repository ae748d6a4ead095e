//! A recording proves itself: two programs that share nothing look at a real session, find nothing wrong with it, and find
//! each thing that is done to it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use node::control::Session;
use node::identity::Identity;
use serde_json::Value;
use store::archive::Archive;
use store::id::{PointNumber, SessionId};
use store::journal::{Entry, Event};
use store::manifest::Manifest;
use store::session::Head;
use store::signed::Signed;
use tests::office::{Office, SOON, alone};
use tests::program::{Call, Finished, root, until};

/// Longer than a point waits before it signs what it recorded.
const SIGNED_WITHIN: std::time::Duration = std::time::Duration::from_secs(60);

/// The interpreter with the libraries of the independent check, which `bash .ci/setup test` makes.
fn python() -> PathBuf {
    let folder = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from).or_else(|| {
        let test = env::current_exe().ok()?;
        Some(test.ancestors().nth(3)?.to_owned())
    });
    let python = folder.expect("a folder of builds").join("independent/bin/python");
    assert!(python.exists(), "{} is not there: run `bash .ci/setup test`", python.display());
    python
}

fn independent(kind: &str, path: &Path) -> Finished {
    let program = root().join("tests/independent/verify.py");
    Call::of(python(), ["-B".into(), program, kind.into(), path.to_owned()]).run()
}

fn ours(path: &Path) -> Finished {
    Call::new(["archive".into(), "verify".into(), path.to_owned()]).run()
}

/// Records one after the other, each behind its length in four bytes.
fn records(path: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(path).expect("a file of the recording");
    let mut rest = &bytes[..];
    let mut records = Vec::new();
    while let Some((len, after)) = rest.split_first_chunk() {
        let (record, after) = after.split_at(u32::from_be_bytes(*len) as usize);
        records.push(record.to_vec());
        rest = after;
    }
    records
}

fn write(path: &Path, records: &[Vec<u8>]) {
    let framed = |record: &Vec<u8>| [&(record.len() as u32).to_be_bytes()[..], record].concat();
    fs::write(path, records.iter().flat_map(framed).collect::<Vec<u8>>()).expect("room for a file");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("room for a folder");
    for entry in fs::read_dir(from).expect("a folder of the recording") {
        let entry = entry.expect("readable");
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => {
                fs::copy(entry.path(), to).expect("room for a file");
            }
        }
    }
}

/// Changes one bit in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("a file of the recording");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("room for a file");
}

/// Something that is done to a recording, and a part of what must be said of it.
struct Attack<'a> {
    name: &'a str,
    act: Box<dyn Fn(&Path) + 'a>,
    told: &'a str,
}

fn attack<'a>(name: &'a str, told: &'a str, act: impl Fn(&Path) + 'a) -> Attack<'a> {
    Attack { name, act: Box::new(act), told }
}

/// The segments of both points are with central, as its archive lies on the disk.
fn segments(office: &Office, session: &SessionId, closed: bool) -> Option<()> {
    let archive = Archive::open_read_only(&office.points[0].data.join("archive")).ok()?;
    let head = archive.head(session).ok()??;
    let good = head.points.iter().all(|member| {
        let chain = archive.segment_chain(session, member.number, member.node);
        chain.is_ok_and(|chain| !chain.is_empty() && chain.is_closed() == closed)
    });
    good.then_some(())
}

/// The last manifest has the countersignature of the one point that is not central.
fn countersigned(office: &Office, session: &SessionId) -> Option<()> {
    let archive = Archive::open_read_only(&office.points[0].data.join("archive")).ok()?;
    let manifest = archive.last_manifest(session).ok()??;
    let by = archive.countersigners(session, manifest.hash()).ok()?;
    by.contains(&PointNumber::new(2)?).then_some(())
}

#[test]
fn a_recording_proves_itself_and_whatever_is_done_to_it_is_found() {
    let _machine = alone();
    let mut office = Office::new(&["Trung tâm", "Xã Kim Thành"]);
    office.run();
    let central = &office.points[0];
    let session = central.start_session("Tiếp công dân").id;
    let id: SessionId = session.parse().expect("an id");
    central.wait_for_all(&session);
    until("both points have signed and central has it", SIGNED_WITHIN, || segments(&office, &id, false));
    central.wait_for_groups(4);
    let noted: Session =
        Call::new(["session", "note", "--kind", "incident", "mất điện 10 phút", "--json"]).data(&central.data).json();
    assert_eq!(noted.journal.last().map(|line| line.event.as_str()), Some("incident: mất điện 10 phút"));
    central.end_session();
    until("both have signed their last", SOON, || segments(&office, &id, true));
    until("the delegate has countersigned", SOON, || countersigned(&office, &id));

    let at_central = Call::new(["archive", "verify", "last", "--json"]).data(&central.data).run().succeeded();
    let verified: Value = serde_json::from_str(&at_central.stdout).expect("JSON alone");
    assert_eq!(verified["opened"], verified["groups"], "central has the key: {verified}");
    assert!(verified["segments"].as_u64() >= Some(4), "{verified}");
    let delegate = &office.points[1];
    until("the delegate holds all of it", SIGNED_WITHIN, || (central.session(&session).holders == 1).then_some(()));
    let all = Call::new(["archive", "verify", "last"]).data(&delegate.data).run().succeeded();
    assert!(!all.stdout.contains("its own record only") && all.stdout.contains("nothing is wrong"), "{all}");

    let good = office.folder.join("sealed");
    let export =
        |to: &Path| Call::new(["archive", "export", "last", "--sealed", "--to"]).arg(to).data(&central.data).run();
    export(&good).succeeded();
    export(&good).ended_with(5);
    office.stop();
    let with_key = Call::new(["archive", "verify"]).arg(&good).data(&office.points[1].data).run().succeeded();
    assert!(!with_key.stdout.contains(" 0 of them opened"), "{with_key}");
    assert!(ours(&good).succeeded().stdout.contains(" 0 of them opened"));
    ours(&office.folder.join("nothing")).ended_with(3);
    independent("recording", &good).succeeded();
    independent("membership", &good.join("roster.cose")).succeeded();
    independent("journal", &good.join("journal.cose")).succeeded();
    independent("segments", &good.join("segments/2.cose")).succeeded();
    independent("manifest", &good.join("manifest.cose")).succeeded();

    let mut groups: Vec<_> = fs::read_dir(good.join("groups/2-main")).expect("groups").collect();
    groups.sort_by_key(|entry| entry.as_ref().expect("readable").file_name());
    let group = |n: usize| Path::new("groups/2-main").join(groups[n].as_ref().expect("readable").file_name());
    let (first, second) = (group(0), group(1));
    let key = Identity::load(&office.points[0].data).expect("central's keys").node;
    let attacks = [
        attack("a byte of the head", "head", |dir| {
            let mut bytes = fs::read(dir.join("head.cbor")).expect("a head");
            let title = "Tiếp công dân".as_bytes();
            let at = bytes.windows(title.len()).position(|window| window == title).expect("its title");
            bytes[at] ^= 1;
            fs::write(dir.join("head.cbor"), bytes).expect("room for a head");
        }),
        attack("a byte of the roster", "roster", |dir| flip(&dir.join("roster.cose"))),
        attack("a byte of the journal", "journal entry", |dir| flip(&dir.join("journal.cose"))),
        attack("a byte of a segment", "of Xã Kim Thành", |dir| flip(&dir.join("segments/2.cose"))),
        attack("a byte of a group", "2-main", |dir| flip(&dir.join(&first))),
        attack("a group less", "is not here", |dir| fs::remove_file(dir.join(&first)).expect("a group")),
        attack("two groups swapped", "2-main", |dir| {
            let aside = dir.join("aside");
            fs::rename(dir.join(&first), &aside).expect("a group");
            fs::rename(dir.join(&second), dir.join(&first)).expect("another");
            fs::rename(&aside, dir.join(&second)).expect("the first");
        }),
        attack("a group of nobody", "is signed by nobody", |dir| {
            fs::copy(dir.join(&first), dir.join("groups/2-main/0000999999.group")).expect("a copy");
        }),
        attack("the first segment less", "segment 0 of Xã Kim Thành", |dir| {
            let path = dir.join("segments/2.cose");
            write(&path, &records(&path)[1..]);
        }),
        attack("the last segment less", "the last of them is missing", |dir| {
            let path = dir.join("segments/2.cose");
            let all = records(&path);
            write(&path, &all[..all.len() - 1]);
        }),
        attack("no segments of a point", "the last of them is missing", |dir| {
            fs::remove_file(dir.join("segments/2.cose")).expect("segments");
        }),
        attack("the segments of another point", "of Xã Kim Thành", |dir| {
            fs::copy(dir.join("segments/1.cose"), dir.join("segments/2.cose")).expect("a copy");
        }),
        attack("an entry of the journal exchanged by central itself", "does not follow", |dir| {
            let path = dir.join("journal.cose");
            let mut all = records(&path);
            let entry = Signed::<Entry>::parse(all[1].clone().into()).expect("an entry").content().clone();
            let point = PointNumber::new(1).expect("a number");
            let changed = Entry { event: Event::Joined { point }, wall_ms: 1, ..entry };
            all[1] = Signed::new(changed, &key).bytes().to_vec();
            write(&path, &all);
        }),
        attack("the journal without its end", "its end is not in the journal", |dir| {
            let path = dir.join("journal.cose");
            let all = records(&path);
            let ended = |record: &Vec<u8>| {
                let entry = Signed::<Entry>::parse(record.clone().into()).expect("an entry");
                matches!(entry.content().event, Event::Ended { .. })
            };
            let end = all.iter().position(ended).expect("the session has ended");
            write(&path, &all[..end]);
        }),
        attack("the head with another end", "is not the one that central signed for", |dir| {
            let path = dir.join("head.cbor");
            let mut head = Head::decode(&fs::read(&path).expect("a head")).expect("a good head");
            head.ended_unix_ms = head.ended_unix_ms.map(|end| end + 1);
            fs::write(path, head.encode()).expect("room for a head");
        }),
        attack("the journal without its last entry", "is cut off", |dir| {
            let path = dir.join("journal.cose");
            let all = records(&path);
            write(&path, &all[..all.len() - 1]);
        }),
        attack("a byte of the manifest", "manifest", |dir| flip(&dir.join("manifest.cose"))),
        attack("no manifest", "manifest", |dir| fs::remove_file(dir.join("manifest.cose")).expect("a manifest")),
        attack("the manifest of another session, signed by central", "of another session", |dir| {
            let path = dir.join("manifest.cose");
            let manifest = Signed::<Manifest>::parse(records(&path)[0].clone().into()).expect("a manifest");
            let other = Manifest { session: SessionId::generate(1), ..manifest.content().clone() };
            write(&path, &[Signed::new(other, &key).bytes().to_vec()]);
        }),
        attack("a byte of a countersignature", "countersignature", |dir| flip(&dir.join("countersigned.cose"))),
        attack("no journal", "journal", |dir| fs::remove_file(dir.join("journal.cose")).expect("a journal")),
    ];
    for (n, Attack { name, act, told }) in attacks.iter().enumerate() {
        let dir = office.folder.join(format!("attack-{n}"));
        copy(&good, &dir);
        act(&dir);
        let found = ours(&dir).ended_with(4);
        assert!(found.stdout.contains(told), "{name}: {told:?} is not said\n{found}");
        independent("recording", &dir).ended_with(1);
        fs::remove_dir_all(&dir).expect("a folder of ours");
    }
    // The wrapped keys are signed by nobody; whoever uses them finds out.
    let dir = office.folder.join("wraps");
    copy(&good, &dir);
    let key = fs::read(dir.join("wraps.cbor")).expect("wrapped keys");
    fs::write(dir.join("wraps.cbor"), &key[..key.len() - 1]).expect("room for a file");
    Call::new(["archive", "verify"]).arg(&dir).data(&office.points[0].data).run().ended_with(4);
}
