//! What was acknowledged survives SIGKILL at any moment.
//!
//! A child process (this program again) opens an archive, stores groups, journal entries and reservations, and says on
//! stdout what was acknowledged, after each. It is killed at a random moment, round after round in the same folder,
//! and everything it said must be there, byte for byte, in an archive that opens for reading and for writing again.
//! This program has no test harness around it, because it must be able to be that child.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use store::{
    archive::Archive,
    id::{GroupId, Hash, PointNumber, SessionId, TrackId, TrackKind},
    journal::{Chain, Event},
    keys::{NodeKey, SessionKey},
    record::{Flags, Record, Writer},
    seal::{Sealer, Start, Suite},
};

const ROUNDS: u64 = 40;

/// Latest kill after the child began. Opening takes a few tens of milliseconds, so some kills fall into it.
const LIFE_MAX: Duration = Duration::from_millis(250);

fn main() {
    match std::env::args().skip_while(|arg| arg != "--store-into").nth(1) {
        Some(dir) => store_until_killed(Path::new(&dir)),
        None => kill_and_look(),
    }
}

fn session() -> SessionId {
    SessionId::from_parts(1_700_000_000_000, [9; 10])
}

fn central() -> NodeKey {
    NodeKey::from_bytes(&[5; 32])
}

fn tracks() -> [TrackId; 2] {
    let point = PointNumber::new(1).expect("one is a point's number");
    [TrackKind::Audio, TrackKind::Main].map(|kind| TrackId::new(point, kind))
}

/// A group like a real one: sound of a few kilobytes, or a picture of up to 200.
fn record(track: TrackId, seq: u64) -> Record {
    let key = SessionKey::from_bytes(&[7; 32]);
    let sealer = Sealer::new(&key, Suite::default(), session(), central().id(), track, 0, Start::random());
    let (mut writer, _) = Writer::new(sealer, seq, seq * 2_000_000);
    let (frames, len) = if track.kind() == TrackKind::Audio { (50, 80) } else { (10, 200 + 2000 * (seq % 10)) };
    for dt in 0..frames {
        writer.frame(dt, Flags::default(), &vec![dt as u8; len as usize]).expect("the group stays within its limits");
    }
    writer.finish().record
}

/// The child. Every line it writes is a promise.
fn store_until_killed(dir: &Path) {
    let archive = Archive::open(dir).expect("the archive opens");
    let entries = archive.journal(&session(), 0).expect("the journal is read");
    let mut chain = Chain::verify(session(), central().id(), entries).expect("the journal is whole");
    let mut out = std::io::stdout().lock();
    let mut say = |line: String| {
        writeln!(out, "{line}").and_then(|()| out.flush()).expect("the parent reads");
    };
    say("open".into());
    loop {
        let seqs = archive.reserve_seqs(&session(), 0, 4).expect("numbers are reserved");
        say(format!("reserved {} {}", seqs.start, seqs.end));
        for seq in seqs {
            let groups = tracks().map(|track| record(track, seq));
            archive.put_groups(&groups).expect("groups are stored");
            groups.iter().for_each(|group| say(format!("group {} {seq} {}", group.id().track, group.hash())));
        }
        let entry = chain.append(&central(), 0, 0, Event::Resumed {});
        archive.append_journal(&entry).expect("the journal is continued");
        say(format!("journal {} {}", chain.len(), chain.last()));
    }
}

/// What the children promised so far.
#[derive(Default)]
struct Promises {
    groups: BTreeMap<GroupId, Hash>,
    reserved: u64,
    journal: Option<(u64, Hash)>,
}

impl Promises {
    fn hear(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["open"] => {}
            ["reserved", from, to] => {
                let from: u64 = from.parse().expect("a number");
                assert!(from >= self.reserved, "number {from} was given twice");
                self.reserved = to.parse().expect("a number");
            }
            ["group", track, seq, hash] => {
                let track = track.parse().expect("a track");
                let id = GroupId { session: session(), track, seq: seq.parse().expect("a number") };
                let known = self.groups.insert(id, hash.parse().expect("a hash"));
                assert!(known.is_none(), "group {id} was made twice");
            }
            ["journal", len, last] => {
                self.journal = Some((len.parse().expect("a number"), last.parse().expect("a hash")));
            }
            _ => panic!("the child said {line:?}"),
        }
    }

    /// Compares the archive with what was promised; groups from `from` on are read.
    fn check(&self, archive: &Archive, from: u64) {
        for (id, hash) in self.groups.iter().filter(|(id, _)| id.seq >= from) {
            let record = archive.get(id).unwrap_or_else(|error| panic!("promised, but {error}"));
            assert_eq!(record.hash(), *hash, "group {id}");
        }
        for track in tracks() {
            let have = archive.have(&session(), track).expect("the inventory is read");
            let lost = self.groups.keys().find(|id| id.track == track && !have.contains(id.seq));
            assert_eq!(lost, None, "the inventory lacks a promised group");
            // And it promises nothing itself that is not there.
            have.runs().flatten().filter(|seq| *seq >= from).for_each(|seq| {
                archive.get(&GroupId { session: session(), track, seq }).expect("what the inventory lists is there");
            });
        }
        assert!(archive.reserved(&session()).expect("the reservation is read") >= self.reserved);
        let entries = archive.journal(&session(), 0).expect("the journal is read");
        if let Some((len, last)) = self.journal {
            assert!(entries.len() as u64 >= len, "the journal lost entries");
            let chain = Chain::verify(session(), central().id(), entries.iter().take(len as usize).cloned());
            assert_eq!(chain.expect("the journal is whole").last(), last);
        }
    }
}

/// The parent.
fn kill_and_look() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for the archive");
    let home = dir.path().join("archive");
    let mut promises = Promises::default();
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let began = Instant::now();
    for round in 0..ROUNDS {
        let from = promises.reserved;
        let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
            .arg("--store-into")
            .arg(&home)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the child starts");
        // xorshift: a different moment in each round, the same ones in each run.
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let life = Duration::from_micros(dice % LIFE_MAX.as_micros() as u64);
        kill_after(&mut child, life, |line| promises.hear(line));
        if home.join("media").join("CURRENT").is_file() && home.join("meta").join("CURRENT").is_file() && round % 4 == 1
        {
            promises.check(&Archive::open_read_only(&home).expect("it opens for reading"), from);
        }
        promises.check(&Archive::open(&home).expect("it opens again"), from);
    }
    promises.check(&Archive::open(&home).expect("it opens again"), 0);
    let groups = promises.groups.len();
    assert!(groups as u64 >= ROUNDS, "only {groups} groups were stored: the kills came too early to say anything");
    println!("{ROUNDS} kills in {:.1?}: {groups} groups acknowledged, none lost", began.elapsed());
}

/// Lets the child live for a while, hears all it said, and sees that it was the kill that ended it.
fn kill_after(child: &mut Child, life: Duration, mut hear: impl FnMut(&str)) {
    let stdout = child.stdout.take().expect("stdout is a pipe");
    let lines = std::thread::scope(|scope| {
        let reader = scope.spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).collect::<Vec<_>>());
        std::thread::sleep(life);
        child.kill().expect("the child is killed");
        reader.join().expect("the reader ends with the pipe")
    });
    let status = child.wait().expect("the child is gone");
    assert!(status.code().is_none(), "the child ended by itself: {status}");
    lines.iter().for_each(|line| hear(line));
}
