//! Live media over a bad line: the real stack between real sockets, with a link in between that delays, loses and
//! holds back by a seed.

use super::*;
use crate::media::Fetched;
use simnet::link::{self, Loss, Queue, Rate, Share};
use simnet::relay::Relay;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One line test at a time: they measure.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn path(delay_ms: u64, loss_percent: f64, rate: Option<Rate>) -> link::Config {
    let loss = if loss_percent > 0.0 { Loss::Random(Share::percent(loss_percent)) } else { Loss::default() };
    link::Config { delay: Duration::from_millis(delay_ms), loss, rate, ..link::Config::default() }
}

fn slow(bits: u64) -> Option<Rate> {
    Some(Rate::new(bits, Queue::Time(Duration::from_millis(300))))
}

/// Central talks to one delegate over a relay; the line down is `down`.
struct Pair {
    central: Node,
    delegate: Media,
    heard: Arc<Mutex<Heard>>,
    relay: Relay,
}

async fn pair(up: link::Config, down: link::Config, seed: u64) -> Pair {
    let mut central = Node::start(0, 2);
    let mut delegate = Node::start(1, 2);
    let relay = Relay::start(central.addr(), up, down, seed).expect("a relay");
    delegate.media.dial(key(0).id(), vec![relay.addr()]);
    delegate.until_up(key(0).id()).await;
    central.until_up(key(1).id()).await;
    let tracks = [(TrackKind::Audio, 6), (TrackKind::Main, 4)];
    central.media.announce(session_id(), tracks.map(|(kind, _)| track(0, kind)).to_vec());
    for (kind, priority) in tracks {
        delegate.media.subscribe(session_id(), track(0, kind), priority);
    }
    central.until("subscription", |event| matches!(event, Event::Wanted { wanted: true, .. }).then_some(())).await;
    central.until("subscription", |event| matches!(event, Event::Wanted { wanted: true, .. }).then_some(())).await;
    let (heard, _) = listen(delegate.events);
    Pair { central, delegate: delegate.media, heard, relay }
}

impl Pair {
    async fn talk(&self, first_seq: u64, offer: Offer) -> Published {
        let published = Published::default();
        talk(self.central.media.clone(), Arc::clone(&self.central.kept), 0, first_seq, offer, Arc::clone(&published))
            .await;
        published
    }

    /// Waits for the sound of the last group.
    async fn sound_is_whole(&self, groups: std::ops::Range<u64>) {
        let whole = |seq| self.heard.lock().expect("no panic").whole.contains(&(TrackKind::Audio, seq));
        eventually("the sound of every group is whole", || groups.clone().all(whole)).await;
    }

    fn sheds(&mut self) -> BTreeSet<u64> {
        self.told().0
    }

    /// What central was told since it was asked last: pictures' groups that were given up, and how long each question
    /// on the control stream waited for its answer.
    fn told(&mut self) -> (BTreeSet<u64>, Vec<Duration>) {
        let (mut sheds, mut answered) = (BTreeSet::new(), Vec::new());
        while let Ok(event) = self.central.events.try_recv() {
            match event {
                Event::Shed { track, seq, .. } => {
                    assert_ne!(track.kind(), TrackKind::Audio, "sound is never given up");
                    sheds.insert(seq);
                }
                Event::Clock { sent, received, .. } => answered.push(Duration::from_micros(received - sent)),
                _ => {}
            }
        }
        (sheds, answered)
    }

    /// Talks for some time; all sound must arrive. How late it was, sorted.
    async fn all_sound_of(&self, time: Duration) -> Vec<Duration> {
        let published = self.talk(0, Offer::picture(1_000_000, 4, time)).await;
        self.sound_is_whole(0..time.as_secs() / 2).await;
        let late = self.heard.lock().expect("no panic").late(&published, TrackKind::Audio);
        assert_eq!(late.len() as u64, 50 * time.as_secs(), "every sound packet arrived");
        let [p50, p95, p99, max] = [50, 95, 99, 100].map(|percent| percentile(&late, percent));
        println!("sound p50 {p50:?} p95 {p95:?} p99 {p99:?} max {max:?}");
        late
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_percent_loss_costs_no_sound_and_little_time() {
    let _alone = ALONE.lock().await;
    let time = Duration::from_secs(12);
    let pair = pair(path(20, 2.0, None), path(20, 2.0, None), 11).await;
    let published = pair.talk(0, Offer::picture(1_200_000, 4, time)).await;
    pair.sound_is_whole(0..6).await;
    let heard = pair.heard.lock().expect("no panic");
    let late = heard.late(&published, TrackKind::Audio);
    assert_eq!(late.len(), 600, "every sound packet arrived");
    let p99 = percentile(&late, 99);
    println!("2 % loss: sound p50 {:?} p95 {:?} p99 {p99:?}", percentile(&late, 50), percentile(&late, 95));
    assert!(p99 < Duration::from_millis(120), "p99 {p99:?}");
    assert!(pair.relay.counters().down.link.lost.packets > 0, "the line did lose packets");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_percent_loss_costs_no_sound() {
    let _alone = ALONE.lock().await;
    let mut pair = pair(path(20, 5.0, None), path(20, 5.0, None), 15).await;
    let late = pair.all_sound_of(Duration::from_secs(10)).await;
    assert!(percentile(&late, 95) < Duration::from_millis(150), "p95 {:?}", percentile(&late, 95));
    assert!(pair.relay.counters().down.link.lost.packets > 20, "the line did lose packets");
    println!("5 % loss: pictures' groups shed: {:?}", pair.sheds());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outages_of_200_ms_and_packets_that_overtake_each_other_cost_no_sound() {
    let _alone = ALONE.lock().await;
    let line = link::Config {
        loss: Loss::Bursts { share: Share::percent(4.0), mean: Duration::from_millis(200) },
        jitter: Duration::from_millis(10),
        reorder: Share::percent(3.0),
        reorder_by: Duration::from_millis(40),
        ..path(20, 0.0, None)
    };
    let mut pair = pair(line.clone(), line, 16).await;
    let late = pair.all_sound_of(Duration::from_secs(12)).await;
    assert!(percentile(&late, 50) < Duration::from_millis(80), "between the outages it is on time");
    assert!(percentile(&late, 100) < Duration::from_secs(2), "and soon after them: {:?}", percentile(&late, 100));
    let down = pair.relay.counters().down.link;
    assert!(down.lost.packets > 0 && down.reordered > 0, "the line was bad: {down:?}");
    println!("outages: pictures' groups shed: {:?}", pair.sheds());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_longer_route_in_the_middle_costs_no_sound() {
    let _alone = ALONE.lock().await;
    let pair = pair(path(20, 0.0, None), path(20, 0.0, None), 17).await;
    let change = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        pair.relay.set_up(path(90, 0.0, None));
        pair.relay.set_down(path(90, 0.0, None));
    };
    let (late, ()) = tokio::join!(pair.all_sound_of(Duration::from_secs(10)), change);
    let [p10, p99] = [10, 99].map(|percent| percentile(&late, percent));
    assert!(p10 < Duration::from_millis(60) && p99 < Duration::from_millis(160), "first {p10:?}, then {p99:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_line_too_slow_the_picture_sheds_and_sound_and_control_stay_on_time() {
    let _alone = ALONE.lock().await;
    let time = Duration::from_secs(12);
    let mut pair = pair(path(20, 0.0, None), path(20, 0.0, slow(1_000_000)), 12).await;
    // 80 kb/s of low layer beside it, for whoever cannot have the picture.
    let offer = Offer { thumb: 1000, ..Offer::picture(1_500_000, 4, time) };
    pair.told();
    let published = pair.talk(0, offer).await;
    let (mut sheds, answered) = pair.told();
    println!("control answered within {answered:?}");
    assert!(answered.len() >= 10, "{answered:?}");
    assert!(answered.iter().all(|time| *time < Duration::from_millis(200)), "{answered:?}");
    pair.sound_is_whole(0..6).await;
    // The last group has no successor to give way to: it arrives, late.
    let missing = |pair: &Pair| {
        let heard = pair.heard.lock().expect("no panic");
        (0..6).filter(|seq| !heard.whole.contains(&(TrackKind::Main, *seq))).collect::<BTreeSet<u64>>()
    };
    // What is missing is what was given up, and the other way round.
    eventually("every hole is accounted for", || {
        sheds.append(&mut pair.sheds());
        missing(&pair) == sheds
    })
    .await;
    let missing = missing(&pair);
    let late = pair.heard.lock().expect("no panic").late(&published, TrackKind::Audio);
    let p99 = percentile(&late, 99);
    println!(
        "1 Mb/s offered 1.5: sound p50 {:?} p95 {:?} p99 {p99:?}; {} of 6 pictures' groups shed",
        percentile(&late, 50),
        percentile(&late, 95),
        sheds.len()
    );
    assert_eq!(late.len(), 600, "every sound packet arrived");
    assert!(p99 < Duration::from_millis(300), "p99 {p99:?}");
    assert!(!sheds.is_empty(), "the line cannot carry the picture");
    let low =
        (0..6).filter(|seq| pair.heard.lock().expect("no panic").whole.contains(&(TrackKind::Thumb, *seq))).count();
    assert!(low >= 3, "the low layer takes the picture's place: {low} of 6 groups");
    // The session is over, so copies have the line.
    for kind in [TrackKind::Audio, TrackKind::Main] {
        pair.delegate.unsubscribe(session_id(), track(0, kind));
    }
    // Nothing is lost in the record: what was shed is fetched, equal byte for byte.
    let id = |seq| GroupId { session: session_id(), track: track(0, TrackKind::Main), seq };
    for seq in missing {
        let fetched = pair.delegate.fetch(key(0).id(), id(seq), seq, 1 << 20).await.expect("the line works");
        let [Fetched::Record(record)] = &fetched[..] else { panic!("group {seq}: {fetched:?}") };
        assert_eq!(record.bytes(), record_of(&pair.central.kept, id(seq)).bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyframe_ten_times_the_others_does_not_delay_sound() {
    let _alone = ALONE.lock().await;
    let time = Duration::from_secs(12);
    let mut pair = pair(path(20, 0.0, None), path(20, 0.0, slow(2_000_000)), 13).await;
    let published = pair.talk(0, Offer::picture(1_200_000, 10, time)).await;
    pair.sound_is_whole(0..6).await;
    let late = pair.heard.lock().expect("no panic").late(&published, TrackKind::Audio);
    let p95 = percentile(&late, 95);
    println!(
        "keyframe x10 on 2 Mb/s: sound p50 {:?} p95 {p95:?} p99 {:?}",
        percentile(&late, 50),
        percentile(&late, 99)
    );
    assert!(p95 < Duration::from_millis(60), "p95 {p95:?}");
    assert_eq!(pair.sheds(), BTreeSet::new(), "the gate stays shut on a line with room to spare");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_at_full_speed_are_not_felt_by_the_living() {
    let _alone = ALONE.lock().await;
    let time = Duration::from_secs(12);
    let pair = pair(path(20, 0.0, None), path(20, 0.0, slow(5_000_000)), 14).await;
    let before = pair.talk(0, Offer::picture(1_200_000, 4, time)).await;
    pair.sound_is_whole(0..6).await;
    let copying = tokio::spawn({
        let media = pair.delegate.clone();
        async move {
            for seq in (0..6).cycle() {
                let id = GroupId { session: session_id(), track: track(0, TrackKind::Main), seq };
                let fetched = media.fetch(key(0).id(), id, seq, 1 << 20).await.expect("the line works");
                let [Fetched::Record(record)] = &fetched[..] else { panic!("{fetched:?}") };
                COPIED.fetch_add(record.bytes().len(), Ordering::Relaxed);
            }
        }
    });
    let during = pair.talk(6, Offer::picture(1_200_000, 4, time)).await;
    pair.sound_is_whole(6..12).await;
    copying.abort();
    let heard = pair.heard.lock().expect("no panic");
    let p95 = |published| percentile(&heard.late(published, TrackKind::Audio), 95);
    let (before, during) = (p95(&before), p95(&during));
    println!("sound p95 without copies {before:?}, with {during:?}");
    assert!(during < before + Duration::from_millis(20), "p95 {before:?} without copies, {during:?} with");
    let copied = COPIED.load(Ordering::Relaxed);
    assert!(copied > 200_000, "copies made way, but went on: {copied} bytes");
}

static COPIED: AtomicUsize = AtomicUsize::new(0);
