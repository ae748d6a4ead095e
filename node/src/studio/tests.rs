//! Two rooms over real sockets: what one shows and says, the other sees, hears and keeps.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use store::archive::Archive;
use store::db::memory::Memory;
use store::keys::{NodeKey, WrapKey};
use store::session::{Period, State};

use super::*;
use crate::engine::rights::{Member, Members};
use crate::identity::Identity;
use crate::media;

struct Side {
    node: NodeId,
    at: SocketAddr,
    media: Media,
    from_media: mpsc::Receiver<media::Event>,
    vault: Vault,
    studio: Studio,
    events: mpsc::Receiver<Event>,
}

fn side(epoch: Instant, watch: bool) -> Side {
    let identity = Identity { node: NodeKey::generate(), wrap: WrapKey::generate() };
    let archive = Archive::over(Arc::new(Memory::new()), Arc::new(Memory::new())).expect("a database that works");
    let vault = Vault::over(archive).expect("a thread");
    let listen = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let config = media::Config { listen, give_way: false, line_bits: 50_000_000, epoch };
    let (media, from_media) = Media::bind(&identity.node, config, Arc::new(vault.clone())).expect("a free port");
    let (sender, events) = mpsc::channel(4096);
    let config = Config {
        me: identity.id(),
        name: "Điểm cầu thử".into(),
        epoch,
        source: Source::Own(capture::Spec::Pattern),
        production: production::Config::default(),
        watch,
        stage: Stage::default(),
        inlet: Inlet::new(epoch),
    };
    let studio = Studio::new(config, media.clone(), vault.clone(), sender);
    let at = media.local_addr().expect("a bound socket");
    Side { node: identity.id(), at, media, from_media, vault, studio, events }
}

/// A delegate publishes for some seconds and central keeps it; gives both and what the delegate made.
async fn session(watch: bool) -> (Side, Side, Head, production::Stats) {
    let epoch = Instant::now();
    let (mut central, mut delegate) = (side(epoch, watch), side(epoch, false));
    let key = SessionKey::generate();
    let number = |number| PointNumber::new(number).expect("a small number");
    let member =
        |n, side: &Side| store::session::Member { number: number(n), node: side.node, name: format!("Điểm {n}") };
    let head = Head {
        id: SessionId::generate(1_700_000_000_000),
        title: "Thử".into(),
        state: State::Open,
        central: central.node,
        points: vec![member(1, &central), member(2, &delegate)],
        epochs: vec![Period::first(key.commitment())],
        suite: store::seal::Suite::default(),
        started_unix_ms: 1_700_000_000_000,
        ended_unix_ms: None,
    };
    let tracks = [TrackKind::Audio, TrackKind::Main].map(|kind| TrackId::new(number(2), kind));
    for (side, keeps) in [(&mut central, true), (&mut delegate, false)] {
        let member = |name: &str| Member { name: name.into(), rights: BTreeSet::new() };
        let points = head.points.iter().map(|point| (point.node, member(&point.name))).collect();
        side.media.set_members(Members::new(side.node, points, BTreeSet::new()));
        let points = head.points.iter().map(|point| (point.number, point.node)).collect();
        side.media.open_session(media::Session::new(head.id, points, head.central));
        side.studio.open(head.clone(), Keys::from([(0, key.clone())]), keeps);
        side.studio.clock(head.id, Line::central(0));
    }
    for track in tracks {
        central.media.subscribe(head.id, track, 6);
    }
    delegate.media.announce(head.id, tracks.to_vec());
    delegate.media.dial(central.node, vec![central.at]);
    delegate.vault.run(move |archive| archive.reserve_seqs(&head.id, 0, RESERVE)).expect("open").expect("a disk");
    // Central hears the announcement before anything is published, so it has every group from the first.
    while let Some(event) = central.from_media.recv().await {
        if matches!(event, media::Event::Announced { .. }) {
            break;
        }
    }
    delegate.studio.publish(head.id, 0..RESERVE).expect("the pattern can always be shown");
    let over = tokio::time::sleep(Duration::from_millis(4_500));
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over => break,
            Some(event) = central.from_media.recv() => central.take(event),
            Some(event) = delegate.from_media.recv() => delegate.take(event),
        }
    }
    let stopped = delegate.studio.unpublish(head.id).expect("a room that publishes");
    let made = tokio::task::spawn_blocking(move || stopped.finish()).await.expect("a room that can be closed");
    (central, delegate, head, made)
}

impl Side {
    fn take(&mut self, event: media::Event) {
        if let media::Event::Group(reader) = event {
            self.studio.group(reader);
        }
    }

    /// Takes what comes until `enough`, at most ten seconds.
    async fn until(&mut self, mut enough: impl FnMut(&mut Side) -> bool) {
        let mut look = tokio::time::interval(Duration::from_millis(10));
        let patience = Instant::now() + Duration::from_secs(10);
        while !enough(self) {
            assert!(Instant::now() < patience, "it never came to that");
            tokio::select! {
                _ = look.tick() => {}
                Some(event) = self.from_media.recv() => self.take(event),
            }
        }
    }
}

fn everything(vault: &Vault, session: &SessionId) -> Vec<Record> {
    let archive = vault.archive();
    let mut records = Vec::new();
    for track in archive.tracks(session).expect("a good archive") {
        for outline in archive.outlines(session, track, 0..1_000, 1_000).expect("a good archive") {
            records.push(archive.get(&outline.id).expect("a good group"));
        }
    }
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_room_shows_another_sees_hears_and_keeps_byte_for_byte() {
    let (mut central, delegate, head, made) = session(true).await;
    delegate.vault.run(|_| ()).expect("an open vault");
    let source = everything(&delegate.vault, &head.id);
    assert!(source.len() >= 4, "{} groups", source.len());
    let vault = central.vault.clone();
    central.until(|_| everything(&vault, &head.id).len() == source.len()).await;
    assert_eq!(everything(&central.vault, &head.id), source);

    let shown = |side: &Side| side.studio.shown(head.id).get(&delegate.node).copied().unwrap_or_default();
    central.until(|side| shown(side).audio.decoded == made.audio.frames).await;
    let Shown { video, audio } = shown(&central);
    assert_eq!((audio.expected, audio.failed, audio.skipped), (made.audio.frames, 0, 0));
    assert!(video.decoded * 100 >= made.main.frames * 98, "{video:?} of {}", made.main.frames);
    assert_eq!(video.failed, 0);
    assert!(audio.latency.p95 < Duration::from_millis(500), "{:?}", audio.latency);

    let mut told = Vec::new();
    while let Ok(event) = central.events.try_recv() {
        told.push(event);
    }
    let count = |which: fn(&Event) -> bool| told.iter().filter(|event| which(event)).count();
    assert_eq!(count(|event| matches!(event, Event::Began(_))), source.len());
    assert_eq!(count(|event| matches!(event, Event::Stored(_))), source.len());
    assert_eq!(count(|event| matches!(event, Event::Broke { .. })), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_central_that_does_not_watch_keeps_everything_without_decoding() {
    let (mut central, delegate, head, _) = session(false).await;
    delegate.vault.run(|_| ()).expect("an open vault");
    let source = everything(&delegate.vault, &head.id);
    let vault = central.vault.clone();
    central.until(|_| everything(&vault, &head.id).len() == source.len()).await;
    assert!(central.studio.shown(head.id).is_empty());
}
