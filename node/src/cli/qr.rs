//! Texts as QR codes: for the terminal in half blocks, and as a picture to be printed or sent.

use std::io::{self, Cursor};

use qrcode::render::unicode::Dense1x2;
use qrcode::{Color, QrCode};

/// Pixels of one module in a picture: 3 mm at 200 dots per inch would be 24; eight are read by every telephone.
const SCALE: usize = 8;
/// Modules of light around the code that ISO/IEC 18004 asks for.
const QUIET: usize = 4;

/// Lines for a terminal with light letters on dark ground, as most have.
pub(crate) fn for_terminal(text: &str) -> io::Result<String> {
    let code = code(text)?;
    Ok(code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

/// A PNG file in black and white.
pub(crate) fn png(text: &str) -> io::Result<Vec<u8>> {
    let code = code(text)?;
    let (modules, width) = (code.to_colors(), code.width());
    let side = (width + 2 * QUIET) * SCALE;
    let light = |x: usize, y: usize| {
        let place = |at: usize| (at / SCALE).checked_sub(QUIET).filter(|at| *at < width);
        let module = place(x).zip(place(y)).map(|(x, y)| modules[y * width + x]);
        module != Some(Color::Dark)
    };
    let mut pixels = vec![0u8; side * side.div_ceil(8)];
    for (y, row) in pixels.chunks_mut(side.div_ceil(8)).enumerate() {
        for x in (0..side).filter(|x| light(*x, y)) {
            row[x / 8] |= 0x80 >> (x % 8);
        }
    }
    let mut file = Cursor::new(Vec::new());
    let side = u32::try_from(side).map_err(io::Error::other)?;
    let mut encoder = png::Encoder::new(&mut file, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    let mut writer = encoder.write_header().map_err(io::Error::other)?;
    writer.write_image_data(&pixels).map_err(io::Error::other)?;
    writer.finish().map_err(io::Error::other)?;
    Ok(file.into_inner())
}

fn code(text: &str) -> io::Result<QrCode> {
    QrCode::new(text).map_err(|error| io::Error::other(format!("too much for a QR code: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_and_the_terminal_show_the_same_code() {
        let text = "ABCDE-12345";
        let lines = for_terminal(text).unwrap();
        let file = png(text).unwrap();
        let mut reader = png::Decoder::new(Cursor::new(&file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        let light =
            |x: usize, y: usize| pixels[y * SCALE * info.line_size + x * SCALE / 8] >> (7 - x * SCALE % 8) & 1 == 1;
        let lines: Vec<Vec<char>> = lines.lines().map(|line| line.chars().collect()).collect();
        let side = lines[0].len();
        assert_eq!(side * SCALE, info.width as usize);
        for y in 0..side {
            for (x, symbol) in lines[y / 2].iter().enumerate() {
                let shown = match (symbol, y % 2) {
                    ('█', _) | ('▀', 0) | ('▄', 1) => true,
                    (' ' | '▀' | '▄', _) => false,
                    other => panic!("{other:?}"),
                };
                assert_eq!(shown, light(x, y), "{x} {y}");
            }
        }
    }
}
