//! Small seeded changes to inputs, as what lies between a good message and a hostile one: bits turned, numbers made
//! extreme, pieces left out, doubled, or taken from another input.

use simnet::rng::Rng;

/// Numbers at which arithmetic goes wrong.
const EXTREMES: [u64; 10] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];

/// Longest input made.
const LENGTH_MAX: usize = 64 * 1024;

/// `input` with one to six changes; pieces may come from `other`.
pub fn mutate(rng: &mut Rng, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=below(rng, 6) {
        change(rng, &mut bytes, other);
    }
    bytes.truncate(LENGTH_MAX);
    bytes
}

fn change(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let (from, to) = span(rng, bytes.len());
    match below(rng, 9) {
        0 if from < bytes.len() => bytes[from] ^= 1 << below(rng, 8),
        1 if from < bytes.len() => bytes[from] = rng.bits() as u8,
        2 => {
            let number = EXTREMES[below(rng, EXTREMES.len())].to_be_bytes();
            let width = [1, 2, 4, 8][below(rng, 4)];
            for (at, byte) in number[8 - width..].iter().enumerate() {
                if let Some(place) = bytes.get_mut(from + at) {
                    *place = *byte;
                }
            }
        }
        3 => drop(bytes.drain(from..to)),
        4 => {
            let piece = bytes[from..to].to_vec();
            bytes.splice(to..to, piece);
        }
        5 => {
            let (other_from, other_to) = span(rng, other.len());
            bytes.splice(from..to, other[other_from..other_to].iter().copied());
        }
        6 => {
            let noise: Vec<u8> = (0..below(rng, 12)).map(|_| rng.bits() as u8).collect();
            bytes.splice(from..from, noise);
        }
        7 => bytes.truncate(from),
        _ => {
            if let Some(byte) = bytes.get_mut(from) {
                *byte = if below(rng, 2) == 0 { byte.wrapping_add(1) } else { byte.wrapping_sub(1) };
            }
        }
    }
}

/// A stretch of something so long; often short.
fn span(rng: &mut Rng, length: usize) -> (usize, usize) {
    let from = below(rng, length + 1);
    let longest = if below(rng, 4) == 0 { length } else { 16 };
    (from, (from + below(rng, longest + 1)).min(length))
}

fn below(rng: &mut Rng, bound: usize) -> usize {
    (rng.bits() % bound.max(1) as u64) as usize
}
