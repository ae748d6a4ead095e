//! The new node's side of the conversation. Pure: frames in, what to do out.
//!
//! It believes nothing before the host has proved that it knows the code's secret, and then still checks the chain
//! by itself: the grant is for the key that only this code gives, whoever signed that grant is the authority, the roster is
//! the authority's, and this node is a point in it.

use bytes::{Bytes, BytesMut};
use store::id::NodeId;
use store::keys::WrapPublic;
use store::roster::{Admission, Grant, Membership, Proof};
use store::signed::Signed;

use super::secret::{Line, Role, Secret};
use super::wire::{self, Answer, Ask, Knock as Proving, Welcome};

/// What the host is told once it has proved itself.
#[derive(Clone, Debug)]
pub struct Newcomer {
    /// The key for which session keys are to be wrapped.
    pub wrap: WrapPublic,
    /// Where its mesh may be called, as `HOST:PORT`.
    pub addresses: Vec<String>,
    /// Its wall clock, Unix milliseconds.
    pub unix_ms: u64,
}

/// What to do after a frame.
#[derive(Debug)]
pub enum Next {
    /// Send this and listen.
    Say(Bytes),
    /// Listen.
    Listen,
    /// It is over and good.
    Done(Box<Joined>),
}

/// What the new node comes home with.
#[derive(Clone, Debug)]
pub struct Joined {
    /// All that the mesh knows of itself; this node is a point in it.
    pub membership: Membership,
    /// What it is granted.
    pub grant: Grant,
    /// The host's wall clock when it answered, Unix milliseconds.
    pub host_unix_ms: u64,
}

/// Why this host does not let us in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not know the secret: not the node that made the code.
    #[error("it is not the node that made the code")]
    Imposter,
    /// Another node has come in by this code.
    #[error("the code was used by another node")]
    Used,
    /// It is too late.
    #[error("the code has expired")]
    Expired {
        /// Until when it was good, Unix milliseconds.
        not_after_unix_ms: u64,
        /// The host's wall clock, Unix milliseconds.
        host_unix_ms: u64,
    },
    /// The code was taken back.
    #[error("the code was taken back")]
    Withdrawn,
    /// The host says that it cannot, in a sentence.
    #[error("{0}")]
    Unable(String),
    /// What it says does not hold together.
    #[error("its answer {0}")]
    Wrong(&'static str),
}

enum Stage {
    Proving,
    Asked,
    Receiving(Box<Receiving>),
    Over,
}

/// What comes after the answer.
struct Receiving {
    grant: Grant,
    authority: NodeId,
    host_unix_ms: u64,
    /// Bytes of the membership, as announced.
    len: usize,
    /// Those that came.
    membership: BytesMut,
}

/// See the head of this file.
pub struct Knock {
    secret: Secret,
    line: Line,
    newcomer: Newcomer,
    stage: Stage,
}

impl std::fmt::Debug for Knock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Knock").field("line", &self.line).finish_non_exhaustive()
    }
}

impl Knock {
    /// Begins, and gives the first frame.
    pub fn new(secret: Secret, line: Line, newcomer: Newcomer) -> (Self, Bytes) {
        let invite = secret.id();
        let proof = *secret.mac_key().proof(Role::Knocker, &line, &invite).as_bytes();
        (Self { secret, line, newcomer, stage: Stage::Proving }, wire::encode(&Proving { invite, proof }))
    }

    /// Whether the host has proved itself: then what it says is the word of who made the code, and no other
    /// address need be tried.
    pub fn is_with_host(&self) -> bool {
        !matches!(self.stage, Stage::Proving)
    }

    /// The host said this. After an error, or [`Next::Done`], it is over.
    pub fn hear(&mut self, frame: &[u8]) -> Result<Next, Error> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Proving => self.welcomed(frame),
            Stage::Asked => self.answered(frame),
            Stage::Receiving(mut receiving) => {
                if frame.len() > receiving.len - receiving.membership.len() {
                    return Err(Error::Wrong("is longer than it said"));
                }
                receiving.membership.extend_from_slice(frame);
                if receiving.membership.len() < receiving.len {
                    self.stage = Stage::Receiving(receiving);
                    return Ok(Next::Listen);
                }
                let Receiving { grant, authority, host_unix_ms, membership, .. } = *receiving;
                let membership = self.received(&authority, membership.freeze())?;
                Ok(Next::Done(Box::new(Joined { membership, grant, host_unix_ms })))
            }
            Stage::Over => Err(Error::Wrong("goes on after its end")),
        }
    }

    fn welcomed(&mut self, frame: &[u8]) -> Result<Next, Error> {
        let welcome: Welcome = wire::decode(frame).map_err(|_| Error::Imposter)?;
        let invite = self.secret.id();
        let proof = self.secret.mac_key().proof(Role::Host, &self.line, &invite);
        if proof != blake3::Hash::from_bytes(welcome.proof) {
            return Err(Error::Imposter);
        }
        self.stage = Stage::Asked;
        let Newcomer { wrap, addresses, unix_ms } = self.newcomer.clone();
        let proof = Proof::new(&self.secret.signing_key(), &invite, &self.line.knocker, &wrap);
        Ok(Next::Say(wire::encode(&Ask { wrap, addresses, proof, unix_ms })))
    }

    fn answered(&mut self, frame: &[u8]) -> Result<Next, Error> {
        let answer = wire::decode(frame).map_err(|_| Error::Wrong("cannot be read"))?;
        let (admission, membership_len, host_unix_ms) = match answer {
            Answer::Admitted { admission, membership_len, unix_ms } => (admission, membership_len, unix_ms),
            Answer::Used => return Err(Error::Used),
            Answer::Expired { not_after_unix_ms, unix_ms } => {
                return Err(Error::Expired { not_after_unix_ms, host_unix_ms: unix_ms });
            }
            Answer::Withdrawn => return Err(Error::Withdrawn),
            Answer::Unable { reason } => return Err(Error::Unable(plain(&reason))),
        };
        let (grant, authority) = self.check(admission)?;
        let len = usize::try_from(membership_len).ok().filter(|len| (1..=Membership::LEN_MAX).contains(len));
        let len = len.ok_or(Error::Wrong("announces a roster of an impossible length"))?;
        // Grows as bytes come, whatever was announced.
        let membership = BytesMut::new();
        self.stage = Stage::Receiving(Box::new(Receiving { grant, authority, host_unix_ms, len, membership }));
        Ok(Next::Listen)
    }

    /// The admission must be ours, on a grant for the key that this code gives. Whoever signed that grant is the authority:
    /// only who made the code could have it sign for such a key.
    fn check(&self, admission: Bytes) -> Result<(Grant, NodeId), Error> {
        let signed = Signed::<Admission>::parse(admission);
        let signed = signed.map_err(|_| Error::Wrong("holds no admission"))?;
        let grant: Signed<Grant> =
            Signed::parse(signed.content().grant.clone()).map_err(|_| Error::Wrong("holds no grant"))?;
        let authority = grant.signer();
        let grant = signed.grant(&authority).map_err(|_| Error::Wrong("holds an admission that does not hold"))?;
        let ours = grant.id == self.secret.id()
            && grant.key == self.secret.signing_key().id()
            && grant.issuer == self.line.host
            && signed.content().node == self.line.knocker
            && signed.content().wrap == self.newcomer.wrap;
        if ours { Ok((grant, authority)) } else { Err(Error::Wrong("holds an admission for somebody else")) }
    }

    fn received(&self, authority: &NodeId, membership: Bytes) -> Result<Membership, Error> {
        let membership = Membership::decode(membership).map_err(|_| Error::Wrong("holds no good roster"))?;
        if membership.authority() != *authority {
            return Err(Error::Wrong("holds a roster of another authority"));
        }
        if membership.point(&self.line.knocker).is_none() {
            return Err(Error::Wrong("holds a roster without this point"));
        }
        if membership.point(&self.line.host).is_none() {
            return Err(Error::Wrong("holds a roster without the point that invited"));
        }
        Ok(membership)
    }
}

/// A sentence of somebody else's, fit for a terminal.
fn plain(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

#[cfg(test)]
mod tests;
