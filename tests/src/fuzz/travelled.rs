//! What comes over a network: messages of the mesh and of the media plane, and groups.

use bytes::Bytes;
use libp2p::futures::executor::block_on;
use libp2p::futures::io::Cursor;
use node::join::wire::{self, Answer, Ask, Frame, Knock, Welcome};
use node::mesh::codec::Codec;
use node::mesh::hello::Hello;
use node::wire::control::Message;
use node::wire::{evidence, media, recover, replica, roster};
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::inventory::{Have, Page};
use store::keys::SessionKey;
use store::record::{self, Reader, Record};
use store::seal::Opener;

use super::seeds;

/// Longest framed message in these runs. The real bounds are larger and would only make inputs longer.
const FRAMED_MAX: usize = 64;

pub(super) fn control_message(bytes: &[u8]) -> bool {
    let Ok(message) = Message::decode(bytes) else { return false };
    let again = message.encode().expect("what was read can be written");
    assert_eq!(Message::decode(&again).expect("what was written can be read"), message);
    true
}

pub(super) fn evidence_message(bytes: &[u8]) -> bool {
    let Ok(message) = evidence::Message::decode(bytes) else { return false };
    assert_eq!(evidence::Message::decode(&message.encode()).as_ref(), Ok(&message));
    true
}

pub(super) fn copies_message(bytes: &[u8]) -> bool {
    let Ok(message) = replica::Message::decode(bytes) else { return false };
    assert_eq!(replica::Message::decode(&message.encode()).as_ref(), Ok(&message));
    true
}

pub(super) fn recovery_message(bytes: &[u8]) -> bool {
    let Ok(message) = recover::Message::decode(bytes) else { return false };
    assert_eq!(recover::Message::decode(&message.encode()).as_ref(), Ok(&message));
    true
}

pub(super) fn roster_message(bytes: &[u8]) -> bool {
    let Ok(message) = roster::Message::decode(bytes) else { return false };
    assert_eq!(roster::Message::decode(&message.encode()).expect("what was written can be read"), message);
    true
}

pub(super) fn media_message(bytes: &[u8]) -> bool {
    let message = returns::<media::Message>(bytes);
    let request = returns::<media::FetchRequest>(bytes);
    let item = returns::<media::FetchItem>(bytes);
    message || request || item
}

fn returns<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> bool {
    let Ok(message) = media::decode::<T>(bytes) else { return false };
    let again = media::encode(&message).expect("what was read can be written");
    assert_eq!(media::decode::<T>(&again[2..]).expect("what was written can be read"), message);
    true
}

/// The four frames of joining; each side takes only the one whose turn it is.
pub(super) fn join_frame(bytes: &[u8]) -> bool {
    let knocker = comes_again::<Knock>(bytes) | comes_again::<Ask>(bytes);
    let host = comes_again::<Welcome>(bytes) | comes_again::<Answer>(bytes);
    knocker || host
}

fn comes_again<F: Frame + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> bool {
    let Ok(frame) = wire::decode::<F>(bytes) else { return false };
    // Read from a longer form it may be, but never one that we could not write.
    let again = wire::encode(&frame);
    assert_eq!(wire::decode::<F>(&again).expect("what was written can be read"), frame);
    true
}

/// A group is the same however its bytes are cut, and opening its frames, which may be anybody's, does no harm.
pub(super) fn group(bytes: &[u8]) -> bool {
    let whole = read(bytes, &mut std::iter::repeat(bytes.len().max(1)));
    // Cut by what the bytes themselves say, so that an input means the same for ever.
    let mut cuts = bytes.iter().rev().map(|byte| 1 + usize::from(*byte) % 97).chain(std::iter::repeat(31));
    assert_eq!(read(bytes, &mut cuts), whole, "read in pieces and read at once differ");
    let Ok(record) = whole else {
        return Record::parse(Bytes::copy_from_slice(bytes)).is_ok_and(|record| open(&record));
    };
    assert_eq!(Record::parse(record.bytes().clone()), Ok(record.clone()), "the stored form is another group");
    open(&record)
}

fn read(bytes: &[u8], cuts: &mut dyn Iterator<Item = usize>) -> Result<Record, record::Error> {
    let (mut reader, mut rest) = (Reader::new(), bytes);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
        rest = after;
        reader.push(piece);
        while reader.next()?.is_some() {}
    }
    reader.into_record()
}

fn open(record: &Record) -> bool {
    thread_local! {
        static KEY: SessionKey = seeds::session_key();
    }
    let mut opener = Opener::new(record.header().session);
    opener.insert(0, KEY.with(Clone::clone));
    if let Ok(opener) = opener.group(record.header()) {
        for frame in record.frames() {
            if let Ok(plain) = opener.open(&frame) {
                assert!(plain.len() < frame.sframe().len(), "a frame holds more than was sealed");
            }
        }
    }
    true
}

pub(super) fn hello(bytes: &[u8]) -> bool {
    let Ok(hello) = Hello::decode(bytes) else { return false };
    assert!(hello.media(&[]).len() <= 8 && !hello.name.chars().any(char::is_control));
    assert_eq!(Hello::decode(&hello.encode()).expect("what was written can be read"), hello);
    true
}

/// A message behind its length. What came of it is exactly what was announced.
pub(super) fn framing(bytes: &[u8]) -> bool {
    let Ok(message) = block_on(Codec { bytes_max: FRAMED_MAX }.read(&mut Cursor::new(bytes))) else { return false };
    assert!(message.len() <= FRAMED_MAX);
    assert_eq!(bytes[..4], u32::try_from(message.len()).expect("it is short").to_be_bytes());
    assert_eq!(bytes[4..4 + message.len()], message);
    true
}

pub(super) fn inventory(bytes: &[u8]) -> bool {
    if let Ok(page) = Page::decode(bytes) {
        assert_eq!(page.encode(), bytes, "a page has one form");
    }
    let Ok(have) = Have::decode(bytes) else { return Page::decode(bytes).is_ok() };
    assert_eq!(have.encode(), bytes, "an inventory has one form");
    let groups: u64 = have.runs().map(|run| run.end() - run.start() + 1).sum();
    assert_eq!(groups, have.len());
    let last = have.last().unwrap_or(0);
    let missing: u64 = have.missing(0..=last, usize::MAX).iter().map(|run| run.end() - run.start() + 1).sum();
    assert_eq!(missing + groups, if have.is_empty() { 1 } else { last + 1 });
    true
}
