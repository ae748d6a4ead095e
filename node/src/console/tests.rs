//! The page as browsers and others meet it: real requests over TCP to a node that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use store::access::{Access, Chain, Deed, Door, Entry, Outcome, What, Who};
use store::archive::Archive;
use store::db::memory::Memory;
use store::keys::NodeKey;
use store::roster::Right;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::accounts::Role;
use crate::control::{Fault, Response, Session, State as SessionState, Stats};
use crate::engine::rights::{Member, Members, may};
use crate::studio::stage::Stage;

/// A page with accounts and an access log of its own.
struct Room {
    console: Console,
    accounts: Arc<Accounts>,
    log: access::Log,
    meta: Arc<Memory>,
    _data: tempfile::TempDir,
}

/// An answer, taken apart.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }

    /// What a browser would send back.
    fn cookie(&self) -> String {
        let line = self.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
        assert!(line.contains("; HttpOnly; SameSite=Strict"), "{line}");
        line.split(';').next().expect("a pair").to_owned()
    }
}

const PASSWORD: &str = "con trâu đi trước";

fn key() -> NodeKey {
    NodeKey::from_bytes(&[5; 32])
}

fn session() -> Session {
    Session {
        id: "01jd9rdtkg0e1r70e1r70e1r70".into(),
        title: "Định kỳ".into(),
        state: SessionState::Open,
        central: "Trung tâm".into(),
        started: 1,
        ended: None,
        points: vec![],
        groups: 0,
        bytes: 0,
        gaps: 0,
        holders: 0,
        journal: vec![],
    }
}

/// A node with every right, that does whatever who asks it may have.
fn node() -> mpsc::Sender<Call> {
    let (handler, mut calls) = mpsc::channel::<Call>(1);
    let me = key().id();
    let own = Member { name: "Trung tâm".into(), rights: Right::ALL.into() };
    let members = Members::new(me, [(me, own)].into(), [].into());
    tokio::spawn(async move {
        while let Some((who, request, reply)) = calls.recv().await {
            if let Err(denied) = may(&members, &who, crate::driver::deed(&request).0) {
                let _ = reply.send(Response::Not { fault: Fault::Refused, reason: denied.to_string() });
                continue;
            }
            let _ = reply.send(match request {
                Request::SessionStart { .. }
                | Request::SessionEnd { .. }
                | Request::SessionRemove { .. }
                | Request::SessionNote { .. } => Response::Session(Box::new(session())),
                Request::AccessLog { .. } => Response::AccessLog(Box::default()),
                Request::Room => Response::Room(Box::default()),
                _ => Response::Stats(Box::new(Stats { session: None, shown: vec![] })),
            });
        }
    });
    handler
}

impl Room {
    async fn new() -> Room {
        let data = tempfile::tempdir().unwrap();
        let meta = Arc::new(Memory::new());
        let archive = Archive::over(meta.clone(), Arc::new(Memory::new())).unwrap();
        let log = access::Log::start(archive.logbook(), key()).unwrap();
        let accounts = Arc::new(Accounts::load(data.path()).unwrap());
        let (browser, _) = Browser::start("127.0.0.1".parse().unwrap(), Stage::default(), None).await.unwrap();
        let parts = Parts { handler: node(), accounts: Arc::clone(&accounts), log: log.clone(), browser };
        let settings = config::Console { address: "127.0.0.1".parse().unwrap(), port: Port::ANY };
        let console = Console::start(&settings, parts).await.unwrap();
        Room { console, accounts, log, meta, _data: data }
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask("GET", path, &self.console.at.to_string(), headers, "").await
    }

    /// As the page itself does it.
    async fn post(&self, path: &str, cookie: &str, body: &str) -> Answer {
        let host = self.console.at.to_string();
        let origin = format!("http://{host}");
        let headers = [("Origin", origin.as_str()), ("Content-Type", "application/json"), ("Cookie", cookie)];
        self.ask("POST", path, &host, &headers, body).await
    }

    async fn ask(&self, method: &str, path: &str, host: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.console.at).await.unwrap();
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    async fn login(&self, name: &str, password: &str) -> Answer {
        let body = serde_json::json!({ "name": name, "password": password }).to_string();
        self.post("/api/login", "", &body).await
    }

    /// An account with a password of its own, logged in: its cookie.
    async fn enter(&self, name: &str, role: Role) -> String {
        let (accounts, owned) = (Arc::clone(&self.accounts), name.to_owned());
        let made = tokio::task::spawn_blocking(move || {
            let first = accounts.add(&owned, role).unwrap();
            accounts.change(&owned, &first, PASSWORD).unwrap();
        });
        made.await.unwrap();
        let answer = self.login(name, PASSWORD).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.cookie()
    }

    /// What stands in the access log by now.
    fn logged(&self) -> Vec<Entry> {
        self.log.close();
        let archive = Archive::over(self.meta.clone(), Arc::new(Memory::new())).unwrap();
        let mut chain = Chain::new(key().id());
        let entries = archive.logbook().page(key().id(), 0, 1000).unwrap().entries;
        entries.into_iter().map(|(n, bytes)| chain.read(n, bytes).0.unwrap()).collect()
    }
}

#[tokio::test]
async fn the_page_and_its_state_are_served_to_this_machine_without_an_account() {
    let room = Room::new().await;
    for path in ["/", "/ban-chu-tri", "/nowhere"] {
        let page = room.ask("GET", path, "localhost:8080", &[], "").await;
        assert!(page.status == 200 && page.body.contains("<title>Điểm cầu</title>"), "{page:?}");
        assert!(page.head.contains("content-security-policy: default-src 'self'"), "{page:?}");
        assert!(page.head.contains("cache-control: no-store"), "{page:?}");
        for asset in page.body.split('"').filter(|word| word.starts_with("/assets/")) {
            let asset = room.get(asset, &[]).await;
            assert!(asset.status == 200 && asset.head.contains("immutable"), "{}", asset.head);
        }
    }
    for path in ["/assets/gone-12345678.js", "/api", "/api/nothing"] {
        let answer = room.get(path, &[]).await;
        assert_eq!((answer.status, answer.error().as_str()), (404, "missing"), "{path}");
    }
    assert_eq!(room.get("/api/stats", &[]).await.body, r#"{"session":null,"shown":[]}"#);
}

#[tokio::test]
async fn a_page_from_elsewhere_gets_nothing_and_is_written_down() {
    let room = Room::new().await;
    for host in ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "10.0.0.1", "", "[::2]:80"] {
        let answer = room.ask("GET", "/api/status", host, &[], "").await;
        assert!([400, 403].contains(&answer.status), "{host}: {answer:?}");
    }
    let entries = room.logged();
    let Entry { access, .. } = &entries[0];
    let here = Who::Address { ip: "127.0.0.1".parse().unwrap() };
    assert_eq!((&access.who, access.deed, &access.what), (&here, Deed::Ask, &What::Door { door: Door::Page }));
    assert!(entries.iter().map(|entry| entry.access.times).sum::<u64>() >= 5);
}

#[tokio::test]
async fn a_default_port_gives_way_and_a_chosen_one_does_not() {
    let first = Room::new().await;
    let (taken, address) = (first.console.at.port(), first.console.at.ip());
    let second = bind(address, Port { number: taken, fixed: false }).await.unwrap();
    assert!(second.local_addr().unwrap().port() > taken);
    let error = bind(address, Port { number: taken, fixed: true }).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("port {taken} is taken by another program")), "{error}");
}

/// Every entrance that needs an account, with a body it understands.
const ENTRANCES: [(&str, &str, &str); 8] = [
    ("POST", "/api/session/start", r#"{"title":"Định kỳ"}"#),
    ("POST", "/api/session/end", r#"{"session":null}"#),
    ("POST", "/api/session/remove", r#"{"point":"Xã Tân Phú","session":null}"#),
    ("POST", "/api/session/note", r#"{"kind":"incident","point":null,"text":"mất điện","session":null}"#),
    ("POST", "/api/password", r#"{"old":"a","new":"b"}"#),
    ("GET", "/api/session", ""),
    ("GET", "/api/log/access", ""),
    ("GET", "/api/me", ""),
];

/// What is open to whoever is at the machine, who sees, hears and is seen in the room anyway: the screen, live sound and picture
/// both ways, and the way in and out.
const OPEN: [(&str, &str); 14] = [
    ("GET", "/"),
    ("GET", "/assets/{name}"),
    ("GET", "/api/openapi.json"),
    ("GET", "/api/state"),
    ("GET", "/api/live"),
    ("POST", "/api/whip"),
    ("DELETE", "/api/whip/{place}"),
    ("POST", "/api/whep/{place}"),
    ("DELETE", "/api/whep/{place}"),
    ("PUT", "/api/whep/{place}/layer"),
    ("GET", "/api/status"),
    ("GET", "/api/stats"),
    ("POST", "/api/login"),
    ("POST", "/api/logout"),
];

#[test]
fn every_route_is_open_on_purpose_or_needs_an_account() {
    let source = include_str!("../console.rs");
    let routes = source.split(".route(\"").skip(1).map(|rest| {
        let (path, handler) = rest.split_once("\", ").expect("a path and what is done there");
        let method = handler.split('(').next().expect("a method");
        (method.to_uppercase(), path.to_owned())
    });
    let closed = ENTRANCES.iter().map(|(method, path, _)| (*method, *path));
    let known = OPEN.into_iter().chain(closed).map(|(method, path)| (method.to_owned(), path.to_owned()));
    let (routes, known): (BTreeSet<_>, BTreeSet<_>) = (routes.collect(), known.collect());
    assert_eq!(routes, known, "a route without a row");
}

#[tokio::test]
async fn without_an_account_every_entrance_but_the_screen_is_closed() {
    let room = Room::new().await;
    let name = &room.console.url().rsplit(':').next().unwrap().trim_end_matches('/').to_owned();
    let other_run = format!("diemcau-{name}={}", "ab".repeat(32));
    let garbage = [String::new(), other_run, format!("diemcau-{name}=x"), format!("diemcau-{name}=")];
    for (method, path, body) in ENTRANCES {
        for cookie in &garbage {
            let answer = match method {
                "POST" => room.post(path, cookie, body).await,
                _ => room.get(path, &[("Cookie", cookie)]).await,
            };
            assert_eq!((answer.status, answer.error().as_str()), (401, "login"), "{path} {cookie}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn the_first_password_opens_nothing_but_the_choice_of_another() {
    let room = Room::new().await;
    let first = room.accounts.add("lan", Role::Admin).unwrap();
    let answer = room.login("Lan", &first).await;
    assert_eq!(answer.json(), serde_json::json!({ "name": "lan", "role": "admin", "must_change": true }));
    let cookie = answer.cookie();
    for (method, path, body) in ENTRANCES {
        let answer = match (method, path) {
            (_, "/api/password" | "/api/me") => continue,
            ("POST", _) => room.post(path, &cookie, body).await,
            _ => room.get(path, &[("Cookie", &cookie)]).await,
        };
        assert_eq!((answer.status, answer.error().as_str()), (403, "change"), "{path}: {answer:?}");
    }
    let change = |new: &str| serde_json::json!({ "old": *first, "new": new }).to_string();
    let weak = room.post("/api/password", &cookie, &change("matkhau123")).await;
    assert_eq!((weak.status, weak.error().as_str()), (422, "weak"));
    let changed = room.post("/api/password", &cookie, &change(PASSWORD)).await;
    assert_eq!((changed.status, &changed.json()["must_change"]), (200, &false.into()));
    assert_ne!(changed.cookie(), cookie);
    assert_eq!(room.get("/api/session", &[("Cookie", &changed.cookie())]).await.status, 200);
    assert_eq!(room.get("/api/me", &[("Cookie", &cookie)]).await.status, 401, "the old cookie is worth nothing");
    assert_eq!(room.login("lan", &first).await.status, 401);
    let told: Vec<_> = room.logged().into_iter().map(|entry| (entry.access.deed, entry.access.what)).collect();
    assert!(told.contains(&(Deed::Account, What::Account { name: "lan".into() })), "{told:?}");
}

#[tokio::test]
async fn a_visit_ends_by_logging_out_and_when_the_account_is_another() {
    let room = Room::new().await;
    let mut cookie = room.enter("lan", Role::Chair).await;
    assert_eq!(room.get("/api/me", &[("Cookie", &cookie)]).await.json()["role"], "chair");
    let out = room.post("/api/logout", &cookie, "").await;
    assert!(out.status == 204 && out.head.contains("Max-Age=0"), "{out:?}");
    assert_eq!(room.get("/api/me", &[("Cookie", &cookie)]).await.status, 401);

    let changes: [&dyn Fn(); 3] =
        [&|| room.accounts.set_role("lan", Role::Operator).unwrap(), &|| room.accounts.remove("lan").unwrap(), &|| {
            drop(room.accounts.reset("hoa").unwrap())
        }];
    for (name, change) in ["lan", "lan", "hoa"].into_iter().zip(changes) {
        cookie = match room.accounts.get(name) {
            Some(_) => room.login(name, PASSWORD).await.cookie(),
            None => room.enter(name, Role::Chair).await,
        };
        assert_eq!(room.get("/api/me", &[("Cookie", &cookie)]).await.status, 200);
        change();
        assert_eq!(room.get("/api/me", &[("Cookie", &cookie)]).await.status, 401, "{name}");
    }
}

#[tokio::test]
async fn who_may_what_is_what_the_role_says_and_is_written_down_with_the_name() {
    let room = Room::new().await;
    for (role, starts, removes, reads_log) in [
        (Role::Operator, true, false, false),
        (Role::Secretary, false, false, false),
        (Role::Chair, true, true, false),
        (Role::Admin, true, true, true),
    ] {
        let cookie = room.enter(role.name(), role).await;
        let code = |allowed| if allowed { 200 } else { 403 };
        let deeds = [("start", starts), ("end", starts), ("remove", removes), ("note", true)];
        for (deed, may) in deeds {
            let path = format!("/api/session/{deed}");
            let body = ENTRANCES.iter().find(|(_, entrance, _)| *entrance == path).unwrap().2;
            let answer = room.post(&path, &cookie, body).await;
            assert_eq!(answer.status, code(may), "{role:?} {path}: {answer:?}");
        }
        let log = room.get("/api/log/access?from=0&refused=true", &[("Cookie", &cookie)]).await;
        assert_eq!(log.status, code(reads_log), "{role:?}: {log:?}");
        assert_eq!(room.get("/api/session", &[("Cookie", &cookie)]).await.status, 200);
    }
    let entries = room.logged();
    let by = |name: &str, deed: Deed| {
        let of = entries.iter().filter(|entry| entry.access.who == Who::Account { name: name.into() });
        of.filter(|entry| entry.access.deed == deed).map(|entry| &entry.access).collect::<Vec<_>>()
    };
    assert_eq!(by("chair", Deed::Session).len(), 3);
    assert!(matches!(by("chair", Deed::Remove)[..], [Access { what: What::Session { .. }, .. }]));
    assert!(matches!(by("operator", Deed::Remove)[..], [Access { outcome: Outcome::Refused { .. }, .. }]));
    assert!(by("chair", Deed::Session).iter().all(|access| matches!(access.what, What::Session { .. })));
    assert!(matches!(by("secretary", Deed::Session)[0].outcome, Outcome::Refused { .. }));
    assert!(matches!(by("chair", Deed::Open)[..], [Access { outcome: Outcome::Refused { .. }, .. }]));
    assert!(matches!(by("admin", Deed::Open)[..], [Access { outcome: Outcome::Done {}, .. }]));
}

#[tokio::test]
async fn a_wrong_password_a_wrong_name_and_an_empty_one_get_the_same_answer() {
    let room = Room::new().await;
    drop(room.enter("lan", Role::Chair).await);
    let mut answers = Vec::new();
    for (name, password) in [("lan", "wrong password"), ("nobody", PASSWORD), ("", "")] {
        let answer = room.login(name, password).await;
        assert_eq!((answer.status, answer.error().as_str()), (401, "wrong"));
        assert!(!answer.head.contains("set-cookie"));
        answers.push(answer.body);
    }
    assert!(answers.iter().all(|body| *body == answers[0]));
    let entries = room.logged();
    let refused = entries.iter().filter(|entry| matches!(entry.access.outcome, Outcome::Refused { .. }));
    let whats: Vec<_> = refused.map(|entry| entry.access.what.clone()).collect();
    assert_eq!(whats[..2], [What::Account { name: "lan".into() }, What::Door { door: Door::Page }]);
    assert!(!format!("{entries:?}").contains("nobody"), "a name nobody has may be a password in the wrong field");
}

#[tokio::test]
async fn after_wrong_passwords_even_the_right_one_has_to_wait() {
    let room = Room::new().await;
    drop(room.enter("lan", Role::Chair).await);
    // The first waits are shorter than a slow machine takes to look at a password.
    let mut wrong = 0;
    loop {
        let answer = room.login("lan", "wrong password").await;
        if answer.status == 401 {
            wrong += 1;
            continue;
        }
        assert_eq!((answer.status, answer.error().as_str()), (429, "wait"));
        let after = answer.json()["after"].as_u64().expect("seconds");
        assert!(answer.head.contains(&format!("retry-after: {after}")), "{answer:?}");
        if after >= 4 {
            break;
        }
        tokio::time::sleep(Duration::from_secs(after)).await;
    }
    assert!(wrong >= 3, "three may be mistakes");
    let answer = room.login("lan", PASSWORD).await;
    assert_eq!((answer.status, answer.error().as_str()), (429, "wait"));
    // Others at the same machine are not kept out.
    drop(room.enter("hoa", Role::Chair).await);
    let reasons: Vec<_> = room.logged().into_iter().map(|entry| entry.access.outcome).collect();
    assert!(reasons.contains(&Outcome::Refused { reason: "too many wrong passwords before".into() }), "{reasons:?}");
}

#[tokio::test]
async fn a_request_that_another_page_began_changes_nothing() {
    let room = Room::new().await;
    let cookie = room.enter("lan", Role::Admin).await;
    let host = room.console.at.to_string();
    let ours = format!("http://{host}");
    let json = ("Content-Type", "application/json");
    for headers in [
        vec![("Origin", "http://evil.example"), json],
        vec![("Origin", "null"), json],
        vec![("Sec-Fetch-Site", "cross-site"), json],
        vec![("Origin", &ours), ("Sec-Fetch-Site", "cross-site"), json],
        vec![json],
    ] {
        for (method, path, body) in ENTRANCES.into_iter().filter(|(method, ..)| *method == "POST") {
            let headers = [&headers[..], &[("Cookie", &cookie)]].concat();
            let answer = room.ask(method, path, &host, &headers, body).await;
            assert_eq!((answer.status, answer.error().as_str()), (403, "origin"), "{path} {headers:?}");
        }
        let login = room.ask("POST", "/api/login", &host, &headers, r#"{"name":"lan","password":"x"}"#).await;
        assert_eq!(login.status, 403);
    }
    // A form of another page can send these without asking the browser's leave.
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        let headers = [("Origin", ours.as_str()), ("Content-Type", kind), ("Cookie", &cookie)];
        let answer = room.ask("POST", "/api/session/start", &host, &headers, r#"{"title":"A"}"#).await;
        assert_eq!((answer.status, answer.error().as_str()), (415, "form"), "{kind}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_without_being_repeated() {
    let room = Room::new().await;
    let cookie = room.enter("lan", Role::Admin).await;
    for (path, body) in [
        ("/api/login", r#"{"name":"lan","password":["bí mật"]}"#),
        ("/api/login", r#"{"name":"lan","password":"bí mật","more":1}"#),
        ("/api/login", r#"{"name":"bí mật""#),
        ("/api/password", r#"{"old":"bí mật"}"#),
        ("/api/session/start", r#"{"titel":"bí mật"}"#),
    ] {
        let answer = room.post(path, &cookie, body).await;
        assert!([400, 422].contains(&answer.status) && answer.error() == "form", "{answer:?}");
        assert!(!answer.body.contains("bí mật"), "{answer:?}");
    }
    let long = format!(r#"{{"title":"{}"}}"#, "x".repeat(serve::BODY_BYTES_MAX));
    assert_eq!(room.post("/api/session/start", &cookie, &long).await.status, 413);
    let strange = room.get("/api/log/access?whom=lan", &[("Cookie", &cookie)]).await;
    assert_eq!(strange.status, 400);
}

#[tokio::test]
async fn cookies_of_two_nodes_on_one_machine_do_not_mix() {
    let (one, two) = (Room::new().await, Room::new().await);
    let cookies = [one.enter("lan", Role::Chair).await, two.enter("hoa", Role::Admin).await];
    let both = cookies.join("; ");
    for (room, name) in [(&one, "lan"), (&two, "hoa")] {
        assert_eq!(room.get("/api/me", &[("Cookie", &both)]).await.json()["name"], name);
    }
    assert_eq!(two.get("/api/me", &[("Cookie", &cookies[0])]).await.status, 401);
}

#[tokio::test]
async fn whatever_is_refused_is_in_the_access_log_with_as_much_as_is_known_of_who_it_was() {
    let room = Room::new().await;
    let removed = room.enter("hoa", Role::Admin).await;
    room.accounts.remove("hoa").unwrap();
    let secretary = room.enter("lan", Role::Secretary).await;
    let first = room.accounts.add("moi", Role::Admin).unwrap();
    let unchanged = room.login("moi", &first).await.cookie();
    let start = r#"{"title":"Định kỳ"}"#;
    let host = room.console.at.to_string();
    let json = ("Content-Type", "application/json");

    room.post("/api/session/start", "", start).await;
    room.post("/api/session/start", &removed, start).await;
    room.post("/api/session/start", &secretary, start).await;
    room.get("/api/log/access", &[("Cookie", &secretary)]).await;
    room.get("/api/log/access", &[("Cookie", &unchanged)]).await;
    room.post("/api/session/end", &secretary, "{").await;
    room.ask("POST", "/api/session/end", &host, &[("Origin", "http://evil.example"), json], "{}").await;
    room.ask("POST", "/api/session/end", &host, &[json], "{}").await;
    room.ask("GET", "/api/status", "evil.example", &[], "").await;
    room.login("lan", "wrong password").await;
    let long = "x".repeat(serve::BODY_BYTES_MAX + 1);
    room.post("/api/login", "", &long).await;
    let mut rubbish = TcpStream::connect(room.console.at).await.unwrap();
    rubbish.write_all(b"\x16\x03\x01 no request\r\n\r\n").await.unwrap();
    let _ = rubbish.read_to_end(&mut Vec::new()).await;

    let entries = room.logged();
    let refused = |access: &Access| match &access.outcome {
        Outcome::Refused { reason } => Some((access.who.clone(), access.deed, reason.clone(), access.times)),
        Outcome::Done {} => None,
    };
    let mut told = BTreeMap::new();
    for (who, deed, reason, times) in entries.iter().filter_map(|entry| refused(&entry.access)) {
        *told.entry((who, deed, reason)).or_default() += times;
    }
    let here = || Who::Address { ip: "127.0.0.1".parse().unwrap() };
    let account = |name: &str| Who::Account { name: name.into() };
    let role =
        "the role \"secretary\" does not allow that: log in as somebody else, or ask an administrator of this point";
    let expected = [
        (here(), Deed::Ask, "log in first", 2),
        (account("lan"), Deed::Session, role, 1),
        (account("lan"), Deed::Open, role, 1),
        (account("moi"), Deed::Ask, "this password was set by somebody else: choose your own first", 1),
        (account("lan"), Deed::Ask, "the request is not the JSON that belongs here", 1),
        (here(), Deed::Ask, "this was not asked by the page itself", 2),
        (here(), Deed::Ask, "this page is for a browser on the same machine", 1),
        (here(), Deed::Login, "wrong name or password", 1),
        (here(), Deed::Ask, "the request is too long or broke off", 1),
        (here(), Deed::Ask, "what came is no request, or one that is too long", 1),
    ];
    let expected = expected.map(|(who, deed, reason, times)| ((who, deed, reason.to_owned()), times));
    assert_eq!(told, expected.into());
}

/// Begins a WebSocket and gives the answer's head and the stream.
async fn socket(room: &Room, origin: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(room.console.at).await.unwrap();
    let host = room.console.at;
    let request = format!(
        "GET /api/live HTTP/1.1\r\nHost: {host}\r\n{origin}Connection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (String::from_utf8(head).unwrap(), stream)
}

#[tokio::test]
async fn a_page_is_told_the_state_at_once_and_another_page_nothing() {
    let room = Room::new().await;
    let ours = format!("Origin: http://{}\r\n", room.console.at);
    let (head, mut stream) = socket(&room, &ours).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    // RFC 6455 5.2: a whole text frame, its length in two bytes.
    assert_eq!(stream.read_u8().await.unwrap(), 0x81);
    assert_eq!(stream.read_u8().await.unwrap(), 126);
    let mut text = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut text).await.unwrap();
    let told: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((&told["type"], &told["state"]["publishing"]), (&"state".into(), &false.into()), "{told}");

    for origin in ["", "Origin: http://evil.example\r\n", "Origin: null\r\n"] {
        let (head, _) = socket(&room, origin).await;
        assert!(head.starts_with("HTTP/1.1 403"), "{origin}: {head}");
    }
}

#[tokio::test]
async fn pages_that_are_told_have_places_of_their_own_and_give_them_back() {
    let room = Room::new().await;
    let ours = format!("Origin: http://{}\r\n", room.console.at);
    let mut held = Vec::new();
    for n in 0..super::room::SOCKETS_MAX {
        let (head, stream) = socket(&room, &ours).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{n}: {head}");
        held.push(stream);
    }
    let (head, _) = socket(&room, &ours).await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert_eq!(room.get("/api/status", &[]).await.status, 200, "others are served meanwhile");
    drop(held);
    let patience = std::time::Instant::now() + Duration::from_secs(10);
    while !socket(&room, &ours).await.0.starts_with("HTTP/1.1 101") {
        assert!(std::time::Instant::now() < patience, "places are given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
