//! What lies where on disk. All columns and their keys are named here, and a name is never used for anything else again.
//!
//! Two databases. `meta` is small and the truth: it is what must be saved. `media` is large and can be fetched again
//! from others. Keys are big-endian, so that a session, a track, a run of groups are each a contiguous range.

use crate::{
    id::{GroupId, NodeId, PointNumber, SessionId, TrackId},
    keys::Epoch,
};

/// The version of this layout. A program refuses an archive of another version; the way up from one to the next is code
/// beside this number.
pub const VERSION: u8 = 1;

/// Names of columns that older programs made. They held nothing that anybody was promised, and go when the database is
/// opened for writing.
pub const RETIRED: &[(Store, &str)] = &[(Store::Media, "part")];

/// One of the two databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Store {
    /// The truth.
    Meta,
    /// What can be fetched again.
    Media,
}

impl Store {
    /// Name of its folder.
    pub const fn name(self) -> &'static str {
        match self {
            Store::Meta => "meta",
            Store::Media => "media",
        }
    }

    /// Its columns.
    pub fn columns(self) -> impl Iterator<Item = Column> {
        Column::ALL.into_iter().filter(move |column| column.store() == self)
    }
}

/// A column family: keys of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    /// `meta` — name → value: `schema` → [`VERSION`]; [`RECOVERY_KEY`] → what is being taken back from others; [`RESTORED`], then
    /// session (16) → nothing: it was taken back; [`OWED`], then session (16) → the group number that was used: our own segments
    /// must be; [`BORN_KEY`] → unix milliseconds (8): when this archive was first written.
    Config,
    /// `meta` — session (16) → [`crate::session::Head`].
    Sessions,
    /// `meta` — session (16), number (8) → signed journal entry.
    Journal,
    /// `meta` — session (16), point (2), number (4) → signed segment.
    Segments,
    /// `meta` — session (16), number (4) → signed manifest; with point (2) behind it → that point's countersignature.
    Manifests,
    /// `meta` — session (16), epoch (4), recipient (32) → wrapped session key.
    Wraps,
    /// `meta` — session (16) → first group number (8) that this node has not promised to use.
    Reserved,
    /// `meta` — number (8) → signed entry of the access log.
    Access,
    /// `meta` — number counted down from 2^64 - 1 (8), so that the newest comes first → signed roster. Every one this
    /// node has worked with.
    Rosters,
    /// `meta` — session (16), track (2) → inventory of the groups that were ever stored here, as last counted.
    Kept,
    /// `meta` — session (16), node (32) → wall clock of its arrival (8), then that node's signed receipt.
    Receipts,
    /// `meta` — session (16) → nothing: groups were stored in it since the last clean stop.
    Touched,
    /// `meta` — session (16) → when it was last read again, how far that has come, what was found:
    /// [`crate::scrub::Progress`].
    Scrubs,
    /// `media` — session (16), track (2), number (8) → group record. The only column with values too large to be
    /// read in passing; it is never scanned.
    Groups,
    /// `media` — the same key → address, length and counts of the group. Written in the group's batch.
    Addresses,
    /// `media` — session (16), track (2), page (4) → bitmap of 4096 groups. Written in the groups' batch.
    Have,
}

impl Column {
    /// All columns.
    pub const ALL: [Column; 16] = [
        Column::Config,
        Column::Sessions,
        Column::Journal,
        Column::Segments,
        Column::Manifests,
        Column::Wraps,
        Column::Reserved,
        Column::Access,
        Column::Rosters,
        Column::Kept,
        Column::Receipts,
        Column::Touched,
        Column::Scrubs,
        Column::Groups,
        Column::Addresses,
        Column::Have,
    ];

    /// Its name on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Column::Config => "cfg",
            Column::Sessions => "ses",
            Column::Journal => "jnl",
            Column::Segments => "seg",
            Column::Manifests => "man",
            Column::Wraps => "key",
            Column::Reserved => "rsv",
            Column::Access => "acc",
            Column::Rosters => "ros",
            Column::Kept => "kept",
            Column::Receipts => "rcp",
            Column::Touched => "tch",
            Column::Scrubs => "scr",
            Column::Groups => "grp",
            Column::Addresses => "adr",
            Column::Have => "have",
        }
    }

    /// The database it is in.
    pub const fn store(self) -> Store {
        match self {
            Column::Config
            | Column::Sessions
            | Column::Journal
            | Column::Segments
            | Column::Manifests
            | Column::Wraps
            | Column::Reserved
            | Column::Access
            | Column::Rosters
            | Column::Kept
            | Column::Receipts
            | Column::Touched
            | Column::Scrubs => Store::Meta,
            Column::Groups | Column::Addresses | Column::Have => Store::Media,
        }
    }
}

/// Key of the schema's version in [`Column::Config`].
pub const SCHEMA_KEY: &[u8] = b"schema";

/// Key of what is being taken back from others in [`Column::Config`].
pub const RECOVERY_KEY: &[u8] = b"recovery";

/// Key of the time from which on this archive knows what happened here, in [`Column::Config`].
pub const BORN_KEY: &[u8] = b"born";

/// What keys of sessions that were taken back begin with in [`Column::Config`].
pub const RESTORED: &[u8] = b"restored/";

/// What keys of sessions begin with in [`Column::Config`] whose archive was lost while they ran.
pub const OWED: &[u8] = b"owed/";

/// Key in [`Column::Groups`], [`Column::Addresses`].
pub fn group_key(id: &GroupId) -> [u8; 26] {
    let mut key = [0; 26];
    key[..18].copy_from_slice(&track_prefix(&id.session, id.track));
    key[18..].copy_from_slice(&id.seq.to_be_bytes());
    key
}

/// The group of such a key, if it is one.
pub fn parse_group_key(key: &[u8]) -> Option<GroupId> {
    let key: &[u8; 26] = key.try_into().ok()?;
    Some(GroupId {
        session: SessionId::from_bytes(*key.first_chunk()?),
        track: TrackId::try_from(u16::from_be_bytes([key[16], key[17]])).ok()?,
        seq: u64::from_be_bytes(*key.last_chunk()?),
    })
}

/// Key in [`Column::Kept`], and what all keys of a track in `media` begin with.
pub fn track_prefix(session: &SessionId, track: TrackId) -> [u8; 18] {
    let mut key = [0; 18];
    key[..16].copy_from_slice(session.as_bytes());
    key[16..].copy_from_slice(&track.to_u16().to_be_bytes());
    key
}

/// Key in [`Column::Have`].
pub fn page_key(session: &SessionId, track: TrackId, page: u32) -> [u8; 22] {
    let mut key = [0; 22];
    key[..18].copy_from_slice(&track_prefix(session, track));
    key[18..].copy_from_slice(&page.to_be_bytes());
    key
}

/// The session, track and page of such a key, if it is one.
pub fn parse_page_key(key: &[u8]) -> Option<(SessionId, TrackId, u32)> {
    let key: &[u8; 22] = key.try_into().ok()?;
    let track = TrackId::try_from(u16::from_be_bytes([key[16], key[17]])).ok()?;
    Some((SessionId::from_bytes(*key.first_chunk()?), track, u32::from_be_bytes(*key.last_chunk()?)))
}

/// Key in [`Column::Journal`].
pub fn journal_key(session: &SessionId, n: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(session.as_bytes());
    key[16..].copy_from_slice(&n.to_be_bytes());
    key
}

/// Key in [`Column::Segments`].
pub fn segment_key(session: &SessionId, point: PointNumber, n: u32) -> [u8; 22] {
    let mut key = [0; 22];
    key[..18].copy_from_slice(&point_prefix(session, point));
    key[18..].copy_from_slice(&n.to_be_bytes());
    key
}

/// Key of a manifest in [`Column::Manifests`].
pub fn manifest_key(session: &SessionId, n: u32) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(session.as_bytes());
    key[16..].copy_from_slice(&n.to_be_bytes());
    key
}

/// Key of a countersignature in [`Column::Manifests`].
pub fn countersignature_key(session: &SessionId, n: u32, point: PointNumber) -> [u8; 22] {
    let mut key = [0; 22];
    key[..20].copy_from_slice(&manifest_key(session, n));
    key[20..].copy_from_slice(&point.get().to_be_bytes());
    key
}

/// What all keys of a point in [`Column::Segments`] begin with.
pub fn point_prefix(session: &SessionId, point: PointNumber) -> [u8; 18] {
    let mut key = [0; 18];
    key[..16].copy_from_slice(session.as_bytes());
    key[16..].copy_from_slice(&point.get().to_be_bytes());
    key
}

/// Key in [`Column::Wraps`].
pub fn wrap_key(session: &SessionId, epoch: Epoch, recipient: &NodeId) -> [u8; 52] {
    let mut key = [0; 52];
    key[..16].copy_from_slice(session.as_bytes());
    key[16..20].copy_from_slice(&u32::from(epoch).to_be_bytes());
    key[20..].copy_from_slice(recipient.as_bytes());
    key
}

/// Key in [`Column::Receipts`].
pub fn receipt_key(session: &SessionId, node: &NodeId) -> [u8; 48] {
    let mut key = [0; 48];
    key[..16].copy_from_slice(session.as_bytes());
    key[16..].copy_from_slice(node.as_bytes());
    key
}

/// Key in [`Column::Access`].
pub fn access_key(n: u64) -> [u8; 8] {
    n.to_be_bytes()
}

/// Key in [`Column::Rosters`].
pub fn roster_key(number: u64) -> [u8; 8] {
    (u64::MAX - number).to_be_bytes()
}

/// Epoch and recipient of such a key, if it is one.
pub fn parse_wrap_key(key: &[u8]) -> Option<(Epoch, NodeId)> {
    let key: &[u8; 52] = key.try_into().ok()?;
    let epoch = u32::from_be_bytes([key[16], key[17], key[18], key[19]]);
    Some((Epoch::try_from(epoch).ok()?, NodeId::from_bytes(*key.last_chunk()?)))
}

/// The first key after all that begin with `prefix`; `None` if there can be none.
pub fn after(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut key = prefix[..=last].to_vec();
    key[last] += 1;
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kept_for_ever() {
        let session = SessionId::from_bytes([0xaa; 16]);
        let track = TrackId::try_from(0x0123).unwrap();
        let group = GroupId { session, track, seq: 7 };
        let key = group_key(&group);
        assert_eq!(hex::encode(key), format!("{}01230000000000000007", "aa".repeat(16)));
        assert_eq!(parse_group_key(&key), Some(group));
        assert_eq!(parse_group_key(&key[1..]), None);
        let page = page_key(&session, track, 2);
        assert_eq!(hex::encode(page), format!("{}012300000002", "aa".repeat(16)));
        assert_eq!(parse_page_key(&page), Some((session, track, 2)));
        assert_eq!(parse_page_key(&page[1..]), None);
        assert_eq!(hex::encode(journal_key(&session, 2)), format!("{}0000000000000002", "aa".repeat(16)));
        let point = PointNumber::new(3).unwrap();
        assert_eq!(hex::encode(segment_key(&session, point, 2)), format!("{}000300000002", "aa".repeat(16)));
        assert_eq!(hex::encode(manifest_key(&session, 2)), format!("{}00000002", "aa".repeat(16)));
        assert_eq!(hex::encode(countersignature_key(&session, 2, point)), format!("{}000000020003", "aa".repeat(16)));
        let wrap = wrap_key(&session, 2, &NodeId::from_bytes([0xbb; 32]));
        assert_eq!(hex::encode(wrap), format!("{}00000002{}", "aa".repeat(16), "bb".repeat(32)));
        let receipt = receipt_key(&session, &NodeId::from_bytes([0xbb; 32]));
        assert_eq!(hex::encode(receipt), format!("{}{}", "aa".repeat(16), "bb".repeat(32)));
        assert_eq!(hex::encode(access_key(2)), "0000000000000002");
        assert_eq!(hex::encode(roster_key(2)), "fffffffffffffffd");
        assert_eq!(parse_wrap_key(&wrap), Some((2, NodeId::from_bytes([0xbb; 32]))));
        assert_eq!(parse_wrap_key(&wrap[1..]), None);
        let names: Vec<_> = Column::ALL.map(Column::name).into();
        assert_eq!(
            names,
            [
                "cfg", "ses", "jnl", "seg", "man", "key", "rsv", "acc", "ros", "kept", "rcp", "tch", "scr", "grp",
                "adr", "have"
            ]
        );
        for (_, retired) in RETIRED {
            assert!(!names.contains(retired), "{retired} is a column again");
        }
    }

    #[test]
    fn the_end_of_a_prefix_is_after_all_its_keys() {
        assert_eq!(after(&[1, 2]), Some(vec![1, 3]));
        assert_eq!(after(&[1, 0xff]), Some(vec![2]));
        assert_eq!(after(&[0xff, 0xff]), None);
        assert_eq!(after(&[]), None);
    }
}
