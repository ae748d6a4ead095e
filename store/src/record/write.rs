//! Writing a group frame by frame, at the source. The sealer goes in and comes out, because its counter must run on
//! from group to group and nobody else may seal meanwhile. The hash is taken once, at the end: BLAKE3 hashes a group of
//! half a megabyte in 60 microseconds, but took ten times as long fed frame by frame, since it works on many kilobytes at a time.

use bytes::{Bytes, BytesMut};

use super::{
    DT_MAX, End, Error, FRAME_COUNT_MAX, FRAME_LEN_MAX, Flags, GROUP_LEN_MAX, Header, METADATA, Record, T0_MAX,
    put_varint_before, varint_len,
};
use crate::{id::SEQ_MAX, seal::Sealer};

/// A group being made. What it returns is to be stored and sent as it is.
#[derive(Debug)]
pub struct Writer {
    header: Header,
    sealer: Sealer,
    bytes: BytesMut,
    frames: u32,
}

/// A group made: what to send last, what to keep, and the sealer for the next group.
#[derive(Debug)]
pub struct Finished {
    /// To be sent after the last frame.
    pub end: End,
    /// To be stored.
    pub record: Record,
    /// For the next group.
    pub sealer: Sealer,
}

impl Writer {
    /// Begins group `seq` of the sealer's track at session time `t0` (microseconds). The bytes are the header, to be
    /// sent at once.
    ///
    /// # Panics
    /// If `seq` is above [`SEQ_MAX`] or `t0` above [`T0_MAX`]: our own clocks and counts do not get there.
    pub fn new(sealer: Sealer, seq: u64, t0: u64) -> (Self, Bytes) {
        assert!(seq <= SEQ_MAX && t0 <= T0_MAX, "a group's number and time stay within the layout's limits");
        let header = sealer.header(seq, t0);
        let encoded = header.encode();
        let writer = Writer { header, sealer, bytes: BytesMut::from(&encoded[..]), frames: 0 };
        (writer, Bytes::copy_from_slice(&encoded))
    }

    /// The header of the group being made.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many frames it has so far.
    pub fn frame_count(&self) -> u32 {
        self.frames
    }

    /// Seals a frame made `dt` microseconds after the group's start. An error leaves the group as it was: drop the
    /// frame, or finish the group and begin the next.
    pub fn frame(&mut self, dt: u64, flags: Flags, plaintext: &[u8]) -> Result<Bytes, Error> {
        let index = self.frames;
        if dt > DT_MAX.as_micros() as u64 {
            return Err(Error::Frame { index, what: "a time beyond the limit" });
        }
        if index >= FRAME_COUNT_MAX {
            return Err(Error::TooMuch("more frames than a group may have"));
        }
        let length = varint_len(dt) + 1 + self.sealer.overhead() + plaintext.len();
        if length > FRAME_LEN_MAX {
            return Err(Error::Frame { index, what: "a length above the limit" });
        }
        if self.bytes.len() + varint_len(length as u64) + length > GROUP_LEN_MAX {
            return Err(Error::TooMuch("more bytes than a group may have"));
        }
        // The metadata lies before the SFrame bytes and is not sent, so its last bytes give room for the clear
        // fields: length, time and flags need 13 at most and no second buffer.
        let mut sealed = self.sealer.seal(&self.header.metadata(dt, flags), plaintext);
        sealed[METADATA - 1] = flags.to_u8();
        let at = put_varint_before(&mut sealed[..METADATA - 1], dt);
        let at = put_varint_before(&mut sealed[..at], length as u64);
        let frame = Bytes::from(sealed).split_off(at);
        self.bytes.extend_from_slice(&frame);
        self.frames += 1;
        Ok(frame)
    }

    /// Ends the group.
    pub fn finish(self) -> Finished {
        let record = Record::of(self.header, self.frames, self.bytes.freeze());
        Finished { end: record.end(), record, sealer: self.sealer }
    }
}
