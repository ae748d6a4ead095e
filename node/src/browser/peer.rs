//! One WebRTC connection: an offer taken, an answer given, and then datagrams in and out.
//!
//! str0m does no input or output of its own; this is the loop around it that both directions share. We are the lite side
//! of ICE (RFC 8445): the browser tries, we answer, so a browser that is gone is noticed by its silence.
//!
//! Only what the mesh carries is agreed on: H.264 constrained baseline in packetization mode 1 and Opus, at most one of
//! each, no data channels.

use std::sync::Arc;
use std::time::{Duration, Instant};

use str0m::bwe::Bitrate;
use str0m::change::SdpOffer;
use str0m::config::{CryptoProvider, DtlsCert};
use str0m::media::{KeyframeRequestKind, MediaKind, MediaTime, Mid, Pt, Rid};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, IceConnectionState, IceCreds, Input, Output, Rtc, RtcConfig};
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::Refusal;
use super::socket::{Datagram, Open, Socket};

/// A browser that took our answer is there within this time.
const CONNECT_MAX: Duration = Duration::from_secs(20);
/// A browser that is there checks its connection every few seconds (RFC 7675); one that is silent for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Answers of the library to one moment. It is done after a few, or never.
const TURNS_MAX: usize = 20_000;
/// H.264 constrained baseline, level 3.1: what every browser encodes and decodes.
const PROFILE: u32 = 0x42_e01f;
/// Payload types of our own offers; in answers the browser's are used.
const H264: (u8, u8) = (108, 109);
/// What a microphone's Opus is asked to be: constant in rate, as on an encrypted line sizes would tell who speaks, and mono.
const OPUS: &str = "cbr=1;usedtx=0;stereo=0;sprop-stereo=0;maxaveragebitrate=32000";
/// Packets kept for browsers that missed some: two seconds of the picture, a second of sound.
const RESEND: (usize, usize) = (1_000, 50);

/// What all connections share.
#[derive(Debug)]
pub(super) struct Terms {
    crypto: Arc<CryptoProvider>,
    certificate: DtlsCert,
    socket: Arc<Socket>,
}

impl Terms {
    /// Makes the certificate that all connections of this run show; `None` when the library cannot.
    pub(super) fn new(socket: Arc<Socket>) -> Option<Terms> {
        let crypto = Arc::new(str0m::crypto::from_feature_flags());
        let certificate = crypto.dtls_provider.generate_certificate()?;
        Some(Terms { crypto, certificate, socket })
    }
}

/// A connection.
pub(super) struct Peer {
    rtc: Rtc,
    open: Open,
    datagrams: mpsc::Receiver<Datagram>,
    timeout: Instant,
    /// Until when the browser must be there; `None` once it is.
    connect_by: Option<Instant>,
    /// When anything came from it.
    heard: Instant,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// As it should, or by silence.
    #[error("it left")]
    Left,
    /// It never came.
    #[error("it never came")]
    Never,
    /// It did something the library does not take.
    #[error("{0}")]
    Broken(String),
}

impl Peer {
    /// Takes a browser's offer and gives our answer. May panic on an offer that finds a fault of the library: to be called
    /// in a task of its own.
    pub(super) fn answer(terms: &Terms, offer: &str) -> Result<(Peer, String), Refusal> {
        check(offer)?;
        let offer = SdpOffer::from_sdp_string(offer).map_err(|error| Refusal::Offer(error.to_string()))?;
        let credentials = IceCreds::new();
        let fragment = credentials.ufrag.clone();
        let now = Instant::now();
        let mut config = RtcConfig::new()
            .clear_codecs()
            .enable_opus(true, false)
            .set_ice_lite(true)
            .set_crypto_provider(Arc::clone(&terms.crypto))
            .set_dtls_cert(terms.certificate.clone())
            .set_local_ice_credentials(credentials)
            .set_send_buffer_video(RESEND.0)
            .set_send_buffer_audio(RESEND.1);
        config.codec_config().add_h264(H264.0.into(), Some(H264.1.into()), true, PROFILE);
        let mut rtc = config.build(now);
        let host = Candidate::host(terms.socket.at(), "udp").map_err(|error| Refusal::Offer(error.to_string()))?;
        rtc.add_local_candidate(host);
        let answer = rtc.sdp_api().accept_offer(offer).map_err(|error| Refusal::Offer(error.to_string()))?;
        let answer = finished(&answer.to_sdp_string());
        let (open, datagrams) = terms.socket.open(&fragment);
        Ok((Peer { rtc, open, datagrams, timeout: now, connect_by: Some(now + CONNECT_MAX), heard: now }, answer))
    }

    /// Waits for the network or for time to pass, and takes what came. Can be dropped at any moment without loss.
    pub(super) async fn wait(&mut self) -> Result<(), Ended> {
        let limit = self.connect_by.unwrap_or(self.heard + SILENCE_MAX);
        let until = self.timeout.min(limit);
        tokio::select! {
            datagram = self.datagrams.recv() => match datagram {
                Some(datagram) => self.take(&datagram),
                None => Err(Ended::Left),
            },
            () = sleep_until(until.into()) => {
                let now = Instant::now();
                if limit <= now {
                    return Err(if self.connect_by.is_some() { Ended::Never } else { Ended::Left });
                }
                self.rtc.handle_input(Input::Timeout(now)).map_err(broken)
            }
        }
    }

    fn take(&mut self, datagram: &Datagram) -> Result<(), Ended> {
        let at = self.open.socket.at();
        // What is no packet of a kind we know is dropped.
        let Ok(receive) = Receive::new(Protocol::Udp, datagram.from, at, &datagram.bytes) else { return Ok(()) };
        let input = Input::Receive(Instant::now(), receive);
        if !self.rtc.accepts(&input) {
            return Ok(());
        }
        self.heard = Instant::now();
        self.rtc.handle_input(input).map_err(broken)
    }

    /// Sends what is due and gives the next event; `None` when there is nothing more to do now.
    pub(super) fn work(&mut self) -> Result<Option<Event>, Ended> {
        for _ in 0..TURNS_MAX {
            match self.rtc.poll_output().map_err(broken)? {
                Output::Transmit(transmit) => self.open.socket.send(&transmit.contents, transmit.destination),
                Output::Timeout(at) => {
                    let now = Instant::now();
                    if at > now {
                        self.timeout = at;
                        return if self.rtc.is_alive() { Ok(None) } else { Err(Ended::Left) };
                    }
                    self.rtc.handle_input(Input::Timeout(now)).map_err(broken)?;
                }
                Output::Event(Event::Connected) => self.connect_by = None,
                Output::Event(Event::Closed | Event::IceConnectionStateChange(IceConnectionState::Disconnected)) => {
                    return Err(Ended::Left);
                }
                Output::Event(event) => return Ok(Some(event)),
            }
        }
        Err(Ended::Broken("the WebRTC library does not come to an end".into()))
    }

    /// Whether the browser is there.
    pub(super) fn is_connected(&self) -> bool {
        self.connect_by.is_none()
    }

    /// The payload type agreed on for a media line we send.
    pub(super) fn payload_type(&mut self, mid: Mid) -> Option<Pt> {
        self.rtc.writer(mid)?.payload_params().next().map(|params| params.pt())
    }

    /// Sends a frame captured at `wallclock`, which is not in the future, with this time.
    pub(super) fn send(&mut self, mid: Mid, pt: Pt, wallclock: Instant, at_us: u64, data: &[u8]) -> Result<(), Ended> {
        let Some(writer) = self.rtc.writer(mid) else { return Ok(()) };
        writer.write(pt, wallclock, MediaTime::from_micros(at_us), data).map_err(broken)
    }

    /// Asks the browser for a keyframe of a layer. Nothing happens before its first packet came.
    pub(super) fn ask_keyframe(&mut self, mid: Mid, rid: Option<Rid>) {
        if let Some(mut writer) = self.rtc.writer(mid)
            && let Err(error) = writer.request_keyframe(rid, KeyframeRequestKind::Pli)
        {
            tracing::trace!(%error, "no keyframe can be asked for");
        }
    }

    /// Lets a layer have so many bits per second: what the browser's own estimate of the line is bounded by.
    pub(super) fn limit(&mut self, mid: Mid, rid: Option<Rid>, bits: u32) {
        if let Some(stream) = self.rtc.direct_api().stream_rx_by_mid(mid, rid) {
            stream.request_remb(Bitrate::from(u64::from(bits)));
        }
    }

    /// Says goodbye, as far as that goes without waiting.
    pub(super) fn close(&mut self) {
        if self.rtc.close().is_ok() {
            while let Ok(Output::Transmit(transmit)) = self.rtc.poll_output() {
                self.open.socket.send(&transmit.contents, transmit.destination);
            }
        }
    }
}

fn broken(error: str0m::RtcError) -> Ended {
    Ended::Broken(error.to_string())
}

/// Refuses offers of more than a room sends, before the library looks at them.
fn check(offer: &str) -> Result<(), Refusal> {
    let kinds: Vec<&str> = offer.lines().filter_map(|line| line.strip_prefix("m=")?.split(' ').next()).collect();
    let count = |kind: MediaKind| {
        let word = if kind.is_audio() { "audio" } else { "video" };
        kinds.iter().filter(|known| **known == word).count()
    };
    let (audio, video) = (count(MediaKind::Audio), count(MediaKind::Video));
    if audio > 1 || video > 1 || audio + video != kinds.len() || kinds.is_empty() {
        let found = "it must have at most one audio and one video line, and nothing else";
        return Err(Refusal::Offer(found.to_owned()));
    }
    Ok(())
}

/// Our answer as a browser should have it: sound and picture in one stream, so that it keeps them together, and Opus as the
/// record wants it.
fn finished(answer: &str) -> String {
    let streams: Vec<&str> =
        answer.lines().filter_map(|line| line.strip_prefix("a=msid:")?.split(' ').next()).collect();
    let mut text = answer.to_owned();
    if let Some((first, others)) = streams.split_first() {
        for other in others.iter().filter(|other| *other != first && other.len() >= 8) {
            text = text.replace(other, first);
        }
    }
    let opus: Option<String> = text.lines().find_map(|line| {
        let (pt, codec) = line.strip_prefix("a=rtpmap:")?.split_once(' ')?;
        codec.to_ascii_lowercase().starts_with("opus/").then(|| format!("a=fmtp:{pt} "))
    });
    let lines = text.lines().map(|line| match &opus {
        Some(opus) if line.starts_with(opus.as_str()) => format!("{line};{OPUS}\r\n"),
        _ => format!("{line}\r\n"),
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_of_more_than_a_room_sends_is_refused() {
        let of = |kinds: &[&str]| kinds.iter().map(|kind| format!("m={kind} 9 UDP/TLS/RTP/SAVPF 96\r\n")).collect();
        for good in [&["audio", "video"][..], &["video"], &["audio"]] {
            let offer: String = of(good);
            assert!(check(&offer).is_ok(), "{good:?}");
        }
        for bad in [&[][..], &["audio", "audio"], &["video", "video"], &["audio", "video", "application"], &["text"]] {
            let offer: String = of(bad);
            assert!(check(&offer).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sound_and_picture_of_an_answer_are_one_stream() {
        let answer = "a=msid:aaaaaaaaaa one\r\na=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10\r\n\
                      a=msid:bbbbbbbbbb two\r\na=ssrc:7 msid:bbbbbbbbbb two\r\n";
        let finished = finished(answer);
        assert!(!finished.contains("bbbbbbbbbb"), "{finished}");
        assert!(finished.contains("a=ssrc:7 msid:aaaaaaaaaa two\r\n"), "{finished}");
        assert!(finished.contains("a=fmtp:111 minptime=10;cbr=1;"), "{finished}");
    }
}
