//! The same recording as it lies in a node's archive.

use std::collections::BTreeSet;

use bytes::Bytes;
use store::archive::{self, Archive};
use store::id::{GroupId, PointNumber, SessionId, TrackId};
use store::verify::Exhibit;

/// A session in an archive, with what the node knows of its mesh.
#[derive(Debug)]
pub struct Stored<'a> {
    /// The archive.
    pub archive: &'a Archive,
    /// The session.
    pub session: SessionId,
    /// `roster.cose`, if it is there.
    pub roster: Option<Bytes>,
}

impl Exhibit for Stored<'_> {
    fn head(&self) -> Result<Bytes, String> {
        match self.archive.head(&self.session) {
            Ok(Some(head)) => Ok(head.encode().into()),
            Ok(None) => Err("is not there".into()),
            Err(error) => Err(said(&error)),
        }
    }

    fn roster(&self) -> Result<Option<Bytes>, String> {
        Ok(self.roster.clone())
    }

    fn journal(&self) -> Box<dyn Iterator<Item = Result<Bytes, String>> + '_> {
        each(self.archive.journal(&self.session, 0))
    }

    fn segments(&self, point: PointNumber) -> Box<dyn Iterator<Item = Result<Bytes, String>> + '_> {
        each(self.archive.segments(&self.session, point, 0, usize::MAX))
    }

    fn manifests(&self) -> Box<dyn Iterator<Item = Result<Bytes, String>> + '_> {
        each(self.archive.manifests(&self.session).map(|found| found.manifests))
    }

    fn countersigned(&self) -> Box<dyn Iterator<Item = Result<Bytes, String>> + '_> {
        each(self.archive.manifests(&self.session).map(|found| found.countersigned))
    }

    fn groups(&self) -> Result<BTreeSet<(TrackId, u64)>, String> {
        let mut groups = BTreeSet::new();
        for track in self.archive.tracks(&self.session).map_err(|error| said(&error))? {
            let have = self.archive.have(&self.session, track).map_err(|error| said(&error))?;
            groups.extend(have.runs().flatten().map(|seq| (track, seq)));
        }
        Ok(groups)
    }

    fn group(&self, id: &GroupId) -> Result<Bytes, String> {
        self.archive.get(id).map(|record| record.bytes().clone()).map_err(|error| said(&error))
    }

    fn strangers(&self) -> Vec<String> {
        Vec::new()
    }
}

fn each(records: Result<Vec<Bytes>, archive::Error>) -> Box<dyn Iterator<Item = Result<Bytes, String>>> {
    match records {
        Ok(records) => Box::new(records.into_iter().map(Ok)),
        Err(error) => Box::new(std::iter::once(Err(said(&error)))),
    }
}

fn said(error: &archive::Error) -> String {
    match error {
        archive::Error::Damaged(_) => "is damaged on this disk: its bytes are not those that were stored".into(),
        error => error.to_string(),
    }
}
