//! A recording on a disk that has gone bad: what is good comes out, and what is not is named.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tests::film;
use tests::office::{Office, alone};
use tests::program::Call;

/// Files of a folder whose names end so.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder of the archive");
    let paths = entries.map(|entry| entry.expect("a name").path());
    paths.filter(|path| path.to_string_lossy().ends_with(end)).collect()
}

#[test]
fn a_group_that_changed_on_the_disk_is_left_out_and_named() {
    let _machine = alone();
    let mut office = Office::new(&["Trung tâm", "Xã Kim Thành"]);
    office.run();
    let central = &office.points[0];
    let session = central.start_session("Tiếp công dân").id;
    central.wait_for_all(&session);
    central.wait_for_groups(12);
    let ended = central.end_session();
    assert_eq!(ended.gaps, 0);
    office.stop();
    // Another start brings what was written last from the database's log into its files, where it stays for years.
    office.points[0].run(&["--port", "0"]);
    office.points[0].stop();

    let central = &office.points[0];
    let export = |to: &str| {
        let call = Call::new(["archive", "export", "last", "--json", "--to"]).arg(office.folder.join(to));
        call.data(&central.data).limit(Duration::from_secs(120)).run()
    };
    let exported: Value = serde_json::from_str(&export("good").succeeded().stdout).expect("JSON alone");
    let frames = |exported: &Value, at: usize| exported["exports"][at]["video_frames"].as_u64().expect("a number");
    let good = [frames(&exported, 0), frames(&exported, 1)];

    // One picture group of the delegate, found by its own bytes in whatever file of the database they lie.
    let kept = central.kept(&session);
    let picture =
        |id: &&store::id::GroupId| id.track.point().get() == 2 && id.track.kind() == store::id::TrackKind::Main;
    let id = *kept.groups.keys().filter(picture).nth(1).expect("the delegate sent pictures");
    let bytes = &kept.groups[&id];
    let part = &bytes[bytes.len() / 2..][..64];
    let media = central.data.join("archive/media");
    let mut changed = 0;
    for file in [".log", ".blob", ".sst"].iter().flat_map(|end| files(&media, end)) {
        let mut content = fs::read(&file).expect("a file of the archive");
        if let Some(place) = content.windows(part.len()).position(|window| window == part) {
            content[place] ^= 1;
            fs::write(&file, content).expect("a file of the archive");
            changed += 1;
        }
    }
    assert_eq!(changed, 1, "the group lies in one file as it was sent");

    let done = export("bad").ended_with(4);
    assert!(done.stderr.contains("damaged"), "{done}");
    let exported: Value = serde_json::from_str(&done.stdout).expect("JSON alone");
    let missing = exported["exports"][1]["missing"].as_array().expect("what is missing");
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!((missing[0]["from"].as_u64(), missing[0]["to"].as_u64()), (Some(id.seq), Some(id.seq)));
    assert_eq!(frames(&exported, 0), good[0], "the other film lacks nothing");
    assert!(frames(&exported, 1) < good[1]);
    let films = exported["exports"].as_array().expect("films").iter().map(|film| &film["path"]);
    for path in films.chain([&exported["gallery"]]) {
        film::must_be_flawless(Path::new(path.as_str().expect("a path")));
    }
}
