//! H.264 byte streams: finding NAL units, reading what a sequence parameter set says, and the length-prefixed form
//! that MP4 wants. Everything here reads bytes from outside, so nothing is trusted: lengths are checked before they
//! are used and a set that makes no sense is an error before the C decoder sees it.

use bytes::{BufMut, Bytes, BytesMut};

/// NAL unit types we act on (ITU-T H.264 table 7-1).
pub(crate) mod kind {
    pub(crate) const IDR: u8 = 5;
    pub(crate) const SPS: u8 = 7;
    pub(crate) const PPS: u8 = 8;
    pub(crate) const DELIMITER: u8 = 9;
}

/// Type of a NAL unit; zero (unspecified) when it is empty.
pub(crate) fn kind_of(nal: &[u8]) -> u8 {
    nal.first().map_or(0, |first| first & 0x1f)
}

/// The NAL units of an Annex B stream, without start codes. Bytes before the first start code are skipped.
pub(crate) fn nals(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = after_start_code(stream);
    std::iter::from_fn(move || {
        let here = rest?;
        let (nal, next) = match start_code(here) {
            Some(at) => (&here[..at], Some(&here[at + 3..])),
            None => (here, None),
        };
        rest = next;
        // Zeros before a start code are part of it or padding (B.1.1), never of the unit.
        let end = nal.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        Some(&nal[..end])
    })
    .filter(|nal| !nal.is_empty())
}

fn after_start_code(stream: &[u8]) -> Option<&[u8]> {
    start_code(stream).map(|at| &stream[at + 3..])
}

/// Where the next `00 00 01` begins.
fn start_code(stream: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(one) = stream.get(from + 2..)?.iter().position(|&byte| byte == 1) {
        let at = from + one;
        if stream[at] == 0 && stream[at + 1] == 0 {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

/// The stream with four-byte lengths in place of start codes (ISO/IEC 14496-15 5.3), parameter sets and access unit
/// delimiters left out, as they live in the file's header.
pub(crate) fn to_lengths(stream: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(stream.len() + 16);
    for nal in nals(stream) {
        if matches!(kind_of(nal), kind::SPS | kind::PPS | kind::DELIMITER) {
            continue;
        }
        let Ok(length) = u32::try_from(nal.len()) else { continue };
        out.put_u32(length);
        out.put_slice(nal);
    }
    out.freeze()
}

/// The other way: lengths of `prefix` bytes (1, 2 or 4) become start codes, written after `out`. `None` when the lengths
/// do not add up.
pub(crate) fn from_lengths(mut sample: &[u8], prefix: usize, out: &mut Vec<u8>) -> Option<()> {
    if !matches!(prefix, 1 | 2 | 4) {
        return None;
    }
    while !sample.is_empty() {
        let (head, rest) = sample.split_at_checked(prefix)?;
        let length = head.iter().fold(0_usize, |sum, &byte| sum << 8 | usize::from(byte));
        let (nal, rest) = rest.split_at_checked(length)?;
        put(nal, out);
        sample = rest;
    }
    Some(())
}

/// Appends one unit with a start code.
pub(crate) fn put(nal: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0, 0, 1]);
    out.extend_from_slice(nal);
}

/// What a sequence parameter set says of its pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) profile: u8,
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// 0 grey, 1 4:2:0, 2 4:2:2, 3 4:4:4.
    pub(crate) chroma: u32,
    /// Bits of a luma sample.
    pub(crate) depth: u32,
    /// Whole frames only; otherwise fields (interlaced) may come.
    pub(crate) progressive: bool,
}

impl Sequence {
    /// Reads a sequence parameter set (7.3.2.1.1) as far as its picture size. `None` when it breaks off or exceeds the
    /// standard's bounds.
    pub(crate) fn parse(nal: &[u8]) -> Option<Self> {
        if kind_of(nal) != kind::SPS {
            return None;
        }
        let payload = unescape(nal.get(1..)?);
        let mut bits = Bits { bytes: &payload, at: 0 };
        let profile = bits.take(8)? as u8;
        bits.take(16)?;
        bits.golomb()?;
        let (mut chroma, mut depth) = (1, 8);
        if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
            chroma = bits.golomb()?;
            if chroma == 3 {
                bits.take(1)?;
            }
            depth = bits.golomb()?.checked_add(8)?;
            bits.golomb()?;
            bits.take(1)?;
            if bits.take(1)? == 1 {
                for list in 0..if chroma == 3 { 12 } else { 8 } {
                    if bits.take(1)? == 1 {
                        bits.skip_scaling_list(if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        bits.golomb()?;
        match bits.golomb()? {
            0 => {
                bits.golomb()?;
            }
            1 => {
                bits.take(1)?;
                bits.golomb()?;
                bits.golomb()?;
                let count = bits.golomb()?;
                if count > 255 {
                    return None;
                }
                for _ in 0..count {
                    bits.golomb()?;
                }
            }
            2 => {}
            _ => return None,
        }
        bits.golomb()?;
        bits.take(1)?;
        let columns = bits.golomb()?.checked_add(1)?;
        let rows = bits.golomb()?.checked_add(1)?;
        let progressive = bits.take(1)? == 1;
        if !progressive {
            bits.take(1)?;
        }
        bits.take(1)?;
        let mut crop = [0; 4];
        if bits.take(1)? == 1 {
            for side in &mut crop {
                *side = bits.golomb()?;
            }
        }
        let fields = if progressive { 1 } else { 2 };
        let (across, down) = match chroma {
            1 => (2, 2 * fields),
            2 => (2, fields),
            _ => (1, fields),
        };
        let size = |units: u32, per: u32, cut: [u32; 2], by: u32| {
            let cut = cut[0].checked_add(cut[1])?.checked_mul(by)?;
            units.checked_mul(per)?.checked_sub(cut).filter(|&side| side > 0)
        };
        Some(Self {
            profile,
            width: size(columns, 16, [crop[0], crop[1]], across)?,
            height: size(rows, 16 * fields, [crop[2], crop[3]], down)?,
            chroma,
            depth,
            progressive,
        })
    }
}

/// Takes out the bytes that keep start codes from appearing inside a unit (7.4.1).
fn unescape(nal: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(nal.len());
    let mut zeros = 0;
    for &byte in nal {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    /// ue(v), and se(v) where only its length matters (9.1).
    fn golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.take(1)? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        let rest = self.take(zeros)?;
        ((1_u32 << zeros) - 1).checked_add(rest)
    }

    fn skip_scaling_list(&mut self, length: usize) -> Option<()> {
        let (mut last, mut next) = (8_i64, 8_i64);
        for _ in 0..length {
            if next != 0 {
                let code = i64::from(self.golomb()?);
                let delta = if code % 2 == 0 { -(code / 2) } else { code / 2 + 1 };
                next = (last + delta + 256).rem_euclid(256);
            }
            if next != 0 {
                last = next;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_found_whatever_the_start_code() {
        let stream = [9, 9, 0, 0, 0, 1, 0x67, 5, 0, 0, 1, 0x68, 1, 0, 0, 0, 0, 1, 0x65, 0, 2, 0, 0];
        let found: Vec<_> = nals(&stream).collect();
        assert_eq!(found, [&[0x67, 5][..], &[0x68, 1], &[0x65, 0, 2]]);
        assert_eq!(nals(&[0, 0]).count(), 0);
        assert_eq!(nals(&[]).count(), 0);
        assert_eq!(nals(&[0, 0, 1]).count(), 0);
    }

    #[test]
    fn both_forms_hold_the_same_units() {
        let stream = [0, 0, 0, 1, 0x67, 5, 0, 0, 1, 0x68, 1, 0, 0, 1, 0x65, 7, 7, 0, 0, 1, 0x41, 3];
        let lengths = to_lengths(&stream);
        assert_eq!(&lengths[..], [0, 0, 0, 3, 0x65, 7, 7, 0, 0, 0, 2, 0x41, 3]);
        let mut back = Vec::new();
        assert!(from_lengths(&lengths, 4, &mut back).is_some());
        assert_eq!(nals(&back).collect::<Vec<_>>(), [&[0x65, 7, 7][..], &[0x41, 3]]);
        assert!(from_lengths(&lengths[..6], 4, &mut Vec::new()).is_none());
        assert!(from_lengths(&lengths, 3, &mut Vec::new()).is_none());
    }

    #[test]
    fn a_parameter_set_gives_its_size() {
        // x264, High, 1366x768, of which 85.4 macroblocks: cropped.
        let high = [0x67, 0x64, 0x00, 0x20, 0xac, 0xd9, 0x40, 0x56, 0x06, 0x1e, 0x6f, 0x01, 0x10, 0x00, 0x00, 0x03];
        let found = Sequence::parse(&high).expect("a good set");
        assert_eq!((found.profile, found.width, found.height), (100, 1366, 768));
        assert_eq!((found.chroma, found.depth, found.progressive), (1, 8, true));
        for end in 0..9 {
            assert_eq!(Sequence::parse(&high[..end]), None, "cut at {end}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), prefix in 0_usize..6) {
            for nal in nals(&bytes) {
                prop_assert!(!nal.is_empty() && nal.len() <= bytes.len());
            }
            let mut set = vec![0x67];
            set.extend_from_slice(&bytes);
            if let Some(sequence) = Sequence::parse(&set) {
                prop_assert!(sequence.width > 0 && sequence.height > 0);
            }
            let mut out = Vec::new();
            let _ = from_lengths(&bytes, prefix, &mut out);
            prop_assert!(out.len() <= bytes.len() * 5);
        }
    }
}
