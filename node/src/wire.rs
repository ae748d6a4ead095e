//! Messages between nodes: their bytes and their limits.

pub mod control;
pub mod evidence;
pub mod media;
pub mod roster;
