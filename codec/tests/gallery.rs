//! The film of a whole session.

mod ffmpeg;
mod scenes;

use std::io::Cursor;

use codec::capture::pattern;
use codec::frame::Frame;
use codec::gallery::{self, Point};
use codec::mp4::Reader;
use codec::picture::Picture;
use codec::time::MediaTime;
use codec::video;

const START: MediaTime = MediaTime(60_000_000);

fn seconds(seconds: u64) -> MediaTime {
    MediaTime(START.micros() + seconds * 1_000_000)
}

fn point(name: &str, (video, audio): (Vec<Frame>, Vec<Frame>)) -> Point<'static> {
    Point { name: name.into(), video: Box::new(video.into_iter()), audio: Box::new(audio.into_iter()) }
}

fn film(points: Vec<Point<'_>>, length: u64) -> Vec<u8> {
    let out = Cursor::new(Vec::new());
    gallery::write(points, START, seconds(length), out, |_| {}).expect("a film").into_inner()
}

/// Every picture of a film.
fn shown(bytes: &[u8]) -> Vec<Picture> {
    let mut reader = Reader::open(Cursor::new(bytes)).expect("it can be read");
    let mut decoder = video::Decoder::new().expect("a decoder");
    (0..)
        .map_while(|index| reader.picture(index).expect("it can be read"))
        .map(|frame| decoder.decode(frame.at, &frame.data).expect("good").expect("a picture"))
        .collect()
}

/// What tile `index` of `count` shows.
fn in_tile(wall: &Picture, index: usize, count: usize) -> Picture {
    let tile = gallery::place(gallery::tile(index, count), 1280, 720);
    wall.crop(tile.x, tile.y, tile.width, tile.height).expect("inside the wall")
}

#[test]
fn every_point_is_seen_in_its_tile_at_its_time() {
    let points = vec![
        point("Trung tâm", scenes::recording("Trung tâm", START, 4)),
        point("Xã Ea Kar", scenes::recording("Xã Ea Kar", seconds(2), 2)),
        point("Phường Nghĩa Tân", scenes::recording("Phường Nghĩa Tân", START, 4)),
    ];
    let bytes = film(points, 4);
    let walls = shown(&bytes);
    assert_eq!(walls.len(), 120);
    let mut read = [0; 3];
    for (number, wall) in walls.iter().enumerate() {
        for (tile, late) in [(0, 0), (1, 60), (2, 0)] {
            let mark = pattern::read(&in_tile(wall, tile, 3));
            match number.checked_sub(late) {
                None => assert_eq!(mark, None, "nobody is there yet"),
                Some(expected) => {
                    let counter = mark.map(|mark| mark.counter as usize);
                    assert_eq!(counter, Some(expected), "tile {tile} in picture {number}");
                    read[tile] += 1;
                }
            }
        }
    }
    assert_eq!(read, [120, 60, 120]);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gallery.mp4");
    std::fs::write(&path, &bytes).expect("room on the disk");
    ffmpeg::must_be_silent(&path);
    let length: f64 = ffmpeg::probe(&path, "", "format=duration").parse().expect("a duration");
    assert!((3.97..4.03).contains(&length), "{length}");
}

#[test]
fn sound_is_mixed_and_in_step_with_the_picture() {
    // Tones of the first at whole seconds, of the second half a second later.
    let late = MediaTime(START.micros() + 500_000);
    let points = vec![
        point("Một", scenes::recording("Một", START, 5)),
        point("Hai", (Vec::new(), scenes::recording("Hai", late, 4).1)),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gallery.mp4");
    let bytes = film(points, 5);
    std::fs::write(&path, &bytes).expect("room on the disk");
    let pcm = ffmpeg::sound(&path);
    let loud = |from: usize| pcm[from..from + 480].iter().any(|value| value.unsigned_abs() > 4_000);
    for half in 0..9 {
        let place = half * 24_000;
        assert!(loud(place + 480), "a tone at {half} halves");
        assert!(!loud(place + 12_000), "silence between");
    }
    for (number, wall) in shown(&bytes).iter().enumerate() {
        assert_eq!(pattern::flash(&in_tile(wall, 0, 2)), number.is_multiple_of(30), "picture {number}");
    }
    let clicks = pattern::clicks(&pcm);
    for (second, click) in clicks.iter().map(|&click| click as f64 / 48_000.0).enumerate().take(1) {
        assert!((click - second as f64).abs() < 0.015, "tone {second} is at {click}");
    }
}

#[test]
fn a_hole_goes_dark_and_damage_is_passed_over() {
    let (mut video, mut audio) = scenes::recording("Một", START, 10);
    video.drain(60..240);
    audio.drain(100..400);
    video[20].data = bytes::Bytes::from_static(&[0, 0, 0, 1, 0x41, 9, 9, 9]);
    audio[30].data = bytes::Bytes::new();
    let bytes = film(vec![point("Một", (video, audio))], 10);
    let walls = shown(&bytes);
    assert_eq!(walls.len(), 300);
    let counter = |number: usize| pattern::read(&in_tile(&walls[number], 0, 1)).map(|mark| mark.counter);
    assert_eq!(counter(10), Some(10));
    assert_eq!(counter(59), Some(19), "the last good picture stands until a keyframe");
    assert_eq!(counter(200), None, "a point that is gone is dark");
    assert_eq!(counter(250), Some(250), "and comes back in its place");
}

#[test]
fn a_name_looks_the_same_after_a_hundred_pictures() {
    // Two tall tiles, in which a wide picture leaves the name on the wall.
    let points = ["Phường Nghĩa Tân", "Xã Ea Kar"].map(|name| point(name, scenes::recording(name, START, 4)));
    let walls = shown(&film(points.into(), 4));
    // Letters drawn upon letters lose their soft edges, and a quarter more of them is bright.
    let bright = |number: usize| {
        let label = walls[number].crop(0, 0, 320, 40).expect("inside the wall");
        label.y.iter().filter(|&&pixel| pixel > 180).count()
    };
    let (early, late) = (bright(0), bright(110));
    println!("{early} bright pixels, later {late}");
    assert!(early > 100 && late * 10 < early * 11, "{early} bright pixels, later {late}");
}

#[test]
fn nothing_is_no_film() {
    let out = || Cursor::new(Vec::new());
    assert!(gallery::write(Vec::new(), START, seconds(1), out(), |_| {}).is_err());
    let points = vec![point("Một", (Vec::new(), Vec::new()))];
    assert!(gallery::write(points, START, START, out(), |_| {}).is_err());
}

#[test]
fn a_session_nobody_joined_is_a_dark_wall_with_names() {
    let points = vec![point("Một", (Vec::new(), Vec::new())), point("Hai", (Vec::new(), Vec::new()))];
    let bytes = film(points, 1);
    assert_eq!(shown(&bytes).len(), 30);
}
