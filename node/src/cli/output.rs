//! What a command prints: tables, times and sizes for people, JSON for programs, and how failure looks.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use node::control::State;
pub(crate) use node::words::{moment, unix_ms};
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

/// A remark for people on stderr, beside what was asked for.
pub(crate) fn note(text: &str) {
    // Nothing is left to be done if stderr is closed.
    let _ = writeln!(io::stderr(), "{text}");
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

/// Now, unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
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
