//! Accounts from the outside: made by a command, used with a browser, written down.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use node::control::access::AccessLine;
use serde_json::{Value, json};
use tests::office::{Point, found};
use tests::program::{Call, Folder};

/// What a browser at the machine would do: one request, from the page itself. Gives status, cookie and body.
fn ask(page: &str, method: &str, path: &str, cookie: &str, body: &Value) -> (u16, String, Value) {
    let host = page.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(host).expect("the page is served");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nCookie: {cookie}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("the page is served");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap_or_default();
    let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
    (status, cookie, serde_json::from_str(body).unwrap_or_default())
}

fn account(data: &Path, line: &str) -> Value {
    Call::new(["account"].into_iter().chain(line.split(' ')).chain(["--json"])).data(data).json()
}

fn log(data: &Path) -> Vec<AccessLine> {
    Call::new(["log", "access", "--json"]).data(data).json()
}

#[test]
fn an_account_is_made_used_changed_and_removed() {
    let folder = Folder::new();
    let data = folder.join("point");
    found(&[(&data, "Xã Kim Thành")]);
    let lan = account(&data, "add lan --role chair");
    let mut point = Point::on(data.clone(), "Xã Kim Thành");
    let page = point.run(&["--port", "0"]).own.console.expect("a page");
    let hoa = account(&data, "add hoa --role admin");
    let password = |account: &Value| account["password"].as_str().expect("a password").to_owned();

    let login = |name: &str, password: &str| {
        ask(&page, "POST", "/api/login", "", &json!({ "name": name, "password": password }))
    };
    assert_eq!(login("lan", "not this one").0, 401);
    let mut cookies = Vec::new();
    for (name, first) in [("lan", password(&lan)), ("hoa", password(&hoa))] {
        let (status, cookie, me) = login(name, &first);
        assert_eq!((status, &me["must_change"]), (200, &json!(true)));
        assert_eq!(ask(&page, "GET", "/api/session", &cookie, &Value::Null).0, 403);
        let change = json!({ "old": first, "new": "con trâu đi trước" });
        let (status, cookie, me) = ask(&page, "POST", "/api/password", &cookie, &change);
        assert_eq!((status, &me["must_change"]), (200, &json!(false)));
        cookies.push(cookie);
    }
    let [lan, hoa] = &cookies[..] else { panic!("two cookies") };
    assert_eq!(ask(&page, "GET", "/api/session", lan, &Value::Null), (200, String::new(), Value::Null));
    // There is nobody else to receive citizens with; that is said by whoever decides it, and not by the page.
    let (status, _, refusal) = ask(&page, "POST", "/api/session/start", lan, &json!({ "title": "Định kỳ" }));
    assert_eq!((status, &refusal["error"]), (403, &json!("refused")), "{refusal}");
    assert_eq!(ask(&page, "GET", "/api/log/access", lan, &Value::Null).0, 403);
    let (status, _, page_of_log) = ask(&page, "GET", "/api/log/access?who=lan", hoa, &Value::Null);
    assert!(status == 200 && page_of_log["broken"] == json!([]), "{page_of_log}");

    let listed: Value = account(&data, "list");
    assert_eq!(listed[0], json!({ "name": "lan", "role": "chair", "must_change": false }));
    account(&data, "role lan secretary");
    assert_eq!(ask(&page, "GET", "/api/me", lan, &Value::Null).0, 401, "another role, another login");
    account(&data, "remove lan");
    assert_eq!(login("lan", "con trâu đi trước").0, 401);
    for (line, code) in [("remove lan", 3), ("reset lan", 3), ("role lan chair", 3), ("add hoa --role chair", 5)] {
        Call::new(["account"].into_iter().chain(line.split(' '))).data(&data).run().ended_with(code);
    }
    point.stop();
    account(&data, "reset hoa");
    assert_eq!(account(&data, "list"), json!([{ "name": "hoa", "role": "admin", "must_change": true }]));

    let told: Vec<_> =
        log(&data).into_iter().map(|line| (line.by, line.who, line.deed, line.which, line.refused)).collect();
    let did = |by: &str, who: Option<&str>, deed: &str, which: Option<&str>, done: bool| {
        let found = told.iter().filter(|(b, w, d, i, r)| {
            (b.as_str(), w.as_deref(), d.as_str(), i.as_deref(), r.is_none()) == (by, who, deed, which, done)
        });
        found.count()
    };
    let uid = node::control::own_uid().to_string();
    assert_eq!(did("local", Some(&uid), "account", Some("lan"), true), 3, "{told:#?}");
    assert_eq!(did("local", Some(&uid), "account", Some("hoa"), true), 2);
    assert_eq!(did("account", Some("lan"), "account", Some("lan"), true), 1);
    assert_eq!(did("account", Some("lan"), "login", Some("page"), true), 1);
    assert!(did("address", Some("127.0.0.1"), "login", Some("lan"), false) >= 1);
    assert_eq!(did("account", Some("lan"), "session", None, false), 1);
    assert_eq!(did("account", Some("lan"), "open", None, false), 1);
    assert_eq!(did("account", Some("hoa"), "open", None, true), 1);
}
