//! What must have been seen and kept: a reference as simple as the rules themselves, told everything the points did.

use std::collections::{BTreeMap, BTreeSet};

use simnet::host::HostId;
use store::id::{GroupId, Hash, SessionId};
use store::journal::{Event, GapReason};

use super::mesh::Fact;

/// What is known of a world.
#[derive(Debug, Default)]
pub struct Model {
    /// Every group ever recorded, and its bytes.
    pub made: BTreeMap<GroupId, Hash>,
    /// What each point acknowledged and nothing has harmed since.
    pub kept: BTreeMap<HostId, BTreeMap<GroupId, Hash>>,
    /// What was ever acknowledged, by its origin or by central, and somebody may know of. A power cut may take what was not, and
    /// a lost disk what nobody else ever saw.
    pub acknowledged: BTreeSet<GroupId>,
    /// What was harmed, and where.
    pub harmed: BTreeSet<(HostId, GroupId)>,
    /// The sessions that began, and their central.
    pub sessions: BTreeMap<SessionId, HostId>,
    /// What each journal says is missing at this moment.
    pub gaps: BTreeMap<SessionId, BTreeSet<GroupId>>,
    /// Sessions whose central has said so itself that they are over.
    pub ended: BTreeSet<SessionId>,
    /// Sessions whose central lost its disk, or their groups after their end: nobody can close or mend them as yet.
    pub orphaned: BTreeSet<SessionId>,
    /// Points that once lost everything they knew. What they sign after it begins anew and looks forked.
    pub fresh: BTreeSet<HostId>,
    /// Session time of the last entry of each journal, in microseconds.
    times: BTreeMap<SessionId, u64>,
    /// How many of each thing happened.
    pub counts: BTreeMap<&'static str, u64>,
}

/// A rule that was broken, by its name, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The rule.
    pub rule: &'static str,
    /// How.
    pub how: String,
}

fn broken(rule: &'static str, how: String) -> Result<(), Broken> {
    Err(Broken { rule, how })
}

impl Model {
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// A point did something. The rules that speak of single deeds are looked at here.
    pub(super) fn hear(&mut self, host: HostId, fact: Fact) -> Result<(), Broken> {
        match fact {
            Fact::Made(group, hash) => {
                self.count("groups recorded");
                if let Some(before) = self.made.insert(group, hash)
                    && before != hash
                {
                    return broken("numbers-once", format!("{host} recorded {group} twice, and not the same"));
                }
            }
            Fact::Kept(group, hash) => {
                if self.made.get(&group) != Some(&hash) {
                    return broken("as-recorded", format!("{host} stored a {group} that nobody recorded"));
                }
                self.acknowledged.insert(group);
                self.kept.entry(host).or_default().insert(group, hash);
            }
            Fact::Harmed(group) => {
                self.count("groups harmed");
                if let Some(kept) = self.kept.get_mut(&host) {
                    kept.remove(&group);
                }
                self.harmed.insert((host, group));
            }
            Fact::HarmedAll => {
                self.count("disks emptied");
                self.kept.remove(&host);
            }
            Fact::Journal(session, at, event) => {
                let last = self.times.entry(session).or_default();
                if at < *last {
                    return broken("time-rises", format!("{session}: an entry of {at} us follows one of {last} us"));
                }
                *last = at;
                return self.journal(host, session, event);
            }
            Fact::NotWritten => self.count("heads or entries not written"),
            Fact::Told(Ok(_)) => self.count("orders carried out"),
            Fact::Told(Err(_)) => self.count("orders refused"),
            Fact::Booted => self.count("starts"),
            Fact::Signed => self.count("signatures asked for"),
            Fact::Closed => self.count("manifests drawn"),
            // One that was out of reach when central signed has signed more meanwhile, and is asked again.
            Fact::Objected(session, point, why)
                if !self.fresh.contains(&point) && !why.starts_with("the manifest ends with segment") =>
            {
                return broken("countersigns", format!("{point} does not countersign {session} of {host}: {why}"));
            }
            Fact::Objected(..) => self.count("manifests not countersigned"),
        }
        Ok(())
    }

    /// A point has lost even the knowledge of what it had.
    pub(super) fn disk_lost(&mut self, host: HostId, kept: BTreeMap<GroupId, Hash>) {
        self.fresh.insert(host);
        let theirs = self.sessions.iter().filter(|(_, central)| **central == host).map(|(session, _)| *session);
        let chaired: BTreeSet<SessionId> = theirs.collect();
        kept.into_keys().filter(|group| !chaired.contains(&group.session)).for_each(|group| {
            self.acknowledged.remove(&group);
        });
    }

    fn journal(&mut self, host: HostId, session: SessionId, event: Event) -> Result<(), Broken> {
        self.count("journal entries");
        match event {
            Event::Started { .. } => {
                self.sessions.insert(session, host);
            }
            Event::Ended { .. } => {
                if !self.ended.insert(session) {
                    return broken("ends-once", format!("{host} ended {session} twice"));
                }
            }
            Event::Gap { track, from_seq, to_seq, reason } => {
                self.count("gaps told");
                for seq in from_seq..=to_seq {
                    let group = GroupId { session, track, seq };
                    self.gaps.entry(session).or_default().insert(group);
                    if reason == GapReason::LostAtSource
                        && let Some(holder) = self.origin(host, group)
                    {
                        let how = format!("{host} says that {group} is lost at its source, and {holder} has it");
                        return broken("gap-true", how);
                    }
                }
            }
            Event::Repaired { track, from_seq, to_seq } => {
                self.count("gaps repaired");
                for seq in from_seq..=to_seq {
                    let group = GroupId { session, track, seq };
                    let kept = self.kept.get(&host).is_some_and(|kept| kept.contains_key(&group));
                    if !kept && !self.harmed.contains(&(host, group)) {
                        return broken("repair-true", format!("{host} says that {group} is here, and it is not"));
                    }
                    if !self.gaps.entry(session).or_default().remove(&group) {
                        return broken("repair-told", format!("{host} says that {group} is back that never was gone"));
                    }
                }
            }
            Event::Joined { .. } => self.count("points joined"),
            Event::Left { .. } => self.count("points left"),
            Event::Removed { .. } => self.count("points removed"),
            Event::Resumed {} => self.count("sessions resumed"),
            Event::Epoch { .. } | Event::Noted(_) => {}
            Event::Disputed { .. } | Event::Forked { .. } if self.fresh.is_empty() => {
                return broken("signs-once", format!("{host} says of honest points: {event:?}"));
            }
            Event::Disputed { .. } | Event::Forked { .. } => self.count("points that began anew and look forked"),
        }
        Ok(())
    }

    /// The origin of a group, if it is another point and has it.
    fn origin(&self, central: HostId, group: GroupId) -> Option<HostId> {
        let holders = self.kept.iter().filter(|(host, kept)| **host != central && kept.contains_key(&group));
        holders.map(|(host, _)| *host).next()
    }
}
