//! Whether a recording is what was recorded: everything that can be checked, each thing that is wrong in one sentence.
//!
//! What is looked at may lie in an archive or in an exported folder: [`Exhibit`]. Nothing of it is believed; who signed what
//! is compared with the session's head, and the head with what central signed in the journal. Without keys it is shown that
//! every group is the one its point signed, and that none is missing that nobody accounts for. With the session's key it is
//! shown too that each group says what its point meant it to say.
//!
//! **What is wrong and what is merely so.** A [`Finding`] is something an honest and whole recording cannot have. A note is
//! what a reader must know: a gap that the journal names is one, because it is a part of the truth.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bytes::Bytes;

use crate::{
    id::{GroupId, Hash, NodeId, PointNumber, SessionId, TrackId},
    journal::{self, Entry, GapReason},
    keys,
    record::Record,
    roster::Membership,
    seal::{self, Opener},
    segment::{self, Absence, Segment},
    session::{Head, Member, State},
    signed::Signed,
};

mod account;
mod manifest;

use account::Account;

/// What is to be looked at. What cannot be read is told in a sentence that says where.
pub trait Exhibit {
    /// The session's head.
    fn head(&self) -> Result<Bytes, String>;

    /// What the exporting node knew of its mesh; `None` if it is not there.
    fn roster(&self) -> Result<Option<Bytes>, String>;

    /// The journal's entries from the first on, each or why it cannot be read.
    fn journal(&self) -> Box<dyn Iterator<Item = Result<Bytes, String>> + '_>;

    /// The segments of a point from the first on, each or why it cannot be read.
    fn segments(&self, point: PointNumber) -> Box<dyn Iterator<Item = Result<Bytes, String>> + '_>;

    /// The manifests from the first on, each or why it cannot be read.
    fn manifests(&self) -> Box<dyn Iterator<Item = Result<Bytes, String>> + '_>;

    /// The countersignatures of the manifests, each or why it cannot be read.
    fn countersigned(&self) -> Box<dyn Iterator<Item = Result<Bytes, String>> + '_>;

    /// The groups that are there, by track and number.
    fn groups(&self) -> Result<BTreeSet<(TrackId, u64)>, String>;

    /// The bytes of a group.
    fn group(&self, id: &GroupId) -> Result<Bytes, String>;

    /// What there is beside, that belongs to no recording.
    fn strangers(&self) -> Vec<String>;
}

/// How to look.
#[derive(Debug, Default)]
pub struct Options<'a> {
    /// What opens the groups, if it is at hand.
    pub opener: Option<&'a Opener>,
    /// The authority that must have signed the roster.
    pub authority: Option<NodeId>,
    /// Look only at what this point signed: at a point that is not central there is nothing else.
    pub only: Option<PointNumber>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where.
    pub place: String,
    /// What.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The session.
    pub session: Option<SessionId>,
    /// What it is called.
    pub title: String,
    /// Who signed the roster that names its points.
    pub authority: Option<NodeId>,
    /// Journal entries that are good.
    pub entries: u64,
    /// Segments that are good.
    pub segments: u64,
    /// Number of the manifest, if there is a good one.
    pub manifest: Option<u32>,
    /// Groups that are what their point signed.
    pub groups: u64,
    /// Those of them that were opened and say what their point meant.
    pub opened: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

impl Report {
    fn find(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.findings.push(Finding { place: place.into(), what: what.into() });
    }
}

/// Looks at everything. `progress` is told how many groups were looked at, and of how many.
pub fn verify(exhibit: &dyn Exhibit, options: &Options<'_>, progress: &mut dyn FnMut(u64, u64)) -> Report {
    let mut report = Report::default();
    let read = exhibit.head().and_then(|bytes| {
        let head = Head::decode(&bytes).map_err(|error| sentence(&error))?;
        Ok((head, bytes))
    });
    let (head, bytes) = match read {
        Ok(read) => read,
        Err(what) => {
            report.find("head", what);
            return report;
        }
    };
    report.session = Some(head.id);
    report.title.clone_from(&head.title);
    if head.started_unix_ms != head.id.unix_ms() {
        report.find("head", "says another start than the session's id");
    }
    exhibit.strangers().into_iter().for_each(|what| report.find(what, "does not belong to a recording"));
    roster(exhibit, options, &head, &mut report);
    let mut account = Account::default();
    if options.only.is_none() {
        journal_of(exhibit, &head, &mut account, &mut report);
    }
    let members = head.points.iter().filter(|member| options.only.is_none_or(|only| only == member.number));
    for member in members {
        segments_of(exhibit, &head, member, &mut account, &mut report);
    }
    manifest::manifest_of(exhibit, options, &head, &bytes, &account, &mut report);
    groups_of(exhibit, options, &head, &account, &mut report, progress);
    report
}

fn roster(exhibit: &dyn Exhibit, options: &Options<'_>, head: &Head, report: &mut Report) {
    let membership = match exhibit.roster() {
        Ok(Some(bytes)) => Membership::decode(bytes).map_err(|error| sentence(&error)),
        Ok(None) => Err("is not there: nobody vouches for the points' keys".to_owned()),
        Err(what) => Err(what),
    };
    let membership = match membership {
        Ok(membership) => membership,
        Err(what) => return report.find("roster", what),
    };
    report.authority = Some(membership.authority());
    if let Some(authority) = options.authority.filter(|authority| *authority != membership.authority()) {
        report.find("roster", format!("is signed by {}, and not by {authority}", membership.authority()));
    }
    for member in &head.points {
        let known = membership.point(&member.node).is_some() || membership.revoked(&member.node).is_some();
        if !known {
            let what = format!("{} ({}) is no point of this mesh", member.name, member.node);
            report.find("roster", what);
        }
    }
}

fn journal_of(exhibit: &dyn Exhibit, head: &Head, account: &mut Account, report: &mut Report) {
    let mut chain = journal::Chain::new(head.id, head.central);
    for bytes in exhibit.journal() {
        let n = chain.len();
        let read = bytes.and_then(|bytes| {
            let entry = Signed::<Entry>::parse(bytes).map_err(|error| sentence(&error))?;
            chain.accept(&entry).map_err(|error| sentence(&error))?;
            Ok(entry)
        });
        match read {
            Ok(entry) => {
                account.journal.push(entry.hash());
                if let Err(what) = account.hear(head, entry.content()) {
                    report.find(format!("journal entry {n}"), what);
                }
            }
            Err(what) => {
                report.find(format!("journal entry {n}"), format!("{what}; what follows cannot be believed"));
                account.broken = true;
                break;
            }
        }
    }
    report.entries = chain.len();
    if chain.is_empty() && !account.broken {
        report.find("journal", "is not there: central keeps it");
        account.broken = true;
    }
    if account.broken {
        return;
    }
    match (head.state, account.ended) {
        (State::Ended, false) => report.find("journal", "the session has ended, and its end is not in the journal"),
        (State::Open, true) => report.find("head", "says the session goes on, and the journal that it has ended"),
        (State::Ended, true) | (State::Open, false) => {}
    }
    if account.epochs < head.epochs.len() {
        report.find("head", "names a key that is not in the journal");
    }
    if head.state == State::Open {
        report.notes.push("the session has not ended: what was recorded last may not be signed yet".into());
    }
}

fn segments_of(exhibit: &dyn Exhibit, head: &Head, member: &Member, account: &mut Account, report: &mut Report) {
    let mut chain = segment::Chain::new(head.id, member.number, member.node);
    let mut broken = false;
    for bytes in exhibit.segments(member.number) {
        let place = format!("segment {} of {}", chain.len(), member.name);
        let read = bytes.and_then(|bytes| {
            let segment = Signed::<Segment>::parse(bytes).map_err(|error| sentence(&error))?;
            chain.accept(&segment).map_err(|error| sentence(&error))?;
            Ok(segment)
        });
        match read {
            Ok(segment) => {
                for key in &segment.content().keys {
                    if head.commitment(key.epoch) != Some(&key.commitment) {
                        report.find(&place, format!("names another key of epoch {} than the head", key.epoch));
                    }
                }
                account.list(segment.content());
                account.chains.entry(member.number).or_default().push(segment.hash());
            }
            Err(what) => {
                report.find(place, format!("{what}; what follows cannot be believed"));
                broken = true;
                break;
            }
        }
    }
    report.segments += u64::from(chain.len());
    for (track, gap) in account.take_gaps() {
        let why = match gap.reason {
            Absence::NotStored => "were not stored at their point",
            Absence::Lost => "were lost from their point's disk",
            Absence::Damaged => "were damaged on their point's disk",
        };
        report.notes.push(format!("{}, {}: {} {why}", member.name, track.kind(), span(gap.from, gap.to)));
    }
    if broken {
        account.unfinished.insert(member.number);
    } else if !chain.is_closed() {
        account.unfinished.insert(member.number);
        let place = format!("segments of {}", member.name);
        let took_part = account.took_part(head, member) || !chain.is_empty();
        match (head.state, head.was_removed(member.number), took_part) {
            (State::Open, ..) => {}
            (State::Ended, _, false) => report.notes.push(format!("{} did not take part", member.name)),
            (State::Ended, true, true) => {
                let removed = "was removed: what it recorded last is not signed off, and counts as far as it is signed";
                report.notes.push(format!("{} {removed}", member.name));
            }
            (State::Ended, false, true) => report.find(
                place,
                format!("the last of them is missing: {} are here, and none says that it is the last", chain.len()),
            ),
        }
    }
}

fn groups_of(
    exhibit: &dyn Exhibit,
    options: &Options<'_>,
    head: &Head,
    account: &Account,
    report: &mut Report,
    progress: &mut dyn FnMut(u64, u64),
) {
    let here = match exhibit.groups() {
        Ok(here) => here,
        Err(what) => return report.find("groups", what),
    };
    let total = account.signed.len() as u64;
    for (done, (&(track, seq), group)) in (0..).zip(&account.signed) {
        progress(done, total);
        let id = GroupId { session: head.id, track, seq };
        if !here.contains(&(track, seq)) {
            match account.gap(track, seq) {
                Some(reason) => {
                    let why = told(reason);
                    report
                        .notes
                        .push(format!("{}: group {seq} is not here: {why}, as the journal says", who(head, track)));
                }
                None if account.broken => {
                    report.find(place(head, track, seq), "is not here, and there is no journal that says why");
                }
                None => {
                    report.find(place(head, track, seq), "is not here, and the journal does not say that it is missing")
                }
            }
            continue;
        }
        let looked = exhibit.group(&id).and_then(|bytes| look(bytes, head, &id, group, options.opener));
        match looked {
            Ok(opened) => {
                report.groups += 1;
                report.opened += u64::from(opened);
            }
            Err(what) => report.find(place(head, track, seq), what),
        }
    }
    progress(total, total);
    let mut cut_off: BTreeMap<TrackId, u64> = BTreeMap::new();
    for &(track, seq) in here.iter().filter(|group| !account.signed.contains_key(group)) {
        if options.only.is_some_and(|only| only != track.point()) {
            continue;
        }
        let unsigned = seq >= account.next_of(track);
        let waits = unsigned && head.state == State::Open && !account.broken;
        if unsigned && head.was_removed(track.point()) {
            *cut_off.entry(track).or_default() += 1;
            continue;
        }
        let what = match (unsigned, account.unfinished.contains(&track.point())) {
            _ if waits => continue,
            (true, true) => "is signed by nobody: the segments that are here end before it",
            (true, false) => "is signed by nobody: its point has signed that there is no such group",
            (false, _) => "is signed by nobody: its point has signed that it did not keep such a group",
        };
        report.find(place(head, track, seq), what);
    }
    for (track, count) in cut_off {
        report
            .notes
            .push(format!("{}: {count} groups from before the point was removed are not signed", who(head, track)));
    }
}

/// Compares one group with what its point signed; true if it was opened too.
fn look(
    bytes: Bytes,
    head: &Head,
    id: &GroupId,
    signed: &segment::Group,
    opener: Option<&Opener>,
) -> Result<bool, String> {
    if Hash::of(&bytes) != signed.hash {
        return Err("is not the group that its point signed: its bytes have another hash".into());
    }
    let record = Record::parse(bytes).map_err(|error| sentence(&error))?;
    if let Some(what) = signed.contradicts(&record) {
        return Err(format!("has {what} than its point signed"));
    }
    let node = head.member(id.track.point()).map(|member| member.node);
    if record.id() != *id || Some(record.header().point) != node {
        return Err("says that it is another group, or another point's".into());
    }
    let Some(opener) = opener else { return Ok(false) };
    match opener.mac(&record) {
        Ok(mac) if mac == signed.mac => Ok(true),
        Ok(_) => Err("opens to something else than its point signed for".into()),
        Err(seal::Error::Key { .. }) => Ok(false),
        Err(error) => Err(sentence(&error)),
    }
}

/// The keys with which `recipient` may open a session, as far as they were wrapped for it.
pub fn opener(
    head: &Head,
    wraps: &BTreeMap<keys::Epoch, keys::Wrap>,
    key: &keys::WrapKey,
    recipient: NodeId,
) -> Result<Option<Opener>, keys::Error> {
    let opened = head.open(wraps, key, recipient)?;
    let mut opener = Opener::new(head.id);
    let any = !opened.is_empty();
    opened.into_iter().for_each(|(epoch, key)| opener.insert(epoch, key));
    Ok(any.then_some(opener))
}

fn told(reason: GapReason) -> &'static str {
    match reason {
        GapReason::Lost => "the point could not be reached",
        GapReason::Shed => "the line was too slow",
        GapReason::NotMade => "it was never made",
        GapReason::LostAtSource => "its point has not got it either",
        GapReason::Damaged => "it was damaged",
        GapReason::NotStored => "central could not write it to its disk",
    }
}

fn who(head: &Head, track: TrackId) -> String {
    let name =
        head.member(track.point()).map_or_else(|| format!("point {}", track.point()), |member| member.name.clone());
    format!("{name}, {}", track.kind())
}

fn place(head: &Head, track: TrackId, seq: u64) -> String {
    format!("group {seq} of {track} ({})", who(head, track))
}

fn span(from: u64, to: u64) -> String {
    if from == to { format!("group {from}") } else { format!("groups {from} to {to}") }
}

/// An error with its causes, in one line.
pub fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
