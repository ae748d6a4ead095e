//! The rules of the tree that no compiler checks. Each failure lists where, so that a reader need not search.
//!
//! An exception stands in a list here, with its reason. A list that grows says that a rule or a place is wrong.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use tests::program::root;

/// The layout that was agreed on; what a tool writes beside it is named in `.gitignore`.
const TOP_LEVEL: [&str; 18] = [
    ".cargo",
    ".ci",
    ".git",
    ".gitattributes",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "codec",
    "deny.toml",
    "node",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "simnet",
    "store",
    "tests",
];

/// A longer file is perhaps two ideas.
const LINES_MAX: usize = 900;

/// Words of something unfinished, cut in two here so that this file is free of them.
const UNFINISHED: [&str; 14] = [
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("db", "g!"),
    concat!("for ", "now"),
    concat!("place", "holder"),
    concat!("in a real ", "system"),
    concat!("in a real ", "implementation"),
    concat!("in a real ", "deployment"),
    concat!("simplified ", "version"),
    concat!("not ", "implemented"),
    concat!("not yet ", "implemented"),
    concat!("st", "ub"),
    concat!("dum", "my"),
    concat!("FIX", "ME"),
];

/// Where such a word means something else, and what.
const FINISHED: [(&str, &str, &str); 0] = [];

/// A library and where it may be used, to be understood, tested and replaced there. Tests may use any: they play
/// strangers, who keep to nobody's rules.
struct Home {
    library: &'static str,
    /// Paths that begin so.
    places: &'static [&'static str],
    /// Single files elsewhere, each with its reason.
    exceptions: &'static [(&'static str, &'static str)],
}

const HOMES: [Home; 20] = [
    Home { library: "anyhow", places: &["node/src/main.rs", "node/src/cli.rs", "node/src/cli/"], exceptions: &[] },
    Home {
        library: "libp2p",
        places: &["node/src/mesh.rs", "node/src/mesh/"],
        exceptions: &[("node/src/media/tls.rs", "libp2p-tls makes certificates from libp2p's form of our node key")],
    },
    Home {
        library: "libp2p_tls",
        places: &["node/src/media.rs", "node/src/media/"],
        exceptions: &[("node/src/mesh/quic.rs", "QUIC as libp2p specifies it, with our door before it")],
    },
    Home {
        library: "quinn",
        places: &["node/src/media.rs", "node/src/media/"],
        exceptions: &[("node/src/mesh/quic.rs", "libp2p's own transport lets everybody in before we can look")],
    },
    Home { library: "axum", places: &["node/src/console.rs", "node/src/console/"], exceptions: &[] },
    Home { library: "hyper", places: &["node/src/console.rs", "node/src/console/"], exceptions: &[] },
    Home { library: "clap", places: &["node/src/main.rs", "node/src/cli.rs", "node/src/cli/"], exceptions: &[] },
    Home { library: "str0m", places: &["node/src/browser.rs", "node/src/browser/"], exceptions: &[] },
    Home { library: "rocksdb", places: &["store/src/db/rocks.rs"], exceptions: &[] },
    Home { library: "sframe", places: &["store/src/seal.rs", "store/src/seal/"], exceptions: &[] },
    Home { library: "hpke", places: &["store/src/keys.rs", "store/src/keys/"], exceptions: &[] },
    Home { library: "coset", places: &["store/src/signed.rs", "store/src/signed/"], exceptions: &[] },
    Home { library: "chacha20poly1305", places: &["store/src/locked.rs"], exceptions: &[] },
    Home { library: "blahaj", places: &["store/src/shares.rs"], exceptions: &[] },
    Home { library: "bip39", places: &["store/src/shares.rs"], exceptions: &[] },
    Home { library: "qrcode", places: &["node/src/cli/qr.rs"], exceptions: &[] },
    Home { library: "rpassword", places: &["node/src/cli/passphrase.rs"], exceptions: &[] },
    Home { library: "openh264_sys2", places: &["codec/src/video.rs", "codec/src/video/"], exceptions: &[] },
    Home { library: "opus", places: &["codec/src/audio.rs", "codec/src/audio/"], exceptions: &[] },
    Home { library: "symphonia", places: &["codec/src/capture/file.rs", "codec/src/capture/file/"], exceptions: &[] },
];

/// The pure places: no socket, file, thread, clock, chance or waiting. Time, bytes and dice come in as arguments.
const PURE: [&str; 31] = [
    "codec/src/frame.rs",
    "codec/src/group.rs",
    "codec/src/time.rs",
    "node/src/browser/clock.rs",
    "node/src/browser/forward.rs",
    "node/src/engine.rs",
    "node/src/engine/",
    "node/src/studio/intake.rs",
    "node/src/studio/order.rs",
    "node/src/wire.rs",
    "node/src/wire/",
    "simnet/src/lab/nat.rs",
    "simnet/src/lab/network.rs",
    "simnet/src/lab/packet.rs",
    "simnet/src/link.rs",
    "simnet/src/rng.rs",
    "simnet/src/waiting.rs",
    "store/src/inventory.rs",
    "store/src/manifest.rs",
    "store/src/placement.rs",
    "store/src/receipt.rs",
    "store/src/record.rs",
    "store/src/recover.rs",
    "store/src/recover/",
    "store/src/roster.rs",
    "store/src/roster/",
    "store/src/segment.rs",
    "store/src/segment/",
    "store/src/signed.rs",
    "store/src/verify.rs",
    "store/src/verify/",
];

/// What gives an impure place away.
const IMPURE: [&str; 14] = [
    "Instant::now",
    "SystemTime",
    "async fn",
    ".await",
    "tokio",
    "std::fs",
    "File::",
    "UdpSocket",
    "TcpStream",
    "thread::",
    "getrandom",
    "rand::rng",
    "HashMap",
    "HashSet",
];

/// A file of ours: its path from the top with `/`, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn under(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether all of it is test code.
    fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.ends_with("tests.rs") || self.path.contains("/tests/")
    }

    /// Its lines with their numbers, without the tests at its end and without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(n, line)| (n + 1, line));
        let tests = ["#[cfg(test)]", "#[cfg(all(test, unix))]"];
        let lines = lines.take_while(move |(_, line)| !tests.contains(line));
        lines.map(|(n, line)| (n, line.split("//").next().unwrap_or_default()))
    }

    fn place(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

/// All of our text that is program, whoever runs it.
fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for member in ["codec", "node", "simnet", "store", "tests"] {
        gather(&root().join(member), &mut sources);
    }
    assert!(sources.len() > 20, "the tree is not where it should be");
    sources
}

fn gather(folder: &Path, sources: &mut Vec<Source>) {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).expect("a folder of ours").map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).expect("our names are UTF-8");
        if path.is_dir() {
            if !["node_modules", "dist", "target"].contains(&name) {
                gather(&path, sources);
            }
        } else if [".rs", ".ts", ".svelte", ".html"].iter().any(|ending| name.ends_with(ending)) {
            let inside = path.strip_prefix(root()).expect("below the top");
            let inside = inside.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/");
            sources.push(Source { path: inside, text: fs::read_to_string(&path).expect("our files are UTF-8") });
        }
    }
}

/// Where `word` stands in `line` and is not a part of a longer one.
fn has_word(line: &str, word: &str) -> bool {
    let inner = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (line[..at].chars().next_back(), line[at + word.len()..].chars().next());
        !(inner(before) || word.ends_with(char::is_alphanumeric) && inner(after))
    })
}

#[track_caller]
fn none(rule: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{rule}:\n{}", findings.join("\n"));
}

#[test]
fn the_top_level_is_as_agreed() {
    let ignored = fs::read_to_string(root().join(".gitignore")).expect("there is one");
    let ignored: BTreeSet<_> = ignored.lines().filter_map(|line| line.strip_prefix('/')).collect();
    let entries = fs::read_dir(root()).expect("the top").map(|entry| entry.expect("readable").file_name());
    let names = entries.map(|name| name.to_string_lossy().into_owned());
    let strange = names.filter(|name| !TOP_LEVEL.contains(&name.as_str()) && !ignored.contains(name.as_str()));
    none("the top level holds only the agreed", strange.collect());
}

#[test]
fn no_file_is_two_ideas_long() {
    let sources = sources().into_iter();
    let long = sources.map(|file| (file.text.lines().count(), file.path)).filter(|(lines, _)| *lines > LINES_MAX);
    none("a file has at most 900 lines", long.map(|(lines, path)| format!("{path}: {lines}")).collect());
}

#[test]
fn nothing_is_left_unfinished() {
    let mut findings = Vec::new();
    for file in sources() {
        for (n, line) in file.text.lines().enumerate() {
            let lower = line.to_lowercase();
            let words = UNFINISHED.iter().filter(|word| has_word(&lower, &word.to_lowercase()));
            let words =
                words.filter(|word| !FINISHED.iter().any(|(path, other, _)| (*path, other) == (&file.path, *word)));
            findings.extend(words.map(|word| file.place(n + 1, word)));
            if lower.contains(concat!("#[ign", "ore")) {
                findings.push(file.place(n + 1, "a test that does not run"));
            }
        }
    }
    none("what is begun is finished", findings);
}

#[test]
fn every_file_says_what_it_is() {
    let files = sources().into_iter().filter(|file| file.is_rust() && !file.text.starts_with("//! "));
    none("a file opens with what it is and why", files.map(|file| file.path).collect());
}

#[test]
fn no_module_is_a_drawer() {
    let drawers = ["util", "utils", "common", "helper", "helpers", "misc", "manager", "types"];
    let is_drawer = |path: &str| path.split('/').any(|part| drawers.contains(&part.trim_end_matches(".rs")));
    let files = sources().into_iter().map(|file| file.path).filter(|path| is_drawer(path));
    none("a module is named for its idea", files.collect());
}

#[test]
fn each_library_has_one_home() {
    let mut findings = Vec::new();
    for file in sources().iter().filter(|file| file.is_rust() && !file.is_test()) {
        for home in &HOMES {
            let excepted = home.exceptions.iter().any(|(path, _)| *path == file.path);
            if excepted || file.under(home.places) {
                continue;
            }
            let path = format!("{}::", home.library);
            // `self::opus::` and the like are modules of ours.
            let uses = file.code().filter(|(_, line)| has_word(line, &path) && !line.contains(&format!(":{path}")));
            findings.extend(uses.map(|(n, _)| file.place(n, home.library)));
        }
    }
    none("a library is used in its home", findings);
}

#[test]
fn exceptions_are_still_needed() {
    let sources = sources();
    let exceptions = HOMES.iter().flat_map(|home| home.exceptions.iter().map(|(path, _)| (home.library, *path)));
    let gone = exceptions.filter(|(library, path)| {
        let file = sources.iter().find(|file| file.path == *path);
        !file.is_some_and(|file| file.text.contains(&format!("{library}::")))
    });
    none("an exception that nobody uses goes", gone.map(|(library, path)| format!("{path}: {library}")).collect());
}

#[test]
fn pure_code_touches_nothing() {
    let mut findings = Vec::new();
    for file in sources().iter().filter(|file| file.under(&PURE) && !file.is_test()) {
        for (n, line) in file.code() {
            let impure = IMPURE.iter().filter(|word| has_word(line, word));
            findings.extend(impure.map(|word| file.place(n, word)));
        }
    }
    none("pure code gets time, bytes and dice as arguments", findings);
}

#[test]
fn nothing_unwraps_what_may_come_from_outside() {
    let mut findings = Vec::new();
    let places = ["codec/src/", "node/src/", "store/src/"];
    for file in sources().iter().filter(|file| file.under(&places) && !file.is_test()) {
        let lines = file.code().filter(|(_, line)| line.contains(".unwrap()"));
        findings.extend(lines.map(|(n, line)| file.place(n, line.trim())));
    }
    none("an error is handled, or the promise is put in words with expect", findings);
}

#[test]
fn unsafe_code_gives_its_reason() {
    let mut findings = Vec::new();
    for file in sources().iter().filter(|file| file.is_rust()) {
        let lines: Vec<_> = file.text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let is_unsafe =
                [concat!("unsafe", " {"), concat!("unsafe", " impl")].iter().any(|word| has_word(code, word));
            // The comment stands above the statement, which may have begun some lines before.
            if is_unsafe && !lines[n.saturating_sub(8)..n].iter().any(|line| line.contains("SAFETY:")) {
                findings.push(file.place(n + 1, "no SAFETY comment above"));
            }
            if code.contains(concat!("allow(unsafe", "_code")) {
                findings.push(file.place(n + 1, "expect it, with a reason"));
            }
        }
    }
    none("unsafe is explained where it stands", findings);
}

#[test]
fn only_commands_print() {
    let mut findings = Vec::new();
    let commands = ["node/src/main.rs", "node/src/cli.rs", "node/src/cli/"];
    for file in sources().iter().filter(|file| file.is_rust() && file.path.contains("/src/") && !file.is_test()) {
        if file.under(&commands) {
            continue;
        }
        let prints = ["println!", "eprintln!", "print!", "eprint!"];
        let lines = file.code().filter(|(_, line)| prints.iter().any(|print| has_word(line, print)));
        findings.extend(lines.map(|(n, line)| file.place(n, line.trim())));
    }
    none("libraries log, commands print", findings);
}

/// The members of the workspace that a member depends on, at run time or in its tests.
fn depends_on(member: &str) -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join(member).join("Cargo.toml")).expect("each member has a manifest");
    let mut in_dependencies = false;
    let mut found = BTreeSet::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            in_dependencies = section.trim_end_matches(']').ends_with("dependencies");
        } else if in_dependencies {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if ["codec", "node", "simnet", "store", "tests"].contains(&name) {
                found.insert(name.to_owned());
            }
        }
    }
    found
}

#[test]
fn crates_know_only_whom_they_should() {
    assert_eq!(depends_on("codec"), BTreeSet::new(), "codec knows nothing of networks, disks and sealing");
    assert_eq!(depends_on("store"), BTreeSet::new(), "store knows nothing of media");
    assert_eq!(depends_on("simnet"), BTreeSet::new(), "simnet knows nothing of what it carries");
    let node = depends_on("node");
    assert!(node.contains("codec") && node.contains("store") && !node.contains("tests"), "{node:?}");
}

/// Pages that name tests as proof.
const PROOFS: [&str; 1] = ["node/SECURITY.md"];

/// The names in backquotes that are those of tests: a path whose last word is a sentence. With each the module it is said to
/// test.
fn named_tests(page: &str) -> impl Iterator<Item = (&str, &str)> {
    page.split('`').skip(1).step_by(2).filter_map(|word| {
        let (path, name) = word.rsplit_once("::")?;
        let module = path.rsplit("::").find(|module| *module != "tests")?;
        (name.matches('_').count() >= 3).then_some((module, name))
    })
}

#[test]
fn every_test_that_is_named_as_proof_is_there() {
    let sources = sources();
    let mut findings = Vec::new();
    for page in PROOFS {
        let text = fs::read_to_string(root().join(page)).expect("a page with proofs");
        let names: BTreeSet<_> = named_tests(&text).collect();
        assert!(names.len() > 10, "{page} names {} tests", names.len());
        for (module, name) in names {
            let head = format!("fn {name}(");
            let is_there = |source: &Source| {
                let path = source.path.trim_end_matches(".rs");
                path.split('/').any(|part| part == module) || source.text.contains(&format!("mod {module} {{"))
            };
            let is_test = |source: &Source| {
                is_there(source)
                    && source.text.split_once(&head).is_some_and(|(before, _)| {
                        let above = &before[before.floor_char_boundary(before.len().saturating_sub(400))..];
                        above.rsplit("\n}").next().is_some_and(|above| above.contains("test"))
                    })
            };
            if !sources.iter().filter(|source| source.is_rust()).any(is_test) {
                findings.push(format!("{page}: {module}::…::{name}"));
            }
        }
    }
    none("a page names only tests that there are", findings);
}
