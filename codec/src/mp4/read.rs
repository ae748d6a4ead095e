//! Frames out of MP4 files from anywhere, whole or fragmented.
//!
//! A file is hostile until shown otherwise: no length in it sizes an allocation before the bytes it speaks of are
//! there, every sample lies inside the file, and a table that promises more samples than any film has is refused. Only
//! the index is held in memory; samples are read one by one. Of edits, the delay before a track and the trimming
//! at its start are followed, which is what encoders write; films cut together by edits play uncut.

use std::io::{Read, Seek, SeekFrom};

use bytes::Bytes;
use mp4_atom as atom;
use mp4_atom::{Atom, ReadFrom};

use super::Error;
use crate::audio::Streams;
use crate::frame::Frame;
use crate::time::MediaTime;
use crate::video::annexb::{self, kind};

/// Most bytes of one index box: a day of film has about a third of it.
const INDEX_MAX: usize = 64 << 20;

/// Most samples of one track: more than a day at 30 pictures a second.
const SAMPLES_MAX: usize = 4 << 20;

/// Most boxes at the top of a file: a day in fragments of a tenth of a second.
const BOXES_MAX: usize = 1 << 20;

/// Largest sample. A keyframe of the largest picture we decode is below it.
const SAMPLE_BYTES_MAX: u32 = 16 << 20;

/// One kind of media in a file.
#[derive(Debug)]
pub enum Track<T> {
    /// The file has none.
    Missing,
    /// The file has one that we cannot decode; this names it.
    Foreign(String),
    /// It can be read.
    Found(T),
}

/// A track of H.264 pictures.
#[derive(Debug)]
pub struct Video {
    /// Pixels across, by the file's word.
    pub width: u16,
    /// Pixels down, by the file's word.
    pub height: u16,
    /// The samples in the order they are decoded.
    pub samples: Vec<Sample>,
    /// Bytes of a length before each unit, and parameter sets in Annex B form, for each description.
    descriptions: Vec<(usize, Vec<u8>)>,
}

/// A track of sound.
#[derive(Debug)]
pub enum Sound {
    /// AAC with its `AudioSpecificConfig` (ISO/IEC 14496-3 1.6.2.1).
    Aac {
        /// The configuration as stored.
        config: Vec<u8>,
        /// The samples in order.
        samples: Vec<Sample>,
    },
    /// Opus packets.
    Opus {
        /// How more than two channels lie in them.
        streams: Option<Streams>,
        /// The samples in order.
        samples: Vec<Sample>,
    },
}

impl Sound {
    /// The samples in order.
    pub fn samples(&self) -> &[Sample] {
        match self {
            Self::Aac { samples, .. } | Self::Opus { samples, .. } => samples,
        }
    }
}

/// Where one encoded unit lies and when it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When it is shown or heard, in microseconds from the film's start. Before the start, it is only decoded.
    pub at: i64,
    /// How long, in microseconds.
    pub lasts: u32,
    /// Decoding may begin here.
    pub keyframe: bool,
    description: u16,
    size: u32,
    offset: u64,
}

/// An MP4 file.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    /// Its pictures.
    pub video: Track<Video>,
    /// Its sound.
    pub sound: Track<Sound>,
}

impl<R: Read + Seek> Reader<R> {
    /// Reads the index. The first track of each kind counts.
    pub fn open(mut input: R) -> Result<Self, Error> {
        let length = input.seek(SeekFrom::End(0))?;
        let (moov, fragments) = boxes(&mut input, length)?;
        let (mut video, mut sound) = (Track::Missing, Track::Missing);
        for track in &moov.trak {
            match <[u8; 4]>::from(track.mdia.hdlr.handler).as_slice() {
                b"vide" if !matches!(video, Track::Found(_)) => video = video_of(&moov, track, &fragments, length)?,
                b"soun" if !matches!(sound, Track::Found(_)) => sound = sound_of(&moov, track, &fragments, length)?,
                _ => {}
            }
        }
        Ok(Self { input, video, sound })
    }

    /// Reads a picture in Annex B form, parameter sets before a keyframe. A time before the start is given as zero.
    pub fn picture(&mut self, index: usize) -> Result<Option<Frame>, Error> {
        let Track::Found(video) = &self.video else { return Ok(None) };
        let Some(&sample) = video.samples.get(index) else { return Ok(None) };
        let stored = read(&mut self.input, sample)?;
        let Some((prefix, sets)) = video.descriptions.get(usize::from(sample.description)) else {
            return Err(boxes_error("a picture has no description"));
        };
        let mut data = if sample.keyframe { sets.clone() } else { Vec::new() };
        if annexb::from_lengths(&stored, *prefix, &mut data).is_none() {
            return Err(boxes_error("a picture's units do not fill it"));
        }
        // A file may call a picture a place to start that only decodes after others; the stream knows.
        let keyframe = annexb::nals(&data).any(|nal| annexb::kind_of(nal) == kind::IDR);
        Ok(Some(Frame { at: time(sample.at), keyframe, discardable: false, data: data.into() }))
    }

    /// Reads a sound packet.
    pub fn packet(&mut self, index: usize) -> Result<Option<Frame>, Error> {
        let Track::Found(sound) = &self.sound else { return Ok(None) };
        let Some(&sample) = sound.samples().get(index) else { return Ok(None) };
        let data = Bytes::from(read(&mut self.input, sample)?);
        Ok(Some(Frame { at: time(sample.at), keyframe: true, discardable: false, data }))
    }
}

fn time(at: i64) -> MediaTime {
    MediaTime(u64::try_from(at).unwrap_or(0))
}

fn read<R: Read + Seek>(input: &mut R, sample: Sample) -> Result<Vec<u8>, Error> {
    input.seek(SeekFrom::Start(sample.offset))?;
    // The size was checked against the file's length and `SAMPLE_BYTES_MAX`.
    let mut data = vec![0; sample.size as usize];
    input.read_exact(&mut data)?;
    Ok(data)
}

/// A fragment's header and where it begins.
type Fragment = (u64, atom::Moof);

/// The index and the fragments' headers.
fn boxes<R: Read + Seek>(input: &mut R, length: u64) -> Result<(atom::Moov, Vec<Fragment>), Error> {
    let mut moov = None;
    let mut fragments = Vec::new();
    let mut at = 0;
    for _ in 0..BOXES_MAX {
        if length - at < 8 {
            break;
        }
        input.seek(SeekFrom::Start(at))?;
        let header = atom::Header::read_from(input)?;
        let body = input.stream_position()?;
        let size = header.size.map_or(length - body.min(length), |size| size as u64);
        let Some(end) = body.checked_add(size) else { return Err(boxes_error("a box is longer than any file")) };
        let wanted = header.kind == atom::Moov::KIND || header.kind == atom::Moof::KIND;
        if at == 0 && !looks_right(header.kind) {
            return Err(Error::Foreign("it does not begin as one".into()));
        }
        if wanted && end > length {
            return Err(boxes_error("it is cut off in its index"));
        }
        if wanted && size as usize > INDEX_MAX {
            return Err(boxes_error("its index is larger than that of any film"));
        }
        if header.kind == atom::Moov::KIND && moov.is_none() {
            moov = Some(parse::<R, atom::Moov>(input, size)?);
        } else if header.kind == atom::Moof::KIND {
            fragments.push((at, parse::<R, atom::Moof>(input, size)?));
        }
        if end >= length {
            break;
        }
        at = end;
    }
    let Some(moov) = moov else {
        return Err(boxes_error("it has no index (moov): it is cut off or was not finished"));
    };
    Ok((moov, fragments))
}

fn looks_right(kind: atom::FourCC) -> bool {
    let known: [&[u8; 4]; 8] = [b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"pnot"];
    known.contains(&&<[u8; 4]>::from(kind))
}

fn parse<R: Read, T: Atom>(input: &mut R, size: u64) -> Result<T, Error> {
    let mut body = Vec::new();
    input.take(size).read_to_end(&mut body)?;
    if body.len() as u64 != size {
        return Err(boxes_error("it is cut off in its index"));
    }
    Ok(T::decode_body(&mut &body[..])?)
}

fn boxes_error(found: &str) -> Error {
    Error::Boxes(found.to_owned())
}

fn video_of(moov: &atom::Moov, track: &atom::Trak, fragments: &[Fragment], length: u64) -> Result<Track<Video>, Error> {
    let codecs = &track.mdia.minf.stbl.stsd.codecs;
    let mut descriptions = Vec::new();
    let (mut width, mut height) = (0, 0);
    for codec in codecs {
        let (visual, avcc) = match codec {
            atom::Codec::Avc1(codec) => (&codec.visual, &codec.avcc),
            atom::Codec::Avc3(codec) => (&codec.visual, &codec.avcc),
            other => return Ok(Track::Foreign(name(other))),
        };
        (width, height) = (visual.width, visual.height);
        let mut sets = Vec::new();
        for set in avcc.sequence_parameter_sets.iter().chain(&avcc.picture_parameter_sets) {
            annexb::put(set, &mut sets);
        }
        descriptions.push((usize::from(avcc.length_size), sets));
    }
    let samples = samples(moov, track, fragments, length)?;
    if descriptions.is_empty() || samples.is_empty() {
        return Ok(Track::Missing);
    }
    Ok(Track::Found(Video { width, height, samples, descriptions }))
}

fn sound_of(moov: &atom::Moov, track: &atom::Trak, fragments: &[Fragment], length: u64) -> Result<Track<Sound>, Error> {
    let Some(codec) = track.mdia.minf.stbl.stsd.codecs.first() else { return Ok(Track::Missing) };
    let samples = || samples(moov, track, fragments, length);
    let sound = match codec {
        atom::Codec::Opus(codec) => {
            let streams = match &codec.dops.channel_mapping {
                // A single stream has one or two channels, and needs no map.
                Some(mapping) if mapping.family == 1 && mapping.stream_count > 1 => Some(Streams {
                    count: mapping.stream_count,
                    coupled: mapping.coupled_count,
                    mapping: mapping.channel_mapping.clone(),
                }),
                Some(mapping) if mapping.family > 1 => {
                    return Ok(Track::Foreign(format!("Opus of channel family {}", mapping.family)));
                }
                _ => None,
            };
            Sound::Opus { streams, samples: samples()? }
        }
        atom::Codec::Mp4a(codec) => {
            let config = &codec.esds.es_desc.dec_config;
            match (config.object_type_indication, &config.dec_specific) {
                (0x40 | 0x66..=0x68, Some(specific)) => {
                    Sound::Aac { config: specific.raw.clone(), samples: samples()? }
                }
                (0x69 | 0x6b, _) => return Ok(Track::Foreign("MP3".into())),
                (kind, _) => return Ok(Track::Foreign(format!("MPEG-4 sound of kind {kind:#x}"))),
            }
        }
        other => return Ok(Track::Foreign(name(other))),
    };
    Ok(if sound.samples().is_empty() { Track::Missing } else { Track::Found(sound) })
}

/// A codec as people know it.
fn name(codec: &atom::Codec) -> String {
    let known = match codec {
        atom::Codec::Hev1(_) | atom::Codec::Hvc1(_) => "HEVC (H.265)",
        atom::Codec::Av01(_) => "AV1",
        atom::Codec::Vp08(_) => "VP8",
        atom::Codec::Vp09(_) => "VP9",
        atom::Codec::Jpeg(_) => "Motion JPEG",
        atom::Codec::Mp3(_) => "MP3",
        atom::Codec::Ac3(_) | atom::Codec::Eac3(_) => "Dolby AC-3",
        atom::Codec::Flac(_) => "FLAC",
        atom::Codec::Unknown(kind, _) => return format!("\"{kind}\""),
        _ => "a codec we do not know",
    };
    known.to_owned()
}

/// Puts samples on the film's clock.
struct Clock {
    scale: u32,
    /// Media time that is the track's start.
    start: i64,
    /// The film's time at that start, in microseconds.
    delay: i64,
}

impl Clock {
    fn new(moov: &atom::Moov, track: &atom::Trak) -> Result<Self, Error> {
        let scale = track.mdia.mdhd.timescale;
        if scale == 0 {
            return Err(boxes_error("a track has a clock that stands still"));
        }
        let edits = track.edts.as_ref().and_then(|edits| edits.elst.as_ref()).map_or(&[][..], |list| &list.entries);
        let mut empty = 0_u64;
        let mut start = 0;
        for edit in edits {
            match edit.media_time {
                None => empty = empty.saturating_add(edit.segment_duration),
                Some(time) => {
                    start = i64::try_from(time).unwrap_or(i64::MAX);
                    break;
                }
            }
        }
        let delay = i128::from(empty) * 1_000_000 / i128::from(moov.mvhd.timescale.max(1));
        Ok(Self { scale, start, delay: clamp(delay) })
    }

    fn micros(&self, decode: u64, offset: i64) -> i64 {
        let media = i128::from(decode) + i128::from(offset) - i128::from(self.start);
        clamp(media * 1_000_000 / i128::from(self.scale) + i128::from(self.delay))
    }

    fn lasting(&self, ticks: u32) -> u32 {
        let micros = u64::from(ticks) * 1_000_000 / u64::from(self.scale);
        u32::try_from(micros).unwrap_or(u32::MAX)
    }
}

/// Within what arithmetic on microseconds can bear: a thousand years either way.
fn clamp(micros: i128) -> i64 {
    const FAR: i128 = 1_000 * 366 * 86_400 * 1_000_000;
    micros.clamp(-FAR, FAR) as i64
}

fn samples(moov: &atom::Moov, track: &atom::Trak, fragments: &[Fragment], length: u64) -> Result<Vec<Sample>, Error> {
    let clock = Clock::new(moov, track)?;
    let mut found = in_table(&track.mdia.minf.stbl, &clock, length)?;
    if moov.mvex.is_some() {
        in_fragments(moov, track.tkhd.track_id, fragments, &clock, length, &mut found)?;
    }
    Ok(found)
}

/// Repeats each value as often as its run says, and the last (or nothing) for ever.
fn runs<T: Copy + Default>(runs: impl Iterator<Item = (u32, T)>) -> impl FnMut() -> T {
    let mut runs = runs.filter(|(count, _)| *count > 0);
    let (mut left, mut value) = (0, T::default());
    move || {
        if left == 0
            && let Some((count, next)) = runs.next()
        {
            (left, value) = (count, next);
        }
        left = left.saturating_sub(1);
        value
    }
}

fn in_table(table: &atom::Stbl, clock: &Clock, length: u64) -> Result<Vec<Sample>, Error> {
    let (count, size_of): (usize, Box<dyn Fn(usize) -> u32>) = match &table.stsz.samples {
        atom::StszSamples::Identical { count, size } => (*count as usize, Box::new(|_| *size)),
        atom::StszSamples::Different { sizes } => (sizes.len(), Box::new(|index| sizes[index])),
    };
    if count > SAMPLES_MAX {
        return Err(boxes_error("its index promises more than any film has"));
    }
    let offsets: Vec<u64> = match (&table.stco, &table.co64) {
        (_, Some(large)) => large.entries.clone(),
        (Some(small), None) => small.entries.iter().map(|&offset| u64::from(offset)).collect(),
        (None, None) => Vec::new(),
    };
    let mut duration = runs(table.stts.entries.iter().map(|entry| (entry.sample_count, entry.sample_delta)));
    let delays = table.ctts.as_ref().map_or(&[][..], |delays| &delays.entries);
    let mut delay = runs(delays.iter().map(|entry| (entry.sample_count, entry.sample_offset)));
    let mut keyframes = table.stss.as_ref().map(|keyframes| keyframes.entries.iter().copied().peekable());
    let mut chunk_runs = table.stsc.entries.iter().peekable();
    let mut layout = (0, 0);

    let mut found = Vec::new();
    let mut decode = 0_u64;
    for (chunk, mut offset) in (1_u32..).zip(offsets) {
        while let Some(run) = chunk_runs.next_if(|run| run.first_chunk <= chunk) {
            layout = (run.samples_per_chunk, run.sample_description_index);
        }
        let (in_chunk, description) = layout;
        for _ in 0..in_chunk {
            let index = found.len();
            if index == count {
                break;
            }
            let number = index as u32 + 1;
            let keyframe = match &mut keyframes {
                None => true,
                Some(numbers) => {
                    while numbers.next_if(|&next| next < number).is_some() {}
                    numbers.peek() == Some(&number)
                }
            };
            let lasts = duration();
            let sample = sample(clock, decode, delay(), lasts, keyframe, description, size_of(index), offset, length)?;
            offset += u64::from(sample.size);
            decode = decode.saturating_add(u64::from(lasts));
            found.push(sample);
        }
    }
    if found.len() < count {
        return Err(boxes_error("its index does not say where all of it lies"));
    }
    Ok(found)
}

fn in_fragments(
    moov: &atom::Moov,
    track_id: u32,
    fragments: &[Fragment],
    clock: &Clock,
    length: u64,
    found: &mut Vec<Sample>,
) -> Result<(), Error> {
    let extends = moov.mvex.iter().flat_map(|mvex| &mvex.trex).find(|trex| trex.track_id == track_id);
    let defaults = extends.cloned().unwrap_or_default();
    let mut decode = 0_u64;
    for (start, moof) in fragments {
        for traf in moof.traf.iter().filter(|traf| traf.tfhd.track_id == track_id) {
            let head = &traf.tfhd;
            if let Some(time) = &traf.tfdt {
                decode = time.base_media_decode_time;
            }
            let base = head.base_data_offset.unwrap_or(*start);
            let mut offset = base;
            let description = head.sample_description_index.unwrap_or(defaults.default_sample_description_index).max(1);
            for run in &traf.trun {
                if let Some(from_base) = run.data_offset {
                    let Some(place) = base.checked_add_signed(i64::from(from_base)) else {
                        return Err(outside());
                    };
                    offset = place;
                }
                if found.len().saturating_add(run.samples.len()) > SAMPLES_MAX {
                    return Err(boxes_error("its fragments promise more than any film has"));
                }
                for entry in run.samples.iter() {
                    let or = |own: Option<u32>, head: Option<u32>, default| own.or(head).unwrap_or(default);
                    let lasts = or(entry.duration, head.default_sample_duration, defaults.default_sample_duration);
                    let size = or(entry.size, head.default_sample_size, defaults.default_sample_size);
                    let flags = or(entry.flags, head.default_sample_flags, defaults.default_sample_flags);
                    let keyframe = flags & 0x1_0000 == 0;
                    let cts = entry.cts.unwrap_or(0);
                    let sample = sample(clock, decode, cts, lasts, keyframe, description, size, offset, length)?;
                    offset += u64::from(size);
                    decode = decode.saturating_add(u64::from(lasts));
                    found.push(sample);
                }
            }
        }
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "a sample's row of a table, and what it is checked against")]
fn sample(
    clock: &Clock,
    decode: u64,
    delay: i64,
    lasts: u32,
    keyframe: bool,
    description: u32,
    size: u32,
    offset: u64,
    length: u64,
) -> Result<Sample, Error> {
    if offset.checked_add(u64::from(size)).is_none_or(|end| end > length) {
        return Err(outside());
    }
    if size > SAMPLE_BYTES_MAX {
        return Err(boxes_error("a frame is larger than any we can decode"));
    }
    let Some(description) = description.checked_sub(1).and_then(|index| u16::try_from(index).ok()) else {
        return Err(boxes_error("a frame has no description"));
    };
    Ok(Sample { at: clock.micros(decode, delay), lasts: clock.lasting(lasts), keyframe, description, size, offset })
}

fn outside() -> Error {
    boxes_error("its index points past its end: it is cut off")
}
