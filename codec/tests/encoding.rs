//! What the H.264 encoder and decoder promise, on real pictures.

mod scenes;

use codec::capture::pattern;
use codec::frame::Frame;
use codec::picture::Picture;
use codec::time::MediaTime;
use codec::video::{Config, Decoder, Encoder, Error};
use proptest::prelude::*;

/// Encodes with a keyframe every `group` pictures.
fn encode(config: Config, pictures: impl Iterator<Item = Picture>, group: usize) -> Vec<Frame> {
    let mut encoder = Encoder::new(config).expect("an encoder");
    pictures
        .enumerate()
        .map(|(index, picture)| {
            let frame = encoder.encode(&picture, index.is_multiple_of(group)).expect("a picture is encoded");
            frame.expect("every picture becomes a frame")
        })
        .collect()
}

fn mean_bytes<'a>(frames: impl Iterator<Item = &'a Frame>) -> f64 {
    let (count, sum) = frames.fold((0.0, 0.0), |(count, sum), frame| (count + 1.0, sum + frame.data.len() as f64));
    sum / count
}

#[test]
fn the_mark_is_read_back_from_both_layers() {
    for (config, every) in [(Config::MAIN, 1), (Config::THUMB, 3)] {
        let originals: Vec<_> = scenes::pattern(150).step_by(every).collect();
        let frames = encode(config, originals.iter().cloned(), 2 * config.fps as usize);
        let mut decoder = Decoder::new().expect("a decoder");
        for (original, frame) in originals.iter().zip(&frames) {
            let decoded = decoder.decode(frame.at, &frame.data).expect("a good frame").expect("a picture at once");
            assert_eq!(decoded.at, original.at);
            assert_eq!(pattern::read(&decoded), pattern::read(original), "{config:?} at {:?}", original.at);
            assert_eq!(pattern::flash(&decoded), original.at.micros().is_multiple_of(1_000_000));
        }
    }
}

#[test]
fn a_keyframe_is_at_most_six_times_the_other_frames() {
    let scenes: [(&str, Config, Vec<Picture>); 3] = [
        ("pattern", Config::MAIN, scenes::pattern(180).collect()),
        ("pattern", Config::THUMB, scenes::pattern(180).step_by(3).collect()),
        ("lively", Config::MAIN, scenes::lively(1280, 720, 180).collect()),
    ];
    for (name, config, pictures) in scenes {
        let frames = encode(config, pictures.into_iter(), 2 * config.fps as usize);
        let others = mean_bytes(frames.iter().filter(|frame| !frame.keyframe));
        // The first is made before anything is known of the scene.
        let keyframes: Vec<_> = frames.iter().filter(|frame| frame.keyframe).skip(1).collect();
        assert_eq!(keyframes.len(), 2);
        for keyframe in keyframes {
            let ratio = keyframe.data.len() as f64 / others;
            assert!(
                ratio < 6.5,
                "{name} {}: a keyframe of {} is {ratio:.1} of {others:.0}",
                config.width,
                keyframe.data.len()
            );
        }
    }
}

#[test]
fn keyframes_come_on_request_only() {
    let scene = scenes::pattern(40).chain(scenes::lively(1280, 720, 40));
    let frames = encode(Config::MAIN, scene, usize::MAX);
    let keyframes: Vec<_> = frames.iter().map(|frame| frame.keyframe).collect();
    assert!(keyframes[0] && !keyframes[1..].contains(&true), "a change of scene is no keyframe");
    let frames = encode(Config::MAIN, scenes::pattern(40), 15);
    let at: Vec<_> = frames.iter().enumerate().filter(|(_, frame)| frame.keyframe).map(|(at, _)| at).collect();
    assert_eq!(at, [0, 15, 30]);
}

#[test]
fn the_bitrate_is_held_and_a_change_takes_effect() {
    let mut encoder = Encoder::new(Config::MAIN).expect("an encoder");
    let mut sizes = Vec::new();
    for (index, picture) in scenes::lively(1280, 720, 360).enumerate() {
        if index == 120 {
            encoder.set_bitrate(400_000).expect("a good bitrate");
        }
        if index == 240 {
            encoder.set_bitrate(2_000_000).expect("a good bitrate");
        }
        let frame = encoder.encode(&picture, index.is_multiple_of(60)).expect("encoded").expect("a frame");
        sizes.push(frame.data.len() * 8);
    }
    // The second after each change is for settling.
    for (from, wanted) in [(30, 1_200_000.0), (150, 400_000.0), (270, 2_000_000.0)] {
        let found = sizes[from..from + 90].iter().sum::<usize>() as f64 / 3.0;
        assert!((0.75..1.25).contains(&(found / wanted)), "{found:.0} b/s instead of {wanted}");
    }
    assert!(encoder.set_bitrate(1_000).is_err());
}

#[test]
fn after_a_lost_frame_nothing_is_shown_until_the_next_keyframe() {
    let frames = encode(Config::MAIN, scenes::lively(640, 360, 30), 15);
    let mut decoder = Decoder::new().expect("a decoder");
    let mut shown = Vec::new();
    for (index, frame) in frames.iter().enumerate().filter(|(index, _)| *index != 6) {
        if let Ok(Some(picture)) = decoder.decode(frame.at, &frame.data) {
            assert_eq!(picture.at, frame.at);
            shown.push(index);
        }
    }
    let expected: Vec<_> = (0..6).chain(15..30).collect();
    assert_eq!(shown, expected);
}

#[test]
fn a_decoder_that_joins_late_waits_for_a_keyframe() {
    let frames = encode(Config::THUMB, scenes::pattern(60).step_by(3), 10);
    let mut decoder = Decoder::new().expect("a decoder");
    let shown: Vec<_> =
        (4..20).filter(|&index| matches!(decoder.decode(frames[index].at, &frames[index].data), Ok(Some(_)))).collect();
    assert_eq!(shown, (10..20).collect::<Vec<_>>());
}

#[test]
fn a_large_source_is_scaled_down_and_a_small_one_kept() {
    for (source, coded) in [((1920, 1080), (1280, 720)), ((176, 144), (176, 144)), ((1080, 1920), (406, 720))] {
        let picture = scenes::lively(source.0, source.1, 1).next().expect("a picture");
        let frame = encode(Config::MAIN, std::iter::once(picture.clone()), 1).remove(0);
        let decoded =
            Decoder::new().expect("a decoder").decode(frame.at, &frame.data).expect("good").expect("a picture");
        assert_eq!((decoded.width(), decoded.height()), coded);
        let mut expected = Picture::black(coded.0, coded.1, frame.at).expect("an even size");
        picture.scale_into(&mut expected);
        assert!(scenes::ssim(&decoded, &expected) > 0.8, "{coded:?}: {}", scenes::ssim(&decoded, &expected));
    }
}

#[test]
fn a_source_that_changes_its_size_goes_on_with_a_keyframe() {
    let scene = scenes::lively(640, 360, 5).chain(scenes::lively(320, 240, 5));
    let frames = encode(Config::MAIN, scene, usize::MAX);
    let mut decoder = Decoder::new().expect("a decoder");
    let widths: Vec<_> = frames
        .iter()
        .map(|frame| decoder.decode(frame.at, &frame.data).expect("good").expect("a picture").width())
        .collect();
    assert_eq!(widths, [640, 640, 640, 640, 640, 320, 320, 320, 320, 320]);
    assert!(frames[5].keyframe);
}

#[test]
fn settings_out_of_bounds_are_refused_in_one_sentence() {
    let good = Config::MAIN;
    for bad in [
        Config { width: 0, ..good },
        Config { height: 100_000, ..good },
        Config { fps: 0, ..good },
        Config { bitrate: 1, ..good },
    ] {
        let error = Encoder::new(bad).expect_err("out of bounds").to_string();
        assert!(error.contains("choose one from"), "{error}");
    }
}

#[test]
fn a_stream_that_claims_a_huge_picture_is_refused_before_it_is_decoded() {
    // Baseline, level 5.2, 65,536 macroblocks across: the bits after the level are ue(v) fields.
    let mut bits = String::from("1"); // parameter set 0
    bits += "1"; // log2_max_frame_num 4
    bits += "011"; // picture order count type 2
    bits += "010"; // one reference frame
    bits += "0"; // no gaps
    bits += "000000000000000010000000000000000"; // 65,536 macroblocks across
    bits += "1"; // one down
    bits += "1000100"; // frames only, no crop, no more, stop bit, padding
    let bytes = bits
        .as_bytes()
        .chunks(8)
        .map(|eight| eight.iter().enumerate().fold(0_u8, |sum, (at, bit)| sum | (bit - b'0') << (7 - at)));
    let set: Vec<u8> = [0, 0, 0, 1, 0x67, 66, 0xc0, 52].into_iter().chain(bytes).collect();
    let error = Decoder::new().expect("a decoder").decode(MediaTime(0), &set).expect_err("too large");
    assert!(matches!(error, Error::Size { width, .. } if width > 1_000_000), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_damaged_stream_is_never_a_panic(
        damage in proptest::collection::vec((0_usize..12, any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut frames: Vec<Vec<u8>> =
            encode(Config::THUMB, scenes::pattern(36).step_by(3), 6).iter().map(|frame| frame.data.to_vec()).collect();
        for (frame, place, value) in damage {
            let length = frames[frame].len();
            frames[frame][place.index(length)] = value;
        }
        let last = frames[5].len();
        frames[5].truncate(cut.index(last));
        let mut decoder = Decoder::new().expect("a decoder");
        for (index, frame) in frames.iter().enumerate() {
            let _ = decoder.decode(MediaTime(index as u64), frame);
        }
        let _ = decoder.flush();
    }

    #[test]
    fn garbage_is_never_a_panic(units in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..6)) {
        let mut decoder = Decoder::new().expect("a decoder");
        for unit in units {
            let mut stream = vec![0, 0, 0, 1];
            stream.extend_from_slice(&unit);
            let _ = decoder.decode(MediaTime(0), &stream);
        }
    }
}
