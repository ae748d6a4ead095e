//! The way of a new node to the one that invited it: every address of the code at once, and if none leads anywhere, a look at why.
//!
//! The connections are made side by side, as most of a code's addresses are wrong from where the new PC stands. The
//! conversations are held one after another, since two addresses may lead to the same node, and it turns away whoever
//! talks twice at once.

use std::net::SocketAddr;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::code::{Code, Mistyped};
use super::knock::{self, Joined, Knock, Newcomer, Next};
use super::secret::Line;
use super::wire::FRAME_MAX;
use crate::config::Address;
use crate::identity::Identity;
use crate::media::visit::{self, Visit};
use crate::wire::media::Close;

/// Addresses a host name may lead to and that are tried.
const RESOLVED_MAX: usize = 4;
const LOOKUP_MAX: Duration = Duration::from_secs(5);
/// A frame of the conversation, and a part of the roster on a slow line.
const FRAME_WAIT: Duration = Duration::from_secs(20);
/// A TCP connection that takes longer is no sign of life.
const TCP_MAX: Duration = Duration::from_secs(4);
/// Clocks further apart than this are worth a word.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// Why a node did not join. `words` says it to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The text is no code.
    Mistyped(Mistyped),
    /// Whoever answered does not know this code.
    Wrong,
    /// Another node came in by it.
    Used,
    /// It is too late.
    Expired {
        /// Until when it was good, Unix milliseconds.
        not_after_unix_ms: u64,
    },
    /// By our clock it is not too late, by the inviting node's it is.
    ClockOff {
        /// Our clock minus the inviting node's.
        ahead_ms: i64,
        /// The inviting node's clock, Unix milliseconds.
        host_unix_ms: u64,
    },
    /// It was taken back.
    Withdrawn,
    /// Too many attempts; later.
    Busy,
    /// Nobody answers at these addresses, neither on UDP nor on TCP.
    NoRoute(Vec<String>),
    /// The mesh answers on TCP, but UDP does not get through.
    UdpBlocked(Vec<String>),
    /// Another version of the program answers.
    Version,
    /// The inviting node says why it cannot.
    Unable(String),
    /// The conversation broke off or made no sense.
    Broken(String),
}

/// Knocks at every address of the code until this node is let in. `unix_ms` is the wall clock now.
pub async fn call(identity: &Identity, code: &Code, addresses: Vec<String>, unix_ms: u64) -> Result<Joined, Refusal> {
    let mut tried = Vec::new();
    for address in code.addresses() {
        tried.extend(resolve(address).await);
    }
    tried.dedup();
    let newcomer = Newcomer { wrap: identity.wrap.public(), addresses, unix_ms };
    let mut calls: FuturesUnordered<_> =
        tried.iter().map(|&at| async move { (at, Visit::call(&identity.node, at).await) }).collect();
    // Of several addresses' answers the one that says most is told.
    let mut told: Option<Refusal> = None;
    while let Some((at, called)) = calls.next().await {
        let refusal = match called {
            Ok(visit) => match talk(identity, code, newcomer.clone(), visit).await {
                Ok(joined) => return Ok(joined),
                Err(Answered { refusal, is_host: true }) => return Err(refusal),
                Err(Answered { refusal, is_host: false }) => refusal,
            },
            // Looked into below, when nothing better is known.
            Err(visit::Error::Silent) => continue,
            Err(error) => of_line(&error),
        };
        tracing::debug!(%at, ?refusal, "join: not let in there");
        if told.as_ref().is_none_or(|told| weight(told) < weight(&refusal)) {
            told = Some(refusal);
        }
    }
    match told {
        Some(refusal) => Err(refusal),
        None => Err(why_silent(code, &tried).await),
    }
}

/// What a conversation came to.
struct Answered {
    refusal: Refusal,
    /// Whether it was the node that made the code.
    is_host: bool,
}

async fn talk(identity: &Identity, code: &Code, newcomer: Newcomer, mut visit: Visit) -> Result<Joined, Answered> {
    let line = Line { binding: visit.binding, knocker: identity.id(), host: visit.node };
    let now = newcomer.unix_ms;
    let (mut knock, first) = Knock::new(code.secret().clone(), line, newcomer);
    let broken =
        |knock: &Knock, error: &visit::Error| Answered { refusal: of_line(error), is_host: knock.is_with_host() };
    visit.say(&first).await.map_err(|error| broken(&knock, &error))?;
    loop {
        let frame = match timeout(FRAME_WAIT, visit.hear(FRAME_MAX)).await {
            Ok(heard) => heard.map_err(|error| broken(&knock, &error))?,
            Err(_) => return Err(broken(&knock, &visit::Error::Broken("it fell silent".to_owned()))),
        };
        match knock.hear(&frame) {
            Ok(Next::Say(frame)) => visit.say(&frame).await.map_err(|error| broken(&knock, &error))?,
            Ok(Next::Listen) => {}
            Ok(Next::Done(joined)) => {
                visit.close(Close::Done);
                return Ok(*joined);
            }
            Err(error) => {
                let is_host = error != knock::Error::Imposter;
                visit.close(Close::Done);
                return Err(Answered { refusal: of_answer(error, now), is_host });
            }
        }
    }
}

fn of_line(error: &visit::Error) -> Refusal {
    match error {
        visit::Error::Stranger => Refusal::Wrong,
        visit::Error::Busy => Refusal::Busy,
        visit::Error::Version => Refusal::Version,
        visit::Error::Silent => Refusal::Broken("the line fell silent".to_owned()),
        visit::Error::Broken(why) => Refusal::Broken(why.clone()),
    }
}

fn of_answer(error: knock::Error, unix_ms: u64) -> Refusal {
    match error {
        knock::Error::Imposter => Refusal::Wrong,
        knock::Error::Used => Refusal::Used,
        knock::Error::Expired { not_after_unix_ms, host_unix_ms } => {
            let ahead_ms = ahead(unix_ms, host_unix_ms);
            let far = ahead_ms.unsigned_abs() > CLOCK_TOLERANCE.as_millis() as u64;
            if far && unix_ms <= not_after_unix_ms {
                Refusal::ClockOff { ahead_ms, host_unix_ms }
            } else {
                Refusal::Expired { not_after_unix_ms }
            }
        }
        knock::Error::Withdrawn => Refusal::Withdrawn,
        knock::Error::Unable(why) => Refusal::Unable(why),
        knock::Error::Wrong(_) => Refusal::Broken(error.to_string()),
    }
}

/// How far our clock is ahead of another.
pub fn ahead(ours_unix_ms: u64, theirs_unix_ms: u64) -> i64 {
    i64::try_from(i128::from(ours_unix_ms) - i128::from(theirs_unix_ms)).unwrap_or(i64::MAX)
}

/// How much an answer says.
fn weight(refusal: &Refusal) -> u8 {
    match refusal {
        Refusal::Broken(_) => 0,
        Refusal::Version => 1,
        Refusal::Wrong => 2,
        _ => 3,
    }
}

async fn resolve(address: &Address) -> Vec<SocketAddr> {
    match timeout(LOOKUP_MAX, tokio::net::lookup_host((address.host.as_str(), address.port))).await {
        Ok(Ok(found)) => found.take(RESOLVED_MAX).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

/// Nothing answered on UDP: is there anybody?
async fn why_silent(code: &Code, tried: &[SocketAddr]) -> Refusal {
    let spoken: Vec<String> = code.addresses().iter().map(ToString::to_string).collect();
    let mut knocks: FuturesUnordered<_> =
        tried.iter().map(|at| timeout(TCP_MAX, TcpStream::connect((at.ip(), code.mesh_port())))).collect();
    while let Some(connected) = knocks.next().await {
        if matches!(connected, Ok(Ok(_))) {
            return Refusal::UdpBlocked(spoken);
        }
    }
    Refusal::NoRoute(spoken)
}
