//! The access log as commands and the page read it: checked entry by entry, with the names of points beside their ids.
//!
//! It is read in pages, because a log is never cut and an answer has a limit. Where the chain is broken is said beside the
//! lines; what this node signed is shown even there, as a reader wants to know what the log still tells.

use serde::{Deserialize, Serialize};
use store::access::{Access, Door, Entry, Outcome, What, Who};
use store::archive::{self, Logbook};
use store::id::NodeId;

/// Entries read for one page: some 300 ms of checking signatures, and at most some 3 MB of answer.
const PAGE: usize = 5_000;
/// Faults told of one page. The first is what matters.
const BROKEN_MAX: usize = 20;

/// Which lines are wanted; by default all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessFilter {
    /// Those from this moment on, by the node's clock, unix milliseconds.
    pub from_ms: Option<u64>,
    /// Those of this name, account, address, number of a user of the machine, node id or beginning of one, or kind:
    /// `local`, `node`, `many`.
    pub who: Option<String>,
    /// Those that were refused.
    #[serde(default)]
    pub refused: bool,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessLine {
    /// Its number, from 0.
    pub n: u64,
    /// The node's wall clock then.
    pub at: u64,
    /// Who did it, as a kind: `node` (this one itself), `local` (at this machine), `account`, `point`, `address`, `many`.
    pub by: String,
    /// The account, node id, address, or number of the machine's user.
    pub who: Option<String>,
    /// The point's name in the roster of today, if it is in it.
    pub name: Option<String>,
    /// What was done or tried, such as `export` or `connect`.
    pub deed: String,
    /// To what, as a kind: `archive`, `log`, `session`, `door`, `point`, `roster`, `account`, `invite`.
    pub what: Option<String>,
    /// Which of them.
    pub which: Option<String>,
    /// Why it was refused; null if it was done.
    pub refused: Option<String>,
    /// How often since the last line that says the same.
    pub times: u64,
    /// Wall clock of the first of these times.
    pub since: u64,
}

/// Some lines, and where to go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessPage {
    /// By number, rising.
    pub lines: Vec<AccessLine>,
    /// Where the log was changed or damaged, in words.
    pub broken: Vec<String>,
    /// The number to ask for next; null at the end.
    pub next: Option<u64>,
}

/// Reads a page of the log that `node` signs, from number `from` on. `name` gives the names of points.
pub fn read(
    book: &Logbook,
    node: NodeId,
    name: impl Fn(&NodeId) -> Option<String>,
    filter: &AccessFilter,
    from: u64,
) -> Result<AccessPage, archive::Error> {
    let mut logged = book.page(node, from, PAGE)?;
    let mut page = AccessPage::default();
    if logged.entries.len() == PAGE {
        page.next = logged.entries.last().map(|(n, _)| n.saturating_add(1));
    }
    for (n, bytes) in logged.entries {
        let (entry, fault) = logged.chain.read(n, bytes);
        if let Some(fault) = fault
            && page.broken.len() < BROKEN_MAX
        {
            page.broken.push(fault.to_string());
        }
        page.lines.extend(entry.map(|entry| line(entry, &name)).filter(|line| wanted(line, filter)));
    }
    Ok(page)
}

fn wanted(line: &AccessLine, filter: &AccessFilter) -> bool {
    let is = |who: &String| {
        let who = who.trim().to_lowercase();
        let same = |text: &String| text.to_lowercase() == who;
        let id = |text: &String| line.by == "point" && who.len() >= 4 && text.starts_with(&who);
        line.by == who
            || line.who.as_ref().is_some_and(|text| same(text) || id(text))
            || line.name.as_ref().is_some_and(same)
    };
    filter.from_ms.is_none_or(|from| line.at >= from)
        && (!filter.refused || line.refused.is_some())
        && filter.who.as_ref().is_none_or(is)
}

fn line(entry: Entry, name: impl Fn(&NodeId) -> Option<String>) -> AccessLine {
    let Entry { n, wall_ms, access: Access { who, deed, what, outcome, times, since_ms }, .. } = entry;
    let point = if let Who::Point { node } = &who { name(node) } else { None };
    let (by, who) = match who {
        Who::Node {} => ("node", None),
        Who::Local {} => ("local", None),
        Who::User { uid } => ("local", Some(uid.to_string())),
        Who::Account { name } => ("account", Some(name)),
        Who::Point { node } => ("point", Some(node.to_string())),
        Who::Address { ip } => ("address", Some(ip.to_string())),
        Who::Many {} => ("many", None),
    };
    let (what, which) = match what {
        What::Nothing {} => (None, None),
        What::Archive {} => (Some("archive"), None),
        What::Log {} => (Some("log"), None),
        What::Session { session } => (Some("session"), Some(session.to_string())),
        What::Door { door } => (Some("door"), Some(entrance(door).to_owned())),
        What::Point { node } => (Some("point"), Some(node.to_string())),
        What::Roster { number } => (Some("roster"), Some(number.to_string())),
        What::Account { name } => (Some("account"), Some(name)),
        What::Invite { id } => (Some("invite"), Some(id)),
    };
    AccessLine {
        n,
        at: wall_ms,
        by: by.to_owned(),
        who,
        name: point,
        deed: deed.name().to_owned(),
        what: what.map(str::to_owned),
        which,
        refused: match outcome {
            Outcome::Done {} => None,
            Outcome::Refused { reason } => Some(reason),
        },
        times,
        since: since_ms,
    }
}

fn entrance(door: Door) -> &'static str {
    match door {
        Door::Mesh => "mesh",
        Door::Media => "media",
        Door::Join => "join",
        Door::Page => "page",
        Door::Socket => "socket",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use store::access::Deed;
    use store::archive::Archive;
    use store::db::memory::Memory;
    use store::db::{Batch, Db, Durability};
    use store::id::SessionId;
    use store::keys::NodeKey;
    use store::schema::{self, Column};

    use super::*;

    const TÂN_PHÚ: NodeId = NodeId::from_bytes([0xab; 32]);

    fn key() -> NodeKey {
        NodeKey::from_bytes(&[5; 32])
    }

    fn book(meta: &Arc<Memory>) -> Logbook {
        let archive = Archive::over(meta.clone(), Arc::new(Memory::new())).unwrap();
        let session = SessionId::from_parts(1_795_327_511_000, [7; 10]);
        let stranger = Who::Address { ip: "192.0.2.7".parse().unwrap() };
        let knock = Access::refused(stranger, Deed::Connect, What::Door { door: Door::Mesh }, "not a point", 10);
        let accesses = [
            Access::done(Who::User { uid: 1000 }, Deed::Export, What::Session { session }, 10),
            Access { times: 40, ..knock },
            Access::done(Who::Point { node: TÂN_PHÚ }, Deed::Copy, What::Session { session }, 10),
            Access::done(Who::Account { name: "lan".into() }, Deed::Account, What::Account { name: "hoa".into() }, 10),
        ];
        for (at, access) in (10..).zip(accesses) {
            archive.logbook().append(&key(), at, vec![access]).unwrap();
        }
        archive.logbook()
    }

    fn numbers(filter: &AccessFilter) -> Vec<u64> {
        let name = |node: &NodeId| (*node == TÂN_PHÚ).then(|| "UBND xã Tân Phú".to_owned());
        let page = read(&book(&Arc::default()), key().id(), name, filter, 0).unwrap();
        assert_eq!((page.next, page.broken), (None, vec![]));
        page.lines.into_iter().map(|line| line.n).collect()
    }

    #[test]
    fn lines_have_the_names_that_scripts_rely_on() {
        let page = read(&book(&Arc::default()), key().id(), |_| None, &AccessFilter::default(), 0).unwrap();
        let expected = concat!(
            r#"{"n":1,"at":11,"by":"address","who":"192.0.2.7","name":null,"deed":"connect","what":"door","which":"mesh","#,
            r#""refused":"not a point","times":40,"since":10}"#
        );
        assert_eq!(serde_json::to_string(&page.lines[1]).unwrap(), expected);
        assert_eq!(
            page.lines.iter().map(|line| line.by.as_str()).collect::<Vec<_>>(),
            ["local", "address", "point", "account"]
        );
    }

    #[test]
    fn lines_are_found_by_who_by_when_and_by_what_came_of_it() {
        let who = |text: &str| AccessFilter { who: Some(text.into()), ..AccessFilter::default() };
        assert_eq!(numbers(&AccessFilter::default()), [0, 1, 2, 3]);
        for (text, found) in [
            ("local", &[0][..]),
            ("1000", &[0]),
            ("192.0.2.7", &[1]),
            ("ubnd XÃ tân phú", &[2]),
            ("ABab", &[2]),
            ("aba", &[]),
            ("lan", &[3]),
            ("la", &[]),
            ("hoa", &[]),
        ] {
            assert_eq!(numbers(&who(text)), found, "{text}");
        }
        assert_eq!(numbers(&AccessFilter { refused: true, ..AccessFilter::default() }), [1]);
        assert_eq!(numbers(&AccessFilter { from_ms: Some(12), ..AccessFilter::default() }), [2, 3]);
    }

    #[test]
    fn a_broken_log_is_shown_with_the_place_whatever_is_wanted() {
        let meta = Arc::new(Memory::new());
        let book = book(&meta);
        let mut batch = Batch::new();
        batch.delete(Column::Access, &schema::access_key(1));
        meta.write(batch, Durability::Synced).unwrap();
        let filter = AccessFilter { who: Some("local".into()), ..AccessFilter::default() };
        let page = read(&book, key().id(), |_| None, &filter, 0).unwrap();
        assert_eq!(page.broken, ["access log entry 1 is expected, but 2 comes"]);
        assert_eq!(page.lines.len(), 1);
    }
}
