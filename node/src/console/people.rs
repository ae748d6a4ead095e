//! Logging in and out, and choosing a password.
//!
//! A password is checked by one thread at a time and a few wait, because each check takes 64 MiB and a fifth of a second,
//! which a room in the middle of a session does not have to spare a hundred times over. What a wrong password costs is
//! `engine::lockout`'s to say. Whether a name exists is told neither by the answer nor by its time.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, State};
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use store::access::{Deed, Door, What, Who};
use zeroize::Zeroizing;

use super::Desk;
use super::guard::Refusal;
use crate::accounts::{self, Account, Accounts};
use crate::engine::lockout;
use crate::engine::visits::{self, Token};
use crate::secret::Secret;

/// A cookie outlives no visit.
const COOKIE_SECONDS: u64 = 24 * 3600;

/// Somebody who is logged in.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    pub(super) account: Account,
    token: Token,
}

impl Visitor {
    /// For the access log.
    pub(super) fn who(&self) -> Who {
        Who::Account { name: self.account.name.clone() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    name: String,
    password: Secret,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    old: Secret,
    new: Secret,
}

pub(super) async fn login(
    State(desk): State<Arc<Desk>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    body: Result<Json<Login>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(Login { name, password }) = body.map_err(unreadable)?;
    let check =
        move |accounts: &Accounts, name: &str| accounts.check(name, password.expose()).ok_or(accounts::Error::Wrong);
    let account = desk.try_password(&name, from.ip(), Box::new(check)).await?;
    let who = Who::Account { name: account.name.clone() };
    desk.log.done(who, Deed::Login, What::Door { door: Door::Page });
    desk.let_in(&account)
}

pub(super) async fn logout(State(desk): State<Arc<Desk>>, headers: HeaderMap) -> Response {
    if let Some(token) = desk.token(&headers) {
        desk.visits().handle(Instant::now(), visits::Input::Out { token });
    }
    let gone = format!("{}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0", desk.cookie);
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(SET_COOKIE, header(&gone));
    response
}

pub(super) async fn me(State(desk): State<Arc<Desk>>, headers: HeaderMap) -> Result<Response, Refusal> {
    // Every page asks this when it is opened.
    Ok(Json(desk.visitor_at_all(&headers).map_err(Refusal::quiet)?.account).into_response())
}

pub(super) async fn password(
    State(desk): State<Arc<Desk>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Result<Json<Change>, JsonRejection>,
) -> Result<Response, Refusal> {
    let visitor = desk.visitor_at_all(&headers)?;
    let Json(Change { old, new }) = body.map_err(unreadable)?;
    let name = visitor.account.name.clone();
    let change = move |accounts: &Accounts, name: &str| accounts.change(name, old.expose(), new.expose());
    let account = desk.try_password(&name, from.ip(), Box::new(change)).await?;
    desk.log.done(visitor.who(), Deed::Account, What::Account { name });
    desk.visits().handle(Instant::now(), visits::Input::Out { token: visitor.token });
    desk.let_in(&account)
}

/// What is done with an account and its password, on a thread that may wait.
type Work = Box<dyn FnOnce(&Accounts, &str) -> Result<Account, accounts::Error> + Send>;

impl Desk {
    /// Whoever sent this is logged in, and may do what he is there for.
    pub(super) fn visitor(&self, headers: &HeaderMap) -> Result<Visitor, Refusal> {
        let visitor = self.visitor_at_all(headers)?;
        if visitor.account.must_change {
            let reason = "this password was set by somebody else: choose your own first";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "change", reason));
        }
        Ok(visitor)
    }

    /// Whoever sent this is logged in, perhaps with a password that he must change before anything else.
    fn visitor_at_all(&self, headers: &HeaderMap) -> Result<Visitor, Refusal> {
        let now = Instant::now();
        let found = self.token(headers).and_then(|token| {
            let account = self.account_of(&token)?;
            self.visits().handle(now, visits::Input::Seen { token });
            Some(Visitor { account, token })
        });
        found.ok_or_else(|| Refusal::new(StatusCode::UNAUTHORIZED, "login", "log in first"))
    }

    /// The account that is logged in with a cookie, as it is now.
    pub(super) fn account_of(&self, token: &Token) -> Option<Account> {
        let visits = self.visits();
        let (name, stamp) = visits.account(Instant::now(), token)?;
        self.accounts.get(name).filter(|account| account.stamp == stamp)
    }

    /// The hash of the cookie that came with a request.
    pub(super) fn token(&self, headers: &HeaderMap) -> Option<Token> {
        let pairs =
            headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(';'));
        let mut values = pairs.filter_map(|pair| pair.trim().strip_prefix(&self.cookie)?.strip_prefix('='));
        let mut cookie = Zeroizing::new([0; 32]);
        hex::decode_to_slice(values.next()?, &mut *cookie).ok()?;
        Some(*blake3::hash(&*cookie).as_bytes())
    }

    /// Gives the account's owner a cookie.
    fn let_in(&self, account: &Account) -> Result<Response, Refusal> {
        let mut cookie = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *cookie)
            .map_err(|error| failed(format!("the system gives no random numbers: {error}")))?;
        let token = *blake3::hash(&*cookie).as_bytes();
        let key = accounts::key(&account.name);
        self.visits().handle(Instant::now(), visits::Input::In { token, account: key, stamp: account.stamp });
        let secret = Zeroizing::new(hex::encode(*cookie));
        let set = Zeroizing::new(format!(
            "{}={}; Path=/; HttpOnly; SameSite=Strict; Max-Age={COOKIE_SECONDS}",
            self.cookie, *secret
        ));
        let mut response = Json(account).into_response();
        response.headers_mut().insert(SET_COOKIE, header(&set));
        Ok(response)
    }

    /// Does something that needs the password of an account, if it may be tried now.
    async fn try_password(self: &Arc<Self>, name: &str, from: IpAddr, work: Work) -> Result<Account, Refusal> {
        // Longer than any name, so that of nobody; and not worth keeping in mind.
        let name: String = accounts::key(name).chars().take(2 * accounts::NAME_MAX).collect();
        let busy = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many are logging in: try again");
        let place = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| busy())?;
        let desk = Arc::clone(self);
        // A task of its own: whoever hangs up has guessed all the same.
        let tried = tokio::spawn(async move {
            let tried = desk.tried(name, from, work).await;
            drop(place);
            tried
        });
        tried.await.map_err(|_| failed("checking the password failed"))?
    }

    async fn tried(self: Arc<Self>, name: String, from: IpAddr, work: Work) -> Result<Account, Refusal> {
        let _turn = self.turn.acquire().await.map_err(|_| failed("this point is stopping"))?;
        let wait = {
            let (mut lockout, now) = (self.lockout(), Instant::now());
            let wait = lockout.wait(now, &name, from);
            if wait.is_zero() {
                lockout.handle(now, lockout::Input::Tried { account: &name, address: from });
            }
            wait
        };
        if !wait.is_zero() {
            self.wrong(&name, from, "too many wrong passwords before");
            return Err(later(wait).quiet());
        }
        let (accounts, named) = (Arc::clone(&self.accounts), name.clone());
        let done = tokio::task::spawn_blocking(move || work(&accounts, &named)).await;
        let done = done.map_err(|_| failed("checking the password failed"))?;
        if matches!(done, Err(accounts::Error::Wrong)) {
            self.wrong(&name, from, "wrong name or password");
        } else {
            self.lockout().handle(Instant::now(), lockout::Input::Right { account: &name, address: from });
        }
        done.map_err(|error| match error {
            accounts::Error::Wrong => {
                Refusal::new(StatusCode::UNAUTHORIZED, "wrong", "the name or the password is wrong").quiet()
            }
            accounts::Error::Weak(weak) => {
                Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "weak", weak.to_string()).quiet()
            }
            error => {
                tracing::error!(error = &error as &dyn std::error::Error, "an account could not be changed");
                failed("the account could not be changed: the node's log says why")
            }
        })
    }

    /// Writes down that a password did not do. A name that nobody has may be a password in the wrong field, and is not
    /// written down.
    fn wrong(&self, name: &str, from: IpAddr, reason: &str) {
        let known = self.accounts.get(name);
        let what = known.map_or(What::Door { door: Door::Page }, |account| What::Account { name: account.name });
        self.log.refused(Who::Address { ip: from }, Deed::Login, what, reason);
    }
}

/// Cookies of ours are plain text.
fn header(cookie: &str) -> HeaderValue {
    let mut value = HeaderValue::from_str(cookie).expect("a name, hex digits and attributes are plain text");
    value.set_sensitive(true);
    value
}

fn failed(reason: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "failed", reason)
}

fn later(wait: Duration) -> Refusal {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let reason = format!("too many wrong passwords: try again in {seconds} s");
    Refusal { after: Some(seconds), ..Refusal::new(StatusCode::TOO_MANY_REQUESTS, "wait", reason) }
}

/// The library's own words would show what it read, which may be a password.
pub(super) fn unreadable(rejection: JsonRejection) -> Refusal {
    Refusal::new(rejection.status(), "form", "the request is not the JSON that belongs here")
}
