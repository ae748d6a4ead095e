//! What a command prints: tables, times and sizes for people, JSON for programs, and how failure looks.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use node::control::State;
use serde::Serialize;

use super::exit;

/// Prints why a command failed: one sentence, its causes, a hint. Says how to end.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let (code, hint) = exit::judge(error);
    let mut text = format!("error: {error}\n");
    for cause in error.chain().skip(1) {
        text.push_str(&format!("  because: {cause}\n"));
    }
    if let Some(hint) = hint {
        text.push_str(&format!("hint: {hint}\n"));
    }
    // Nothing is left to be done if stderr is closed.
    let _ = io::stderr().write_all(text.as_bytes());
    ExitCode::from(code)
}

/// One JSON value and a line's end on stdout.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    text_out(&text)
}

/// Text for people on stdout.
pub(crate) fn print(text: &str) -> io::Result<()> {
    text_out(text.as_bytes())
}

/// A reader that has seen enough (`| head`) is no failure.
fn text_out(text: &[u8]) -> io::Result<()> {
    match io::stdout().lock().write_all(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Columns as wide as their widest cell. Vietnamese letters are one column each.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|title| title.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(&mut head.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// Vietnam's clocks are ahead of UTC by this.
const ZONE_S: u64 = 7 * 3600;

/// A moment in Vietnam, which has one time zone and no summer time.
pub(crate) fn moment(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000 + ZONE_S;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The date of a day counted from 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

/// Now, unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The moment of this date and time in Vietnam, unix milliseconds; `None` if there is no such day, or it is before 1970.
pub(crate) fn unix_ms([year, month, day]: [u64; 3], [hour, minute]: [u64; 2]) -> Option<u64> {
    // The same algorithm backwards: years begin in March, so that the leap day is their last.
    let shifted = year.checked_sub(u64::from(month <= 2))?;
    let of_era = shifted % 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let days = (shifted / 400 * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year).checked_sub(719_468)?;
    let seconds = (days * 86_400 + hour * 3600 + minute * 60).checked_sub(ZONE_S)?;
    (civil(days) == (year, month, day)).then_some(seconds * 1000)
}

/// Whether a session goes on.
pub(crate) fn state(state: State) -> &'static str {
    match state {
        State::Open => "open",
        State::Ended => "ended",
    }
}

/// Bytes as people say them.
pub(crate) fn size(bytes: u64) -> String {
    const STEPS: [(&str, u64); 3] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000)];
    match STEPS.iter().find(|(_, step)| bytes >= *step) {
        Some((unit, step)) => format!("{:.1} {unit}", bytes as f64 / *step as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_vietnam() {
        assert_eq!(moment(0), "1970-01-01 07:00:00");
        assert_eq!(moment(1_709_139_600_000), "2024-02-29 00:00:00");
        assert_eq!(moment(1_795_327_511_000), "2026-11-22 13:05:11");
    }

    #[test]
    fn every_day_is_found_again() {
        for days in 1..40_000 {
            let (year, month, day) = civil(days);
            assert_eq!(unix_ms([year, month, day], [7, 0]), Some(days * 86_400_000));
        }
        for no_day in
            [[2026, 2, 29], [2026, 4, 31], [2026, 0, 1], [2026, 1, 0], [2026, 13, 1], [1969, 12, 31], [0, 0, 0]]
        {
            assert_eq!(unix_ms(no_day, [0, 0]), None, "{no_day:?}");
        }
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, want) in [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (2_340_000_000, "2.3 GB")] {
            assert_eq!(size(bytes), want);
        }
    }

    #[test]
    fn columns_line_up_under_vietnamese_names() {
        let rows = vec![vec!["Kiến Xương".into(), "yes".into()], vec!["A".into(), "no".into()]];
        assert_eq!(table(&["POINT", "HERE"], &rows), "POINT       HERE\nKiến Xương  yes\nA           no\n");
    }
}
