//! Frames into MP4 files: a whole one, or one fragment per group.
//!
//! Times. The file's zero is a session time the caller chooses, so that several files of one session start together;
//! a track that begins later gets an empty edit before it. Each frame's duration is the distance to the next, rounded
//! on the sum and not one by one, so nothing drifts. Opus declares its look-ahead (RFC 7845 4.2), which players
//! cut off the front of the track; the frames' times already take it into account (see [`audio`](crate::audio)), so
//! the edit starts that much later.
//!
//! The index stands at the end of the file, where a writer that runs for hours knows it. A picture of another size
//! gets its own sample description and a new chunk.

use std::io::{Seek, SeekFrom, Write};

use bytes::Bytes;
use mp4_atom as atom;
use mp4_atom::{Encode, FourCC};

use super::Error;
use crate::audio::{LOOKAHEAD_SAMPLES, PACKET_SAMPLES, RATE};
use crate::frame::Frame;
use crate::time::MediaTime;
use crate::video::annexb::{self, Sequence, kind};

/// Ticks per second of pictures and of the whole file; common in players, divides by 24, 25 and 30.
const TICKS: u32 = 90_000;

/// Duration of a last picture that has none before it: a thirtieth of a second.
const LAST_PICTURE: u32 = TICKS / 30;

/// Sizes one file may go through; each costs a description, and a source that changes more often is broken.
const DESCRIPTIONS_MAX: usize = 64;

/// Sample flags (ISO/IEC 14496-12 8.8.3.1): needs no other sample; needs others and is not a place to start.
const INDEPENDENT: u32 = 0x0200_0000;
const DEPENDENT: u32 = 0x0101_0000;

const VIDEO: u32 = 1;
const AUDIO: u32 = 2;

/// Writes one file of H.264 and Opus, either of which may be missing.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    /// Where the media box begins, and where the next byte goes.
    media: u64,
    at: u64,
    video: TrackLog,
    audio: TrackLog,
    sets: Vec<Sets>,
}

impl<W: Write + Seek> Writer<W> {
    /// Begins a file in which `zero` is the start. Frames before it are played at the start.
    pub fn new(mut out: W, zero: MediaTime) -> Result<Self, Error> {
        let mut head = Vec::new();
        brands(&["isom", "iso6", "avc1", "mp41"]).encode(&mut head)?;
        let media = head.len() as u64;
        // A box with a 64-bit size, filled in at the end.
        head.extend_from_slice(&1_u32.to_be_bytes());
        head.extend_from_slice(b"mdat");
        head.extend_from_slice(&[0; 8]);
        out.write_all(&head)?;
        let at = head.len() as u64;
        Ok(Self {
            out,
            media,
            at,
            video: TrackLog::new(TICKS, zero),
            audio: TrackLog::new(RATE, zero),
            sets: Vec::new(),
        })
    }

    /// Adds a picture, later than the one before. The first must be a keyframe.
    pub fn video(&mut self, frame: &Frame) -> Result<(), Error> {
        if let Some(sets) = Sets::find(&frame.data)
            && self.sets.last() != Some(&sets)
        {
            if self.sets.len() == DESCRIPTIONS_MAX {
                return Err(Error::Changed);
            }
            self.sets.push(sets);
        }
        if self.sets.is_empty() {
            return Err(Error::Keyframe);
        }
        let data = annexb::to_lengths(&frame.data);
        self.video.push(frame, data.len(), self.at, self.sets.len() as u32);
        self.put(&data)
    }

    /// Adds a sound packet, later than the one before.
    pub fn audio(&mut self, frame: &Frame) -> Result<(), Error> {
        self.audio.push(frame, frame.data.len(), self.at, 1);
        self.put(&frame.data)
    }

    /// Writes the index and gives back what was written to. Without it the file cannot be played.
    pub fn finish(mut self) -> Result<W, Error> {
        if self.video.is_empty() && self.audio.is_empty() {
            return Err(Error::Empty);
        }
        let mut tracks = Vec::new();
        if !self.video.is_empty() {
            let codecs = self.sets.iter().map(Sets::description).collect::<Result<_, _>>()?;
            tracks.push(self.video.track(video_track(&self.sets[0], codecs), LAST_PICTURE, 0)?);
        }
        if !self.audio.is_empty() {
            tracks.push(self.audio.track(audio_track(), PACKET_SAMPLES as u32, u64::from(LOOKAHEAD_SAMPLES))?);
        }
        let duration = tracks.iter().map(|track| track.tkhd.duration).max().unwrap_or(0);
        let mut index = Vec::new();
        atom::Moov { mvhd: movie(duration), trak: tracks, ..Default::default() }.encode(&mut index)?;
        self.out.write_all(&index)?;
        self.out.seek(SeekFrom::Start(self.media + 8))?;
        self.out.write_all(&(self.at - self.media).to_be_bytes())?;
        self.out.seek(SeekFrom::End(0))?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn put(&mut self, data: &[u8]) -> Result<(), Error> {
        self.out.write_all(data)?;
        self.at += data.len() as u64;
        Ok(())
    }
}

/// What the index will say of one track. About twenty bytes a frame: two megabytes for an hour of pictures.
#[derive(Debug)]
struct TrackLog {
    scale: u32,
    zero: MediaTime,
    sizes: Vec<u32>,
    /// Since `zero`, in ticks of `scale`.
    times: Vec<u64>,
    keyframes: Vec<u32>,
    chunks: Vec<Chunk>,
    /// Where a sample must lie to belong to the last chunk.
    end: u64,
}

#[derive(Debug)]
struct Chunk {
    offset: u64,
    samples: u32,
    description: u32,
}

impl TrackLog {
    fn new(scale: u32, zero: MediaTime) -> Self {
        Self { scale, zero, sizes: Vec::new(), times: Vec::new(), keyframes: Vec::new(), chunks: Vec::new(), end: 0 }
    }

    fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    fn push(&mut self, frame: &Frame, size: usize, offset: u64, description: u32) {
        let after_last = self.times.last().map_or(0, |last| last + 1);
        self.times.push(ticks(frame.at, self.zero, self.scale).max(after_last));
        self.sizes.push(u32::try_from(size).unwrap_or(u32::MAX));
        if frame.keyframe {
            self.keyframes.push(self.sizes.len() as u32);
        }
        match self.chunks.last_mut() {
            Some(chunk) if offset == self.end && chunk.description == description => chunk.samples += 1,
            _ => self.chunks.push(Chunk { offset, samples: 1, description }),
        }
        self.end = offset + size as u64;
    }

    /// Completes a track that is described but for its samples. The last sample lasts as long as the one before, or
    /// `last`; `skip` ticks at its start are not played.
    fn track(&self, mut track: atom::Trak, last: u32, skip: u64) -> Result<atom::Trak, Error> {
        let durations = durations(&self.times, last);
        let length: u64 = durations.iter().map(|&duration| u64::from(duration)).sum();
        let start = self.times.first().copied().unwrap_or(0) + skip;
        let in_movie = |time: u64| time * u64::from(TICKS) / u64::from(self.scale);
        let played = in_movie(length.saturating_sub(skip));
        let mut entries = Vec::new();
        if start > 0 {
            entries.push(edit(in_movie(start), None));
        }
        entries.push(edit(played, Some(skip)));
        track.edts = Some(atom::Edts { elst: Some(atom::Elst { entries }) });
        track.tkhd.duration = in_movie(start) + played;
        track.mdia.mdhd.duration = length;

        let table = &mut track.mdia.minf.stbl;
        for &sample_delta in &durations {
            match table.stts.entries.last_mut() {
                Some(entry) if entry.sample_delta == sample_delta => entry.sample_count += 1,
                _ => table.stts.entries.push(atom::SttsEntry { sample_count: 1, sample_delta }),
            }
        }
        table.stsz.samples = atom::StszSamples::Different { sizes: self.sizes.clone() };
        if self.keyframes.len() < self.sizes.len() {
            table.stss = Some(atom::Stss { entries: self.keyframes.clone() });
        }
        for (chunk, first_chunk) in self.chunks.iter().zip(1_u32..) {
            let entry = atom::StscEntry {
                first_chunk,
                samples_per_chunk: chunk.samples,
                sample_description_index: chunk.description,
            };
            let same = |last: &atom::StscEntry| {
                (last.samples_per_chunk, last.sample_description_index) == (chunk.samples, chunk.description)
            };
            if !table.stsc.entries.last().is_some_and(same) {
                table.stsc.entries.push(entry);
            }
        }
        let small: Result<Vec<u32>, _> = self.chunks.iter().map(|chunk| u32::try_from(chunk.offset)).collect();
        match small {
            Ok(entries) => table.stco = Some(atom::Stco { entries }),
            Err(_) => {
                let entries = self.chunks.iter().map(|chunk| chunk.offset).collect();
                table.co64 = Some(atom::Co64 { entries });
            }
        }
        Ok(track)
    }
}

/// Makes the pieces of a fragmented file, for players that take a session as it comes (Media Source Extensions).
#[derive(Debug)]
pub struct Fragmenter {
    zero: MediaTime,
    sets: Option<Sets>,
    audio: bool,
    sequence: u32,
}

impl Fragmenter {
    /// The first piece, and what makes the others. `keyframe` is any keyframe of the pictures, or `None` when there are
    /// none; `zero` is the session time the file starts at.
    pub fn new(keyframe: Option<&Frame>, audio: bool, zero: MediaTime) -> Result<(Self, Bytes), Error> {
        let sets = match keyframe {
            Some(frame) => Some(Sets::find(&frame.data).ok_or(Error::Keyframe)?),
            None if audio => None,
            None => return Err(Error::Empty),
        };
        let mut moov = atom::Moov { mvhd: movie(0), mvex: Some(atom::Mvex::default()), ..Default::default() };
        if let Some(sets) = &sets {
            moov.trak.push(video_track(sets, vec![sets.description()?]));
        }
        if audio {
            let mut track = audio_track();
            let skip = edit(0, Some(u64::from(LOOKAHEAD_SAMPLES)));
            track.edts = Some(atom::Edts { elst: Some(atom::Elst { entries: vec![skip] }) });
            moov.trak.push(track);
        }
        let extends = moov.trak.iter().map(|track| atom::Trex {
            track_id: track.tkhd.track_id,
            default_sample_description_index: 1,
            ..Default::default()
        });
        moov.mvex = Some(atom::Mvex { mehd: None, trex: extends.collect() });
        let mut head = Vec::new();
        brands(&["iso6", "isom", "avc1", "mp41"]).encode(&mut head)?;
        moov.encode(&mut head)?;
        Ok((Self { zero, sets, audio, sequence: 0 }, head.into()))
    }

    /// The piece for one group: pictures, sound or both, each in order. Pictures begin with a keyframe.
    pub fn fragment(&mut self, video: &[Frame], audio: &[Frame]) -> Result<Bytes, Error> {
        let audio = if self.audio { audio } else { &[] };
        let mut runs = Vec::new();
        if let (Some(first), Some(sets)) = (video.first(), &self.sets) {
            match Sets::find(&first.data) {
                None => return Err(Error::Keyframe),
                Some(found) if found != *sets => return Err(Error::Changed),
                Some(_) => {}
            }
            let data = video.iter().map(|frame| annexb::to_lengths(&frame.data)).collect();
            runs.push(FragmentRun::new(VIDEO, TICKS, self.zero, 0, video, data, LAST_PICTURE));
        }
        if !audio.is_empty() {
            let data = audio.iter().map(|frame| frame.data.clone()).collect();
            let skip = u64::from(LOOKAHEAD_SAMPLES);
            runs.push(FragmentRun::new(AUDIO, RATE, self.zero, skip, audio, data, PACKET_SAMPLES as u32));
        }
        if runs.is_empty() {
            return Err(Error::Empty);
        }
        self.sequence = self.sequence.wrapping_add(1);
        let moof = |offsets: &[usize]| -> Result<Vec<u8>, Error> {
            let traf = runs.iter().zip(offsets).map(|(run, &offset)| run.header(offset)).collect();
            let mut head = Vec::new();
            atom::Moof { mfhd: atom::Mfhd { sequence_number: self.sequence }, traf }.encode(&mut head)?;
            Ok(head)
        };
        // The offsets count from the fragment's start, over a header whose length does not depend on them.
        let mut offset = moof(&vec![0; runs.len()])?.len() + 8;
        let mut offsets = Vec::new();
        for run in &runs {
            offsets.push(offset);
            offset += run.length();
        }
        let mut piece = moof(&offsets)?;
        let length: usize = runs.iter().map(FragmentRun::length).sum();
        let size = u32::try_from(length + 8).map_err(|_| Error::Boxes("a group is over 4 GB".into()))?;
        piece.extend_from_slice(&size.to_be_bytes());
        piece.extend_from_slice(b"mdat");
        for data in runs.iter().flat_map(|run| &run.data) {
            piece.extend_from_slice(data);
        }
        Ok(piece.into())
    }
}

struct FragmentRun {
    track: u32,
    start: u64,
    samples: Vec<atom::TrunEntry>,
    data: Vec<Bytes>,
}

impl FragmentRun {
    fn new(track: u32, scale: u32, zero: MediaTime, skip: u64, frames: &[Frame], data: Vec<Bytes>, last: u32) -> Self {
        let times: Vec<u64> = frames.iter().map(|frame| ticks(frame.at, zero, scale) + skip).collect();
        let samples = durations(&times, last).into_iter().zip(frames).zip(&data);
        let samples = samples.map(|((duration, frame), data)| atom::TrunEntry {
            duration: Some(duration),
            size: Some(data.len() as u32),
            flags: Some(if frame.keyframe { INDEPENDENT } else { DEPENDENT }),
            cts: None,
        });
        Self { track, start: times.first().copied().unwrap_or(0), samples: samples.collect(), data }
    }

    fn length(&self) -> usize {
        self.data.iter().map(Bytes::len).sum()
    }

    fn header(&self, offset: usize) -> atom::Traf {
        atom::Traf {
            tfhd: atom::Tfhd { track_id: self.track, default_base_is_moof: true, ..Default::default() },
            tfdt: Some(atom::Tfdt { base_media_decode_time: self.start }),
            trun: vec![atom::Trun { data_offset: i32::try_from(offset).ok(), samples: self.samples.clone().into() }],
            ..Default::default()
        }
    }
}

/// The parameter sets of a keyframe.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sets {
    sequence: Vec<u8>,
    picture: Vec<u8>,
    width: u16,
    height: u16,
}

impl Sets {
    fn find(unit: &[u8]) -> Option<Self> {
        let find = |wanted| annexb::nals(unit).find(|nal| annexb::kind_of(nal) == wanted);
        let (sequence, picture) = (find(kind::SPS)?, find(kind::PPS)?);
        let parsed = Sequence::parse(sequence)?;
        let (width, height) = (u16::try_from(parsed.width).ok()?, u16::try_from(parsed.height).ok()?);
        Some(Self { sequence: sequence.to_vec(), picture: picture.to_vec(), width, height })
    }

    fn description(&self) -> Result<atom::Codec, Error> {
        let visual =
            atom::Visual { data_reference_index: 1, width: self.width, height: self.height, ..Default::default() };
        let avcc = atom::Avcc::new(&self.sequence, &self.picture)?;
        Ok(atom::Avc1 { visual, avcc, ..Default::default() }.into())
    }
}

fn ticks(at: MediaTime, zero: MediaTime, scale: u32) -> u64 {
    let micros = at.since(zero).as_micros();
    ((micros * u128::from(scale) + 500_000) / 1_000_000) as u64
}

fn durations(times: &[u64], last: u32) -> Vec<u32> {
    let mut durations: Vec<u32> =
        times.windows(2).map(|pair| u32::try_from(pair[1].saturating_sub(pair[0])).unwrap_or(u32::MAX)).collect();
    if !times.is_empty() {
        // A hole before the last frame says nothing of how long that lasts.
        durations.push(durations.last().map_or(last, |&before| before.min(last)));
    }
    durations
}

fn brands(brands: &[&str; 4]) -> atom::Ftyp {
    let brand = |text: &str| FourCC::from(<[u8; 4]>::try_from(text.as_bytes()).expect("brands have four letters"));
    atom::Ftyp {
        major_brand: brand(brands[0]),
        minor_version: 512,
        compatible_brands: brands.iter().copied().map(brand).collect(),
    }
}

fn movie(duration: u64) -> atom::Mvhd {
    atom::Mvhd {
        timescale: TICKS,
        duration,
        rate: 1.into(),
        volume: 1.into(),
        next_track_id: AUDIO + 1,
        ..Default::default()
    }
}

fn edit(segment_duration: u64, media_time: Option<u64>) -> atom::ElstEntry {
    atom::ElstEntry { segment_duration, media_time, media_rate: 1.into() }
}

fn video_track(sets: &Sets, codecs: Vec<atom::Codec>) -> atom::Trak {
    let mut track = track(VIDEO, TICKS, b"vide", "Picture", codecs);
    track.tkhd.width = sets.width.into();
    track.tkhd.height = sets.height.into();
    track.mdia.minf.vmhd = Some(atom::Vmhd::default());
    track
}

fn audio_track() -> atom::Trak {
    let audio =
        atom::Audio { data_reference_index: 1, channel_count: 1, sample_size: 16, sample_rate: (RATE as u16).into() };
    let dops = atom::Dops {
        output_channel_count: 1,
        pre_skip: LOOKAHEAD_SAMPLES,
        input_sample_rate: RATE,
        output_gain: 0,
        channel_mapping: None,
    };
    let mut track = track(AUDIO, RATE, b"soun", "Sound", vec![atom::Opus { audio, dops, btrt: None }.into()]);
    track.tkhd.volume = 1.into();
    track.mdia.minf.smhd = Some(atom::Smhd::default());
    track
}

fn track(track_id: u32, timescale: u32, handler: &[u8; 4], name: &str, codecs: Vec<atom::Codec>) -> atom::Trak {
    atom::Trak {
        tkhd: atom::Tkhd { track_id, enabled: true, in_movie: true, ..Default::default() },
        mdia: atom::Mdia {
            mdhd: atom::Mdhd { timescale, language: "und".into(), ..Default::default() },
            hdlr: atom::Hdlr { handler: FourCC::new(handler), name: name.into() },
            minf: atom::Minf {
                dinf: atom::Dinf { dref: atom::Dref { entries: vec![atom::Url::default().into()] } },
                stbl: atom::Stbl {
                    stsd: atom::Stsd { codecs },
                    // Fragments have no samples here, but the table of their places must be there.
                    stco: Some(atom::Stco::default()),
                    ..Default::default()
                },
                ..Default::default()
            },
        },
        ..Default::default()
    }
}
