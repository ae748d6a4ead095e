//! What a demo found: for people a table, for programs JSON whose names are a promise. What was shown is as each room's
//! node tells it, but for what should have been: that is counted from the record.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use node::control::{Request, Response, Session, Shown};
use serde::{Deserialize, Serialize};
use store::id::PointNumber;

use super::account::Account;
use super::mesh::{self, Mesh};
use crate::cli::output;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    points: Vec<PointReport>,
    session: SessionReport,
    recording: Recording,
    exports: Vec<Export>,
    gallery: PathBuf,
}

#[derive(Debug, Serialize)]
struct PointReport {
    name: String,
    role: &'static str,
    shown: Vec<Shown>,
}

#[derive(Debug, Serialize)]
struct SessionReport {
    id: String,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Recording {
    groups: u64,
    bytes: u64,
    gaps: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Export {
    point: String,
    path: PathBuf,
}

/// What `archive export --json` prints, as far as it is used here.
#[derive(Debug, Deserialize)]
struct Exported {
    exports: Vec<Export>,
    gallery: Option<PathBuf>,
}

impl Report {
    /// Asks every room what it was shown, counts what it should have been, and exports.
    pub(super) fn make(mesh: &mut Mesh, session: &Session, folder: &Path) -> Result<Self> {
        let mut account = Account::default();
        for point in mesh.points() {
            let copy = folder.join("checkpoint");
            mesh.ask(&point.data, &Request::Checkpoint { to: copy.clone() })?;
            account.add(&copy, &session.id)?;
            std::fs::remove_dir_all(&copy)?;
        }
        let number = |name: &str| {
            let point = session.points.iter().find(|point| point.name == name);
            point
                .and_then(|point| PointNumber::new(point.number))
                .with_context(|| format!("{name} is not in the session"))
        };
        let mut points = Vec::new();
        for point in mesh.points() {
            let Response::Stats(stats) = mesh.ask(&point.data, &Request::Stats)? else {
                bail!("the node of {} does not say what it showed", point.name);
            };
            let mut shown = Vec::new();
            for other in mesh.points().iter().filter(|other| other.name != point.name) {
                let expected = account.expected(number(&point.name)?, number(&other.name)?);
                let seen = stats.shown.iter().find(|seen| seen.from == other.name).cloned().unwrap_or_default();
                shown.push(Shown {
                    from: other.name.clone(),
                    video_expected: expected.pictures,
                    audio_expected: expected.sounds,
                    ..seen
                });
            }
            points.push(PointReport { name: point.name.clone(), role: point.role, shown });
        }
        let films = folder.join("films");
        let to = films.to_str().context("the folder's name is not UTF-8")?;
        let exported = mesh::run(mesh.central(), &["archive", "export", &session.id, "--to", to, "--json"])?;
        let exported: Exported = serde_json::from_value(exported)?;
        let ended = session.ended.unwrap_or(session.started);
        Ok(Self {
            points,
            session: SessionReport {
                id: session.id.clone(),
                seconds: ended.saturating_sub(session.started) as f64 / 1000.0,
            },
            recording: Recording { groups: session.groups, bytes: session.bytes, gaps: session.gaps },
            exports: exported.exports,
            gallery: exported.gallery.context("the gallery was not exported")?,
        })
    }

    /// For people. `lack` says what the source did not give.
    pub(super) fn describe(&self, folder: &Path, check: &str, lack: Option<&str>) -> String {
        let head = ["at", "sees and hears", "pictures", "missing", "sound", "missing", "late p50", "p95", "max ms"];
        let mut rows = Vec::new();
        for point in &self.points {
            for shown in &point.shown {
                let ms = |value: f64| format!("{value:.0}");
                rows.push(vec![
                    point.name.clone(),
                    shown.from.clone(),
                    shown.video_frames.to_string(),
                    shown.video_expected.saturating_sub(shown.video_frames).to_string(),
                    shown.audio_frames.to_string(),
                    shown.audio_expected.saturating_sub(shown.audio_frames).to_string(),
                    ms(shown.latency_ms.p50),
                    ms(shown.latency_ms.p95),
                    ms(shown.latency_ms.max),
                ]);
            }
        }
        let mut text = output::table(&head, &rows);
        if let Some(lack) = lack {
            text.push_str(&format!("{lack}\n"));
        }
        text.push_str(&format!(
            "\nSession {}: {:.1} s, {} groups, {}, {} gaps, sealed at every point and whole at {}.\n\nFilms:\n",
            self.session.id,
            self.session.seconds,
            self.recording.groups,
            output::size(self.recording.bytes),
            self.recording.gaps,
            self.points.first().map_or("central", |point| point.name.as_str()),
        ));
        for export in &self.exports {
            text.push_str(&format!("  {:<22} {}\n", export.point, export.path.display()));
        }
        text.push_str(&format!("  {:<22} {}\n", "all, side by side", self.gallery.display()));
        text.push_str(&format!("\nData folders of the points: {}\n", folder.display()));
        text.push_str(&format!("To check what was recorded:\n  {check}\n"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_source_does_not_give_is_said_under_the_table() {
        let report = Report {
            points: Vec::new(),
            session: SessionReport { id: "01".into(), seconds: 4.0 },
            recording: Recording { groups: 4, bytes: 1_000, gaps: 0 },
            exports: Vec::new(),
            gallery: "g.mp4".into(),
        };
        let lack = "The source file:a.mp4 gives no sound: its sound is AAC with 6 channels";
        let told = report.describe(Path::new("/d"), "diemcau archive verify 01", Some(lack));
        assert!(told.lines().nth(1) == Some(lack), "{told}");
        assert!(told.ends_with("To check what was recorded:\n  diemcau archive verify 01\n"), "{told}");
        assert!(!serde_json::to_string(&report).unwrap().contains("lack"), "the names in JSON are a promise");
    }
}
