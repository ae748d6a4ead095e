//! Rosters carried by hand, and shares tried: what needs no authority's key.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use node::identity::{Identity, file, roster};
use serde_json::json;
use store::shares::combine;

use super::super::args::{Data, Format, open};
use super::super::{output, shares};
use super::hand_over;

pub(super) fn export(data: &Data, to: &Path) -> Result<()> {
    let membership = roster::read(&data.folder()?.join(roster::FILE))?;
    let to = std::path::absolute(to)?;
    file::put(&to, &membership.encode()).with_context(|| to.display().to_string())
}

pub(super) fn import(data: &Data, from: &Path, format: Format) -> Result<()> {
    drop(open(from)?);
    let data = data.folder()?;
    let theirs = roster::read(from)?;
    let me = Identity::public_of(&data)?.node;
    let path = data.join(roster::FILE);
    let after = match roster::read(&path) {
        Ok(mut ours) => {
            ours.merge_roster(theirs.roster().clone()).map_err(|source| roster::wrong(from, source))?;
            ours.merge(&theirs).map_err(|source| roster::wrong(from, source))?;
            ours
        }
        Err(roster::Error::Missing(_)) => {
            roster::must_have(&theirs, &me, from)?;
            theirs
        }
        Err(error) => return Err(error.into()),
    };
    let in_force = hand_over(&data, &after)?;
    let (agency, authority, number) = (after.agency(), after.authority(), after.number());
    if format.json {
        let report = json!({"agency": agency, "authority": authority, "number": number, "in_force": in_force});
        return Ok(output::json(&report)?);
    }
    Ok(output::print(&format!(
        "Roster no. {number} of {agency} is in place.\nIts authority is {authority}: compare this with what the agency says.\n"
    ))?)
}

pub(super) fn check_shares(data: &Data, files: &[PathBuf], format: Format) -> Result<()> {
    let membership = roster::read(&data.folder()?.join(roster::FILE))?;
    let shares = shares::read(files)?;
    combine(&shares, &membership.recovery())?;
    let numbers: Vec<u8> = shares.iter().map(store::shares::Share::number).collect();
    let set = shares.first().map(store::shares::Share::set);
    if format.json {
        return Ok(output::json(&json!({"set": set, "shares": numbers, "good": true}))?);
    }
    let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
    Ok(output::print(&format!(
        "Shares {} of set {} open the recovery key of {}.\n",
        numbers.join(", "),
        set.unwrap_or_default(),
        membership.agency(),
    ))?)
}
