//! What lies on disk and may have been changed there, or was handed on by others: signed records, heads, keys.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use store::access;
use store::cbor as deterministic;
use store::id::NodeId;
use store::journal::{Chain, Entry};
use store::keys::{Wrap, WrapContext};
use store::locked;
use store::manifest::{Countersignature, Manifest};
use store::roster::{Admission, Grant, Membership, Request, Roster};
use store::segment::{self, Segment};
use store::session::Head;
use store::shares::{Share, combine};
use store::signed::{Content, LEN_MAX, Signed};

use super::seeds;

/// Every kind of signed record: as it is signed, and what is signed alone, since no run of mutations finds a signature.
pub(super) fn signed(bytes: &[u8]) -> bool {
    let known = [
        is_signed::<Entry>(bytes),
        is_signed::<Roster>(bytes),
        is_signed::<Grant>(bytes),
        is_signed::<Admission>(bytes),
        is_signed::<Request>(bytes),
        is_signed::<access::Entry>(bytes),
        is_signed::<Segment>(bytes),
        is_signed::<Manifest>(bytes),
        is_signed::<Countersignature>(bytes),
    ];
    known.contains(&true)
}

fn is_signed<T: Content + Clone + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let record = Signed::<T>::parse(Bytes::copy_from_slice(bytes));
    if let Ok(record) = &record {
        assert_eq!(record.bytes(), bytes);
        let content = deterministic::encode(record.content());
        assert_eq!(&deterministic::decode::<T>(&content, LEN_MAX).expect("it was read before"), record.content());
    }
    let content = deterministic::decode::<T>(bytes, LEN_MAX);
    if let Ok(content) = &content {
        assert_eq!(deterministic::encode(content), bytes, "a record has one form");
        let again = Signed::new(content.clone(), &seeds::node_key(1));
        match content.check() {
            Ok(()) if again.bytes().len() <= T::LEN_MAX => {
                assert_eq!(Signed::<T>::parse(again.bytes().clone()).as_ref(), Ok(&again))
            }
            _ => assert!(Signed::<T>::parse(again.bytes().clone()).is_err(), "what cannot be was read"),
        }
    }
    record.is_ok() || content.is_ok()
}

/// Entries one after the other, each behind its length in two bytes, as a journal is read back.
pub(super) fn journal(bytes: &[u8]) -> bool {
    let mut chain = Chain::new(seeds::session(), seeds::node_key(0).id());
    let mut rest = bytes;
    let mut entries = 0;
    while let Some((length, after)) = rest.split_first_chunk() {
        let Some((entry, after)) = after.split_at_checked(usize::from(u16::from_be_bytes(*length))) else { break };
        rest = after;
        let Ok(entry) = Signed::<Entry>::parse(Bytes::copy_from_slice(entry)) else { break };
        let before = (chain.len(), chain.last());
        match chain.accept(&entry) {
            Ok(()) => {
                entries += 1;
                assert_eq!((chain.len(), chain.last()), (before.0 + 1, entry.hash()));
                assert_eq!((entry.content().n, entry.content().prev), before);
            }
            Err(_) => assert_eq!((chain.len(), chain.last()), before, "what was refused changed the chain"),
        }
    }
    entries > 0
}

/// Segments one after the other, each behind its length in two bytes, as a point's chain is read back.
pub(super) fn segment(bytes: &[u8]) -> bool {
    let mut chain = segment::Chain::new(seeds::session(), seeds::point(), seeds::node_key(1).id());
    let mut rest = bytes;
    let mut segments = 0;
    while let Some((length, after)) = rest.split_first_chunk() {
        let Some((record, after)) = after.split_at_checked(usize::from(u16::from_be_bytes(*length))) else { break };
        rest = after;
        let Ok(record) = Signed::<Segment>::parse(Bytes::copy_from_slice(record)) else { break };
        let before = chain.clone();
        match chain.accept(&record) {
            Ok(()) => {
                segments += 1;
                assert_eq!(chain, segment::Chain::after(&record), "a chain is what its last segment says");
                for listed in &record.content().tracks {
                    assert_eq!(before.next_of(listed.track), listed.from, "a number is left out");
                }
            }
            Err(_) => assert_eq!(chain, before, "what was refused changed the chain"),
        }
    }
    segments > 0
}

/// A manifest, and what a point that signed other segments says of it.
pub(super) fn manifest(bytes: &[u8]) -> bool {
    let Ok(manifest) = Signed::<Manifest>::parse(Bytes::copy_from_slice(bytes)) else { return false };
    let content = manifest.content();
    assert!(content.says_what(content));
    for end in &content.chains {
        let objection = |segments, last| Countersignature::objection(content, end.point, segments, last);
        assert_eq!(objection(end.segments, end.last), None);
        assert!(objection(end.segments.wrapping_add(1), end.last).is_some());
    }
    true
}

pub(super) fn head(bytes: &[u8]) -> bool {
    let Ok(head) = Head::decode(bytes) else { return false };
    // The first version is read for ever and written no more.
    let again = head.encode();
    assert!(bytes[0] == 1 || again == bytes, "a head has one form");
    assert_eq!(Head::decode(&again).as_ref(), Ok(&head));
    assert!(head.member(head.points[0].number).is_some() && head.number(&head.central).is_some());
    true
}

/// Anything that records of ours may hold.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Any {
    Nothing,
    Flag(bool),
    Number(i64),
    Text(String),
    List(Vec<Any>),
    Map(BTreeMap<String, Any>),
}

pub(super) fn cbor(bytes: &[u8]) -> bool {
    let Ok(value) = deterministic::decode::<Any>(bytes, LEN_MAX) else { return false };
    assert_eq!(deterministic::encode(&value), bytes, "a value has one form");
    true
}

/// What a node knows of its mesh, as it lies in its folder and is sent to others. Taken again, it is no news.
pub(super) fn membership(bytes: &[u8]) -> bool {
    let Ok(membership) = Membership::decode(Bytes::copy_from_slice(bytes)) else { return false };
    assert_eq!(membership.encode(), bytes, "a membership has one form");
    assert_eq!(membership.clone().merge(&membership), Ok(false));
    for point in membership.points() {
        assert_eq!(membership.point(&point.node), Some(point));
        assert_eq!(membership.named(&point.name), Some(point));
        assert_eq!(membership.revoked(&point.node), None, "a point is revoked");
    }
    true
}

/// A key behind a passphrase.
pub(super) fn locked(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match locked::unlock("authority", text, seeds::PASSPHRASE) {
        Ok(secret) => {
            assert_eq!(*secret, seeds::SECRET, "another key came out");
            true
        }
        Err(_) => false,
    }
}

/// A part of the recovery key as it is typed in from paper.
pub(super) fn share(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(share) = Share::parse(text) else { return false };
    for form in [share.to_text(), share.to_line()] {
        let again = Share::parse(&form).expect("what is printed can be typed");
        assert_eq!(*again.to_line(), *share.to_line());
    }
    assert!(combine(&[share], &seeds::wrap_key().public()).is_err(), "one share is not enough");
    true
}

/// A wrapped key opens for whom it was made and in no other form than it was made.
pub(super) fn wrap(bytes: &[u8]) -> bool {
    let Ok(wrap) = Wrap::decode(bytes) else { return false };
    assert_eq!(wrap.as_bytes(), bytes);
    let (key, context) = (seeds::wrap_key(), seeds::wrap_context());
    let elsewhere = WrapContext { recipient: NodeId::from_bytes([9; 32]), ..context };
    let opened = wrap.open(&key, &context);
    assert!(opened.is_err() || opened.as_ref().is_ok_and(|key| *key == seeds::session_key()), "another key came out");
    assert!(wrap.open(&key, &elsewhere).is_err(), "a wrap opens where it was not made for");
    opened.is_ok()
}
