//! Exports of archives built from real encoders and real sealing, judged by ffmpeg.

mod long;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use codec::capture::pattern::{self, Drawing, Mark};
use codec::samples::Samples;
use codec::video;
use store::db::memory::Memory;
use store::id::{GroupId, PointNumber};
use store::journal::{Chain, Event, GapReason};
use store::keys::{NodeKey, SessionKey, WrapContext, WrapKey};
use store::record::{Flags, Writer};
use store::schema::{Column, group_key};
use store::seal::{Sealer, Start};
use store::session::{Period, State};

use super::*;

const GROUP_US: u64 = 2_000_000;
/// Groups begin this much before their first picture, so that sound of the same moment falls into them.
const BEFORE_US: u64 = 10_000;

/// Six seconds of the pattern: pictures and sound, the first picture at zero but for this.
const START_US: u64 = 100_000;

static RECORDING: LazyLock<(Vec<Frame>, Vec<Frame>)> = LazyLock::new(|| {
    let mut drawing = Drawing::new("Ủy ban nhân dân xã Ea Kar");
    let mut encoder = video::Encoder::new(video::Config::THUMB).expect("an encoder");
    let pictures = (0..180_u64).map(|index| {
        let at = MediaTime(START_US + index * 1_000_000 / 30);
        let mark = Mark { counter: index as u32, unix_ms: 1_790_000_000_000 + at.micros() / 1_000 };
        let picture = drawing.draw(at, index.is_multiple_of(30), mark);
        encoder.encode(&picture, index.is_multiple_of(60)).expect("encoded").expect("a frame")
    });
    let pictures = pictures.collect();
    let mut encoder = audio::Encoder::new(audio::Config::VOICE).expect("an encoder");
    let mut sound = Vec::new();
    for run in 0..300 {
        let pcm = pattern::sound(run * 960).take(960).collect();
        let at = MediaTime(START_US + run * 20_000);
        sound.extend(encoder.encode(&Samples { rate: 48_000, channels: 1, pcm, at }).expect("encoded"));
    }
    (pictures, sound)
});

/// A session between three points in an archive in memory; the second came two seconds late, the third never.
struct Scene {
    archive: Archive,
    media: Arc<Memory>,
    points: Vec<Identity>,
    head: Head,
    key: SessionKey,
    chain: Chain,
}

impl Scene {
    fn new() -> Self {
        let identity = |_| Identity { node: NodeKey::generate(), wrap: WrapKey::generate() };
        let points: Vec<_> = (0..3).map(identity).collect();
        let id = SessionId::from_parts(1_795_327_511_000, [7; 10]);
        let names = ["Trung tâm", "UBND xã Ea Kar/2", "Vắng"];
        let member = |(number, name): (u16, &str)| Member {
            number: PointNumber::new(number).unwrap(),
            node: points[usize::from(number)].id(),
            name: name.to_owned(),
        };
        let key = SessionKey::generate();
        let head = Head {
            id,
            title: "Tiếp công dân".to_owned(),
            state: State::Ended,
            central: points[0].id(),
            points: (0..).zip(names).map(member).collect(),
            epochs: vec![Period::first(key.commitment())],
            suite: Default::default(),
            started_unix_ms: 1_795_327_511_000,
            ended_unix_ms: Some(1_795_327_521_000),
        };
        let media = Arc::new(Memory::new());
        let archive = Archive::over(Arc::new(Memory::new()), media.clone()).unwrap();
        archive.put_head(&head).unwrap();
        let wraps: Vec<_> = points[..2]
            .iter()
            .map(|point| {
                let context = WrapContext { session: id, epoch: 0, recipient: point.id() };
                (point.id(), key.wrap(&point.wrap.public(), &context).unwrap())
            })
            .collect();
        archive.put_wraps(&id, 0, &wraps).unwrap();
        let chain = Chain::new(id, points[0].id());
        Self { archive, media, points, head, key, chain }
    }

    /// The same, with everything recorded but the groups in `without`.
    fn recorded(without: &[GroupId]) -> Self {
        let scene = Self::new();
        for (point, late) in [(0, 0), (1, 2_000_000)] {
            scene.record(TrackId::new(number(point), TrackKind::Main), &RECORDING.0, late, without);
            scene.record(TrackId::new(number(point), TrackKind::Audio), &RECORDING.1, late, without);
        }
        scene
    }

    fn record(&self, track: TrackId, frames: &[Frame], late: u64, without: &[GroupId]) {
        let node = self.points[usize::from(track.point().get())].id();
        let mut sealer = Some(Sealer::new(&self.key, self.head.suite, self.head.id, node, track, 0, Start::random()));
        let first = START_US - BEFORE_US;
        for seq in 0..3 {
            let t0 = first + seq * GROUP_US;
            let (mut writer, _) = Writer::new(sealer.take().unwrap(), seq, t0 + late);
            for frame in frames.iter().filter(|frame| (frame.at.micros() - first) / GROUP_US == seq) {
                let flags = Flags { key: frame.keyframe, discardable: frame.discardable };
                writer.frame(frame.at.micros() - t0, flags, &frame.data).unwrap();
            }
            let finished = writer.finish();
            sealer = Some(finished.sealer);
            if !without.contains(&finished.record.id()) {
                self.archive.put_groups(&[finished.record]).unwrap();
            }
        }
    }

    fn happened(&mut self, event: Event) {
        let entry = self.chain.append(&self.points[0].node, 0, 0, event);
        self.archive.append_journal(&entry).unwrap();
    }

    fn damage(&self, id: GroupId) {
        self.media.damage(Column::Groups, &group_key(&id));
    }

    fn export(&self, to: &Path, options: &Options) -> Result<Exported, Error> {
        let mut last = (0, Duration::ZERO);
        session(&self.archive, &self.points[0], &self.head.id, to, options, &mut |now| {
            assert!(now.number <= now.count && now.done <= now.length, "{now:?}");
            assert!((now.number, now.done) >= last, "{now:?} after {last:?}");
            last = (now.number, now.done);
        })
    }
}

fn number(point: u16) -> PointNumber {
    PointNumber::new(point).unwrap()
}

fn group(point: u16, kind: TrackKind, seq: u64) -> GroupId {
    let session = SessionId::from_parts(1_795_327_511_000, [7; 10]);
    GroupId { session, track: TrackId::new(number(point), kind), seq }
}

fn films() -> Options {
    Options { gallery: false, ..Options::default() }
}

fn tool(program: &str, arguments: &[&str], file: &Path) -> String {
    let mut command = Command::new(program);
    let output =
        command.args(arguments).arg(file).args(if program == "ffmpeg" { &["-f", "null", "-"][..] } else { &[] });
    let output = output.output().expect("these tests need ffmpeg, which `make test` installs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{program} about {}: {said}", file.display());
    String::from_utf8(output.stdout).unwrap()
}

/// The file is decoded without a word, and its packets of one stream (`v:0`, `a:0`) have these times in seconds.
fn times(file: &Path, stream: &str) -> Vec<f64> {
    tool("ffmpeg", &["-nostdin", "-v", "error", "-i"], file);
    let entries = ["-v", "error", "-select_streams", stream, "-show_entries", "packet=pts_time", "-of", "csv=p=0"];
    let text = tool("ffprobe", &entries, file);
    // Packets with side data have an empty line after them.
    text.lines().filter(|line| !line.is_empty()).map(|line| line.trim_end_matches(',').parse().unwrap()).collect()
}

fn length(file: &Path) -> f64 {
    tool("ffprobe", &["-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0"], file)
        .trim()
        .parse()
        .unwrap()
}

/// Each packet is at its frame's session time, to the millisecond.
fn must_be_at<'a>(times: &[f64], frames: impl Iterator<Item = &'a Frame>, late: u64) {
    let expected: Vec<_> = frames.map(|frame| (frame.at.micros() + late) as f64 / 1e6).collect();
    assert_eq!(times.len(), expected.len());
    for (found, expected) in times.iter().zip(expected) {
        assert!((found - expected).abs() < 0.001, "{found} instead of {expected}");
    }
}

#[test]
fn an_export_plays_at_session_time_and_who_came_late_starts_late() {
    let scene = Scene::recorded(&[]);
    let base = tempfile::tempdir().unwrap();
    let to = base.path().join("a/b");
    let exported = scene.export(&to, &Options::default()).unwrap();

    assert_eq!(exported.session, scene.head.id.to_string());
    assert!(!exported.is_damaged() && exported.absent.is_empty());
    let names = ["00-Trung-tâm.mp4", "01-UBND-xã-Ea-Kar-2.mp4"];
    for ((export, name), late) in exported.exports.iter().zip(names).zip([0, 2_000_000]) {
        assert_eq!(export.path, to.join(name));
        assert_eq!((export.video_frames, export.audio_frames), (180, RECORDING.1.len() as u64));
        assert_eq!(export.missing, []);
        must_be_at(&times(&export.path, "v:0"), RECORDING.0.iter(), late);
        must_be_at(&times(&export.path, "a:0"), RECORDING.1.iter(), late);
        assert!((length(&export.path) - export.seconds).abs() < 0.04, "{} s", export.seconds);
        assert_eq!(std::fs::metadata(&export.path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let gallery = exported.gallery.unwrap();
    let shown = times(&gallery, "v:0");
    assert!((243..=244).contains(&shown.len()), "8.1 s of 30 pictures: {}", shown.len());
    assert!((length(&gallery) - exported.exports[1].seconds).abs() < 0.05);
    let mut left: Vec<_> = std::fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [names[0], names[1], GALLERY], "nothing else is left behind");
}

#[test]
fn a_gap_is_named_and_leaves_a_hole_that_moves_nothing() {
    let mut scene = Scene::recorded(&[group(0, TrackKind::Main, 1), group(1, TrackKind::Audio, 1)]);
    let track = TrackId::new(number(0), TrackKind::Main);
    scene.happened(Event::Gap { track, from_seq: 1, to_seq: 1, reason: GapReason::Shed });
    let absent = TrackId::new(number(2), TrackKind::Main);
    scene.happened(Event::Gap { track: absent, from_seq: 0, to_seq: 2, reason: GapReason::Lost });
    let to = tempfile::tempdir().unwrap();
    let exported = scene.export(to.path(), &films()).unwrap();

    let [first, second] = &exported.exports[..] else { panic!("{exported:?}") };
    let gap = Missing { track, from: 1, to: 1, reason: Reason::Journal(GapReason::Shed) };
    assert_eq!(first.missing, [gap]);
    let pictures = RECORDING.0.iter().enumerate().filter(|(index, _)| !(60..120).contains(index));
    must_be_at(&times(&first.path, "v:0"), pictures.map(|(_, frame)| frame), 0);
    must_be_at(&times(&first.path, "a:0"), RECORDING.1.iter(), 0);

    let unexplained = TrackId::new(number(1), TrackKind::Audio);
    assert_eq!(second.missing, [Missing { track: unexplained, from: 1, to: 1, reason: Reason::Unexplained }]);
    must_be_at(&times(&second.path, "v:0"), RECORDING.0.iter(), 2_000_000);
    let first_us = START_US - BEFORE_US;
    let sound = RECORDING.1.iter().filter(|frame| (frame.at.micros() - first_us) / GROUP_US != 1);
    must_be_at(&times(&second.path, "a:0"), sound, 2_000_000);

    assert_eq!(exported.absent.len(), 1);
    assert_eq!((exported.absent[0].point.as_str(), exported.absent[0].missing[0].to), ("Vắng", 2));
    assert_eq!(exported.gallery, None);
    assert!(!exported.is_damaged());
}

#[test]
fn damage_is_named_and_never_shown() {
    let scene = Scene::recorded(&[group(1, TrackKind::Main, 2)]);
    scene.damage(group(0, TrackKind::Main, 0));
    scene.damage(group(0, TrackKind::Main, 1));
    // In the late point's track, a group that somebody without the session's key made.
    let stranger = Scene { key: SessionKey::generate(), ..Scene::new() };
    let forged = TrackId::new(number(1), TrackKind::Main);
    let node = scene.points[1].id();
    let sealer = Sealer::new(&stranger.key, scene.head.suite, scene.head.id, node, forged, 0, Start::random());
    let (mut writer, _) = Writer::new(sealer, 2, 4 * GROUP_US);
    writer.frame(0, Flags { key: true, discardable: false }, &RECORDING.0[0].data).unwrap();
    scene.archive.put_groups(&[writer.finish().record]).unwrap();

    let to = tempfile::tempdir().unwrap();
    let exported = scene.export(to.path(), &films()).unwrap();
    assert!(exported.is_damaged());
    let [first, second] = &exported.exports[..] else { panic!("{exported:?}") };
    let said: Vec<_> = first.missing.iter().map(|gap| (gap.from, gap.to, gap.reason.to_string())).collect();
    assert_eq!(said, [(0, 1, "damaged: its bytes are not those that were stored".to_owned())]);
    must_be_at(&times(&first.path, "v:0"), RECORDING.0[120..].iter(), 0);
    let said: Vec<_> = second.missing.iter().map(|gap| (gap.from, gap.reason.to_string())).collect();
    assert_eq!(said, [(2, "damaged: a frame is not what its point sealed".to_owned())]);
    assert_eq!(second.video_frames, 120);
}

#[test]
fn a_point_all_of_whose_groups_are_damaged_has_no_file() {
    let scene = Scene::recorded(&[]);
    for seq in 0..3 {
        scene.damage(group(1, TrackKind::Main, seq));
        scene.damage(group(1, TrackKind::Audio, seq));
    }
    let to = tempfile::tempdir().unwrap();
    let exported = scene.export(to.path(), &films()).unwrap();
    assert_eq!((exported.exports.len(), exported.absent.len()), (1, 1));
    assert!(exported.is_damaged());
    assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 1);
}

#[test]
fn only_the_points_asked_for_are_exported() {
    let scene = Scene::recorded(&[]);
    let to = tempfile::tempdir().unwrap();
    let ask = |points: &[&str]| {
        let points = points.iter().map(|point| (*point).to_owned()).collect();
        scene.export(to.path(), &Options { points, gallery: false })
    };
    let found =
        |points: &[&str]| ask(points).unwrap().exports.into_iter().map(|export| export.point).collect::<Vec<_>>();
    assert_eq!(found(&["UBND xã Ea Kar/2"]), ["UBND xã Ea Kar/2"]);
    let node = scene.points[0].id().to_string();
    assert_eq!(found(&["1", &node, "1"]), ["Trung tâm", "UBND xã Ea Kar/2"]);
    let error = ask(&["Trung"]).unwrap_err();
    assert_eq!(error.fault(), Fault::Missing);
    assert!(error.to_string().contains("Trung tâm, UBND xã Ea Kar/2, Vắng"), "{error}");
    assert!(matches!(ask(&["Vắng"]), Err(Error::Empty(_))));
}

#[test]
fn without_the_key_nothing_is_written() {
    let mut scene = Scene::recorded(&[]);
    let base = tempfile::tempdir().unwrap();
    let to = base.path().join("out");
    let other = scene.points.remove(2);
    scene.points.insert(0, other);
    let error = scene.export(&to, &films()).unwrap_err();
    assert_eq!((error.fault(), to.exists()), (Fault::Refused, false));

    let wrong = SessionKey::generate();
    let context = WrapContext { session: scene.head.id, epoch: 0, recipient: scene.points[0].id() };
    let wrap = wrong.wrap(&scene.points[0].wrap.public(), &context).unwrap();
    scene.archive.put_wraps(&scene.head.id, 0, &[(scene.points[0].id(), wrap)]).unwrap();
    let error = scene.export(&to, &films()).unwrap_err();
    assert_eq!((error.fault(), to.exists()), (Fault::Damaged, false));

    scene.head.id = SessionId::from_parts(5, [0; 10]);
    assert!(matches!(scene.export(&to, &films()), Err(Error::Missing(_))));
}

#[test]
fn what_is_shown_is_sealed_with_a_key_that_is_here_whatever_the_epoch() {
    let mut scene = Scene::recorded(&[]);
    // The second point was removed, and the first went on with another key.
    let next = SessionKey::generate();
    let from_us = START_US - BEFORE_US + 2 * GROUP_US;
    scene.head = scene.head.next(next.commitment(), from_us, vec![number(1)]).unwrap();
    scene.archive.put_head(&scene.head).unwrap();
    let (first, second) = (scene.points[0].id(), scene.points[1].id());
    let context = WrapContext { session: scene.head.id, epoch: 1, recipient: first };
    let wrap = next.wrap(&scene.points[0].wrap.public(), &context).unwrap();
    scene.archive.put_wraps(&scene.head.id, 1, &[(first, wrap)]).unwrap();
    let track = TrackId::new(number(0), TrackKind::Screen);
    let sealer = Sealer::new(&next, scene.head.suite, scene.head.id, first, track, 1, Start::random());
    let (mut writer, _) = Writer::new(sealer, 0, from_us);
    writer.frame(0, Flags { key: true, discardable: false }, b"picture").unwrap();
    let group = writer.finish().record;
    let frame = group.frames().next().unwrap();

    let opens = |place: usize| {
        let opener = opener(&scene.archive, &scene.points[place], &scene.head).unwrap();
        opener.group(group.header()).map(|group| group.open(&frame).unwrap())
    };
    assert_eq!(opens(0).unwrap()[..], *b"picture");
    assert_eq!(opens(1).unwrap_err(), store::seal::Error::Key { group: group.id(), epoch: 1 });
    // A wrap for an epoch this head does not know is of no use and does no harm.
    scene.archive.put_wraps(&scene.head.id, 9, &[(second, wrap)]).unwrap();
    assert!(opener(&scene.archive, &scene.points[1], &scene.head).is_ok());
}

#[test]
fn a_film_that_cannot_be_finished_leaves_nothing() {
    let scene = Scene::recorded(&[]);
    let to = tempfile::tempdir().unwrap();
    // A folder that is not empty stands where the first film should go.
    let taken = to.path().join("00-Trung-tâm.mp4");
    std::fs::create_dir_all(taken.join("x")).unwrap();
    let error = scene.export(to.path(), &films()).unwrap_err();
    assert!(matches!(&error, Error::Disk { path, .. } if *path == taken), "{error:?}");
    assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 1);
}

#[test]
fn file_names_are_safe_and_readable() {
    let name = |text: &str| {
        let node = NodeKey::from_bytes(&[1; 32]).id();
        file_name(&Member { number: number(3), node, name: text.to_owned() })
    };
    assert_eq!(name("Trụ sở tiếp công dân"), "03-Trụ-sở-tiếp-công-dân.mp4");
    assert_eq!(name("Tru\u{323} so\u{31b}\u{309}"), "03-Tru\u{323}-so\u{31b}\u{309}.mp4");
    assert_eq!(name("../../etc/passwd"), "03-etc-passwd.mp4");
    assert_eq!(name("a:b*c?\"<d>|e\\f\u{202e}"), "03-a-b-c-d-e-f.mp4");
    assert_eq!(name("..."), "03-point.mp4");
    assert!(name(&"ộ".repeat(200)).len() < 200);
    // A device on Windows, but not with a number before it.
    assert_eq!(name("CON"), "03-CON.mp4");
    assert_eq!(name("a/b\\c"), "03-a-b-c.mp4");
    assert_eq!(name("C:\\Windows"), "03-C-Windows.mp4");
    assert_eq!(name("x\0\r\n\u{1b}[2J"), "03-x-2J.mp4");
    assert_eq!(name(&"\u{301}".repeat(200)).len(), "03-.mp4".len() + NAME_BYTES_MAX);
}

proptest::proptest! {
    #[test]
    fn whatever_a_point_is_called_its_film_stays_in_the_folder(text in ".{0,300}") {
        let member = Member { number: number(3), node: NodeKey::from_bytes(&[1; 32]).id(), name: text };
        let name = file_name(&member);
        let path = std::path::Path::new("films").join(&name);
        proptest::prop_assert_eq!(path.parent(), Some(std::path::Path::new("films")));
        proptest::prop_assert!(name.starts_with("03-") && name.ends_with(".mp4") && name.len() < 255);
        let foreign = |letter: char| letter.is_control() || "/\\:*?\"<>|".contains(letter);
        proptest::prop_assert!(!name.chars().any(foreign), "{:?}", name);
    }
}
