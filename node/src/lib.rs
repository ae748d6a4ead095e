//! One connection point of the citizen reception mesh: a brain (`engine`) in a body (`driver` and the shells).

pub mod access;
pub mod accounts;
pub mod attest;
pub mod browser;
pub mod config;
pub mod console;
pub mod control;
pub mod driver;
pub mod engine;
pub mod export;
pub mod identity;
pub mod join;
pub mod media;
pub mod mesh;
pub mod recall;
pub mod sealed;
pub mod secret;
pub mod studio;
pub mod support;
pub mod unwritten;
pub mod vault;
pub mod wire;
pub mod words;
