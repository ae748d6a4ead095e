//! The page in a real browser, as people meet it: the room that waits, a chair who starts and ends a session, the other room
//! in which it appears by itself, an operator who reads the access log; in both languages, light and dark, and for people who
//! use a keyboard or a screen reader.

use std::time::Duration;

use serde_json::Value;
use tests::browser;
use tests::office::{Office, alone};
use tests::program::Call;

/// Chromium starts in seconds; a machine with few cores decodes, encodes and looks at each page besides.
const LOOKING_MAX: Duration = Duration::from_secs(400);

#[test]
fn people_use_the_page_with_a_browser() {
    let _machine = alone();
    let long = "UBND xã Kim Thành có tên dài để thử xem trên màn hình nhỏ còn chỗ không";
    let mut office = Office::new(&["UBND tỉnh Nghệ An", long, "UBND phường Sa Đéc"]);
    let central = office.points[0].data.clone();
    let account = |name: &str, role: &str| -> String {
        let made: Value = Call::new(["account", "add", name, "--role", role, "--json"]).data(&central).json();
        made["password"].as_str().expect("a password").to_owned()
    };
    let (chair, admin) = (account("lan", "chair"), account("quản", "admin"));
    // The first room is seen through the browser in it, the others show a test picture.
    let mut peer: Vec<String> = Vec::new();
    for (point, source) in office.points.iter_mut().zip(["browser", "pattern", "pattern"]) {
        let args = [&["--port", "0", "--source", source][..], &peer.iter().map(String::as_str).collect::<Vec<_>>()];
        let port = point.run(&args.concat()).own.mesh_port;
        if peer.is_empty() {
            peer = vec!["--peer".to_owned(), format!("127.0.0.1:{port}")];
        }
    }
    office.wait_until_met();
    let console = |point: usize| office.points[point].status().own.console.expect("a page");
    browser::run("page.mjs", &[&console(0), &console(1), &chair, &admin], LOOKING_MAX);
    office.stop();
}

#[test]
fn the_pages_own_checks_pass() {
    browser::page("check", LOOKING_MAX);
    browser::page("test", LOOKING_MAX);
}
