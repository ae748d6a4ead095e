//! What a simulated point signs, and what it takes of what others signed: as the driver does it, with the writer for the vault.

use std::time::Duration;

use bytes::Bytes;
use node::attest;
use node::attest::closing::{self, Heard};
use node::engine::evidence::{Input, Output};
use node::engine::manifest;
use node::engine::rights::{Deed, Part, Who, may};
use node::engine::session;
use node::wire::evidence::Message;
use simnet::host::HostId;
use store::id::{NodeId, SessionId};
use store::manifest::Manifest;
use store::session::{Head, State};
use store::signed::Signed;

use super::{ANSWER_MAX, MESH, Packet, Point};
use crate::sim::disk::{Job, Proof, Proved};
use crate::sim::mesh::Fact;

/// What a question over the mesh was about, for when its answer comes or does not.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    /// A session.
    Session(SessionId),
    /// Whether central takes a segment.
    Segment(SessionId),
    /// Whether a point countersigns.
    Manifest(Box<Signed<Manifest>>),
}

impl Point {
    /// What this point has a part in is signed from now on; if it is over, for the last time.
    pub(super) fn attest(&mut self, head: &Head) {
        if head.number(&self.node).is_none() {
            return;
        }
        let (session, central) = (head.id, head.central);
        self.witness(Input::Takes { session, central });
        if head.state == State::Ended {
            self.witness(Input::Over { session });
            if central == self.node {
                self.close_record(manifest::Input::Over { session });
            }
        }
    }

    pub(super) fn witness(&mut self, input: Input) {
        let now = self.instant();
        if let Some(run) = &mut self.run {
            run.evidence.handle(now, input);
        }
        while let Some(output) = self.run.as_mut().and_then(|run| run.evidence.poll()) {
            match output {
                Output::Sign { session, over } => {
                    let now_ms = self.wall_ms();
                    self.write(Job::Proof(Proof::Sign { session, over, now_ms }));
                }
                Output::Send { session, to, n } => {
                    let me = self.node;
                    let read = self.run.as_ref().map(|run| attest::own_segment(&run.archive, &session, &me, n));
                    match read {
                        Some(Ok(Some(record))) => {
                            self.ask(to, Asked::Segment(session), Message::Segment { session, record }.encode());
                        }
                        _ => self.witness(Input::Answered { session, next: None }),
                    }
                }
            }
        }
    }

    pub(super) fn close_record(&mut self, input: manifest::Input) {
        let now = self.instant();
        if let Some(run) = &mut self.run {
            run.manifests.handle(now, input);
        }
        while let Some(output) = self.run.as_mut().and_then(|run| run.manifests.poll()) {
            match output {
                manifest::Output::Sign { session, all } => {
                    let now_ms = self.wall_ms();
                    self.write(Job::Proof(Proof::Manifest { session, all, now_ms }));
                }
                manifest::Output::Ask { session, node } => {
                    let read = self.run.as_ref().map(|run| run.archive.last_manifest(&session));
                    match read {
                        Some(Ok(Some(manifest))) => {
                            let record = manifest.bytes().clone();
                            let bytes = Message::Manifest { session, record }.encode();
                            self.ask(node, Asked::Manifest(Box::new(manifest)), bytes);
                        }
                        _ => self.close_record(manifest::Input::Asked { session, node, answered: false }),
                    }
                }
            }
        }
    }

    /// Asks a point over the mesh.
    pub(super) fn ask(&mut self, node: NodeId, about: Asked, bytes: Bytes) {
        let (question, Some(to)) = (self.number(), self.mesh.host(&node)) else { return };
        let until = self.now + ANSWER_MAX;
        if let Some(run) = &mut self.run {
            run.asked.insert(question, (until, node, about));
        }
        self.send(MESH, to, bytes.len(), None, Packet::Ask(question, bytes.to_vec()));
    }

    /// An answer came, or none did.
    pub(super) fn answered(&mut self, node: NodeId, about: Asked, bytes: Option<&[u8]>) {
        match about {
            Asked::Session(session) => {
                let message = bytes.and_then(|bytes| node::wire::control::Message::decode(bytes).ok());
                let answer = message.filter(|answer| answer.session() == session);
                self.tell(session::Input::Answered { node, session, answer });
            }
            Asked::Segment(session) => {
                let silence = Input::Answered { session, next: None };
                self.witness(bytes.map_or(silence, |bytes| attest::heard(node, session, bytes)));
            }
            Asked::Manifest(manifest) => {
                let session = manifest.content().session;
                let heard = bytes.map_or(Heard::Nothing, |bytes| closing::heard(node, &manifest, bytes));
                match heard {
                    Heard::Countersigned(by) => self.write(Job::Proof(Proof::Keep { node, by })),
                    Heard::Refused(why) => {
                        self.facts.extend(self.mesh.host(&node).map(|host| Fact::Objected(session, host, why)));
                        self.close_record(manifest::Input::Asked { session, node, answered: true });
                    }
                    Heard::Nothing => {
                        self.close_record(manifest::Input::Asked { session, node, answered: false });
                    }
                }
            }
        }
    }

    /// A point gives what it signed, or central what is to be countersigned.
    pub(super) fn asked_of_evidence(&mut self, from: HostId, node: NodeId, question: u64, bytes: &[u8]) {
        let Ok(message) = Message::decode(bytes) else { return };
        let session = message.session();
        let Some(run) = &self.run else { return };
        let Ok(head) = run.archive.head(&session) else { return };
        let part = head.as_ref().map_or(Part::Unknown, |head| Part::of(head, &node));
        let (record, deed) = match message {
            Message::Segment { record, .. } => (record, Deed::Report(part)),
            Message::Manifest { record, .. } => (record, Deed::Direct(part)),
            Message::Wants { .. } | Message::Countersigned { .. } | Message::Refused { .. } => return,
        };
        let directs = matches!(deed, Deed::Direct(_));
        if let Err(denied) = may(&self.mesh.members(self.node), &Who::Node(node), deed) {
            let refused = Message::refused(session, &denied.to_string()).encode();
            return self.reply(from, question, refused);
        }
        let (to, now_ms) = ((from, question), self.wall_ms());
        if directs {
            return self.write(Job::Proof(Proof::Countersign { to, session, from: node, record, now_ms }));
        }
        let head = head.filter(|head| head.central == self.node);
        let Some((point, head)) = head.and_then(|head| Some((head.number(&node)?, head))) else {
            let refused = Message::refused(session, "this point does not chair that session").encode();
            return self.reply(from, question, refused);
        };
        self.close_record(manifest::Input::Changed { session });
        self.write(Job::Proof(Proof::Take { to, head: Box::new(head), from: (point, node), record, now_ms }));
    }

    fn reply(&mut self, to: HostId, question: u64, bytes: Bytes) {
        self.send(MESH, to, bytes.len(), None, Packet::Answer(question, bytes.to_vec()));
    }

    /// What came of signing.
    pub(super) fn proved(&mut self, proved: Proved) {
        match proved {
            Proved::Signed(session, standing) => {
                if standing.is_some() {
                    self.facts.push(Fact::Signed);
                }
                self.witness(Input::Signed { session, standing });
            }
            Proved::Manifest(session, open) => {
                if open.is_some() {
                    self.facts.push(Fact::Closed);
                }
                self.close_record(manifest::Input::Signed { session, open });
            }
            Proved::Kept(session, node, answered) => {
                self.close_record(manifest::Input::Asked { session, node, answered });
            }
            Proved::Answer { to: (host, question), message, incidents } => {
                let session = message.session();
                self.reply(host, question, message.encode());
                for (point, event) in incidents {
                    self.tell(session::Input::Incident { session, point, event });
                }
            }
        }
    }

    /// When one of these parts wants to be asked again.
    pub(super) fn proof_deadline(&self) -> Option<Duration> {
        let run = self.run.as_ref()?;
        let due = [run.evidence.deadline(), run.manifests.deadline()];
        due.into_iter().flatten().map(|at| at.saturating_duration_since(self.mesh.base)).min()
    }
}
