//! MP4 files we write, judged by ffmpeg, and files from anywhere that we read.

mod ffmpeg;
mod scenes;

use std::io::Cursor;
use std::path::Path;

use codec::capture::pattern;
use codec::frame::Frame;
use codec::mp4::{Error, Fragmenter, Reader, Track, Writer};
use codec::picture::Picture;
use codec::time::MediaTime;
use codec::video;
use proptest::prelude::*;

/// Session time the recordings begin at.
const START: MediaTime = MediaTime(700_000_000);

/// Writes group by group, as an export does.
fn write(video: &[Frame], audio: &[Frame], zero: MediaTime) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new()), zero).expect("a file begins");
    let groups = |frames: &[Frame]| {
        frames
            .chunk_by(|a, b| a.at.micros() / 2_000_000 == b.at.micros() / 2_000_000)
            .map(<[Frame]>::to_vec)
            .collect::<Vec<_>>()
    };
    let (mut video, mut audio) = (groups(video).into_iter(), groups(audio).into_iter());
    loop {
        let (pictures, sound) = (video.next(), audio.next());
        if pictures.is_none() && sound.is_none() {
            return writer.finish().expect("a file ends").into_inner();
        }
        pictures.iter().flatten().for_each(|frame| writer.video(frame).expect("a picture is written"));
        sound.iter().flatten().for_each(|frame| writer.audio(frame).expect("sound is written"));
    }
}

fn fragments(video: &[Frame], audio: &[Frame], zero: MediaTime) -> Vec<u8> {
    let (mut fragmenter, head) = Fragmenter::new(Some(&video[0]), true, zero).expect("it begins");
    let mut file = head.to_vec();
    for (pictures, sound) in video.chunks(60).zip(audio.chunks(100)) {
        file.extend_from_slice(&fragmenter.fragment(pictures, sound).expect("a piece"));
    }
    file
}

fn saved(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("film.mp4");
    std::fs::write(&path, bytes).expect("room on the disk");
    (folder, path)
}

/// How far tones and flashes are apart in a file as a player plays it, in milliseconds: the largest of all seconds.
fn apart_ms(file: &Path, width: u32, height: u32) -> f64 {
    let clicks: Vec<f64> = pattern::clicks(&ffmpeg::sound(file)).iter().map(|&index| index as f64 / 48.0).collect();
    let flashes: Vec<f64> = ffmpeg::pictures(file, width, height)
        .into_iter()
        .filter(|(_, luma)| {
            let mut picture = Picture::black(width, height, MediaTime(0)).expect("an even size");
            picture.y.copy_from_slice(luma);
            pattern::flash(&picture)
        })
        .map(|(time, _)| time * 1_000.0)
        .collect();
    assert!(clicks.len() >= 5, "{clicks:?}");
    assert_eq!(clicks.len(), flashes.len(), "{clicks:?} {flashes:?}");
    clicks.iter().zip(&flashes).map(|(click, flash)| (click - flash).abs()).fold(0.0, f64::max)
}

#[test]
fn a_film_has_every_frame_and_sound_and_picture_agree() {
    let (video, audio) = scenes::recording("Sở Tư pháp", START, 6);
    for (bytes, kind) in [(write(&video, &audio, START), "whole"), (fragments(&video, &audio, START), "in fragments")] {
        let (_folder, path) = saved(&bytes);
        ffmpeg::must_be_silent(&path);
        assert_eq!(ffmpeg::probe(&path, "v:0", "stream=nb_read_packets"), "180", "{kind}");
        assert_eq!(ffmpeg::probe(&path, "a:0", "stream=nb_read_packets"), "300", "{kind}");
        assert_eq!(
            ffmpeg::probe(&path, "v:0", "stream=codec_name,profile,width,height"),
            "h264\nConstrained Baseline\n1280\n720"
        );
        assert_eq!(ffmpeg::probe(&path, "a:0", "stream=codec_name,sample_rate,channels"), "opus\n48000\n1");
        let seconds: f64 = ffmpeg::probe(&path, "", "format=duration").parse().expect("a duration");
        assert!((5.97..6.03).contains(&seconds), "{kind}: {seconds}");
        let apart = apart_ms(&path, 1280, 720);
        assert!(apart <= 15.0, "{kind}: sound and picture are {apart} ms apart");
    }
}

#[test]
fn tracks_that_begin_at_different_times_stay_in_step() {
    let (video, audio) = scenes::recording("Sở Tư pháp", START, 8);
    let zero = MediaTime(START.micros() - 5_000_000);
    // The camera comes two seconds late, after its first keyframe; the file begins five seconds before.
    let (_folder, path) = saved(&write(&video[60..], &audio, zero));
    ffmpeg::must_be_silent(&path);
    let start: f64 = ffmpeg::probe(&path, "v:0", "stream=start_time").parse().expect("a time");
    assert!((start - 7.0).abs() < 0.001, "{start}");
    let clicks = pattern::clicks(&ffmpeg::sound(&path));
    assert_eq!(clicks.len(), 8);
    for (second, click) in (5..).zip(clicks) {
        assert!((click as f64 / 48_000.0 - f64::from(second)).abs() < 0.015, "tone {second} is at {click}");
    }
    let (_folder, path) = saved(&write(&video, &audio[100..], zero));
    ffmpeg::must_be_silent(&path);
    let first = pattern::clicks(&ffmpeg::sound(&path))[0] as f64 / 48_000.0;
    assert!((first - 7.0).abs() < 0.015, "{first}");
}

#[test]
fn a_hole_in_the_record_is_a_hole_in_the_film() {
    let (video, audio) = scenes::recording("Sở Tư pháp", START, 8);
    let video: Vec<_> = video[..60].iter().chain(&video[180..]).cloned().collect();
    let audio: Vec<_> = audio[..100].iter().chain(&audio[300..]).cloned().collect();
    let (_folder, path) = saved(&write(&video, &audio, START));
    ffmpeg::must_be_silent(&path);
    let clicks: Vec<_> = pattern::clicks(&ffmpeg::sound(&path)).iter().map(|click| (click + 24_000) / 48_000).collect();
    assert_eq!(clicks, [0, 1, 6, 7], "what comes after the hole is in its place");
    let times: Vec<_> = ffmpeg::pictures(&path, 1280, 720).into_iter().map(|(time, _)| time).collect();
    assert!((times[60] - times[59] - 4.0).abs() < 0.05, "{} {}", times[59], times[60]);
}

#[test]
fn uneven_times_are_kept_and_never_add_up() {
    let (mut video, audio) = scenes::recording("Sở Tư pháp", START, 6);
    for (index, frame) in video.iter_mut().enumerate() {
        frame.at = MediaTime(frame.at.micros() + [0, 4_321, 1_234][index % 3]);
    }
    let bytes = write(&video, &audio, START);
    let mut reader = Reader::open(Cursor::new(&bytes)).expect("it can be read");
    for (index, frame) in video.iter().enumerate() {
        let read = reader.picture(index).expect("it can be read").expect("it is there");
        let expected = frame.at.since(START).as_micros() as u64;
        assert!(read.at.micros().abs_diff(expected) <= 12, "{index}: {:?}, not {expected}", read.at);
    }
}

#[test]
fn what_was_written_is_read_back_unchanged() {
    let (video, audio) = scenes::recording("Sở Tư pháp", START, 4);
    for bytes in [write(&video, &audio, START), fragments(&video, &audio, START)] {
        let mut reader = Reader::open(Cursor::new(&bytes)).expect("it can be read");
        let mut decoder = video::Decoder::new().expect("a decoder");
        for (index, frame) in video.iter().enumerate() {
            let read = reader.picture(index).expect("it can be read").expect("it is there");
            assert_eq!(read.keyframe, frame.keyframe);
            let decoded = decoder.decode(read.at, &read.data).expect("good").expect("a picture");
            assert_eq!(pattern::read(&decoded).expect("its mark").counter, index as u32);
        }
        assert!(reader.picture(video.len()).expect("no error").is_none());
        for (index, packet) in audio.iter().enumerate() {
            let read = reader.packet(index).expect("it can be read").expect("it is there");
            assert_eq!(read.data, packet.data);
        }
    }
}

#[test]
fn pictures_of_another_size_get_their_own_description() {
    let encode = |width, height| {
        let mut encoder = video::Encoder::new(video::Config::MAIN).expect("an encoder");
        scenes::lively(width, height, 30)
            .enumerate()
            .map(|(index, picture)| encoder.encode(&picture, index == 0).expect("encoded").expect("a frame"))
            .collect::<Vec<_>>()
    };
    let mut video = encode(640, 360);
    let second = MediaTime(1_000_000);
    video.extend(
        encode(320, 240).into_iter().map(|frame| Frame { at: frame.at.saturating_add(second.since_zero()), ..frame }),
    );
    let bytes = write(&video, &[], MediaTime::ZERO);
    let (_folder, path) = saved(&bytes);
    ffmpeg::must_be_silent(&path);
    assert_eq!(ffmpeg::probe(&path, "v:0", "stream=nb_read_packets"), "60");
    let mut reader = Reader::open(Cursor::new(&bytes)).expect("it can be read");
    let mut decoder = video::Decoder::new().expect("a decoder");
    let widths: Vec<_> = (0..60)
        .map(|index| {
            let frame = reader.picture(index).expect("it can be read").expect("it is there");
            decoder.decode(frame.at, &frame.data).expect("good").expect("a picture").width()
        })
        .collect();
    assert!(widths[..30].iter().all(|&width| width == 640) && widths[30..].iter().all(|&width| width == 320));
    let (mut fragmenter, _) = Fragmenter::new(Some(&video[0]), false, MediaTime::ZERO).expect("it begins");
    assert!(matches!(fragmenter.fragment(&video[30..], &[]), Err(Error::Changed)));
}

#[test]
fn a_film_of_one_kind_only_is_a_film() {
    let (video, audio) = scenes::recording("Sở Tư pháp", START, 2);
    let (_folder, path) = saved(&write(&video, &[], START));
    ffmpeg::must_be_silent(&path);
    let (_folder, path) = saved(&write(&[], &audio, START));
    ffmpeg::must_be_silent(&path);
    let mut reader = Reader::open(Cursor::new(write(&[], &audio, START))).expect("it can be read");
    assert!(matches!(reader.video, Track::Missing));
    assert!(reader.picture(0).expect("no error").is_none());
    let (mut fragmenter, head) = Fragmenter::new(None, true, START).expect("it begins");
    let piece = fragmenter.fragment(&[], &audio).expect("a piece");
    let (_folder, path) = saved(&[head, piece].concat());
    ffmpeg::must_be_silent(&path);
}

#[test]
fn a_film_cannot_begin_without_a_keyframe_or_be_empty() {
    let (video, _) = scenes::recording("Sở Tư pháp", START, 1);
    let mut writer = Writer::new(Cursor::new(Vec::new()), START).expect("a file begins");
    assert!(matches!(writer.video(&video[1]), Err(Error::Keyframe)));
    assert!(matches!(writer.finish(), Err(Error::Empty)));
    assert!(matches!(Fragmenter::new(Some(&video[1]), true, START), Err(Error::Keyframe)));
    assert!(matches!(Fragmenter::new(None, false, START), Err(Error::Empty)));
    let (mut fragmenter, _) = Fragmenter::new(Some(&video[0]), true, START).expect("it begins");
    assert!(matches!(fragmenter.fragment(&video[1..], &[]), Err(Error::Keyframe)));
    assert!(matches!(fragmenter.fragment(&[], &[]), Err(Error::Empty)));
}

#[test]
fn a_file_that_is_cut_off_says_so() {
    let (video, audio) = scenes::recording("Sở Tư pháp", START, 2);
    let bytes = write(&video, &audio, START);
    for end in [9, 40, bytes.len() / 2, bytes.len() - 10] {
        let error = Reader::open(Cursor::new(&bytes[..end])).expect_err("cut off").to_string();
        assert!(error.contains("cut off"), "{end}: {error}");
    }
    assert!(matches!(Reader::open(Cursor::new(b"not a film at all")), Err(Error::Foreign(_))));
}

/// Two seconds of film, whole and in fragments, small enough to damage many times.
fn films() -> &'static [Vec<u8>; 2] {
    static FILMS: std::sync::OnceLock<[Vec<u8>; 2]> = std::sync::OnceLock::new();
    FILMS.get_or_init(|| {
        let (video, audio) = scenes::recording("Sở Tư pháp", START, 2);
        [write(&video, &audio, START), fragments(&video, &audio, START)]
    })
}

/// Reads all of it; whatever it says, nothing is larger than the file.
fn read_all(bytes: &[u8]) {
    let Ok(mut reader) = Reader::open(Cursor::new(bytes)) else { return };
    let mut index = 0;
    while let Ok(Some(frame)) = reader.picture(index) {
        assert!(frame.data.len() <= bytes.len() * 2);
        index += 1;
    }
    index = 0;
    while let Ok(Some(frame)) = reader.packet(index) {
        assert!(frame.data.len() <= bytes.len());
        index += 1;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_damaged_film_is_never_a_panic(
        which in 0_usize..2,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = films()[which].clone();
        // Half of the damage goes where the index is: the head and the tail.
        let length = bytes.len();
        for (number, (place, value)) in damage.into_iter().enumerate() {
            let place = match number % 3 {
                0 => place.index(length),
                1 => place.index(length.min(1_500)),
                _ => length - 1 - place.index(length.min(3_000)),
            };
            bytes[place] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(length));
        }
        read_all(&bytes);
    }

    #[test]
    fn garbage_behind_a_good_beginning_is_never_a_panic(
        kind in prop::sample::select(vec![*b"moov", *b"moof", *b"trak", *b"mdat", *b"stsd"]),
        body in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut bytes = b"\0\0\0\x10ftypisom\0\0\0\0".to_vec();
        bytes.extend_from_slice(&(body.len() as u32 + 8).to_be_bytes());
        bytes.extend_from_slice(&kind);
        bytes.extend_from_slice(&body);
        read_all(&bytes);
    }
}
