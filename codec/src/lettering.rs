//! Text in pictures: the point's name, clocks and counters.
//!
//! An outline font rather than a table of bitmaps, because Vietnamese needs 134 letters beyond ASCII in several sizes
//! and a quarter of it is diacritics that a small bitmap blurs. Only the letters needed are in the file (26 kB; its
//! licence lies beside it). Each letter is drawn once and kept, so a clock costs a few copies per picture.

use std::collections::BTreeMap;

use ab_glyph::{Font, FontRef, ScaleFont, point};

use crate::picture::Picture;

const FONT: &[u8] = include_bytes!("../assets/lettering.ttf");

/// Letters of one size.
#[derive(Debug)]
pub(crate) struct Lettering {
    height: f32,
    letters: BTreeMap<char, Letter>,
}

/// How much of each pixel a letter covers.
#[derive(Debug, Default)]
struct Letter {
    left: i32,
    top: i32,
    width: usize,
    coverage: Vec<u8>,
    advance: f32,
}

impl Lettering {
    /// Letters whose line is `height` pixels.
    pub(crate) fn new(height: u32) -> Self {
        Self { height: height as f32, letters: BTreeMap::new() }
    }

    /// The largest letters, `height_max` at most, in which `text` is no wider than `width_max`.
    pub(crate) fn fitting(text: &str, height_max: u32, width_max: u32) -> Self {
        let lettering = Self::new(height_max);
        let width = lettering.width(text);
        if width <= width_max as f32 {
            return lettering;
        }
        Self::new((height_max as f32 * width_max as f32 / width).max(8.0) as u32)
    }

    /// Pixels across that `text` takes.
    pub(crate) fn width(&self, text: &str) -> f32 {
        let font = font();
        let font = font.as_scaled(self.height);
        text.chars().map(|letter| font.h_advance(font.glyph_id(letter))).sum()
    }

    /// Draws `text` with its upper left corner at `x`, `y`, in a brightness of `luma`; colour stays as it is. What lies
    /// outside the picture is left out.
    pub(crate) fn draw(&mut self, picture: &mut Picture, x: u32, y: u32, text: &str, luma: u8) {
        let mut pen = x as f32;
        for character in text.chars() {
            let height = self.height;
            let letter = self.letters.entry(character).or_insert_with(|| Letter::new(character, height));
            letter.draw(picture, pen.round() as i32, y as i32, luma);
            pen += letter.advance;
        }
    }
}

impl Letter {
    fn new(character: char, height: f32) -> Self {
        let font = font();
        let scaled = font.as_scaled(height);
        let id = font.glyph_id(character);
        let advance = scaled.h_advance(id);
        let glyph = id.with_scale_and_position(height, point(0.0, scaled.ascent()));
        let Some(outline) = font.outline_glyph(glyph) else { return Self { advance, ..Self::default() } };
        let bounds = outline.px_bounds();
        let (width, rows) = (bounds.width() as usize, bounds.height() as usize);
        let mut coverage = vec![0; width * rows];
        outline.draw(|x, y, covered| {
            if let Some(pixel) = coverage.get_mut(y as usize * width + x as usize) {
                *pixel = (covered.clamp(0.0, 1.0) * 255.0) as u8;
            }
        });
        Self { left: bounds.min.x as i32, top: bounds.min.y as i32, width, coverage, advance }
    }

    fn draw(&self, picture: &mut Picture, x: i32, y: i32, luma: u8) {
        let (width, height) = (picture.width() as i32, picture.height() as i32);
        if self.width == 0 {
            return;
        }
        for (row, line) in self.coverage.chunks_exact(self.width).enumerate() {
            let y = y + self.top + row as i32;
            if !(0..height).contains(&y) {
                continue;
            }
            for (column, &covered) in line.iter().enumerate() {
                let x = x + self.left + column as i32;
                if covered > 0 && (0..width).contains(&x) {
                    let pixel = &mut picture.y[(y * width + x) as usize];
                    let (under, over) = (u32::from(*pixel), u32::from(luma));
                    *pixel = ((under * (255 - u32::from(covered)) + over * u32::from(covered)) / 255) as u8;
                }
            }
        }
    }
}

fn font() -> FontRef<'static> {
    FontRef::try_from_slice(FONT).expect("the font in the program is whole")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MediaTime;

    fn drawn(text: &str) -> Picture {
        let mut picture = Picture::black(640, 96, MediaTime(0)).expect("an even size");
        Lettering::new(64).draw(&mut picture, 8, 8, text, 235);
        picture
    }

    #[test]
    fn every_vietnamese_letter_has_its_own_shape() {
        let letters = "aàáảãạăằắẳẵặâầấẩẫậbcdđeèéẻẽẹêềếểễệghiìíỉĩịklmnoòóỏõọôồốổỗộơờớởỡợpqrstuùúủũụưừứửữựvxyỳýỷỹỵ";
        let mut shapes = BTreeMap::new();
        for letter in letters.chars().flat_map(|letter| std::iter::once(letter).chain(letter.to_uppercase())) {
            let shape = drawn(&letter.to_string()).y;
            let before = shapes.insert(shape, letter);
            assert_eq!(before, None, "{letter} looks like another letter");
        }
    }

    #[test]
    fn long_text_is_made_smaller_and_never_leaves_the_picture() {
        let text = "Ủy ban nhân dân phường Nghĩa Tân, quận Cầu Giấy, thành phố Hà Nội";
        let lettering = Lettering::fitting(text, 64, 400);
        assert!(lettering.width(text) <= 408.0, "{}", lettering.width(text));
        let mut picture = Picture::black(64, 32, MediaTime(0)).expect("an even size");
        Lettering::new(64).draw(&mut picture, 50, 20, text, 235);
    }
}
