//! The changes an authority makes to the roster.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use node::config::Address;
use node::control::Fault;
use node::identity::authority;
use store::id::NodeId;
use store::roster::{GrantId, Point, Request, Revoked};
use store::signed::Signed;

use super::super::args::{Allowed, open, rights};
use super::super::exit::{Failure, Usage};
use super::super::init::unix_ms;
use super::{Desk, Place, REQUEST, parse_request};

/// Longest file of requests: some thousands of them.
const REQUESTS_BYTES_MAX: u64 = 4 << 20;

pub(super) fn add(place: &Place, files: &[PathBuf], allowed: &[Allowed], name: Option<&str>) -> Result<()> {
    let mut requests = Vec::new();
    for file in files {
        requests.append(&mut read_requests(file)?);
    }
    if name.is_some() && requests.len() > 1 {
        return Err(Usage(format!("one name for {} machines: give one request with --name", requests.len())).into());
    }
    let mut desk = Desk::open(place)?;
    let mut names = Vec::new();
    for request in requests {
        may_come_in(&desk, &request.signer())?;
        let point = Point {
            rights: rights(allowed),
            name: name.unwrap_or(&request.content().name).trim().to_owned(),
            ..point_of(&request)?
        };
        names.push(point.name.clone());
        desk.next.points.push(point);
    }
    desk.finish(format!("Added: {}.", names.join(", ")))
}

pub(super) fn set_rights(place: &Place, point: &str, allowed: &[Allowed]) -> Result<()> {
    let mut desk = Desk::open(place)?;
    let found = desk.find(point)?;
    let found = &mut desk.next.points[found];
    found.rights = rights(allowed);
    let list: Vec<_> = found.rights.iter().map(|right| right.name()).collect();
    let list = if list.is_empty() { "only take part".to_owned() } else { list.join(", ") };
    let done = format!("{} may: {list}.", found.name);
    desk.finish(done)
}

pub(super) fn replace(place: &Place, point: &str, file: &Path, reason: &str) -> Result<()> {
    let mut requests = read_requests(file)?;
    let (Some(request), true) = (requests.pop(), requests.is_empty()) else {
        return Err(Usage(format!("{} must hold one request, that of the new machine", file.display())).into());
    };
    let mut desk = Desk::open(place)?;
    may_come_in(&desk, &request.signer())?;
    let found = desk.find(point)?;
    let heir = point_of(&request)?;
    let old = &mut desk.next.points[found];
    let heir = Point {
        name: old.name.clone(),
        level: old.level.clone(),
        zone: old.zone.clone(),
        rights: old.rights.clone(),
        replaces: Some(old.node),
        ..heir
    };
    let old = std::mem::replace(old, heir);
    let done = format!("{} has another machine now; the old one is revoked.", old.name);
    desk.next.revoked.push(revocation(old, reason, Some(request.signer())));
    desk.finish(done)
}

pub(super) fn revoke(place: &Place, point: &str, reason: &str) -> Result<()> {
    let mut desk = Desk::open(place)?;
    let found = desk.find(point)?;
    let point = desk.next.points.remove(found);
    let done = format!(
        "{} is revoked. What it holds already stays sealed to it, but for sessions it took part in.",
        point.name
    );
    desk.next.revoked.push(revocation(point, reason, None));
    desk.finish(done)
}

pub(super) fn void(place: &Place, grant: &str) -> Result<()> {
    let mut desk = Desk::open(place)?;
    let folder = place.stick.folder(&desk.data)?;
    let text = grant.trim().to_lowercase();
    // Given out by this key, or seen in an admission.
    let given = authority::grants(&folder)?;
    let mut known: Vec<(GrantId, String)> =
        given.iter().map(|grant| (grant.content().id, grant.content().name.clone())).collect();
    known.extend(desk.known.admitted().map(|(grant, _, _)| (grant.id, grant.name.clone())));
    known.retain(|(id, _)| id.to_string().starts_with(&text));
    known.sort();
    known.dedup();
    let (id, name) = match (&known[..], text.parse::<GrantId>()) {
        ([one], _) => one.clone(),
        ([], Ok(id)) => (id, "an invitation not known here".to_owned()),
        ([], Err(_)) => return Err(Failure::new(Fault::Missing, format!("there is no invitation {grant}")).into()),
        (several, _) => return Err(Usage(format!("{} invitations begin with {grant}", several.len())).into()),
    };
    let used = desk.known.admitted().find(|(grant, _, effect)| grant.id == id && *effect).is_some();
    if used || desk.known.roster().content().void.contains(&id) {
        let reason = format!(
            "the invitation of {name} was used or taken back already; a point that came in by it is shut out by `diemcau \
             authority revoke`"
        );
        return Err(Failure::new(Fault::Refused, reason).into());
    }
    desk.next.void.push(id);
    desk.finish(format!("The invitation of {name} is taken back."))
}

/// The requests in a file: each begins with its title and goes on to the next one or an empty line.
fn read_requests(file: &Path) -> Result<Vec<Signed<Request>>> {
    let at = || file.display().to_string();
    let mut text = String::new();
    open(file)?.take(REQUESTS_BYTES_MAX).read_to_string(&mut text).with_context(at)?;
    let mut pieces: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match pieces.last_mut() {
            Some(piece) if !line.to_lowercase().starts_with(REQUEST) => piece.push_str(line),
            _ => pieces.push(line.to_owned()),
        }
    }
    if pieces.is_empty() {
        return Err(Failure::new(Fault::Damaged, format!("there is no request in {}", at())).into());
    }
    pieces.iter().map(|piece| parse_request(piece).with_context(at)).collect()
}

/// The point a request asks for, which may do nothing yet.
fn point_of(request: &Signed<Request>) -> Result<Point> {
    let asked = request.content();
    for address in &asked.addresses {
        address.parse::<Address>().map_err(|error| Usage(format!("an address of {:?}: {error}", asked.name)))?;
    }
    Ok(Point {
        node: request.signer(),
        wrap: asked.wrap,
        name: asked.name.clone(),
        level: asked.level.clone(),
        zone: asked.zone.clone(),
        rights: Default::default(),
        addresses: asked.addresses.clone(),
        replaces: None,
    })
}

/// Refuses a node that is a point already or was one.
fn may_come_in(desk: &Desk<'_>, node: &NodeId) -> Result<()> {
    if let Some(point) = desk.next.points.iter().find(|point| point.node == *node) {
        return Err(Failure::new(Fault::Refused, format!("that machine is a point already: {}", point.name)).into());
    }
    if let Some(entry) = desk.next.revoked.iter().find(|entry| entry.node == *node) {
        let reason = format!(
            "that machine was revoked ({}: {}) and cannot come back with its old keys: set it up anew in an empty data folder",
            entry.name, entry.reason,
        );
        return Err(Failure::new(Fault::Refused, reason).into());
    }
    Ok(())
}

fn revocation(point: Point, reason: &str, replaced_by: Option<NodeId>) -> Revoked {
    let (node, name) = (point.node, point.name);
    Revoked { node, name, reason: reason.trim().to_owned(), unix_ms: unix_ms(), replaced_by }
}
