//! Where manifests and their countersignatures lie, and how one is drawn up from what is stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use bytes::Bytes;

use super::{Archive, Error};
use crate::{
    db::{Batch, Durability},
    id::{GroupId, Hash, PointNumber, SessionId, TrackId},
    journal::{Chain, Entry},
    manifest::{ChainEnd, Countersignature, Manifest, TrackEnd},
    schema::{self, Column},
    segment::{self, Segment},
    session::{Head, Member},
    signed::Signed,
};

/// The manifests of a session and who countersigned them, unchecked, in the order of their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifests {
    /// The signed manifests.
    pub manifests: Vec<Bytes>,
    /// The signed countersignatures, by manifest and point.
    pub countersigned: Vec<Bytes>,
}

impl Archive {
    /// The manifests of a session.
    pub fn manifests(&self, session: &SessionId) -> Result<Manifests, Error> {
        let mut found = Manifests::default();
        self.scan_prefix(&self.meta, Column::Manifests, session.as_bytes(), &mut |key, value| {
            let list = if key.len() == 20 { &mut found.manifests } else { &mut found.countersigned };
            list.push(Bytes::copy_from_slice(value));
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// The latest manifest of a session.
    pub fn last_manifest(&self, session: &SessionId) -> Result<Option<Signed<Manifest>>, Error> {
        let mut end = schema::after(session.as_bytes());
        while let Some((mut key, mut bytes)) = self.meta.last(Column::Manifests, session.as_bytes(), end.as_deref())? {
            // Countersignatures come after the manifest they are of, under its key and one number more.
            if key.len() > schema::manifest_key(session, 0).len() {
                key.truncate(schema::manifest_key(session, 0).len());
                match self.meta.get(Column::Manifests, &key)? {
                    Some(manifest) => bytes = manifest,
                    None => {
                        end = Some(key);
                        continue;
                    }
                }
            }
            return parse(session, bytes).map(Some);
        }
        Ok(None)
    }

    /// The points that countersigned the manifest with this hash.
    pub fn countersigners(&self, session: &SessionId, manifest: Hash) -> Result<BTreeSet<PointNumber>, Error> {
        let records = self.manifests(session)?.countersigned.into_iter();
        let read = records.filter_map(|bytes| Signed::<Countersignature>::parse(bytes).ok());
        Ok(read.filter(|by| by.content().manifest == manifest).map(|by| by.content().point).collect())
    }

    /// Stores a manifest. A different one of the same number is [`Error::Manifest`]: central is not honest, or its archive was
    /// set back. One that does not follow the one before it, or only repeats it, is [`Error::Sequel`].
    pub fn put_manifest(&self, manifest: &Signed<Manifest>) -> Result<(), Error> {
        let _writing = self.write()?;
        let Manifest { session, n, .. } = *manifest.content();
        let key = schema::manifest_key(&session, n);
        match self.meta.get(Column::Manifests, &key)? {
            Some(bytes) if bytes == *manifest.bytes() => return Ok(()),
            Some(_) => return Err(Error::Manifest { session, n }),
            None => {}
        }
        let before = match n.checked_sub(1) {
            Some(before) => self.meta.get(Column::Manifests, &schema::manifest_key(&session, before))?,
            None => None,
        };
        let before = before.map(|bytes| parse(&session, bytes)).transpose()?;
        if let Some(what) = before.and_then(|before| manifest.content().contradicts(&before)) {
            return Err(Error::Sequel { session, n, what });
        }
        let mut batch = Batch::new();
        batch.put(Column::Manifests, &key, manifest.bytes().clone());
        Ok(self.meta.write(batch, Durability::Synced)?)
    }

    /// Stores a countersignature. Whether its signer is the point is for the caller.
    pub fn put_countersignature(&self, by: &Signed<Countersignature>) -> Result<(), Error> {
        let _writing = self.write()?;
        let Countersignature { session, n, point, .. } = *by.content();
        let mut batch = Batch::new();
        batch.put(Column::Manifests, &schema::countersignature_key(&session, n, point), by.bytes().clone());
        Ok(self.meta.write(batch, Durability::Synced)?)
    }

    /// What the session's next manifest says, from what is stored now.
    pub fn draw_manifest(&self, head: &Head, wall_ms: u64) -> Result<Manifest, Error> {
        let session = head.id;
        let mut journal = Chain::new(session, head.central);
        for bytes in self.journal(&session, 0)? {
            let entry = Signed::<Entry>::parse(bytes).ok().filter(|entry| journal.accept(entry).is_ok());
            entry.ok_or_else(|| Error::Unreadable(format!("journal of session {session}")))?;
        }
        let before = self.last_manifest(&session)?;
        let chains = head.points.iter().map(|member| self.chain_end(&session, member)).collect::<Result<_, _>>()?;
        Ok(Manifest {
            session,
            n: before.as_ref().map_or(0, |before| before.content().n + 1),
            prev: before.as_ref().map_or(Hash::NONE, Signed::hash),
            wall_ms,
            head: Hash::of(&head.encode()),
            entries: journal.len(),
            journal: journal.last(),
            chains,
        })
    }

    fn chain_end(&self, session: &SessionId, member: &Member) -> Result<ChainEnd, Error> {
        let point = member.number;
        let mut chain = segment::Chain::new(*session, point, member.node);
        let mut tracks: BTreeMap<TrackId, TrackEnd> = BTreeMap::new();
        for bytes in self.segments(session, point, 0, usize::MAX)? {
            let segment = Signed::<Segment>::parse(bytes).ok().filter(|segment| chain.accept(segment).is_ok());
            let segment = segment.ok_or_else(|| Error::Unreadable(format!("segments of {point} in {session}")))?;
            for listed in &segment.content().tracks {
                let empty = TrackEnd { track: listed.track, next: 0, groups: 0, bytes: 0, missing: 0 };
                let end = tracks.entry(listed.track).or_insert(empty);
                end.next = listed.next;
                for group in &listed.groups {
                    let id = GroupId { session: *session, track: listed.track, seq: group.seq };
                    match self.outline(&id) {
                        Ok(Some(outline)) if outline.hash == group.hash => {
                            end.groups += 1;
                            end.bytes += u64::from(group.len);
                        }
                        Ok(_) | Err(Error::Damaged(_)) => end.missing += 1,
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        let (segments, last, closed) = (chain.len(), chain.last(), chain.is_closed());
        Ok(ChainEnd { point, segments, last, closed, tracks: tracks.into_values().collect() })
    }
}

fn parse(session: &SessionId, bytes: Bytes) -> Result<Signed<Manifest>, Error> {
    Signed::parse(bytes).map_err(|_| Error::Unreadable(format!("manifest of session {session}")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        db::memory::Memory,
        journal::Event,
        keys::NodeKey,
        seal::Suite,
        session::{Period, State},
    };

    fn key(byte: u8) -> NodeKey {
        NodeKey::from_bytes(&[byte; 32])
    }

    fn head() -> Head {
        Head {
            id: SessionId::from_parts(1_700_000_000_000, [1; 10]),
            title: "Định kỳ".into(),
            state: State::Ended,
            central: key(1).id(),
            points: vec![Member { number: PointNumber::new(1).unwrap(), node: key(1).id(), name: "Trung tâm".into() }],
            epochs: vec![Period::first(Hash::NONE)],
            suite: Suite::default(),
            started_unix_ms: 1_700_000_000_000,
            ended_unix_ms: Some(2),
        }
    }

    #[test]
    fn a_manifest_is_followed_by_the_next_and_never_replaced() {
        let archive = Archive::over(Arc::new(Memory::default()), Arc::new(Memory::default())).unwrap();
        let (head, session) = (head(), head().id);
        let mut journal = Chain::new(session, key(1).id());
        let mut tell = |event| archive.append_journal(&journal.append(&key(1), 0, 0, event)).unwrap();
        tell(Event::Started { title: head.title.clone(), points: head.points.clone() });
        let draw = || Signed::sound(archive.draw_manifest(&head, 7).unwrap(), &key(1)).unwrap();
        let first = draw();
        archive.put_manifest(&first).unwrap();
        assert!(draw().content().says_what(first.content()), "nothing is new");
        tell(Event::Resumed {});
        let second = draw();
        assert!(!second.content().says_what(first.content()));
        assert_eq!((second.content().n, second.content().prev, second.content().entries), (1, first.hash(), 2));
        archive.put_manifest(&second).unwrap();
        assert_eq!(archive.last_manifest(&session), Ok(Some(second.clone())));
        let other = Signed::new(Manifest { wall_ms: 8, ..second.content().clone() }, &key(1));
        assert_eq!(archive.put_manifest(&other), Err(Error::Manifest { session, n: 1 }));
        let sequel = |change: fn(&mut Manifest)| {
            let mut next = Manifest { n: 2, prev: second.hash(), wall_ms: 9, ..second.content().clone() };
            change(&mut next);
            archive.put_manifest(&Signed::new(next, &key(1))).unwrap_err().to_string()
        };
        let repeats = format!("manifest 2 of session {session} says nothing that the one before it does not say");
        assert_eq!(sequel(|_| {}), repeats);
        assert!(
            sequel(|next| (next.prev, next.entries) = (Hash::NONE, 7)).ends_with("does not follow the one before it")
        );

        let point = PointNumber::new(1).unwrap();
        let by =
            |n, manifest| Countersignature { session, point, n, manifest, segments: 0, last: Hash::NONE, wall_ms: 0 };
        archive.put_countersignature(&Signed::new(by(0, first.hash()), &key(1))).unwrap();
        assert_eq!(archive.countersigners(&session, first.hash()), Ok(BTreeSet::from([point])));
        assert_eq!(archive.countersigners(&session, second.hash()), Ok(BTreeSet::new()));
        let stored = archive.manifests(&session).unwrap();
        assert_eq!((stored.manifests.len(), stored.countersigned.len()), (2, 1));
        archive.put_countersignature(&Signed::new(by(1, second.hash()), &key(1))).unwrap();
        archive.put_countersignature(&Signed::new(by(9, Hash::NONE), &key(1))).unwrap();
        assert_eq!(
            archive.last_manifest(&session),
            Ok(Some(second)),
            "what is countersigned comes after what is signed"
        );
    }
}
