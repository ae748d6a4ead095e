//! Puts the frames of one track in the order they must be decoded in, and decides what is not waited for.
//!
//! Each group travels on a stream of its own, so the beginning of one may arrive before the end of the one before.
//! Frames are given out group by group; a group that is behind is waited for only so long, because a room that stands
//! still is worse than one that misses a moment. Once a frame was given out, nothing before it ever is: that is the
//! promise that no picture is shown from before a later keyframe.
//!
//! When the decoder cannot keep up, pictures are left out up to the newest keyframe there is, and counted. Sound is not
//! left out; its limit is so high that only a decoder that hangs meets it.
//!
//! The part is pure: it holds frames and counts them, and knows time only as it is told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use store::record::SealedFrame;
use store::seal::GroupOpener;

/// What limits a track by its nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// How long a group that is behind holds up one that is there.
    pub(crate) patience: Duration,
    /// Frames waiting at most.
    pub(crate) frames_max: usize,
    /// Whether frames depend on the ones before them in their group.
    pub(crate) dependent: bool,
}

impl Rule {
    /// Sound: a second covers three losses in a row at a round trip of 300 ms; ten seconds may wait.
    pub(crate) const SOUND: Rule = Rule { patience: Duration::from_secs(1), frames_max: 500, dependent: false };

    /// Pictures wait less, since the next group begins with a whole one; two seconds may wait for the decoder.
    pub(crate) const PICTURE: Rule = Rule { patience: Duration::from_millis(500), frames_max: 60, dependent: true };
}

/// Groups kept at once: the open one, the one before it, and some that overtook.
const GROUPS_MAX: usize = 6;

/// What was counted of one track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// First group of which a frame was given out.
    pub(crate) first_seq: Option<u64>,
    /// Last group of which a frame was given out.
    pub(crate) last_seq: Option<u64>,
    /// Frames given out.
    pub(crate) given: u64,
    /// Frames that arrived and were not given out: too late, or too many.
    pub(crate) skipped: u64,
    /// Frames the origin made from the first group on, as far as ends told; for groups without one, as many as the
    /// last whole group had.
    pub(crate) made: u64,
}

/// One track in order.
#[derive(Debug)]
pub(crate) struct Order {
    rule: Rule,
    groups: BTreeMap<u64, Group>,
    /// Every group below is behind us.
    floor: Option<u64>,
    counts: Counts,
    /// Frames of the last whole group, for those that never end.
    usual: u32,
    waiting: usize,
}

#[derive(Debug)]
struct Group {
    opener: Arc<GroupOpener>,
    began: Instant,
    frames: VecDeque<SealedFrame>,
    arrived: u32,
    over: bool,
    /// Frames are no longer taken: one of them is missing.
    spoilt: bool,
}

impl Order {
    pub(crate) fn new(rule: Rule) -> Order {
        Order { rule, groups: BTreeMap::new(), floor: None, counts: Counts::default(), usual: 0, waiting: 0 }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// A group begins to arrive. False when it is of no use any more.
    pub(crate) fn begin(&mut self, now: Instant, seq: u64, opener: GroupOpener) -> bool {
        if self.floor.is_some_and(|floor| seq < floor) || self.groups.contains_key(&seq) {
            return false;
        }
        if self.groups.len() >= GROUPS_MAX {
            // Whoever is furthest behind holds up the rest.
            self.give_up_first();
        }
        let group = Group {
            opener: Arc::new(opener),
            began: now,
            frames: VecDeque::new(),
            arrived: 0,
            over: false,
            spoilt: false,
        };
        self.groups.insert(seq, group);
        true
    }

    /// The next frame of a group arrived.
    pub(crate) fn frame(&mut self, seq: u64, frame: SealedFrame) {
        let Some(group) = self.groups.get_mut(&seq) else {
            self.counts.skipped += 1;
            return;
        };
        group.arrived += 1;
        if group.spoilt {
            self.counts.skipped += 1;
            return;
        }
        group.frames.push_back(frame);
        self.waiting += 1;
        if self.waiting > self.rule.frames_max {
            self.shed();
        }
    }

    /// A group ended: as told by its end with so many frames, or early.
    pub(crate) fn over(&mut self, seq: u64, frames: Option<u32>) {
        if let Some(frames) = frames {
            self.usual = frames;
        }
        if let Some(group) = self.groups.get_mut(&seq)
            && !std::mem::replace(&mut group.over, true)
        {
            self.counts.made += u64::from(frames.unwrap_or(self.usual.max(group.arrived)));
        }
    }

    /// The next frame to decode, if there is one, and what opens it.
    pub(crate) fn take(&mut self, now: Instant) -> Option<(Arc<GroupOpener>, SealedFrame)> {
        let seq = loop {
            let (&seq, group) = self.groups.iter().next()?;
            let expected = self.floor.is_none_or(|floor| seq == floor);
            if !expected && now < group.began + self.rule.patience {
                return None;
            }
            if !group.frames.is_empty() {
                break seq;
            }
            if !group.over && !self.overdue(now, seq) {
                return None;
            }
            self.give_up_first();
        };
        // Groups whose turn never came were made all the same.
        if let Some(floor) = self.floor
            && seq > floor
        {
            self.counts.made = self.counts.made.saturating_add((seq - floor).saturating_mul(self.usual.into()));
        }
        self.floor = Some(seq);
        self.counts.first_seq.get_or_insert(seq);
        self.counts.last_seq = Some(seq);
        self.counts.given += 1;
        self.waiting -= 1;
        let group = self.groups.get_mut(&seq)?;
        let frame = group.frames.pop_front()?;
        Some((Arc::clone(&group.opener), frame))
    }

    /// When to look again though nothing arrived.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let patience = self.rule.patience;
        let mut groups = self.groups.iter();
        let (&seq, first) = groups.next()?;
        let own = self.floor.is_some_and(|floor| seq != floor).then(|| first.began + patience);
        if !first.frames.is_empty() || first.over {
            return own;
        }
        // It has nothing to give: only a later group that has waited long enough changes that.
        let next = groups.next().map(|(_, next)| next.began + patience)?;
        Some(own.map_or(next, |own| own.max(next)))
    }

    /// The rest of a group is of no use: a frame of it could not be decoded.
    pub(crate) fn spoil(&mut self, seq: u64) {
        if let Some(group) = self.groups.get_mut(&seq) {
            group.spoilt = true;
            self.counts.skipped += group.frames.len() as u64;
            self.waiting -= group.frames.len();
            group.frames.clear();
        }
    }

    /// Whether a later group has waited long enough for this one.
    fn overdue(&self, now: Instant, seq: u64) -> bool {
        let next = self.groups.range(seq + 1..).next();
        next.is_some_and(|(_, next)| now >= next.began + self.rule.patience)
    }

    /// Leaves the first group behind, with what of it was not given out.
    fn give_up_first(&mut self) {
        let Some((seq, group)) = self.groups.pop_first() else { return };
        self.waiting -= group.frames.len();
        self.counts.skipped += group.frames.len() as u64;
        if !group.over {
            self.counts.made += u64::from(self.usual.max(group.arrived));
        }
        self.floor = Some(seq.saturating_add(1));
    }

    /// Too much waits: go on at the newest group that has begun, or without the rest of this one.
    fn shed(&mut self) {
        if !self.rule.dependent {
            if let Some(group) = self.groups.values_mut().find(|group| !group.frames.is_empty()) {
                group.frames.pop_front();
                self.waiting -= 1;
                self.counts.skipped += 1;
            }
            return;
        }
        let newest = self.groups.iter().rev().find(|(_, group)| !group.frames.is_empty()).map(|(&seq, _)| seq);
        let Some(newest) = newest else { return };
        while self.groups.first_key_value().is_some_and(|(&seq, _)| seq < newest) {
            self.give_up_first();
        }
        if self.waiting > self.rule.frames_max / 2 {
            self.spoil(newest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use store::id::{NodeId, PointNumber, SessionId, TrackId, TrackKind};
    use store::keys::SessionKey;
    use store::record::{Flags, Record, Writer};
    use store::seal::{Opener, Sealer, Start, Suite};

    use super::*;

    /// Groups of one track, sealed and opened as in a session.
    struct Bench {
        order: Order,
        now: Instant,
        opener: Opener,
        sealer: Option<Sealer>,
    }

    fn bench(rule: Rule) -> Bench {
        let (session, key) = (SessionId::from_bytes([1; 16]), SessionKey::from_bytes(&[2; 32]));
        let track = TrackId::new(PointNumber::new(1).expect("a small number"), TrackKind::Main);
        let start = Start::from_bits(1);
        let node = NodeId::from_bytes([3; 32]);
        let sealer = Sealer::new(&key, Suite::default(), session, node, track, 0, start);
        let mut opener = Opener::new(session);
        opener.insert(0, key);
        Bench { order: Order::new(rule), now: Instant::now(), opener, sealer: Some(sealer) }
    }

    impl Bench {
        /// Makes group `seq` of `frames` frames, each of which holds its group and place.
        fn make(&mut self, seq: u64, frames: u8) -> Record {
            let sealer = self.sealer.take().expect("one group at a time");
            let (mut writer, _) = Writer::new(sealer, seq, seq * 2_000_000);
            for n in 0..frames {
                let flags = Flags { key: n == 0, discardable: false };
                writer.frame(u64::from(n), flags, &[seq as u8, n]).expect("a small frame");
            }
            let finished = writer.finish();
            self.sealer = Some(finished.sealer);
            finished.record
        }

        fn begin(&mut self, record: &Record) -> bool {
            let opener = self.opener.group(record.header()).expect("a key for it");
            self.order.begin(self.now, record.header().seq, opener)
        }

        /// A group that arrives at once and whole.
        fn arrive(&mut self, record: &Record) {
            self.begin(record);
            record.frames().for_each(|frame| self.order.frame(record.header().seq, frame));
            self.order.over(record.header().seq, Some(record.frame_count()));
        }

        /// Everything that can be decoded now, as (group, place).
        fn take(&mut self) -> Vec<(u8, u8)> {
            std::iter::from_fn(|| {
                let (opener, frame) = self.order.take(self.now)?;
                let plain: Bytes = opener.open(&frame).expect("a frame of this group");
                Some((plain[0], plain[1]))
            })
            .collect()
        }
    }

    #[test]
    fn frames_come_out_as_they_arrive_and_groups_one_after_the_other() {
        let mut bench = bench(Rule::SOUND);
        let (first, second) = (bench.make(5, 3), bench.make(6, 2));
        bench.begin(&first);
        let frames: Vec<_> = first.frames().collect();
        bench.order.frame(5, frames[0].clone());
        assert_eq!(bench.take(), [(5, 0)], "a newcomer does not wait for anything");
        bench.arrive(&second);
        assert_eq!(bench.take(), [], "the group before it is still open");
        bench.order.frame(5, frames[1].clone());
        bench.order.frame(5, frames[2].clone());
        bench.order.over(5, Some(3));
        assert_eq!(bench.take(), [(5, 1), (5, 2), (6, 0), (6, 1)]);
        let counts = Counts { first_seq: Some(5), last_seq: Some(6), given: 5, skipped: 0, made: 5 };
        assert_eq!(bench.order.counts(), counts);
    }

    #[test]
    fn a_group_that_is_behind_is_waited_for_and_then_left_behind_for_good() {
        let mut bench = bench(Rule::PICTURE);
        let groups: Vec<_> = (0..4).map(|seq| bench.make(seq, 2)).collect();
        bench.arrive(&groups[0]);
        assert_eq!(bench.take().len(), 2);
        bench.arrive(&groups[2]);
        assert_eq!(bench.take(), []);
        assert_eq!(bench.order.deadline(), Some(bench.now + Rule::PICTURE.patience));
        bench.now += Rule::PICTURE.patience;
        assert_eq!(bench.take(), [(2, 0), (2, 1)]);
        assert!(!bench.begin(&groups[1]), "nothing is shown from before a later keyframe");
        groups[1].frames().for_each(|frame| bench.order.frame(1, frame));
        assert_eq!(bench.take(), []);
        bench.arrive(&groups[3]);
        assert_eq!(bench.take(), [(3, 0), (3, 1)]);
        assert_eq!((bench.order.counts().made, bench.order.counts().given), (8, 6), "the lost group was made too");
    }

    #[test]
    fn sound_that_comes_within_a_second_is_never_lost() {
        let mut bench = bench(Rule::SOUND);
        let groups: Vec<_> = (0..3).map(|seq| bench.make(seq, 2)).collect();
        bench.arrive(&groups[0]);
        bench.take();
        bench.arrive(&groups[2]);
        bench.now += Duration::from_millis(999);
        assert_eq!(bench.take(), []);
        bench.arrive(&groups[1]);
        assert_eq!(bench.take(), [(1, 0), (1, 1), (2, 0), (2, 1)]);
    }

    #[test]
    fn a_moment_to_look_again_at_is_one_that_changes_something() {
        for later in [&[2][..], &[3, 2]] {
            let mut bench = bench(Rule::PICTURE);
            let groups: Vec<_> = (0..4).map(|seq| bench.make(seq, 2)).collect();
            bench.arrive(&groups[0]);
            assert_eq!(bench.take().len(), 2);
            for &seq in later {
                bench.begin(&groups[seq]);
                bench.now += Duration::from_millis(100);
            }
            for _ in 0..10 {
                assert_eq!(bench.take(), [], "none has a frame");
                let Some(at) = bench.order.deadline() else { break };
                assert!(at > bench.now, "{later:?}: it would be looked again at once, and again");
                bench.now = at;
            }
        }
    }

    #[test]
    fn a_group_that_stops_in_the_middle_holds_up_the_next_no_longer_than_allowed() {
        let mut bench = bench(Rule::PICTURE);
        let (first, second) = (bench.make(0, 3), bench.make(1, 1));
        bench.begin(&first);
        bench.order.frame(0, first.frames().next().expect("three frames"));
        assert_eq!(bench.take(), [(0, 0)]);
        bench.arrive(&second);
        bench.now += Rule::PICTURE.patience;
        assert_eq!(bench.take(), [(1, 0)]);
        bench.order.frame(0, first.frames().nth(1).expect("three frames"));
        assert_eq!(bench.take(), []);
        assert_eq!(bench.order.counts().skipped, 1);
    }

    #[test]
    fn a_slow_decoder_goes_on_at_the_newest_keyframe() {
        let mut bench = bench(Rule::PICTURE);
        let groups: Vec<_> = (0..3).map(|seq| bench.make(seq, 25)).collect();
        groups.iter().for_each(|group| bench.arrive(group));
        let taken = bench.take();
        assert_eq!(taken[0], (2, 0));
        assert!(taken.iter().all(|(seq, _)| *seq == 2));
        let counts = bench.order.counts();
        assert_eq!(counts.given + counts.skipped, 75);
    }

    #[test]
    fn pictures_of_an_endless_group_are_given_up_until_the_next_keyframe() {
        let mut bench = bench(Rule::PICTURE);
        let (first, second) = (bench.make(0, 100), bench.make(1, 2));
        bench.arrive(&first);
        assert!(bench.take().is_empty());
        bench.arrive(&second);
        assert_eq!(bench.take(), [(1, 0), (1, 1)]);
    }

    #[test]
    fn sound_is_left_out_only_beyond_ten_seconds_and_the_oldest_first() {
        let mut bench = bench(Rule::SOUND);
        let groups: Vec<_> = (0..6).map(|seq| bench.make(seq, 100)).collect();
        groups.iter().for_each(|group| bench.arrive(group));
        let taken = bench.take();
        assert_eq!((taken.len(), taken[0]), (500, (1, 0)));
        assert_eq!(bench.order.counts().skipped, 100);
    }

    #[test]
    fn however_many_groups_begin_memory_is_bounded() {
        let mut bench = bench(Rule::SOUND);
        for seq in 0..200 {
            let group = bench.make(seq, 1);
            bench.begin(&group);
        }
        assert!(bench.order.groups.len() <= GROUPS_MAX);
    }

    #[test]
    fn after_a_frame_that_cannot_be_opened_the_rest_of_its_group_is_skipped() {
        let mut bench = bench(Rule::PICTURE);
        let (first, second) = (bench.make(0, 5), bench.make(1, 1));
        bench.arrive(&first);
        assert!(bench.order.take(bench.now).is_some());
        bench.order.spoil(0);
        bench.arrive(&second);
        assert_eq!(bench.take(), [(1, 0)]);
    }
}
