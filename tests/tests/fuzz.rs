//! All decoders of outside bytes take what nobody should send, and still read what everybody does.
//!
//! The kept inputs are what long coverage-guided runs found worth keeping (`tests/fuzz`), and whatever once broke
//! something. Mutations are seeded: a failure names the target and the seed, and repeats.

use std::fs;
use std::panic;
use std::time::{Duration, Instant};

use simnet::rng::{Rng, seed_of};
use tests::fuzz::mutate::mutate;
use tests::fuzz::{TARGETS, Target, kept_inputs, seeds};
use tests::program::root;

/// Mutations of each target. More are worth less than what the kept inputs bring.
const MUTATIONS: u64 = 3_000;
/// A target that is slow for each input gets fewer, but not less than a tenth.
const TIME_MAX: Duration = Duration::from_secs(4);
/// All kept inputs together.
const CORPUS_BYTES_MAX: u64 = 1 << 20;

fn must_hold(name: &str, target: Target, what: &str, bytes: &[u8]) {
    if panic::catch_unwind(|| target(bytes)).is_err() {
        let path = std::env::temp_dir().join(format!("diemcau-{name}-{}", std::process::id()));
        // What cannot be written down can still be made again from the seed.
        let _ = fs::write(&path, bytes);
        panic!("{name} does not hold for {what}; the input is {}", path.display());
    }
}

#[test]
fn every_target_understands_its_examples() {
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no example");
        for (n, seed) in seeds.iter().enumerate() {
            assert!(target(seed), "{name} does not understand its example {n}");
        }
    }
}

#[test]
fn kept_inputs_and_their_mutations_do_no_harm() {
    for (number, (name, target)) in (0..).zip(TARGETS) {
        let kept = kept_inputs(name);
        for (path, bytes) in &kept {
            must_hold(name, *target, &path.display().to_string(), bytes);
        }
        let mut inputs = seeds(name);
        inputs.extend(kept.into_iter().map(|(_, bytes)| bytes));
        let (begun, mut done) = (Instant::now(), 0);
        while done < MUTATIONS && (done < MUTATIONS / 10 || begun.elapsed() < TIME_MAX) {
            let seed = seed_of(number, done);
            let mut rng = Rng::new(seed);
            let mut pick = || &inputs[(rng.bits() % inputs.len() as u64) as usize];
            let (input, other) = (pick(), pick());
            must_hold(name, *target, &format!("seed {seed}"), &mutate(&mut rng, input, other));
            done += 1;
        }
        println!("{name}: {} inputs, {done} mutations in {:.1} s", inputs.len(), begun.elapsed().as_secs_f64());
    }
}

#[test]
fn kept_inputs_stay_few_and_belong_to_a_target() {
    let mut bytes = 0;
    for folder in fs::read_dir(root().join("tests/corpus")).expect("there are kept inputs") {
        let folder = folder.expect("readable").path();
        let name = folder.file_name().and_then(|name| name.to_str()).expect("our names are UTF-8").to_owned();
        assert!(TARGETS.iter().any(|(known, _)| *known == name), "{name} is no target");
        let files = fs::read_dir(folder).expect("a folder for each target");
        bytes += files.map(|file| file.and_then(|file| file.metadata()).expect("readable").len()).sum::<u64>();
    }
    assert!(bytes <= CORPUS_BYTES_MAX, "{bytes} bytes of kept inputs");
}

#[test]
fn every_target_can_be_run_for_long() {
    let folder = root().join("tests/fuzz/fuzz_targets");
    let manifest = fs::read_to_string(root().join("tests/fuzz/Cargo.toml")).expect("a manifest");
    for (name, _) in TARGETS {
        let text = fs::read_to_string(folder.join(format!("{name}.rs"))).unwrap_or_default();
        assert!(text.contains(&format!("\"{name}\"")), "tests/fuzz has no target for {name}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "its manifest does not name {name}");
    }
}
