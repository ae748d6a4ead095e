//! Y4M: raw pictures with a line of text before them (YUV4MPEG2, as `mjpegtools` and `ffmpeg` write it). Read for test
//! clips, whose pictures are known exactly.

use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};

use super::{Fault, Media};
use crate::picture::{Picture, SIDE_MAX, SIDE_MIN};
use crate::time::MediaTime;

/// Longest header line: ffmpeg's has 60 bytes.
const LINE_MAX: u64 = 1_024;

/// Fastest film we play.
const FPS_MAX: u64 = 240;

pub(super) struct Pictures {
    input: BufReader<fs::File>,
    /// Where the first picture begins.
    start: u64,
    width: u32,
    height: u32,
    /// Pictures in seconds.
    rate: (u64, u64),
    next: u64,
}

impl Pictures {
    pub(super) fn open(file: fs::File) -> Result<Self, Fault> {
        let mut input = BufReader::new(file);
        let line = line(&mut input)?;
        let header = Header::parse(&line)?;
        let start = input.stream_position()?;
        Ok(Self { input, start, width: header.width, height: header.height, rate: header.rate, next: 0 })
    }

    fn time(&self, number: u64) -> MediaTime {
        let (pictures, seconds) = self.rate;
        MediaTime((u128::from(number) * u128::from(seconds) * 1_000_000 / u128::from(pictures)) as u64)
    }

    /// A plane without the last column and row of an odd size.
    fn plane(&mut self, width: u32, height: u32, (kept_width, kept_height): (u32, u32)) -> Result<Vec<u8>, Fault> {
        // The sides are at most `SIDE_MAX`.
        let mut plane = vec![0; width as usize * height as usize];
        self.input.read_exact(&mut plane)?;
        if (width, height) == (kept_width, kept_height) {
            return Ok(plane);
        }
        let lines = plane.chunks_exact(width as usize).take(kept_height as usize);
        Ok(lines.flat_map(|line| &line[..kept_width as usize]).copied().collect())
    }
}

impl Media<Picture> for Pictures {
    fn next(&mut self) -> Result<Option<(Picture, MediaTime)>, Fault> {
        let line = line(&mut self.input)?;
        if line.is_empty() {
            return Ok(None);
        }
        if !line.starts_with("FRAME") {
            return Err(Fault::Damaged(format!("picture {} does not begin with FRAME", self.next)));
        }
        let (width, height) = (self.width, self.height);
        let kept = (width & !1, height & !1);
        let half = (kept.0 / 2, kept.1 / 2);
        let planes = [
            self.plane(width, height, kept)?,
            self.plane(width.div_ceil(2), height.div_ceil(2), half)?,
            self.plane(width.div_ceil(2), height.div_ceil(2), half)?,
        ];
        let picture = Picture::from_planes(kept.0, kept.1, planes, self.time(self.next))
            .map_err(|error| Fault::Foreign(error.to_string()))?;
        self.next += 1;
        Ok(Some((picture, self.time(self.next))))
    }

    fn rewind(&mut self) -> Result<(), Fault> {
        self.input.seek(SeekFrom::Start(self.start))?;
        self.next = 0;
        Ok(())
    }
}

/// A line without its end; empty at the end of the file.
fn line(input: &mut impl BufRead) -> Result<String, Fault> {
    let mut line = Vec::new();
    input.take(LINE_MAX).read_until(b'\n', &mut line)?;
    match line.pop() {
        None => Ok(String::new()),
        Some(b'\n') => Ok(String::from_utf8_lossy(&line).into_owned()),
        Some(_) => Err(Fault::Damaged("a line of its text does not end".into())),
    }
}

#[derive(Debug, PartialEq)]
struct Header {
    width: u32,
    height: u32,
    rate: (u64, u64),
}

impl Header {
    fn parse(line: &str) -> Result<Self, Fault> {
        let damaged = |what: &str| Fault::Damaged(format!("its first line gives no {what}"));
        let (mut width, mut height, mut rate) = (None, None, None);
        for field in line.split_ascii_whitespace().skip(1) {
            let Some(kind) = field.chars().next() else { continue };
            let value = &field[kind.len_utf8()..];
            match kind {
                'W' => width = value.parse().ok(),
                'H' => height = value.parse().ok(),
                'F' => rate = value.split_once(':').and_then(|(of, per)| Some((of.parse().ok()?, per.parse().ok()?))),
                'C' if !value.starts_with("420") || value.starts_with("420p1") => {
                    return Err(Fault::Foreign(format!("its pictures are {value}, only 8-bit 4:2:0 can be used")));
                }
                'I' if matches!(value, "t" | "b" | "m") => {
                    return Err(Fault::Foreign("its pictures are interlaced".into()));
                }
                _ => {}
            }
        }
        let width: u32 = width.ok_or_else(|| damaged("width"))?;
        let height: u32 = height.ok_or_else(|| damaged("height"))?;
        let (pictures, seconds): (u64, u64) = rate.ok_or_else(|| damaged("frame rate"))?;
        let sides = SIDE_MIN..=SIDE_MAX;
        if !sides.contains(&width) || !sides.contains(&height) {
            let found =
                format!("its pictures are {width}x{height}, sides must be from {SIDE_MIN} to {SIDE_MAX} pixels");
            return Err(Fault::Foreign(found));
        }
        // From one picture an hour to the fastest.
        let good = pictures > 0 && seconds > 0 && pictures / seconds <= FPS_MAX && seconds / pictures <= 3_600;
        if !good || pictures > u64::from(u32::MAX) || seconds > u64::from(u32::MAX) {
            return Err(Fault::Foreign(format!("its frame rate is {pictures}:{seconds}")));
        }
        Ok(Self { width, height, rate: (pictures, seconds) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_says_size_and_rate() {
        let header =
            Header::parse("YUV4MPEG2 W352 H288 F30000:1001 Ip A128:117 C420jpeg XYSCSS=420JPEG").expect("good");
        assert_eq!(header, Header { width: 352, height: 288, rate: (30_000, 1_001) });
        for bad in [
            "YUV4MPEG2",
            "YUV4MPEG2 W352 H288",
            "YUV4MPEG2 W352 H288 F30",
            "YUV4MPEG2 W352 H288 F0:0",
            "YUV4MPEG2 W352 H288 F30:1 C422",
            "YUV4MPEG2 W352 H288 F30:1 C420p10",
            "YUV4MPEG2 W352 H288 F30:1 It",
            "YUV4MPEG2 W999999999 H288 F30:1",
            "YUV4MPEG2 W-1 H288 F30:1",
        ] {
            assert!(Header::parse(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_first_line_is_read_or_refused(line in "YUV4MPEG2 .{0,80}") {
            if let Ok(header) = Header::parse(&line) {
                proptest::prop_assert!(header.width <= SIDE_MAX && header.height <= SIDE_MAX);
            }
        }
    }
}
