//! Raw pictures and their scaling.
//!
//! Pictures are planar 4:2:0, tightly packed, because that is what the encoder takes and the decoder gives; a stride
//! would have to be carried through every function for no gain. A picture is handed around as `Arc<Picture>`: two
//! encoders of different size read the same one.
//!
//! Scaling averages the area a target pixel covers (linear between neighbours when it grows). A sharper filter costs
//! more and its ringing only gives a low-bitrate encoder edges to spend bits on.

use std::ops::Range;

use crate::time::MediaTime;

/// Longest side we handle, in pixels: 4K and its portrait form, the most the H.264 library can do.
pub const SIDE_MAX: u32 = 4096;

/// Shortest side we handle, in pixels: one macroblock, the least the H.264 library encodes.
pub const SIDE_MIN: u32 = 16;

/// A picture as three planes, Y'CbCr 4:2:0. Width and height are even, each chroma plane is half of both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    /// Luma, `width * height` bytes, no padding.
    pub y: Vec<u8>,
    /// Blue difference, a quarter of the luma's bytes.
    pub u: Vec<u8>,
    /// Red difference, a quarter of the luma's bytes.
    pub v: Vec<u8>,
    /// When it was seen.
    pub at: MediaTime,
}

/// Why three planes are not a picture.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Odd, too small or too large.
    #[error("a picture of {width}x{height} cannot be used: sides must be even, from {SIDE_MIN} to {SIDE_MAX} pixels")]
    Size {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
    /// A plane does not hold what the size asks for.
    #[error("the planes of a {width}x{height} picture do not hold {width}x{height} pixels")]
    Planes {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
}

impl Picture {
    /// A black picture.
    pub fn black(width: u32, height: u32, at: MediaTime) -> Result<Self, Error> {
        let luma = luma_len(width, height)?;
        Ok(Self { width, height, y: vec![16; luma], u: vec![128; luma / 4], v: vec![128; luma / 4], at })
    }

    /// A picture of planes made elsewhere.
    pub fn from_planes(width: u32, height: u32, planes: [Vec<u8>; 3], at: MediaTime) -> Result<Self, Error> {
        let luma = luma_len(width, height)?;
        let [y, u, v] = planes;
        if y.len() != luma || u.len() != luma / 4 || v.len() != luma / 4 {
            return Err(Error::Planes { width, height });
        }
        Ok(Self { width, height, y, u, v, at })
    }

    /// Pixels across; even.
    pub const fn width(&self) -> u32 {
        self.width
    }

    /// Pixels down; even.
    pub const fn height(&self) -> u32 {
        self.height
    }

    /// The largest even size of this shape inside a frame of `width` by `height`. Never larger than the picture.
    pub fn fit(&self, width: u32, height: u32) -> (u32, u32) {
        fit(self.width, self.height, width, height)
    }

    /// Scales the whole picture into the whole of `target`, which takes over the time.
    pub fn scale_into(&self, target: &mut Self) {
        let (width, height) = (target.width, target.height);
        self.scale_onto(target, 0, 0, width, height);
        target.at = self.at;
    }

    /// Scales the whole picture into a part of `target`, leaving the rest as it is. The part's sides are rounded
    /// down to even numbers, and what reaches past the edge of `target` is not drawn at all.
    pub fn scale_onto(&self, target: &mut Self, x: u32, y: u32, width: u32, height: u32) {
        let even = |side: u32| (side & !1) as usize;
        let (x, y, width, height) = (even(x), even(y), even(width), even(height));
        let (across, down) = (target.width as usize, target.height as usize);
        if width == 0 || height == 0 || x + width > across || y + height > down {
            return;
        }
        let from = (self.width as usize, self.height as usize);
        scale_plane(&self.y, from, &mut target.y, across, x..x + width, y..y + height);
        let from = (from.0 / 2, from.1 / 2);
        let (columns, rows) = (x / 2..(x + width) / 2, y / 2..(y + height) / 2);
        scale_plane(&self.u, from, &mut target.u, across / 2, columns.clone(), rows.clone());
        scale_plane(&self.v, from, &mut target.v, across / 2, columns, rows);
    }

    /// The part of the picture at `x`, `y`, cut out. All four are rounded down to even numbers.
    pub fn crop(&self, x: u32, y: u32, width: u32, height: u32) -> Result<Self, Error> {
        let even = |side: u32| side & !1;
        let (x, y, width, height) = (even(x), even(y), even(width), even(height));
        let inside = |start: u32, length: u32, side: u32| start.checked_add(length).is_some_and(|end| end <= side);
        if !inside(x, width, self.width) || !inside(y, height, self.height) {
            return Err(Error::Size { width, height });
        }
        let mut part = Self::black(width, height, self.at)?;
        let cut = |from: &[u8], stride: u32, to: &mut [u8], x: u32, y: u32, width: u32| {
            for (row, line) in to.chunks_exact_mut(width as usize).enumerate() {
                let start = (y as usize + row) * stride as usize + x as usize;
                line.copy_from_slice(&from[start..start + width as usize]);
            }
        };
        cut(&self.y, self.width, &mut part.y, x, y, width);
        cut(&self.u, self.width / 2, &mut part.u, x / 2, y / 2, width / 2);
        cut(&self.v, self.width / 2, &mut part.v, x / 2, y / 2, width / 2);
        Ok(part)
    }

    /// Fills a rectangle with one colour. Sides are rounded down to even numbers and clipped to the picture.
    pub fn fill(&mut self, x: u32, y: u32, width: u32, height: u32, colour: [u8; 3]) {
        let (right, bottom) =
            (x.saturating_add(width).min(self.width) & !1, y.saturating_add(height).min(self.height) & !1);
        let (x, y) = (x & !1, y & !1);
        if x >= right || y >= bottom {
            return;
        }
        let [luma, blue, red] = colour;
        paint(&mut self.y, self.width, x..right, y..bottom, luma);
        paint(&mut self.u, self.width / 2, x / 2..right / 2, y / 2..bottom / 2, blue);
        paint(&mut self.v, self.width / 2, x / 2..right / 2, y / 2..bottom / 2, red);
    }

    /// Mean brightness of a rectangle, which must lie inside the picture; an empty one counts as black.
    pub(crate) fn brightness(&self, columns: Range<u32>, rows: Range<u32>) -> u8 {
        let mut sum = 0_u64;
        let mut count = 0_u64;
        for row in rows.start..rows.end.min(self.height) {
            let start = (row * self.width) as usize;
            let line = &self.y[start..start + self.width as usize];
            for &luma in &line[columns.start as usize..(columns.end.min(self.width)) as usize] {
                sum += u64::from(luma);
                count += 1;
            }
        }
        sum.checked_div(count).map_or(0, |mean| mean as u8)
    }
}

/// The largest even size with the shape of `width` by `height` inside `width_max` by `height_max`, never enlarged and
/// never below [`SIDE_MIN`].
pub fn fit(width: u32, height: u32, width_max: u32, height_max: u32) -> (u32, u32) {
    let even = |side: u64| (u32::try_from(side).unwrap_or(SIDE_MAX) & !1).max(SIDE_MIN);
    let (w, h) = (u64::from(width.max(1)), u64::from(height.max(1)));
    let (w_max, h_max) = (u64::from(width_max), u64::from(height_max));
    if w <= w_max && h <= h_max {
        return (even(w), even(h));
    }
    // Rounded to the nearest, so that 1366x768 becomes 1280x720 and not 1280x718.
    let scaled = |side: u64, by: u64, of: u64| (side * by + of / 2) / of;
    if w * h_max >= h * w_max {
        (even(w_max), even(scaled(h, w_max, w).next_multiple_of(2).min(h_max)))
    } else {
        (even(scaled(w, h_max, h).next_multiple_of(2).min(w_max)), even(h_max))
    }
}

fn luma_len(width: u32, height: u32) -> Result<usize, Error> {
    let good = |side: u32| side.is_multiple_of(2) && (SIDE_MIN..=SIDE_MAX).contains(&side);
    if !good(width) || !good(height) {
        return Err(Error::Size { width, height });
    }
    Ok(width as usize * height as usize)
}

fn paint(plane: &mut [u8], stride: u32, columns: Range<u32>, rows: Range<u32>, value: u8) {
    for row in rows {
        let start = (row * stride) as usize;
        plane[start + columns.start as usize..start + columns.end as usize].fill(value);
    }
}

/// What one target pixel takes from a run of source pixels: weights in 256ths that sum to 256.
struct Tap {
    start: usize,
    weights: Vec<u16>,
}

/// Taps for each of `to` pixels out of `from` pixels.
fn taps(from: usize, to: usize) -> Vec<Tap> {
    (0..to).map(|index| if to > from { between(from, to, index) } else { covering(from, to, index) }).collect()
}

/// Shrinking: the pixels under the target, each by the share it is covered.
fn covering(from: usize, to: usize, index: usize) -> Tap {
    // Positions in units of 1/to of a source pixel, so that every edge is a whole number.
    let (left, right) = (index * from, (index + 1) * from);
    let start = left / to;
    let mut weights = Vec::with_capacity(from / to + 2);
    let mut given = 0;
    for pixel in start..right.div_ceil(to) {
        let covered_until = (right.min((pixel + 1) * to) - left) * 256 / from;
        weights.push((covered_until - given) as u16);
        given = covered_until;
    }
    Tap { start, weights }
}

/// Growing: the two source pixels around the target's centre.
fn between(from: usize, to: usize, index: usize) -> Tap {
    // Centre of the target pixel in 256ths of a source pixel, measured from the first source pixel's centre.
    let centre = ((2 * index + 1) * from * 128 / to).saturating_sub(128);
    let start = (centre / 256).min(from - 1);
    if start + 1 == from {
        return Tap { start, weights: vec![256] };
    }
    let share = (centre - start * 256).min(256) as u16;
    Tap { start, weights: vec![256 - share, share] }
}

/// Rows first, as sums of whole lines run at memory speed; then each line's pixels.
fn scale_plane(
    source: &[u8],
    (width, height): (usize, usize),
    target: &mut [u8],
    stride: usize,
    columns: Range<usize>,
    rows: Range<usize>,
) {
    if columns.len() == width && rows.len() == height {
        for (line, row) in source.chunks_exact(width).zip(rows) {
            target[row * stride + columns.start..row * stride + columns.end].copy_from_slice(line);
        }
        return;
    }
    let across = taps(width, columns.len());
    let down = taps(height, rows.len());
    let mut sums = vec![0_u16; width];
    for (tap, row) in down.iter().zip(rows) {
        sums.fill(0);
        for (line, &weight) in source[tap.start * width..].chunks_exact(width).zip(&tap.weights) {
            for (sum, &pixel) in sums.iter_mut().zip(line) {
                // At most 255 * 256 after all weights, so sixteen bits hold it.
                *sum += u16::from(pixel) * weight;
            }
        }
        let line = &mut target[row * stride + columns.start..row * stride + columns.end];
        for (pixel, tap) in line.iter_mut().zip(&across) {
            let mut sum = 1 << 15;
            for (&value, &weight) in sums[tap.start..].iter().zip(&tap.weights) {
                sum += u32::from(value) * u32::from(weight);
            }
            *pixel = (sum >> 16) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slope(width: u32, height: u32) -> Picture {
        let mut picture = Picture::black(width, height, MediaTime(7)).expect("an even size");
        for (index, luma) in picture.y.iter_mut().enumerate() {
            *luma = (index % width as usize * 200 / width as usize) as u8;
        }
        picture
    }

    #[test]
    fn sizes_the_encoder_cannot_take_are_refused() {
        for (width, height) in [(0, 16), (16, 0), (17, 16), (16, 33), (14, 16), (4098, 16), (u32::MAX, u32::MAX)] {
            assert!(Picture::black(width, height, MediaTime(0)).is_err(), "{width}x{height}");
        }
        assert!(Picture::from_planes(16, 16, [vec![0; 256], vec![0; 64], vec![0; 63]], MediaTime(0)).is_err());
    }

    #[test]
    fn fitting_keeps_the_shape_and_never_enlarges() {
        let cases = [
            ((1920, 1080), (1280, 720)),
            ((1366, 768), (1280, 720)),
            ((640, 360), (640, 360)),
            ((640, 480), (640, 480)),
            ((1440, 1080), (960, 720)),
            ((1080, 1920), (406, 720)),
            ((4096, 16), (1280, 16)),
        ];
        for ((width, height), expected) in cases {
            assert_eq!(fit(width, height, 1280, 720), expected, "{width}x{height}");
        }
    }

    #[test]
    fn a_flat_picture_stays_flat_at_every_size() {
        let mut flat = Picture::black(64, 48, MediaTime(3)).expect("an even size");
        flat.fill(0, 0, 64, 48, [201, 90, 77]);
        for (width, height) in [(16, 16), (32, 24), (30, 46), (64, 48), (128, 96), (70, 50)] {
            let mut target = Picture::black(width, height, MediaTime(0)).expect("an even size");
            flat.scale_into(&mut target);
            assert!(target.y.iter().all(|&y| y == 201), "{width}x{height}");
            assert!(target.u.iter().all(|&u| u == 90) && target.v.iter().all(|&v| v == 77), "{width}x{height}");
            assert_eq!(target.at, MediaTime(3));
        }
    }

    #[test]
    fn a_slope_keeps_its_brightness_in_place() {
        let picture = slope(320, 180);
        for (width, height) in [(80, 46), (106, 60), (640, 360)] {
            let mut target = Picture::black(width, height, MediaTime(0)).expect("an even size");
            picture.scale_into(&mut target);
            for column in 0..width {
                let expected = (2 * column + 1) * 100 / width;
                let found = u32::from(target.y[column as usize]);
                assert!(found.abs_diff(expected) <= 2, "{width}: column {column} is {found}, not {expected}");
            }
        }
    }

    #[test]
    fn a_part_drawn_is_the_part_cut_out() {
        let picture = slope(64, 32);
        let mut wall = Picture::black(128, 128, MediaTime(0)).expect("an even size");
        picture.scale_onto(&mut wall, 32, 64, 64, 32);
        assert_eq!(wall.crop(32, 64, 64, 32).expect("inside").y, picture.y);
        assert_eq!(wall.brightness(0..128, 0..64), 16);
        assert!(wall.crop(100, 0, 64, 32).is_err());
        picture.scale_onto(&mut wall, 100, 100, 64, 64);
        assert_eq!(wall.brightness(100..128, 100..128), 16, "a part past the edge is not drawn");
    }

    #[test]
    fn painting_past_the_edge_paints_up_to_it() {
        let mut picture = Picture::black(32, 32, MediaTime(0)).expect("an even size");
        picture.fill(24, 24, 100, u32::MAX, [200, 1, 2]);
        picture.fill(40, 0, 4, 4, [255, 0, 0]);
        assert_eq!(picture.brightness(24..32, 24..32), 200);
        assert_eq!(picture.brightness(0..24, 0..32), 16);
    }
}
