//! What the system says of the machine, of the node's process, and of the files in its folder.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use node::config;
use node::identity::{Identity, authority, roster};
use node::join::invite;
use node::support::Piece;

use super::output;

/// Bytes at the end of a database's log that are taken: some two thousand lines.
const LOG_BYTES_MAX: u64 = 256 * 1024;
/// Longest other file that is read.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The machine: system, processors, memory, load, clock.
pub(super) fn machine(now: u64) -> Piece {
    let first = |text: Option<String>, key: &str| {
        let text = text?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line[key.len()..].trim_matches([' ', '\t', ':', '=', '"']).to_owned())
    };
    let threads = std::thread::available_parallelism().map_or(0, usize::from);
    let synchronised = Path::new("/run/systemd/timesync/synchronized").exists();
    let facts = [
        ("program", Some(format!("diemcau {} for {}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH))),
        ("system", first(read("/etc/os-release"), "PRETTY_NAME")),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("processor", first(read("/proc/cpuinfo"), "model name")),
        ("threads", Some(threads.to_string())),
        ("memory", first(read("/proc/meminfo"), "MemTotal")),
        ("memory free", first(read("/proc/meminfo"), "MemAvailable")),
        ("load", read("/proc/loadavg")),
        ("seconds up", read("/proc/uptime")),
        ("open files allowed, of this command", first(read("/proc/self/limits"), "Max open files")),
        ("clock", Some(format!("{now} ms, {}", output::moment(now)))),
        ("clock synchronised", Some(if synchronised { "yes" } else { "not by systemd-timesyncd" }.to_owned())),
    ];
    let line =
        |(key, value): (&str, Option<String>)| format!("{key}: {}\n", value.as_deref().map_or("not known", str::trim));
    Piece::new("machine.txt", facts.map(line).concat())
}

/// The running node, as the system sees it.
pub(super) fn process(folder: &Path) -> Piece {
    let pid = read(folder.join("node.lock")).and_then(|pid| pid.trim().parse::<u32>().ok());
    let status = pid.and_then(|pid| read(format!("/proc/{pid}/status"))).unwrap_or_default();
    // Another process may have the number of a node that has ended.
    let ours = status.lines().any(|line| line == "Name:\tdiemcau");
    let wanted = ["VmPeak", "VmRSS", "VmSwap", "RssAnon", "Threads", "State", "FDSize"];
    let lines = status.lines().filter(|line| ours && wanted.iter().any(|key| line.starts_with(key)));
    let limits = pid.filter(|_| ours).and_then(|pid| read(format!("/proc/{pid}/limits"))).unwrap_or_default();
    let text: String = lines.chain(limits.lines()).map(|line| format!("{line}\n")).collect();
    Piece::new("process.txt", if text.is_empty() { "no node runs\n".to_owned() } else { text })
}

/// Our files in the data folder: which there are, how large, and who may read them. Others are only counted.
pub(super) fn files(folder: &Path) -> Piece {
    let known = [
        "keys",
        "archive",
        config::FILE,
        roster::FILE,
        node::accounts::FILE,
        invite::FOLDER,
        authority::FOLDER,
        "node.lock",
        "control.sock",
    ];
    let mut text = String::new();
    let mut line = |name: &str, path: &Path| {
        if let Ok(found) = fs::metadata(path) {
            text.push_str(&format!("{name}: mode {:o}, {} bytes\n", found.mode() & 0o7777, found.len()));
        }
    };
    line("data folder", folder);
    known.iter().for_each(|name| line(name, &folder.join(name)));
    for database in ["meta", "media"] {
        let folder = config::archive(folder).join(database);
        let mut kinds: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let kind = path.extension().map_or_else(|| "other".into(), |kind| kind.to_string_lossy().into_owned());
            let kind = if ["sst", "blob", "log"].contains(&kind.as_str()) { kind } else { "other".to_owned() };
            let (count, bytes) = kinds.entry(kind).or_default();
            *count += 1;
            *bytes += entry.metadata().map_or(0, |found| found.len());
        }
        for (kind, (count, bytes)) in kinds {
            text.push_str(&format!("{database}: {count} {kind} files, {bytes} bytes\n"));
        }
    }
    let locked = Identity::is_locked(folder).is_ok_and(|locked| locked);
    text.push_str(&format!("keys behind a passphrase: {}\n", if locked { "yes" } else { "no" }));
    let others = fs::read_dir(folder).into_iter().flatten().flatten();
    let others = others.filter(|entry| !known.iter().any(|name| entry.file_name() == *name)).count();
    text.push_str(&format!("{others} other files and folders\n"));
    Piece::new("files.txt", text)
}

pub(super) fn read(path: impl AsRef<Path>) -> Option<String> {
    let mut text = String::new();
    fs::File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text.trim_end().to_owned())
}

/// The last lines of a text file.
pub(super) fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = fs::File::open(path)?;
    let from = file.metadata()?.len().saturating_sub(LOG_BYTES_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line may be the end of one.
    let whole = if from == 0 { &text } else { text.split_once('\n').map_or("", |(_, rest)| rest) };
    // The machine's name may be somebody's, and too short for a mask to know it.
    let lines = whole.lines().filter(|line| !line.contains("Host name"));
    Ok(lines.map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_begins_with_a_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOG");
        fs::write(&path, "one\n[x] Host name (Env):  pc-lan\ntwo\n").unwrap();
        assert_eq!(tail(&path).unwrap(), "one\ntwo\n");
        fs::write(&path, "0123456789abcde\n".repeat(20_000) + "last\n").unwrap();
        let text = tail(&path).unwrap();
        assert!(text.starts_with("0123456789abcde\n") && text.ends_with("\nlast\n") && text.len() > 200_000);
    }
}
