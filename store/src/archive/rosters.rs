//! The rosters this node has worked with. They are kept for ever: the newest is what no older one may replace, and all
//! of them say who was a point when.

use std::ops::ControlFlow;

use super::{Archive, Error};
use crate::{
    db::{Batch, Durability},
    roster::Roster,
    schema::{self, Column},
    signed::Signed,
};

impl Archive {
    /// Stores a roster. Of two with one number the first stays: the second is somebody's lie, to be found by comparing.
    pub fn put_roster(&self, roster: &Signed<Roster>) -> Result<(), Error> {
        let _writing = self.write()?;
        let key = schema::roster_key(roster.content().number);
        if self.meta.get(Column::Rosters, &key)?.is_some() {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.put(Column::Rosters, &key, roster.bytes().clone());
        Ok(self.meta.write(batch, Durability::Synced)?)
    }

    /// The newest roster stored here.
    pub fn newest_roster(&self) -> Result<Option<Signed<Roster>>, Error> {
        let mut newest = None;
        self.meta.scan(Column::Rosters, &[], None, &mut |_, value| {
            newest = Some(bytes::Bytes::copy_from_slice(value));
            ControlFlow::Break(())
        })?;
        let parse = |bytes| Signed::parse(bytes).map_err(|error| Error::Unreadable(format!("newest roster ({error})")));
        newest.map(parse).transpose()
    }
}
