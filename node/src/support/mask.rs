//! Takes out of a text what may concern somebody: names that are known, and whatever looks like an address, an id, a path, a
//! mail or a telephone number. What is taken out in vain costs a helper a moment; what is left in by mistake costs
//! somebody his privacy. So in doubt it goes.

/// What stands where something was.
const GONE: &str = "[...]";
/// Shortest name that is looked for: shorter ones are in every text.
const NAME_MIN: usize = 3;
/// Letters and digits in a row, with a digit among them, that are an id, a key or a hash and no word.
const ID_MIN: usize = 20;
/// Digits in a row that may be a telephone or a personal number. Times in unix milliseconds have more, sizes in bytes too, so
/// those lines that hold nothing else are left alone by [`Mask::numbers`].
const DIGITS: std::ops::RangeInclusive<usize> = 9..=12;

/// What to look for beside what looks suspicious.
#[derive(Debug, Clone, Default)]
pub struct Mask {
    names: Vec<String>,
}

impl Mask {
    /// Takes out these names too, however they are written.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let mut names: Vec<String> = names.into_iter().map(|name| name.trim().to_lowercase()).collect();
        // A name without letters could be found in what stands where a name was, again and again.
        names.retain(|name| name.chars().count() >= NAME_MIN && name.chars().any(char::is_alphanumeric));
        // Longest first, or the beginning of one would be taken for another.
        names.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        names.dedup();
        Mask { names }
    }

    /// The text without what may concern somebody: for what others wrote, such as a database's log.
    pub fn text(&self, text: &str) -> String {
        text.lines().map(|line| self.line(line, true) + "\n").collect()
    }

    /// The same for a text of ours, in which numbers are times and sizes.
    pub fn numbers(&self, text: &str) -> String {
        text.lines().map(|line| self.line(line, false) + "\n").collect()
    }

    fn line(&self, line: &str, digits_too: bool) -> String {
        let line = self.without_names(line);
        let mut masked = String::with_capacity(line.len());
        let mut rest = line.as_str();
        // Word by word, as a word is what is suspicious; what is between words stays.
        while !rest.is_empty() {
            let between = rest.find(|c| !is_between(c)).unwrap_or(rest.len());
            masked.push_str(&rest[..between]);
            rest = &rest[between..];
            let word = rest.find(is_between).unwrap_or(rest.len());
            if word > 0 {
                masked.push_str(if is_suspicious(&rest[..word], digits_too) { GONE } else { &rest[..word] });
            }
            rest = &rest[word..];
        }
        masked
    }

    fn without_names(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for name in &self.names {
            while let Some((from, to)) = find(&line, name) {
                line.replace_range(from..to, GONE);
            }
        }
        line
    }
}

/// Where `name`, which is in small letters, stands in `line` as words of its own, in any letters. Small letters may take more or
/// fewer bytes, so the places are those of `line` itself.
fn find(line: &str, name: &str) -> Option<(usize, usize)> {
    let inner = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    line.char_indices().find_map(|(from, _)| {
        let to = from + matching(&line[from..], name)?;
        let alone = !inner(line[..from].chars().next_back()) && !inner(line[to..].chars().next());
        alone.then_some((from, to))
    })
}

/// How many bytes of `text` are `name`, if it begins so.
fn matching(text: &str, name: &str) -> Option<usize> {
    let mut wanted = name.chars();
    let mut left = wanted.clone().count();
    for (at, c) in text.char_indices() {
        if left == 0 {
            return Some(at);
        }
        for small in c.to_lowercase() {
            if wanted.next() != Some(small) {
                return None;
            }
            left -= 1;
        }
    }
    (left == 0).then_some(text.len())
}

/// What separates words. Dots, colons, slashes, dashes and the like do not: they are inside what is looked for.
fn is_between(c: char) -> bool {
    c.is_whitespace() || matches!(c, ',' | ';' | '"' | '\'' | '(' | ')' | '{' | '}' | '<' | '>' | '|' | '=')
}

fn is_suspicious(word: &str, digits_too: bool) -> bool {
    // Written by ourselves a moment ago.
    if word.contains(GONE) || word == "[" {
        return false;
    }
    let core = word.trim_matches(|c: char| !c.is_alphanumeric() && c != '/' && c != ':');
    is_path(core) || is_address(core) || core.contains('@') || is_id(core) || digits_too && is_number(core)
}

fn is_path(word: &str) -> bool {
    word.starts_with('/') && word.len() > 1 || word.starts_with("~/") || word.contains("://") || word.contains("/home/")
}

/// An IP address, perhaps with a port or a prefix, or in a libp2p address; or a host's name with a top-level domain.
fn is_address(word: &str) -> bool {
    let parts = |text: &str| text.split(['/', '[', ']', '%']).map(str::to_owned).collect::<Vec<_>>();
    let ip = |text: &str| text.parse::<std::net::IpAddr>().is_ok() || text.parse::<std::net::SocketAddr>().is_ok();
    if ip(word) || parts(word).iter().any(|part| ip(part) || ip(part.rsplit_once(':').map_or("", |(host, _)| host))) {
        // A version such as 0.1.0 has three numbers and is none.
        return true;
    }
    // Four numbers with dots, inside a longer word.
    let runs: Vec<&str> = word.split(|c: char| !c.is_ascii_digit() && c != '.').collect();
    if runs.iter().any(|run| run.split('.').filter(|part| !part.is_empty()).count() == 4) {
        return true;
    }
    // Six bytes with colons or dashes: a network card.
    let card = |mark: char| {
        let parts: Vec<&str> = word.split(mark).collect();
        parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit()))
    };
    let host = word.split(':').next().unwrap_or_default();
    let domain = host.rsplit('.').next().unwrap_or_default();
    let named = host.contains('.') && ["vn", "com", "net", "org", "local", "lan", "internal"].contains(&domain);
    card(':') || card('-') || named
}

/// A run of letters and digits as no word is: long, with digits in it.
fn is_id(word: &str) -> bool {
    word.split(|c: char| !c.is_ascii_alphanumeric()).any(|run| {
        run.len() >= ID_MIN && run.contains(|c: char| c.is_ascii_digit()) && run.contains(|c: char| c.is_alphabetic())
    })
}

fn is_number(word: &str) -> bool {
    let digits = word.chars().filter(char::is_ascii_digit).count();
    let plain = word.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | ' '));
    plain && DIGITS.contains(&digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask() -> Mask {
        Mask::new(["Xã Kim Thành", "Xã Kim", "UBND xã Kim Thành", "lan", "pc-07", "ab", "..."].map(str::to_owned))
    }

    #[test]
    fn names_go_however_they_are_written_and_the_longest_first() {
        let check = |text: &str, expected: &str| assert_eq!(mask().text(text), format!("{expected}\n"));
        check("at UBND XÃ KIM THÀNH now", "at [...] now");
        check("xã kim thành, xã kim, xã", "[...], [...], xã");
        check("user lan on PC-07", "user [...] on [...]");
        check("planned about", "planned about");
        assert_eq!(mask().text(""), "");
        check("and so on... [...]", "and so on... [...]");
        check("İstanbul lan", "İstanbul [...]");
    }

    #[test]
    fn whatever_looks_like_an_address_an_id_a_path_or_a_number_of_somebody_goes() {
        for gone in [
            "192.0.2.7",
            "192.0.2.7:7400",
            "[2001:db8::7]:7400",
            "2001:db8::7",
            "fe80::1%eth0",
            "/ip4/192.0.2.7/udp/7400/quic-v1",
            "/home/hoa/data/meta",
            "~/films",
            "http://127.0.0.1:8080/",
            "rtsp://user:pass@cam.local/1",
            "hoa@haiphong.gov.vn",
            "hue.example.vn:7400",
            "52:54:00:12:34:56",
            "0912345678",
            "+84912345678",
            "031087001234",
            "12D3KooWQe9dQ4m2sP6hWnL7vJ3r8tYb1c5x",
            "01jd9rdtkg0e1r70e1r70e1r70",
            "ab12cd34ef56ab12cd34ef56ab12cd34ef56ab12cd34ef56ab12cd34ef56ab12",
        ] {
            assert_eq!(mask().text(&format!("before {gone}, after")), "before [...], after\n", "{gone}");
            assert_eq!(mask().text(&format!("x=\"{gone}\"")), "x=\"[...]\"\n", "{gone}");
        }
    }

    #[test]
    fn what_a_helper_needs_stays() {
        let text = "2026/11/24-23:49:39.123456 7f2b [db/flush_job.cc:910] [grp] [JOB 7] Level-0 flush table #12: 123456 bytes OK\n\
                    rocksdb.version 9.10.0, diemcau 0.1.0, Linux 6.8.0-45-generic, strangers_refused 3\n";
        assert_eq!(mask().text(text), text);
        let ours = "started 1795327511000\ndisk 250790436864 of 500107862016 bytes free\n";
        assert_eq!(mask().numbers(ours), ours);
    }
}
