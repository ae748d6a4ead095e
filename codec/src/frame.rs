//! One encoded unit.
//!
//! Annex B rather than length prefixes: it is what the encoder makes, what the decoder and WebRTC take, and it holds
//! the parameter sets in the stream, so that a group can be decoded knowing nothing else. MP4 wants the other form
//! and converts at its edge.

use bytes::Bytes;

use crate::time::MediaTime;

/// An H.264 access unit in Annex B form (ITU-T H.264 annex B; SPS and PPS before every IDR), or one Opus packet
/// (RFC 6716).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// When what it decodes to was seen or heard.
    pub at: MediaTime,
    /// It can be decoded without any frame before it. Every Opus packet is one.
    pub keyframe: bool,
    /// No other frame needs it: it may be left out on a full line.
    pub discardable: bool,
    /// The encoded bytes.
    pub data: Bytes,
}
