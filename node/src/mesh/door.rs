//! The door of the mesh (`engine/door.rs`), in front of the transports: of TCP here, of QUIC in `mesh/quic.rs`.
//!
//! It stands there and not among the behaviours, because a handshake's place is given back when its future ends,
//! however it ends, because a behaviour could not cut short what takes too long, and because a behaviour is asked when
//! much was done already. A TCP connection has shown that its address is its own; over QUIC it is asked for that when there
//! is much to do.

use std::io;
use std::net::IpAddr;
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
use libp2p::multiaddr::Multiaddr;
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
    unproven_max: 16,
    proofs: Rate { burst: 1_000, per_second: 1_000 },
    stranger_time: Duration::from_secs(2),
    known_time: Duration::from_secs(8),
};

/// Turned away in one go before others have their turn.
pub(super) const TURNED_AWAY_MAX: usize = 64;

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
    pub(super) fn know(&self, node: NodeId, address: IpAddr) {
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

    /// Somebody at this address wants to begin a handshake.
    pub(super) fn admit(&self, from: IpAddr, proof: Proof) -> Admission {
        match self.door().knock(Instant::now(), from, proof) {
            Answer::Enter(visit) => Admission::Enter(Place { porter: self.clone(), visit: Some(visit) }),
            Answer::Prove => Admission::Prove,
            Answer::Ignore => Admission::Ignore,
        }
    }
}

/// What to do with who knocks, as `engine::door::Answer` has it.
pub(super) enum Admission {
    Enter(Place),
    Prove,
    Ignore,
}

/// A handshake's place, given back when dropped.
pub(super) struct Place {
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

/// TCP with the door before it.
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
            let event = match event {
                TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr } => {
                    let from = socket(&send_back_addr).map(|from| from.ip());
                    let Some(Admission::Enter(place)) = from.map(|from| self.porter.admit(from, Proof::Given)) else {
                        continue;
                    };
                    let upgrade = shake_hands(upgrade, place).boxed();
                    TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr }
                }
                // There is none to map in the others.
                other => other.map_upgrade(|upgrade| upgrade.boxed()),
            };
            return Poll::Ready(event);
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A handshake that takes no longer than its place allows.
pub(super) async fn shake_hands(
    upgrade: impl Future<Output = io::Result<Connected>>,
    place: Place,
) -> io::Result<Connected> {
    let patience = place.patience();
    timeout(patience, upgrade).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
