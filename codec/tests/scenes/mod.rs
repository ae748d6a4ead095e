//! Pictures for tests, made without waiting for real time.

#![allow(dead_code, reason = "each test file uses some of these")]

use codec::capture::pattern::{self, Drawing, Mark};
use codec::frame::Frame;
use codec::picture::Picture;
use codec::samples::Samples;
use codec::time::MediaTime;
use codec::{audio, video};

/// When picture `index` is seen, at `fps`.
pub(crate) fn time(index: u64, fps: u64) -> MediaTime {
    MediaTime(index * 1_000_000 / fps)
}

/// The pattern's pictures, thirty a second.
pub(crate) fn pattern(count: u64) -> impl Iterator<Item = Picture> {
    let mut drawing = Drawing::new("Ủy ban nhân dân xã Ea Kar");
    (0..count).map(move |index| {
        let at = time(index, 30);
        let mark = Mark { counter: index as u32, unix_ms: 1_790_000_000_000 + at.micros() / 1_000 };
        drawing.draw(at, index.is_multiple_of(pattern::FPS), mark)
    })
}

/// A texture that drifts, with noise in every picture: as hard to encode as a lively room before a cheap camera.
pub(crate) fn lively(width: u32, height: u32, count: u64) -> impl Iterator<Item = Picture> {
    (0..count).map(move |index| {
        let mut picture = Picture::black(width, height, time(index, 30)).expect("an even size");
        let mut noise = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for y in 0..height {
            for x in 0..width {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                let (fx, fy) = ((x as f32 + index as f32 * 1.5) / 19.0, (y as f32 + index as f32 * 0.5) / 23.0);
                let texture = (fx.sin() * fy.cos() + (fx * 2.3).cos() * 0.5) * 50.0 + 110.0;
                picture.y[(y * width + x) as usize] = (texture + (noise % 9) as f32) as u8;
            }
        }
        picture
    })
}

/// Structural similarity of the brightness of two pictures of one size, 1 for equal (Wang et al. 2004, in 8x8 windows).
pub(crate) fn ssim(a: &Picture, b: &Picture) -> f64 {
    assert_eq!((a.width(), a.height()), (b.width(), b.height()), "pictures of one size are compared");
    let width = a.width() as usize;
    let (mut sum, mut count) = (0.0, 0.0);
    for top in (0..a.height() as usize - 7).step_by(8) {
        for left in (0..width - 7).step_by(8) {
            let (mut ma, mut mb, mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0, 0.0, 0.0);
            for row in top..top + 8 {
                for column in left..left + 8 {
                    let (pa, pb) = (f64::from(a.y[row * width + column]), f64::from(b.y[row * width + column]));
                    ma += pa;
                    mb += pb;
                    aa += pa * pa;
                    bb += pb * pb;
                    ab += pa * pb;
                }
            }
            let (ma, mb) = (ma / 64.0, mb / 64.0);
            let (va, vb, cov) = (aa / 64.0 - ma * ma, bb / 64.0 - mb * mb, ab / 64.0 - ma * mb);
            let (c1, c2) = (6.5025, 58.5225);
            sum += (2.0 * ma * mb + c1) * (2.0 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2));
            count += 1.0;
        }
    }
    sum / count
}

/// A point's recording of the pattern, encoded as production does, without waiting: pictures and sound of `seconds` from
/// session time `start` on, a whole second of the pattern at `start`.
pub(crate) fn recording(name: &str, start: MediaTime, seconds: u64) -> (Vec<Frame>, Vec<Frame>) {
    let mut drawing = Drawing::new(name);
    let mut encoder = video::Encoder::new(video::Config::MAIN).expect("an encoder");
    let pictures = (0..seconds * 30).map(|index| {
        let at = MediaTime(start.micros() + time(index, 30).micros());
        let mark = Mark { counter: index as u32, unix_ms: 1_790_000_000_000 + at.micros() / 1_000 };
        let picture = drawing.draw(at, index.is_multiple_of(30), mark);
        encoder.encode(&picture, index.is_multiple_of(60)).expect("encoded").expect("a frame")
    });
    let pictures = pictures.collect();
    let mut encoder = audio::Encoder::new(audio::Config::VOICE).expect("an encoder");
    let mut sound = Vec::new();
    for run in 0..seconds * 50 {
        let pcm = pattern::sound(run * 960).take(960).collect();
        let at = MediaTime(start.micros() + run * 20_000);
        sound.extend(encoder.encode(&Samples { rate: 48_000, channels: 1, pcm, at }).expect("encoded"));
    }
    (pictures, sound)
}
