//! How many may stand at the door. libp2p's limits count handshakes in work from all addresses together, so a stranger
//! who opens many and finishes none would keep the points of the roster out; this bounds those from one address too.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::IpAddr;
use std::task::{Context, Poll};

use libp2p::PeerId;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::multiaddr::Multiaddr;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};

use super::peer::socket;

/// Handshakes in work from one address. A whole office behind one address translator may start at the same moment;
/// those beyond are refused and come back a second later.
const PER_ADDRESS_MAX: usize = 24;

/// libp2p's limits, and handshakes that others began and neither side has finished.
pub(super) struct Door {
    limits: connection_limits::Behaviour,
    waiting: HashMap<ConnectionId, IpAddr>,
    per_address: BTreeMap<IpAddr, usize>,
}

/// There are too many from this address.
#[derive(Debug, thiserror::Error)]
#[error("{PER_ADDRESS_MAX} handshakes from {0} are in work already")]
struct Crowded(IpAddr);

impl Door {
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        Self {
            limits: connection_limits::Behaviour::new(limits),
            waiting: HashMap::new(),
            per_address: BTreeMap::new(),
        }
    }

    fn enter(&mut self, connection: ConnectionId, from: IpAddr) -> Result<(), Crowded> {
        let count = self.per_address.entry(from).or_default();
        if *count >= PER_ADDRESS_MAX {
            return Err(Crowded(from));
        }
        *count += 1;
        self.waiting.insert(connection, from);
        Ok(())
    }

    fn leave(&mut self, connection: ConnectionId) {
        let Some(from) = self.waiting.remove(&connection) else { return };
        if let Some(count) = self.per_address.get_mut(&from) {
            *count -= 1;
            if *count == 0 {
                self.per_address.remove(&from);
            }
        }
    }
}

impl NetworkBehaviour for Door {
    type ConnectionHandler = THandler<connection_limits::Behaviour>;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if let Some(from) = socket(remote) {
            self.enter(connection, from.ip()).map_err(ConnectionDenied::new)?;
        }
        self.limits.handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.leave(connection);
        self.limits.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.limits.handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.limits.handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ListenFailure(failure) = event {
            self.leave(failure.connection_id);
        }
        self.limits.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.limits.poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_fill_the_door() {
        let mut door = Door::new(ConnectionLimits::default());
        let [rude, polite] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        for n in 0..PER_ADDRESS_MAX {
            door.enter(ConnectionId::new_unchecked(n), rude).unwrap();
        }
        assert!(door.enter(ConnectionId::new_unchecked(100), rude).is_err());
        door.enter(ConnectionId::new_unchecked(101), polite).unwrap();
        door.leave(ConnectionId::new_unchecked(0));
        door.enter(ConnectionId::new_unchecked(102), rude).unwrap();
    }

    #[test]
    fn nothing_is_remembered_of_those_who_left() {
        let mut door = Door::new(ConnectionLimits::default());
        for n in 0..1000 {
            door.enter(ConnectionId::new_unchecked(n), "10.0.0.1".parse().unwrap()).unwrap();
            door.leave(ConnectionId::new_unchecked(n));
            door.leave(ConnectionId::new_unchecked(n));
        }
        assert!(door.waiting.is_empty() && door.per_address.is_empty());
    }
}
