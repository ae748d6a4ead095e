//! Reading a group as its bytes arrive, in pieces of any size. Nothing waits for more than one frame, nothing is
//! allocated for bytes that have not come, and once something is wrong it stays wrong.

use bytes::{Buf as _, BytesMut};

use super::{End, Error, GROUP_LEN_MAX, Header, Parsed, Record, SealedFrame};

/// What a group consists of, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// First.
    Header(Header),
    /// Then frames.
    Frame(SealedFrame),
    /// Last, and only after it agreed with all that came before.
    End(End),
}

/// How much is hashed at a time while a group arrives. BLAKE3 is several times faster on many kilobytes than on single
/// frames, and this much takes it less than ten microseconds.
const HASH_STEP: usize = 64 << 10;

/// Parses a group from a stream and hashes it in passing: [`Reader::push`] what arrived, then take items until there
/// are none. It keeps a copy of the frames (at most [`GROUP_LEN_MAX`] bytes) to give the whole record at the end.
#[derive(Debug, Default)]
pub struct Reader {
    arrived: BytesMut,
    header: Option<Header>,
    frames: u32,
    /// Header and whole frames so far, and how much of them is in the hasher.
    record: BytesMut,
    hashed: usize,
    hasher: blake3::Hasher,
    end: Option<End>,
    failed: Option<Error>,
}

impl Reader {
    /// A reader at the start of a group.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream. After an error they are ignored.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.arrived.extend_from_slice(bytes);
        }
    }

    /// The next item, if its bytes have arrived. An error is final: it is given again at each call.
    #[expect(clippy::should_implement_trait, reason = "an iterator that gave None need not go on; this does")]
    pub fn next(&mut self) -> Result<Option<Item>, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.read().inspect_err(|error| {
            self.failed = Some(error.clone());
            self.arrived = BytesMut::new();
        })
    }

    fn read(&mut self) -> Result<Option<Item>, Error> {
        let Some(header) = &self.header else {
            return self.read_header();
        };
        if self.end.is_some() {
            return if self.arrived.is_empty() { Ok(None) } else { Err(Error::Trailing) };
        }
        if self.arrived.first() == Some(&0) {
            return self.read_end();
        }
        let index = self.frames;
        let Some(parsed) = Parsed::read(&self.arrived, header, index)? else {
            return Ok(None);
        };
        if self.record.len() + parsed.len > GROUP_LEN_MAX {
            return Err(Error::TooMuch("more bytes than a group may have"));
        }
        let bytes = self.arrived.split_to(parsed.len).freeze();
        self.keep(&bytes);
        self.frames += 1;
        Ok(Some(Item::Frame(parsed.with(index, bytes))))
    }

    fn read_header(&mut self) -> Result<Option<Item>, Error> {
        // The version alone may tell that the rest is not for us to understand.
        if let Some(version) = self.arrived.first().filter(|version| **version != Header::VERSION) {
            return Err(Error::Version(*version));
        }
        let Some(bytes) = self.arrived.first_chunk() else {
            return Ok(None);
        };
        let header = Header::decode(bytes)?;
        self.record.extend_from_slice(bytes);
        self.arrived.advance(Header::LEN);
        self.header = Some(header.clone());
        Ok(Some(Item::Header(header)))
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.record.extend_from_slice(bytes);
        while self.record.len() - self.hashed >= HASH_STEP {
            self.hasher.update(&self.record[self.hashed..self.hashed + HASH_STEP]);
            self.hashed += HASH_STEP;
        }
    }

    fn read_end(&mut self) -> Result<Option<Item>, Error> {
        let Some(bytes) = self.arrived.first_chunk() else {
            return Ok(None);
        };
        let end = End::decode(bytes);
        if end.frames != self.frames {
            return Err(Error::End("number of frames"));
        }
        if end.length != self.record.len() as u64 {
            return Err(Error::End("length"));
        }
        self.hasher.update(&self.record[self.hashed..]);
        self.hashed = self.record.len();
        if end.hash != self.hasher.finalize().into() {
            return Err(Error::End("hash"));
        }
        self.arrived.advance(End::LEN);
        self.end = Some(end);
        Ok(Some(Item::End(end)))
    }

    /// The header, once it came.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// How many whole frames came so far.
    pub fn frame_count(&self) -> u32 {
        self.frames
    }

    /// The group, whole and as its end said; an error if it did not get that far.
    pub fn into_record(self) -> Result<Record, Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let (Some(header), Some(end)) = (self.header, self.end) else {
            return Err(Error::Short { frames: self.frames });
        };
        if !self.arrived.is_empty() {
            return Err(Error::Trailing);
        }
        Ok(Record { header, frames: end.frames, hash: end.hash, bytes: self.record.freeze() })
    }
}

#[cfg(test)]
impl Reader {
    /// Bytes allocated for what has not become an item yet.
    pub(super) fn arrived_capacity(&self) -> usize {
        self.arrived.capacity()
    }
}
