//! What people read, in one place for each language, so that it can be read through in one sitting: Vietnamese first, as
//! the people at the points speak it, English second.
//!
//! [`Text`] is what there is to say, with the facts in it; how it is said is in `words/vi.rs` and `words/en.rs`. Both
//! match every text by name, so a new one does not compile until it can be said in both.

mod en;
mod moment;
mod vi;

use std::path::Path;

use crate::join::call::Refusal;

pub use moment::{moment, unix_ms};

/// A language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Vietnamese.
    Vi,
    /// English.
    En,
}

impl Language {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Language; 2] = [Language::Vi, Language::En];
}

/// Something to say.
#[derive(Clone, Copy, Debug)]
pub enum Text<'a> {
    /// A new node was not let in.
    NotJoined(&'a Refusal),
    /// A new node is a point now.
    Joined {
        /// What it is called.
        name: &'a str,
        /// Who runs the mesh.
        agency: &'a str,
        /// How many points there are, itself included.
        points: usize,
        /// Its data folder.
        data: &'a Path,
    },
    /// This machine's clock and the inviting node's are far apart.
    ClockApart {
        /// Ours minus theirs.
        ahead_ms: i64,
        /// Theirs, Unix milliseconds.
        host_unix_ms: u64,
    },
    /// This data folder belongs to a point already.
    AlreadyPoint {
        /// What it is called.
        name: &'a str,
        /// Who runs its mesh.
        agency: &'a str,
    },
    /// An invite was made.
    Invited {
        /// Whom for.
        name: &'a str,
        /// Until when, Unix milliseconds.
        expires: u64,
        /// What to type.
        code: &'a str,
    },
    /// The invite was made, but nobody lets the new machine in.
    NotRunning,
    /// Asking for the passphrase of this point's keys.
    KeysPrompt,
    /// The passphrase of this point's keys is needed, and there is nobody to ask.
    KeysNeedPassphrase {
        /// The data folder.
        data: &'a Path,
    },
    /// The keys are behind a passphrase now.
    KeysNowLocked,
    /// The keys are behind a passphrase.
    KeysLocked,
    /// The keys are in plain files.
    KeysPlain,
}

impl Text<'_> {
    /// In this language. One or more whole sentences, without a line's end.
    pub fn say(&self, language: Language) -> String {
        match language {
            Language::Vi => vi::say(self),
            Language::En => en::say(self),
        }
    }

    /// In every language, one after another.
    pub fn everywhere(&self) -> String {
        Language::ALL.map(|language| self.say(language)).join("\n")
    }
}

/// A length of time in two of its units at most, each with its number: days and hours, hours and minutes, minutes,
/// seconds.
fn lasting(ms: u64) -> Vec<(u64, Unit)> {
    let seconds = ms / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let parts = match (days, hours, minutes) {
        (0, 0, 0) => vec![(seconds, Unit::Second)],
        (0, 0, _) => vec![(minutes, Unit::Minute)],
        (0, ..) => vec![(hours, Unit::Hour), (minutes, Unit::Minute)],
        _ => vec![(days, Unit::Day), (hours, Unit::Hour)],
    };
    parts
        .into_iter()
        .enumerate()
        .filter(|(place, (number, _))| *place == 0 || *number > 0)
        .map(|(_, part)| part)
        .collect()
}

/// A unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
    Day,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::code::Mistyped;

    /// One of each kind, with the facts that must be in it.
    fn each() -> Vec<(Refusal, Vec<&'static str>)> {
        let addresses = || vec!["113.160.1.2:7500".to_owned(), "kim-thanh.vn:7501".to_owned()];
        vec![
            (Refusal::Mistyped(Mistyped::Empty), vec!["diemcau join"]),
            (Refusal::Mistyped(Mistyped::Letter { group: 3, found: 'ô' }), vec!["3", "ô"]),
            (Refusal::Mistyped(Mistyped::Length { group: 4, letters: 6 }), vec!["4", "6", "5"]),
            (Refusal::Mistyped(Mistyped::Groups(vec![2])), vec!["2"]),
            (Refusal::Mistyped(Mistyped::Groups(vec![2, 5])), vec!["2, 5"]),
            (Refusal::Mistyped(Mistyped::Whole), vec![]),
            (Refusal::Mistyped(Mistyped::Version(2)), vec![]),
            (Refusal::Wrong, vec![]),
            (Refusal::Used, vec![]),
            (Refusal::Expired { not_after_unix_ms: 1_795_327_511_000 }, vec!["2026-11-22 13:05:11"]),
            (
                Refusal::ClockOff { ahead_ms: -7_500_000, host_unix_ms: 1_795_327_511_000 },
                vec!["2 ", "5 ", "2026-11-22 13:05:11", "timedatectl set-ntp true"],
            ),
            (Refusal::Withdrawn, vec![]),
            (Refusal::Busy, vec!["5"]),
            (Refusal::NoRoute(addresses()), vec!["113.160.1.2:7500, kim-thanh.vn:7501"]),
            (Refusal::UdpBlocked(addresses()), vec!["113.160.1.2:7500, kim-thanh.vn:7501", "TCP", "UDP"]),
            (Refusal::Version, vec![]),
            (Refusal::Unable("vì lý do".into()), vec!["vì lý do"]),
            (Refusal::Broken("line".into()), vec!["line"]),
        ]
    }

    #[test]
    fn every_text_is_said_in_every_language_with_its_facts() {
        let data = Path::new("/srv/diemcau");
        let mut texts: Vec<(Text<'_>, Vec<&str>)> = vec![
            (
                Text::Joined { name: "UBND xã Kim Thành", agency: "Hải Phòng", points: 3, data },
                vec!["UBND xã Kim Thành", "Hải Phòng", "3", "diemcau run --data /srv/diemcau"],
            ),
            (
                Text::ClockApart { ahead_ms: 400_000, host_unix_ms: 1_795_327_511_000 },
                vec!["6 ", "2026-11-22 13:05:11"],
            ),
            (Text::AlreadyPoint { name: "UBND xã Kim Thành", agency: "Hải Phòng" }, vec!["UBND xã Kim Thành"]),
            (
                Text::Invited { name: "UBND xã Kim Thành", expires: 1_795_327_511_000, code: "ABCDE-FGHJK" },
                vec!["UBND xã Kim Thành", "2026-11-22 13:05:11", "diemcau join ABCDE-FGHJK"],
            ),
            (Text::NotRunning, vec!["diemcau run"]),
            (Text::KeysPrompt, vec![]),
            (Text::KeysNeedPassphrase { data }, vec!["/srv/diemcau", "DIEMCAU_PASSPHRASE", "diemcau-passphrase"]),
            (Text::KeysNowLocked, vec!["diemcau run"]),
            (Text::KeysLocked, vec![]),
            (Text::KeysPlain, vec!["diemcau key lock"]),
        ];
        let refusals = each();
        texts.extend(refusals.iter().map(|(refusal, facts)| (Text::NotJoined(refusal), facts.clone())));
        for (text, facts) in texts {
            let [vi, en] = Language::ALL.map(|language| text.say(language));
            assert_ne!(vi, en);
            for said in [&vi, &en] {
                assert!(said.len() > 20 && !said.ends_with(char::is_whitespace), "{said:?}");
                assert!(facts.iter().all(|fact| said.contains(fact)), "{said:?} lacks one of {facts:?}");
            }
            assert!(vi.contains(['ã', 'ạ', 'ế', 'ờ', 'ô', 'đ', 'ử', 'ề']), "not Vietnamese: {vi}");
        }
    }

    #[test]
    fn a_length_of_time_is_said_shortly() {
        use Unit::*;
        assert_eq!(lasting(42_000), [(42, Second)]);
        assert_eq!(lasting(301_000), [(5, Minute)]);
        assert_eq!(lasting(7_500_000), [(2, Hour), (5, Minute)]);
        assert_eq!(lasting(7_200_000), [(2, Hour)]);
        assert_eq!(lasting(31_536_000_000), [(365, Day)]);
        assert_eq!(lasting(90_000_000), [(1, Day), (1, Hour)]);
    }
}
