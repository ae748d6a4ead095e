//! A connection of somebody who wants to join: any node may make one, and all it can do is exchange frames on one
//! stream. Whoever takes the visit decides what is said (`join`); here are its bounds.
//!
//! It goes to the port that is open anyway for sound and picture, because a clerk's PC can reach it wherever the office
//! itself must be reached, and because QUIC proves both nodes and gives the keying material that proofs are bound to.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream, VarInt};
use store::id::NodeId;
use store::keys::NodeKey;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::tls::{self, Purpose};
use crate::wire::media::Close;

/// Visits at once, with those being turned away.
const VISITS_MAX: usize = 32;
/// Bytes of a visitor that wait for their reader.
const WINDOW: u32 = 16 * 1024;
/// The visitor must have opened its stream by then.
const STREAM_MAX: Duration = Duration::from_secs(5);
/// How long the other side may take to take our last words, a whole roster among them, on a slow line.
const PARTING_MAX: Duration = Duration::from_secs(120);
/// Without an answer for so long, nobody is there or UDP does not get through.
const CALL_MAX: Duration = Duration::from_secs(6);
/// Says which use is made of the keying material.
const LABEL: &[u8] = b"EXPORTER-diemcau-join-1";

/// Places for visits of this process.
static VISITS: Semaphore = Semaphore::const_new(VISITS_MAX);

/// Two nodes that know each other's keys and nothing else, with one stream between them.
pub struct Visit {
    /// Who is at the other end, as its certificate proves.
    pub node: NodeId,
    /// Where.
    pub from: SocketAddr,
    /// Keying material that this connection alone has, the same at both ends.
    pub binding: [u8; 32],
    connection: Connection,
    sender: SendStream,
    receiver: RecvStream,
    /// Of a call that was made from here.
    _endpoint: Option<Endpoint>,
    /// Of a visit that was received here.
    _place: Option<SemaphorePermit<'static>>,
}

impl std::fmt::Debug for Visit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Visit").field("node", &self.node).field("from", &self.from).finish_non_exhaustive()
    }
}

/// Why a visit ended or did not begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing came back on UDP.
    #[error("no answer on UDP")]
    Silent,
    /// The node there turned us away without a word.
    #[error("it does not know us")]
    Stranger,
    /// It has no time now.
    #[error("it is busy")]
    Busy,
    /// A program that does not know joining, or another version.
    #[error("another program or version answers there")]
    Version,
    /// The line or the other side failed.
    #[error("{0}")]
    Broken(String),
}

impl Visit {
    /// The visit on an accepted connection, once its stream is there. The connection is closed when there is no place.
    pub(super) async fn receive(node: NodeId, connection: Connection) -> Option<Self> {
        let Ok(place) = VISITS.try_acquire() else {
            connection.close(VarInt::from_u32(Close::Busy as u32), b"");
            return None;
        };
        connection.set_max_concurrent_uni_streams(VarInt::from_u32(0));
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(1));
        connection.set_receive_window(VarInt::from_u32(WINDOW));
        let stream = tokio::time::timeout(STREAM_MAX, connection.accept_bi()).await;
        let (Ok(Ok((sender, receiver))), Some(binding)) = (stream, binding(&connection)) else {
            connection.close(VarInt::from_u32(Close::Silent as u32), b"");
            return None;
        };
        let from = connection.remote_address();
        Some(Self { node, from, binding, connection, sender, receiver, _endpoint: None, _place: Some(place) })
    }

    /// Visits whoever answers at `at`.
    pub async fn call(key: &NodeKey, at: SocketAddr) -> Result<Self, Error> {
        let broken = |error: &dyn std::fmt::Display| Error::Broken(error.to_string());
        let local = match at {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let endpoint = Endpoint::client(local).map_err(|error| broken(&error))?;
        let config = tls::visitor(&crate::mesh::keypair(key)).map_err(|error| broken(&error))?;
        // The name is not looked at: the certificate carries a key instead.
        let connecting = endpoint.connect_with(config, at, "diemcau.invalid").map_err(|error| broken(&error))?;
        let connection = tokio::time::timeout(CALL_MAX, connecting).await.map_err(|_| Error::Silent)?.map_err(ended)?;
        let Some((node, Purpose::Join)) = tls::peer_of(&connection) else { return Err(Error::Version) };
        let (sender, receiver) = connection.open_bi().await.map_err(ended)?;
        let binding = binding(&connection).ok_or(Error::Version)?;
        Ok(Self { node, from: at, binding, connection, sender, receiver, _endpoint: Some(endpoint), _place: None })
    }

    /// The next frame, of at most `len_max` bytes.
    pub async fn hear(&mut self, len_max: usize) -> Result<Bytes, Error> {
        let mut len = [0; 2];
        let read = self.receiver.read_exact(&mut len).await;
        read.map_err(|error| self.over(&error))?;
        let len = usize::from(u16::from_be_bytes(len));
        if len > len_max {
            return Err(Error::Broken(format!("a frame of {len} bytes; {len_max} are allowed")));
        }
        let mut frame = vec![0; len];
        let read = self.receiver.read_exact(&mut frame).await;
        read.map_err(|error| self.over(&error))?;
        Ok(frame.into())
    }

    /// Sends a frame, of less than 64 KiB.
    pub async fn say(&mut self, frame: &[u8]) -> Result<(), Error> {
        let len = u16::try_from(frame.len()).map_err(|_| Error::Broken("a frame is too long".to_owned()))?;
        let written = async {
            self.sender.write_all(&len.to_be_bytes()).await?;
            self.sender.write_all(frame).await
        };
        let written = written.await;
        written.map_err(|error| self.over(&error))
    }

    /// Sends the last frames, waits until they are taken, and closes.
    pub async fn part(mut self, frames: &[Bytes], close: Close) {
        let last = async {
            for frame in frames {
                self.say(frame).await?;
            }
            // Fails only when the other side stopped the stream; then there is nobody to wait for.
            if !frames.is_empty() && self.sender.finish().is_ok() {
                let _ = self.sender.stopped().await;
            }
            Ok::<_, Error>(())
        };
        // Whoever does not take them goes without.
        let _ = tokio::time::timeout(PARTING_MAX, last).await;
        self.close(close);
    }

    /// Closes at once.
    pub fn close(self, close: Close) {
        self.connection.close(VarInt::from_u32(close as u32), b"");
    }

    /// What a failed stream means: the reason of the connection's end, if it has ended.
    fn over(&self, error: &dyn std::fmt::Display) -> Error {
        self.connection.close_reason().map_or_else(|| Error::Broken(error.to_string()), ended)
    }
}

fn ended(error: ConnectionError) -> Error {
    /// The TLS alert `no_application_protocol` (120) as a QUIC error (RFC 9001 4.8).
    const NO_PROTOCOL: u64 = 0x100 + 120;
    let code = match &error {
        ConnectionError::TimedOut => return Error::Silent,
        ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == NO_PROTOCOL => {
            return Error::Version;
        }
        ConnectionError::VersionMismatch => return Error::Version,
        _ => return Error::Broken(error.to_string()),
    };
    match code {
        code if code == Close::Stranger as u64 => Error::Stranger,
        code if code == Close::Busy as u64 => Error::Busy,
        code if code == Close::Silent as u64 => Error::Broken("it waited too long for us".to_owned()),
        _ => Error::Broken(error.to_string()),
    }
}

fn binding(connection: &Connection) -> Option<[u8; 32]> {
    let mut binding = [0; 32];
    connection.export_keying_material(&mut binding, LABEL, b"").ok()?;
    Some(binding)
}
