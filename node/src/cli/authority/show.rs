//! What the roster says, for people and programs.

use anyhow::Result;
use node::identity::authority::{self, Authority};
use node::identity::roster;
use serde::Serialize;
use store::roster::{Membership, Point, Right};

use super::super::output::{self, moment, table};
use super::Place;

#[derive(Debug, Serialize)]
struct Shown {
    agency: String,
    authority: String,
    /// Where the authority's key lies, if it is there.
    key: Option<String>,
    recovery: String,
    number: u64,
    issued: u64,
    points: Vec<ShownPoint>,
    revoked: Vec<ShownRevoked>,
    /// Given out and neither used nor taken back, as far as is known here.
    invitations: Vec<ShownGrant>,
}

#[derive(Debug, Serialize)]
struct ShownPoint {
    name: String,
    level: String,
    zone: String,
    node: String,
    rights: Vec<Right>,
    addresses: Vec<String>,
    /// Came in by an invitation, and is in no roster yet.
    pending: bool,
}

#[derive(Debug, Serialize)]
struct ShownRevoked {
    name: String,
    node: String,
    reason: String,
    at: u64,
    replaced_by: Option<String>,
}

#[derive(Debug, Serialize)]
struct ShownGrant {
    grant: String,
    name: String,
    expires: u64,
    /// Was used, but its point has no place: its name is taken, or it was used before.
    without_effect: bool,
}

pub(super) fn show(place: &Place) -> Result<()> {
    let data = place.data.folder()?;
    let membership = roster::read(&data.join(roster::FILE))?;
    let folder = place.stick.folder(&data)?;
    let shown = gather(&membership, &folder)?;
    if place.format.json {
        return Ok(output::json(&shown)?);
    }
    Ok(output::print(&describe(&shown))?)
}

fn gather(membership: &Membership, folder: &std::path::Path) -> Result<Shown> {
    let content = membership.roster().content();
    let pending = |point: &Point| !content.points.iter().any(|other| other.node == point.node);
    let mut invitations: Vec<_> = authority::grants(folder)?
        .iter()
        .filter(|grant| grant.signer() == membership.authority() && !content.void.contains(&grant.content().id))
        .filter(|grant| !membership.admitted().any(|(used, _, _)| used.id == grant.content().id))
        .map(|grant| grant.content())
        .map(|grant| (grant.id, grant.name.clone(), grant.not_after_unix_ms, false))
        .collect();
    let idle = membership.admitted().filter(|(_, _, effect)| !effect);
    invitations.extend(idle.map(|(grant, _, _)| (grant.id, grant.name.clone(), grant.not_after_unix_ms, true)));
    invitations.sort_by_key(|(id, _, expires, _)| (*expires, *id));
    Ok(Shown {
        agency: membership.agency().to_owned(),
        authority: membership.authority().to_string(),
        key: Authority::is_in(folder).then(|| folder.display().to_string()),
        recovery: membership.recovery().to_string(),
        number: membership.number(),
        issued: content.issued_unix_ms,
        points: membership
            .points()
            .iter()
            .map(|point| ShownPoint {
                name: point.name.clone(),
                level: point.level.clone(),
                zone: point.zone.clone(),
                node: point.node.to_string(),
                rights: point.rights.iter().copied().collect(),
                addresses: point.addresses.clone(),
                pending: pending(point),
            })
            .collect(),
        revoked: membership
            .all_revoked()
            .map(|entry| ShownRevoked {
                name: entry.name.clone(),
                node: entry.node.to_string(),
                reason: entry.reason.clone(),
                at: entry.unix_ms,
                replaced_by: entry.replaced_by.map(|node| node.to_string()),
            })
            .collect(),
        invitations: invitations
            .into_iter()
            .map(|(id, name, expires, without_effect)| ShownGrant {
                grant: id.to_string(),
                name,
                expires,
                without_effect,
            })
            .collect(),
    })
}

fn describe(shown: &Shown) -> String {
    let mut text = format!(
        "{}, roster no. {} of {}\nauthority {} ({})\nrecovery key {}\n\n",
        shown.agency,
        shown.number,
        moment(shown.issued),
        shown.authority,
        shown.key.as_deref().unwrap_or("its key is not here"),
        shown.recovery,
    );
    let rights = |point: &ShownPoint| {
        let rights: Vec<_> = point.rights.iter().map(|right| right.name()).collect();
        if rights.is_empty() { "-".to_owned() } else { rights.join(",") }
    };
    let row = |point: &ShownPoint| {
        let state = if point.pending { "admitted" } else { "signed" };
        let short = point.node.get(..8).unwrap_or_default();
        vec![point.name.clone(), point.level.clone(), point.zone.clone(), rights(point), short.into(), state.into()]
    };
    let rows: Vec<_> = shown.points.iter().map(row).collect();
    text.push_str(&table(&["POINT", "LEVEL", "ZONE", "RIGHTS", "NODE", "STATE"], &rows));
    if !shown.revoked.is_empty() {
        let row = |entry: &ShownRevoked| {
            let short = entry.node.get(..8).unwrap_or_default();
            vec![entry.name.clone(), moment(entry.at), short.into(), entry.reason.clone()]
        };
        let rows: Vec<_> = shown.revoked.iter().map(row).collect();
        text.push('\n');
        text.push_str(&table(&["REVOKED", "WHEN", "NODE", "WHY"], &rows));
    }
    if !shown.invitations.is_empty() {
        let row = |grant: &ShownGrant| {
            let state = if grant.without_effect { "used without effect" } else { "open" };
            vec![grant.name.clone(), moment(grant.expires), grant.grant.clone(), state.into()]
        };
        let rows: Vec<_> = shown.invitations.iter().map(row).collect();
        text.push('\n');
        text.push_str(&table(&["INVITED", "UNTIL", "GRANT", "STATE"], &rows));
    }
    text
}
