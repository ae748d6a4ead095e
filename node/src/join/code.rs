//! The invite code: what a clerk types, reads out over the telephone, or holds before a camera.
//!
//! It carries the secret and where to knock, so the new PC needs nothing else. Letters are Crockford's base 32, in groups of
//! five. The fifth letter of each group checks the four before it and the group's place, because "wrong code"
//! sends a person back over forty letters and "group 3" over five. The last group checks the whole, since a group
//! that is left out takes its own check letter with it.
//!
//! Bits, from the highest: version (4), mesh port (a 0, or a 1 and 16 bits), how many addresses (2), the addresses, the
//! secret (80), zeros up to a whole group. An address is its kind (2), its port (as above) and 32 bits, 128 bits, or a
//! length (6) and as many letters of a host name (6 each).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zeroize::Zeroizing;

use super::secret::Secret;
use crate::config::Address;

/// Most addresses in a code; each adds one or two groups.
pub const ADDRESSES_MAX: usize = 3;
/// Longest host name a code can carry.
pub const HOST_MAX: usize = 63;

const VERSION: u8 = 1;
/// Ports that need not be spelled out.
const MEDIA_PORT: u16 = 7500;
const MESH_PORT: u16 = 7400;
/// Letters of a group before its check letter.
const CARRIED: usize = 4;
const GROUP: usize = CARRIED + 1;
/// Bits of a letter.
const LETTER: usize = 5;
/// No code of ours has half of this many characters, with all the spaces a person may add.
const TEXT_MAX: usize = 4096;
const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const HOST_LETTERS: &[u8; 39] = b"abcdefghijklmnopqrstuvwxyz0123456789-._";

/// What an invite code says.
#[derive(Clone, PartialEq, Eq)]
pub struct Code {
    secret: Secret,
    mesh_port: u16,
    addresses: Vec<Address>,
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Code").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Why these addresses cannot be put into a code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// None, or more than [`ADDRESSES_MAX`].
    #[error("a code carries one to {ADDRESSES_MAX} addresses, not {0}")]
    Count(usize),
    /// A name longer than [`HOST_MAX`].
    #[error("the host name {0:?} is longer than the {HOST_MAX} letters a code has room for: give its IP address")]
    Host(String),
}

/// Why a text is not a code. Groups count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mistyped {
    /// There are no letters in it.
    Empty,
    /// A letter that no code has.
    Letter {
        /// Where.
        group: usize,
        /// What.
        found: char,
    },
    /// A group that has not five letters.
    Length {
        /// Which.
        group: usize,
        /// How many it has.
        letters: usize,
    },
    /// Groups whose check letter does not fit; never empty.
    Groups(Vec<usize>),
    /// Each group is right by itself: one is missing, or they are in another order.
    Whole,
    /// Right, but of another version of the program.
    Version(u8),
}

impl Code {
    /// A code for whoever answers at `addresses`, the UDP port of a media plane each, and calls its mesh at `mesh_port`.
    pub fn new(secret: Secret, mesh_port: u16, addresses: Vec<Address>) -> Result<Self, Unfit> {
        if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
            return Err(Unfit::Count(addresses.len()));
        }
        let lower = |address: Address| Address { host: address.host.to_ascii_lowercase(), ..address };
        let addresses: Vec<_> = addresses.into_iter().map(lower).collect();
        let fits = |host: &str| {
            host.parse::<IpAddr>().is_ok()
                || (1..=HOST_MAX).contains(&host.len()) && host.bytes().all(|byte| HOST_LETTERS.contains(&byte))
        };
        match addresses.iter().find(|address| !fits(&address.host)) {
            Some(address) => Err(Unfit::Host(address.host.clone())),
            None => Ok(Self { secret, mesh_port, addresses }),
        }
    }

    /// What must be known to come in.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Where the inviting node's media plane is.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The inviting node's mesh port, at the same hosts.
    pub fn mesh_port(&self) -> u16 {
        self.mesh_port
    }

    /// The code as it is printed. Whoever reads it can come in, so it is wiped when dropped.
    pub fn text(&self) -> Zeroizing<String> {
        let mut carried = self.bits().letters();
        let sum = check(&carried);
        carried.extend_from_slice(&sum);
        let mut text = Zeroizing::new(String::with_capacity(carried.len() * 2));
        for (place, group) in carried.chunks(CARRIED).enumerate() {
            if place > 0 {
                text.push('-');
            }
            for letter in group.iter().chain([&check_letter(place, group)]) {
                text.push(char::from(LETTERS[usize::from(*letter)]));
            }
        }
        text
    }

    /// Reads a code as people type it: either case, any spaces and dashes, O for 0, I and L for 1.
    pub fn parse(text: &str) -> Result<Self, Mistyped> {
        let letters = letters(text)?;
        if letters.is_empty() {
            return Err(Mistyped::Empty);
        }
        let groups = letters.chunks(GROUP).enumerate();
        let wrong: Vec<usize> = groups.filter(|(place, group)| !stands(*place, group)).map(|(n, _)| n + 1).collect();
        if letters.len() % GROUP != 0 {
            // What a person set apart tells more than our own counting, which slips after a letter too many or too few.
            return Err(uneven(text).unwrap_or(Mistyped::Groups(wrong.into_iter().take(1).collect())));
        }
        if !wrong.is_empty() {
            return Err(Mistyped::Groups(wrong));
        }
        let carried: Zeroizing<Vec<u8>> =
            letters.chunks(GROUP).flat_map(|group| &group[..CARRIED]).copied().collect::<Vec<_>>().into();
        let (carried, sum) = carried.split_at(carried.len() - CARRIED);
        if check(carried) != *sum {
            return Err(Mistyped::Whole);
        }
        let code = Self::read(&mut Bits::of(carried))?;
        // There is one way to write a code.
        if *code.bits().letters() == *carried { Ok(code) } else { Err(Mistyped::Whole) }
    }

    fn bits(&self) -> Bits {
        let mut bits = Bits::default();
        bits.push(VERSION.into(), 4);
        bits.push_port(self.mesh_port, MESH_PORT);
        bits.push(self.addresses.len() as u128, 2);
        for Address { host, port } in &self.addresses {
            let ip = host.parse::<IpAddr>();
            bits.push(ip.as_ref().map_or(2, |ip| u128::from(ip.is_ipv6())), 2);
            bits.push_port(*port, MEDIA_PORT);
            match ip {
                Ok(IpAddr::V4(ip)) => bits.push(ip.to_bits().into(), 32),
                Ok(IpAddr::V6(ip)) => bits.push(ip.to_bits(), 128),
                Err(_) => {
                    bits.push(host.len() as u128, 6);
                    let place = |byte: u8| HOST_LETTERS.iter().position(|letter| *letter == byte);
                    host.bytes().filter_map(place).for_each(|place| bits.push(place as u128, 6));
                }
            }
        }
        self.secret.as_bytes().iter().for_each(|byte| bits.push((*byte).into(), 8));
        bits
    }

    fn read(bits: &mut Bits) -> Result<Self, Mistyped> {
        let version = bits.take(4).ok_or(Mistyped::Whole)? as u8;
        if version != VERSION {
            return Err(Mistyped::Version(version));
        }
        Self::read_on(bits).ok_or(Mistyped::Whole)
    }

    fn read_on(bits: &mut Bits) -> Option<Self> {
        let mesh_port = bits.take_port(MESH_PORT)?;
        let mut addresses = Vec::new();
        for _ in 0..bits.take(2)? {
            let kind = bits.take(2)?;
            let port = bits.take_port(MEDIA_PORT).filter(|port| *port != 0)?;
            let host = match kind {
                0 => Ipv4Addr::from_bits(bits.take(32)? as u32).to_string(),
                1 => Ipv6Addr::from_bits(bits.take(128)?).to_string(),
                2 => {
                    let len = bits.take(6)?;
                    let letter = |_| Some(char::from(*HOST_LETTERS.get(bits.take(6)? as usize)?));
                    (0..len).map(letter).collect::<Option<String>>()?
                }
                _ => return None,
            };
            addresses.push(Address { host, port });
        }
        let mut secret = Zeroizing::new([0; Secret::LEN]);
        for byte in secret.iter_mut() {
            *byte = bits.take(8)? as u8;
        }
        Self::new(Secret::from_bytes(&secret), mesh_port, addresses).ok()
    }
}

/// The values of the letters in a text.
fn letters(text: &str) -> Result<Zeroizing<Vec<u8>>, Mistyped> {
    let mut letters = Zeroizing::new(Vec::new());
    for found in text.chars().filter(|found| found.is_alphanumeric()) {
        let meant = match found.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        };
        match LETTERS.iter().position(|letter| char::from(*letter) == meant) {
            Some(value) if letters.len() < TEXT_MAX => letters.push(value as u8),
            _ => return Err(Mistyped::Letter { group: letters.len() / GROUP + 1, found }),
        }
    }
    Ok(letters)
}

/// The first group that a person set apart and that has not five letters.
fn uneven(text: &str) -> Option<Mistyped> {
    let parts = text.split(|found: char| !found.is_alphanumeric()).filter(|part| !part.is_empty());
    let counted: Vec<usize> = parts.map(|part| part.chars().count()).collect();
    let group = counted.iter().position(|letters| *letters != GROUP)?;
    // Without any group of five the spaces are not ours, and say nothing.
    counted.contains(&GROUP).then(|| Mistyped::Length { group: group + 1, letters: counted[group] })
}

fn stands(place: usize, group: &[u8]) -> bool {
    group.len() == GROUP && check_letter(place, &group[..CARRIED]) == group[CARRIED]
}

/// A sum over GF(32), x^5 + x^2 + 1, each letter times a power of x: no change of one letter and no two letters
/// exchanged leave it as it was. It begins with the group's place, so that groups exchanged show too.
fn check_letter(place: usize, letters: &[u8]) -> u8 {
    let times_x = |sum: u8| {
        let twice = sum << 1;
        if twice & 0b10_0000 == 0 { twice } else { twice ^ 0b10_0101 }
    };
    // Once more at the end: the check letter itself then counts like none of the others.
    times_x(letters.iter().fold(((place + 1) % 32) as u8, |sum, letter| times_x(sum) ^ letter))
}

/// Four letters that follow from all before them.
fn check(letters: &[u8]) -> [u8; CARRIED] {
    let mut hasher = blake3::Hasher::new_derive_key("diemcau 2026 invite code check v1");
    hasher.update(letters);
    let sum = hasher.finalize();
    std::array::from_fn(|n| sum.as_bytes()[n] & 31)
}

/// Bits one after another, a byte each: there are a few hundred.
#[derive(Default)]
struct Bits {
    bits: Zeroizing<Vec<u8>>,
    read: usize,
}

impl Bits {
    fn of(letters: &[u8]) -> Self {
        let mut bits = Self::default();
        letters.iter().for_each(|letter| bits.push((*letter).into(), LETTER));
        bits
    }

    fn push(&mut self, value: u128, width: usize) {
        self.bits.extend((0..width).rev().map(|place| (value >> place & 1) as u8));
    }

    fn push_port(&mut self, port: u16, usual: u16) {
        self.push(u128::from(port != usual), 1);
        if port != usual {
            self.push(port.into(), 16);
        }
    }

    fn take(&mut self, width: usize) -> Option<u128> {
        let bits = self.bits.get(self.read..self.read + width)?;
        self.read += width;
        Some(bits.iter().fold(0, |value, bit| value << 1 | u128::from(*bit)))
    }

    fn take_port(&mut self, usual: u16) -> Option<u16> {
        if self.take(1)? == 0 { Some(usual) } else { Some(self.take(16)? as u16) }
    }

    /// Filled up with zeros to a whole group.
    fn letters(&self) -> Zeroizing<Vec<u8>> {
        let mut letters = Zeroizing::new(Vec::new());
        for bits in self.bits.chunks(LETTER) {
            let value = bits.iter().fold(0, |value, bit| value << 1 | bit);
            letters.push(value << (LETTER - bits.len()));
        }
        while letters.len() % CARRIED != 0 {
            letters.push(0);
        }
        letters
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret() -> Secret {
        Secret::from_bytes(&[0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99])
    }

    fn code(addresses: &[&str]) -> Code {
        Code::new(secret(), 7400, addresses.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
    }

    #[test]
    fn printed_codes_are_read_for_ever() {
        let three = ["113.160.1.2:7501", "[2001:db8::5]:7500", "kim-thanh.haiphong.gov.vn:7500"];
        let codes = [code(&["113.160.1.2:7500"]), code(&three)];
        assert_eq!(codes.each_ref().map(|code| code.text().to_string()), V1);
        assert_eq!(V1.map(Code::parse), codes.map(Ok));
    }

    const V1: [&str; 2] = [
        "28E6V-G020F-G0242-H36HE-2NCSF-VRH6E-8000F-WY2KY",
        "2S3NN-6Q38G-0109N-20081-DQ00P-0000Y-0000V-0000D-00008-0B34H-M8695-2CE0E-6HWMX-E043Y-RWWDH-398RX-WNJNR-9M017-\
         28HKQ-8HAP2-CXW89-K400S-7WA52",
    ];

    #[test]
    fn a_code_for_one_office_line_is_eight_groups() {
        assert_eq!(code(&["113.160.1.2:7500"]).text().split('-').count(), 8);
    }

    #[test]
    fn a_code_is_read_as_people_type_it() {
        let code = code(&["113.160.1.2:7500", "192.168.1.5:7500"]);
        let text = code.text();
        let typed = [
            text.to_lowercase(),
            text.replace('-', " "),
            text.replace('-', ""),
            text.replace('-', "\n  — "),
            text.replace('0', "O").replace('1', "l"),
            text.replace('0', "o").replace('1', "i"),
            format!("  {}. ", text.as_str()),
        ];
        for typed in typed {
            assert_eq!(Code::parse(&typed).as_ref(), Ok(&code), "{typed}");
        }
    }

    #[test]
    fn any_one_wrong_letter_is_found_with_its_group() {
        let text = code(&["113.160.1.2:7500"]).text();
        for at in (0..text.len()).filter(|at| text.as_bytes()[*at] != b'-') {
            for other in LETTERS.iter().filter(|letter| **letter != text.as_bytes()[at]) {
                let mut wrong = text.as_bytes().to_vec();
                wrong[at] = *other;
                let wrong = String::from_utf8(wrong).unwrap();
                assert_eq!(Code::parse(&wrong), Err(Mistyped::Groups(vec![at / 6 + 1])), "{wrong}");
            }
        }
    }

    #[test]
    fn two_letters_exchanged_are_found_with_their_group() {
        let text = code(&["113.160.1.2:7500"]).text();
        for at in 0..text.len() - 1 {
            let mut wrong = text.as_bytes().to_vec();
            wrong.swap(at, at + 1);
            if wrong != text.as_bytes() && !wrong[at..=at + 1].contains(&b'-') {
                let wrong = String::from_utf8(wrong).unwrap();
                assert_eq!(Code::parse(&wrong), Err(Mistyped::Groups(vec![at / 6 + 1])), "{wrong}");
            }
        }
    }

    #[test]
    fn what_else_goes_wrong_in_typing_is_named_too() {
        let text = code(&["113.160.1.2:7500"]).text();
        let groups: Vec<&str> = text.split('-').collect();
        let check = |typed: &str, expected: Mistyped| assert_eq!(Code::parse(typed), Err(expected), "{typed}");
        check("", Mistyped::Empty);
        check(" - ", Mistyped::Empty);
        check(&text.replacen(&groups[2][..1], "ô", 1), {
            let at = text.find(&groups[2][..1]).unwrap();
            Mistyped::Letter { group: at / 6 + 1, found: 'ô' }
        });
        let short = [&groups[..3], &[&groups[3][1..]], &groups[4..]].concat().join("-");
        check(&short, Mistyped::Length { group: 4, letters: 4 });
        let long = format!("{}{}", &text[..11], &text[10..]);
        check(&long, Mistyped::Length { group: 2, letters: 6 });
        // A letter left out where nothing is set apart: all after it slips.
        let run = text.replace('-', "");
        let Err(Mistyped::Groups(groups_found)) = Code::parse(&format!("{}{}", &run[..16], &run[17..])) else {
            panic!()
        };
        assert!(groups_found[0] >= 4, "{groups_found:?}");
        // The end left out: each group is right, and together they are not.
        check(&groups[..7].join("-"), Mistyped::Whole);
        check(groups[0], Mistyped::Whole);
        let exchanged = [&groups[..2], &[groups[3], groups[2]], &groups[4..]].concat().join("-");
        check(&exchanged, Mistyped::Groups(vec![3, 4]));
        assert!(matches!(Code::parse(&"9".repeat(100_000)), Err(Mistyped::Letter { .. })));
    }

    #[test]
    fn a_code_of_a_later_version_is_not_called_mistyped() {
        let mut bits = code(&["113.160.1.2:7500"]).bits();
        bits.bits[..4].copy_from_slice(&[0, 0, 1, 0]);
        let mut carried = bits.letters();
        let sum = check(&carried);
        carried.extend_from_slice(&sum);
        let letter = |value: &u8| char::from(LETTERS[usize::from(*value)]);
        let text: String = carried
            .chunks(CARRIED)
            .enumerate()
            .flat_map(|(n, group)| group.iter().map(letter).chain([letter(&check_letter(n, group))]))
            .collect();
        assert_eq!(Code::parse(&text), Err(Mistyped::Version(2)));
    }

    #[test]
    fn a_code_that_would_not_fit_is_refused_when_it_is_made() {
        let make = |hosts: &[&str]| {
            let address = |host: &&str| Address { host: (*host).to_owned(), port: 7500 };
            Code::new(secret(), 7400, hosts.iter().map(address).collect())
        };
        assert_eq!(make(&[]), Err(Unfit::Count(0)));
        assert_eq!(make(&["10.0.0.1"; 4]), Err(Unfit::Count(4)));
        let long = "a".repeat(HOST_MAX + 1);
        assert_eq!(make(&[&long]), Err(Unfit::Host(long.clone())));
        assert!(make(&[&long[1..]]).is_ok());
        assert_eq!(make(&["KIM-THANH.vn"]).unwrap().addresses()[0].host, "kim-thanh.vn");
    }

    #[test]
    fn printing_a_code_shows_no_secret() {
        let code = code(&["113.160.1.2:7500"]);
        let printed = format!("{code:?}");
        assert!(printed.contains("113.160.1.2") && !printed.contains("99"), "{printed}");
    }

    proptest! {
        #[test]
        fn every_code_comes_back(
            secret in any::<[u8; 10]>(),
            mesh in any::<u16>(),
            hosts in proptest::collection::vec(
                (prop_oneof![
                    any::<[u8; 4]>().prop_map(|ip| IpAddr::from(ip).to_string()),
                    any::<[u8; 16]>().prop_map(|ip| IpAddr::from(ip).to_string()),
                    "[a-z][a-z0-9._-]{0,62}",
                ], 1..=u16::MAX),
                1..=ADDRESSES_MAX,
            ),
        ) {
            let addresses = hosts.into_iter().map(|(host, port)| Address { host, port }).collect();
            let code = Code::new(Secret::from_bytes(&secret), mesh, addresses).unwrap();
            prop_assert_eq!(Code::parse(&code.text()), Ok(code));
        }

        #[test]
        fn whatever_is_typed_there_is_an_answer(text in "\\PC{0,200}") {
            // Almost surely not a code; what counts is that it returns.
            drop(Code::parse(&text));
        }
    }
}
