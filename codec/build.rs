//! Refuses to build the H.264 encoder without its assembly.
//!
//! `openh264-sys2` builds silently without nasm and is then about three times slower (24 ms instead of 8 for a 1080p
//! picture), which shows only as pictures dropped in a meeting. So the missing tool is an error here.

use std::process::{Command, Stdio};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PATH");
    println!("cargo::rerun-if-env-changed=OPENH264_NO_ASM");
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if arch != "x86" && arch != "x86_64" {
        return;
    }
    if std::env::var_os("OPENH264_NO_ASM").is_some() {
        println!(
            "cargo::error=OPENH264_NO_ASM is set, which makes the H.264 encoder three times slower: unset it, run `cargo clean -p openh264-sys2` and build again"
        );
        return;
    }
    let nasm = Command::new("nasm").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !nasm.is_ok_and(|status| status.success()) {
        println!(
            "cargo::error=the assembler nasm is missing and without it the H.264 encoder is three times slower: install it (Debian: apt-get install nasm), run `cargo clean -p openh264-sys2` and build again"
        );
    }
}
