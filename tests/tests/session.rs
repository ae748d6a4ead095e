//! The main job, end to end: real nodes hold a session, keep it, lose power in the middle of it, and its films play.
//!
//! These tests take the machine one at a time: three nodes that encode and decode in real time leave little of two
//! cores.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use codec::capture::pattern;
use codec::gallery;
use codec::picture::Picture;
use node::control::{Session, State};
use serde::Deserialize;
use serde_json::Value;
use store::id::{GroupId, TrackKind};
use store::journal::{EndReason, Event};
use tests::film;
use tests::office::{Kept, Office, Point, SOON, alone};
use tests::program::{Call, Folder, until};

/// What `demo --json` prints: these names and no others.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    points: Vec<PointReport>,
    session: SessionReport,
    recording: Recording,
    exports: Vec<Export>,
    gallery: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PointReport {
    name: String,
    role: String,
    shown: Vec<Shown>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shown {
    from: String,
    video_frames: u64,
    video_expected: u64,
    audio_frames: u64,
    audio_expected: u64,
    latency_ms: Latency,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Latency {
    p50: f64,
    p95: f64,
    max: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionReport {
    id: String,
    seconds: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recording {
    groups: u64,
    bytes: u64,
    gaps: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Export {
    point: String,
    path: PathBuf,
}

/// A demo of `points` for `seconds`, and what it printed.
fn demo(data: &Path, points: u16, seconds: u64, more: &[&str]) -> Report {
    let [points, seconds] = [points.to_string(), seconds.to_string()];
    let call = Call::new(["demo", "--points", &points, "--seconds", &seconds, "--json"]).data(data);
    call.args(more.iter().copied()).limit(Duration::from_secs(180)).json()
}

#[test]
fn a_session_is_seen_heard_recorded_and_exported_in_step() {
    let _machine = alone();
    let folder = Folder::new();
    let report = demo(folder.path(), 3, 20, &[]);

    let roles: Vec<_> = report.points.iter().map(|point| point.role.as_str()).collect();
    assert_eq!(roles, ["central", "delegate", "delegate"]);
    assert!((20.0..25.0).contains(&report.session.seconds), "{} s", report.session.seconds);
    for point in &report.points {
        let others: BTreeSet<_> =
            report.points.iter().map(|other| &other.name).filter(|other| **other != point.name).collect();
        assert_eq!(point.shown.iter().map(|shown| &shown.from).collect::<BTreeSet<_>>(), others);
        for shown in &point.shown {
            let whom = format!("{} at {}: {shown:?}", shown.from, point.name);
            println!("{whom}");
            assert!(shown.video_expected >= 29 * 19 && shown.audio_expected >= 49 * 19, "{whom}");
            assert!(shown.video_frames <= shown.video_expected && shown.audio_frames <= shown.audio_expected, "{whom}");
            assert!(shown.video_frames * 100 >= shown.video_expected * 98, "{whom}");
            assert!(shown.audio_frames * 100 >= shown.audio_expected * 99, "{whom}");
            let late = &shown.latency_ms;
            assert!(0.0 < late.p50 && late.p50 <= late.p95 && late.p95 <= late.max && late.p95 < 500.0, "{whom}");
        }
    }

    let kept = |folder_name: &str| Kept::read(&folder.join(folder_name).join("archive"), &report.session.id);
    let central = kept("1-central");
    assert_eq!(report.recording.gaps, 0);
    assert_eq!(report.recording.groups, central.groups.len() as u64);
    assert_eq!(report.recording.bytes, central.groups.values().map(|bytes| bytes.len() as u64).sum::<u64>());
    assert_eq!(central.unexplained(), []);
    for (number, name) in [(2, "2-delegate"), (3, "3-delegate")] {
        let own = kept(name);
        central.must_have(&own, name);
        let of_it = central.groups.keys().filter(|id| id.track.point().get() == number);
        of_it.for_each(|id| assert!(own.groups.contains_key(id), "{name} keeps its own groups, whoever else does"));
    }

    assert_eq!(report.exports.len(), 3);
    for (number, export) in (1..).zip(&report.exports) {
        assert_eq!(export.point, report.points[usize::from(number) - 1].name);
        film::must_be_flawless(&export.path);
        shows_what_was_recorded(&export.path, &central, number);
        let (apart, marks) = in_step(&export.path, None);
        println!("{}: {marks} marks, sound and picture at most {:.1} ms apart", export.point, apart * 1e3);
        assert!(marks >= 18, "{marks} marks were seen and heard in {}", export.path.display());
    }

    film::must_be_flawless(&report.gallery);
    let end = film::stream(&report.gallery, "v:0").end;
    assert!((end - report.session.seconds).abs() < 0.5, "the gallery ends at {end} s");
    for index in 0..3 {
        let (apart, marks) = in_step(&report.gallery, Some(gallery::tile(index, 3)));
        println!("gallery, tile {index}: {marks} marks, at most {:.1} ms apart", apart * 1e3);
        assert!(marks >= 18, "{marks} marks were seen and heard of tile {index}");
    }
}

/// Every picture and every sound of the record is in the film, at its time and no other.
fn shows_what_was_recorded(path: &Path, kept: &Kept, point: u16) {
    for (which, kind) in [("v:0", TrackKind::Main), ("a:0", TrackKind::Audio)] {
        let recorded: Vec<_> = kept.times(point, kind).iter().map(|time| *time as f64 / 1e6).collect();
        let film = film::stream(path, which);
        assert_eq!(film.times.len(), recorded.len(), "frames of {which} in {}", path.display());
        // What a decoder needs to settle is not heard, so a film's first sound is shorter and begins later.
        for (film, recorded) in film.times.iter().zip(&recorded).skip(1) {
            assert!((film - recorded).abs() < 0.001, "{which} of {}: {film} s, not {recorded} s", path.display());
        }
        let last = recorded.last().expect("something was recorded");
        assert!((0.01..0.06).contains(&(film.end - last)), "{which} of {} ends at {}", path.display(), film.end);
    }
}

/// How far flashes and clicks of a film are apart at most, in seconds, and how many pairs there are. Every picture must
/// be readable and later than the one before. In a gallery one tile is looked at, whose pictures may be repeated, as its
/// clock is not the point's.
fn in_step(path: &Path, tile: Option<gallery::Tile>) -> (f64, usize) {
    let times = film::stream(path, "v:0").times;
    let (mut flashes, mut counters, mut unread) = (Vec::new(), Vec::new(), 0);
    let size = if tile.is_some() { (1280, 720) } else { (640, 360) };
    let mut flashing = false;
    film::pictures(path, size, |place, picture| {
        let picture = match &tile {
            Some(tile) => wall_part(&picture, *tile),
            None => picture,
        };
        match pattern::read(&picture) {
            Some(mark) => counters.push(mark.counter),
            None => unread += 1,
        }
        let flash = pattern::flash(&picture);
        if flash && !flashing {
            flashes.push(times[place]);
        }
        flashing = flash;
    });
    // Tiles are dark until their point's first picture, and after its last.
    let dark_max = if tile.is_some() { 30 } else { 0 };
    assert!(unread <= dark_max, "{unread} pictures of {} cannot be read", path.display());
    let rises = |pair: &[u32]| if tile.is_some() { pair[0] <= pair[1] } else { pair[0] < pair[1] };
    assert!(counters.windows(2).all(rises), "{} repeats or reverses: {counters:?}", path.display());

    let heard = film::stream(path, "a:0");
    let pcm = film::sound(path);
    assert_eq!(pcm.len(), heard.samples.iter().sum::<usize>());
    let time_of = |sample: usize| {
        let mut before = 0;
        for (time, length) in heard.times.iter().zip(&heard.samples) {
            if sample < before + length {
                return time + (sample - before) as f64 / 48_000.0;
            }
            before += length;
        }
        unreachable!("a click is in the sound")
    };
    // A gallery mixes the clicks of all points, which come at any distance from each other.
    let clicks = if tile.is_some() { starts(&pcm) } else { pattern::clicks(&pcm) };
    let clicks: Vec<_> = clicks.into_iter().map(time_of).collect();
    let mut apart_max: f64 = 0.0;
    for flash in &flashes {
        let apart = clicks.iter().map(|click| (click - flash).abs()).fold(f64::INFINITY, f64::min);
        // At its very ends a film may have the one without the other.
        let inside =
            |list: &[f64]| list.first().is_some_and(|t| *t < *flash) && list.last().is_some_and(|t| *t > *flash);
        assert!(apart <= 0.040 || !inside(&clicks), "a flash at {flash} s of {} is silent: {clicks:?}", path.display());
        apart_max = if apart <= 0.040 { apart_max.max(apart) } else { apart_max };
    }
    let pairs = flashes.iter().filter(|flash| clicks.iter().any(|click| (click - *flash).abs() <= 0.040)).count();
    (apart_max, pairs)
}

/// Where sound starts after ten milliseconds without.
fn starts(pcm: &[i16]) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut quiet_since = 0;
    for (index, sample) in pcm.iter().enumerate() {
        if sample.unsigned_abs() > 4_000 {
            if index - quiet_since >= 480 {
                starts.push(index);
            }
            quiet_since = index;
        }
    }
    starts
}

fn wall_part(wall: &Picture, tile: gallery::Tile) -> Picture {
    let place = gallery::place(tile, pattern::WIDTH, pattern::HEIGHT);
    wall.crop(place.x, place.y, place.width, place.height).expect("a tile lies on the wall")
}

#[test]
fn what_was_kept_survives_the_sudden_death_of_any_point_and_the_session_goes_on() {
    let _machine = alone();
    let mut office = Office::new(&["Trung tâm", "Xã Kim Thành", "Phường Sa Đéc"]);
    let ports = office.run();
    let addresses: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    // Ports of the first run, as an office's router knows them.
    let again = |at: usize| {
        let mut more = vec!["--port".to_owned(), ports[at].to_string()];
        let others = addresses.iter().enumerate().filter(|(other, _)| *other != at);
        more.extend(others.flat_map(|(_, address)| ["--peer".to_owned(), address.clone()]));
        more
    };
    let run_again = |point: &mut Point, at| {
        let more = again(at);
        point.run(&more.iter().map(String::as_str).collect::<Vec<_>>());
    };
    let session = office.points[0].start_session("Họp giao ban").id;
    office.points[0].wait_for_all(&session);
    office.points[0].wait_for_groups(12);

    office.points[1].kill();
    let delegate_had = office.points[1].kept(&session);
    let present = |session: Session, name: &str| session.points.iter().any(|point| point.name == name && point.present);
    until("central notices that a point is lost", SOON, || {
        (!present(office.points[0].session(&session), "Xã Kim Thành")).then_some(())
    });
    run_again(&mut office.points[1], 1);
    until("the point is in the session again", SOON, || {
        let running = office.points[1].status().session?;
        (running.id == session && present(office.points[0].session(&session), "Xã Kim Thành")).then_some(())
    });
    office.points[1].wait_for_groups(4);

    office.points[0].kill();
    let central_had = office.points[0].kept(&session);
    let whose: BTreeSet<_> = central_had.groups.keys().map(|id| id.track.point().get()).collect();
    assert_eq!(whose, [1, 2, 3].into(), "central keeps the groups of all");
    run_again(&mut office.points[0], 0);
    until("the session goes on", SOON, || office.points[0].status().session.filter(|running| running.id == session));
    office.points[0].wait_for_all(&session);
    office.points[0].wait_for_groups(12);

    let ended = office.points[0].end_session();
    assert_eq!((ended.id.as_str(), ended.state), (session.as_str(), State::Ended));
    // What the deaths left unsigned was signed by the next runs.
    until("every point has signed all that is left of its record", SOON, || {
        let verify = Call::new(["archive", "verify", &session]).data(&office.points[0].data).run();
        (verify.code() == 0).then_some(())
    });
    let to = office.folder.join("films");
    let exported: Value = Call::new(["archive", "export", &session, "--json", "--to"])
        .arg(&to)
        .data(&office.points[0].data)
        .limit(SOON * 4)
        .json();
    office.stop();

    let [central, delegate, other] = [0, 1, 2].map(|at| office.points[at].kept(&session));
    central.must_have(&central_had, "central");
    delegate.must_have(&delegate_had, "the delegate");
    central.must_have(&delegate_had, "the delegate before it died");
    central.must_have(&delegate, "the delegate");
    central.must_have(&other, "the other delegate");
    let mut unexplained = central.unexplained();
    // Numbers that a run had set aside and never used are no loss. A group under way when its point died is, and is named:
    // central saw that of a delegate begin, and of its own it knows from its archive.
    for (had, point) in [(&delegate_had, 2), (&central_had, 1)] {
        for kind in [TrackKind::Main, TrackKind::Audio] {
            let of_track = |id: &&GroupId| id.track.point().get() == point && id.track.kind() == kind;
            let last = *had.groups.keys().rfind(of_track).expect("the point had kept something");
            let next = GroupId { seq: last.seq + 1, ..last };
            let explained = central.groups.contains_key(&next) || central.names(&next);
            assert!(explained, "{next} is there or named");
            let again = central.groups.keys().filter(of_track).find(|id| id.seq > next.seq);
            let again = again.expect("the point went on").seq;
            unexplained.retain(|id| id.track != last.track || !(next.seq..again).contains(&id.seq));
        }
    }
    assert_eq!(unexplained, [], "what is missing is named");
    let count = |is: fn(&Event) -> bool| central.journal.iter().filter(|entry| is(&entry.event)).count();
    assert_eq!(count(|event| matches!(event, Event::Resumed {})), 1);
    assert_eq!(count(|event| matches!(event, Event::Ended { reason: EndReason::Closed })), 1);
    assert!(count(|event| matches!(event, Event::Left { point, .. } if point.get() == 2)) >= 1);
    assert!(count(|event| matches!(event, Event::Joined { point } if point.get() == 2)) >= 2);
    for (at, point) in office.points.iter().enumerate() {
        assert_eq!(point.session(&session).state, State::Ended, "point {at} knows that it ended");
    }

    let films = exported["exports"].as_array().expect("a list of films");
    assert_eq!(films.len(), 3);
    let films = films.iter().map(|film| &film["path"]).chain([&exported["gallery"]]);
    for path in films {
        film::must_be_flawless(Path::new(path.as_str().expect("a path")));
    }
}

/// A clip with what test pictures lack: texture everywhere, everything moving, and the noise of a camera.
fn clip(folder: &Folder) -> PathBuf {
    let path = folder.join("clip.mp4");
    let picture = "mandelbrot=size=640x360:rate=25:start_scale=0.3:end_scale=0.02:end_pts=400,noise=alls=4:allf=t";
    let sound = "sine=frequency=330:sample_rate=48000,tremolo=f=3:d=0.7";
    film::make(
        &[
            &["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound, "-t", "4"][..],
            &[
                "-c:v",
                "libx264",
                "-preset",
                "veryfast",
                "-crf",
                "18",
                "-pix_fmt",
                "yuv420p",
                "-c:a",
                "aac",
                "-shortest",
            ],
            &[path.to_str().expect("a plain name")],
        ]
        .concat(),
    );
    path
}

#[test]
fn a_clip_comes_out_of_the_archive_as_it_went_in() {
    let _machine = alone();
    let folder = Folder::new();
    let clip = clip(&folder);
    let source = format!("file:{}", clip.display());
    let report = demo(&folder.join("data"), 2, 6, &["--source", &source]);
    assert_eq!(report.recording.gaps, 0);
    for export in &report.exports {
        film::must_be_flawless(&export.path);
        assert!(film::stream(&export.path, "a:0").times.len() >= 50 * 5);
        let (alike, in_order) = likeness(&folder, &clip, &export.path, (640, 360));
        println!("{}: SSIM {alike:.4}, {:.1} % in order", export.point, in_order * 100.0);
        assert!(alike >= 0.9, "SSIM {alike}");
        assert!(in_order >= 0.95, "{in_order} of the pictures follow the one before");
    }
}

/// SSIM of an exported film against the clip that was its source. The clip was played round and round, so each picture
/// is compared with the one of the clip that its content, made small, is closest to; how many of these follow the one
/// before them is the second number.
fn likeness(folder: &Folder, clip: &Path, film: &Path, size: (u32, u32)) -> (f64, f64) {
    let small = |picture: &Picture| {
        let mut small = Picture::black(64, 36, codec::time::MediaTime(0)).expect("an even size");
        picture.scale_into(&mut small);
        small.y
    };
    let mut source = Vec::new();
    film::pictures(clip, size, |_, picture| source.push((small(&picture), picture)));
    let paths = ["film.yuv", "clip.yuv"].map(|name| folder.join(name));
    let mut files = paths.each_ref().map(|path| File::create(path).expect("room for pictures"));
    let mut write = |file: usize, picture: &Picture| {
        for plane in [&picture.y, &picture.u, &picture.v] {
            files[file].write_all(plane).expect("room for pictures");
        }
    };
    let mut chosen = Vec::new();
    film::pictures(film, size, |_, picture| {
        let sample = small(&picture);
        let distance =
            |other: &[u8]| -> u64 { sample.iter().zip(other).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum() };
        let (index, (_, like)) =
            source.iter().enumerate().min_by_key(|(_, (small, _))| distance(small)).expect("a clip has pictures");
        write(0, &picture);
        write(1, like);
        chosen.push(index);
    });
    let follow = chosen.windows(2).filter(|pair| pair[1] == (pair[0] + 1) % source.len()).count();
    (film::ssim(&paths[0], &paths[1], size), follow as f64 / (chosen.len() - 1) as f64)
}

#[test]
fn a_stranger_gets_nowhere_and_disturbs_nobody() {
    let _machine = alone();
    let mut office = Office::new(&["Trung tâm", "Xã Kim Thành"]);
    let mut stranger = office.stranger();
    let ports = office.run();
    let session = office.points[0].start_session("Tiếp công dân").id;
    office.points[0].wait_for_all(&session);
    stranger.run(&["--port", "0", "--peer", &format!("127.0.0.1:{}", ports[0])]);
    let refused = || office.points[0].status().counters.0.get("strangers_refused").copied().unwrap_or(0);
    until("the stranger has been turned away again and again", SOON, || {
        assert!(!stranger.sees("Trung tâm"), "a stranger sees central");
        assert!(office.points[0].status().points.iter().all(|point| point.name != "Người lạ"));
        (refused() >= 3).then_some(())
    });
    office.points[0].wait_for_groups(4);
    let status = stranger.status();
    assert!(status.session.is_none() && status.points.iter().all(|p| p.online == (p.name == "Người lạ")), "{status:?}");
    let stranger_knows: Value = Call::new(["session", "list", "--json"]).data(&stranger.data).json();
    assert_eq!(stranger_knows, serde_json::json!([]));
    stranger.stop();

    let ended = office.points[0].end_session();
    assert_eq!(ended.gaps, 0);
    office.stop();
    let central = office.points[0].kept(&session);
    assert_eq!(central.unexplained(), []);
    let left = central.journal.iter().filter(|entry| matches!(entry.event, Event::Left { .. })).count();
    assert_eq!(left, 0, "{:?}", central.journal);
    central.must_have(&office.points[1].kept(&session), "the delegate");
}
