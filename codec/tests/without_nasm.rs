//! The build of this crate where the assembler is missing. The build script is compiled and run by itself, as cargo would.

use std::process::Command;

/// What the script tells cargo on a machine with these programs and this environment.
fn script(path: &str, arch: &str, more: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("script");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Command::new(rustc)
        .args(["--edition", "2024", "-o"])
        .arg(&script)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/build.rs"))
        .status();
    assert!(built.is_ok_and(|status| status.success()), "the build script compiles");
    let mut run = Command::new(script);
    run.env_clear().env("PATH", path).env("CARGO_CFG_TARGET_ARCH", arch).envs(more.iter().copied());
    String::from_utf8(run.output().expect("it runs").stdout).expect("text")
}

#[test]
fn a_build_without_nasm_stops_with_one_sentence_that_says_what_to_do() {
    let errors = |told: &str| told.lines().filter(|line| line.starts_with("cargo::error=")).count();
    let path = std::env::var("PATH").expect("a search path");
    assert_eq!(errors(&script(&path, "x86_64", &[])), 0, "nasm is here");
    let told = script("/nowhere", "x86_64", &[]);
    assert_eq!(errors(&told), 1, "{told}");
    for word in ["nasm is missing", "apt-get install nasm", "cargo clean -p openh264-sys2"] {
        assert!(told.contains(word), "{told}");
    }
    let told = script(&path, "x86_64", &[("OPENH264_NO_ASM", "1")]);
    assert!(errors(&told) == 1 && told.contains("unset it"), "{told}");
    assert_eq!(errors(&script("/nowhere", "aarch64", &[])), 0, "another processor needs none");
}
