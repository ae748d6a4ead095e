//! A point leaves a running session against its will: what it, the others and the archive have of it afterwards.

use std::collections::BTreeSet;

use store::id::TrackKind;
use store::keys::NodeKey;
use store::roster::{Membership, Revoked};
use store::seal::{self, Opener};
use store::signed::Signed;

use super::*;
use crate::export;

/// Longest time between a removal and the first group of the next epoch: announced this long before, and a group then open
/// is finished.
const CHANGE_MAX: Duration = Duration::from_secs(5);

/// Three nodes that see and hear each other in a session of the first.
async fn in_session(folders: &[PathBuf]) -> (Vec<Node>, String) {
    let central = Node::start(&folders[0], None).await;
    let port = central.status().await.own.mesh_port;
    let mut nodes = vec![central];
    for folder in &folders[1..] {
        nodes.push(Node::start(folder, Some(port)).await);
    }
    until("all are online", async || nodes[0].status().await.points.iter().all(|point| point.online)).await;
    let started = nodes[0].session(Request::SessionStart { title: "Thử".into(), points: vec![] }).await;
    for node in &nodes {
        until("everybody sees and hears the two others", async || heard(node, 2, 150).await).await;
    }
    (nodes, started.id)
}

/// Whether so many others were heard for so many packets of sound.
async fn heard(node: &Node, others: usize, packets: u64) -> bool {
    let shown = node.stats().await.shown;
    shown.len() == others && shown.iter().all(|row| row.audio_frames > packets)
}

/// Packets of sound a room has heard.
async fn count(node: &Node) -> u64 {
    node.stats().await.shown.iter().map(|row| row.audio_frames).sum()
}

/// Lets the two that stay go on for a while, ends the session, and stops everybody.
async fn finish(nodes: Vec<Node>) {
    for n in 0..2 {
        let node = &nodes[n];
        let before = count(node).await;
        until("they go on", async || count(node).await > before + 350).await;
        let shown = node.stats().await.shown;
        let other = nodes[1 - n].status().await.own.name;
        let row = shown.iter().find(|row| row.from == other).expect("the other that stays");
        // Sound comes in packets of 20 ms; some are on their way.
        assert!(row.audio_expected - row.audio_frames < 5, "no sound is missed: {row:?}");
    }
    let ended = nodes[0].session(Request::SessionEnd { session: None }).await;
    assert_eq!(ended.state, State::Ended);
    for node in nodes {
        node.stop().await;
    }
}

/// What the archives say after the third point was removed for this reason.
fn check(folders: &[PathBuf], reason: &str) {
    let central = Archive::open_read_only(&config::archive(&folders[0])).expect("an archive");
    let head = central.sessions().expect("good heads").heads.remove(0);
    let out = head.points[2].number;
    assert_eq!((head.epoch(), &head.epochs[1].removed), (1, &vec![out]));

    // The journal is whole and tells it.
    let journal = central.journal(&head.id, 0).expect("a journal");
    Chain::verify(head.id, head.central, journal).expect("a whole journal");
    let told = control::session::show(&central, &head.id).expect("a session").journal;
    let at =
        |what: &str| told.iter().find(|line| line.event.contains(what)).unwrap_or_else(|| panic!("{what}: {told:?}"));
    let removed_at = Duration::from_millis(at(reason).at_ms);
    assert_eq!(at("key 1 is used").n, at(reason).n + 1);

    // What the others publish has changed in time; what the removed one published ends.
    let identity = Identity::load(&folders[2]).expect("keys");
    let its = Archive::open_read_only(&config::archive(&folders[2])).expect("an archive");
    let wraps = its.wraps(&head.id, &identity.id()).expect("keys");
    let mut opener = Opener::new(head.id);
    let keys = head.open(&wraps, &identity.wrap, identity.id()).expect("good wraps");
    assert_eq!(keys.keys().copied().collect::<Vec<_>>(), [0], "it was given no other key");
    keys.into_iter().for_each(|(epoch, key)| opener.insert(epoch, key));
    let groups = kept(&folders[0]);
    for member in &head.points[..2] {
        for kind in [TrackKind::Audio, TrackKind::Main] {
            let track = TrackId::new(member.number, kind);
            let of = groups.iter().filter(|((_, of, _), _)| *of == track).map(|(_, record)| record);
            let (before, after): (Vec<&Record>, Vec<&Record>) = of.partition(|record| record.header().kid.epoch() == 0);
            assert!(!before.is_empty() && !after.is_empty(), "{track}");
            let changed = Duration::from_micros(after[0].header().t0);
            assert!(changed <= removed_at + CHANGE_MAX, "{track}: {changed:?} after {removed_at:?}");
            for record in before {
                let frame = record.frames().next().expect("a frame");
                assert!(opener.group(record.header()).expect("its key").open(&frame).is_ok());
            }
            for record in after {
                assert!(matches!(opener.group(record.header()), Err(seal::Error::Key { epoch: 1, .. })));
            }
        }
    }
    let own: Vec<&Record> =
        groups.iter().filter(|((_, track, _), _)| track.point() == out).map(|(_, group)| group).collect();
    assert!(!own.is_empty() && own.iter().all(|record| record.header().kid.epoch() == 0));

    // Everything that was recorded comes out again, whatever key sealed it.
    let films = tempfile::tempdir().expect("a place for films");
    let keys = Identity::load(&folders[0]).expect("keys");
    let options = export::Options { points: vec![], gallery: false };
    let exported = export::session(&central, &keys, &head.id, films.path(), &options, &mut |_| {}).expect("films");
    let packets = |kind: TrackKind, number| -> u64 {
        let track = TrackId::new(number, kind);
        groups.iter().filter(|((_, of, _), _)| *of == track).map(|(_, group)| u64::from(group.frame_count())).sum()
    };
    assert_eq!(exported.exports.len(), 3);
    for (film, member) in exported.exports.iter().zip(&head.points) {
        let frames = (packets(TrackKind::Main, member.number), packets(TrackKind::Audio, member.number));
        assert_eq!((film.video_frames, film.audio_frames), frames, "{}", film.point);
    }
    let whole: BTreeSet<_> = exported.exports[..2].iter().flat_map(|film| &film.missing).map(|gap| gap.track).collect();
    assert!(whole.is_empty(), "nothing of those that stayed is missing: {whole:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_sent_out_closes_its_room_and_the_others_go_on_with_another_key() {
    let base = tempfile::tempdir().expect("a place for files");
    let folders = set_up(base.path());
    let (nodes, id) = in_session(&folders).await;
    let asked = Instant::now();
    let point = nodes[2].status().await.own.name;
    let session = nodes[0].session(Request::SessionRemove { point: point.clone(), session: None }).await;
    assert_eq!((session.id.as_str(), session.state), (id.as_str(), State::Open));
    until("it knows", async || nodes[2].status().await.session.is_none()).await;
    assert!(asked.elapsed() < CHANGE_MAX, "{:?}", asked.elapsed());
    let present = nodes[0].status().await.session.expect("it runs").present;
    assert!(present.len() == 2 && !present.contains(&point), "{present:?}");
    let again = nodes[0].ask(Request::SessionRemove { point, session: None }).await;
    assert!(matches!(again, Response::Not { .. }), "{again:?}");
    finish(nodes).await;
    check(&folders, "the chair sent it out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_revoked_in_a_session_hears_no_more_and_the_others_go_on_with_another_key() {
    let base = tempfile::tempdir().expect("a place for files");
    let folders = set_up(base.path());
    // The same mesh under an authority whose key is at hand.
    let authority = NodeKey::generate();
    let sign = |roster| Signed::sound(roster, &authority).expect("a sound roster");
    let first = roster::read(&folders[0].join(roster::FILE)).expect("a roster").roster().content().clone();
    let mut mesh = Membership::new(sign(first), &authority.id()).expect("its own roster");
    folders.iter().for_each(|folder| roster::save(folder, &mesh).expect("a folder of our own"));
    let (nodes, _) = in_session(&folders).await;

    let mut next = mesh.next_roster(0);
    let out = next.points.remove(2);
    let (node, name, reason) = (out.node, out.name.clone(), "stolen".to_owned());
    next.revoked.push(Revoked { node, name, reason, unix_ms: 0, replaced_by: None });
    mesh.merge_roster(sign(next)).expect("it follows the first");
    roster::save(base.path(), &mesh).expect("a folder of our own");
    let learnt = Instant::now();
    for node in &nodes[..2] {
        assert_eq!(node.ask(Request::RosterSet { from: base.path().join(roster::FILE) }).await, Response::Done);
    }
    let present = async || nodes[0].status().await.session.expect("it runs").present;
    until("central has cut it off", async || !present().await.contains(&out.name)).await;
    let heard = count(&nodes[2]).await;
    assert!(learnt.elapsed() < CHANGE_MAX, "{:?}", learnt.elapsed());
    let before = count(&nodes[0]).await;
    until("the others go on", async || count(&nodes[0]).await > before + 200).await;
    // What had arrived is played out.
    assert!(count(&nodes[2]).await <= heard + 100, "it hears nothing of that");
    assert_eq!(present().await.len(), 2);
    finish(nodes).await;
    check(&folders, "the authority revoked it");
}
