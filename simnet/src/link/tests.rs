//! Each effect alone, on virtual time. The bounds of the statistics are some five deviations wide and the seeds are
//! fixed, so these tests say the same thing on every run and on every machine.

use super::*;

const MS: Duration = Duration::from_millis(1);
/// Bytes of a packet whenever the size does not matter: 10 kbit, so 10 ms at 1 Mb/s.
const LEN: usize = 1250;

fn link(config: Config) -> Link {
    Link::new(config, 1)
}

/// Offers `count` packets, one each `gap`, and returns when each was offered and what became of it.
fn offer(link: &mut Link, count: u32, gap: Duration) -> Vec<(Duration, Verdict)> {
    (0..count).map(|n| (gap * n, link.offer(gap * n, LEN))).collect()
}

/// How long each packet that arrived was on the way.
fn times(verdicts: &[(Duration, Verdict)]) -> Vec<Duration> {
    let time = |(now, verdict): &(Duration, Verdict)| match verdict {
        Verdict::Deliver { at, .. } => Some(*at - *now),
        Verdict::Drop(_) => None,
    };
    verdicts.iter().filter_map(time).collect()
}

fn lost(verdict: &Verdict) -> bool {
    *verdict == Verdict::Drop(Reason::Loss)
}

#[test]
fn a_line_without_faults_delivers_at_once() {
    let verdicts = offer(&mut link(Config::default()), 1000, MS);
    assert!(verdicts.iter().all(|(now, verdict)| *verdict == Verdict::Deliver { at: *now, again: None }));
}

#[test]
fn delay_is_the_same_for_every_packet() {
    let verdicts = offer(&mut link(Config { delay: 20 * MS, ..Config::default() }), 1000, MS);
    assert!(times(&verdicts).iter().all(|time| *time == 20 * MS));
}

#[test]
fn jitter_adds_up_to_its_bound_evenly_and_keeps_the_order() {
    let config = Config { delay: 20 * MS, jitter: 10 * MS, ..Config::default() };
    // Packets further apart than the jitter do not wait for one another.
    let verdicts = offer(&mut link(config.clone()), 10_000, 20 * MS);
    let times = times(&verdicts);
    assert!(times.iter().all(|time| (20 * MS..30 * MS).contains(time)));
    let mean = times.iter().sum::<Duration>() / 10_000;
    assert!((mean.as_micros().abs_diff(25_000)) < 150, "mean {mean:?}");

    let verdicts = offer(&mut link(config), 10_000, MS);
    let arrivals = verdicts.iter().map(|(_, verdict)| match verdict {
        Verdict::Deliver { at, .. } => *at,
        Verdict::Drop(reason) => panic!("dropped: {reason:?}"),
    });
    assert!(arrivals.is_sorted());
    assert!(
        verdicts.iter().all(|(now, verdict)| matches!(verdict, Verdict::Deliver { at, .. } if *at < *now + 30 * MS))
    );
}

#[test]
fn random_loss_takes_its_share_and_no_runs_beyond_chance() {
    let config = Config { loss: Loss::Random(Share::percent(2.0)), ..Config::default() };
    let mut link = link(config);
    let verdicts = offer(&mut link, 100_000, MS);
    let count = verdicts.iter().filter(|(_, verdict)| lost(verdict)).count();
    assert!((1_780..2_220).contains(&count), "{count}");
    assert_eq!(link.counters().lost.packets, count as u64);
    // After a loss the next is as likely as ever: 40 pairs in 100,000.
    let pairs = verdicts.windows(2).filter(|pair| pair.iter().all(|(_, verdict)| lost(verdict))).count();
    assert!((10..75).contains(&pairs), "{pairs}");
}

#[test]
fn all_and_none_are_certain() {
    for (share, expected) in [(Share::NONE, 0), (Share::ALL, 10_000)] {
        let mut link = link(Config { loss: Loss::Random(share), ..Config::default() });
        offer(&mut link, 10_000, MS);
        assert_eq!(link.counters().lost.packets, expected);
    }
}

#[test]
fn bursts_take_their_share_in_outages_of_their_length() {
    let share = Share::percent(5.0);
    for gap in [MS, 10 * MS] {
        let mut link = link(Config { loss: Loss::Bursts { share, mean: 200 * MS }, ..Config::default() });
        // 4,000 s: 1,000 outages of 200 ms, whatever the number of packets.
        let count = (Duration::from_secs(4_000).as_millis() / gap.as_millis()) as u32;
        let verdicts = offer(&mut link, count, gap);
        let gone = verdicts.iter().filter(|(_, verdict)| lost(verdict)).count();
        let share = gone as f64 / f64::from(count);
        assert!((0.041..0.059).contains(&share), "gap {gap:?}: share {share}");
        let outages = verdicts.windows(2).filter(|pair| !lost(&pair[0].1) && lost(&pair[1].1)).count();
        let mean = gap * gone as u32 / outages as u32;
        assert!((165 * MS..240 * MS).contains(&mean), "gap {gap:?}: {outages} outages of {mean:?}");
    }
}

#[test]
fn an_outage_is_forgotten_after_a_long_silence() {
    let loss = Loss::Bursts { share: Share::percent(50.0), mean: 100 * MS };
    let mut link = link(Config { loss, ..Config::default() });
    let verdicts = offer(&mut link, 10_000, Duration::from_secs(3600));
    let same = verdicts.windows(2).filter(|pair| lost(&pair[0].1) == lost(&pair[1].1)).count();
    assert!((4_750..5_250).contains(&same), "{same}");
}

#[test]
fn reordering_holds_its_share_back_and_lets_later_ones_overtake() {
    let config = Config { reorder: Share::percent(10.0), reorder_by: 5 * MS, delay: 20 * MS, ..Config::default() };
    let mut link = link(config);
    let verdicts = offer(&mut link, 10_000, MS);
    let times = times(&verdicts);
    let held = times.iter().filter(|time| **time == 25 * MS).count();
    assert!((850..1_150).contains(&held), "{held}");
    assert_eq!(link.counters().reordered, held as u64);
    assert_eq!(times.iter().filter(|time| **time == 20 * MS).count(), 10_000 - held);
}

#[test]
fn duplicates_are_its_share_and_follow_the_original() {
    let mut link = link(Config { duplicate: Share::percent(10.0), delay: MS, jitter: MS, ..Config::default() });
    let verdicts = offer(&mut link, 10_000, 2 * MS);
    let copies: Vec<_> = verdicts
        .iter()
        .filter_map(|(_, verdict)| match verdict {
            Verdict::Deliver { at, again } => again.map(|again| again.checked_sub(*at)),
            Verdict::Drop(_) => None,
        })
        .collect();
    assert!((850..1_150).contains(&copies.len()), "{}", copies.len());
    assert!(copies.iter().all(|behind| behind.is_some_and(|behind| behind < MS)));
    assert_eq!(link.counters().duplicated, copies.len() as u64);
}

#[test]
fn a_rate_spaces_packets_and_its_queue_is_bounded() {
    for queue in [Queue::Time(100 * MS), Queue::Bytes(10 * LEN as u64)] {
        let mut link = link(Config { delay: MS, rate: Some(Rate::new(1_000_000, queue)), ..Config::default() });
        // All at once: what the line is sending, ten that wait, and no more.
        let verdicts: Vec<_> = (0..100).map(|_| link.offer(Duration::ZERO, LEN)).collect();
        let fit = match queue {
            Queue::Time(_) => 11,
            Queue::Bytes(_) => 10,
        };
        for (n, verdict) in verdicts.iter().enumerate() {
            let expected = match n < fit {
                true => Verdict::Deliver { at: MS + 10 * MS * (n as u32 + 1), again: None },
                false => Verdict::Drop(Reason::Queue),
            };
            assert_eq!(*verdict, expected, "packet {n}, {queue:?}");
        }
        assert_eq!(link.counters().overflowed.packets, 100 - fit as u64);
        // Half the queue later there is room for half the packets.
        let verdicts: Vec<_> = (0..100).map(|_| link.offer(50 * MS, LEN)).collect();
        assert_eq!(times(&verdicts.into_iter().map(|verdict| (50 * MS, verdict)).collect::<Vec<_>>()).len(), 5);
    }
}

#[test]
fn a_line_offered_more_than_it_carries_delivers_its_rate_a_queue_late() {
    let rate = Rate::new(1_000_000, Queue::Time(300 * MS));
    let mut link = link(Config { rate: Some(rate), ..Config::default() });
    // 1.5 Mb/s for 100 s.
    let verdicts = offer(&mut link, 15_000, Duration::from_micros(6_667));
    let carried = link.counters().accepted.bytes * 8;
    assert!((100_000_000..100_500_000).contains(&carried), "{carried}");
    let late = &times(&verdicts)[1_000..];
    assert!(late.iter().all(|time| (280 * MS..=310 * MS).contains(time)));
}

#[test]
fn a_line_with_room_adds_only_the_time_of_the_packet() {
    let rate = Rate::new(1_000_000, Queue::Time(Duration::ZERO));
    let mut link = link(Config { rate: Some(rate), ..Config::default() });
    let verdicts = offer(&mut link, 1_000, 10 * MS);
    assert!(times(&verdicts).iter().all(|time| *time == 10 * MS));
    assert_eq!(link.counters().overflowed, Tally::default());
}

#[test]
fn what_is_lost_has_used_the_line() {
    let rate = Some(Rate::new(1_000_000, Queue::Time(Duration::from_secs(10))));
    let mut link = link(Config { rate, loss: Loss::Random(Share::percent(50.0)), ..Config::default() });
    let last = (0..100).filter_map(|_| match link.offer(Duration::ZERO, LEN) {
        Verdict::Deliver { at, .. } => Some(at),
        Verdict::Drop(_) => None,
    });
    assert!(last.max().is_some_and(|at| at > 900 * MS));
}

#[test]
fn a_cut_line_delivers_what_it_had_and_nothing_more() {
    let open = Config { delay: 20 * MS, ..Config::default() };
    let mut link = link(open.clone());
    assert_eq!(link.offer(Duration::ZERO, LEN), Verdict::Deliver { at: 20 * MS, again: None });
    link.set(Config { cut: true, ..open.clone() });
    assert_eq!(link.offer(MS, LEN), Verdict::Drop(Reason::Cut));
    link.set(open);
    assert_eq!(link.offer(2 * MS, LEN), Verdict::Deliver { at: 22 * MS, again: None });
    assert_eq!(link.counters().cut, Tally { packets: 1, bytes: LEN as u64 });
}

#[test]
fn a_line_that_gets_faster_keeps_the_order() {
    let rate = Rate::new(1_000_000, Queue::Time(Duration::from_secs(1)));
    let mut link = link(Config { delay: 20 * MS, rate: Some(rate), ..Config::default() });
    let mut arrivals: Vec<_> = (0..10).map(|_| link.offer(Duration::ZERO, LEN)).collect();
    link.set(Config::default());
    arrivals.extend((0..10).map(|_| link.offer(Duration::ZERO, LEN)));
    let arrivals = times(&arrivals.into_iter().map(|verdict| (Duration::ZERO, verdict)).collect::<Vec<_>>());
    assert_eq!(arrivals.len(), 20);
    assert!(arrivals.is_sorted(), "{arrivals:?}");
}

/// A line with everything wrong at once.
fn bad() -> Config {
    Config {
        delay: 20 * MS,
        jitter: 15 * MS,
        loss: Loss::Bursts { share: Share::percent(5.0), mean: 50 * MS },
        reorder: Share::percent(3.0),
        reorder_by: 8 * MS,
        duplicate: Share::percent(1.0),
        rate: Some(Rate::new(8_000_000, Queue::Time(40 * MS))),
        cut: false,
    }
}

#[test]
fn the_same_seed_gives_the_same_verdicts_and_another_seed_others() {
    let run = |seed| offer(&mut Link::new(bad(), seed), 10_000, MS);
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn every_packet_is_counted_once() {
    let mut link = Link::new(bad(), 3);
    offer(&mut link, 10_000, MS);
    link.set(Config { cut: true, ..bad() });
    offer(&mut link, 100, MS);
    let Counters { offered, accepted, cut, overflowed, lost, .. } = link.counters();
    assert!(accepted.packets > 0 && overflowed.packets > 0 && lost.packets > 0);
    assert_eq!(cut.packets, 100);
    assert_eq!(offered.packets, accepted.packets + cut.packets + overflowed.packets + lost.packets);
    assert_eq!(offered.bytes, accepted.bytes + cut.bytes + overflowed.bytes + lost.bytes);
}

#[test]
fn changing_one_effect_leaves_the_dice_of_the_others() {
    let loss = Loss::Random(Share::percent(10.0));
    let gone = |config: Config| -> Vec<bool> {
        offer(&mut link(config), 1_000, MS).iter().map(|(_, verdict)| lost(verdict)).collect()
    };
    let plain = gone(Config { loss: loss.clone(), ..Config::default() });
    assert_eq!(plain, gone(Config { loss, jitter: 30 * MS, duplicate: Share::percent(20.0), ..Config::default() }));
}

#[test]
fn time_that_runs_backwards_stands_still() {
    let mut link = link(Config { delay: MS, ..Config::default() });
    link.offer(10 * MS, LEN);
    assert_eq!(link.offer(5 * MS, LEN), Verdict::Deliver { at: 11 * MS, again: None });
}

#[test]
#[should_panic(expected = "does not exist")]
fn a_share_beyond_the_whole_is_a_mistake() {
    let _ = Share::percent(101.0);
}
