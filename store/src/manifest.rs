//! The manifest: what a recording consists of, signed by central once the session is over, and countersigned by every point
//! for its own part.
//!
//! Journal and segments are chains, and a chain says nothing of an end that was cut off. The manifest names the ends: of the
//! journal, of each point's segments, and the head. Who has it and its countersignatures knows what there must be. What comes
//! after it (a repair, a point that was away) is in a further manifest with the next number, which names the one before;
//! nothing is ever replaced.

use serde::{Deserialize, Serialize};

use crate::{
    id::{Hash, PointNumber, SessionId, TrackId},
    segment::TRACKS_MAX,
    signed::{Content, Signed},
};

/// Most manifests of one session, so that a central cannot make others keep them without end: 14 MiB of the longest.
///
/// An honest one does not get here. It signs a further manifest only if there is something new to say, and waits twice as
/// long before each, up to an hour: that is ten days of points that hand over late, piece by piece. What comes after the
/// last is stored and can be checked, but no manifest speaks of it.
pub const MANIFESTS_MAX: u32 = 256;

/// How one track of a point stands at central.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrackEnd {
    /// The track.
    pub track: TrackId,
    /// The first number that no segment speaks of.
    pub next: u64,
    /// Groups the point signed for that central keeps.
    pub groups: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Groups the point signed for that central does not keep. The journal says why.
    pub missing: u64,
}

/// Where a point's segments end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainEnd {
    /// The point.
    pub point: PointNumber,
    /// How many segments central has of it.
    pub segments: u32,
    /// Hash of the last of them; [`Hash::NONE`] if there is none.
    pub last: Hash,
    /// Whether that one says that it is the last.
    pub closed: bool,
    /// Its tracks, by number.
    pub tracks: Vec<TrackEnd>,
}

/// What central signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The session.
    pub session: SessionId,
    /// Its number among the session's manifests, from 0 without a gap.
    pub n: u32,
    /// Hash of the signed manifest before; [`Hash::NONE`] for the first.
    pub prev: Hash,
    /// Central's wall clock, unix milliseconds. For people; it decides nothing.
    pub wall_ms: u64,
    /// BLAKE3 of the session's head as it is stored.
    pub head: Hash,
    /// Entries of the journal.
    pub entries: u64,
    /// Hash of the last of them.
    pub journal: Hash,
    /// Every point of the session, by number.
    pub chains: Vec<ChainEnd>,
}

impl Content for Manifest {
    const KIND: &'static str = "application/vnd.diemcau.manifest.v1+cbor";

    /// A point takes some 200 bytes, so about 250 points fit; a manifest fits into one message between nodes.
    const LEN_MAX: usize = 56 * 1024;

    fn check(&self) -> Result<(), String> {
        check_number(self.n)?;
        if (self.n == 0) != (self.prev == Hash::NONE) {
            return Err("a manifest before it though it is the first, or none though it is not".into());
        }
        if let Some(pair) = self.chains.windows(2).find(|pair| pair[0].point >= pair[1].point) {
            return Err(format!("point {} out of order or twice", pair[1].point));
        }
        self.chains.iter().try_for_each(ChainEnd::check)
    }
}

fn check_number(n: u32) -> Result<(), String> {
    match n < MANIFESTS_MAX {
        true => Ok(()),
        false => Err(format!("number {n}, and a session has at most {MANIFESTS_MAX} manifests")),
    }
}

impl ChainEnd {
    fn check(&self) -> Result<(), String> {
        let of = |what: &str| Err(format!("point {} with {what}", self.point));
        if (self.segments == 0) != (self.last == Hash::NONE) || (self.segments == 0 && self.closed) {
            return of("an end of no segments");
        }
        if self.tracks.len() > TRACKS_MAX || self.tracks.windows(2).any(|pair| pair[0].track >= pair[1].track) {
            return of("tracks out of order");
        }
        if self.tracks.iter().any(|end| end.track.point() != self.point) {
            return of("another point's track");
        }
        if self.tracks.iter().any(|end| end.groups.checked_add(end.missing).is_none_or(|all| all > end.next)) {
            return of("more groups than numbers");
        }
        Ok(())
    }
}

impl Manifest {
    /// Where a point's segments end.
    pub fn chain(&self, point: PointNumber) -> Option<&ChainEnd> {
        self.chains.iter().find(|end| end.point == point)
    }

    /// Whether it says the same as `other`, whatever their numbers and when they were signed.
    pub fn says_what(&self, other: &Manifest) -> bool {
        let said = |manifest: &Manifest| Manifest { n: 0, prev: Hash::NONE, wall_ms: 0, ..manifest.clone() };
        said(self) == said(other)
    }

    /// Says in words why central cannot honestly have signed this right after `before`. Of two that have others between them
    /// nothing can be said: a point that was away has not seen all.
    pub fn contradicts(&self, before: &Signed<Manifest>) -> Option<&'static str> {
        if before.content().n.checked_add(1) != Some(self.n) {
            return None;
        }
        if self.prev != before.hash() {
            return Some("does not follow the one before it");
        }
        self.says_what(before.content()).then_some("says nothing that the one before it does not say")
    }

    /// Whether an archive of which this could be signed has all that `other` says is kept. It may have more: a point has of
    /// its own tracks what never came to central.
    pub fn covers(&self, other: &Manifest) -> bool {
        let bare = |manifest: &Manifest| {
            let mut bare = manifest.clone();
            for track in bare.chains.iter_mut().flat_map(|end| &mut end.tracks) {
                (track.groups, track.bytes, track.missing) = (0, 0, 0);
            }
            bare
        };
        let tracks =
            |manifest: &Manifest| manifest.chains.iter().flat_map(|end| end.tracks.clone()).collect::<Vec<_>>();
        let more = |(ours, theirs): (TrackEnd, TrackEnd)| ours.groups >= theirs.groups && ours.bytes >= theirs.bytes;
        bare(self).says_what(&bare(other)) && tracks(self).into_iter().zip(tracks(other)).all(more)
    }
}

/// What a point signs for its part of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Countersignature {
    /// The session.
    pub session: SessionId,
    /// The point.
    pub point: PointNumber,
    /// Number of the manifest.
    pub n: u32,
    /// Hash of the signed manifest.
    pub manifest: Hash,
    /// Segments the point signed.
    pub segments: u32,
    /// Hash of the last of them.
    pub last: Hash,
    /// The point's wall clock, unix milliseconds. For people; it decides nothing.
    pub wall_ms: u64,
}

impl Content for Countersignature {
    const KIND: &'static str = "application/vnd.diemcau.countersignature.v1+cbor";

    const LEN_MAX: usize = 1024;

    fn check(&self) -> Result<(), String> {
        check_number(self.n)
    }
}

impl Countersignature {
    /// Says in words what of a manifest contradicts what a point has signed itself: it has these many segments, ending so.
    pub fn objection(manifest: &Manifest, point: PointNumber, segments: u32, last: Hash) -> Option<String> {
        match manifest.chain(point) {
            None => Some("the manifest does not name this point".into()),
            Some(end) if end.segments < segments => Some(format!(
                "the manifest ends with segment {} of this point, which has signed {segments} segments",
                end.segments
            )),
            Some(end) if (end.segments, end.last) != (segments, last) => {
                Some("the manifest names another end of this point's segments than it has signed".into())
            }
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{id::TrackKind, keys::NodeKey};

    fn key(byte: u8) -> NodeKey {
        NodeKey::from_bytes(&[byte; 32])
    }

    fn point(number: u16) -> PointNumber {
        PointNumber::new(number).unwrap()
    }

    fn manifest() -> Manifest {
        let track = |number| TrackEnd {
            track: TrackId::new(point(number), TrackKind::Main),
            next: 60,
            groups: 55,
            bytes: 12_345_678,
            missing: 3,
        };
        let chain = |number, tracks| ChainEnd {
            point: point(number),
            segments: 4,
            last: Hash::of(&number.to_be_bytes()),
            closed: true,
            tracks,
        };
        let absent = ChainEnd { segments: 0, last: Hash::NONE, closed: false, ..chain(7, vec![]) };
        Manifest {
            session: SessionId::from_parts(1_700_000_000_000, [9; 10]),
            n: 1,
            prev: Hash::of(b"the first"),
            wall_ms: 1_700_000_600_000,
            head: Hash::of(b"head"),
            entries: 9,
            journal: Hash::of(b"entry 8"),
            chains: vec![chain(1, vec![track(1)]), chain(2, vec![track(2)]), absent],
        }
    }

    fn countersignature() -> Countersignature {
        Countersignature {
            session: manifest().session,
            point: point(2),
            n: 1,
            manifest: Signed::new(manifest(), &key(5)).hash(),
            segments: 4,
            last: Hash::of(&2u16.to_be_bytes()),
            wall_ms: 1_700_000_601_000,
        }
    }

    /// Written by the first version; must be readable for ever.
    const VERSION_1: &str = include_str!("../tests/vectors/manifest-v1.hex");

    #[test]
    fn the_first_version_is_read_for_ever() {
        let kept: Vec<Bytes> = VERSION_1.lines().map(|line| hex::decode(line).unwrap().into()).collect();
        assert_eq!(Signed::parse(kept[0].clone()), Ok(Signed::new(manifest(), &key(5))));
        assert_eq!(Signed::parse(kept[1].clone()), Ok(Signed::new(countersignature(), &key(6))));
    }

    #[test]
    fn a_manifest_that_contradicts_itself_is_refused() {
        let check = |change: fn(&mut Manifest), expected: &str| {
            let mut manifest = manifest();
            change(&mut manifest);
            let error = Signed::sound(manifest, &key(5)).unwrap_err().to_string();
            assert_eq!(error, format!("the signed record has {expected}"));
        };
        check(|m| m.n = 0, "a manifest before it though it is the first, or none though it is not");
        check(|m| m.n = MANIFESTS_MAX, "number 256, and a session has at most 256 manifests");
        check(|m| m.chains.swap(0, 1), "point 1 out of order or twice");
        check(|m| m.chains[2].closed = true, "point 7 with an end of no segments");
        check(|m| m.chains[0].segments = 0, "point 1 with an end of no segments");
        check(|m| m.chains[0].tracks[0].groups = 58, "point 1 with more groups than numbers");
        check(|m| m.chains[0].tracks[0].groups = u64::MAX, "point 1 with more groups than numbers");
        check(|m| m.chains[0].point = point(0), "point 0 with another point's track");
    }

    #[test]
    fn a_manifest_follows_the_one_before_it_and_has_something_new_to_say() {
        let before = Signed::new(manifest(), &key(5));
        let check = |change: fn(&mut Manifest), expected: Option<&str>| {
            let mut next = Manifest { n: 2, prev: before.hash(), wall_ms: 1, ..manifest() };
            change(&mut next);
            assert_eq!(next.contradicts(&before), expected);
        };
        check(|m| m.entries += 1, None);
        check(|_| {}, Some("says nothing that the one before it does not say"));
        check(|m| m.prev = Hash::NONE, Some("does not follow the one before it"));
        check(|m| (m.n, m.prev) = (3, Hash::NONE), None);
    }

    #[test]
    fn a_point_does_not_sign_for_what_it_has_not_signed() {
        let objection = |segments, last| Countersignature::objection(&manifest(), point(2), segments, last);
        let last = Hash::of(&2u16.to_be_bytes());
        assert_eq!(objection(4, last), None);
        assert!(objection(5, Hash::of(b"5")).unwrap().contains("which has signed 5 segments"));
        assert!(objection(4, Hash::of(b"other")).unwrap().contains("another end"));
        assert!(objection(3, last).unwrap().contains("another end"));
        let unknown = Countersignature::objection(&manifest(), point(3), 0, Hash::NONE);
        assert_eq!(unknown.unwrap(), "the manifest does not name this point");
    }

    #[test]
    fn a_manifest_of_a_large_session_can_be_sent() {
        let of = |number: u16| ChainEnd {
            point: point(number),
            tracks: manifest().chains[0]
                .tracks
                .iter()
                .flat_map(|end| {
                    [TrackKind::Audio, TrackKind::Main]
                        .map(|kind| TrackEnd { track: TrackId::new(point(number), kind), ..end.clone() })
                })
                .collect(),
            ..manifest().chains[0].clone()
        };
        let large = Manifest { chains: (0..200).map(of).collect(), ..manifest() };
        assert!(Signed::sound(large, &key(5)).is_ok());
    }

    #[test]
    fn an_archive_with_more_of_a_track_covers_what_central_keeps_and_one_with_less_does_not() {
        let theirs = manifest();
        assert!(theirs.covers(&theirs));
        let with = |change: fn(&mut TrackEnd)| {
            let mut ours = theirs.clone();
            ours.chains.iter_mut().flat_map(|end| &mut end.tracks).for_each(change);
            ours
        };
        let fewer = with(|track| (track.groups, track.missing) = (track.groups - 1, track.missing + 1));
        assert!(theirs.covers(&fewer) && !fewer.covers(&theirs));
        let longer = with(|track| track.next += 1);
        assert!(!longer.covers(&theirs), "it is of other segments");
    }
}
