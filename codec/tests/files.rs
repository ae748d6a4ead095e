//! Films and sound files as sources: every kind we promise, made by ffmpeg, and every kind of trouble.

mod ffmpeg;
mod scenes;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use codec::capture::{self, Event, Kind, Source, Spec, pattern};
use codec::picture::Picture;
use codec::samples::Samples;
use codec::time::MediaTime;
use codec::video;
use proptest::prelude::*;

struct Played {
    pictures: Vec<Arc<Picture>>,
    samples: Vec<Samples>,
    vanished: Vec<(Kind, String)>,
}

/// Plays a file in real time until there are so many pictures and so much sound.
fn play(path: &Path, pictures: usize, sound: Duration) -> Played {
    let epoch = Instant::now();
    let mut source = open(path, epoch).expect("it opens");
    let mut played = Played { pictures: Vec::new(), samples: Vec::new(), vanished: Vec::new() };
    let heard = |played: &Played| played.samples.iter().map(Samples::duration).sum::<Duration>();
    while played.pictures.len() < pictures || heard(&played) < sound {
        assert!(epoch.elapsed() < Duration::from_secs(30), "{} does not play on", path.display());
        match source.next(Duration::from_millis(20)).expect("it plays") {
            Some(Event::Picture(picture)) => {
                assert!(picture.at.since_zero() <= epoch.elapsed(), "no picture is from the future");
                played.pictures.push(picture);
            }
            Some(Event::Samples(samples)) => {
                assert!(samples.end().since_zero() <= epoch.elapsed(), "no sound is from the future");
                played.samples.push(samples);
            }
            Some(Event::Vanished(kind, why)) => played.vanished.push((kind, why)),
            Some(Event::Appeared(_)) | None => {}
            Some(Event::Ended) => panic!("a file loops"),
        }
    }
    assert!(played.pictures.windows(2).all(|pair| pair[0].at < pair[1].at), "pictures follow each other");
    played
}

const SILENT: Duration = Duration::ZERO;

fn open(path: &Path, epoch: Instant) -> Result<Box<dyn Source>, capture::Error> {
    capture::open(&Spec::File(path.to_owned()), "Điểm cầu", epoch)
}

/// Sound without a hole, but for the end of a loop in which the picture was longer.
fn joined(samples: &[Samples]) -> Vec<i16> {
    for pair in samples.windows(2) {
        let apart = pair[1].at.distance(pair[0].end());
        assert!(apart < Duration::from_millis(100), "sound has a hole of {apart:?}");
    }
    samples.iter().flat_map(|samples| samples.pcm.iter().copied()).collect()
}

fn loudness(pcm: &[i16]) -> f64 {
    (pcm.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>() / pcm.len().max(1) as f64).sqrt()
}

const TEST_PICTURE: [&str; 4] = ["-f", "lavfi", "-i", "testsrc2=size=320x240:rate=25:duration=1"];
const TEST_SOUND: [&str; 4] = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100:duration=1"];

/// A file made by ffmpeg in a folder of its own.
fn made(name: &str, arguments: &[&[&str]]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    let mut all = arguments.concat();
    all.push(path.to_str().expect("a plain name"));
    ffmpeg::make(&all);
    (folder, path)
}

#[test]
fn films_of_every_promised_kind_play_and_loop() {
    let h264 = ["-c:v", "libx264", "-profile:v", "high", "-bf", "3", "-pix_fmt", "yuv420p"];
    let aac = ["-c:a", "aac", "-ac", "2"];
    let opus = ["-c:a", "libopus", "-ac", "1"];
    let cases: [(&str, Vec<&[&str]>, bool); 5] = [
        ("AAC, B frames", vec![&TEST_PICTURE, &TEST_SOUND, &h264, &aac], true),
        ("Opus", vec![&TEST_PICTURE, &TEST_SOUND, &h264, &opus], true),
        ("no sound", vec![&TEST_PICTURE, &h264], false),
        ("index first", vec![&TEST_PICTURE, &TEST_SOUND, &h264, &aac, &["-movflags", "+faststart"]], true),
        ("fragments", vec![&TEST_PICTURE, &TEST_SOUND, &h264, &aac, &["-movflags", "frag_keyframe+empty_moov"]], true),
    ];
    for (name, arguments, has_sound) in cases {
        let (_folder, path) = made("film.mp4", &arguments);
        // Two loops and a part of the third.
        let played = play(&path, 55, if has_sound { Duration::from_millis(2_200) } else { SILENT });
        let first = &played.pictures[0];
        assert_eq!((first.width(), first.height()), (320, 240), "{name}: never made larger");
        // The picture that opens the film comes again when it starts over.
        let again = played.pictures[1..].iter().position(|picture| picture.y == first.y);
        assert_eq!(again, Some(24), "{name}: the loop has all of its pictures once");
        let length = played.pictures[25].at.since(first.at).as_millis();
        assert!((1_000..1_150).contains(&length), "{name}: a loop of {length} ms");
        assert_eq!(played.samples.is_empty(), !has_sound, "{name}");
        if has_sound {
            let pcm = joined(&played.samples);
            assert!((1_800.0..4_000.0).contains(&loudness(&pcm)), "{name}: loudness {}", loudness(&pcm));
        }
        assert!(played.vanished.is_empty(), "{name}: {:?}", played.vanished);
    }
}

#[test]
fn pictures_come_in_the_order_they_are_seen() {
    // The pattern through another's encoder with B frames: its counter must rise by one.
    let folder = tempfile::tempdir().expect("a folder");
    let raw = folder.path().join("pattern.y4m");
    y4m(&raw, scenes::pattern(45), 30);
    let film = folder.path().join("film.mp4");
    let (raw, film_name) = (raw.to_str().expect("a plain name"), film.to_str().expect("a plain name"));
    ffmpeg::make(&["-i", raw, "-c:v", "libx264", "-profile:v", "high", "-bf", "3", "-b_strategy", "0", film_name]);
    let played = play(&film, 42, SILENT);
    let counters: Vec<_> =
        played.pictures.iter().map(|picture| pattern::read(picture).expect("its mark").counter).collect();
    assert!(counters.iter().copied().eq(0..counters.len() as u32), "{counters:?}");
    for (index, picture) in played.pictures.iter().enumerate() {
        let since_first = picture.at.since(played.pictures[0].at).as_micros() as u64;
        assert!(since_first.abs_diff(index as u64 * 1_000_000 / 30) < 100, "{index}: {since_first}");
    }
}

/// Writes raw pictures.
fn y4m(path: &Path, pictures: impl Iterator<Item = Picture>, fps: u32) {
    let mut bytes = Vec::new();
    for picture in pictures {
        if bytes.is_empty() {
            bytes.extend_from_slice(
                format!("YUV4MPEG2 W{} H{} F{fps}:1 Ip A1:1 C420jpeg\n", picture.width(), picture.height()).as_bytes(),
            );
        }
        bytes.extend_from_slice(b"FRAME\n");
        for plane in [&picture.y, &picture.u, &picture.v] {
            bytes.extend_from_slice(plane);
        }
    }
    std::fs::write(path, bytes).expect("room on the disk");
}

#[test]
fn sound_and_picture_of_a_film_stay_in_step_over_loops() {
    // Our own export is a film too: tones and flashes at whole seconds, three seconds long.
    let (video, audio) = scenes::recording("Sở Tư pháp", MediaTime(9_000_000), 3);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("film.mp4");
    let out = std::fs::File::create(&path).expect("room on the disk");
    let mut writer = codec::mp4::Writer::new(out, MediaTime(9_000_000)).expect("a file begins");
    video.iter().for_each(|frame| writer.video(frame).expect("written"));
    audio.iter().for_each(|frame| writer.audio(frame).expect("written"));
    writer.finish().expect("a file ends");
    let played = play(&path, 155, Duration::from_millis(5_200));
    let flashes: Vec<_> =
        played.pictures.iter().filter(|picture| pattern::flash(picture)).map(|picture| picture.at).collect();
    let zero = played.samples[0].at;
    let clicks = pattern::clicks(&joined(&played.samples));
    assert!(flashes.len() >= 5 && clicks.len() >= 5, "{flashes:?} {clicks:?}");
    for (flash, click) in flashes.iter().zip(clicks) {
        let click = zero.saturating_add(codec::samples::lasting(click as u64, 48_000));
        assert!(flash.distance(click) < Duration::from_millis(33), "flash {flash:?}, tone {click:?}");
    }
}

#[test]
fn raw_pictures_and_raw_sound_play() {
    let (_folder, path) = made("raw.y4m", &[&TEST_PICTURE, &["-pix_fmt", "yuv420p"]]);
    let played = play(&path, 30, SILENT);
    assert_eq!(played.pictures[0].y, played.pictures[25].y, "it loops");
    for (codec, extra) in [("pcm_s16le", "1"), ("pcm_s24le", "2"), ("pcm_u8", "1"), ("pcm_f32le", "2")] {
        let (_folder, path) = made("raw.wav", &[&TEST_SOUND, &["-c:a", codec, "-ac", extra]]);
        let played = play(&path, 0, Duration::from_millis(1_300));
        let pcm = joined(&played.samples);
        assert!(played.pictures.is_empty());
        assert!((1_800.0..4_000.0).contains(&loudness(&pcm)), "{codec}: {}", loudness(&pcm));
    }
}

/// What is heard of a sound that one loudspeaker of a film with 5.1 channels has alone: the centre with a weight of
/// 1, front 0.7071, back 0.5, by the sum of all; bass not at all.
#[test]
fn six_channels_become_one_in_which_speech_leads() {
    let opus = ["-c:a", "libopus", "-b:a", "256k"];
    for (name, codec) in [("raw.wav", &["-c:a", "pcm_s16le"][..]), ("film.mp4", &opus)] {
        for (speaker, weight) in [("FC", 0.2929), ("FR", 0.2071), ("BL", 0.1464), ("LFE", 0.0)] {
            let one = format!("pan=5.1|{speaker}=c0");
            let (_folder, path) = made(name, &[&TEST_SOUND, &["-af", &one, "-ar", "48000"], codec]);
            let played = play(&path, 0, Duration::from_millis(600));
            assert!(played.samples.iter().all(|samples| samples.channels == 1));
            // ffmpeg's tone is an eighth of full scale.
            let (expected, heard) = (32_767.0 / 8.0 / 2_f64.sqrt() * weight, loudness(&joined(&played.samples)));
            assert!((heard - expected).abs() < 40.0, "{speaker} of {name}: {heard}, not {expected}");
        }
    }
}

#[test]
fn an_odd_size_loses_a_column_and_plays() {
    let (_folder, path) =
        made("odd.y4m", &[&["-f", "lavfi", "-i", "testsrc2=size=321x241:rate=25:duration=0.2", "-pix_fmt", "yuv420p"]]);
    let played = play(&path, 1, SILENT);
    assert_eq!((played.pictures[0].width(), played.pictures[0].height()), (320, 240));
}

#[test]
fn a_film_whose_sound_is_foreign_plays_without_it_and_says_why() {
    let h264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p"];
    for (sound, named) in [
        (&["-c:a", "aac", "-ac", "6"][..], "AAC with 6 channels"),
        (&["-c:a", "aac", "-ac", "8"], "AAC with 8 channels"),
        (&["-c:a", "aac", "-profile:a", "aac_main", "-ar", "44100"], "AAC of another profile than LC (number 1)"),
        (&["-c:a", "ac3"], "Dolby AC-3"),
        (&["-c:a", "libopus", "-ac", "2", "-mapping_family", "255"], "Opus of channel family 255"),
    ] {
        let (_folder, path) = made("film.mp4", &[&TEST_PICTURE, &TEST_SOUND, &h264, sound]);
        let played = play(&path, 5, SILENT);
        assert!(!played.pictures.is_empty() && played.samples.is_empty());
        assert_eq!(played.vanished.len(), 1);
        assert!(played.vanished[0].1.contains(named), "{:?}", played.vanished);
        // Whoever only looks is told the same, and what to do.
        let lack = capture::check(&Spec::File(path)).expect("it can be used");
        let lack = lack.expect("it lacks sound");
        assert!(lack.starts_with("no sound: ") && lack.contains(named) && lack.contains("ffmpeg"), "{lack}");
    }
    let (_folder, path) = made("film.mp4", &[&TEST_PICTURE, &TEST_SOUND, &h264, &["-c:a", "aac"]]);
    assert_eq!(capture::check(&Spec::File(path)).expect("it can be used"), None);
    assert_eq!(capture::check(&Spec::Pattern).expect("it can be used"), None);
}

#[test]
fn what_cannot_be_played_is_named_in_one_sentence() {
    let sentence = |path: &Path| {
        let Err(error) = open(path, Instant::now()) else { panic!("{} opens", path.display()) };
        let text = error.to_string();
        assert!(text.contains(path.to_str().expect("a plain name")), "{text}");
        assert!(!text.contains('\n'), "{text}");
        text
    };
    let ten_bits = made("ten.mp4", &[&TEST_PICTURE, &["-c:v", "libx264", "-pix_fmt", "yuv420p10le"]]);
    let mpeg4 = made("old.mp4", &[&TEST_PICTURE, &["-c:v", "mpeg4"]]);
    let matroska = made("film.mkv", &[&TEST_PICTURE, &["-c:v", "libx264", "-pix_fmt", "yuv420p"]]);
    let full = made("raw422.y4m", &[&TEST_PICTURE, &["-pix_fmt", "yuv422p"]]);
    let law = made("law.wav", &[&TEST_SOUND, &["-c:a", "pcm_mulaw"]]);
    for ((_folder, path), found) in [
        (ten_bits, "10 bits"),
        (mpeg4, "its pictures are"),
        (matroska, "found Matroska or WebM"),
        (full, "422"),
        (law, "only plain samples"),
    ] {
        let text = sentence(&path);
        assert!(text.contains("cannot be played") && text.contains(found), "{text}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("room on the disk");
        path
    };
    for (path, found) in [
        (folder.path().join("nowhere.mp4"), "cannot be read"),
        (folder.path().to_owned(), "cannot be read"),
        (write("empty.mp4", b""), "an empty file"),
        (write("letter.mp4", "Kính gửi: Sở Nội vụ\n".as_bytes()), "found text"),
        (write("no-pictures.y4m", b"YUV4MPEG2 W64 H64 F30:1\n"), "neither a picture nor sound"),
        (write("half.y4m", b"YUV4MPEG2 W64 H64 F30:1\nFRAME\nabc"), "it is cut off"),
        (write("half.wav", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0"), "cut off"),
    ] {
        let text = sentence(&path);
        assert!(text.contains(found), "{text}");
    }
}

#[test]
fn a_damaged_film_plays_what_is_left_or_says_that_nothing_is() {
    let (folder, path) = made("film.mp4", &[&TEST_PICTURE, &["-c:v", "libx264", "-g", "5", "-pix_fmt", "yuv420p"]]);
    let good = std::fs::read(&path).expect("it is there");
    let media = good.windows(4).position(|four| four == b"mdat").expect("its media") + 4;
    let index = good.windows(4).position(|four| four == b"moov").expect("its index") - 4;
    let cut = folder.path().join("cut.mp4");
    std::fs::write(&cut, &good[..index - 100]).expect("room on the disk");
    let Err(error) = open(&cut, Instant::now()) else { panic!("a film without its index opens") };
    assert!(error.to_string().contains("is damaged: it has no index (moov)"), "{error}");
    let mut scratched = good.clone();
    let middle = media + (index - media) / 2;
    scratched[middle..middle + 200].fill(0x55);
    std::fs::write(&cut, &scratched).expect("room on the disk");
    let played = play(&cut, 8, SILENT);
    let length = played.pictures[7].at.since(played.pictures[0].at);
    assert!(length < Duration::from_secs(1), "eight pictures are left of one loop, not {length:?}");
    let mut wiped = good;
    wiped[media..index].fill(0);
    std::fs::write(&cut, &wiped).expect("room on the disk");
    let Err(error) = open(&cut, Instant::now()) else { panic!("a film of zeros opens") };
    assert!(error.to_string().contains("is damaged"), "{error}");
}

#[test]
fn a_films_pictures_encoded_again_are_like_the_source() {
    let folder = tempfile::tempdir().expect("a folder");
    let film = folder.path().join("film.mp4");
    let name = film.to_str().expect("a plain name");
    // Something like a room: textures that move slowly, with noise.
    let input = ["-f", "lavfi", "-i", "mandelbrot=size=1280x720:rate=25:end_scale=0.2,noise=alls=4", "-t", "2"];
    ffmpeg::make(&[&input[..], &["-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", name]].concat());
    let played = play(&film, 45, SILENT);
    let mut encoder = video::Encoder::new(video::Config::MAIN).expect("an encoder");
    let mut decoder = video::Decoder::new().expect("a decoder");
    let mut worst: f64 = 1.0;
    for (index, picture) in played.pictures.iter().enumerate() {
        let frame = encoder.encode(picture, index.is_multiple_of(50)).expect("encoded").expect("a frame");
        let decoded = decoder.decode(frame.at, &frame.data).expect("good").expect("a picture");
        worst = worst.min(scenes::ssim(picture, &decoded));
    }
    assert!(worst >= 0.9, "the worst picture has a similarity of {worst}");
}

/// A little of every kind of file.
fn small_files() -> &'static [(&'static str, Vec<u8>)] {
    static FILES: std::sync::OnceLock<Vec<(&'static str, Vec<u8>)>> = std::sync::OnceLock::new();
    FILES.get_or_init(|| {
        let picture = ["-f", "lavfi", "-i", "testsrc2=size=64x64:rate=25:duration=0.4"];
        let sound = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100:duration=0.4"];
        let h264 = ["-c:v", "libx264", "-bf", "2", "-pix_fmt", "yuv420p"];
        let kinds: [(&str, Vec<&[&str]>); 4] = [
            ("aac.mp4", vec![&picture, &sound, &h264, &["-c:a", "aac", "-movflags", "+faststart"]]),
            ("opus.mp4", vec![&picture, &sound, &h264, &["-c:a", "libopus", "-movflags", "frag_keyframe+empty_moov"]]),
            ("raw.y4m", vec![&picture, &["-pix_fmt", "yuv420p"]]),
            ("raw.wav", vec![&sound, &["-c:a", "pcm_s16le"]]),
        ];
        let made = kinds.into_iter().map(|(name, arguments)| {
            let (_folder, path) = made(name, &arguments);
            (name, std::fs::read(path).expect("it is there"))
        });
        made.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_damaged_file_is_never_a_panic(
        which in 0_usize..4,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..30),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let (name, good) = &small_files()[which];
        let mut bytes = good.clone();
        for (number, (place, value)) in damage.into_iter().enumerate() {
            // Half of it in the head, where the rules are.
            let range = if number % 2 == 0 { bytes.len() } else { bytes.len().min(2_000) };
            bytes[place.index(range)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(good.len()));
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        std::fs::write(&path, &bytes).expect("room on the disk");
        // Opening decodes the beginning; a short play decodes more.
        if let Ok(mut source) = open(&path, Instant::now()) {
            for _ in 0..10 {
                let Ok(Some(_)) = source.next(Duration::from_millis(5)) else { break };
            }
        }
    }
}
