//! A disk that fills up under a running session: copies end first, recording last, the session can still be closed, and all
//! goes on by itself when there is room. The disk is a real one, a file system in a file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use node::control::{Disk, State};
use node::engine::disk::Space;
use tests::office::{Office, Point, SOON, alone};
use tests::program::{Call, Folder, until};

const MIB: u64 = 1 << 20;

/// The last segments come and a manifest is signed.
const CLOSED_WITHIN: Duration = Duration::from_secs(90);

/// A small disk, mounted; it goes with the value.
struct Small {
    folder: Folder,
    is_mounted: bool,
}

impl Small {
    /// A disk of so many bytes, or why there is none.
    fn new(bytes: u64) -> Result<Small, String> {
        let mut small = Small { folder: Folder::new(), is_mounted: false };
        let (image, disk) = (small.image(), small.path());
        File::create(&image).and_then(|file| file.set_len(bytes)).map_err(|error| error.to_string())?;
        fs::create_dir(&disk).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", text(&image)])?;
        run("mount", &["-o", "loop", text(&image), text(&disk)])?;
        small.is_mounted = true;
        Ok(small)
    }

    fn image(&self) -> PathBuf {
        self.folder.join("image")
    }

    fn path(&self) -> PathBuf {
        self.folder.join("disk")
    }

    /// Somebody else takes all but so many bytes. They are not written, so the file below stays small.
    fn fill(&self, left: u64) {
        let file = self.path().join("others");
        let len = fs::metadata(&file).map_or(0, |metadata| metadata.len());
        let free = Disk::of(&self.path(), 0, 0).expect("a disk").free;
        let more = free.saturating_sub(left).max(1);
        let [offset, length] = [len, more].map(|bytes| bytes.to_string());
        run("fallocate", &["--offset", &offset, "--length", &length, text(&file)]).expect("room, as it was asked for");
    }

    fn make_room(&self) {
        fs::remove_file(self.path().join("others")).expect("a file of ours");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        if self.is_mounted
            && let Err(why) = run("umount", &["--lazy", text(&self.path())])
        {
            eprintln!("{why}");
        }
        // The folder of a test that failed is kept for whoever looks into it; a disk in it would be large.
        let _ = fs::remove_file(self.image());
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("our paths are UTF-8")
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let done = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&done.stderr).trim()))
}

fn stands(point: &Point, space: Space) {
    until("the node says how its disk stands", SOON, || (point.status().disk.space == space).then_some(()));
}

#[test]
fn on_a_disk_that_fills_up_recording_is_the_last_to_stop_and_goes_on_when_there_is_room() {
    let _machine = alone();
    let small = match Small::new(1024 * MIB) {
        Ok(small) => small,
        Err(why) => return eprintln!("not run, for a disk of its own takes root and loop devices: {why}"),
    };
    let mut office = Office::new(&["Trung tâm", "Xã Kim Thành"]);
    let data = small.path().join("1");
    run("cp", &["-a", text(&office.points[0].data), text(&data)]).expect("room for a few files");
    office.points[0] = Point::on(data.clone(), "Trung tâm");
    let usual =
        ["run", "--listen", "127.0.0.1", "--mdns", "false", "--media-port", "0", "--console-port", "0", "--port", "0"];
    let limits = [("COPIES_FREE_PERCENT", "60"), ("RECORD_FREE_MB", "480"), ("RESERVE_MB", "100")];
    let call = || {
        limits.iter().fold(Call::new(usual), |call, (name, value)| call.env(format!("DIEMCAU_ARCHIVE_{name}"), *value))
    };
    let port = office.points[0].start(call()).own.mesh_port;
    office.points[1].run(&["--port", "0", "--peer", &format!("127.0.0.1:{port}")]);
    office.wait_until_met();
    let (central, delegate) = (&office.points[0], &office.points[1]);
    let reserve = data.join("archive").join("reserve");
    until("the reserve is made", SOON, || reserve.exists().then_some(()));
    let session = central.start_session("Tiếp công dân").id;
    central.wait_for_all(&session);
    central.wait_for_groups(8);
    assert_eq!(central.status().disk.space, Space::Enough);

    small.fill(540 * MIB);
    stands(central, Space::Tight);
    small.fill(440 * MIB);
    stands(central, Space::Short);
    central.wait_for_groups(4);
    assert!(reserve.exists(), "it is not needed yet");
    small.fill(330 * MIB);
    stands(central, Space::Last);
    until("the reserve is given up", SOON, || (!reserve.exists()).then_some(()));
    central.wait_for_groups(4);
    let said = Call::new(["status"]).data(&data).run().succeeded().stdout;
    assert!(said.contains("the disk is full: recording uses the last of it"), "{said}");
    assert_eq!(central.session(&session).gaps, 0, "nothing was lost so far");

    let acknowledged = central.kept(&session);
    small.fill(200 * MIB);
    until("what is not stored is in the journal", SOON, || (central.session(&session).gaps > 0).then_some(()));
    delegate.wait_for_groups(4);
    small.make_room();
    stands(central, Space::Enough);
    central.wait_for_groups(12);
    until("the reserve is made anew", SOON, || reserve.exists().then_some(()));

    let full = || {
        small.fill(200 * MIB);
        let refused = central.log().matches("a group could not be stored").count();
        until("no group is stored any more", Duration::from_secs(10), || {
            (central.log().matches("a group could not be stored").count() > refused).then_some(())
        });
    };
    small.fill(200 * MIB);
    until("the reserve is given up again", SOON, || (!reserve.exists()).then_some(()));
    full();
    assert_eq!(central.end_session().state, State::Ended, "on a full disk");
    until("the record is signed to its end, on the full disk", CLOSED_WITHIN, || {
        let verified = Call::new(["archive", "verify", "last"]).data(&data).run();
        verified.stdout.contains("nothing is wrong").then_some(())
    });
    assert_eq!(central.status().disk.space, Space::Last);
    office.stop();
    let kept = office.points[0].kept(&session);
    kept.must_have(&acknowledged, "central");
    assert_eq!(kept.unexplained(), [], "what was not stored is named");

    small.make_room();
    run("fallocate", &["--length", "100MiB", text(&reserve)]).expect("room for a reserve");
    small.fill(MIB);
    office.points[0].start(call());
    assert!(!reserve.exists(), "it was what the start had");
    office.points[0].stop();
}
