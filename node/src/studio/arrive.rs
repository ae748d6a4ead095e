//! A group of another point while it arrives: checked in passing, kept if we keep others' groups, shown if somebody
//! watches.

use std::sync::Arc;

use store::id::{GroupId, NodeId};
use store::record::{self, Item, Record};
use store::seal::Opener;
use tokio::sync::mpsc;

use super::Event;
use super::watch::Inbox;
use crate::engine::keeper::Cut;
use crate::engine::session::is_recorded;
use crate::media::live;
use crate::vault::Vault;

/// What is to be done with arriving groups of one session.
pub(super) struct Arrival {
    /// Where the record goes, if it is kept.
    pub(super) keep: Option<Vault>,
    /// Who watches this point, if anybody does.
    pub(super) inbox: Option<Arc<Inbox>>,
    pub(super) opener: Arc<Opener>,
    pub(super) events: mpsc::Sender<Event>,
}

impl Arrival {
    /// Follows one group to its end. Ends by itself: a live group is bounded in length and in time.
    pub(super) async fn follow(self, mut reader: live::Reader) {
        let id = reader.header().id();
        let from = reader.from();
        let kept = self.keep.is_some() && is_recorded(id.track.kind());
        if kept {
            self.tell(Event::Began(id)).await;
        }
        let inbox = self.inbox.clone().filter(|inbox| match self.opener.group(reader.header()) {
            Ok(opener) => inbox.begin(opener),
            Err(error) => {
                tracing::debug!(group = %id, %error, "a group cannot be opened");
                false
            }
        });
        let result = read(&mut reader, id, inbox.as_deref()).await;
        if let Some(inbox) = inbox {
            inbox.over(id.track, id.seq, result.as_ref().ok().map(Record::frame_count));
        }
        match result {
            Ok(record) if kept => self.store(record).await,
            Ok(_) => {}
            Err(why) => {
                why.log(id, from);
                if kept {
                    let cut = if matches!(why, Broken::LeftOut) { Cut::LeftOut } else { Cut::Line };
                    self.tell(Event::Broke { group: id, cut }).await;
                }
            }
        }
    }

    async fn store(self, record: Record) {
        let Arrival { keep, events, .. } = self;
        let Some(vault) = keep else { return };
        keep_record(vault, record, events).await;
    }

    async fn tell(&self, event: Event) {
        // The driver is gone when this fails; then nobody cares.
        let _ = self.events.send(event).await;
    }
}

/// Stores a group of another point and tells when it is on the disk.
pub(super) async fn keep_record(vault: Vault, record: Record, events: mpsc::Sender<Event>) {
    let id = record.id();
    // The vault may let us wait, which no tokio worker should.
    let queued = tokio::task::spawn_blocking(move || {
        let then = move |result: Result<(), _>| {
            let failed = Event::Broke { group: id, cut: Cut::NotStored };
            let event = if result.is_ok() { Event::Stored(id) } else { failed };
            let _ = events.blocking_send(event);
        };
        vault.put(record, Box::new(then))
    });
    if !matches!(queued.await, Ok(Ok(()))) {
        tracing::debug!(group = %id, "a group was not kept, as the node is stopping");
    }
}

enum Broken {
    /// Its sender gave it up for a slow line.
    LeftOut,
    /// The stream ended early otherwise.
    Early,
    /// The bytes are not a group.
    Bytes(record::Error),
    /// Its header said otherwise.
    Other,
}

impl Broken {
    fn log(&self, id: GroupId, from: Option<NodeId>) {
        let from = from.map(|node| node.short());
        match self {
            Broken::LeftOut => tracing::debug!(group = %id, "a group was left out for a slow line"),
            Broken::Early => tracing::debug!(group = %id, "a group broke off"),
            Broken::Bytes(error) => tracing::warn!(group = %id, ?from, %error, "a group is not in order"),
            Broken::Other => tracing::warn!(group = %id, ?from, "a group is not the one announced"),
        }
    }
}

async fn read(reader: &mut live::Reader, id: GroupId, inbox: Option<&Inbox>) -> Result<Record, Broken> {
    let mut parser = record::Reader::new();
    loop {
        match reader.next().await {
            live::Item::Chunk(bytes) => parser.push(&bytes),
            live::Item::Whole => break,
            live::Item::Broken { left_out: true } => return Err(Broken::LeftOut),
            live::Item::Broken { left_out: false } => return Err(Broken::Early),
        }
        while let Some(item) = parser.next().map_err(Broken::Bytes)? {
            match item {
                Item::Header(header) if header.id() != id => return Err(Broken::Other),
                Item::Header(_) | Item::End(_) => {}
                Item::Frame(frame) => {
                    if let Some(inbox) = inbox {
                        inbox.frame(id.track, id.seq, frame);
                    }
                }
            }
        }
    }
    parser.into_record().map_err(Broken::Bytes)
}
