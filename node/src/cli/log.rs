//! `diemcau log`: what stands in the logs that are evidence. The running node reads its log for us; a stopped node's is read as
//! it lies. Either way every signature and every link is checked.

use std::path::Path;

use anyhow::{Result, bail};
use node::config;
use node::control::access::{self, AccessFilter, AccessLine, AccessPage};
use node::control::{self, Fault, Request, Response};
use node::identity::{Identity, roster};
use store::archive::{self, Logbook};

use super::args::{Data, Format};
use super::exit::Failure;
use super::output::{self, moment, table};

/// Show what stands in the logs
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show who opened, exported, copied or changed something, or was refused
    ///
    /// Checks the log's signatures and chain as it reads, and ends with 4 when an entry was changed, dropped or
    /// damaged. Times are those of this machine's clock then.
    Access {
        /// From this day on, or this moment (Vietnam's time)
        #[arg(long, value_name = "YYYY-MM-DD[THH:MM]", value_parser = moment_of)]
        from: Option<u64>,
        /// Of this point, account, address or node id only; `local` for commands at this machine
        #[arg(long)]
        who: Option<String>,
        /// What was refused only
        #[arg(long)]
        refused: bool,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        format: Format,
    },
}

pub(crate) fn main(args: Args) -> Result<()> {
    let What::Access { from, who, refused, data, format } = args.what;
    let (lines, broken) = read(&data, &AccessFilter { from_ms: from, who, refused })?;
    if format.json {
        output::json(&lines)?;
    } else {
        output::print(&describe(&lines))?;
    }
    match broken.as_slice() {
        [] => Ok(()),
        [first, more @ ..] => {
            let reason = format!(
                "the access log was changed or damaged: {first}{}; what comes before is good",
                if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) }
            );
            Err(Failure::new(Fault::Damaged, reason).into())
        }
    }
}

/// The lines wanted, and where the log is broken.
pub(super) fn read(data: &Data, filter: &AccessFilter) -> Result<(Vec<AccessLine>, Vec<String>)> {
    let (mut lines, mut broken) = (Vec::new(), Vec::new());
    let mut next = Some(0);
    let folder = data.folder()?;
    while let Some(from) = next {
        let page = match data.ask(&Request::AccessLog { from, filter: filter.clone() }) {
            Ok(Response::AccessLog(page)) => *page,
            Ok(other) => bail!("the node answered something else: {other:?}"),
            Err(error) => match error.downcast_ref() {
                Some(control::Error::NotRunning(_)) => stopped(&folder, filter, from)?,
                _ => return Err(error),
            },
        };
        next = page.next.filter(|next| *next > from);
        lines.extend(page.lines);
        broken.extend(page.broken);
    }
    Ok((lines, broken))
}

/// A page of a stopped node's log. A point that never ran has an empty one.
fn stopped(folder: &Path, filter: &AccessFilter, from: u64) -> Result<AccessPage> {
    let me = Identity::public_of(folder)?.node;
    let book = match Logbook::open_read_only(&config::archive(folder)) {
        Ok(book) => book,
        Err(archive::Error::Absent(_)) => return Ok(AccessPage::default()),
        Err(error) => return Err(control::session::Error::from(error).into()),
    };
    let roster = roster::load(folder, &me).ok();
    let name = |node: &store::id::NodeId| roster.as_ref()?.point(node).map(|point| point.name.clone());
    Ok(access::read(&book, me, name, filter, from).map_err(control::session::Error::from)?)
}

fn describe(lines: &[AccessLine]) -> String {
    let row = |line: &AccessLine| {
        let who = line.name.as_ref().or(line.who.as_ref());
        let what = [line.what.as_deref(), line.which.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ");
        let outcome = line.refused.as_ref().map_or_else(|| "done".to_owned(), |why| format!("refused: {why}"));
        let outcome = if line.times == 1 { outcome } else { format!("{outcome} ({} times)", line.times) };
        let who = who.map_or_else(|| line.by.clone(), |who| format!("{} {who}", line.by));
        vec![line.n.to_string(), moment(line.at), who, line.deed.clone(), what, outcome]
    };
    let rows: Vec<_> = lines.iter().map(row).collect();
    table(&["N", "WHEN", "WHO", "DEED", "TO", "OUTCOME"], &rows)
}

/// `2026-11-22` or `2026-11-22T13:05` in Vietnam, which has one time zone, as unix milliseconds.
fn moment_of(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a moment such as 2026-11-22 or 2026-11-22T13:05");
    let (day, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let numbers = |text: &str, mark: char, digits: &[usize]| -> Option<Vec<u64>> {
        let parts: Vec<&str> = text.split(mark).collect();
        let fits = parts.len() == digits.len() && parts.iter().zip(digits).all(|(part, digits)| part.len() == *digits);
        fits.then(|| parts.iter().map(|part| part.parse().ok()).collect())?
    };
    let (day, time) = (numbers(day, '-', &[4, 2, 2]), numbers(time, ':', &[2, 2]));
    let (Some([year, month, day]), Some([hour, minute])) = (day.as_deref(), time.as_deref()) else {
        return Err(wrong());
    };
    if !(1970..=9999).contains(year) || *hour > 23 || *minute > 59 {
        return Err(wrong());
    }
    output::unix_ms([*year, *month, *day], [*hour, *minute]).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_people_here_write_it() {
        for (text, shown) in [
            ("2026-11-22", "2026-11-22 00:00:00"),
            ("2026-11-22T13:05", "2026-11-22 13:05:00"),
            ("2024-02-29 23:59", "2024-02-29 23:59:00"),
        ] {
            assert_eq!(moment(moment_of(text).unwrap()), shown);
        }
        for wrong in
            ["", "today", "22/11/2026", "2026-11", "2026-13-01", "2026-02-29", "2026-11-22T24:00", "1969-12-31"]
        {
            assert!(moment_of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_log_reads_like_a_table() {
        let line = |n, by: &str, who: Option<&str>| AccessLine {
            n,
            at: 1_795_327_511_000,
            by: by.into(),
            who: who.map(Into::into),
            name: None,
            deed: "connect".into(),
            what: Some("door".into()),
            which: Some("mesh".into()),
            refused: Some("not a point".into()),
            times: 40,
            since: 0,
        };
        let point = AccessLine {
            name: Some("Xã Tân Phú".into()),
            deed: "copy".into(),
            what: None,
            which: None,
            refused: None,
            times: 1,
            ..line(8, "point", Some("abab"))
        };
        let expected = "\
            N  WHEN                 WHO                DEED     TO         OUTCOME\n\
            7  2026-11-22 13:05:11  address 192.0.2.7  connect  door mesh  refused: not a point (40 times)\n\
            8  2026-11-22 13:05:11  point Xã Tân Phú   copy                done\n\
            9  2026-11-22 13:05:11  many               connect  door mesh  refused: not a point (40 times)\n";
        assert_eq!(describe(&[line(7, "address", Some("192.0.2.7")), point, line(9, "many", None)]), expected);
    }
}
