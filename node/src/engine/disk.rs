//! What is still written on a disk that fills up.
//!
//! What is recorded in a session here is the last thing to stop. So copies of sessions in which this point had no part are
//! refused long before, then every further copy, and those under way wait; and a file that holds nothing keeps room back from
//! everybody else on the disk, which is given up before the archive would refuse a group. Whoever hears of that has as long as
//! the reserve lasts. The archive ends recording while there is still room for what is said of the session, so that it can be
//! closed. With room again everything goes on by itself and the reserve is made anew.
//!
//! Free space is asked for and not counted, as others use the same disk.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Bounds. Their defaults are in `config/default.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Below so many free bytes no copies are taken of sessions in which this point had no part.
    pub copies: u64,
    /// Nor below this part of the disk, in a hundred.
    pub copies_percent: u64,
    /// Below so many nothing is copied.
    pub record: u64,
    /// What the reserve holds. Without one (0), nothing is given up.
    pub reserve: u64,
}

/// Below so many free bytes the reserve is given up. The archive takes no groups below 256 MiB; the disk is looked at each
/// second, and the rest is what others may write meanwhile.
pub const RELEASE: u64 = 384 << 20;

/// What the part is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// How the disk stands.
    Space {
        /// Bytes free.
        free: u64,
        /// Its size.
        total: u64,
        /// Whether the reserve is there, or about to be.
        reserve: bool,
    },
}

/// What the part wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Remove the reserve.
    Release,
    /// Make the reserve, of so many bytes.
    Reserve {
        /// How many.
        bytes: u64,
    },
    /// Say that it stands otherwise now.
    Say {
        /// How.
        space: Space,
    },
}

/// How a disk stands, from good to bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Space {
    /// There is enough.
    #[default]
    Enough,
    /// No further copies are taken of sessions in which this point had no part.
    Tight,
    /// Nothing is copied; only what is recorded in a session here is written.
    Short,
    /// The reserve is given up, or there is none: recording ends when the rest is used.
    Last,
}

impl Space {
    /// Whether a copy of one more session is taken, in which this point took part or did not.
    pub fn takes_copy(self, took_part: bool) -> bool {
        match self {
            Space::Enough => true,
            Space::Tight => took_part,
            Space::Short | Space::Last => false,
        }
    }
}

/// The part.
#[derive(Debug)]
pub struct Care {
    limits: Limits,
    space: Space,
    outbox: VecDeque<Output>,
}

impl Care {
    /// With these bounds.
    pub fn new(limits: Limits) -> Care {
        Care { limits, space: Space::default(), outbox: VecDeque::new() }
    }

    /// Something happened.
    pub fn handle(&mut self, input: Input) {
        let Input::Space { free, total, reserve } = input;
        let space = self.stands(free, total, reserve);
        if free < RELEASE && reserve && self.limits.reserve > 0 {
            self.outbox.push_back(Output::Release);
        }
        if !reserve && self.has_room_for_reserve(free) {
            self.outbox.push_back(Output::Reserve { bytes: self.limits.reserve });
        }
        if space != self.space {
            self.space = space;
            self.outbox.push_back(Output::Say { space });
        }
    }

    /// The next thing to do; drain until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// How it stands.
    pub fn space(&self) -> Space {
        self.space
    }

    fn stands(&self, free: u64, total: u64, reserve: bool) -> Space {
        let Limits { copies, copies_percent, record, reserve: size } = self.limits;
        // What was given up for want of room is missed until it is back.
        let spends = self.space == Space::Last && size > 0 && !reserve && !self.has_room_for_reserve(free);
        if spends || free < self.bound(RELEASE, Space::Last) {
            Space::Last
        } else if free < self.bound(record, Space::Short) {
            Space::Short
        } else if free < self.bound(copies.max(total / 100 * copies_percent), Space::Tight) {
            Space::Tight
        } else {
            Space::Enough
        }
    }

    /// A disk that stands at a bound does not cross it with every file that comes and goes: there and back are a sixteenth
    /// apart.
    fn bound(&self, bytes: u64, space: Space) -> u64 {
        if self.space >= space { bytes.saturating_add(bytes / 16) } else { bytes }
    }

    /// Whether the reserve can be made, and so much is left beside it that it is not given up again at once.
    fn has_room_for_reserve(&self, free: u64) -> bool {
        let Limits { record, reserve, .. } = self.limits;
        let beside = record.max(RELEASE);
        reserve > 0 && free >= reserve.saturating_add(beside).saturating_add(beside / 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn care() -> Care {
        Care::new(Limits { copies: 10 * GIB, copies_percent: 10, record: 2 * GIB, reserve: GIB })
    }

    fn tell(care: &mut Care, free: u64, reserve: bool) -> Vec<Output> {
        care.handle(Input::Space { free, total: 200 * GIB, reserve });
        std::iter::from_fn(|| care.poll()).collect()
    }

    #[test]
    fn copies_of_what_had_no_part_here_are_refused_first_then_all() {
        let takes = |space: Space| [false, true].map(|took_part| space.takes_copy(took_part));
        let all = [Space::Enough, Space::Tight, Space::Short, Space::Last].map(takes);
        assert_eq!(all, [[true, true], [false, true], [false, false], [false, false]]);
    }

    #[test]
    fn copies_end_first_and_the_reserve_is_what_the_record_has_last() {
        let mut care = care();
        assert_eq!(tell(&mut care, 100 * GIB, false), [Output::Reserve { bytes: GIB }]);
        assert_eq!(tell(&mut care, 99 * GIB, true), []);
        assert_eq!(tell(&mut care, 19 * GIB, true), [Output::Say { space: Space::Tight }], "less than a tenth");
        assert_eq!(tell(&mut care, 9 * GIB, true), []);
        assert_eq!(tell(&mut care, GIB, true), [Output::Say { space: Space::Short }]);
        let last = [Output::Release, Output::Say { space: Space::Last }];
        assert_eq!(tell(&mut care, RELEASE - 1, true), last);
        assert_eq!(tell(&mut care, GIB + RELEASE - 2, false), [], "it is the reserve that is being used");
        assert_eq!(tell(&mut care, 0, false), []);
    }

    #[test]
    fn when_there_is_room_again_the_reserve_is_made_and_all_goes_on() {
        let mut care = care();
        tell(&mut care, 1, true);
        assert_eq!(tell(&mut care, 3 * GIB, false), [], "it would be given up again soon");
        let back = [Output::Reserve { bytes: GIB }, Output::Say { space: Space::Tight }];
        assert_eq!(tell(&mut care, 4 * GIB, false), back);
        assert_eq!(tell(&mut care, 3 * GIB, true), []);
        assert_eq!(tell(&mut care, 60 * GIB, true), [Output::Say { space: Space::Enough }]);
    }

    #[test]
    fn a_disk_at_a_bound_is_not_said_to_cross_it_again_and_again() {
        let mut care = care();
        tell(&mut care, 2 * GIB - 1, true);
        assert_eq!(care.space(), Space::Short);
        let said: Vec<_> = (0..20).flat_map(|n| tell(&mut care, 2 * GIB + n % 2, true)).collect();
        assert_eq!(said, []);
        assert_eq!(tell(&mut care, 2 * GIB + GIB / 8, true), [Output::Say { space: Space::Tight }]);
    }

    #[test]
    fn without_a_reserve_there_is_nothing_to_give_up() {
        let mut care = Care::new(Limits { copies: 0, copies_percent: 0, record: 0, reserve: 0 });
        assert_eq!(tell(&mut care, 0, false), [Output::Say { space: Space::Last }]);
        assert_eq!(tell(&mut care, 0, true), [], "a file of that name is not ours");
        assert_eq!(tell(&mut care, 2 * RELEASE, false), [Output::Say { space: Space::Enough }]);
    }
}
