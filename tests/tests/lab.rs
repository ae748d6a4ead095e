//! Real nodes on a network of offices: lines that break, lines too narrow, routers that hide whom they serve.
//!
//! Each test lays a lab of its own (`simnet::lab`), runs each point on a host of it, and judges from outside: what
//! `status` says, what the rooms were shown, what lies in the archives. Where no lab can be laid they are skipped and say
//! why.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use node::control::Shown;
use serde_json::Value;
use simnet::lab::nat::Kind;
use simnet::lab::{self, Lab, trial};
use simnet::link::{self, Queue, Rate};
use store::id::TrackKind;
use store::journal::{Event, LeftReason};
use tests::office::{Kept, Office, Point, SOON, alone};
use tests::program::{Call, until};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// Sound frames a second.
const SOUNDS: f64 = 50.0;
/// Pictures a second.
const PICTURES: f64 = 30.0;

/// A line that is dead is noticed within seven seconds; the rest is for asking on a busy machine.
const GONE_WITHIN: Duration = Duration::from_secs(8);

/// A line as offices have: so long one way.
fn line(delay: Duration) -> link::Config {
    link::Config { delay, jitter: 2 * MS, ..link::Config::default() }
}

fn office(nat: Option<Kind>) -> lab::Office {
    lab::Office { nat, up: line(8 * MS), down: line(8 * MS), ..lab::Office::default() }
}

/// Points, each in an office of its own, the first of them central and public. They run, and have met.
fn stand(offices: &[(&str, lab::Office)]) -> (Lab, Office) {
    let (names, sites): (Vec<_>, Vec<_>) = offices.iter().cloned().unzip();
    let lab = Lab::lay(1, &sites).expect("it was possible a moment ago");
    let mut points = Office::new(&names);
    let central = format!("{}:7400", lab.host(0).address());
    for (at, point) in points.points.iter_mut().enumerate() {
        let peer: &[_] = if at == 0 { &[] } else { &["--peer", &central] };
        point.start(Call::on(lab.host(at), ["run"].iter().chain(peer)));
    }
    points.wait_until_met();
    (lab, points)
}

/// What `at` has been shown of `from` up to now: pictures and sounds.
fn shown(office: &Office, at: usize, from: usize) -> (u64, u64) {
    let of = |shown: &Shown| shown.from == office.points[from].name;
    let stats = office.points[at].stats();
    stats.shown.iter().find(|shown| of(shown)).map_or((0, 0), |shown| (shown.video_frames, shown.audio_frames))
}

fn pairs(office: &Office) -> Vec<(usize, usize)> {
    let points = 0..office.points.len();
    points.clone().flat_map(|at| points.clone().map(move |from| (at, from))).filter(|(at, from)| at != from).collect()
}

/// Fails unless from soon on, for `time`, every point is shown every other as it is.
fn all_see_and_hear(office: &Office, time: Duration) {
    for (at, from) in pairs(office) {
        until("every room has picture and sound of every other", SOON, || {
            let (pictures, sounds) = shown(office, at, from);
            (pictures > 0 && sounds > 0).then_some(())
        });
    }
    let look = |(at, from)| (Instant::now(), shown(office, at, from));
    let before: Vec<_> = pairs(office).into_iter().map(look).collect();
    thread::sleep(time);
    for ((at, from), (since, before)) in pairs(office).into_iter().zip(before) {
        let (now, after) = look((at, from));
        let seconds = (now - since).as_secs_f64();
        let pictures = (after.0 - before.0) as f64;
        let sounds = (after.1 - before.1) as f64;
        let whom = format!("{} at {}", office.points[from].name, office.points[at].name);
        println!("{whom}: {pictures} pictures and {sounds} sounds in {seconds:.2} s");
        // What was early at the start of the time and late at its end is a fifth of a second at most.
        assert!(sounds >= SOUNDS * (seconds - 0.2), "{whom}: {sounds} sounds in {seconds:.2} s");
        assert!(pictures >= PICTURES * (seconds - 0.2) * 0.9, "{whom}: {pictures} pictures in {seconds:.2} s");
    }
}

/// Whether a point counts another as in the session.
fn has_in_session(at: &Point, name: &str) -> bool {
    at.status().session.is_some_and(|session| session.present.iter().any(|other| other == name))
}

/// How long after `since` a point says that it cannot reach the other.
fn noticed(since: Instant, at: &Point, name: &str) -> Duration {
    until("a point says that another is out of reach", SOON, || (!at.sees(name)).then(|| since.elapsed()))
}

/// Fails unless the sound of a point is there from its first moment to its last, every 20 ms.
fn sound_must_be_whole(kept: &Kept, point: u16, at_least: Duration) {
    let times = kept.times(point, TrackKind::Audio);
    let length = Duration::from_micros(times.last().expect("it was heard") - times[0]);
    assert!(length >= at_least, "point {point} was recorded for {length:?}");
    let hole = times.windows(2).find(|pair| pair[1] - pair[0] > 40_000);
    assert_eq!(hole, None, "the sound of point {point} has a hole");
}

/// Fails unless central has all that every point kept, and nothing is missing.
fn record_must_be_whole(office: &Office, session: &str) -> Kept {
    let central = office.points[0].kept(session);
    for point in &office.points[1..] {
        central.must_have(&point.kept(session), &point.name);
    }
    assert_eq!(central.unexplained(), []);
    let whose: BTreeSet<_> = central.groups.keys().map(|id| id.track.point().get()).collect();
    assert_eq!(whose, (1..=office.points.len() as u16).collect(), "central has groups of all");
    central
}

#[test]
fn points_on_one_network_find_each_other_without_being_told_where() {
    trial("lab::points_on_one_network_find_each_other_without_being_told_where", || {
        let _machine = alone();
        let site = lab::Office { hosts: 2, ..office(Some(Kind::SYMMETRIC)) };
        // Whoever else runs the lab has offices with the same addresses: those must not be found.
        let lab = Lab::lay(1, &[site.clone(), site]).expect("it was possible a moment ago");
        let mut office = Office::new(&["Trung tâm", "Xã Kim Thành"]);
        for (host, point) in lab.hosts(0).zip(&mut office.points) {
            point.start(Call::on(host, ["run"]));
        }
        let [central, delegate] = &office.points[..] else { unreachable!("two were set up") };
        until("each sees the other", SOON, || {
            (central.sees(&delegate.name) && delegate.sees(&central.name)).then_some(())
        });
        let points = central.status().points;
        let found = points.iter().find(|point| point.name == delegate.name).expect("it is online");
        let address = lab.hosts(0).nth(1).expect("two hosts").address().to_string();
        assert!(found.addresses.iter().any(|found| found.contains(&address)), "{found:?}");
        // Sound and picture find their way as well.
        let session = central.start_session("Không cần cấu hình").id;
        central.wait_for_all(&session);
        central.wait_for_groups(6);
        central.end_session();
        office.stop();
        let kept = office.points[0].kept(&session);
        assert!(kept.groups.keys().any(|id| id.track.point().get() == 2), "central has groups of the other");
        assert_eq!(lab.counters(0).up.offered.packets, 0, "nothing left the office");
    });
}

#[test]
fn offices_behind_every_kind_of_router_meet_through_central() {
    trial("lab::offices_behind_every_kind_of_router_meet_through_central", || {
        let _machine = alone();
        let behind = Kind::USUAL.map(|(name, kind)| (name, office(Some(kind))));
        let sites: Vec<_> = [("Trung tâm", office(None))].into_iter().chain(behind).collect();
        let (lab, mut office) = stand(&sites);
        let session = office.points[0].start_session("Tiếp công dân").id;
        office.points[0].wait_for_all(&session);
        all_see_and_hear(&office, 6 * S);
        let ended = office.points[0].end_session();
        assert_eq!(ended.gaps, 0);
        office.stop();
        record_must_be_whole(&office, &session);
        for at in 1..office.points.len() {
            let counters = lab.counters(at);
            println!("{}: {counters:?}", office.points[at].name);
            assert!(counters.up.accepted.packets > 0 && counters.up.lost.packets == 0, "{counters:?}");
        }
    });
}

/// Longer than a connection outlives silence in the second case, so that everything is made anew.
#[test]
fn what_was_recorded_while_the_line_was_cut_is_at_central_soon_after() {
    trial("lab::what_was_recorded_while_the_line_was_cut_is_at_central_soon_after", || {
        let _machine = alone();
        let sites = [("Trung tâm", office(None)), ("Xã Kim Thành", office(Some(Kind::FULL_CONE)))];
        let (lab, mut office) = stand(&sites);
        let [central, delegate] = &office.points[..] else { unreachable!("two were set up") };
        let session = central.start_session("Đường truyền xấu").id;
        central.wait_for_all(&session);
        delegate.wait_for_groups(4);
        // Groups of the delegate that lie at central.
        let there = || {
            let shown: Value = Call::new(["archive", "show", &session, "--json"]).data(&central.data).json();
            let tracks = shown["tracks"].as_array().expect("tracks").iter();
            let its = tracks.filter(|track| track["point"] == *delegate.name);
            its.filter_map(|track| track["groups"].as_u64()).sum::<u64>()
        };
        for seconds in [1, 12] {
            let before = delegate.status().disk.groups;
            lab.cut(1, true);
            thread::sleep(Duration::from_secs(seconds));
            let made = delegate.status().disk.groups;
            assert!(made >= before + seconds.saturating_sub(4), "a room goes on recording: {before}, then {made}");
            lab.cut(1, false);
            let mended = Instant::now();
            until("all that was made before is at central", SOON, || (there() >= made).then_some(()));
            println!("cut for {seconds} s: {made} groups are at central {:.1} s after", mended.elapsed().as_secs_f64());
        }
        let ended = central.end_session();
        assert_eq!(ended.gaps, 0);
        office.stop();
        record_must_be_whole(&office, &session);
    });
}

#[test]
fn a_point_cut_off_for_40_s_is_seen_to_be_and_loses_nothing() {
    trial("lab::a_point_cut_off_for_40_s_is_seen_to_be_and_loses_nothing", || {
        let _machine = alone();
        let narrow = link::Config { rate: Some(Rate::new(5_000_000, Queue::Time(300 * MS))), ..line(8 * MS) };
        let cut_off = lab::Office { up: narrow, ..office(Some(Kind::PORT_RESTRICTED)) };
        let sites = [("Trung tâm", office(None)), ("Xã Kim Thành", cut_off), ("Phường Sa Đéc", office(None))];
        let (lab, mut office) = stand(&sites);
        let session = office.points[0].start_session("Họp giao ban").id;
        office.points[0].wait_for_all(&session);
        office.points[0].wait_for_groups(8);

        lab.cut(1, true);
        let cut = Instant::now();
        let [central, point, other] = &office.points[..] else { unreachable!("three were set up") };
        let quiet = "nothing heard for two seconds point=\"Xã Kim Thành\"";
        until("central misses it", SOON, || central.log().contains(quiet).then_some(()));
        println!("central missed it after {:?}", cut.elapsed());
        assert!(cut.elapsed() < 4 * S, "{:?}", cut.elapsed());
        let by_central = noticed(cut, central, &point.name);
        let by_itself = noticed(cut, point, &central.name);
        println!("central said that it is gone after {by_central:?}, it said that it is alone after {by_itself:?}");
        assert!(by_central < GONE_WITHIN && by_itself < GONE_WITHIN, "{by_central:?}, {by_itself:?}");
        until("it is no more in the session", SOON, || (!has_in_session(central, &point.name)).then_some(()));
        assert!(has_in_session(central, &other.name) && central.sees(&other.name), "the others go on");
        thread::sleep((40 * S).saturating_sub(cut.elapsed()));
        lab.cut(1, false);
        let back = Instant::now();
        let is_back = || has_in_session(central, &point.name) && central.sees(&point.name);
        until("it is in the session again by itself", 2 * SOON, || is_back().then_some(()));
        println!("it was back after {:?}", back.elapsed());

        // What it kept meanwhile goes up the same narrow line as what it says now.
        let copied = || central.session(&session).journal.iter().any(|line| line.event.contains("came after all"));
        let mut before = (Instant::now(), shown(&office, 0, 1).1);
        let mut rates = Vec::new();
        until("some of what it kept meanwhile is at central", SOON, || {
            thread::sleep(S);
            let (now, sounds) = (Instant::now(), shown(&office, 0, 1).1);
            rates.push((sounds - before.1) as f64 / (now - before.0).as_secs_f64());
            before = (now, sounds);
            copied().then_some(())
        });
        println!("sounds in each second after {:?}: {rates:.1?}", back.elapsed());
        // The first is still of what had waited while the line came back.
        let worst = rates[1..].iter().copied().fold(f64::INFINITY, f64::min);
        assert!(rates.len() > 2 && worst >= SOUNDS * 0.9, "the sound suffered: {rates:.1?} a second");

        let ending = Instant::now();
        let ended = central.end_session();
        println!("the rest came within {:?}, {} groups are missing", ending.elapsed(), ended.gaps);
        assert_eq!(ended.gaps, 0);
        office.stop();
        let central = record_must_be_whole(&office, &session);
        for point in 1..=3 {
            sound_must_be_whole(&central, point, 45 * S);
        }
        let has = |is: &dyn Fn(&Event) -> bool| central.journal.iter().any(|entry| is(&entry.event));
        assert!(has(&|event| matches!(event, Event::Left { point, reason: LeftReason::Lost } if point.get() == 2)));
        for kind in [TrackKind::Main, TrackKind::Audio] {
            let of = |track: store::id::TrackId| track.point().get() == 2 && track.kind() == kind;
            assert!(has(&|event| matches!(event, Event::Gap { track, .. } if of(*track))), "the gap of {kind}");
            assert!(has(&|event| matches!(event, Event::Repaired { track, .. } if of(*track))), "its repair");
        }
        let left = central.journal.iter().filter(|entry| matches!(entry.event, Event::Left { .. })).count();
        assert_eq!(left, 1, "nobody else was lost: {:?}", central.journal);
    });
}

/// Fails unless within a time every room has had picture and sound of every other at their full rate for two seconds on end.
fn all_come_back(office: &Office, within: Duration) {
    let rate = |(at, from): (usize, usize)| (Instant::now(), shown(office, at, from));
    until("every room sees and hears every other again as before", within, || {
        let before: Vec<_> = pairs(office).into_iter().map(rate).collect();
        thread::sleep(2 * S);
        let whole = pairs(office).into_iter().zip(before).all(|(pair, (since, before))| {
            let (now, after) = rate(pair);
            let seconds = (now - since).as_secs_f64() - 0.2;
            (after.0 - before.0) as f64 >= PICTURES * seconds * 0.9 && (after.1 - before.1) as f64 >= SOUNDS * seconds
        });
        whole.then_some(())
    });
}

#[test]
fn a_session_outlives_the_line_of_its_central() {
    trial("lab::a_session_outlives_the_line_of_its_central", || {
        let _machine = alone();
        let sites = [
            ("Trung tâm", office(None)),
            ("Xã Kim Thành", office(Some(Kind::SYMMETRIC))),
            ("Phường Sa Đéc", office(Some(Kind::ADDRESS_RESTRICTED))),
        ];
        let (lab, mut office) = stand(&sites);
        let session = office.points[0].start_session("Họp giao ban").id;
        office.points[0].wait_for_all(&session);
        office.points[0].wait_for_groups(6);
        lab.cut(0, true);
        let cut = Instant::now();
        let [central, points @ ..] = &office.points[..] else { unreachable!("three were set up") };
        let noticed: Vec<_> = points.iter().map(|point| noticed(cut, point, &central.name)).collect();
        println!("they said so after {noticed:?}");
        assert!(noticed.iter().all(|noticed| *noticed < GONE_WITHIN), "{noticed:?}");
        for point in points {
            until("central is alone", SOON, || (!has_in_session(central, &point.name)).then_some(()));
        }
        // They go on keeping what happens in their rooms.
        office.points[1].wait_for_groups(2);
        lab.cut(0, false);
        let back = Instant::now();
        office.points[0].wait_for_all(&session);
        println!("all were back after {:?}", back.elapsed());
        all_come_back(&office, SOON);
        println!("and as before after {:?}", back.elapsed());
        let ended = office.points[0].end_session();
        assert_eq!(ended.gaps, 0);
        office.stop();
        let central = record_must_be_whole(&office, &session);
        for point in 1..=3 {
            sound_must_be_whole(&central, point, 10 * S);
        }
    });
}
