//! Looks for secrets and personal words in whatever a program said or wrote, in any form in which they may have got there.
//!
//! A secret's bytes are looked for as they are, as the decimal numbers in which Rust prints bytes, and in every writing that
//! takes some bits for each letter: hex, base32, base64. Those are tried from every bit on, as a secret in the middle of
//! other bytes begins in the middle of a letter. Its halves are enough: who cuts a key short still shows it.

/// What is looked for.
#[derive(Debug, Default)]
pub struct Search {
    wanted: Vec<Wanted>,
}

#[derive(Debug)]
struct Wanted {
    what: String,
    forms: Vec<Vec<u8>>,
}

/// Bytes of a secret that are as bad as all of it.
const ENOUGH: usize = 16;

/// Writings: bits for each letter, and the letters.
const WRITINGS: [(usize, &[u8]); 7] = [
    (4, b"0123456789abcdef"),
    (4, b"0123456789ABCDEF"),
    (5, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"),
    (5, b"abcdefghijklmnopqrstuvwxyz234567"),
    (5, b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"),
    (6, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"),
    (6, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
];

impl Search {
    /// Looks for these bytes too.
    pub fn secret(&mut self, what: &str, bytes: &[u8]) {
        assert!(bytes.len() >= 8, "{what} is too short to be told from chance");
        let pieces = bytes.chunks(ENOUGH).filter(|piece| piece.len() >= ENOUGH.min(bytes.len()));
        let forms = pieces.flat_map(forms).collect();
        self.wanted.push(Wanted { what: what.to_owned(), forms });
    }

    /// Looks for this text too, in any letters.
    pub fn text(&mut self, what: &str, text: &str) {
        assert!(text.chars().count() >= 6, "{what} is too short to be told from chance");
        let escaped: String = text.to_lowercase().chars().map(escape).collect();
        let forms = [text.to_lowercase(), escaped].map(String::into_bytes).to_vec();
        self.wanted.push(Wanted { what: what.to_owned(), forms });
        self.secret(&format!("{what}, encoded"), text.as_bytes());
    }

    /// Of a text that may be written with spaces or dashes between its groups, such as a code.
    pub fn code(&mut self, what: &str, code: &str) {
        self.text(what, code);
        let letters: String = code.chars().filter(|letter| letter.is_alphanumeric()).collect();
        self.text(&format!("{what} without spaces"), &letters);
    }

    /// What of it stands in there.
    pub fn found_in(&self, text: &[u8]) -> Vec<&str> {
        let lower = String::from_utf8_lossy(text).to_lowercase().into_bytes();
        let stands = |form: &Vec<u8>| has(text, form) || has(&lower, form);
        self.wanted.iter().filter(|wanted| wanted.forms.iter().any(stands)).map(|wanted| wanted.what.as_str()).collect()
    }

    /// # Panics
    ///
    /// If anything of it stands in there; says what and where.
    #[track_caller]
    pub fn must_find_nothing(&self, place: &str, text: impl AsRef<[u8]>) {
        let found = self.found_in(text.as_ref());
        assert!(found.is_empty(), "{place} shows {found:?}:\n{}", String::from_utf8_lossy(text.as_ref()));
    }
}

fn has(text: &[u8], form: &[u8]) -> bool {
    let Some(first) = form.first() else { return false };
    let starts = text.iter().enumerate().filter(|(_, byte)| *byte == first);
    starts.into_iter().any(|(at, _)| text[at..].starts_with(form))
}

/// As JSON may write it.
fn escape(letter: char) -> String {
    if letter.is_ascii() {
        return letter.to_string();
    }
    letter.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
}

fn forms(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![bytes.to_vec()];
    for between in [", ", ",", " "] {
        forms.push(bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(between).into_bytes());
    }
    for (bits, letters) in WRITINGS {
        forms.extend((0..bits).map(|skip| write(bytes, bits, letters, skip)));
    }
    forms
}

/// The bytes from this bit on, in whole letters.
fn write(bytes: &[u8], bits: usize, letters: &[u8], skip: usize) -> Vec<u8> {
    let all: Vec<usize> =
        bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| usize::from(byte >> bit & 1))).collect();
    let groups = all[skip..].chunks_exact(bits);
    groups.map(|group| letters[group.iter().fold(0, |value, bit| value << 1 | bit)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 32] = [
        0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49,
        0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
    ];

    fn search() -> Search {
        let mut search = Search::default();
        search.secret("key", &SECRET);
        search.text("name", "Nguyễn Thị Xuyến");
        search.code("code", "28E6V-G020F");
        search
    }

    /// Each of these was made by another program (`basenc`, `xxd`), not by the functions above.
    #[test]
    fn a_secret_that_was_put_in_on_purpose_is_found_in_every_form() {
        let mut raw = b"before ".to_vec();
        raw.extend_from_slice(&SECRET);
        let debug = format!("{SECRET:?}");
        for text in [
            &raw[..],
            debug.as_bytes(),
            format!("{:x?}", &SECRET[..]).replace(", ", "").as_bytes(),
            b"key=9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60.",
            b"9D61B19DEFFD5A60BA844AF492EC2CC44449C5697B326919703BAC031CAE7F60",
            b"9d61b19deffd5a60ba844af492ec2cc4",
            b"nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=",
            b"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
            // Behind one other byte, and behind two.
            b"AJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g",
            b"AACdYbGd7/1aYLqESvSS7CzEREnFaXsyaRlwO6wDHK5/YA==",
            b"TVQ3DHPP7VNGBOUEJL2JF3BMYRCETRLJPMZGSGLQHOWAGHFOP5QA====",
            b"tvq3dhpp7vngboueJl2jf3bmyrcetrljpmzgsglqhowaghfop5qa",
            b"cho NGUY\xe1\xbb\x84N TH\xe1\xbb\x8a XUY\xe1\xba\xbeN",
            b"{\"title\":\"nguy\\u1ec5n th\\u1ecb xuy\\u1ebfn\"}",
            b"join 28e6vg020f",
        ] {
            assert!(!search().found_in(text).is_empty(), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let other: Vec<u8> = SECRET.iter().map(|byte| byte ^ 0x55).collect();
        for text in [&other[..], b"", b"Nguy\xe1\xbb\x85n", b"9d61b19deffd5a60", b"28E6V G0"] {
            assert_eq!(search().found_in(text), Vec::<&str>::new());
        }
    }
}
