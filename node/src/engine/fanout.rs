//! engine/fanout
