//! Every place where bytes from outside become values of ours, each as a function of bytes.
//!
//! A target says whether the bytes were understood, and panics when a promise is broken: a decoder that panics, one
//! that reads its own words differently, two ways to read the same bytes that disagree. `make test` runs the kept
//! inputs (`tests/corpus`), good examples made by the program itself, and some thousand mutations of both through all
//! targets; `tests/fuzz` runs the same functions for as long as one likes, guided by coverage.

mod given;
mod kept;
mod seeds;
mod travelled;

pub mod mutate;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

pub use seeds::seeds;

use crate::program::root;

/// Whether the bytes were understood.
pub type Target = fn(&[u8]) -> bool;

/// All targets by name. The folder of a target's kept inputs has its name, and so has its fuzz target.
pub const TARGETS: &[(&str, Target)] = &[
    ("control_message", travelled::control_message),
    ("media_message", travelled::media_message),
    ("group", travelled::group),
    ("hello", travelled::hello),
    ("roster_message", travelled::roster_message),
    ("framing", travelled::framing),
    ("join_code", given::join_code),
    ("join_frame", travelled::join_frame),
    ("inventory", travelled::inventory),
    ("signed", kept::signed),
    ("journal", kept::journal),
    ("segment", kept::segment),
    ("manifest", kept::manifest),
    ("evidence_message", travelled::evidence_message),
    ("head", kept::head),
    ("cbor", kept::cbor),
    ("membership", kept::membership),
    ("locked", kept::locked),
    ("share", kept::share),
    ("wrap", kept::wrap),
    ("names", given::names),
    ("config", given::config),
    ("request", given::request),
    ("mp4", given::mp4),
    ("y4m", given::y4m),
    ("wav", given::wav),
    ("annexb", given::annexb),
    ("copies_message", travelled::copies_message),
    ("recovery_message", travelled::recovery_message),
];

/// The target of this name.
///
/// # Panics
///
/// If there is none.
pub fn target(name: &str) -> Target {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("there is no target {name:?}")).1
}

/// Where a long run keeps its inputs; each target has a folder in it.
pub const INPUTS: &str = "DIEMCAU_FUZZ_INPUTS";

/// Puts the examples and the kept inputs where a long run of this target begins.
///
/// # Panics
///
/// If [`INPUTS`] does not name a folder that can be written to.
pub fn prepare(name: &str) {
    let inputs = env::var_os(INPUTS).unwrap_or_else(|| panic!("{INPUTS} must name a folder for inputs"));
    let folder = Path::new(&inputs).join(name);
    fs::create_dir_all(&folder).expect("a folder that can be made");
    for (n, seed) in seeds(name).iter().enumerate() {
        fs::write(folder.join(format!("seed-{n}")), seed).expect("room for a seed");
    }
    for (path, bytes) in kept_inputs(name) {
        fs::write(folder.join(path.file_name().expect("a file")), bytes).expect("room for an input");
    }
}

/// The kept inputs of a target and where they lie, in the order of their names.
///
/// # Panics
///
/// If one cannot be read.
pub fn kept_inputs(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(root().join("tests/corpus").join(name)) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("readable"))).collect()
}
