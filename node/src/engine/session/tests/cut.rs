//! A point whose line is cut for long: in virtual time, with the record as it would travel.

use super::*;

/// Bytes of a group of each kind: 1.2 Mb/s of picture and a microphone, two seconds.
const PICTURE: u64 = 300_000;
const SOUND: u64 = 13_000;

/// A point that makes a group of each kind every two seconds, and whose line carries copies beside the living.
struct Recording {
    world: World,
    session: SessionId,
    /// Groups made so far, of each kind.
    made: u64,
    /// Groups of it that central has stored.
    stored: BTreeSet<(TrackId, u64)>,
    /// Bytes a second left for copies, and how many of them the line has carried of the answer under way.
    spare: u64,
    carried: u64,
    /// Fetches carried out.
    fetched: usize,
}

impl Recording {
    fn new(spare: u64) -> Self {
        let (world, session) = World::in_session();
        Self { world, session, made: 0, stored: BTreeSet::new(), spare, carried: 0, fetched: 0 }
    }

    fn tracks() -> [TrackId; 2] {
        [track(2, TrackKind::Audio), track(2, TrackKind::Main)]
    }

    fn store(&mut self, track: TrackId, seq: u64) {
        self.stored.insert((track, seq));
        self.world.tell(1, Input::Stored(GroupId { session: self.session, track, seq }));
    }

    /// Two seconds: groups are made, those before them arrive if the line is there, and copies as it can carry them.
    fn step(&mut self, live: bool) {
        assert!(self.world.nodes[&2].publishing.is_some(), "a room goes on recording");
        if live {
            for track in Self::tracks() {
                let seq = self.made;
                self.world.tell(1, Input::Began(GroupId { session: self.session, track, seq }));
                self.store(track, seq);
            }
        }
        self.made += 1;
        self.carried += 2 * self.spare;
        while live && let Some(&(session, origin, track, from, to)) = self.world.nodes[&1].fetches.get(self.fetched) {
            let each = if track.kind() == TrackKind::Main { PICTURE } else { SOUND };
            // An answer ends at its limit of bytes; what did not come is asked for again.
            let count = ((4 << 20) / each).min(to - from + 1);
            let Some(left) = self.carried.checked_sub(count * each) else { break };
            self.carried = left;
            assert_eq!((session, origin), (self.session, id(2)));
            assert!(to < self.made, "what is not made yet is not asked for");
            (from..from + count).for_each(|seq| self.store(track, seq));
            self.fetched += 1;
            self.world.tell(1, Input::Fetched { session, origin, missing: Some(vec![]) });
            self.world.settle();
        }
        if self.fetched == self.world.nodes[&1].fetches.len() {
            // A line that nobody uses saves nothing up.
            self.carried = 0;
        }
        self.world.pass(2 * SECOND);
    }

    fn missing(&self) -> Vec<u64> {
        let all = |track| (0..self.made).filter(move |seq| !self.stored.contains(&(track, *seq)));
        Self::tracks().into_iter().flat_map(all).collect()
    }
}

#[test]
fn ten_minutes_without_a_line_are_at_central_as_soon_as_the_line_can_carry_them() {
    let mut recording = Recording::new(1_000_000);
    (0..5).for_each(|_| recording.step(true));
    recording.world.set_cut(1, 2, true);
    (0..300).for_each(|_| recording.step(false));
    assert_eq!(recording.missing().len(), 600);
    recording.world.set_cut(1, 2, false);
    let mut steps = 0;
    while steps == 0 || !recording.missing().is_empty() {
        recording.step(true);
        steps += 1;
        assert!(steps < 200, "{} groups are missing after {} s", recording.missing().len(), 2 * steps);
    }
    // 94 MB at 1 MB/s, and the pauses between one answer and the next question.
    println!("600 groups of ten minutes are there {} s after the line", 2 * steps);
    assert!(2 * steps <= 150, "{} s", 2 * steps);
    recording.world.pass(60 * SECOND);

    let mut told = BTreeSet::new();
    for event in recording.world.journal(1) {
        match event {
            Event::Gap { track, from_seq, to_seq, reason } => {
                assert_eq!(reason, GapReason::Lost);
                told.extend((from_seq..=to_seq).map(|seq| (track, seq)));
            }
            Event::Repaired { track, from_seq, to_seq } => {
                (from_seq..=to_seq).for_each(|seq| assert!(told.remove(&(track, seq)), "{track} {seq} was a gap"));
            }
            _ => {}
        }
    }
    assert!(told.is_empty(), "every gap is told repaired: {told:?}");
    assert_eq!(recording.fetched, recording.world.nodes[&1].fetches.len(), "nothing is asked for twice");
}
