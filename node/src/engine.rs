//! The brain: pure parts with three verbs, `handle`, `poll` and `deadline`.

pub mod clock;
pub mod copies;
pub mod disk;
pub mod door;
pub mod evidence;
pub mod fanout;
pub mod keeper;
pub mod lockout;
pub mod manifest;
pub mod rate;
pub mod recover;
pub mod replica;
pub mod rights;
pub mod roster;
pub mod scrub;
pub mod session;
pub mod tally;
pub mod visits;
