//! Crowds at the door of a central that holds a session: nobody in it hears anything of them.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use node::control::Stats;
use store::id::TrackKind;
use store::journal::Event;
use tests::crowd::{self, Attempt, attempts, flood};
use tests::office::{Kept, Office, Point, SOON, alone};
use tests::program::until;

/// What a process has used so far: seconds of the processor, and memory in use in kilobytes.
fn used(point: &Point) -> (f64, u64) {
    let stat = fs::read_to_string(format!("/proc/{}/stat", point.pid())).expect("it runs");
    // After the name, which may hold anything, in ticks of a hundredth of a second (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name in brackets").1.split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
    let status = fs::read_to_string(format!("/proc/{}/status", point.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it uses memory");
    (ticks as f64 / 100.0, line.trim().trim_end_matches(" kB").parse().expect("a number"))
}

fn counters(point: &Point, plane: &str) -> [u64; 3] {
    let counters = point.status().counters.0;
    ["entered", "asked", "ignored"].map(|what| counters.get(&format!("{plane}_knocks_{what}")).copied().unwrap_or(0))
}

/// Lets `attack` happen to a session and says what it cost its central.
fn under<T>(what: &str, office: &Office, plane: &str, attack: impl FnOnce() -> T) -> T {
    let central = &office.points[0];
    let (before, knocks) = (used(central), counters(central, plane));
    let result = attack();
    let (after, later) = (used(central), counters(central, plane));
    let [entered, asked, ignored] = [0, 1, 2].map(|at| later[at] - knocks[at]);
    println!(
        "{what}: {entered} handshakes begun, {asked} asked for proof, {ignored} passed over; {:.1} s of the processor, \
         {} kB more memory",
        after.0 - before.0,
        after.1.saturating_sub(before.1)
    );
    assert!(after.1 < before.1 + 64 * 1024, "memory grew from {} to {} kB", before.1, after.1);
    result
}

/// The sound of the whole session is in central's record without a hole, and was heard at the other point as it went.
fn nothing_was_lost(office: &Office, kept: &Kept, stats: &[Stats]) {
    assert_eq!(kept.unexplained(), []);
    assert!(!kept.journal.iter().any(|entry| matches!(entry.event, Event::Left { .. } | Event::Gap { .. })));
    for point in [1, 2] {
        let times = kept.times(point, TrackKind::Audio);
        let apart = times.windows(2).map(|pair| pair[1] - pair[0]).max().expect("there was sound");
        assert!(apart < 21_000, "{apart} microseconds of sound of point {point} are missing");
        println!("point {point}: {} sound frames in a row", times.len());
    }
    for (point, stats) in office.points.iter().zip(stats) {
        for shown in &stats.shown {
            println!(
                "{} heard {} of {} sound frames of {}",
                point.name, shown.audio_frames, shown.audio_expected, shown.from
            );
            assert_eq!(shown.audio_frames, shown.audio_expected, "{} heard less of {}", point.name, shown.from);
        }
    }
}

#[test]
fn ten_thousand_handshakes_in_ten_seconds_cost_no_sound() {
    let on_media = attempts(10_000, b"diemcau-live/1");
    let on_mesh = attempts(10_000, b"libp2p");
    let _machine = alone();
    let mut office = Office::new(&["Trung tâm", "Xã Kim Thành"]);
    office.run();
    let session = office.points[0].start_session("Tiếp công dân").id;
    office.points[0].wait_for_all(&session);
    office.points[0].wait_for_groups(4);
    let own = office.points[0].status().own;
    let [media, mesh] = [own.media_port, own.mesh_port].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let in_ten_seconds = |to, attempts: &[Attempt]| {
        let flood = flood(to, attempts, Duration::from_secs(10));
        assert!(flood.took < Duration::from_secs(12), "the flood was too slow: {flood:?}");
        println!("{flood:?}");
    };

    under("nobody, for as long", &office, "media", || office.points[0].wait_for_groups(20));
    under("10,000 at the media plane", &office, "media", || in_ten_seconds(media, &on_media));
    under("10,000 at the mesh", &office, "mesh", || in_ten_seconds(mesh, &on_mesh));
    under("10,000 at the mesh over TCP", &office, "mesh", || {
        // The first words of libp2p, without what should follow.
        let taken = crowd::connections(mesh, 10_000, b"\x13/multistream/1.0.0\n\x07/noise\n", Duration::from_secs(10));
        println!("{taken} connections were taken by the kernel");
    });
    office.points[0].end_session();
    let stats: Vec<_> = office.points.iter().map(Point::stats).collect();
    let kept_by = |office: &Office| office.points[0].kept(&session);

    // Who belongs here comes back in the middle of it.
    let second = office.points[0].start_session("Phiên thứ hai").id;
    office.points[0].wait_for_all(&second);
    let crowd = thread::spawn(move || flood(media, &on_media, Duration::from_secs(10)));
    office.points[1].kill();
    office.points[1].run(&["--port", "0", "--peer", &mesh.to_string()]);
    until("the point is in the session again", SOON, || {
        office.points[1].status().session.filter(|running| running.id == second)
    });
    office.points[0].wait_for_all(&second);
    println!("back in the session, {} the flood", if crowd.is_finished() { "after" } else { "during" });
    crowd.join().expect("loopback takes it");
    office.points[0].end_session();
    office.stop();
    nothing_was_lost(&office, &kept_by(&office), &stats);
}
