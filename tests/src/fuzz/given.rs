//! What people and programs on this machine give: names, settings, requests, films.

use std::io::{Cursor, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use codec::capture::{self, Spec};
use codec::frame::Frame;
use codec::mp4::{Fragmenter, Reader, Sound, Track, Writer};
use codec::time::MediaTime;
use node::config::{self, Address, Given};
use node::control::{Request, Response, Status};
use node::join::code::Code;
use store::id::{Hash, NodeId, SessionId};
use store::keys::{Wrap, WrapPublic};

/// Samples of a film that are read. The rest of a table is read like its beginning.
const SAMPLES_MAX: usize = 64;

/// Ids, keys and addresses as they are typed or stand in files.
pub(super) fn names(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let known = [
        name::<NodeId>(text),
        name::<SessionId>(text),
        name::<Hash>(text),
        name::<WrapPublic>(text),
        name::<Wrap>(text),
        name::<Address>(text),
        name::<Spec>(text),
    ];
    known.contains(&true)
}

fn name<T: FromStr + ToString + PartialEq + std::fmt::Debug>(text: &str) -> bool {
    let Ok(value) = T::from_str(text) else { return false };
    assert!(T::from_str(&value.to_string()).is_ok_and(|again| again == value), "{text:?} becomes {value:?}");
    true
}

/// An invite code as a clerk types it. However it was typed, it is printed in one way, and that is read as the same.
pub(super) fn join_code(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Ok(code) = Code::parse(&text) else { return false };
    assert!(Code::parse(&code.text()).is_ok_and(|again| again == code), "{text:?} becomes {code:?}");
    true
}

pub(super) fn config(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let file = Some((PathBuf::from("config.toml"), text));
    let given = Given { file, home: Some(PathBuf::from("/home/tiep-dan")), ..Given::default() };
    match config::resolve(&given) {
        Ok(config) => {
            assert!(config.console.address.is_loopback());
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

/// Lines of the local socket, both ways, and the JSON that the page reads.
pub(super) fn request(bytes: &[u8]) -> bool {
    let request = serde_json::from_slice::<Request>(bytes);
    if let Ok(request) = &request {
        let again = serde_json::to_vec(request).expect("what was read can be written");
        assert_eq!(&serde_json::from_slice::<Request>(&again).expect("what was written can be read"), request);
    }
    let response = serde_json::from_slice::<Response>(bytes).is_ok();
    let status = serde_json::from_slice::<Status>(bytes).is_ok();
    request.is_ok() || response || status
}

pub(super) fn mp4(bytes: &[u8]) -> bool {
    let Ok(mut film) = Reader::open(Cursor::new(bytes)) else { return false };
    let pictures = match &film.video {
        Track::Found(video) => video.samples.len(),
        Track::Missing | Track::Foreign(_) => 0,
    };
    let sounds = match &film.sound {
        Track::Found(sound @ (Sound::Aac { .. } | Sound::Opus { .. })) => sound.samples().len(),
        Track::Missing | Track::Foreign(_) => 0,
    };
    for index in 0..pictures.min(SAMPLES_MAX) {
        if let Ok(Some(frame)) = film.picture(index) {
            annexb(&frame.data);
        }
    }
    for index in 0..sounds.min(SAMPLES_MAX) {
        if let Ok(Some(frame)) = film.packet(index) {
            assert!(frame.data.len() <= bytes.len());
        }
    }
    pictures + sounds > 0
}

pub(super) fn y4m(bytes: &[u8]) -> bool {
    plays(b"YUV4MPEG2", bytes)
}

pub(super) fn wav(bytes: &[u8]) -> bool {
    plays(b"RIFF\x24\x00\x00\x00WAVE", bytes)
}

/// Opens a file that begins so, and takes what it gives at once.
fn plays(begin: &[u8], bytes: &[u8]) -> bool {
    let mut file = tempfile::NamedTempFile::new().expect("room for a file");
    let rest = if bytes.starts_with(&begin[..4]) { &bytes[begin.len().min(bytes.len())..] } else { bytes };
    file.write_all(&[begin, rest].concat()).expect("room for a file");
    let spec = Spec::File(file.path().to_owned());
    let Ok(mut source) = capture::open(&spec, "", Instant::now()) else { return false };
    for _ in 0..4 {
        // What is due later was read all the same.
        if source.next(Duration::ZERO).is_err() {
            break;
        }
    }
    true
}

/// A picture as it comes out of a group or a film, on its way into one.
pub(super) fn annexb(bytes: &[u8]) -> bool {
    let data = Bytes::copy_from_slice(bytes);
    let frame = Frame { at: MediaTime(1_000), keyframe: true, discardable: false, data };
    let mut film = Writer::new(Cursor::new(Vec::new()), MediaTime::ZERO).expect("a file begins");
    let written = film.video(&frame).is_ok();
    // A film without a readable picture has no end, which is an error and not a panic.
    if let Ok(film) = film.finish()
        && written
    {
        assert!(Reader::open(Cursor::new(film.into_inner())).is_ok(), "a film of ours cannot be read back");
    }
    let Ok((mut pieces, _)) = Fragmenter::new(Some(&frame), true, MediaTime::ZERO) else { return false };
    pieces.fragment(std::slice::from_ref(&frame), &[]).is_ok()
}
