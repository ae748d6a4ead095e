//! The door of the mesh (`engine/door.rs`), in front of libp2p's transports.
//!
//! It stands there and not among the behaviours, because a handshake's place is given back when its future ends,
//! however it ends, and because a behaviour could not cut short what takes too long. A TCP connection has shown that its
//! address is its own. Over QUIC libp2p accepts at once and gives no way to ask for that first, so a forged address costs us
//! the answer to one packet (at most three times its length, RFC 9000 8.1); when there is much to do, only addresses
//! where members were get in over QUIC, and everybody else over TCP.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{FutureExt, ready};
use libp2p::PeerId;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Transport;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::multiaddr::{Multiaddr, Protocol};
use store::id::NodeId;
use tokio::time::timeout;

use super::peer::socket;
use crate::engine::door::{Answer, Door, Knocks, Limits, Proof, Rate, Visit};

/// A point dials over both transports and is dialled, so it may have four handshakes in work; behind one translator
/// there may be an office of many that all start after a power cut.
const LIMITS: Limits = Limits {
    address: Rate { burst: 64, per_second: 8 },
    address_work_max: 32,
    address_open_max: 512,
    total: Rate { burst: 300, per_second: 100 },
    total_work_max: 128,
    unproven_max: 32,
    // Nobody can be asked.
    proofs: Rate { burst: 0, per_second: 1 },
    stranger_time: Duration::from_secs(2),
    known_time: Duration::from_secs(8),
};

/// Turned away in one go before others have their turn.
const TURNED_AWAY_MAX: usize = 64;

type Connected = (PeerId, StreamMuxerBox);

/// The door, in the hands of the transport and of the task.
#[derive(Debug, Clone)]
pub(super) struct Porter(Arc<Mutex<Door>>);

impl Porter {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Door::new(Instant::now(), LIMITS))))
    }

    fn door(&self) -> MutexGuard<'_, Door> {
        // Each change is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member is or was at this address.
    pub(super) fn know(&self, node: NodeId, address: std::net::IpAddr) {
        self.door().know(node, address);
    }

    /// Forgets where those were that are no members any more.
    pub(super) fn retain(&self, is_member: impl Fn(&NodeId) -> bool) {
        self.door().retain(is_member);
    }

    /// What came to this door so far.
    pub(super) fn knocks(&self) -> Knocks {
        self.door().knocks()
    }

    fn admit(&self, from: &Multiaddr) -> Option<Place> {
        let address = socket(from)?.ip();
        let proof =
            if from.iter().any(|part| matches!(part, Protocol::Udp(_))) { Proof::Unaskable } else { Proof::Given };
        match self.door().knock(Instant::now(), address, proof) {
            Answer::Enter(visit) => Some(Place { porter: self.clone(), visit: Some(visit) }),
            Answer::Prove | Answer::Ignore => None,
        }
    }
}

/// A handshake's place, given back when dropped.
struct Place {
    porter: Porter,
    visit: Option<Visit>,
}

impl Place {
    fn patience(&self) -> Duration {
        self.visit.as_ref().map_or(Duration::ZERO, |visit| self.porter.door().patience(visit))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(visit) = self.visit.take() {
            self.porter.door().end(visit);
        }
    }
}

/// A transport with the door before it.
pub(super) struct Guarded {
    inner: Boxed<Connected>,
    porter: Porter,
}

impl Guarded {
    pub(super) fn new(inner: Boxed<Connected>, porter: Porter) -> Self {
        Self { inner, porter }
    }
}

impl Transport for Guarded {
    type Output = Connected;
    type Error = io::Error;
    type ListenerUpgrade = BoxFuture<'static, io::Result<Connected>>;
    type Dial = <Boxed<Connected> as Transport>::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        self.inner.dial(address, options)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        for _ in 0..TURNED_AWAY_MAX {
            let event = ready!(Pin::new(&mut self.inner).poll(context));
            let place = match &event {
                TransportEvent::Incoming { send_back_addr, .. } => match self.porter.admit(send_back_addr) {
                    Some(place) => Some(place),
                    None => continue,
                },
                _ => None,
            };
            return Poll::Ready(event.map_upgrade(|upgrade| shake_hands(upgrade, place).boxed()));
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

async fn shake_hands(
    upgrade: impl Future<Output = io::Result<Connected>>,
    place: Option<Place>,
) -> io::Result<Connected> {
    let patience = place.as_ref().map_or(Duration::ZERO, Place::patience);
    timeout(patience, upgrade).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
