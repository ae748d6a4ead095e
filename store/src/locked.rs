//! A secret key locked by a passphrase, as the text of a file.
//!
//! The passphrase becomes a key by Argon2id (RFC 9106), slow and hungry on purpose, and the key seals the secret with
//! XChaCha20-Poly1305. The cost stands in the file, so that it can be raised later without losing old files; it is
//! bounded when read, so that a file from somebody else cannot take all memory. A check sum over the lines tells a damaged
//! file from a wrong passphrase: it is of what is there for all to see, so it helps nobody to guess.
//!
//! ```text
//! diemcau locked authority key 1
//! argon2id 65536 3 4 (KiB, passes, lanes) and the salt in hex
//! xchacha20poly1305 and the nonce in hex
//! the sealed secret in hex
//! the first 16 hex digits of the BLAKE3 hash of the lines above
//! ```

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::{AeadInPlace as _, KeyInit as _, XChaCha20Poly1305};
use zeroize::Zeroizing;

use crate::keys::random;

/// Why a locked secret was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a locked secret of this kind and version.
    #[error("it is not a locked {0} key of version 1")]
    Kind(String),
    /// The text is not what was written. Put it back from a copy.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It asks for more than a file of ours would.
    #[error(
        "it asks for {kib} KiB, {passes} passes and {lanes} lanes to be opened, more than the {MEMORY_KIB_MAX}, \
             {PASSES_MAX} and {LANES_MAX} allowed"
    )]
    Cost {
        /// Memory.
        kib: u32,
        /// Passes over it.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// The text is whole, so the passphrase is not the one it was locked with.
    #[error(
        "the passphrase is wrong (upper and lower case differ, and letters with marks may be typed in two ways that look alike)"
    )]
    Passphrase,
    /// The machine has not got the memory. Close other programs and try again.
    #[error("the machine has no {0} KiB of memory free to open it")]
    Memory(u32),
}

/// Memory for a new lock: RFC 9106's second recommendation, for machines that cannot spare 2 GiB.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 4;

/// Bounds when reading: sixteen times the memory and five times the passes of a new lock. About a minute on a small machine.
const MEMORY_KIB_MAX: u32 = 1 << 20;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;

/// Longest text that is looked at.
pub const LEN_MAX: usize = 1024;

/// Hex digits of the check sum.
const CHECK_DIGITS: usize = 16;

/// Locks a secret. `kind` is a word such as `authority`; it stands in the title, and opening needs the same.
pub fn lock(kind: &str, secret: &[u8; 32], passphrase: &str) -> String {
    lock_with(kind, secret, passphrase, &random(), &random())
}

fn lock_with(kind: &str, secret: &[u8; 32], passphrase: &str, salt: &[u8; 16], nonce: &[u8; 24]) -> String {
    let cost = Params::new(MEMORY_KIB, PASSES, LANES, Some(32)).expect("our own cost is a possible one");
    let head = format!(
        "{}\nargon2id {MEMORY_KIB} {PASSES} {LANES} {}\nxchacha20poly1305 {}\n",
        title(kind),
        hex::encode(salt),
        hex::encode(nonce)
    );
    let key = derive(passphrase, salt, cost).expect("a machine that makes keys has 64 MiB of memory");
    let mut sealed = Zeroizing::new(*secret);
    let tag = XChaCha20Poly1305::new(key.as_ref().into())
        .encrypt_in_place_detached(nonce.into(), head.as_bytes(), sealed.as_mut_slice())
        .expect("32 bytes can be sealed");
    let body = format!("{head}{}{}\n", hex::encode(*sealed), hex::encode(tag));
    let check = check(&body);
    format!("{body}{check}\n")
}

/// Opens a locked secret.
pub fn unlock(kind: &str, text: &str, passphrase: &str) -> Result<Zeroizing<[u8; 32]>, Error> {
    if !is_locked(kind, text) {
        return Err(Error::Kind(kind.to_owned()));
    }
    if text.len() > LEN_MAX {
        return Err(Error::Damaged("it is too long"));
    }
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let [title, argon, cipher, sealed, sum] = lines[..] else {
        return Err(Error::Damaged("it has not five lines"));
    };
    let head = format!("{title}\n{argon}\n{cipher}\n");
    if check(&format!("{head}{sealed}\n")) != sum {
        return Err(Error::Damaged("its check sum does not fit"));
    }
    let (cost, salt) = read_argon(argon).ok_or(Error::Damaged("its second line says no cost and salt"))??;
    let nonce = cipher.strip_prefix("xchacha20poly1305 ").and_then(from_hex::<24>);
    let nonce = nonce.ok_or(Error::Damaged("its third line says no nonce"))?;
    let sealed = from_hex::<48>(sealed).ok_or(Error::Damaged("its fourth line is not 96 hex digits"))?;
    let (mut secret, mut tag) = (Zeroizing::new([0; 32]), [0; 16]);
    secret.copy_from_slice(&sealed[..32]);
    tag.copy_from_slice(&sealed[32..]);
    let memory = cost.m_cost();
    let key = derive(passphrase, &salt, cost).ok_or(Error::Memory(memory))?;
    XChaCha20Poly1305::new(key.as_ref().into())
        .decrypt_in_place_detached((&nonce).into(), head.as_bytes(), secret.as_mut_slice(), (&tag).into())
        .map_err(|_| Error::Passphrase)?;
    Ok(secret)
}

/// Whether the text calls itself a locked secret of this kind.
pub fn is_locked(kind: &str, text: &str) -> bool {
    text.lines().next().is_some_and(|line| line.trim_end() == title(kind))
}

fn title(kind: &str) -> String {
    format!("diemcau locked {kind} key 1")
}

fn check(body: &str) -> String {
    let mut sum = blake3::hash(body.as_bytes()).to_hex().to_string();
    sum.truncate(CHECK_DIGITS);
    sum
}

/// The cost and salt of the second line, if that is what it holds; an error if they are out of bounds.
fn read_argon(line: &str) -> Option<Result<(Params, [u8; 16]), Error>> {
    let (numbers, salt) = line.strip_prefix("argon2id ")?.rsplit_once(' ')?;
    let numbers: Vec<u32> = numbers.split(' ').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    let [kib, passes, lanes] = numbers[..] else { return None };
    let salt = from_hex(salt)?;
    if kib > MEMORY_KIB_MAX || passes > PASSES_MAX || lanes > LANES_MAX {
        return Some(Err(Error::Cost { kib, passes, lanes }));
    }
    Some(Ok((Params::new(kib, passes, lanes, Some(32)).ok()?, salt)))
}

/// `None` if there is not enough memory.
fn derive(passphrase: &str, salt: &[u8; 16], cost: Params) -> Option<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, cost)
        .hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice())
        .ok()?;
    Some(key)
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by the first version; must open for ever.
    const VERSION_1: &str = include_str!("../tests/vectors/locked-v1.txt");

    #[test]
    fn the_first_version_opens_for_ever() {
        assert_eq!(*unlock("authority", VERSION_1, "mật khẩu").unwrap(), [7; 32]);
        assert_eq!(lock_with("authority", &[7; 32], "mật khẩu", &[1; 16], &[2; 24]), VERSION_1);
    }

    #[test]
    fn a_wrong_passphrase_and_a_damaged_file_are_told_apart() {
        let text = lock("authority", &[7; 32], "một hai ba");
        assert_eq!(unlock("authority", &text, "một hai bA"), Err(Error::Passphrase));
        assert_eq!(unlock("node", &text, "một hai ba"), Err(Error::Kind("node".into())));
        assert_eq!(unlock("authority", &text.replace('\n', "\r\n"), "một hai ba").unwrap().as_slice(), [7; 32]);
        let at_title = text.find('\n').unwrap();
        // One bit of each character; what stays valid text must be noticed as damage, before any costly step.
        for at in at_title + 1..text.len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            let outcome = unlock("authority", &changed, "một hai ba");
            assert!(matches!(outcome, Err(Error::Damaged(_))), "{at}: {outcome:?}");
        }
        for lines in 1..5 {
            let cut: String = text.split_inclusive('\n').take(lines).collect();
            assert!(matches!(unlock("authority", &cut, "x"), Err(Error::Damaged(_))));
        }
    }

    #[test]
    fn a_file_that_asks_for_too_much_is_refused_before_it_gets_it() {
        let ask = |cost: &str| {
            let text = lock_with("node", &[7; 32], "x", &[1; 16], &[2; 24]);
            let body: Vec<_> = text.lines().take(4).map(|line| line.replace("65536 3 4", cost)).collect();
            let body = format!("{}\n", body.join("\n"));
            unlock("node", &format!("{body}{}\n", check(&body)), "x")
        };
        assert_eq!(ask("104857600 3 4"), Err(Error::Cost { kib: 104_857_600, passes: 3, lanes: 4 }));
        assert!(matches!(ask("65536 4000000 4"), Err(Error::Cost { .. })));
        assert!(matches!(ask("65536 3 70000"), Err(Error::Cost { .. })));
        assert!(matches!(ask("1 3 4"), Err(Error::Damaged(_))));
        assert!(matches!(ask("65536 3 -4"), Err(Error::Damaged(_))));
        // An honest file with another cost is only another key.
        assert_eq!(ask("1024 1 1"), Err(Error::Passphrase));
    }

    #[test]
    fn two_locks_of_one_secret_share_nothing_but_their_title_and_cost() {
        let [one, two] = [(); 2].map(|()| lock("node", &[7; 32], "x"));
        let words = |text: &str| text.split_whitespace().filter(|word| word.len() > 30).map(str::to_owned).collect();
        let (one, two): (Vec<String>, Vec<String>) = (words(&one), words(&two));
        assert_eq!(one.len(), 3);
        assert!(one.iter().all(|word| !two.contains(word)));
    }
}
