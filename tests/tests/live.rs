//! Live sound and picture between real browsers: three rooms, a Chromium in each with a picture of the time and a tone
//! at every second, and what their nodes recorded of it.

use std::collections::BTreeSet;
use std::time::Duration;

use store::id::TrackKind;
use tests::office::{Office, SOON, alone};
use tests::program::{Call, until};
use tests::{browser, film};

/// What the script may take: three browsers share the machine with three nodes.
const SCRIPT_MAX: Duration = Duration::from_secs(300);

#[test]
fn browsers_of_three_rooms_see_and_hear_each_other_and_are_recorded() {
    let _machine = alone();
    let names = ["Trung tâm", "Xã Kim Anh", "Xã Kim Đính"];
    let mut office = Office::new(&names);
    let room = ["--source", "browser", "--watch", "false", "--port", "0"];
    let mut peer = Vec::new();
    let mut pages = Vec::new();
    for point in &mut office.points {
        let status = point.run(&[&room[..], &peer.iter().map(String::as_str).collect::<Vec<_>>()].concat());
        pages.push(status.own.console.expect("a page"));
        if peer.is_empty() {
            peer = vec!["--peer".to_owned(), format!("127.0.0.1:{}", status.own.mesh_port)];
        }
    }
    office.wait_until_met();
    let session = office.points[0].start_session("Trình duyệt");
    office.points[0].wait_for_all(&session.id);

    let mut script = browser::start("media.mjs", &pages.iter().map(String::as_str).collect::<Vec<_>>());
    until("the rooms meet and one of them reloads its page", SCRIPT_MAX, || {
        assert!(script.is_running(), "the script ended: {}", script.stderr());
        script.stdout().contains("restart").then_some(())
    });
    // A power cut at the second point, whose browser goes on.
    let before = office.points[1].status().own;
    office.points[1].kill();
    let port = pages[1].rsplit(':').next().expect("a port").trim_end_matches('/').to_owned();
    until("the script has noticed", SOON, || script.stdout().contains("gone").then_some(()));
    let again: Vec<&str> = room.iter().copied().chain(peer.iter().map(String::as_str)).collect();
    let usual = ["run", "--listen", "127.0.0.1", "--mdns", "false", "--media-port", "0", "--console-port", &port];
    office.points[1].start(Call::new(usual.into_iter().chain(again)));
    assert_eq!(office.points[1].status().own.name, before.name);
    println!("{}", script.wait(SCRIPT_MAX).succeeded().stderr);

    office.points[0].end_session();
    until("every point knows that the session is over", SOON, || {
        office.points.iter().all(|point| point.status().session.is_none()).then_some(())
    });
    office.stop();
    for (number, point) in (1..).zip(&office.points) {
        let kept = point.kept(&session.id);
        let kinds: BTreeSet<_> =
            kept.groups.keys().filter(|id| id.track.point().get() == number).map(|id| id.track.kind()).collect();
        assert!(kinds.contains(&TrackKind::Audio) && kinds.contains(&TrackKind::Main), "{}: {kinds:?}", point.name);
        for kind in [TrackKind::Audio, TrackKind::Main] {
            let times = kept.times(number, kind);
            assert!(times.is_sorted(), "{}: times of {kind} grow from group to group", point.name);
        }
    }
    let films = office.folder.join("films");
    Call::new(["archive", "export", &session.id, "--to"]).arg(&films).data(&office.points[0].data).run().succeeded();
    let made: Vec<_> = std::fs::read_dir(&films).expect("films").map(|entry| entry.expect("readable").path()).collect();
    let made: Vec<_> = made.iter().filter(|path| path.extension().is_some_and(|kind| kind == "mp4")).collect();
    assert!(made.len() >= 3, "{made:?}");
    for film in made.iter().filter(|path| !path.to_string_lossy().contains("gallery")) {
        let (picture, sound) = (film::stream(film, "v:0"), film::stream(film, "a:0"));
        println!("{}: picture to {:.1} s, sound to {:.1} s", film.display(), picture.end, sound.end);
        assert!(picture.end > 10.0 && (picture.end - sound.end).abs() < 3.0, "{}", film.display());
    }
}
