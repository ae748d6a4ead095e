//! RocksDB's write-ahead logs, looked through before RocksDB reads them.
//!
//! RocksDB's own judgement of a log is not ours. Recovering to a point in time, it takes a flipped byte for the end and
//! drops every write after it without a word. Tolerating a torn tail, it refuses most damage, but lets a damaged length in the
//! last block pass for a tail. Skipping what is damaged, it refuses good writes that lie beside it. And in each of these
//! modes a type that turned by one bit into that of a recycled log makes its reader go round for ever. So the logs are read here first, by what can be known for certain: each write is synced before the next is
//! made, each change has a number that follows the one before, and a log is never taken up again.
//!
//! - Bytes that cannot be read, and nothing after them: a power cut tore the last write. Nobody was promised it. RocksDB
//!   drops it by itself.
//! - A write that can be read after bytes of its log that cannot, or after a gap in the numbers: what is missing was synced
//!   before it, so something acknowledged is **damaged**.
//!
//! To get what can be read out of a damaged log, the log is written anew without the rest: RocksDB never meets damage.
//!
//! A log is a row of blocks of 32 KiB. A block holds fragments, none of which crosses its end: checksum (4) over type and
//! bytes, length (2), type (1), bytes; integers little-endian. Fragments make up records: one whole, or a first, middle
//! ones and a last. A record is a write: number of its first change (8), count of changes (4), the changes. After something
//! unreadable reading goes on at the next block: within a block a damaged length could lead into the middle of a group, whose
//! bytes somebody else may have chosen.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read},
    path::{Path, PathBuf},
};

use super::crc32c::crc32c;

/// Bytes of a block.
const BLOCK: usize = 32 << 10;
/// Bytes before those of a fragment.
const HEADER: usize = 7;

/// Types of fragments.
const WHOLE: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;
/// How often a folder is listed again because a log went away meanwhile: RocksDB removes those whose contents reached
/// tables, while we read beside it.
const TRIES: usize = 5;

/// What the logs of a database hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// Number of the last change in the last write that can be read.
    pub(super) last: Option<u64>,
    /// Changes known to be missing before a write that can be read.
    pub(super) missing: u64,
    /// Whether bytes that cannot be read stand before a write of the same log that can, or are such as no power cut leaves.
    hole: bool,
    /// Logs in which something cannot be read, if only a torn end.
    unreadable: Vec<PathBuf>,
}

/// Looks through all logs in `dir`.
pub(super) fn survey(dir: &Path) -> io::Result<Survey> {
    let mut tries = 0;
    loop {
        match try_survey(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => tries += 1,
            result => return result,
        }
    }
}

fn try_survey(dir: &Path) -> io::Result<Survey> {
    let mut survey = Survey::default();
    for path in logs(dir)? {
        survey.log(&path, File::open(&path)?)?;
    }
    Ok(survey)
}

impl Survey {
    /// Looks through the log that follows those so far.
    pub(super) fn log(&mut self, path: &Path, file: impl Read) -> io::Result<()> {
        let mut hole = false;
        let readable = scan(file, |found| match found {
            Found::Write(write) => {
                self.hole |= hole;
                // A log that was torn and taken up may still lie before those that came after: no number is missing then.
                let next = self.last.map_or(write.first, |last| last.saturating_add(1));
                self.missing = self.missing.saturating_add(write.first.saturating_sub(next));
                self.last = self.last.max(write.first.saturating_add(write.count).checked_sub(1));
            }
            Found::Hole => hole = true,
            Found::Strange => (hole, self.hole) = (true, true),
        });
        if hole {
            self.unreadable.push(path.to_owned());
        }
        readable
    }

    /// Whether something that was acknowledged cannot be read any more.
    pub(super) fn is_damaged(&self) -> bool {
        self.missing > 0 || self.hole
    }

    /// Writes every log anew in which something cannot be read, with all that can.
    pub(super) fn mend(&self) -> io::Result<()> {
        for path in &self.unreadable {
            let fresh = path.with_extension("log.new");
            let mut log = Log { file: BufWriter::new(File::create(&fresh)?), at: 0 };
            let mut result = Ok(());
            scan(File::open(path)?, |found| {
                if let (Found::Write(write), Ok(())) = (found, &result) {
                    result = log.append(&write.bytes);
                }
            })?;
            result?;
            log.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            fs::rename(&fresh, path)?;
            path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())?;
        }
        Ok(())
    }
}

/// The logs in `dir`, oldest first; none if there is no such folder.
pub(super) fn logs(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut logs = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        logs.extend(number.filter(|_| is_log).map(|number| (number, path)));
    }
    logs.sort_unstable();
    Ok(logs.into_iter().map(|(_, path)| path).collect())
}

/// What is found in a log, in order.
enum Found {
    /// A write that can be read.
    Write(Write),
    /// Bytes that cannot be read.
    Hole,
    /// Such with a type that we never write, and that RocksDB's reader might not get past.
    Strange,
}

/// A write as it lies in a log.
struct Write {
    /// Number of its first change.
    first: u64,
    /// How many changes it has.
    count: u64,
    bytes: Vec<u8>,
}

impl Write {
    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let (first, rest) = bytes.split_first_chunk()?;
        let (first, count) = (u64::from_le_bytes(*first), u32::from_le_bytes(*rest.first_chunk()?));
        Some(Write { first, count: count.into(), bytes })
    }
}

fn scan(mut file: impl Read, mut found: impl FnMut(Found)) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    let mut open: Option<Vec<u8>> = None;
    loop {
        let len = fill(&mut file, &mut block)?;
        let mut rest = &block[..len];
        while rest.len() >= HEADER {
            let Some((kind, bytes)) = fragment(rest) else { break };
            rest = &rest[HEADER + bytes.len()..];
            // What is left open by a fragment that begins anew cannot be read; one without a beginning neither.
            let left = match kind {
                WHOLE | FIRST => open.replace(bytes.to_vec()).is_some(),
                _ => open.as_mut().map(|open| open.extend_from_slice(bytes)).is_none(),
            };
            if left {
                found(Found::Hole);
            }
            if matches!(kind, WHOLE | LAST)
                && let Some(bytes) = open.take()
            {
                found(Write::parse(bytes).map_or(Found::Hole, Found::Write));
            }
        }
        let end = len < BLOCK;
        // A block ends with zeros where no header has room.
        if rest.len() >= HEADER || end && (open.is_some() || !rest.is_empty()) {
            open = None;
            found(if rest.get(6).is_some_and(|kind| *kind > LAST) { Found::Strange } else { Found::Hole });
        }
        if end {
            return Ok(());
        }
    }
}

/// Type and bytes of the fragment at the front of `rest`, if they are what was written. Other types than these four
/// are RocksDB's for logs that are compressed or whose files are used again; ours are not.
fn fragment(rest: &[u8]) -> Option<(u8, &[u8])> {
    let sum = u32::from_le_bytes(*rest.first_chunk()?);
    let len = usize::from(u16::from_le_bytes([rest[4], rest[5]]));
    let checked = rest.get(6..HEADER + len)?;
    let good = (WHOLE..=LAST).contains(&checked[0]) && mask(crc32c(checked)) == sum;
    good.then(|| (checked[0], &checked[1..]))
}

/// Checksums are stored turned and shifted, since sums of bytes that hold their own sum say little.
fn mask(sum: u32) -> u32 {
    sum.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Fills `block` from `file`, but for its end, and says how far.
fn fill(file: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < block.len() {
        match file.read(&mut block[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// A log that is written.
struct Log<W> {
    file: W,
    /// Bytes of the block begun.
    at: usize,
}

impl<W: io::Write> Log<W> {
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let (mut rest, mut begun) = (record, false);
        loop {
            if BLOCK - self.at < HEADER {
                self.file.write_all(&[0; HEADER][..BLOCK - self.at])?;
                self.at = 0;
            }
            let (bytes, after) = rest.split_at(rest.len().min(BLOCK - self.at - HEADER));
            let kind = match (begun, after.is_empty()) {
                (false, true) => WHOLE,
                (false, false) => FIRST,
                (true, false) => MIDDLE,
                (true, true) => LAST,
            };
            let mut fragment = vec![0; 6];
            fragment.push(kind);
            fragment.extend_from_slice(bytes);
            let sum = mask(crc32c(&fragment[6..]));
            fragment[..4].copy_from_slice(&sum.to_le_bytes());
            fragment[4..6].copy_from_slice(&(bytes.len() as u16).to_le_bytes());
            self.file.write_all(&fragment)?;
            self.at += fragment.len();
            if after.is_empty() {
                return Ok(());
            }
            (rest, begun) = (after, true);
        }
    }
}
