//! engine/clock
