//! Pictures and sound: where they come from, how they are encoded and decoded, how they are cut into groups, and how
//! they become files.
//!
//! This crate ends where bytes are encoded. It knows nothing of networks, archives, keys or points; times are on a
//! clock the caller chose. Sources and [`production`] run threads, everything else computes what it is given.

pub mod audio;
pub mod capture;
pub mod frame;
pub mod gallery;
pub mod group;
mod lettering;
pub mod mp4;
pub mod picture;
pub mod production;
pub mod samples;
pub mod time;
pub mod video;
