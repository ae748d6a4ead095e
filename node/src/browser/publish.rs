//! A browser that is this room's camera and microphone: what it encodes goes to the studio as it is.
//!
//! Echo is cancelled there, where sound is played and recorded by one program. The picture may come in two layers, named
//! `main` and `thumb`; one that comes without a name is the recorded one.

use std::time::UNIX_EPOCH;

use bytes::Bytes;
use codec::production::Layer;
use codec::video;
use store::id::TrackKind;
use str0m::Event;
use str0m::media::{MediaData, MediaKind, Mid, Rid};
use tokio::sync::{mpsc, oneshot};

use super::clock::{Offset, Report, Stream};
use super::peer::{Ended, Peer};
use super::{Layer as Named, Refusal, Seat, UNITS_MAX};
use crate::studio::inlet::{Asks, Inlet};
use crate::studio::intake::{self, Input};

/// RTP times of sound and of pictures count so many a second (RFC 7587, RFC 6184).
const RATES: (u32, u32) = (48_000, 90_000);

/// What the small layer and the sound may add to the recorded picture, in bits per second.
const THUMB_BITS: u32 = 200_000;

struct Publishing {
    peer: Peer,
    inlet: Inlet,
    picture: Option<Mid>,
    /// Whether its picture comes in layers with names.
    named: bool,
    offset: Offset,
    sound_times: Stream,
    main_times: Stream,
    thumb_times: Stream,
    asked: Asks,
    /// What the browser was told the recorded picture may use.
    limited: Option<u32>,
    /// Its turn as the room's camera, once it is connected.
    turn: Option<u64>,
}

/// Serves one connection to its end.
pub(super) async fn run(
    seat: Seat,
    inlet: Inlet,
    offer: String,
    reply: oneshot::Sender<Result<String, Refusal>>,
    mut orders: mpsc::Receiver<Named>,
) {
    let peer = match Peer::answer(&seat.shared.terms, &offer) {
        Ok((peer, answer)) => {
            if reply.send(Ok(answer)).is_err() {
                return;
            }
            peer
        }
        Err(refusal) => return drop(reply.send(Err(refusal))),
    };
    let asked = *inlet.asks().borrow();
    let mut publishing = Publishing {
        peer,
        inlet,
        picture: None,
        named: false,
        offset: Offset::default(),
        sound_times: Stream::new(RATES.0),
        main_times: Stream::new(RATES.1),
        thumb_times: Stream::new(RATES.1),
        asked,
        limited: None,
        turn: None,
    };
    let ended = publishing.run(&seat, &mut orders).await;
    publishing.peer.close();
    if let Some(turn) = publishing.turn {
        publishing.inlet.leave(turn);
    }
    match ended {
        Ended::Left | Ended::Never => tracing::info!(%ended, "the browser with the room's camera is gone"),
        Ended::Broken(_) => tracing::warn!(%ended, "the connection of the browser with the room's camera broke"),
    }
}

impl Publishing {
    async fn run(&mut self, seat: &Seat, orders: &mut mpsc::Receiver<Named>) -> Ended {
        let mut asks = self.inlet.asks();
        loop {
            loop {
                match self.peer.work() {
                    Ok(Some(event)) => self.event(event),
                    Ok(None) => break,
                    Err(ended) => return ended,
                }
            }
            if self.turn.is_none() && self.peer.is_connected() {
                tracing::info!("a browser gives the room's camera and microphone");
                self.turn = Some(self.inlet.join());
                // Only now, so that an offer nobody stands behind costs nobody anything.
                seat.shared.is_camera(&seat.id);
            }
            tokio::select! {
                waited = self.peer.wait() => if let Err(ended) = waited { return ended },
                changed = asks.changed() => {
                    if changed.is_err() {
                        return Ended::Left;
                    }
                    let now = *asks.borrow_and_update();
                    self.ask(now);
                }
                // It has nothing to be told; the end of this is its end.
                order = orders.recv() => if order.is_none() { return Ended::Left },
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::MediaAdded(added) if added.kind == MediaKind::Video => {
                self.picture = Some(added.mid);
                self.named = added.simulcast.is_some_and(|simulcast| !simulcast.recv.is_empty());
            }
            Event::MediaData(data) => self.take(&data),
            _ => {}
        }
    }

    fn take(&mut self, data: &MediaData) {
        let layer = match (Some(data.mid) == self.picture, data.rid.as_ref()) {
            (false, _) => Layer::Audio,
            (true, None) => Layer::Main,
            (true, Some(rid)) if **rid == *TrackKind::Main.name() => Layer::Main,
            (true, Some(rid)) if **rid == *TrackKind::Thumb.name() => Layer::Thumb,
            (true, Some(_)) => return,
        };
        let Some(turn) = self.turn else { return };
        let is_picture = layer != Layer::Audio;
        // What is too much for us to pass on, and would be for every browser, is not copied first.
        let excess = data.data.len() > intake::FRAME_BYTES_MAX
            || is_picture && video::units(&data.data, UNITS_MAX + 1) > UNITS_MAX;
        if is_picture && (excess || !data.contiguous) {
            self.inlet.tell(turn, Input::Lost(layer));
        }
        if excess {
            return;
        }
        if layer == Layer::Main {
            self.limit(data.mid);
        }
        let report = data.last_sender_info.and_then(|info| {
            let moment_us = i64::try_from(info.ntp_time.duration_since(UNIX_EPOCH).ok()?.as_micros()).ok()?;
            Some(Report { moment_us, rtp: low(info.rtp_time.numer()) })
        });
        let times = match layer {
            Layer::Audio => &mut self.sound_times,
            Layer::Main => &mut self.main_times,
            Layer::Thumb => &mut self.thumb_times,
        };
        let now = self.inlet.local(data.network_time);
        let at = times.captured(now, low(data.time.numer()), report, &mut self.offset);
        let key = layer == Layer::Audio || video::begins(&data.data);
        let frame = intake::frame(at, key, Bytes::copy_from_slice(&data.data));
        self.inlet.tell(turn, Input::Frame { layer, frame });
    }

    /// Tells the browser what its picture may use, unless it knows. It hears nothing before its first picture came.
    fn limit(&mut self, mid: Mid) {
        if let Some(bits) = self.asked.bits.filter(|_| self.asked.bits != self.limited) {
            // All layers together are bounded; the small one takes little.
            let rid = self.named.then(|| Rid::from(TrackKind::Main.name()));
            self.peer.limit(mid, rid, bits.saturating_add(THUMB_BITS));
            self.limited = self.asked.bits;
        }
    }

    fn ask(&mut self, now: Asks) {
        let Some(mid) = self.picture else { return };
        let rid = |name: &str| self.named.then(|| Rid::from(name));
        if now.main != self.asked.main {
            self.peer.ask_keyframe(mid, rid(TrackKind::Main.name()));
        }
        if now.thumb != self.asked.thumb && self.named {
            self.peer.ask_keyframe(mid, rid(TrackKind::Thumb.name()));
        }
        self.asked = now;
    }
}

/// RTP times are these bits; the library counts how often they wrapped.
fn low(rtp: u64) -> u32 {
    (rtp & u64::from(u32::MAX)) as u32
}
