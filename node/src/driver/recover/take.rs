//! Asking others for what this node had.

use std::collections::BTreeSet;

use bytes::Bytes;
use store::archive::{self, Archive};
use store::id::{GroupId, NodeId, SessionId, TrackId};
use store::inventory::Have;
use store::keys::WrapKey;
use store::manifest::Countersignature;
use store::recover::{self, Given, Listed, Scope, Tie, Wanted};
use store::segment::Segment;
use store::session::{Head, State};
use store::signed::Signed;
use store::verify::sentence;
use tokio::task::spawn_blocking;

use super::put::{self, Writing};
use crate::engine::recover::{Came, Proof, SESSIONS_MAX};
use crate::engine::replica::pull::Groups;
use crate::engine::rights::{self, Deed, Members, Tracks, Who, may};
use crate::mesh::Mesh;
use crate::vault::Vault;
use crate::wire::recover::{Known, Message};
use crate::wire::replica::{Part, RUN_MAX};

/// Longest record that is taken: it is in memory until it is looked at. Forty points that speak for a day make some 150 MB.
const RECORD_MAX: u64 = 256 << 20;
/// Longest run of countersignatures that one point gives: as many as a session has manifests, with those of others.
const COUNTERSIGNED_MAX: u64 = 4 << 20;

/// What it takes to ask, and to judge what comes.
#[derive(Clone)]
pub(in crate::driver) struct Asking {
    pub(in crate::driver) mesh: Mesh,
    pub(in crate::driver) vault: Vault,
    pub(in crate::driver) members: Members,
    pub(in crate::driver) me: NodeId,
    pub(in crate::driver) wrap: WrapKey,
    /// Somebody named whom to ask, so what came from others is not enough: a wrapped key that opens nothing, for instance.
    pub(in crate::driver) anew: bool,
}

/// Why something did not come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The line, or this node's disk.
    Broken(String),
    /// Whoever was asked refused.
    Refused(String),
    /// What came is false.
    Wrong(String),
    /// The session runs here.
    Running,
    /// Whoever was asked says that the session is not over.
    Open,
    /// Less is signed by us in it than was asked for.
    Foreign,
    /// What is here of the session and what came have different centrals, and nothing that we signed says which is right.
    Disputed,
}

/// A session whose record is here already.
struct Here {
    head: Head,
    /// How far that is known to be a session of ours.
    tie: Tie,
    wanted: Wanted,
}

impl Asking {
    fn writing<'a>(&'a self, us: &'a BTreeSet<NodeId>) -> Writing<'a> {
        let Asking { vault, members, me, wrap, anew, mesh: _ } = self;
        Writing { vault, members, me: *me, us, wrap, anew: *anew }
    }

    /// Everything somebody knows of our sessions.
    pub(super) async fn list(&self, node: NodeId) -> Option<Vec<Known>> {
        let mut all: Vec<Known> = Vec::new();
        loop {
            let after = all.last().map(|known| known.session);
            let answer = self.mesh.ask(node, Message::List { after }.encode()).await;
            let answer = answer.map_err(|error| sentence(&error));
            match answer.and_then(|answer| Message::decode(&answer).map_err(|error| sentence(&error))) {
                Ok(Message::Sessions { sessions, more }) => {
                    let follows = |known: &&Known| after.is_none_or(|after| after < known.session);
                    let before = all.len();
                    all.extend(sessions.iter().filter(follows));
                    if !more || all.len() == before || all.len() >= SESSIONS_MAX {
                        return Some(all);
                    }
                }
                Ok(_) => return None,
                Err(error) => {
                    tracing::info!(point = %node.short(), error, "a point does not say what it knows");
                    return None;
                }
            }
        }
    }

    /// How many of our sessions somebody names in one answer.
    pub(super) async fn glance(&self, node: NodeId) -> usize {
        let answer = self.mesh.ask(node, Message::List { after: None }.encode()).await.ok();
        match answer.and_then(|answer| Message::decode(&answer).ok()) {
            Some(Message::Sessions { sessions, .. }) => sessions.len(),
            _ => 0,
        }
    }

    /// A session's record, looked at and stored.
    pub(super) async fn record(self, session: SessionId, node: NodeId, manifest: Option<u32>, proof: Proof) -> Came {
        let point = node.short();
        match self.try_record(session, node, manifest, proof).await {
            Ok(came) => came,
            Err(Fault::Running) => Came::Running,
            Err(Fault::Open) => Came::Open,
            Err(Fault::Foreign) => {
                tracing::debug!(%session, point, "a point names a session in which it shows nothing that we signed");
                Came::Foreign
            }
            Err(Fault::Disputed) => {
                tracing::error!(
                    %session,
                    point,
                    "points say different things of who chaired this session: `diemcau archive recover --session` with \
                     `--from` takes it from one that was there"
                );
                Came::Disputed
            }
            Err(Fault::Wrong(what)) => {
                tracing::error!(%session, point, what, "a point gave a false record; it is not asked again");
                Came::Wrong
            }
            Err(Fault::Refused(why)) => {
                tracing::warn!(%session, point, why, "a record was not given");
                Came::Nothing
            }
            Err(Fault::Broken(why)) => {
                tracing::warn!(%session, point, why, "a record did not come");
                Came::Silent
            }
        }
    }

    async fn try_record(
        &self,
        session: SessionId,
        node: NodeId,
        manifest: Option<u32>,
        proof: Proof,
    ) -> Result<Came, Fault> {
        let asking = self.clone();
        let here = match self.anew {
            true => None,
            false => blocking(move || asking.here(session, manifest)).await?,
        };
        let mut left = RECORD_MAX;
        let head = match here {
            Some(Here { wanted, tie: Tie::Central, .. }) => return Ok(Came::Whole(wanted)),
            Some(Here { wanted, head: known, .. }) => {
                let head = self.head(session, node, &mut left).await?;
                if Head::decode(&head).is_ok_and(|head| head.central == known.central) {
                    return Ok(Came::Part(wanted));
                }
                head
            }
            None => self.head(session, node, &mut left).await?,
        };
        let given = self.given(session, node, head, proof, left).await?;
        let asking = self.clone();
        blocking(move || {
            let us = asking.members.with_before(&asking.me);
            let checked = recover::check(session, given, |node| asking.members.knew(node)).map_err(Fault::Wrong)?;
            let (is_whole, tie) = (checked.is_whole, checked.tie(&us));
            asking.writing(&us).put(checked)?;
            let (wanted, _) = plan(asking.vault.archive(), &Us::of(&asking.members, asking.me), session)
                .map_err(|error| broken(&error))?;
            Ok(match tie {
                Tie::Central if is_whole => Came::Whole(wanted),
                Tie::Central | Tie::Session => Came::Part(wanted),
                Tie::Nothing => Came::Bare(wanted),
            })
        })
        .await
    }

    /// What is here of a session whose record is here already, up to that manifest at least.
    fn here(&self, session: SessionId, manifest: Option<u32>) -> Result<Option<Here>, Fault> {
        let archive = self.vault.archive();
        let read = || {
            let Some(head) = archive.head(&session)? else { return Ok(None) };
            if head.state == State::Open {
                return Ok(Some(None));
            }
            let Some(last) = archive.last_manifest(&session)? else { return Ok(None) };
            let is_new = manifest.is_some_and(|manifest| manifest > last.content().n);
            if is_new || !recover::has_record(&archive.draw_manifest(&head, 0)?, last.content()) {
                return Ok(None);
            }
            let us = Us::of(&self.members, self.me);
            let (wanted, _) = plan(archive, &us, session)?;
            let tie = put::tie(archive, &us.nodes, &head)?;
            Ok(Some(Some(Here { head, tie, wanted })))
        };
        match read().map_err(|error: archive::Error| broken(&error))? {
            Some(Some(here)) => Ok(Some(here)),
            Some(None) => Err(Fault::Running),
            None => Ok(None),
        }
    }

    /// The head that somebody gives, if the session is over for him or was ours.
    async fn head(&self, session: SessionId, node: NodeId, left: &mut u64) -> Result<Vec<u8>, Fault> {
        let bytes = self.run(session, node, Part::Head, left).await?;
        let head = Head::decode(&bytes).map_err(|error| Fault::Wrong(sentence(&error)))?;
        match head.state {
            State::Open if !self.members.with_before(&self.me).contains(&head.central) => Err(Fault::Open),
            State::Open | State::Ended => Ok(bytes),
        }
    }

    /// What somebody gives of a record, as it comes. A part that is refused is one it has not got, or we have no right to. First
    /// comes what we signed in it: if that is not enough, nothing more is asked for.
    async fn given(
        &self,
        session: SessionId,
        node: NodeId,
        head: Vec<u8>,
        proof: Proof,
        mut left: u64,
    ) -> Result<Given, Fault> {
        let us = self.members.with_before(&self.me);
        let Head { points, central, .. } = Head::decode(&head).map_err(|error| Fault::Wrong(sentence(&error)))?;
        let mut given = Given { head: head.into(), ..Given::default() };
        given.manifests = self.records(session, node, Part::Manifests, &mut left).await?;
        given.countersigned = self.records(session, node, Part::Countersigned, &mut left).await?;
        given.receipts = self.records(session, node, Part::Receipts, &mut left).await?;
        let (ours, others): (Vec<_>, Vec<_>) = points.into_iter().partition(|member| us.contains(&member.node));
        let chaired = us.contains(&central);
        if chaired {
            given.journal = self.records(session, node, Part::Journal, &mut left).await?;
        }
        for member in ours {
            let records = self.records(session, node, Part::Segments(member.number), &mut left).await?;
            given.segments.insert(member.number, records);
        }
        let (part, members) = (given.clone(), self.members.clone());
        let tie = blocking(move || {
            let checked = recover::check(session, part, |node| members.knew(node)).map_err(Fault::Wrong)?;
            Ok(checked.tie(&us))
        });
        match (tie.await?, proof) {
            (Tie::Nothing, Proof::Signed) => return Err(Fault::Foreign),
            (Tie::Nothing, Proof::Chaired) if !chaired => return Err(Fault::Foreign),
            (Tie::Nothing | Tie::Session | Tie::Central, _) => {}
        }
        if !chaired {
            given.journal = self.records(session, node, Part::Journal, &mut left).await?;
        }
        for member in others {
            let records = self.records(session, node, Part::Segments(member.number), &mut left).await?;
            given.segments.insert(member.number, records);
        }
        let run = match self.run(session, node, Part::Wraps, &mut left).await {
            Err(Fault::Refused(_)) => Vec::new(),
            run => run?,
        };
        given.wraps = super::super::replica::learn::wraps(&run).map_err(Fault::Wrong)?;
        Ok(given)
    }

    async fn records(&self, session: SessionId, node: NodeId, part: Part, left: &mut u64) -> Result<Vec<Bytes>, Fault> {
        match self.run(session, node, part, left).await {
            Err(Fault::Refused(_)) => Ok(Vec::new()),
            run => recover::unframe(&run?).ok_or_else(|| Fault::Wrong("a record that is cut off".into())),
        }
    }

    /// A part of a record, piece by piece, of at most so many bytes as are left for it.
    async fn run(&self, session: SessionId, node: NodeId, part: Part, left: &mut u64) -> Result<Vec<u8>, Fault> {
        let mut run = Vec::new();
        loop {
            let ask = Message::Ask { session, part, from: run.len() as u64 };
            let answer = self.mesh.ask(node, ask.encode()).await.map_err(|error| Fault::Broken(sentence(&error)))?;
            match Message::decode(&answer).map_err(|error| Fault::Wrong(sentence(&error)))? {
                Message::Piece { session: of, len, bytes } if of == session => {
                    let more = left.checked_sub(bytes.len() as u64);
                    *left = more.ok_or_else(|| Fault::Wrong("a record longer than any can be".into()))?;
                    run.extend_from_slice(&bytes);
                    match (run.len() as u64).cmp(&len) {
                        std::cmp::Ordering::Equal => return Ok(run),
                        std::cmp::Ordering::Less if !bytes.is_empty() && len <= RUN_MAX => {}
                        std::cmp::Ordering::Less | std::cmp::Ordering::Greater => {
                            return Err(Fault::Wrong("a part that is longer or shorter than it says".into()));
                        }
                    }
                }
                Message::Refused { reason } => return Err(Fault::Refused(reason)),
                _ => return Err(Fault::Wrong("something else was answered".into())),
            }
        }
    }

    /// Which groups of these tracks somebody has.
    pub(super) async fn survey(&self, session: SessionId, node: NodeId, tracks: BTreeSet<TrackId>) -> Option<Groups> {
        let mut has = Groups::new();
        let mut left = RECORD_MAX;
        for track in tracks {
            let run = self.run(session, node, Part::Have(track), &mut left).await.ok()?;
            has.insert(track, Have::decode(&run).ok()?);
        }
        Some(has)
    }

    /// Brings what the points of a session in reach have countersigned of it: whoever copied the record may have done so before.
    pub(super) async fn countersigned(&self, session: SessionId) {
        let head = self.vault.archive().head(&session).ok().flatten();
        let members = head.iter().flat_map(Head::present).filter(|member| member.node != self.me);
        for member in members {
            let mut left = COUNTERSIGNED_MAX;
            let Ok(run) = self.run(session, member.node, Part::Countersigned, &mut left).await else { continue };
            let records = recover::unframe(&run).unwrap_or_default().into_iter();
            let own = |by: &Signed<Countersignature>| {
                by.signer() == member.node && (by.content().session, by.content().point) == (session, member.number)
            };
            let own: Vec<_> = records.filter_map(|record| Signed::parse(record).ok()).filter(own).collect();
            let vault = self.vault.clone();
            let stored = spawn_blocking(move || {
                vault.run(move |archive| own.iter().try_for_each(|by| archive.put_countersignature(by)))
            });
            if let Ok(Ok(Err(error))) = stored.await {
                tracing::error!(%session, error = sentence(&error), "a countersignature cannot be stored");
            }
        }
    }

    /// Brings back our own segments of a session that runs, which its central keeps; how many there are.
    pub(in crate::driver) async fn own_segments(&self, session: SessionId) -> Result<usize, String> {
        let said = |fault| match fault {
            Fault::Broken(why) | Fault::Refused(why) | Fault::Wrong(why) => why,
            Fault::Running | Fault::Open | Fault::Foreign | Fault::Disputed => "that is no record".to_owned(),
        };
        let head = self.vault.archive().head(&session).map_err(|error| sentence(&error))?;
        let head = head.ok_or("that session is not here")?;
        let point = head.number(&self.me).ok_or("this point is not named in that session")?;
        let central = head.central;
        let mut left = RECORD_MAX;
        // A refusal is no answer: nothing may be signed before there is one.
        let run = self.run(session, central, Part::Segments(point), &mut left).await.map_err(said)?;
        let records = recover::unframe(&run).ok_or("a record that is cut off")?;
        let segments = records.into_iter().map(Signed::<Segment>::parse).collect::<Result<Vec<_>, _>>();
        let segments = segments.map_err(|error| sentence(&error))?;
        let (vault, me, count) = (self.vault.clone(), self.me, segments.len());
        let stored = spawn_blocking(move || vault.run(move |archive| put::put_own(archive, me, &session, &segments)));
        match stored.await {
            Ok(Ok(stored)) => stored.map(|()| count),
            Ok(Err(closed)) => Err(closed.to_string()),
            Err(_) => Err("the archive's thread is gone".to_owned()),
        }
    }
}

pub(super) fn broken(error: &archive::Error) -> Fault {
    Fault::Broken(sentence(error))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    spawn_blocking(work).await.unwrap_or_else(|_| Err(Fault::Broken("reading what is here failed".into())))
}

/// Who asks for a session back.
#[derive(Clone, Debug)]
pub(super) struct Us {
    /// This node and those whose place it has.
    pub(super) nodes: BTreeSet<NodeId>,
    /// Whether others give it groups of sessions it only took part in.
    reads: bool,
}

impl Us {
    pub(super) fn of(members: &Members, me: NodeId) -> Us {
        let deed = Deed::Recover(rights::Part::Point, Tracks::Anothers);
        Us { nodes: members.with_before(&me), reads: may(members, &Who::Node(me), deed).is_ok() }
    }
}

/// What is missing of a session, and what of it was signed. What nobody may give us is not missing.
pub(super) fn plan(archive: &Archive, us: &Us, session: SessionId) -> Result<(Wanted, Listed), archive::Error> {
    let Some(head) = archive.head(&session)? else { return Ok(Default::default()) };
    let scope = scope(archive, us, &head)?;
    if !us.reads && scope != Scope::All {
        return Ok(Default::default());
    }
    let mut listed = Listed::new();
    for member in &head.points {
        for record in archive.segments(&session, member.number, 0, usize::MAX)? {
            let segment = Signed::<Segment>::parse(record)
                .map_err(|_| archive::Error::Unreadable(format!("segments of session {session}")))?;
            let groups = segment.content().groups().filter(|(track, _)| scope.has(*track));
            listed.extend(groups.map(|(track, group)| ((track, group.seq), group.clone())));
        }
    }
    let wanted = Wanted::of(&listed, scope, |track, seq| match archive.outline(&GroupId { session, track, seq }) {
        Ok(outline) => Ok(outline.map(|outline| outline.hash)),
        Err(archive::Error::Damaged(_)) => Ok(None),
        Err(error) => Err(error),
    })?;
    Ok((wanted, listed))
}

pub(super) fn scope(archive: &Archive, us: &Us, head: &Head) -> Result<Scope, archive::Error> {
    let holders = archive.receipts(&head.id)?.into_iter().map(|received| received.receipt.signer()).collect();
    Ok(Scope::of(head, &holders, &us.nodes))
}
