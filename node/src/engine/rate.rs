//! engine/rate
