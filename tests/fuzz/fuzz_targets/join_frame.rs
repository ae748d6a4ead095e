//! One of the targets in `tests::fuzz`, guided by coverage.
#![no_main]

libfuzzer_sys::fuzz_target!(init: tests::fuzz::prepare("join_frame"), |bytes: &[u8]| {
    tests::fuzz::target("join_frame")(bytes);
});
