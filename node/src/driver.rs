//! The body of a node: waits, feeds the engine one input at a time, and carries out what it wants done.
//!
//! Everything outside meets here: the mesh, the media plane, the studio, the vault, the local socket, signals and the
//! clock, whose only reader this is. Nothing that takes long happens in the loop. What must wait for a disk or a line is
//! handed to a thread or a task, and its outcome comes back as an input like any other, so the engine sees one thing
//! after the other and this file has no state of its own to speak of.

mod answer;
mod belong;
mod deeds;
mod disk;
mod evidence;
mod gate;
mod keys;
mod manifest;
mod porch;
mod recall;
mod recover;
mod replica;
mod room;
mod scrub;

#[cfg(test)]
pub(crate) use gate::deed;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use codec::production;
use store::access::{Deed, Door, What, Who};
use store::id::{NodeId, SessionId, TrackId};
use store::journal::{Chain, LeftReason};
use store::roster::Membership;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::access;
use crate::accounts::{self, Accounts};
use crate::attest::Signer;
use crate::browser::{Browser, Wish};
use crate::config::{Config, Source};
use crate::console::{self, Console};
use crate::control::{self, Call, Request, Response};
use crate::engine::copies::Copies;
use crate::engine::evidence as witness;
use crate::engine::manifest as closing;
use crate::engine::rights::{self, Members};
use crate::engine::roster as spreading;
use crate::engine::session::{self, Engine, Input, Ticket};
use crate::identity::{self, Identity, roster};
use crate::join::{door, invite};
use crate::media::{self, Media};
use crate::mesh::{self, Mesh};
use crate::secret::Secret;
use crate::studio::inlet::Inlet;
use crate::studio::stage::Stage;
use crate::studio::{self, Keys, Shown, Studio};
use crate::unwritten::Unwritten;
use crate::vault::{self, Vault};
use disk::Housekeeping;
use porch::Porch;
use recover::Recovering;
use replica::Copying;
use room::Presence;
use scrub::Scrubbing;

/// Commands waiting for the loop. Beyond, callers wait.
const CALLS_MAX: usize = 64;
/// Outcomes of tasks waiting for the loop: there are a few per point and session at most.
const INPUTS_MAX: usize = 1024;
/// Groups that began, broke off or were stored, waiting for the loop: twenty seconds of a 40-point session.
const EVENTS_MAX: usize = 4096;
/// Questions of other points under way. Beyond, they are refused, and ask again.
const REPLIES_MAX: usize = 256;

/// Signed records of other points that wait for the vault. Beyond, they are refused, and come again.
const TAKES_MAX: usize = 32;

/// How long the end of a session waits for its record to become whole before what is missing is called a gap.
const WHOLE_WITHIN: Duration = Duration::from_secs(30);
/// How long the end waits for points out of reach: longer than a connection needs to come back by itself.
const FINISH_WITHIN: Duration = Duration::from_secs(3);
/// How long a room goes on recording without a sign of central.
const ABSENCE_MAX: Duration = Duration::from_secs(30 * 60);
/// How often what the disk did not take, and sessions that could not be taken up, are tried again, in seconds.
const AGAIN_SECONDS: u64 = 5;
/// Length of a group.
const GROUP: Duration = Duration::from_secs(2);

/// Why the node does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its keys.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// Its roster.
    #[error(transparent)]
    Roster(#[from] roster::Error),
    /// The configuration names another point.
    #[error(
        "the configuration calls this point {configured:?}, but the roster calls it {roster:?}: correct one of them"
    )]
    Name {
        /// In the configuration.
        configured: String,
        /// In the roster.
        roster: String,
    },
    /// The accounts of its page.
    #[error(transparent)]
    Accounts(#[from] accounts::Error),
    /// Another node on the same folder, or no socket.
    #[error(transparent)]
    Control(#[from] control::Error),
    /// The archive.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// The archive's contents.
    #[error("the archive cannot be read")]
    Archive(#[from] store::archive::Error),
    /// The media plane.
    #[error(transparent)]
    Media(#[from] media::Error),
    /// The mesh.
    #[error(transparent)]
    Mesh(#[from] mesh::StartError),
    /// The room's page.
    #[error(transparent)]
    Console(#[from] console::Error),
    /// Its invites.
    #[error(transparent)]
    Invites(#[from] invite::Error),
    /// The source of picture and sound.
    #[error(transparent)]
    Source(#[from] codec::capture::Error),
    /// The system refused something basic.
    #[error("the system refused {what}")]
    System {
        /// What.
        what: &'static str,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
}

/// Runs this point until it is told to stop, by a signal or over its local socket. Must be called on tokio's
/// multi-thread runtime. The passphrase opens its keys, if they are locked.
pub async fn run(config: Config, passphrase: Option<Secret>) -> Result<(), Error> {
    if !config.data.is_dir() {
        return Err(identity::Error::Missing(config.data).into());
    }
    identity::private::check(&config.data)?;
    let (calls, from_callers) = mpsc::channel(CALLS_MAX);
    // Before anything is read: whoever holds the folder's lock is the only one to touch what is in it.
    let _server = control::serve(&config.data, calls.clone())?;
    let (mut driver, events) = Driver::start(config, passphrase, calls).await?;
    let result = driver.drive(events, from_callers).await;
    driver.stop().await;
    result
}

/// Where the loop's inputs come from.
struct Events {
    mesh: mpsc::Receiver<mesh::Event>,
    media: mpsc::Receiver<media::Event>,
    studio: mpsc::Receiver<studio::Event>,
    inputs: mpsc::Receiver<Input>,
    spreading: mpsc::Receiver<spreading::Input>,
    evidence: mpsc::Receiver<witness::Input>,
    manifests: mpsc::Receiver<closing::Input>,
    records: mpsc::Receiver<evidence::Given>,
    copies: mpsc::Receiver<replica::Told>,
    wishes: mpsc::Receiver<Wish>,
    scrub: mpsc::Receiver<scrub::Told>,
    recovery: mpsc::Receiver<recover::Told>,
    porch: mpsc::Receiver<door::Input>,
}

/// Everything the loop carries out its work with.
struct Driver {
    config: Config,
    identity: Identity,
    me: NodeId,
    roster: Membership,
    /// The roster as far as rights go.
    members: Members,
    started_ms: u64,
    /// What the source did not give when the node started.
    source_lacks: Option<String>,
    engine: Engine,
    /// Compares the roster with other points'.
    spreading: spreading::Engine,
    told_of_roster: mpsc::Sender<spreading::Input>,
    /// Knows when to sign what was recorded.
    evidence: witness::Engine,
    told_of_evidence: mpsc::Sender<witness::Input>,
    /// Knows when to sign what a session consists of.
    manifests: closing::Engine,
    told_of_manifests: mpsc::Sender<closing::Input>,
    told_of_records: mpsc::Sender<evidence::Given>,
    /// Knows who holds what, and what we are to hold.
    copying: Copying,
    /// Knows when what is stored is read again.
    scrubbing: Scrubbing,
    /// Takes back what was lost.
    recovering: Recovering,
    /// Signed records of other points that may wait for the vault.
    takes: Arc<Semaphore>,
    /// Where those stand who want to join.
    porch: Porch,
    studio: Studio,
    media: Media,
    mesh: Mesh,
    vault: Vault,
    access: access::Log,
    accounts: Arc<Accounts>,
    console: Console,
    /// What is live, for browsers.
    stage: Stage,
    /// The tracks that the room's page watches: now, and as carried out last.
    watched: watch::Receiver<BTreeSet<TrackId>>,
    watching: BTreeSet<TrackId>,
    /// What is still written on this disk.
    disk: Housekeeping,
    /// Since when the points of the running session are there.
    presence: Presence,
    inputs: mpsc::Sender<Input>,
    studio_events: mpsc::Sender<studio::Event>,
    /// Ends of the journals we write.
    chains: BTreeMap<SessionId, Chain>,
    /// Session keys in use.
    keys: BTreeMap<SessionId, Keys>,
    /// Where the mesh says each point's media plane is.
    media_at: BTreeMap<NodeId, Vec<SocketAddr>>,
    /// Points we keep a media connection to, with what the invitation said.
    dialled: BTreeMap<NodeId, (Vec<SocketAddr>, u16)>,
    /// Questions of other points that wait for our answer.
    replies: BTreeMap<Ticket, oneshot::Sender<Bytes>>,
    /// Commands that wait for theirs.
    operators: BTreeMap<Ticket, Operator>,
    tickets: u64,
    /// The session that `Stats` speaks of, and what was shown of it when it closed.
    shown: Option<(SessionId, BTreeMap<NodeId, Shown>)>,
    /// Central's clock minus ours in microseconds, by the last exchange.
    offset: Option<(NodeId, i64)>,
    counters: BTreeMap<&'static str, u64>,
    /// What points fetched, as far as the access log does not know of it.
    copies: Copies,
    /// Knocks at the mesh and at the media plane that the access log knows of.
    knocks_told: [u64; 2],
    /// Sessions of the archive that could not be taken up yet.
    untaken: Vec<SessionId>,
    /// What of journals and heads is not on the disk yet.
    unwritten: Arc<Mutex<Unwritten>>,
    /// Seconds this node has run.
    looks: u64,
    stopping: bool,
}

/// Somebody who wants something done about a session, and waits.
struct Operator {
    who: rights::Who,
    /// As the access log names it.
    deed: Deed,
    reply: oneshot::Sender<Response>,
}

impl Driver {
    async fn start(
        config: Config,
        passphrase: Option<Secret>,
        calls: mpsc::Sender<Call>,
    ) -> Result<(Driver, Events), Error> {
        let epoch = Instant::now();
        let identity = match passphrase {
            Some(passphrase) => {
                // Slow on purpose.
                tokio::task::block_in_place(|| Identity::unlock(&config.data, passphrase.expose()))?
            }
            None => Identity::load(&config.data)?,
        };
        identity.settle(&config.data)?;
        let found = roster::read(&config.data.join(roster::FILE))?;
        // A source that cannot be used is said now, to whoever starts the program, and not in the middle of a session.
        let source_lacks = match &config.room.source {
            Source::Browser => None,
            Source::Own(spec) => codec::capture::check(spec)?,
        };
        if let Some(lack) = &source_lacks {
            tracing::warn!("the source {} gives {lack}", config.room.source);
        }

        let archive = config.archive();
        let vault = tokio::task::block_in_place(|| {
            disk::make_way(&archive);
            Vault::open(&archive)
        })?;
        let started = Self::start_on(vault.clone(), config, identity, found, source_lacks, calls, epoch).await;
        if started.is_err() {
            // The database must be closed before the process ends.
            tokio::task::block_in_place(|| vault.close());
        }
        started
    }

    async fn start_on(
        vault: Vault,
        config: Config,
        identity: Identity,
        found: Membership,
        source_lacks: Option<String>,
        calls: mpsc::Sender<Call>,
        epoch: Instant,
    ) -> Result<(Driver, Events), Error> {
        let me = identity.id();
        let mut roster = tokio::task::block_in_place(|| roster::settle(&config.data, &me, found, vault.archive()))?;
        let invites = tokio::task::block_in_place(|| invite::load(&config.data, unix_ms()))?;
        let before = roster.hash();
        let (porch, from_porch) = Porch::new(invites, &me, &mut roster);
        if roster.hash() != before {
            tokio::task::block_in_place(|| roster::keep(&config.data, &roster, vault.archive()))?;
        }
        let own = roster.point(&me).expect("a roster is settled for a node that is in it");
        if let Some(configured) = config.name.clone().filter(|name| *name != own.name) {
            return Err(Error::Name { configured, roster: own.name.clone() });
        }
        let name = own.name.clone();
        let system = |what| move |source| Error::System { what, source };
        let access = access::Log::start(vault.archive().logbook(), identity.node.clone())
            .map_err(system("a thread for the access log"))?;
        let media_config = media::Config {
            listen: SocketAddr::new(config.mesh.listen, config.media.port.number),
            give_way: !config.media.port.fixed,
            line_bits: u64::from(config.media.line_kbps) * 1_000,
            epoch,
        };
        let (media, from_media) = Media::bind(&identity.node, media_config, Arc::new(vault.clone()))?;
        let members = Members::of(me, &roster);
        media.set_members(members.clone());
        let media_port = media.local_addr().map_err(system("the media socket's address"))?.port();
        let settings = mesh::Settings {
            name: name.clone(),
            listen: config.mesh.listen,
            port: config.mesh.port,
            media_port,
            multicast: config.mesh.mdns,
            peers: config.mesh.peers.clone(),
            members: belong::members(&roster),
        };
        let (mesh, from_mesh) = Mesh::start(&identity.node, settings)?;
        let accounts = Arc::new(Accounts::load(&config.data)?);
        let stage = Stage::default();
        let inlet = Inlet::new(epoch);
        let camera = (config.room.source == Source::Browser).then(|| inlet.clone());
        let started = Browser::start(config.console.address, stage.clone(), camera).await;
        let (browser, from_browsers) = started.map_err(system("a UDP socket for the room's page"))?;
        let watched = browser.wanted();
        let parts = console::Parts { handler: calls, accounts: Arc::clone(&accounts), log: access.clone(), browser };
        let console = Console::start(&config.console, parts).await?;

        let (inputs, from_tasks) = mpsc::channel(INPUTS_MAX);
        let (told_of_roster, from_others) = mpsc::channel(INPUTS_MAX);
        let (told_of_evidence, from_signing) = mpsc::channel(INPUTS_MAX);
        let (told_of_manifests, from_closing) = mpsc::channel(INPUTS_MAX);
        let (told_of_records, from_points) = mpsc::channel(TAKES_MAX);
        let (copying, from_copying) = Copying::new(&identity.node);
        let (scrubbing, from_scrubbing) = Scrubbing::new(me);
        let (recovering, from_recovering) = Recovering::new(&identity.node);
        let (studio_events, from_studio) = mpsc::channel(EVENTS_MAX);
        let studio = Studio::new(
            studio::Config {
                me,
                name,
                epoch,
                source: config.room.source.clone(),
                production: production::Config { group: GROUP, ..production::Config::default() },
                watch: config.room.watch,
                stage: stage.clone(),
                inlet,
            },
            media.clone(),
            vault.clone(),
            studio_events.clone(),
        );
        let engine = Engine::new(session::Config {
            me,
            epoch,
            members: members.clone(),
            points_max: usize::from(config.session.points_max),
            whole_within: WHOLE_WITHIN,
            finish_within: FINISH_WITHIN,
            absence_max: ABSENCE_MAX,
            media: Vec::new(),
            media_port,
            thumbs: false,
        });
        tracing::info!(
            mesh = mesh.port(),
            media = media_port,
            page = %console.url(),
            "this point runs; ports shown are the ones in use"
        );
        let driver = Driver {
            disk: Housekeeping::new(&config.archive),
            config,
            identity,
            me,
            spreading: spreading::Engine::new(belong::known(&roster)),
            told_of_roster,
            evidence: witness::Engine::new(me),
            told_of_evidence,
            manifests: closing::Engine::default(),
            told_of_manifests,
            told_of_records,
            copying,
            scrubbing,
            recovering,
            takes: Arc::new(Semaphore::new(TAKES_MAX)),
            porch,
            roster,
            members,
            started_ms: unix_ms(),
            source_lacks,
            engine,
            studio,
            media,
            mesh,
            vault,
            access,
            accounts,
            console,
            stage,
            watched,
            watching: BTreeSet::new(),
            presence: Presence::default(),
            inputs,
            studio_events,
            chains: BTreeMap::new(),
            keys: BTreeMap::new(),
            media_at: BTreeMap::new(),
            dialled: BTreeMap::new(),
            replies: BTreeMap::new(),
            operators: BTreeMap::new(),
            tickets: 0,
            shown: None,
            offset: None,
            counters: BTreeMap::new(),
            copies: Copies::default(),
            knocks_told: [0; 2],
            untaken: Vec::new(),
            unwritten: Arc::default(),
            looks: 0,
            stopping: false,
        };
        let events = Events {
            mesh: from_mesh,
            media: from_media,
            studio: from_studio,
            inputs: from_tasks,
            spreading: from_others,
            evidence: from_signing,
            manifests: from_closing,
            records: from_points,
            copies: from_copying,
            wishes: from_browsers,
            scrub: from_scrubbing,
            recovery: from_recovering,
            porch: from_porch,
        };
        Ok((driver, events))
    }

    async fn drive(&mut self, mut events: Events, mut calls: mpsc::Receiver<Call>) -> Result<(), Error> {
        let system = |what| move |source| Error::System { what, source };
        let mut terminate = signal(SignalKind::terminate()).map_err(system("a signal handler"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(system("a signal handler"))?;
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.recall()?;
        self.recall_copies();
        self.recall_scrub();
        self.recall_recovery();
        self.carry_out_all();
        while !self.stopping {
            // Far away when nothing is due; any input comes back here.
            let deadlines = [
                self.engine.deadline(),
                self.spreading.deadline(),
                self.evidence.deadline(),
                self.manifests.deadline(),
                self.copying.deadline(),
                self.scrubbing.deadline(),
                self.recovering.deadline(),
                self.porch.deadline(),
            ];
            let far = Instant::now() + Duration::from_secs(60);
            let deadline = deadlines.into_iter().flatten().min().unwrap_or(far);
            tokio::select! {
                Some(event) = events.inputs.recv() => self.tell(event),
                Some(event) = events.studio.recv() => self.studio_event(event),
                Some(event) = events.mesh.recv() => self.mesh_event(event),
                Some(event) = events.media.recv() => self.media_event(event),
                Some(event) = events.spreading.recv() => self.spread(event),
                Some(event) = events.evidence.recv() => self.witness(event),
                Some(event) = events.manifests.recv() => self.close_record(event),
                Some(given) = events.records.recv() => self.given(given),
                Some(event) = events.copies.recv() => self.told_of_copies(event),
                Some(wish) = events.wishes.recv() => self.wished(wish),
                Ok(()) = self.watched.changed() => self.rewatch(),
                Some(event) = events.scrub.recv() => self.scrub(event),
                Some(event) = events.recovery.recv() => self.told_of_recovery(event),
                Some(event) = events.porch.recv() => self.knocked(event),
                Some((who, request, reply)) = calls.recv() => self.call(who, request, reply),
                () = tokio::time::sleep_until(deadline.into()) => self.tick(),
                _ = second.tick() => self.look(),
                _ = terminate.recv() => self.stopping = true,
                _ = interrupt.recv() => self.stopping = true,
            }
            self.carry_out_all();
        }
        Ok(())
    }

    fn tick(&mut self) {
        self.tell(Input::Tick);
        self.spread(spreading::Input::Tick);
        self.witness(witness::Input::Tick);
        self.close_record(closing::Input::Tick);
        self.copies_tick();
        self.scrub(scrub::Told::Scrub(crate::engine::scrub::Input::Tick));
        self.recovery_tick();
        self.knocked(door::Input::Tick);
    }

    fn tell(&mut self, input: Input) {
        self.engine.handle(Instant::now(), input);
    }

    fn carry_out_all(&mut self) {
        while let Some(output) = self.engine.poll() {
            self.carry_out(output);
        }
    }

    /// Leaves politely: groups are closed and stored, neighbours hear a goodbye. An open session stays open; central
    /// resumes it when it runs again, a delegate joins again.
    async fn stop(mut self) {
        // It may end without having been told to.
        self.stopping = true;
        self.log_numbers();
        let Driver { mut studio, media, mesh, vault, access, engine, evidence, identity, dialled, .. } = self;
        tracing::info!("this point stops");
        let current = engine.view(Instant::now()).session.map(|session| session.id);
        let closing = vault.clone();
        let unsigned: Vec<_> = evidence.sessions().collect();
        let signer = Signer { node: identity.node.clone(), wrap: identity.wrap.clone() };
        let closed = tokio::task::spawn_blocking(move || {
            if let Some(stopped) = current.and_then(|session| studio.unpublish(session)) {
                stopped.finish();
            }
            drop(studio);
            self::evidence::sign_before_stop(&closing, &signer, unsigned);
            // Ends go out when their groups are on the disk.
            closing.close();
            access.close();
        });
        if closed.await.is_err() {
            tracing::error!("closing the last groups failed");
        }
        dialled.into_keys().for_each(|node| media.hang_up(node));
        mesh.stop().await;
        // Nobody waits for this but whoever stopped us.
        if tokio::task::spawn_blocking(move || vault.settle()).await.is_err() {
            tracing::error!("leaving the archive in order failed");
        }
    }

    fn mesh_event(&mut self, event: mesh::Event) {
        match event {
            mesh::Event::Up { node, media } => {
                tracing::info!(point = self.name(node), "online");
                self.media.know(node, &media);
                self.media_at.insert(node, media);
                if let Some((addresses, port)) = self.dialled.get(&node).cloned() {
                    self.dial(node, addresses, port);
                }
                self.tell(Input::Up { node });
                self.spread(spreading::Input::Up { node });
                self.witness(witness::Input::Up { node });
                self.close_record(closing::Input::Up { node });
                self.copies_reach(node, true);
                self.scrub(scrub::Told::Scrub(crate::engine::scrub::Input::Up { node }));
                self.recovery_reach(node, true);
            }
            mesh::Event::Down { node } => {
                tracing::info!(point = self.name(node), "offline");
                self.tell(Input::Down { node });
                self.spread(spreading::Input::Down { node });
                self.witness(witness::Input::Down { node });
                self.close_record(closing::Input::Down { node });
                self.copies_reach(node, false);
                self.recovery_reach(node, false);
            }
            mesh::Event::Stranger { node, from } => self.turned_away(Some(node), from, Door::Mesh),
            mesh::Event::Refused { node, reason } => {
                let what = What::Door { door: Door::Mesh };
                self.access.refused(Who::Point { node }, Deed::Connect, what, &reason);
            }
            mesh::Event::Request { from, message, reply } => self.asked(from, &message, reply),
        }
    }

    fn media_event(&mut self, event: media::Event) {
        match event {
            media::Event::Up { node } => {
                tracing::info!(point = self.name(node), "sound and picture connected");
                self.tell(Input::MediaUp { node });
            }
            media::Event::Down { node, said, reason } => {
                tracing::info!(point = self.name(node), said, reason, "sound and picture ended");
                self.tell(Input::MediaDown { node, reason: if said { LeftReason::Left } else { LeftReason::Lost } });
            }
            media::Event::Quiet { node } => tracing::warn!(point = self.name(node), "nothing heard for two seconds"),
            media::Event::Heard { node } => tracing::info!(point = self.name(node), "heard again"),
            media::Event::Announced { node, session, tracks } => self.tell(Input::Announced { node, session, tracks }),
            media::Event::Group(reader) => self.studio.group(reader),
            media::Event::Wanted { session, track, wanted } => self.studio.wanted(session, track, wanted),
            media::Event::Keyframe { session, track } => self.studio.keyframe(session, track),
            media::Event::Clock { node, sent, remote, received } => {
                let middle = sent / 2 + received / 2;
                self.offset = Some((node, i64::try_from(i128::from(remote) - i128::from(middle)).unwrap_or(i64::MAX)));
                self.tell(Input::Clock { node, sent, remote, received });
            }
            media::Event::Shed { node, track, seq, .. } => {
                self.count("groups_shed");
                self.copies_yield();
                self.recovery_yield();
                tracing::debug!(point = self.name(node), %track, seq, "a group is left out for a slow line");
            }
            media::Event::Budget { node, bits } => {
                let central = self.engine.view(Instant::now()).session.map(|session| session.central);
                if central == Some(node) {
                    self.studio.budget(bits);
                }
            }
            media::Event::Visit(visit) => self.visited(visit),
            media::Event::Stranger { who: media::Stranger::Proved(node), from } => {
                self.turned_away(Some(node), from, Door::Media);
            }
            media::Event::Stranger { who: media::Stranger::Unproved, from } => {
                self.turned_away(None, from, Door::Media);
            }
            media::Event::Refused { node, why } => {
                self.count("neighbours_refused");
                self.access.refused(Who::Point { node }, Deed::Send, What::Door { door: Door::Media }, &why);
                tracing::warn!(point = self.name(node), why, "a neighbour broke the rules and was cut off");
            }
            media::Event::Denied { node, deed, session, denied } => {
                self.denied(&rights::Who::Node(node), deed, What::Session { session }, denied);
            }
        }
    }

    fn studio_event(&mut self, event: studio::Event) {
        match event {
            studio::Event::Began(group) => self.tell(Input::Began(group)),
            studio::Event::Broke { group, cut } => {
                self.count("groups_broken");
                self.tell(Input::Broke { group, cut });
            }
            studio::Event::Stored(group) => {
                self.count("groups_stored");
                self.close_record(closing::Input::Changed { session: group.session });
                self.tell(Input::Stored(group));
            }
            studio::Event::Forged { node, what } => self.forged(node, &what),
            studio::Event::Fetched { session, origin, missing } => {
                self.tell(Input::Fetched { session, origin, missing });
            }
        }
    }

    /// Once a second: the room's source, what `Stats` would say, and what the access log is told in numbers.
    fn look(&mut self) {
        self.looks += 1;
        if self.looks.is_multiple_of(AGAIN_SECONDS) {
            self.write_again();
            if !self.untaken.is_empty() {
                tokio::task::block_in_place(|| self.recall_again());
            }
        }
        self.disk_look();
        self.scrub_look();
        self.copies_look();
        self.log_numbers();
        let failed = tokio::task::block_in_place(|| self.studio.look(Instant::now()));
        if let Some(failed) = failed {
            tokio::task::spawn_blocking(move || failed.finish());
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn count(&mut self, what: &'static str) {
        *self.counters.entry(what).or_default() += 1;
    }

    /// A point's name for the log.
    fn name(&self, node: NodeId) -> String {
        self.roster.point(&node).map_or_else(|| node.short(), |point| point.name.clone())
    }

    fn call(&mut self, who: rights::Who, request: Request, reply: oneshot::Sender<Response>) {
        if let Some(response) = self.answer(who, request, reply) {
            let (response, reply) = response;
            // A caller that hung up wants no answer.
            let _ = reply.send(response);
        }
    }
}

/// Wall clock, Unix milliseconds.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
