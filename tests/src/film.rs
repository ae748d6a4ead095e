//! ffmpeg as a judge of our films and a maker of clips. The product never uses it.
//!
//! Times are taken from the frames as a decoder gives them, never from a stream's average rate: our pictures carry the
//! times at which they were made, so the rate is only nearly constant. For the same reason pictures are passed on one
//! for one, without ffmpeg's habit of repeating and leaving out.

use std::io::{BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use codec::picture::Picture;
use codec::time::MediaTime;

/// Why ffmpeg is looked for.
const NEEDED: &str = "these tests need it, `make test` installs it (Debian: apt-get install ffmpeg)";

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = command(program, arguments).output();
    output.unwrap_or_else(|error| panic!("{program} cannot be run ({error}): {NEEDED}"))
}

/// What a judge printed, who must have found nothing wrong.
fn silent(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = run(program, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{program} {arguments:?} ({}): {said}", output.status);
    output.stdout
}

fn name(file: &Path) -> &str {
    file.to_str().expect("tests choose names in UTF-8")
}

/// Makes a file with ffmpeg.
pub fn make(arguments: &[&str]) {
    silent("ffmpeg", &[&["-nostdin", "-y", "-v", "error"], arguments].concat());
}

/// Reads the file's boxes and decodes all of it; ffmpeg must have nothing to say.
pub fn must_be_flawless(file: &Path) {
    silent("ffprobe", &["-v", "error", "-show_format", "-show_streams", name(file)]);
    silent("ffmpeg", &["-nostdin", "-v", "error", "-i", name(file), "-fps_mode", "passthrough", "-f", "null", "-"]);
}

/// One stream of a film, decoded.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// When each frame is shown or heard, in seconds of the film.
    pub times: Vec<f64>,
    /// Samples of each frame; empty for pictures.
    pub samples: Vec<usize>,
    /// Where the stream ends, in seconds of the film.
    pub end: f64,
}

/// Decodes the stream called `which` (`v:0`, `a:0`).
pub fn stream(file: &Path, which: &str) -> Stream {
    let ask = |entries: &str| {
        let table = ["-v", "error", "-of", "csv=p=0", "-select_streams", which, "-show_entries", entries, name(file)];
        let rows = String::from_utf8(silent("ffprobe", &table)).expect("numbers");
        // Some versions end a row with a comma, and give side data a row of its own.
        let rows = rows.lines().map(|row| row.trim_end_matches(',').to_owned()).filter(|row| !row.is_empty());
        rows.collect::<Vec<_>>()
    };
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<f64>().ok()).expect("a time");
    let sound = which.starts_with('a');
    let mut stream = Stream::default();
    for row in ask(if sound { "frame=pts_time,nb_samples" } else { "frame=pts_time" }) {
        let mut fields = row.split(',');
        stream.times.push(number(fields.next()));
        if sound {
            stream.samples.push(number(fields.next()) as usize);
        }
    }
    // The last packet's own length is not asked: ffmpeg takes it from the stream's, forgetting a late start.
    let row = ask("stream=start_time,duration").pop().expect("a film has streams");
    stream.end = row.split(',').map(|field| number(Some(field))).sum();
    stream
}

/// Shows every picture of a film in order, scaled to `size`, with its place among them.
pub fn pictures(file: &Path, size: (u32, u32), mut see: impl FnMut(usize, Picture)) {
    let (width, height) = size;
    let scale = format!("scale={width}:{height}");
    let arguments = ["-nostdin", "-v", "error", "-i", name(file), "-map", "0:v:0", "-fps_mode", "passthrough"];
    let arguments = [&arguments[..], &["-vf", &scale, "-pix_fmt", "yuv420p", "-f", "rawvideo", "-"]].concat();
    let child = command("ffmpeg", &arguments).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("ffmpeg cannot be run ({error}): {NEEDED}"));
    let mut input = BufReader::new(child.stdout.take().expect("it is a pipe"));
    let bright = (width * height) as usize;
    let mut place = 0;
    loop {
        let mut planes = [vec![0; bright], vec![0; bright / 4], vec![0; bright / 4]];
        if planes.iter_mut().any(|plane| input.read_exact(plane).is_err()) {
            break;
        }
        see(place, Picture::from_planes(width, height, planes, MediaTime(0)).expect("an even size"));
        place += 1;
    }
    assert!(child.wait().expect("a child of ours").success(), "ffmpeg decodes {}", file.display());
}

/// Every sample of a film's sound one after another, 48 kHz mono: holes are not filled.
pub fn sound(file: &Path) -> Vec<i16> {
    let arguments = ["-nostdin", "-v", "error", "-i", name(file), "-map", "0:a:0", "-f", "s16le"];
    let bytes = silent("ffmpeg", &[&arguments[..], &["-ac", "1", "-ar", "48000", "-"]].concat());
    bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// How alike two files of raw pictures of one size are: 1 is the same.
pub fn ssim(one: &Path, other: &Path, size: (u32, u32)) -> f64 {
    let size = format!("{}x{}", size.0, size.1);
    let input = |file| ["-f", "rawvideo", "-pixel_format", "yuv420p", "-video_size", &size, "-i", name(file)];
    let start = ["-nostdin", "-v", "info"];
    let arguments = [&start[..], &input(one), &input(other), &["-lavfi", "ssim", "-f", "null", "-"]].concat();
    let output = run("ffmpeg", &arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    let found = said.rsplit_once("All:").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    found.unwrap_or_else(|| panic!("ffmpeg says how alike the pictures are: {said}"))
}
