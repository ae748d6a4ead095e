//! How all points come to know the same of the mesh: each tells the others what it knows, and fetches what it lacks.
//!
//! A node tells every point that is online as soon as it comes online, and again when something changed. The answer is
//! what the other knows, so one exchange serves both. Whoever sees that the other has a newer roster fetches it, in
//! parts; admissions are fetched only from those with the same roster, since what an older roster lists beside it may
//! be part of ours long since. What was fetched is not believed here: the driver checks, merges and writes it, and
//! says what is known then.
//!
//! Nothing is sent once and hoped for: an exchange without an answer is repeated, and every minute the points compare
//! anyway. What was fetched and refused (a fork, a forgery) is not fetched again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use store::id::{Hash, NodeId};
use store::roster::{Admission, Roster};
use store::signed::Content as _;

use crate::engine::session::Ticket;
use crate::wire::roster::{ADMISSIONS_MAX, Message, News, PART_MAX};

/// How soon an exchange without an answer is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// How often points compare when nothing happens.
const COMPARE: Duration = Duration::from_secs(60);
/// Records fetched at once.
const FETCHES_MAX: usize = 4;
/// Records remembered as refused. The oldest makes room: it costs one more fetch at worst.
const REFUSED_MAX: usize = 256;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// The roster.
    Roster,
    /// An admission beside it.
    Admission,
}

impl Item {
    /// Bytes such a record can have.
    const fn len_max(self) -> usize {
        match self {
            Item::Roster => Roster::LEN_MAX,
            Item::Admission => Admission::LEN_MAX,
        }
    }
}

/// All that is known: the records themselves.
#[derive(Clone, Debug)]
pub struct Known {
    /// Number of the roster.
    pub number: u64,
    /// The signed roster.
    pub roster: Bytes,
    /// The signed admissions beside it.
    pub admissions: Vec<Bytes>,
}

/// What the engine is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// A point is online.
    Up {
        /// The point.
        node: NodeId,
    },
    /// A point is no longer online, or no point any more.
    Down {
        /// The point.
        node: NodeId,
    },
    /// A point asks; answer with [`Output::Reply`].
    Asked {
        /// Who.
        from: NodeId,
        /// Names the answer.
        ticket: Ticket,
        /// What.
        message: Message,
    },
    /// What became of [`Output::Ask`].
    Answered {
        /// Whom we asked.
        node: NodeId,
        /// What we asked.
        asked: Message,
        /// The answer; `None` when there was none.
        answer: Option<Message>,
    },
    /// What is known changed, by whatever way.
    Changed(Known),
    /// To [`Output::Take`]: that record is not good, or no news.
    Refused {
        /// Its hash.
        item: Hash,
    },
    /// Time passed.
    Tick,
}

/// What the engine wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask a point; answer with [`Input::Answered`].
    Ask {
        /// The point.
        node: NodeId,
        /// What.
        message: Message,
    },
    /// Answer a question.
    Reply {
        /// Which.
        ticket: Ticket,
        /// How.
        message: Message,
    },
    /// Check this record, merge and write it; then [`Input::Changed`] or [`Input::Refused`].
    Take {
        /// Who gave it.
        from: NodeId,
        /// What it should be.
        item: Item,
        /// Its bytes, which have the hash it was asked for by.
        bytes: Bytes,
    },
}

/// A point that is online.
#[derive(Debug)]
struct Peer {
    /// What it said last.
    knows: Option<News>,
    /// Whether it was told what we know now.
    told: bool,
    /// An exchange is under way.
    asking: bool,
    /// When to tell it next, if it does not ask before.
    next: Instant,
}

/// A record on its way here.
#[derive(Debug)]
struct Fetch {
    from: NodeId,
    item: Item,
    bytes: BytesMut,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Engine {
    ours: News,
    records: BTreeMap<Hash, Bytes>,
    peers: BTreeMap<NodeId, Peer>,
    fetches: BTreeMap<Hash, Fetch>,
    /// Handed over, and not yet known or refused.
    taking: BTreeSet<Hash>,
    refused: VecDeque<Hash>,
    outbox: VecDeque<Output>,
}

impl Engine {
    /// Knows this and nobody.
    pub fn new(known: Known) -> Self {
        let (ours, records) = index(known);
        Self {
            ours,
            records,
            peers: BTreeMap::new(),
            fetches: BTreeMap::new(),
            taking: BTreeSet::new(),
            refused: VecDeque::new(),
            outbox: VecDeque::new(),
        }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Up { node } => {
                let peer = Peer { knows: None, told: false, asking: false, next: now };
                self.peers.insert(node, peer);
            }
            Input::Down { node } => {
                self.peers.remove(&node);
                self.fetches.retain(|_, fetch| fetch.from != node);
            }
            Input::Asked { from, ticket, message } => self.asked(now, from, ticket, message),
            Input::Answered { node, asked, answer } => self.answered(now, node, asked, answer),
            Input::Changed(known) => {
                let (ours, records) = index(known);
                if ours != self.ours {
                    self.peers.values_mut().for_each(|peer| peer.told = false);
                }
                self.taking.retain(|item| !records.contains_key(item));
                (self.ours, self.records) = (ours, records);
            }
            Input::Refused { item } => {
                self.taking.remove(&item);
                if self.refused.len() >= REFUSED_MAX {
                    self.refused.pop_front();
                }
                self.refused.push_back(item);
            }
            Input::Tick => {}
        }
        self.tell(now);
        self.fetch();
    }

    /// What to do; drain until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When to come back with [`Input::Tick`].
    pub fn deadline(&self) -> Option<Instant> {
        self.peers.values().filter(|peer| !peer.asking).map(|peer| peer.next).min()
    }

    /// What a point said it knows: the number of its roster, and whether that and the admissions beside it are the same as
    /// here. `None` when it has not said.
    pub fn compare(&self, node: &NodeId) -> Option<(u64, bool)> {
        let knows = self.peers.get(node)?.knows.as_ref()?;
        Some((knows.number, *knows == self.ours))
    }

    fn asked(&mut self, now: Instant, from: NodeId, ticket: Ticket, message: Message) {
        let answer = match message {
            Message::News(news) => {
                self.heard(now, from, news);
                Message::News(self.ours.clone())
            }
            Message::Get { item, from } => self.part(&item, from),
            // An answer is no question. Dropping the ticket refuses.
            Message::Part { .. } | Message::Gone => return,
        };
        self.outbox.push_back(Output::Reply { ticket, message: answer });
    }

    fn part(&self, item: &Hash, from: u64) -> Message {
        let Some(record) = self.records.get(item) else { return Message::Gone };
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(record.len());
        let to = record.len().min(from.saturating_add(PART_MAX));
        Message::Part { total: record.len() as u64, bytes: record.slice(from..to) }
    }

    fn answered(&mut self, now: Instant, node: NodeId, asked: Message, answer: Option<Message>) {
        match asked {
            Message::News(told) => {
                let is_ours = told == self.ours;
                let Some(peer) = self.peers.get_mut(&node) else { return };
                peer.asking = false;
                match answer {
                    Some(Message::News(news)) => {
                        peer.told = is_ours;
                        peer.next = now + COMPARE;
                        self.heard(now, node, news);
                    }
                    Some(_) | None => peer.next = now + AGAIN,
                }
            }
            Message::Get { item, .. } => match answer {
                Some(Message::Part { total, bytes }) => self.arrived(now, node, item, total, &bytes),
                Some(_) | None => self.give_up(now, node, &item),
            },
            Message::Part { .. } | Message::Gone => {}
        }
    }

    /// A point said what it knows.
    fn heard(&mut self, now: Instant, node: NodeId, news: News) {
        let same = news == self.ours;
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.knows = Some(news);
            if same {
                // Telling it would be no news.
                peer.told = true;
                peer.next = now + COMPARE;
            }
        }
    }

    fn arrived(&mut self, now: Instant, node: NodeId, item: Hash, total: u64, bytes: &[u8]) {
        let Some(fetch) = self.fetches.get_mut(&item).filter(|fetch| fetch.from == node) else { return };
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        fetch.bytes.extend_from_slice(bytes);
        let len = fetch.bytes.len();
        if bytes.is_empty() || total > fetch.item.len_max() || len > total {
            return self.give_up(now, node, &item);
        }
        if len < total {
            let message = Message::Get { item, from: len as u64 };
            self.outbox.push_back(Output::Ask { node, message });
            return;
        }
        let Some(Fetch { from, item: kind, bytes }) = self.fetches.remove(&item) else { return };
        let bytes = bytes.freeze();
        if Hash::of(&bytes) == item {
            self.taking.insert(item);
            self.outbox.push_back(Output::Take { from, item: kind, bytes });
        } else {
            self.give_up(now, node, &item);
        }
    }

    /// What this point gave is not what it offered: forget that it offered anything until it says so again.
    fn give_up(&mut self, now: Instant, node: NodeId, item: &Hash) {
        if self.fetches.get(item).is_some_and(|fetch| fetch.from == node) {
            self.fetches.remove(item);
        }
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.knows = None;
            peer.told = false;
            peer.next = now + AGAIN;
        }
    }

    /// Tells whoever is due.
    fn tell(&mut self, now: Instant) {
        for (node, peer) in &mut self.peers {
            let is_due = peer.next <= now || (!peer.told && peer.knows.is_some());
            if is_due && !peer.asking {
                peer.asking = true;
                self.outbox.push_back(Output::Ask { node: *node, message: Message::News(self.ours.clone()) });
            }
        }
    }

    /// Fetches what others have and we lack.
    fn fetch(&mut self) {
        let mut wanted: Vec<(Hash, Item, NodeId)> = Vec::new();
        for (node, knows) in self.peers.iter().filter_map(|(node, peer)| Some((node, peer.knows.as_ref()?))) {
            if knows.roster == self.ours.roster {
                wanted.extend(knows.admissions.iter().map(|item| (*item, Item::Admission, *node)));
            } else if knows.number >= self.ours.number {
                // One of the same number is a fork, to be looked at and told of.
                wanted.push((knows.roster, Item::Roster, *node));
            }
        }
        // The roster first: it may hold the admissions.
        wanted.sort_by_key(|(_, item, _)| *item == Item::Admission);
        for (hash, item, from) in wanted {
            if self.fetches.len() + self.taking.len() >= FETCHES_MAX {
                return;
            }
            let in_hand = self.fetches.contains_key(&hash) || self.taking.contains(&hash);
            if in_hand || self.records.contains_key(&hash) || self.refused.contains(&hash) {
                continue;
            }
            self.fetches.insert(hash, Fetch { from, item, bytes: BytesMut::new() });
            self.outbox.push_back(Output::Ask { node: from, message: Message::Get { item: hash, from: 0 } });
        }
    }
}

/// What is said of these records, and the records by their hashes.
fn index(known: Known) -> (News, BTreeMap<Hash, Bytes>) {
    let roster = Hash::of(&known.roster);
    let mut records: BTreeMap<Hash, Bytes> =
        known.admissions.into_iter().map(|admission| (Hash::of(&admission), admission)).collect();
    let admissions: BTreeSet<Hash> = records.keys().copied().take(ADMISSIONS_MAX).collect();
    records.insert(roster, known.roster);
    (News { number: known.number, roster, admissions: admissions.into_iter().collect() }, records)
}

#[cfg(test)]
mod tests;
