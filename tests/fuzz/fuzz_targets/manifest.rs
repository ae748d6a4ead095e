//! One of the targets in `tests::fuzz`, guided by coverage.
#![no_main]

libfuzzer_sys::fuzz_target!(init: tests::fuzz::prepare("manifest"), |bytes: &[u8]| {
    tests::fuzz::target("manifest")(bytes);
});
