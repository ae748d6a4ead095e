//! What is seen from outside: the means by which tests use the program as people do.
//!
//! The tests themselves are the modules of one binary, `tests/main.rs`, because linking what links libp2p, quinn and
//! RocksDB takes long, and a test binary for each would take it each time.

pub mod browser;
pub mod crowd;
pub mod film;
pub mod fuzz;
pub mod office;
pub mod program;
pub mod search;
pub mod sim;
