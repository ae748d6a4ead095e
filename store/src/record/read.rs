//! Reading a group as its bytes arrive, in pieces of any size. Nothing waits for more than one frame, nothing is
//! allocated for bytes that have not come, and once something is wrong it stays wrong.

use bytes::{Buf as _, Bytes, BytesMut};

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

/// Parses a group from a stream and hashes it in passing: [`Reader::push`] what arrived, then take items until there
/// are none. It keeps the frames (at most [`GROUP_LEN_MAX`] bytes) to give the whole record at the end.
#[derive(Debug, Default)]
pub struct Reader {
    arrived: BytesMut,
    header: Option<Header>,
    frames: Vec<Bytes>,
    length: usize,
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
        let index = self.frames.len() as u32;
        let Some(parsed) = Parsed::read(&self.arrived, header, index)? else {
            return Ok(None);
        };
        if self.length + parsed.len > GROUP_LEN_MAX {
            return Err(Error::TooMuch("more bytes than a group may have"));
        }
        let bytes = self.arrived.split_to(parsed.len).freeze();
        self.hasher.update(&bytes);
        self.length += bytes.len();
        self.frames.push(bytes.clone());
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
        self.hasher.update(bytes);
        self.length = Header::LEN;
        self.arrived.advance(Header::LEN);
        self.header = Some(header.clone());
        Ok(Some(Item::Header(header)))
    }

    fn read_end(&mut self) -> Result<Option<Item>, Error> {
        let Some(bytes) = self.arrived.first_chunk() else {
            return Ok(None);
        };
        let end = End::decode(bytes);
        if end.frames as usize != self.frames.len() {
            return Err(Error::End("number of frames"));
        }
        if end.length != self.length as u64 {
            return Err(Error::End("length"));
        }
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
        self.frames.len() as u32
    }

    /// The whole frames so far, as the archive's parts keep them; `None` before the header. Costs a copy.
    pub fn so_far(&self) -> Option<Record> {
        let header = self.header.clone()?;
        let mut bytes = BytesMut::with_capacity(self.length);
        bytes.extend_from_slice(&header.encode());
        self.frames.iter().for_each(|frame| bytes.extend_from_slice(frame));
        let hash = self.hasher.finalize().into();
        Some(Record { header, frames: self.frame_count(), hash, bytes: bytes.freeze() })
    }

    /// The group, whole and as its end said; an error if it did not get that far.
    pub fn into_record(self) -> Result<Record, Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.end.is_none() {
            return Err(Error::Short { frames: self.frame_count() });
        }
        if !self.arrived.is_empty() {
            return Err(Error::Trailing);
        }
        Ok(self.so_far().expect("a group that ended has a header"))
    }
}

#[cfg(test)]
impl Reader {
    /// Bytes allocated for what has not become an item yet.
    pub(super) fn arrived_capacity(&self) -> usize {
        self.arrived.capacity()
    }
}
