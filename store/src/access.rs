//! The access log: who opened, exported, copied or changed something at this node, or was refused, and when. Signed by the
//! node and chained by hash like the journal.
//!
//! Whoever has not the node's key cannot change, drop, swap or slip in an entry without the reader being told where.
//! Who has both the key and the disk can write the whole log anew, and an end that is cut off is missed only by
//! somebody who knew how long it was; so the log is worth what the machine's keeper is worth, until others cosign it.
//!
//! It names nodes, accounts, addresses and sessions by their ids, and never what a session is called or who was received in
//! it, so that it may be read by people who may not see recordings. What happens again and again is one entry that
//! says how often (`times`), because a stranger who knocks all day must not fill the disk.

use std::net::IpAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    id::{Hash, NodeId, SessionId},
    keys::NodeKey,
    signed::{self, Content, Signed},
};

/// Longest text in an entry, in characters. Longer ones are cut.
pub const TEXT_MAX: usize = 200;

/// Why a log is not whole. `n` is the entry at which it was noticed; what comes before it is good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The entry's bytes are not a signed entry.
    #[error("access log entry {n} cannot be read")]
    Entry {
        /// Number of the entry.
        n: u64,
        /// What is wrong with it.
        #[source]
        source: signed::Error,
    },
    /// Somebody else signed it.
    #[error("access log entry {n} is signed by {signer}, and not by this node")]
    Signer {
        /// Number of the entry.
        n: u64,
        /// Who signed.
        signer: NodeId,
    },
    /// Entries before it are gone, or it lies where another belongs.
    #[error("access log entry {n} is expected, but {found} comes")]
    Number {
        /// Number that should come.
        n: u64,
        /// Number that comes.
        found: u64,
    },
    /// It does not follow the entry before it: one of the two was exchanged.
    #[error("access log entry {n} does not follow the one before it")]
    Link {
        /// Number of the entry.
        n: u64,
    },
}

/// Who did it, or tried.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Who {
    /// This node itself, to do its work.
    Node {},
    /// Somebody at this machine of whom no more is known.
    Local {},
    /// An account of the room's page.
    Account {
        /// Its name.
        name: String,
    },
    /// Another node, proven by its key. Whether it is a point is another matter.
    Point {
        /// Which.
        node: NodeId,
    },
    /// Somebody of whom only the address is known.
    Address {
        /// Which.
        #[serde(with = "address")]
        ip: IpAddr,
    },
    /// More of them than could be told apart.
    Many {},
    /// A user of this machine: a command, on the data folder or over its socket.
    User {
        /// The system's number for it.
        uid: u32,
    },
}

/// What was done or tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// Opened a session with its key, to see and hear it.
    Open,
    /// Wrote a session, opened, into files.
    Export,
    /// Took sealed groups of the archive, or all of it.
    Copy,
    /// Connected.
    Connect,
    /// Sent groups, signatures or messages.
    Send,
    /// Asked for something.
    Ask,
    /// Asked for a place in the mesh.
    Join,
    /// Logged in at the room's page.
    Login,
    /// Started or ended a session, or wrote into its journal.
    Session,
    /// Changed the roster.
    Roster,
    /// Made, changed or removed an account.
    Account,
    /// Made, used or took back an invitation.
    Invite,
    /// Locked or unlocked the node's key.
    Key,
    /// Removed a point from a session.
    Remove,
}

impl Deed {
    /// Every deed.
    pub const ALL: [Deed; 14] = [
        Deed::Open,
        Deed::Export,
        Deed::Copy,
        Deed::Connect,
        Deed::Send,
        Deed::Ask,
        Deed::Join,
        Deed::Login,
        Deed::Session,
        Deed::Roster,
        Deed::Account,
        Deed::Invite,
        Deed::Key,
        Deed::Remove,
    ];

    /// Its name, as it is stored.
    pub const fn name(self) -> &'static str {
        match self {
            Deed::Open => "open",
            Deed::Export => "export",
            Deed::Copy => "copy",
            Deed::Connect => "connect",
            Deed::Send => "send",
            Deed::Ask => "ask",
            Deed::Join => "join",
            Deed::Login => "login",
            Deed::Session => "session",
            Deed::Roster => "roster",
            Deed::Account => "account",
            Deed::Invite => "invite",
            Deed::Key => "key",
            Deed::Remove => "remove",
        }
    }
}

/// Which entrance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// Connections and requests between nodes.
    Mesh,
    /// Sound, picture and copies between nodes.
    Media,
    /// Joining with a code.
    Join,
    /// The room's page.
    Page,
    /// The local socket.
    Socket,
}

/// What it was done to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// The deed says it all.
    Nothing {},
    /// The whole archive.
    Archive {},
    /// The access log itself.
    Log {},
    /// A session.
    Session {
        /// Which.
        session: SessionId,
    },
    /// An entrance.
    Door {
        /// Which.
        door: Door,
    },
    /// A node's place in the roster.
    Point {
        /// Which.
        node: NodeId,
    },
    /// The roster as a whole.
    Roster {
        /// Its number.
        number: u64,
    },
    /// An account.
    Account {
        /// Its name.
        name: String,
    },
    /// An invitation.
    Invite {
        /// Its id, as it is printed.
        id: String,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// It was allowed, and begun at the latest when this was written.
    Done {},
    /// It was not.
    Refused {
        /// Why, in a few words of ours.
        reason: String,
    },
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// Who.
    pub who: Who,
    /// Did what.
    pub deed: Deed,
    /// To what.
    pub what: What,
    /// With which outcome.
    pub outcome: Outcome,
    /// How often since the last entry that says the same.
    pub times: u64,
    /// Wall clock of the first of these times, unix milliseconds.
    pub since_ms: u64,
}

impl Access {
    /// Something that was done, once, now.
    pub fn done(who: Who, deed: Deed, what: What, now_ms: u64) -> Self {
        Access { who, deed, what, outcome: Outcome::Done {}, times: 1, since_ms: now_ms }
    }

    /// Something that was refused, once, now. The reason is cut to [`TEXT_MAX`].
    pub fn refused(who: Who, deed: Deed, what: What, reason: &str, now_ms: u64) -> Self {
        let outcome = Outcome::Refused { reason: text(reason) };
        Access { who, deed, what, outcome, times: 1, since_ms: now_ms }
    }
}

/// A text fit for an entry: without control characters, and no longer than [`TEXT_MAX`].
pub fn text(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(TEXT_MAX).collect()
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its number, from 0 without a gap.
    pub n: u64,
    /// Hash of the signed entry before; [`Hash::NONE`] for the first.
    pub prev: Hash,
    /// The node's wall clock, unix milliseconds. It decides nothing.
    pub wall_ms: u64,
    /// What happened.
    pub access: Access,
}

impl Content for Entry {
    const KIND: &'static str = "application/vnd.diemcau.access.v1+cbor";
}

/// The end of a log: continues it, or checks one from its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    node: NodeId,
    next: u64,
    last: Hash,
}

impl Chain {
    /// The end of a log that has no entry yet.
    pub fn new(node: NodeId) -> Self {
        Chain { node, next: 0, last: Hash::NONE }
    }

    /// The end of a log whose last entry has number `n` and these bytes, whatever they are worth: a log that was damaged
    /// is continued, so that what happens next is still written down, and the damage stays where it is to be seen.
    pub fn after(node: NodeId, n: u64, bytes: &[u8]) -> Self {
        Chain { node, next: n.saturating_add(1), last: Hash::of(bytes) }
    }

    /// Takes what is stored as entry `n`, whatever it is, and gives what it tells if this node signed it, and what is
    /// wrong with it. The check goes on after it, so the next error is another fault and not the same once more.
    pub fn read(&mut self, n: u64, bytes: Bytes) -> (Option<Entry>, Option<Error>) {
        let expected = std::mem::replace(self, Chain::after(self.node, n, &bytes));
        let entry = match Signed::<Entry>::parse(bytes) {
            Ok(entry) if entry.signer() == self.node => entry.content().clone(),
            Ok(entry) => return (None, Some(Error::Signer { n, signer: entry.signer() })),
            Err(source) => return (None, Some(Error::Entry { n, source })),
        };
        let fault = if n != expected.next || entry.n != n {
            // One that lies in another's place says which it is.
            Some(Error::Number { n: expected.next, found: if entry.n == expected.next { n } else { entry.n } })
        } else if entry.prev != expected.last {
            Some(Error::Link { n })
        } else {
            None
        };
        (Some(entry), fault)
    }

    /// Writes the next entry. The chain moves on, so store what is returned before the next one is written.
    pub fn append(&mut self, key: &NodeKey, wall_ms: u64, access: Access) -> Signed<Entry> {
        let entry = Entry { n: self.next, prev: self.last, wall_ms, access };
        let signed = Signed::new(entry, key);
        *self = Chain::after(self.node, self.next, signed.bytes());
        signed
    }

    /// How many entries there are: the number of the next.
    pub fn len(&self) -> u64 {
        self.next
    }

    /// Whether there is no entry yet.
    pub fn is_empty(&self) -> bool {
        self.next == 0
    }
}

/// Addresses as people write them, in every format: a reader in another language should not have to know how one of
/// our libraries takes them apart.
mod address {
    use std::net::IpAddr;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(ip: &IpAddr, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(ip)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpAddr, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> NodeKey {
        NodeKey::from_bytes(&[5; 32])
    }

    /// One entry of each deed, with every kind of who, what and outcome among them.
    fn log() -> Vec<Signed<Entry>> {
        let node = NodeId::from_bytes([7; 32]);
        let session = SessionId::from_parts(1_700_000_000_000, [9; 10]);
        let who = [
            Who::Node {},
            Who::Local {},
            Who::Account { name: "lan".into() },
            Who::Point { node },
            Who::Address { ip: "192.0.2.7".parse().unwrap() },
            Who::Address { ip: "2001:db8::7".parse().unwrap() },
            Who::Many {},
        ];
        let what = [
            What::Session { session },
            What::Nothing {},
            What::Archive {},
            What::Log {},
            What::Door { door: Door::Mesh },
            What::Door { door: Door::Media },
            What::Door { door: Door::Join },
            What::Door { door: Door::Page },
            What::Door { door: Door::Socket },
            What::Point { node },
            What::Roster { number: 3 },
            What::Account { name: "hoa".into() },
            What::Invite { id: "ab".into() },
        ];
        let mut chain = Chain::new(key().id());
        let mut log = Vec::new();
        for (n, (deed, what)) in (0..).zip(Deed::ALL.into_iter().zip(what)) {
            let who = who[n as usize % who.len()].clone();
            let access = match n % 3 {
                0 => Access::done(who, deed, what, 1_700_000_000_000 + n),
                _ => Access {
                    times: 1 << n, ..Access::refused(who, deed, what, "không có quyền", 1_700_000_000_000)
                },
            };
            log.push(chain.append(&key(), 1_700_000_000_000 + n, access));
        }
        log
    }

    fn stored() -> Vec<(u64, Bytes)> {
        (0..).zip(log().iter().map(|entry| entry.bytes().clone())).collect()
    }

    /// Every fault of these entries.
    fn faults(entries: &[(u64, Bytes)]) -> Vec<Error> {
        let mut chain = Chain::new(key().id());
        entries.iter().filter_map(|(n, bytes)| chain.read(*n, bytes.clone()).1).collect()
    }

    /// Written by the first version; must be readable for ever.
    const VERSION_1: &str = include_str!("../tests/vectors/access-v1.hex");

    #[test]
    fn the_first_version_is_read_for_ever() {
        let written: Vec<_> = stored().iter().map(|(_, bytes)| hex::encode(bytes)).collect();
        assert_eq!(VERSION_1.lines().collect::<Vec<_>>(), written);
        let mut chain = Chain::new(key().id());
        for (n, line) in (0..).zip(VERSION_1.lines()) {
            let entry = log()[n as usize].content().clone();
            assert_eq!(chain.read(n, hex::decode(line).unwrap().into()), (Some(entry), None));
        }
        assert_eq!(chain.len(), VERSION_1.lines().count() as u64);
    }

    /// What came to be written later; read for ever too.
    const LATER: &str = include_str!("../tests/vectors/access-later-v1.hex");

    #[test]
    fn what_came_later_is_read_for_ever() {
        let session = SessionId::from_parts(1_700_000_000_000, [9; 10]);
        let accesses = [
            Access::done(Who::User { uid: 1000 }, Deed::Session, What::Session { session }, 1_700_000_000_000),
            Access::done(Who::User { uid: u32::MAX }, Deed::Remove, What::Session { session }, 1_700_000_000_001),
        ];
        let mut chain = Chain::new(key().id());
        let written = (1_700_000_000_000..).zip(accesses).map(|(ms, access)| chain.append(&key(), ms, access));
        let written: Vec<_> = written.map(|entry| hex::encode(entry.bytes())).collect();
        assert_eq!(LATER.lines().collect::<Vec<_>>(), written);
        let mut chain = Chain::new(key().id());
        for (n, line) in (0..).zip(LATER.lines()) {
            let (entry, fault) = chain.read(n, hex::decode(line).unwrap().into());
            assert!(entry.is_some() && fault.is_none(), "{fault:?}");
        }
    }

    #[test]
    fn names_are_those_that_are_stored() {
        for deed in Deed::ALL {
            assert_eq!(serde_json::to_value(deed).unwrap(), deed.name());
        }
    }

    #[test]
    fn a_changed_entry_is_found_where_it_stands() {
        for n in 0..stored().len() {
            for at in 0..stored()[n].1.len() {
                let mut entries = stored();
                let mut bytes = entries[n].1.to_vec();
                bytes[at] ^= 1;
                entries[n].1 = bytes.into();
                let first = faults(&entries).into_iter().next();
                assert!(
                    matches!(first, Some(Error::Entry { n: found, .. }) if found == n as u64),
                    "entry {n}, byte {at}: {first:?}"
                );
            }
        }
    }

    #[test]
    fn a_dropped_a_swapped_and_an_exchanged_entry_are_found_and_the_rest_is_read() {
        let mut dropped = stored();
        dropped.remove(4);
        assert_eq!(faults(&dropped), [Error::Number { n: 4, found: 5 }]);

        let mut swapped = stored();
        let (four, five) = (swapped[4].1.clone(), swapped[5].1.clone());
        (swapped[4].1, swapped[5].1) = (five, four);
        assert_eq!(faults(&swapped)[0], Error::Number { n: 4, found: 5 });

        // What is missing and was closed up, so that no number is left out.
        let mut closed = stored();
        closed.remove(4);
        closed.iter_mut().skip(4).for_each(|(n, _)| *n -= 1);
        assert_eq!(faults(&closed)[0], Error::Number { n: 4, found: 5 });

        let other = Entry { wall_ms: 1, ..log()[4].content().clone() };
        let mut exchanged = stored();
        exchanged[4].1 = Signed::new(other, &key()).bytes().clone();
        assert_eq!(faults(&exchanged), [Error::Link { n: 5 }]);
    }

    #[test]
    fn what_another_signed_is_not_read() {
        let stranger = NodeKey::from_bytes(&[6; 32]);
        let mut entries = stored();
        entries[3].1 = Signed::new(log()[3].content().clone(), &stranger).bytes().clone();
        let mut chain = Chain::new(key().id());
        for (n, bytes) in entries.iter().take(3) {
            chain.read(*n, bytes.clone());
        }
        let fault = Error::Signer { n: 3, signer: stranger.id() };
        assert_eq!(chain.read(3, entries[3].1.clone()), (None, Some(fault)));
    }

    #[test]
    fn a_damaged_log_is_continued_and_the_damage_stays_visible() {
        let mut entries = stored();
        let last = entries.last_mut().unwrap();
        last.1 = Bytes::from_static(b"rot");
        let mut chain = Chain::after(key().id(), last.0, &last.1);
        let n = chain.len();
        let access = Access::done(Who::Local {}, Deed::Export, What::Archive {}, 5);
        entries.push((n, chain.append(&key(), 5, access).bytes().clone()));
        assert!(matches!(faults(&entries)[..], [Error::Entry { n: 12, .. }]));
    }

    #[test]
    fn a_reason_is_short_and_on_one_line() {
        let Outcome::Refused { reason } =
            Access::refused(Who::Many {}, Deed::Ask, What::Nothing {}, &"a\n".repeat(300), 0).outcome
        else {
            panic!()
        };
        assert_eq!(reason, "a ".repeat(TEXT_MAX / 2));
    }
}
