//! One of the targets in `tests::fuzz`, guided by coverage.
#![no_main]

libfuzzer_sys::fuzz_target!(init: tests::fuzz::prepare("roster_message"), |bytes: &[u8]| {
    tests::fuzz::target("roster_message")(bytes);
});
