//! Every entrance of a running node, tried by those who have no business there: each is refused, and each stands in the
//! access log.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use node::control::access::AccessLine;
use serde_json::{Value, json};
use tests::office::{Office, Point, SOON, alone, found};
use tests::program::{Call, Folder, path, until};

const PASSWORD: &str = "con trâu đi trước";

fn log(data: &Path, more: &[&str]) -> Vec<AccessLine> {
    Call::new(["log", "access", "--json"].iter().chain(more)).data(data).json()
}

/// How often this was refused, and for whom.
fn refused(lines: &[AccessLine], who: &str, deed: &str, reason: &str) -> u64 {
    let is = |line: &&AccessLine| {
        line.who.as_deref() == Some(who)
            && line.deed == deed
            && line.refused.as_ref().is_some_and(|why| why.contains(reason))
    };
    lines.iter().filter(is).map(|line| line.times).sum()
}

/// A request as any program can send it: status and cookie.
fn say(page: &str, request: &str) -> (u16, String) {
    let host = page.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(host).expect("the page is served");
    // What is refused early may be cut off before all of it was written.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap_or_default();
    (status, cookie.split(';').next().unwrap_or_default().to_owned())
}

/// A request with these headers and this body.
fn ask(page: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    say(
        page,
        &format!("{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"),
    )
}

/// Somebody with an account: his cookie.
fn enter(data: &Path, page: &str, name: &str, role: &str) -> String {
    let made: Value = Call::new(["account", "add", name, "--role", role, "--json"]).data(data).json();
    let host = page.trim_start_matches("http://").trim_end_matches('/');
    let origin = format!("http://{host}");
    let ours = |cookie: &str, path: &str, body: &Value| {
        let headers = [("Host", host), ("Origin", &origin), ("Content-Type", "application/json"), ("Cookie", cookie)];
        ask(page, "POST", path, &headers, &body.to_string())
    };
    let (_, first) = ours("", "/api/login", &json!({ "name": name, "password": made["password"] }));
    let (status, cookie) = ours(&first, "/api/password", &json!({ "old": made["password"], "new": PASSWORD }));
    assert_eq!(status, 200, "{name} has a password of his own");
    cookie
}

#[test]
fn the_page_refuses_whoever_has_no_business_there_and_writes_it_down() {
    let folder = Folder::new();
    let data = folder.join("point");
    found(&[(&data, "Xã Kim Thành")]);
    let mut point = Point::on(data.clone(), "Xã Kim Thành");
    let page = point.run(&["--port", "0"]).own.console.expect("a page");
    let removed = enter(&data, &page, "hoa", "admin");
    Call::new(["account", "remove", "hoa"]).data(&data).run().succeeded();
    let cookies = ["operator", "secretary", "chair", "admin"].map(|role| enter(&data, &page, role, role));

    let host = page.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let origin = format!("http://{host}");
    let json = ("Content-Type", "application/json");
    let ours = [("Host", host.as_str()), ("Origin", &origin), json];
    let post = |path: &str, headers: &[(&str, &str)], body: &str| ask(&page, "POST", path, headers, body).0;
    let start = r#"{"title":"Định kỳ"}"#;
    let with = |cookie: &str, path: &str, body: &str| post(path, &[&ours[..], &[("Cookie", cookie)]].concat(), body);

    assert_eq!(with("", "/api/session/start", start), 401, "nobody");
    assert_eq!(with(&removed, "/api/session/start", start), 401, "whose account is gone");
    // Each role at each entrance. Who may start is told that there is nobody else to receive citizens with.
    let log_of = |cookie: &str| ask(&page, "GET", "/api/log/access", &[("Host", &host), ("Cookie", cookie)], "").0;
    for (cookie, conducts, reads) in
        [(&cookies[0], true, false), (&cookies[1], false, false), (&cookies[2], true, false), (&cookies[3], true, true)]
    {
        let starting = with(cookie, "/api/session/start", start);
        assert_eq!(starting, 403);
        assert_eq!(with(cookie, "/api/session/end", "{}"), if conducts { 404 } else { 403 });
        assert_eq!(log_of(cookie), if reads { 200 } else { 403 });
    }
    let admin = ("Cookie", cookies[3].as_str());
    let foreign = [("Host", host.as_str()), ("Origin", "http://evil.example"), json, admin];
    assert_eq!(post("/api/session/end", &foreign, "{}"), 403, "another page in the same browser");
    assert_eq!(post("/api/session/end", &[("Host", host.as_str()), json, admin], "{}"), 403, "no word of its origin");
    let form = [("Host", host.as_str()), ("Origin", &origin), ("Content-Type", "text/plain"), admin];
    assert_eq!(post("/api/session/end", &form, "{}"), 415, "a form");
    assert_eq!(ask(&page, "GET", "/api/status", &[("Host", "evil.example")], "").0, 403, "a name made to lead here");
    assert_eq!(with("", "/api/login", &json!({ "name": "chair", "password": "x" }).to_string()), 401);
    assert_eq!(with("", "/api/login", &"x".repeat(100_000)), 413);
    assert!([0, 400].contains(&say(&page, "\u{16}\u{3}\u{1} no request\r\n\r\n").0));
    let slow = format!("POST /api/login HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nContent-Length: 100\r\n\r\n{{");
    assert_eq!(say(&page, &slow).0, 408, "ten seconds for a body");
    assert_eq!(say(&page, "POST /api/login HTTP/1.1\r\nHo").0, 0, "fifteen for a head");

    point.stop();
    let lines = log(&data, &["--refused"]);
    let here = "127.0.0.1";
    for (who, deed, reason, times) in [
        (here, "ask", "log in first", 2),
        ("secretary", "session", "the role \"secretary\" does not allow that", 2),
        ("operator", "open", "the role \"operator\" does not allow that", 1),
        ("secretary", "open", "the role \"secretary\" does not allow that", 1),
        ("chair", "open", "the role \"chair\" does not allow that", 1),
        ("chair", "session", "name at least one other point", 1),
        (here, "ask", "this was not asked by the page itself", 2),
        ("admin", "ask", "the request is not the JSON that belongs here", 1),
        (here, "ask", "this page is for a browser on the same machine", 1),
        (here, "login", "wrong name or password", 1),
        (here, "ask", "the request is too long or broke off", 1),
        (here, "ask", "what came is no request", 1),
        (here, "ask", "the request did not come in time", 2),
    ] {
        assert_eq!(refused(&lines, who, deed, reason), times, "{who} {deed} {reason}: {lines:#?}");
    }
}

/// The program as the user `nobody`, or why it cannot be run so here.
fn as_nobody() -> Result<impl Fn(&[&str], &Path) -> tests::program::Finished, &'static str> {
    const NOBODY: [&str; 6] = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];
    if node::control::own_uid() != 0 {
        return Err("only root can act as another user");
    }
    let reachable = Call::of("setpriv", NOBODY).args(["test", "-x"]).arg(path()).run();
    if reachable.code() != 0 {
        return Err("other users cannot reach the program where it was built");
    }
    Ok(|args: &[&str], data: &Path| Call::of("setpriv", NOBODY).arg(path()).args(args.iter().copied()).data(data).run())
}

#[test]
fn another_user_of_the_machine_commands_nothing() {
    let nobody = match as_nobody() {
        Ok(nobody) => nobody,
        Err(why) => return println!("skipped: {why}"),
    };
    let folder = Folder::new();
    let data = folder.join("point");
    found(&[(&data, "Xã Kim Thành")]);
    let mut point = Point::on(data.clone(), "Xã Kim Thành");
    point.run(&["--port", "0"]);
    // As the program leaves its files, nobody else comes as far as the socket.
    let done = nobody(&["status", "--json"], &data);
    assert!(done.code() != 0 && done.stdout.is_empty(), "{done}");
    // Somebody has opened the way to it.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("a folder of ours");
    fs::set_permissions(&data, Permissions::from_mode(0o755)).expect("a folder of ours");
    fs::set_permissions(data.join("control.sock"), Permissions::from_mode(0o666)).expect("a socket of ours");
    for args in [&["status", "--json"][..], &["session", "list", "--json"], &["session", "end"], &["account", "list"]] {
        let done = nobody(args, &data).ended_with(5);
        assert!(done.stdout.is_empty() && done.stderr.contains("only the user of this machine"), "{done}");
    }
    assert!(point.status().own.running);
    point.stop();
    fs::set_permissions(&data, Permissions::from_mode(0o700)).expect("a folder of ours");
    let lines = log(&data, &["--who", "65534"]);
    assert_eq!(refused(&lines, "65534", "ask", "only the user of this machine that it runs as"), 2, "{lines:#?}");
    assert_eq!(refused(&lines, "65534", "session", "only the user of this machine"), 1, "{lines:#?}");
    assert_eq!(refused(&lines, "65534", "account", "only the user of this machine"), 1, "{lines:#?}");
}

#[test]
fn strangers_and_orders_and_what_is_taken_stand_in_the_log() {
    let _machine = alone();
    let mut office = Office::new(&["Trung tâm", "Xã Kim Thành"]);
    let mut stranger = office.stranger();
    let ports = office.run();
    stranger.run(&["--port", "0", "--peer", &format!("127.0.0.1:{}", ports[0])]);
    until("the stranger is in the log", SOON, || {
        let lines = log(&office.points[0].data, &["--refused"]);
        (refused(&lines, "127.0.0.1", "connect", "not in this point's roster") > 0).then_some(())
    });
    stranger.stop();

    let session = office.points[0].start_session("Vụ bà Nguyễn Thị X").id;
    office.points[0].wait_for_all(&session);
    office.points[0].wait_for_groups(4);
    // What the room says while central is away, central takes later.
    let own = office.points[0].status().own;
    office.points[0].kill();
    office.points[1].wait_for_groups(4);
    office.points[0].run(&["--port", &own.mesh_port.to_string()]);
    office.points[0].wait_for_all(&session);
    office.points[0].wait_for_groups(2);
    office.points[0].end_session();
    office.stop();

    let uid = node::control::own_uid().to_string();
    let orders = log(&office.points[0].data, &["--who", &uid]);
    let orders: Vec<_> = orders.iter().map(|line| (line.deed.as_str(), line.which.as_deref())).collect();
    assert_eq!(orders, [("session", Some(session.as_str())); 2]);
    let taken = log(&office.points[1].data, &["--who", "Trung tâm"]);
    let copies: u64 = taken.iter().filter(|line| line.deed == "copy").map(|line| line.times).sum();
    assert!(copies >= 4, "{taken:#?}");
    assert!(taken.iter().all(|line| line.refused.is_none() && line.which.as_ref() == Some(&session)), "{taken:#?}");
    for point in &office.points {
        let table = Call::new(["log", "access"]).data(&point.data).run().succeeded().stdout;
        assert!(!table.contains("Nguyễn"), "what a session is about is not in the log: {table}");
    }
}
