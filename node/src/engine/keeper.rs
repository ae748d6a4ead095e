//! engine/keeper
