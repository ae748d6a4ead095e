//! MP4 films: H.264 decoded by our own decoder, AAC by symphonia, which knows one and two channels, Opus by our own.
//!
//! Picture and sound each read the file through a reader of their own, as they are rarely at the same place in it. A
//! frame that cannot be decoded is passed over, as a player would; a film of which nothing can be decoded is damaged.

use std::collections::VecDeque;
use std::fs;
use std::io::BufReader;
use std::path::Path;

use symphonia::core::audio::GenericAudioBufferRef;
use symphonia::core::codecs::audio::well_known::CODEC_ID_AAC;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration as Ticks, Timestamp};

use super::{Fault, Kind, Media, Parts};
use crate::audio::surround;
use crate::mp4::{self, Reader, Sample, Sound, Track};
use crate::picture::Picture;
use crate::samples::Samples;
use crate::time::MediaTime;
use crate::video::annexb::{self, Sequence, kind};
use crate::{audio, video};

type Input = Reader<BufReader<fs::File>>;

impl From<mp4::Error> for Fault {
    fn from(error: mp4::Error) -> Self {
        match error {
            mp4::Error::Disk(error) => Self::Disk(error),
            mp4::Error::Foreign(found) => Self::Foreign(found),
            other => Self::Damaged(other.to_string()),
        }
    }
}

/// What a film holds that can be played.
pub(super) fn parts(path: &Path) -> Result<Parts, Fault> {
    let reader = || -> Result<Input, Fault> { Ok(Reader::open(BufReader::new(fs::File::open(path)?))?) };
    let mut parts = Parts::default();
    let input = reader()?;
    let no_picture = match &input.video {
        Track::Missing => None,
        Track::Foreign(codec) => Some(format!("its pictures are {codec}")),
        Track::Found(_) => {
            parts.pictures = Some(Box::new(Pictures::open(input)?));
            None
        }
    };
    let input = reader()?;
    let no_sound = match &input.sound {
        Track::Missing => None,
        Track::Foreign(codec) => Some(format!("its sound is {codec}")),
        Track::Found(_) => match Sounds::open(input) {
            Ok(sounds) => {
                parts.sounds = Some(Box::new(sounds));
                None
            }
            Err(Fault::Foreign(why)) => Some(why),
            Err(fault) => return Err(fault),
        },
    };
    let advice = "only H.264 with AAC (LC, mono or stereo) or Opus can be played";
    let convert = "convert it, for example with `ffmpeg -i IN -c:v copy -c:a aac -ac 2 OUT.mp4`";
    match (no_picture, no_sound) {
        (Some(why), _) => Err(Fault::Foreign(format!("{why}, {advice}"))),
        (None, Some(why)) if parts.pictures.is_some() => {
            parts.without = Some((Kind::Sound, format!("{why}, {advice}: {convert}")));
            Ok(parts)
        }
        (None, Some(why)) => Err(Fault::Foreign(format!("{why}, {advice}"))),
        (None, None) if parts.pictures.is_none() && parts.sounds.is_none() => {
            Err(Fault::Foreign(format!("it holds neither pictures nor sound, {advice}")))
        }
        (None, None) => Ok(parts),
    }
}

/// Added to times while decoding, as those before the film's start are negative: eleven days.
const SHIFT: i64 = 1_000_000_000_000;

struct Pictures {
    input: Input,
    samples: Vec<Sample>,
    decoder: video::Decoder,
    next: usize,
    ready: VecDeque<Picture>,
    /// Time of the last picture given.
    given: Option<MediaTime>,
    /// Pictures decoded in this pass.
    decoded: u64,
    /// When the last picture is over.
    end: MediaTime,
}

impl Pictures {
    fn open(mut input: Input) -> Result<Self, Fault> {
        let Track::Found(video) = &input.video else { return Err(Fault::Damaged("its pictures are gone".into())) };
        let samples = video.samples.clone();
        let end = samples.iter().map(|sample| sample.at.saturating_add(i64::from(sample.lasts))).max().unwrap_or(0);
        if let Some(first) = input.picture(0)? {
            let sets = annexb::nals(&first.data).filter(|nal| annexb::kind_of(nal) == kind::SPS);
            for sequence in sets.filter_map(Sequence::parse) {
                if let Some(found) = beyond(&sequence) {
                    return Err(Fault::Foreign(found));
                }
            }
        }
        let end = MediaTime(u64::try_from(end).unwrap_or(0));
        Ok(Self { input, samples, decoder: decoder()?, next: 0, ready: VecDeque::new(), given: None, decoded: 0, end })
    }

    /// Decodes one more sample.
    fn advance(&mut self, sample: Sample) -> Result<(), Fault> {
        let Some(frame) = self.input.picture(self.next)? else { return Ok(()) };
        self.next += 1;
        let at = MediaTime(u64::try_from(sample.at.saturating_add(SHIFT)).unwrap_or(0));
        match self.decoder.decode(at, &frame.data) {
            Ok(picture) => self.ready.extend(picture),
            Err(video::Error::Size { width, height }) => {
                return Err(Fault::Foreign(format!("its pictures are {width}x{height}, larger than can be used")));
            }
            Err(error) => tracing::debug!(%error, number = self.next - 1, "a picture of a film was passed over"),
        }
        Ok(())
    }
}

impl Media<Picture> for Pictures {
    fn next(&mut self) -> Result<Option<(Picture, MediaTime)>, Fault> {
        loop {
            while let Some(mut picture) = self.ready.pop_front() {
                self.decoded += 1;
                // What lies before the start is only needed to decode what follows, and after damage the decoder may
                // give a picture whose turn is over.
                let at = picture.at.micros().checked_sub(SHIFT as u64).map(MediaTime);
                if let Some(at) = at.filter(|&at| self.given.is_none_or(|given| at > given)) {
                    self.given = Some(at);
                    picture.at = at;
                    return Ok(Some((picture, self.end)));
                }
            }
            match self.samples.get(self.next) {
                Some(&sample) => self.advance(sample)?,
                None => {
                    // Once at the end; after that there is nothing to flush.
                    let rest = self.decoder.flush().unwrap_or_default();
                    if rest.is_empty() {
                        break;
                    }
                    self.ready.extend(rest);
                }
            }
        }
        if self.decoded == 0 {
            return Err(Fault::Damaged("none of its pictures can be decoded".into()));
        }
        Ok(None)
    }

    fn rewind(&mut self) -> Result<(), Fault> {
        self.decoder = decoder()?;
        self.next = 0;
        self.given = None;
        self.decoded = 0;
        self.ready.clear();
        Ok(())
    }
}

fn decoder() -> Result<video::Decoder, Fault> {
    video::Decoder::new().map_err(|error| Fault::Damaged(error.to_string()))
}

/// What of a stream is beyond the decoder.
fn beyond(sequence: &Sequence) -> Option<String> {
    let chroma = ["grey", "4:2:0", "4:2:2", "4:4:4"].get(sequence.chroma as usize).copied().unwrap_or("unknown");
    if sequence.depth != 8 || sequence.chroma != 1 {
        return Some(format!(
            "its pictures are H.264 with {} bits, {chroma}; only 8 bits, 4:2:0 can be decoded",
            sequence.depth
        ));
    }
    if !sequence.progressive {
        return Some("its pictures are interlaced H.264; only whole frames can be decoded".into());
    }
    None
}

struct Sounds {
    input: Input,
    samples: Vec<Sample>,
    decoder: Decoder,
    next: usize,
    decoded: u64,
}

enum Decoder {
    Aac { config: Vec<u8>, decoder: Box<dyn AudioDecoder> },
    Opus(audio::Decoder),
    Surround(surround::Decoder),
}

impl Sounds {
    fn open(input: Input) -> Result<Self, Fault> {
        let Track::Found(sound) = &input.sound else { return Err(Fault::Damaged("its sound is gone".into())) };
        let decoder = match sound {
            Sound::Aac { config, .. } => Decoder::Aac { config: config.clone(), decoder: aac(config)? },
            Sound::Opus { streams: None, .. } => Decoder::Opus(opus()?),
            Sound::Opus { streams: Some(streams), .. } => {
                Decoder::Surround(surround::Decoder::new(streams).map_err(refused)?)
            }
        };
        let samples = sound.samples().to_vec();
        Ok(Self { input, samples, decoder, next: 0, decoded: 0 })
    }
}

impl Media<Samples> for Sounds {
    fn next(&mut self) -> Result<Option<(Samples, MediaTime)>, Fault> {
        while let Some(&sample) = self.samples.get(self.next) {
            let Some(packet) = self.input.packet(self.next)? else { break };
            self.next += 1;
            let Some(decoded) = self.decoder.decode(&packet.data) else {
                tracing::debug!(number = self.next - 1, "a sound packet of a film was passed over");
                continue;
            };
            self.decoded += 1;
            if let Some(samples) = from_start(decoded, sample.at) {
                let end = samples.end();
                return Ok(Some((samples, end)));
            }
        }
        if self.decoded == 0 {
            return Err(Fault::Damaged("none of its sound can be decoded".into()));
        }
        Ok(None)
    }

    fn rewind(&mut self) -> Result<(), Fault> {
        self.decoder = match &self.decoder {
            Decoder::Aac { config, .. } => Decoder::Aac { config: config.clone(), decoder: aac(config)? },
            Decoder::Opus(_) => Decoder::Opus(opus()?),
            Decoder::Surround(decoder) => Decoder::Surround(decoder.again().map_err(refused)?),
        };
        self.next = 0;
        self.decoded = 0;
        Ok(())
    }
}

/// Puts decoded sound on the film's clock and cuts off what lies before the start.
fn from_start(mut samples: Samples, at: i64) -> Option<Samples> {
    let before = u64::try_from(at.saturating_neg()).unwrap_or(0);
    let cut = (u128::from(before) * u128::from(samples.rate) / 1_000_000) as usize;
    if cut >= samples.len() {
        return None;
    }
    samples.pcm.drain(..cut * usize::from(samples.channels));
    samples.at = MediaTime(u64::try_from(at).unwrap_or(0));
    Some(samples)
}

impl Decoder {
    /// The sound of one packet, at no particular time; `None` when it is damaged.
    fn decode(&mut self, packet: &[u8]) -> Option<Samples> {
        match self {
            Self::Opus(decoder) => decoder.decode(MediaTime::ZERO, packet).ok(),
            Self::Surround(decoder) => decoder.decode(MediaTime::ZERO, packet).ok(),
            Self::Aac { decoder, .. } => {
                let packet = Packet::new(0, Timestamp::new(0), Ticks::from(0_u64), packet);
                interleaved(&decoder.decode(&packet).ok()?)
            }
        }
    }
}

fn interleaved(decoded: &GenericAudioBufferRef<'_>) -> Option<Samples> {
    let channels = u16::try_from(decoded.num_planes()).ok()?;
    let mut pcm = Vec::new();
    decoded.copy_to_vec_interleaved::<i16>(&mut pcm);
    Some(Samples { rate: decoded.spec().rate(), channels, pcm, at: MediaTime::ZERO })
}

fn aac(config: &[u8]) -> Result<Box<dyn AudioDecoder>, Fault> {
    let mut parameters = AudioCodecParameters::new();
    parameters.for_codec(CODEC_ID_AAC).with_extra_data(config.into());
    let decoder = symphonia::default::get_codecs().make_audio_decoder(&parameters, &AudioDecoderOptions::default());
    decoder.map_err(|_| Fault::Foreign(format!("its sound is AAC {}", beyond_aac(config))))
}

/// What of an AAC stream is beyond the decoder, from its `AudioSpecificConfig` (ISO/IEC 14496-3 1.6.2.1).
fn beyond_aac(config: &[u8]) -> String {
    let bits =
        config.iter().take(2).fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (16 - 8 * config.len().min(2));
    let (kind, rate, channels) = (bits >> 11, bits >> 7 & 0xf, bits >> 3 & 0xf);
    match (kind, rate, channels) {
        (2, 0..=12, 3..=6) => format!("with {channels} channels"),
        (2, 0..=12, 7) => "with 8 channels".into(),
        (2, 0..=12, 0 | 8..) => "with channels of an order of its own".into(),
        (2, ..) => "of an unusual form".into(),
        (5 | 29, ..) => "of the high-efficiency profile (HE-AAC)".into(),
        _ => format!("of another profile than LC (number {kind})"),
    }
}

fn opus() -> Result<audio::Decoder, Fault> {
    audio::Decoder::new().map_err(refused)
}

fn refused(error: audio::Error) -> Fault {
    Fault::Damaged(error.to_string())
}
