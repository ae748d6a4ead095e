//! One of the targets in `tests::fuzz`, guided by coverage.
#![no_main]

libfuzzer_sys::fuzz_target!(init: tests::fuzz::prepare("recovery_message"), |bytes: &[u8]| {
    tests::fuzz::target("recovery_message")(bytes);
});
