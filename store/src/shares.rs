//! The recovery key on paper: split into shares (Shamir), some of which together give it back, and fewer tell nothing.
//!
//! Each share is a line that says which it is and 24 words of BIP-39's English list, which hold its 256 bits and a
//! check sum and were chosen to be told apart when read aloud or typed. The whole is a run of words in which case and
//! line breaks do not matter, so that it can be typed in from paper, and is the same in a QR code.
//!
//! ```text
//! diemcau recovery share 1
//! set 3f2a91bc share 2 of 5 any 3 check 77ab
//! 1 abandon 2 ability ... 24 zoo
//! ```
//!
//! The set's name is drawn afresh each time a key is split, and the check covers the line and the words, so shares of
//! two sets and a share under another's number are refused with a reason. What the shares give is compared with
//! the public key in the roster: a share that was changed knowingly cannot give a wrong key unnoticed.

use std::fmt;

use bip39::{Language, Mnemonic};
use blahaj::Sharks;
use zeroize::Zeroizing;

use crate::keys::{WrapKey, WrapPublic, random};

/// Most shares of one key.
pub const SHARES_MAX: u8 = 16;

/// Words of a share.
const WORDS: usize = 24;

/// Longest text that is looked at.
const LEN_MAX: usize = 4096;

/// Why shares could not be made, read or put together. No message contains a word of a share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Such a split makes no sense.
    #[error(
        "{shares} shares of which any {needed} are enough are not possible: 2 to {SHARES_MAX} shares, at least 2 needed"
    )]
    Counts {
        /// Shares asked for.
        shares: u8,
        /// How many would be enough.
        needed: u8,
    },
    /// Not a share's text, or its first two lines are not as printed.
    #[error("this is not a recovery share: {0}")]
    Form(&'static str),
    /// A word that no share has.
    #[error("word {0} is not in the list of words: look at it again, letter by letter")]
    Word(usize),
    /// Too few or too many words.
    #[error("{0} words where {WORDS} are expected")]
    Words(usize),
    /// All words are in the list, but not this one for this share, or the numbers were misread.
    #[error("the words do not fit together or not to the line before them: one of them is another word of the list")]
    Check,
    /// Shares of two different splits.
    #[error("share {number} is of another set ({found}) than the first one ({set})")]
    Set {
        /// Which.
        number: u8,
        /// Its set.
        found: String,
        /// The first one's.
        set: String,
    },
    /// One share given two times.
    #[error("share {0} was given twice")]
    Twice(u8),
    /// Not enough shares.
    #[error("{have} of the {needed} shares needed")]
    Few {
        /// Given.
        have: usize,
        /// Needed.
        needed: u8,
    },
    /// The key they give is not the one whose public half is known.
    #[error("the shares fit together, but give another key than the recovery key of this mesh")]
    Key,
}

/// One share. Its `Debug` form shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Share {
    set: [u8; 4],
    number: u8,
    of: u8,
    needed: u8,
    secret: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({} of {}, set {})", self.number, self.of, self.set())
    }
}

/// Splits a key into `shares` shares, any `needed` of which give it back.
pub fn split(key: &WrapKey, shares: u8, needed: u8) -> Result<Vec<Share>, Error> {
    if !(2..=SHARES_MAX).contains(&shares) || !(2..=shares).contains(&needed) {
        return Err(Error::Counts { shares, needed });
    }
    let set = random();
    let secret = key.secret_bytes();
    let dealt = Sharks(needed).dealer(secret.as_slice()).take(shares.into());
    let shares = dealt.map(|dealt| {
        let bytes = Zeroizing::new(Vec::from(&dealt));
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(&bytes[1..]);
        Share { set, number: bytes[0], of: shares, needed, secret }
    });
    Ok(shares.collect())
}

/// Puts shares together and gives the key, if it is the one with this public half. More shares than needed must all
/// be right.
pub fn combine(shares: &[Share], public: &WrapPublic) -> Result<WrapKey, Error> {
    let Some(first) = shares.first() else { return Err(Error::Few { have: 0, needed: 2 }) };
    for (place, share) in shares.iter().enumerate() {
        if (share.set, share.of, share.needed) != (first.set, first.of, first.needed) {
            return Err(Error::Set { number: share.number, found: share.set(), set: first.set() });
        }
        if shares[..place].iter().any(|before| before.number == share.number) {
            return Err(Error::Twice(share.number));
        }
    }
    if shares.len() < usize::from(first.needed) {
        return Err(Error::Few { have: shares.len(), needed: first.needed });
    }
    let dealt: Vec<_> = shares
        .iter()
        .map(|share| {
            let bytes = Zeroizing::new([&[share.number][..], share.secret.as_slice()].concat());
            blahaj::Share::try_from(bytes.as_slice()).expect("33 bytes are a share")
        })
        .collect();
    let secret = Zeroizing::new(Sharks(first.needed).recover(&dealt).expect("enough shares of one length"));
    let key = WrapKey::from_bytes(secret.as_slice().try_into().expect("shares of 32 bytes give 32 bytes"));
    if key.public() == *public { Ok(key) } else { Err(Error::Key) }
}

impl Share {
    /// Its number in its set, from 1.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// How many shares its set has.
    pub fn of(&self) -> u8 {
        self.of
    }

    /// How many shares are enough.
    pub fn needed(&self) -> u8 {
        self.needed
    }

    /// The name of its set: eight hexadecimal digits.
    pub fn set(&self) -> String {
        hex::encode(self.set)
    }

    /// The share to be printed: title, which it is, and six lines of four numbered words.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(LEN_MAX));
        text.push_str(&self.head());
        for (place, word) in self.mnemonic().words().enumerate() {
            text.push(if place % 4 == 0 { '\n' } else { ' ' });
            let width = if place % 4 == 3 { 0 } else { 8 };
            text.push_str(&format!("{:2} {word:width$}", place + 1));
        }
        text.push('\n');
        text
    }

    /// The same in one line of capitals, which a QR code holds in less room.
    pub fn to_line(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(LEN_MAX));
        text.push_str(&self.head().replace('\n', " "));
        for word in self.mnemonic().words() {
            text.push(' ');
            text.push_str(word);
        }
        text.make_ascii_uppercase();
        text
    }

    /// Reads a share in either form. Case, line breaks, the numbers of the words and marks after them do not matter;
    /// four letters are enough for a longer word.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > LEN_MAX {
            return Err(Error::Form("it is too long"));
        }
        let text = Zeroizing::new(text.to_lowercase());
        let mut tokens =
            text.split(|c: char| c.is_whitespace() || ",;:.()".contains(c)).filter(|token| !token.is_empty());
        if !TITLE.split(' ').all(|word| tokens.next() == Some(word)) {
            return Err(Error::Form("it does not begin with \"diemcau recovery share 1\""));
        }
        let mut set = [0; 4];
        named(&mut tokens, "set")
            .and_then(|digits| hex::decode_to_slice(digits, &mut set).ok())
            .ok_or(Error::Form("it does not say which set it is of, in eight digits"))?;
        let mut count = |name| named(&mut tokens, name).and_then(|digits| digits.parse::<u8>().ok());
        let numbers = (count("share"), count("of"), count("any"));
        let (Some(number), Some(of), Some(needed)) = numbers else {
            return Err(Error::Form("it does not say \"share NUMBER of NUMBER any NUMBER\""));
        };
        let check = named(&mut tokens, "check").ok_or(Error::Form("it has no check"))?;
        let counts_fit = (2..=SHARES_MAX).contains(&of) && (2..=of).contains(&needed) && (1..=of).contains(&number);
        if !counts_fit {
            return Err(Error::Form("its numbers cannot be"));
        }
        let secret = read_words(tokens)?;
        let share = Share { set, number, of, needed, secret };
        if share.check() == check { Ok(share) } else { Err(Error::Check) }
    }

    fn head(&self) -> String {
        format!(
            "{TITLE}\nset {} share {} of {} any {} check {}",
            self.set(),
            self.number,
            self.of,
            self.needed,
            self.check()
        )
    }

    fn mnemonic(&self) -> Mnemonic {
        Mnemonic::from_entropy_in(Language::English, self.secret.as_slice()).expect("32 bytes make 24 words")
    }

    /// Sixteen bits over all of it: with the words' own eight, one misreading in sixteen million goes unnoticed here.
    fn check(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("diemcau 2026 recovery share check v1");
        hasher.update(&self.set);
        hasher.update(&[self.number, self.of, self.needed]);
        hasher.update(self.secret.as_slice());
        hex::encode(&hasher.finalize().as_bytes()[..2])
    }
}

const TITLE: &str = "diemcau recovery share 1";

/// The token after the next, if the next is this name.
fn named<'a>(tokens: &mut impl Iterator<Item = &'a str>, name: &str) -> Option<&'a str> {
    if tokens.next()? == name { tokens.next() } else { None }
}

/// The 32 bytes that 24 words stand for. Numbers between them are passed over.
fn read_words<'a>(tokens: impl Iterator<Item = &'a str>) -> Result<Zeroizing<[u8; 32]>, Error> {
    let mut words = Zeroizing::new(String::with_capacity(LEN_MAX));
    let mut count = 0;
    for token in tokens.filter(|token| !token.bytes().all(|byte| byte.is_ascii_digit())) {
        count += 1;
        let word = word_of(token).ok_or(Error::Word(count))?;
        if count > WORDS {
            return Err(Error::Words(count));
        }
        words.push_str(word);
        words.push(' ');
    }
    if count != WORDS {
        return Err(Error::Words(count));
    }
    let mnemonic = Mnemonic::parse_in_normalized(Language::English, &words).map_err(|_| Error::Check)?;
    let (entropy, _) = mnemonic.to_entropy_array();
    let entropy = Zeroizing::new(entropy);
    let mut secret = Zeroizing::new([0; 32]);
    secret.copy_from_slice(&entropy[..32]);
    Ok(secret)
}

/// The word of the list that this is, or of which it is the first letters: no two words share the first four.
fn word_of(token: &str) -> Option<&'static str> {
    if let Some(index) = Language::English.find_word(token) {
        return Language::English.word_list().get(usize::from(index)).copied();
    }
    Language::English.words_by_prefix_iter(token).next().filter(|_| token.len() >= 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> WrapKey {
        WrapKey::from_bytes(&[7; 32])
    }

    /// Every choice of some of these shares.
    fn choices(shares: &[Share]) -> impl Iterator<Item = Vec<Share>> {
        (0u32..1 << shares.len()).map(|mask| {
            let chosen = shares.iter().enumerate().filter(|(place, _)| mask >> place & 1 == 1);
            chosen.map(|(_, share)| share.clone()).collect()
        })
    }

    #[test]
    fn any_three_of_five_give_the_key_and_no_two_do() {
        let shares = split(&key(), 5, 3).unwrap();
        for chosen in choices(&shares) {
            let outcome = combine(&chosen, &key().public());
            match chosen.len() {
                0 => assert_eq!(outcome.unwrap_err(), Error::Few { have: 0, needed: 2 }),
                have @ 1..3 => assert_eq!(outcome.unwrap_err(), Error::Few { have, needed: 3 }),
                _ => assert_eq!(*outcome.unwrap().secret_bytes(), [7; 32]),
            }
        }
        // Not for want of trying: two shares that claim to be enough give some other key.
        let bold: Vec<_> = shares[..2].iter().map(|share| Share { needed: 2, ..share.clone() }).collect();
        assert_eq!(combine(&bold, &key().public()).unwrap_err(), Error::Key);
    }

    #[test]
    fn other_splits_work_and_senseless_ones_are_refused() {
        for (shares, needed) in [(2, 2), (3, 2), (SHARES_MAX, SHARES_MAX)] {
            let dealt = split(&key(), shares, needed).unwrap();
            assert_eq!(dealt.len(), usize::from(shares));
            assert!(combine(&dealt[usize::from(shares - needed)..], &key().public()).is_ok());
        }
        for (shares, needed) in [(0, 0), (1, 1), (5, 1), (5, 6), (SHARES_MAX + 1, 3), (255, 255)] {
            assert_eq!(split(&key(), shares, needed), Err(Error::Counts { shares, needed }));
        }
    }

    #[test]
    fn a_share_is_read_back_however_it_is_typed() {
        for share in split(&key(), 3, 2).unwrap() {
            let text = share.to_text();
            let short: String = text
                .lines()
                .enumerate()
                .map(|(n, line)| match n {
                    0 | 1 => format!("{line}\n"),
                    _ => line.split_whitespace().map(|word| format!("{} ", word.get(..4).unwrap_or(word))).collect(),
                })
                .collect();
            let forms = [
                text.to_string(),
                share.to_line().to_string(),
                text.to_uppercase(),
                text.replace('\n', "\r\n  "),
                text.replace(" of ", ": of  "),
                text.split_whitespace().collect::<Vec<_>>().join("\t"),
                short,
            ];
            for form in forms {
                assert_eq!(Share::parse(&form), Ok(share.clone()), "{form}");
            }
        }
    }

    /// Written by the first version; must be readable for ever.
    const VERSION_1: &str = include_str!("../tests/vectors/shares-v1.txt");

    #[test]
    fn the_first_version_is_read_for_ever() {
        let shares: Vec<_> = VERSION_1.split("\n\n").map(|text| Share::parse(text).unwrap()).collect();
        assert_eq!(*combine(&shares, &key().public()).unwrap().secret_bytes(), [7; 32]);
        let printed: Vec<_> = shares.iter().map(|share| share.to_text().to_string()).collect();
        assert_eq!(printed.join("\n"), VERSION_1);
    }

    #[test]
    fn a_misread_share_is_refused_with_the_place() {
        let share = &split(&key(), 3, 2).unwrap()[0];
        let text = share.to_text();
        let check = |text: &str, expected: Error| assert_eq!(Share::parse(text), Err(expected), "{text}");
        let words: Vec<&str> = text.split_whitespace().collect();
        // The head has 14 tokens; then number and word take turns.
        let word = |n: usize| 14 + 2 * n - 1;
        let with = |place: usize, token: &str| {
            let mut words = words.clone();
            words[place] = token;
            words.join(" ")
        };
        check(&with(word(7), "zzzz"), Error::Word(7));
        check(&with(word(24), "zo"), Error::Word(24));
        let other = if words[word(9)] == "zoo" { "able" } else { "zoo" };
        check(&with(word(9), other), Error::Check);
        check(&with(5, "ffffffff"), Error::Check);
        check(&with(7, "2"), Error::Check);
        check(&with(7, "9"), Error::Form("its numbers cannot be"));
        check(&with(3, "2"), Error::Form("it does not begin with \"diemcau recovery share 1\""));
        check(&words[..word(23) + 1].join(" "), Error::Words(23));
        check(&format!("{} able", *text), Error::Words(25));
        check("", Error::Form("it does not begin with \"diemcau recovery share 1\""));
        check(&"a ".repeat(LEN_MAX), Error::Form("it is too long"));
    }

    #[test]
    fn shares_that_do_not_belong_together_are_refused() {
        let (one, two) = (split(&key(), 3, 2).unwrap(), split(&key(), 3, 2).unwrap());
        let mixed = [one[0].clone(), two[1].clone()];
        let error = combine(&mixed, &key().public()).unwrap_err();
        assert_eq!(error, Error::Set { number: 2, found: two[1].set(), set: one[0].set() });
        let twice = [one[0].clone(), one[0].clone()];
        assert_eq!(combine(&twice, &key().public()).unwrap_err(), Error::Twice(1));
        assert_eq!(combine(&one, &WrapKey::from_bytes(&[8; 32]).public()).unwrap_err(), Error::Key);
        let mut bent = one.clone();
        bent[2].secret[5] ^= 1;
        assert_eq!(combine(&bent, &key().public()).unwrap_err(), Error::Key);
    }

    #[test]
    fn a_share_is_not_shown_by_chance() {
        let share = &split(&key(), 3, 2).unwrap()[0];
        assert_eq!(format!("{share:?}"), format!("Share(1 of 3, set {})", share.set()));
    }
}
