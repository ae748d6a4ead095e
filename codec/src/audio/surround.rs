//! Sound for more than two loudspeakers, brought into one channel.
//!
//! A mean of all channels would halve a voice that a film has in the centre alone, and count the bass effects as much as
//! the speech. So the channels are weighted as ITU-R BS.775 does for one channel from five (its table of downward
//! mixing), and then all made quieter alike, so that no sum of full scale overflows.

use super::{Error, PACKET_BYTES_MAX, PACKET_SAMPLES_MAX, RATE, library};
use crate::samples::Samples;
use crate::time::MediaTime;

/// Where a loudspeaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaker {
    /// Left or right.
    Front,
    Centre,
    /// One of two or more at the sides or behind.
    Surround,
    /// The only one behind.
    Back,
    /// Of effects in the bass, which mean nothing by themselves.
    Low,
}

impl Speaker {
    fn weight(self) -> f32 {
        match self {
            Self::Front | Self::Back => std::f32::consts::FRAC_1_SQRT_2,
            Self::Centre => 1.0,
            Self::Surround => 0.5,
            Self::Low => 0.0,
        }
    }
}

use Speaker::{Back, Centre, Front, Low, Surround};

/// Loudspeakers by the bits of a WAV file's channel mask, least first (Microsoft, `WAVEFORMATEXTENSIBLE`). Higher bits
/// are loudspeakers at the ceiling.
const WAVE: [Speaker; 11] = [Front, Front, Centre, Low, Surround, Surround, Front, Front, Back, Surround, Surround];

/// The weights of the channels of one sound.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Downmix(Vec<f32>);

impl Downmix {
    /// For channels in the order of a WAV file that says which loudspeakers it has. A mask that names others than there
    /// are channels counts as none.
    pub(crate) fn wave(channels: u16, mask: Option<u32>) -> Self {
        let named = |mask: u32| -> Vec<Speaker> {
            (0..32).filter(|bit| mask >> bit & 1 == 1).map(|bit| WAVE.get(bit).copied().unwrap_or(Surround)).collect()
        };
        let usual: &[Speaker] = match channels {
            3 => &[Front, Front, Centre],
            4 => &[Front, Front, Surround, Surround],
            5 => &[Front, Front, Centre, Surround, Surround],
            6 => &[Front, Front, Centre, Low, Surround, Surround],
            7 => &[Front, Front, Centre, Low, Back, Surround, Surround],
            8 => &[Front, Front, Centre, Low, Surround, Surround, Surround, Surround],
            _ => &[],
        };
        match mask.map(named).filter(|named| named.len() == usize::from(channels)) {
            Some(named) => Self::of(&named, channels),
            None => Self::of(usual, channels),
        }
    }

    /// For channels in the order of Vorbis, which Opus has too (RFC 7845 section 5.1.1.2).
    fn vorbis(channels: u16) -> Self {
        let speakers: &[Speaker] = match channels {
            3 => &[Front, Centre, Front],
            4 => &[Front, Front, Surround, Surround],
            5 => &[Front, Centre, Front, Surround, Surround],
            6 => &[Front, Centre, Front, Surround, Surround, Low],
            7 => &[Front, Centre, Front, Surround, Surround, Back, Low],
            8 => &[Front, Centre, Front, Surround, Surround, Surround, Surround, Low],
            _ => &[],
        };
        Self::of(speakers, channels)
    }

    /// Channels of which nothing is known, or that are all bass, count alike.
    fn of(speakers: &[Speaker], channels: u16) -> Self {
        let mut weights: Vec<f32> = speakers.iter().map(|speaker| speaker.weight()).collect();
        if weights.iter().sum::<f32>() <= 0.0 {
            weights = vec![1.0; usize::from(channels.max(1))];
        }
        let sum: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
        Self(weights)
    }

    /// One channel of these, which are interleaved.
    pub(crate) fn mix(&self, pcm: &[i16]) -> Vec<i16> {
        let moments = pcm.chunks_exact(self.0.len());
        let sum = |moment: &[i16]| moment.iter().zip(&self.0).map(|(&value, weight)| f32::from(value) * weight).sum();
        // The conversion saturates.
        moments.map(|moment| f32::round(sum(moment)) as i16).collect()
    }
}

/// How the channels of an Opus track lie in its streams (RFC 7845 section 5.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streams {
    /// Streams in each packet.
    pub count: u8,
    /// How many of them have two channels; they come first.
    pub coupled: u8,
    /// The channel of the streams that each loudspeaker plays, in the order of Vorbis.
    pub mapping: Vec<u8>,
}

/// Decodes an Opus track of several streams to 48 kHz mono.
#[derive(Debug)]
pub(crate) struct Decoder {
    library: opus::MSDecoder,
    streams: Streams,
    downmix: Downmix,
}

impl Decoder {
    pub(crate) fn new(streams: &Streams) -> Result<Self, Error> {
        let what = library("starting a decoder");
        let channels = u16::try_from(streams.mapping.len()).unwrap_or(u16::MAX);
        Ok(Self {
            library: opus::MSDecoder::new(RATE, streams.count, streams.coupled, &streams.mapping).map_err(what)?,
            streams: streams.clone(),
            downmix: Downmix::vorbis(channels),
        })
    }

    /// One that has decoded nothing, for the same track.
    pub(crate) fn again(&self) -> Result<Self, Error> {
        Self::new(&self.streams)
    }

    /// The sound of one packet, heard at `at`.
    pub(crate) fn decode(&mut self, at: MediaTime, packet: &[u8]) -> Result<Samples, Error> {
        let damaged = Error::Damaged { bytes: packet.len() };
        if packet.is_empty() || packet.len() > PACKET_BYTES_MAX * usize::from(self.streams.count) {
            return Err(damaged);
        }
        let channels = self.streams.mapping.len();
        let mut pcm = vec![0; PACKET_SAMPLES_MAX * channels];
        let Ok(length) = self.library.decode(packet, &mut pcm, false) else { return Err(damaged) };
        pcm.truncate(length * channels);
        Ok(Samples { rate: RATE, channels: 1, pcm: self.downmix.mix(&pcm), at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_voice_in_the_centre_is_louder_than_the_sides_and_bass_is_silent() {
        // L R C LFE Ls Rs: as the recommendation has it, 0.7071 0.7071 1 - 0.5 0.5, by their sum.
        let five_one = Downmix::wave(6, Some(0x3f));
        let alone = |channel: usize| {
            let mut moment = [0; 6];
            moment[channel] = 10_000;
            five_one.mix(&moment)[0]
        };
        assert_eq!([0, 1, 2, 3, 4, 5].map(alone), [2_071, 2_071, 2_929, 0, 1_464, 1_464]);
        assert_eq!(Downmix::wave(6, None), five_one);
        assert_eq!(Downmix::vorbis(6).mix(&[0, 10_000, 0, 0, 0, 9_999]), [2_929]);
    }

    #[test]
    fn full_scale_everywhere_is_full_scale() {
        for channels in 3..=8 {
            for downmix in [Downmix::wave(channels, None), Downmix::vorbis(channels)] {
                for value in [i16::MIN, i16::MAX] {
                    let mixed = downmix.mix(&vec![value; 2 * usize::from(channels)]);
                    assert!(mixed.len() == 2 && mixed.iter().all(|mixed| mixed.abs_diff(value) <= 1), "{mixed:?}");
                }
            }
        }
    }

    #[test]
    fn a_mask_is_believed_where_it_fits_the_channels() {
        // Front pair and bass: 2.1, which has no centre.
        assert_eq!(Downmix::wave(3, Some(0b1011)).mix(&[8_000, 8_000, 32_000]), [8_000]);
        assert_eq!(Downmix::wave(3, Some(0b11)), Downmix::wave(3, None));
        assert_eq!(Downmix::wave(3, Some(1 << 31 | 0b11)).0.len(), 3);
        // Nothing but bass is still heard.
        assert_eq!(Downmix::wave(1, Some(0b1000)).mix(&[700]), [700]);
    }
}
