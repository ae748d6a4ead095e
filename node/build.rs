//! Builds the room's page (`web/`) into the program: `npm ci` and `vite build`, then a table of the files they made.
//!
//! All of it happens in cargo's output folder, on a copy, so that the source tree stays as it was checked out, every plain
//! `cargo build` has the page, and two builds do not meet. npm takes exactly what `package-lock.json` names and runs no
//! package's scripts. It is asked again only when that file changes; the page is built again when a source of it changes.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the page is made from. Anything else in `web/` is what somebody's own npm left there.
const SOURCES: [&str; 7] =
    ["index.html", "package.json", "package-lock.json", "src", "svelte.config.js", "tsconfig.json", "vite.config.ts"];

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo says where to"));
    println!("cargo::rerun-if-changed=build.rs");
    for source in SOURCES {
        println!("cargo::rerun-if-changed=web/{source}");
    }
    if let Err(reason) = page(Path::new("web"), &out) {
        println!("cargo::error=the room's page (node/web) could not be built: {reason}");
    }
}

/// Builds the page of the sources `web` and writes `page.rs`, the table of its files, into `out`.
fn page(web: &Path, out: &Path) -> Result<(), String> {
    let copy = out.join("web");
    let said = |error: io::Error| format!("{}: {error}", copy.display());
    for source in SOURCES {
        remove(&copy.join(source)).and_then(|()| transfer(&web.join(source), &copy.join(source))).map_err(said)?;
    }
    let (lock, installed) = (copy.join("package-lock.json"), copy.join("installed.json"));
    if fs::read(&lock).ok() != fs::read(&installed).ok() {
        npm(&copy, &["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])?;
        fs::copy(&lock, &installed).map_err(said)?;
    }
    npm(&copy, &["run", "--silent", "build"])?;
    let table = table(&copy.join("dist")).map_err(said)?;
    fs::write(out.join("page.rs"), table).map_err(said)
}

fn npm(folder: &Path, args: &[&str]) -> Result<(), String> {
    let ran = Command::new("npm").args(args).current_dir(folder).stdin(Stdio::null()).output();
    let done = ran.map_err(|error| {
        format!("npm cannot be run ({error}); install Node.js 18 or later with npm, or run: bash .ci/setup")
    })?;
    if done.status.success() {
        return Ok(());
    }
    // An error of cargo's is one line; what npm has to say goes before it.
    for text in [&done.stdout, &done.stderr] {
        eprintln!("{}", String::from_utf8_lossy(text));
    }
    Err(format!(
        "`npm {}` failed, as said above; it needs Node.js 18 or later and the npm registry once",
        args.join(" ")
    ))
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn transfer(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        return fs::copy(from, to).map(drop);
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        transfer(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Rust for the files of `dist`: the first page, and the assets by name.
fn table(dist: &Path) -> io::Result<String> {
    let mut names: Vec<_> = fs::read_dir(dist.join("assets"))?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    names.sort();
    let mut table = String::new();
    let include = |path: PathBuf| format!("include_bytes!({:?})", path.display().to_string());
    let _ = writeln!(table, "/// The page that every path leads to.");
    let _ = writeln!(table, "const INDEX: &[u8] = {};", include(dist.join("index.html")));
    let _ = writeln!(table, "/// What it loads, by name.");
    let _ = writeln!(table, "const ASSETS: [(&str, &[u8]); {}] = [", names.len());
    for name in &names {
        let _ = writeln!(table, "    ({name:?}, {}),", include(dist.join("assets").join(name)));
    }
    table.push_str("];\n");
    Ok(table)
}
