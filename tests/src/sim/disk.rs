//! The disk of a simulated point: the archive's twin in memory, and a writer that takes its time.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use node::attest::{self, Signer, closing};
use node::engine::evidence::Standing;
use node::recall;
use node::wire::evidence::Message;
use simnet::host::HostId;
use store::archive::{self, Archive};
use store::db::memory::Memory;
use store::id::{GroupId, NodeId, PointNumber, SessionId};
use store::journal::{Entry, Event};
use store::keys::Epoch;
use store::manifest::Countersignature;
use store::record::Record;
use store::schema::{self, Column};
use store::session::{Head, State};
use store::signed::Signed;

use node::engine::session::{Own, Wraps};
use node::unwritten::Unwritten;

/// What a sync write takes on a disk that is well, and at most.
const WRITE: (Duration, Duration) = (Duration::from_millis(3), Duration::from_millis(40));

/// Both databases of a point. They outlive its program.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    meta: Arc<Memory>,
    media: Arc<Memory>,
    /// What a write takes beyond its time.
    pub(super) slow: Duration,
}

impl Disk {
    /// What is on it.
    pub(super) fn archive(&self) -> Result<Archive, archive::Error> {
        Archive::over(Arc::clone(&self.meta) as _, Arc::clone(&self.media) as _)
    }

    /// A power cut.
    pub(super) fn crash(&self) {
        self.meta.crash(0);
        self.media.crash(0);
    }

    /// The part that can be fetched again is empty.
    pub(super) fn lose_media(&mut self) {
        self.media = Arc::default();
    }

    /// No write finds space, or all do again.
    pub(super) fn set_full(&self, full: bool) {
        self.meta.set_full(full);
        self.media.set_full(full);
    }

    /// A group's bytes change.
    pub(super) fn rot(&self, group: &GroupId) {
        self.media.damage(Column::Groups, &schema::group_key(group));
    }

    /// How long a write takes; `unit` is a throw of the dice.
    pub(super) fn latency(&self, unit: f64) -> Duration {
        WRITE.0 + (WRITE.1 - WRITE.0).mul_f64(unit * unit) + self.slow
    }
}

/// What is signed, and what is taken of what others signed.
#[derive(Debug)]
pub(super) enum Proof {
    /// What this point recorded is signed.
    Sign {
        /// The session.
        session: SessionId,
        /// Whether nothing comes after it.
        over: bool,
        /// The wall clock.
        now_ms: u64,
    },
    /// A point gave a segment.
    Take {
        /// Who is answered, and to what.
        to: (HostId, u64),
        /// The session.
        head: Box<Head>,
        /// Who gave it.
        from: (PointNumber, NodeId),
        /// What.
        record: Bytes,
        /// The wall clock.
        now_ms: u64,
    },
    /// Central signs what there is.
    Manifest {
        /// The session.
        session: SessionId,
        /// Whether to wait for all points.
        all: bool,
        /// The wall clock.
        now_ms: u64,
    },
    /// Central asks to countersign.
    Countersign {
        /// Who is answered, and to what.
        to: (HostId, u64),
        /// The session.
        session: SessionId,
        /// Central.
        from: NodeId,
        /// The manifest.
        record: Bytes,
        /// The wall clock.
        now_ms: u64,
    },
    /// A point has countersigned.
    Keep {
        /// Who.
        node: NodeId,
        /// What.
        by: Box<Signed<Countersignature>>,
    },
}

/// What came of a [`Proof`].
#[derive(Debug)]
pub(super) enum Proved {
    /// How this point's chain stands.
    Signed(SessionId, Option<Standing>),
    /// There is a manifest, and who has not countersigned it.
    Manifest(SessionId, Option<BTreeSet<NodeId>>),
    /// Whether a countersignature is stored.
    Kept(SessionId, NodeId, bool),
    /// What is answered, and what is wrong beyond it.
    Answer {
        /// Who is answered, and to what.
        to: (HostId, u64),
        /// With what.
        message: Message,
        /// For the journal.
        incidents: Vec<(PointNumber, Event)>,
    },
}

/// Work that goes through the writer, in order.
#[derive(Debug)]
pub(super) enum Job {
    /// What is signed.
    Proof(Proof),
    /// Central: a new session.
    Found(Head, Wraps),
    /// Delegate: a session and its keys.
    Admit(Head, std::collections::BTreeMap<Epoch, Wraps>, u64),
    /// Central: a further epoch.
    Renew(Head, Wraps),
    /// A changed head.
    Update(Head),
    /// An entry of the journal.
    Journal(Signed<Entry>),
    /// What the disk did not take of those.
    Again,
    /// A group.
    Put(Record),
    /// Where our own tracks end, once all before it is written.
    Own(SessionId),
    /// Nothing; what stands before it is written.
    Fetched(SessionId, NodeId, Vec<u64>),
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Done {
    /// Of a [`Proof`].
    Proved(Proved),
    /// Of [`Job::Found`], [`Job::Admit`], [`Job::Renew`].
    Persisted {
        /// The session.
        session: SessionId,
        /// Its epoch.
        epoch: Epoch,
        /// As the engine wants it.
        result: Result<Own, String>,
    },
    /// A group is written, or not.
    Put(Record, Result<(), archive::Error>),
    /// Where our tracks end.
    Closed(SessionId, Own),
    /// As it was asked.
    Fetched(SessionId, NodeId, Vec<u64>),
    /// These entries are in the journal now, and whether all that was said is on the disk.
    Written(Vec<Signed<Entry>>, bool),
}

/// What waits for the disk.
#[derive(Debug, Default)]
pub(super) struct Writer {
    jobs: VecDeque<(Duration, Job)>,
    unwritten: Unwritten,
}

impl Writer {
    /// Queues work that takes so long once its turn has come.
    pub(super) fn push(&mut self, now: Duration, takes: Duration, job: Job) {
        let free = self.jobs.back().map_or(now, |(at, _)| (*at).max(now));
        self.jobs.push_back((free + takes, job));
    }

    /// Whether a group waits for its turn.
    pub(super) fn is_coming(&self, group: &GroupId) -> bool {
        self.jobs.iter().any(|(_, job)| matches!(job, Job::Put(record) if record.id() == *group))
    }

    /// When the next is done.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.jobs.front().map(|(at, _)| *at)
    }

    /// Does the next, if its time has come.
    pub(super) fn next(&mut self, now: Duration, archive: &Archive, signer: &Signer) -> Option<Done> {
        let (_, job) = self.jobs.pop_front_if(|(at, _)| *at <= now)?;
        Some(carry_out(job, archive, signer, &mut self.unwritten))
    }
}

fn carry_out(job: Job, archive: &Archive, signer: &Signer, unwritten: &mut Unwritten) -> Done {
    let me = signer.node.id();
    let list = |wraps: Wraps| wraps.into_iter().collect::<Vec<_>>();
    let reserve = |head: &Head, used| match head.number(&me) {
        Some(number) => recall::join(archive, head, number, used, head.started_unix_ms),
        None => Ok(Own::default()),
    };
    match job {
        Job::Found(head, wraps) => {
            let written = archive.put_wraps(&head.id, head.epoch(), &list(wraps));
            persisted(&head, written.and_then(|()| archive.put_head(&head)).and_then(|()| reserve(&head, 0)))
        }
        Job::Admit(head, wraps, used) => {
            let known = archive.head(&head.id);
            if matches!(&known, Ok(Some(known)) if known.state == State::Ended) {
                let result = Err("that session has ended".to_owned());
                return Done::Persisted { session: head.id, epoch: head.epoch(), result };
            }
            let mut written = known.map(|_| ());
            for (epoch, wraps) in wraps {
                written = written.and_then(|()| archive.put_wraps(&head.id, epoch, &list(wraps)));
            }
            persisted(&head, written.and_then(|()| archive.put_head(&head)).and_then(|()| reserve(&head, used)))
        }
        Job::Renew(head, wraps) => {
            let written = archive.put_wraps(&head.id, head.epoch(), &list(wraps));
            persisted(&head, written.and_then(|()| archive.put_head(&head)).map(|()| Own::default()))
        }
        Job::Update(head) => {
            unwritten.update(head);
            written(unwritten, archive)
        }
        Job::Journal(entry) => {
            unwritten.journal(entry);
            written(unwritten, archive)
        }
        Job::Again => written(unwritten, archive),
        Job::Put(record) => {
            let result = archive.put_groups(std::slice::from_ref(&record)).map(|_| ());
            Done::Put(record, result)
        }
        Job::Own(session) => {
            let number = archive.head(&session).ok().flatten().and_then(|head| head.number(&me));
            let own = number.map(|number| recall::own(archive, &session, number));
            Done::Closed(session, own.and_then(Result::ok).unwrap_or_default())
        }
        Job::Fetched(session, origin, missing) => Done::Fetched(session, origin, missing),
        Job::Proof(proof) => Done::Proved(prove(proof, archive, signer)),
    }
}

fn prove(proof: Proof, archive: &Archive, signer: &Signer) -> Proved {
    match proof {
        Proof::Sign { session, over, now_ms } => {
            Proved::Signed(session, sign(archive, signer, session, over, now_ms).ok())
        }
        Proof::Take { to, head, from: (point, node), record, now_ms } => {
            let (message, incidents) = attest::take(archive, &head, (point, node), record, now_ms);
            Proved::Answer { to, message, incidents: incidents.into_iter().map(|event| (point, event)).collect() }
        }
        Proof::Manifest { session, all, now_ms } => {
            Proved::Manifest(session, close(archive, signer, session, all, now_ms).ok().flatten())
        }
        Proof::Countersign { to, session, from, record, now_ms } => {
            let message = closing::countersign(archive, &signer.node, (session, from), record, now_ms);
            Proved::Answer { to, message, incidents: Vec::new() }
        }
        Proof::Keep { node, by } => Proved::Kept(by.content().session, node, closing::keep(archive, &by).is_ok()),
    }
}

fn sign(
    archive: &Archive,
    signer: &Signer,
    session: SessionId,
    over: bool,
    now_ms: u64,
) -> Result<Standing, archive::Error> {
    let (segment, standing) = attest::gather(archive, signer, session, over, now_ms)?;
    let Some(segment) = segment else { return Ok(standing) };
    let standing = Standing { len: standing.len + 1, more: segment.is_full(), closed: segment.last };
    archive.sign_segment(&signer.node, segment).map(|_| standing)
}

fn close(
    archive: &Archive,
    signer: &Signer,
    session: SessionId,
    all: bool,
    now_ms: u64,
) -> Result<Option<BTreeSet<NodeId>>, archive::Error> {
    let Some(drawn) = closing::draw(archive, session, all, now_ms)? else { return Ok(None) };
    let hash = match &drawn.same {
        Some(last) => last.hash(),
        None => {
            let Ok(signed) = Signed::sound(drawn.manifest.clone(), &signer.node) else {
                return Ok(Some(BTreeSet::new()));
            };
            archive.put_manifest(&signed)?;
            signed.hash()
        }
    };
    drawn.open(archive, hash).map(Some)
}

fn written(unwritten: &mut Unwritten, archive: &Archive) -> Done {
    let (entries, result) = unwritten.write(archive);
    Done::Written(entries, result.is_ok())
}

fn persisted(head: &Head, written: Result<Own, archive::Error>) -> Done {
    let result = written.map_err(|error| error.to_string());
    Done::Persisted { session: head.id, epoch: head.epoch(), result }
}
