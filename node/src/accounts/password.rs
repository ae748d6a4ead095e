//! Passwords: what may be one, and what is kept instead of it.
//!
//! Kept is an Argon2id hash as a PHC string, so that each says its own cost and the cost can be raised later. What may be
//! one follows NIST SP 800-63B: long enough, not one that everybody tries first, and nothing about digits and signs,
//! which make people write `Matkhau@123`.

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher as _, PasswordVerifier as _, Version};
use zeroize::Zeroizing;

/// Fewest letters.
pub const LEN_MIN: usize = 10;
/// Most letters: more than anybody types, and little to hash.
pub const LEN_MAX: usize = 200;

/// Cost of a new hash: RFC 9106's second recommendation, for machines that cannot spare 2 GiB.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 4;
/// Bounds of a hash that is read: a file from somebody else must not take all memory.
const MEMORY_KIB_MAX: u32 = 256 << 10;
const PASSES_MAX: u32 = 10;
const LANES_MAX: u32 = 16;

/// A hash like ours that no password is known to have. It is checked when nobody has the name that was given, so that this takes
/// as long as for somebody who has.
pub const DECOY: &str =
    "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHRvZjE2Ynl0ZQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Letters of a one-time password: none that is taken for another when it is read aloud or copied by hand.
const LETTERS: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";

/// What everybody tries first, of those that are long enough. Compared without capitals, digits and signs at the ends.
const COMMON: &str = include_str!("common.txt");

/// Why a password is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Weak {
    /// Add words.
    #[error("the password is shorter than {LEN_MIN} letters: a few words in a row are easy to keep in mind")]
    Short,
    /// Leave some out.
    #[error("the password is longer than {LEN_MAX} letters")]
    Long,
    /// Take another.
    #[error("this password is one of those that are tried first: take another, such as a few words in a row")]
    Common,
    /// Take another.
    #[error("the new password is the old one")]
    Same,
}

/// Refuses a password that is guessed soon. `account` is the name it is for.
pub fn judge(password: &str, account: &str) -> Result<(), Weak> {
    let letters = password.chars().count();
    if letters < LEN_MIN {
        return Err(Weak::Short);
    }
    if letters > LEN_MAX {
        return Err(Weak::Long);
    }
    let lower = Zeroizing::new(password.to_lowercase());
    let core = lower.trim_matches(|c: char| !c.is_alphabetic());
    let is_common = COMMON.lines().any(|common| common == core || common == lower.as_str());
    if is_common || core == account.to_lowercase() || is_run(&lower) {
        return Err(Weak::Common);
    }
    Ok(())
}

/// Whether the text is few letters again and again, or the alphabet or the digits in a row, forwards or backwards.
fn is_run(text: &str) -> bool {
    let letters = Zeroizing::new(text.chars().map(u32::from).collect::<Vec<_>>());
    let different = letters.iter().collect::<std::collections::BTreeSet<_>>().len();
    // 9 is followed by 0, as on the keyboard.
    let next = |a: u32, b: u32| b == a + 1 || (a, b) == (u32::from('9'), u32::from('0'));
    let row = |forwards: bool| letters.windows(2).all(|w| if forwards { next(w[0], w[1]) } else { next(w[1], w[0]) });
    different < 4 || row(true) || row(false)
}

/// A password that is used once, to be read aloud: 80 random bits.
///
/// # Panics
/// If the operating system has no random bytes to give.
pub fn one_time() -> Zeroizing<String> {
    let mut random = Zeroizing::new([0; 16]);
    getrandom::fill(&mut *random).expect("the operating system gives random bytes");
    let mut text = Zeroizing::new(String::with_capacity(19));
    for (n, byte) in random.iter().enumerate() {
        if n > 0 && n % 4 == 0 {
            text.push('-');
        }
        text.push(char::from(LETTERS[usize::from(byte % 32)]));
    }
    text
}

/// What to keep of a password, in the form `$argon2id$v=19$…`.
///
/// # Panics
/// If the operating system has no random bytes to give, or no 64 MiB of memory.
pub fn hash(password: &str) -> String {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).expect("the operating system gives random bytes");
    let cost = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("our own cost is a possible one");
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, cost);
    argon.hash_password_with_salt(password.as_bytes(), &salt).expect("a salt of 16 bytes").to_string()
}

/// Whether `text` is a hash that can be checked at a bearable cost.
pub fn is_hash(text: &str) -> bool {
    let Ok(hash) = PasswordHash::new(text) else { return false };
    let Ok(cost) = Params::try_from(&hash) else { return false };
    hash.algorithm.as_str() == "argon2id"
        && hash.hash.is_some()
        && cost.m_cost() <= MEMORY_KIB_MAX
        && cost.t_cost() <= PASSES_MAX
        && cost.p_cost() <= LANES_MAX
}

/// Whether the password is the one that was hashed. Takes a fifth of a second, whatever comes of it.
pub fn matches(password: &str, kept: &str) -> bool {
    let hash = PasswordHash::new(kept);
    hash.is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_matches_its_hash_alone_and_no_two_hashes_are_alike() {
        let (one, two) = (hash("một hai ba bốn"), hash("một hai ba bốn"));
        assert!(one.starts_with("$argon2id$v=19$m=65536,t=3,p=4$") && one != two);
        assert!(is_hash(&one) && matches("một hai ba bốn", &one) && matches("một hai ba bốn", &two));
        assert!(!matches("một hai ba bôn", &one) && !matches("", &one));
        let cost = |hash: &str| hash.split('$').take(4).collect::<Vec<_>>().join("$");
        assert!(is_hash(DECOY) && cost(DECOY) == cost(&one) && DECOY.len() == one.len() && !matches("", DECOY));
    }

    #[test]
    fn a_hash_that_costs_too_much_is_not_looked_at() {
        let good = "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo";
        assert!(is_hash(good));
        for (from, to) in [
            ("m=65536", "m=4000000"),
            ("t=3", "t=1000"),
            ("p=4", "p=200"),
            ("argon2id", "argon2d"),
            ("$aGFzaGhhc2hoYXNo", ""),
            (good, ""),
            (good, "plain text"),
        ] {
            assert!(!is_hash(&good.replace(from, to)), "{to}");
        }
    }

    #[test]
    fn what_everybody_tries_first_is_no_password() {
        let check = |password: &str, expected| assert_eq!(judge(password, "nguyenthilan"), expected, "{password}");
        for weak in [
            "1234567890",
            "0987654321",
            "7890123456",
            "aaaaaaaaaaaa",
            "ababababab",
            "abcdefghijkl",
            "qwertyuiop",
            "Qwertyuiop123",
            "matkhau123",
            "MATKHAU@2026",
            "mậtkhẩu123",
            "Password123!",
            "nguyenthilan",
            "NguyenThiLan1990",
        ] {
            check(weak, Err(Weak::Common));
        }
        check("ngắn quá", Err(Weak::Short));
        check(&"dài ".repeat(51), Err(Weak::Long));
        for good in ["con trâu đi trước", "cầu Hàm Rồng 1964", "correct horse battery staple", "k7-pqzx-vm2w"]
        {
            check(good, Ok(()));
        }
    }

    #[test]
    fn one_time_passwords_are_good_ones_and_never_twice_the_same() {
        let made: std::collections::BTreeSet<_> = (0..1000).map(|_| one_time().to_string()).collect();
        assert_eq!(made.len(), 1000);
        for password in made {
            assert_eq!((password.len(), judge(&password, "lan")), (19, Ok(())), "{password}");
            assert!(!password.contains(['l', 'o', 'i', '1']));
        }
    }

    #[test]
    fn the_common_ones_are_written_as_they_are_compared() {
        for line in COMMON.lines() {
            assert_eq!(line, line.to_lowercase().trim(), "{line}");
            assert!(
                line.trim_matches(|c: char| !c.is_alphabetic()) == line || line.chars().count() >= LEN_MIN,
                "{line}"
            );
        }
    }
}
