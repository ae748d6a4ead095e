//! Shares of the recovery key on their way to paper and back.
//!
//! They are the only secrets this program ever prints, and it prints them once: on stdout for people, with `--json` on stderr,
//! so that what a script keeps has none; or into files of their owner alone.

use std::fs::DirBuilder;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use node::identity::file;
use serde::Serialize;
use store::shares::Share;
use zeroize::Zeroizing;

use super::args::open;
use super::exit::Usage;
use super::qr;

/// Longest text with shares that is read: all shares there can be, with room to spare.
const TEXT_MAX: u64 = 64 << 10;

/// Where the shares went.
#[derive(Debug, Serialize)]
pub(crate) struct Paper {
    set: String,
    of: u8,
    needed: u8,
    /// Texts to be printed and pictures, if they were written.
    files: Vec<PathBuf>,
}

impl Paper {
    /// What to do with them.
    pub(crate) fn describe(&self) -> String {
        let place = match self.files.first().and_then(|file| file.parent()) {
            Some(folder) => format!("are in {}: print each, give it away, delete the files", folder.display()),
            None => "stand above and are kept nowhere: give each to another person, on paper".to_owned(),
        };
        format!(
            "The {} shares of the recovery key (set {}) {place}. Any {} of them open every recording of this mesh.\n\
             Try them once they are on paper: diemcau authority check-shares\n",
            self.of, self.set, self.needed,
        )
    }
}

/// Gives the shares out: into `folder`, or onto stdout, or (`aside`) onto stderr. Done when they have really left.
pub(crate) fn give(shares: &[Share], agency: &str, folder: Option<&Path>, aside: bool) -> Result<Paper> {
    let files = match folder {
        Some(folder) => write(shares, agency, folder)?,
        None => {
            let pictures = !aside && io::stdout().is_terminal();
            let text = printed(shares, agency, pictures)?;
            let mut out: Box<dyn Write> = if aside { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
            out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("the shares cannot be printed")?;
            Vec::new()
        }
    };
    let first = shares.first().context("a key is split into shares")?;
    Ok(Paper { set: first.set(), of: first.of(), needed: first.needed(), files })
}

/// One share as a page, without its picture.
fn page(share: &Share, agency: &str) -> Zeroizing<String> {
    Zeroizing::new(format!(
        "{agency}: share {} of {} of the recovery key. Any {} open every recording; keep it as you keep a seal.\n\n{}\n",
        share.number(),
        share.of(),
        share.needed(),
        *share.to_text(),
    ))
}

fn printed(shares: &[Share], agency: &str, pictures: bool) -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    for share in shares {
        text.push_str(&page(share, agency));
        if pictures {
            text.push_str(&Zeroizing::new(qr::for_terminal(&share.to_line())?));
            text.push_str("\n\n");
        }
    }
    Ok(text)
}

/// `share-1-of-5.txt` and `.png` and so on, none of which may be there.
fn write(shares: &[Share], agency: &str, folder: &Path) -> Result<Vec<PathBuf>> {
    let folder = std::path::absolute(folder)?;
    let at = |path: &Path| path.display().to_string();
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).with_context(|| at(&folder)),
        _ => {}
    }
    let mut files = Vec::new();
    for share in shares {
        let name = format!("share-{}-of-{}", share.number(), share.of());
        let picture = Zeroizing::new(qr::png(&share.to_line())?);
        for (ending, bytes) in [("txt", page(share, agency).as_bytes()), ("png", &picture[..])] {
            let path = folder.join(format!("{name}.{ending}"));
            file::write_new(&path, bytes).with_context(|| at(&path))?;
            files.push(path);
        }
    }
    Ok(files)
}

/// Reads shares from files, each of which may hold several; from stdin when there are none.
pub(crate) fn read(files: &[PathBuf]) -> Result<Vec<Share>> {
    let mut shares = Vec::new();
    for path in files {
        let file = open(path)?;
        shares.append(&mut parse(file).with_context(|| path.display().to_string())?);
    }
    if files.is_empty() {
        if io::stdin().is_terminal() {
            eprintln!("Type or scan the shares, each from \"diemcau recovery share\" on; end with Ctrl-D.");
        }
        shares = parse(io::stdin().lock())?;
    }
    if shares.is_empty() {
        return Err(Usage("there is no share: each begins with \"diemcau recovery share 1\"".to_owned()).into());
    }
    Ok(shares)
}

/// All shares in a text: each begins with its title, wherever that stands, and what comes before the first is passed over.
fn parse(from: impl Read) -> Result<Vec<Share>> {
    const TITLE: &str = "diemcau recovery share";
    let mut text = Zeroizing::new(String::new());
    from.take(TEXT_MAX).read_to_string(&mut text)?;
    let text = Zeroizing::new(text.split_whitespace().collect::<Vec<_>>().join(" "));
    let text = Zeroizing::new(text.to_lowercase());
    let starts: Vec<usize> = text.match_indices(TITLE).map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let mut shares = Vec::new();
    for (place, (start, end)) in starts.iter().zip(ends).enumerate() {
        let piece = text.get(*start..end).unwrap_or_default();
        let piece = head_and_words(piece);
        shares.push(Share::parse(&piece).with_context(|| format!("share number {} given", place + 1))?);
    }
    Ok(shares)
}

/// The first 14 words, which say which share it is, and the 24 numbered words after them: what follows on a page
/// with several shares is the next one's heading.
fn head_and_words(piece: &str) -> Zeroizing<String> {
    const HEAD: usize = 14;
    const WORDS: usize = 24;
    let is_number = |token: &&str| token.bytes().all(|byte| byte.is_ascii_digit());
    let tokens: Vec<&str> = piece.split(' ').collect();
    let (head, rest) = tokens.split_at(HEAD.min(tokens.len()));
    let words = rest.iter().filter(|token| !is_number(token)).take(WORDS);
    Zeroizing::new(head.iter().chain(words).copied().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use store::keys::WrapKey;
    use store::shares::{combine, split};

    use super::*;

    #[test]
    fn shares_written_are_their_owners_and_read_back_in_any_order() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("shares");
        let key = WrapKey::generate();
        let shares = split(&key, 5, 3).unwrap();
        let paper = give(&shares, "UBND thành phố: share 7 of 9", Some(&folder), false).unwrap();
        assert_eq!(paper.files.len(), 10);
        assert!(paper.files.iter().all(|path| std::fs::metadata(path).unwrap().mode() & 0o777 == 0o600));
        assert_eq!(std::fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        let texts: Vec<_> =
            paper.files.iter().filter(|path| path.extension().unwrap() == "txt").rev().cloned().collect();
        assert_eq!(combine(&read(&texts[1..4]).unwrap(), &key.public()).unwrap().secret_bytes(), key.secret_bytes());
        // All on one page, as they are printed.
        let page = printed(&shares, "UBND 3", false).unwrap();
        assert_eq!(parse(page.as_bytes()).unwrap(), shares);
        assert!(give(&shares, "A", Some(&folder), false).is_err(), "nothing is written over");
        let json = serde_json::to_string(&paper).unwrap();
        assert!(!json.contains(shares[0].to_text().split_whitespace().nth(15).unwrap()), "{json}");
    }

    #[test]
    fn a_missing_word_at_the_end_is_not_made_up_from_the_next_page() {
        let shares = split(&WrapKey::generate(), 3, 2).unwrap();
        let page = printed(&shares, "UBND", false).unwrap();
        let last = page.lines().nth(9).unwrap();
        let cut = page.replacen(last, last.rsplit_once(' ').unwrap().0, 1);
        assert!(parse(cut.as_bytes()).is_err());
    }
}
