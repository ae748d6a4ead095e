//! ffmpeg as a judge of our files and a maker of others'. The product never uses it.

#![allow(dead_code, reason = "each test file uses some of these")]

use std::path::Path;
use std::process::{Command, Output};

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    output.unwrap_or_else(|error| {
        panic!("{program} cannot be run ({error}): these tests need it, `make test` installs it (Debian: apt-get install ffmpeg)")
    })
}

/// Runs ffmpeg to make a file.
pub(crate) fn make(arguments: &[&str]) {
    let output = run("ffmpeg", &[&["-nostdin", "-y", "-v", "error"], arguments].concat());
    assert!(output.status.success(), "ffmpeg {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Decodes the whole file and holds ffmpeg to have nothing to say.
pub(crate) fn must_be_silent(file: &Path) {
    let file = file.to_str().expect("a plain name");
    let output = run("ffmpeg", &["-nostdin", "-v", "error", "-i", file, "-f", "null", "-"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// One value of ffprobe for one stream (`v:0`, `a:0`), or of the file when `stream` is empty.
pub(crate) fn probe(file: &Path, stream: &str, entry: &str) -> String {
    let file = file.to_str().expect("a plain name");
    let mut arguments = vec!["-v", "error", "-of", "default=nw=1:nk=1", "-show_entries", entry];
    if !stream.is_empty() {
        arguments.extend(["-count_packets", "-select_streams", stream]);
    }
    arguments.push(file);
    let output = run("ffprobe", &arguments);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The sound as a player plays it, 48 kHz mono from the film's zero.
pub(crate) fn sound(file: &Path) -> Vec<i16> {
    let file = file.to_str().expect("a plain name");
    let output = run(
        "ffmpeg",
        &[
            "-nostdin",
            "-v",
            "error",
            "-copyts",
            "-i",
            file,
            "-af",
            "aresample=async=1:first_pts=0",
            "-ac",
            "1",
            "-ar",
            "48000",
            "-f",
            "s16le",
            "-",
        ],
    );
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// The pictures as a player shows them, as brightness planes with the time of each in seconds.
pub(crate) fn pictures(file: &Path, width: u32, height: u32) -> Vec<(f64, Vec<u8>)> {
    let name = file.to_str().expect("a plain name");
    let output = run(
        "ffmpeg",
        &["-nostdin", "-v", "error", "-i", name, "-vsync", "0", "-pix_fmt", "gray", "-f", "rawvideo", "-"],
    );
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let times = probe(file, "v:0", "frame=pts_time");
    let planes = output.stdout.chunks_exact((width * height) as usize).map(<[u8]>::to_vec);
    let times = times.lines().map(|line| line.trim_matches(',').parse().expect("a time"));
    let found: Vec<_> = times.zip(planes).collect();
    assert!(!found.is_empty(), "{name} shows nothing");
    found
}
