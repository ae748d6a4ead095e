//! `diemcau invite`: a place in the mesh for a machine that is not here, as one code to be typed there. The authority's
//! key is needed for a moment, to sign the grant; letting the machine in is then this point's business alone.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use node::config::Address;
use node::control::{self, Fault, Request, Response};
use node::identity::authority::Authority;
use node::identity::{Identity, file, roster};
use node::join::code::{ADDRESSES_MAX, Code};
use node::join::invite::{self, Invite};
use node::join::secret::Secret;
use node::words::{Text, moment};
use serde::Serialize;
use store::id::NodeId;
use store::roster::{Grant, GrantId, Membership};

use super::args::{Allowed, Data, Format, RIGHTS_DEFAULT, Stick, rights};
use super::exit::{Failure, Usage};
use super::{output, passphrase, qr};

/// Longest time a code can be good for: by then it has been read by too many.
const VALID_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Invite a machine to become a point, by a code to type there
///
/// The code is good once and for a set time. Who has it can come in, so it is told to nobody else. The authority's
/// passphrase is asked, or taken from DIEMCAU_PASSPHRASE.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the new point will be called, such as "UBND xã Kim Thành"
    #[arg(required_unless_present_any = ["list", "cancel"])]
    name: Option<String>,
    /// Its level of administration, in the agency's words
    #[arg(long, required_unless_present_any = ["list", "cancel"])]
    level: Option<String>,
    /// Points that would be lost together, by flood or fire, share a zone
    #[arg(long, default_value = "")]
    zone: String,
    /// What it may do beside taking part
    #[arg(long, value_enum, value_delimiter = ',', value_name = "RIGHT,...", default_value = RIGHTS_DEFAULT)]
    rights: Vec<Allowed>,
    /// How long the code is good for: minutes, hours or days, such as 30m, 24h or 7d
    #[arg(long, value_name = "TIME", default_value = "24h")]
    valid: Valid,
    /// Where the new machine can reach this one: host and UDP port for sound and picture; up to three
    /// [default: what the running node knows]
    #[arg(long = "address", value_name = "HOST:PORT")]
    addresses: Vec<Address>,
    /// The point whose place it takes, by name or node id; that one is revoked at the same moment
    #[arg(long, value_name = "POINT")]
    replaces: Option<String>,
    /// Put the code as a picture into this file too
    #[arg(long, value_name = "FILE.png")]
    qr: Option<PathBuf>,
    /// Show the invites made here and what became of them
    #[arg(long, conflicts_with_all = ["name", "cancel"])]
    list: bool,
    /// Take an invite back
    #[arg(long, value_name = "ID", conflicts_with = "name")]
    cancel: Option<GrantId>,
    #[command(flatten)]
    stick: Stick,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    format: Format,
}

/// How long a code is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Valid(Duration);

impl FromStr for Valid {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unit = match text.chars().last() {
            Some('m') => 60,
            Some('h') => 3_600,
            Some('d') => 86_400,
            _ => return Err("a number and m, h or d, such as 24h"),
        };
        let number: u64 = text[..text.len() - 1].parse().map_err(|_| "a number and m, h or d, such as 24h")?;
        let valid = number.checked_mul(unit).map(Duration::from_secs);
        valid.filter(|valid| !valid.is_zero() && *valid <= VALID_MAX).map(Valid).ok_or("from one minute to 30 days")
    }
}

/// What `--json` prints of a new invite.
#[derive(Debug, Serialize)]
struct Report<'a> {
    code: &'a str,
    expires: u64,
    id: String,
}

/// An invite in a list.
#[derive(Debug, Serialize)]
struct Line {
    id: String,
    name: String,
    level: String,
    expires: u64,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_by: Option<String>,
}

pub(crate) fn main(args: Args) -> Result<()> {
    let data = args.data.folder()?;
    if args.list {
        return list(&data, args.format);
    }
    if let Some(id) = &args.cancel {
        return cancel(&args.data, &data, id);
    }
    let me = Identity::public_of(&data)?.node;
    let membership = roster::load(&data, &me)?;
    let now = output::now_ms();
    let expires = now.saturating_add(u64::try_from(args.valid.0.as_millis()).unwrap_or(u64::MAX));
    let secret = Secret::generate();
    let grant = grant(&args, &membership, &me, &secret, expires)?;
    let (mesh_port, addresses) = whereabouts(&args, &membership, &me)?;
    let code = Code::new(secret.clone(), mesh_port, addresses).map_err(|error| Usage(error.to_string()))?;

    let folder = args.stick.folder(&data)?;
    let authority = Authority::open(&folder, &passphrase::ask("the authority's key")?)?;
    // Refuses another mesh's authority.
    authority.known(membership.clone())?;
    let invite = Invite::new(authority.grant(grant)?, &secret);
    invite.may_be_kept(&membership, &me).map_err(|why| Failure::new(Fault::Refused, why))?;
    invite::save(&data, &invite)?;
    let is_running = match take_up(&args.data, &invite) {
        Ok(is_running) => is_running,
        Err(error) => {
            invite::remove(&data, &invite.id())?;
            return Err(error);
        }
    };
    let text = code.text();
    if let Some(path) = &args.qr {
        let path = std::path::absolute(path)?;
        file::put(&path, &qr::png(&text)?).with_context(|| format!("{}", path.display()))?;
    }
    if args.format.json {
        return Ok(output::json(&Report { code: &text, expires, id: invite.id().to_string() })?);
    }
    let said = Text::Invited { name: &invite.grant().name, expires, code: &text }.everywhere();
    output::print(&format!("{said}\n\n{}\n\n", qr::for_terminal(&text)?.trim_end()))?;
    if !is_running {
        output::note(&Text::NotRunning.everywhere());
    }
    Ok(())
}

fn grant(args: &Args, membership: &Membership, issuer: &NodeId, secret: &Secret, expires: u64) -> Result<Grant> {
    let name = args.name.as_deref().unwrap_or_default().trim().to_owned();
    let replaces = args.replaces.as_deref().map(|text| replaced(membership, text)).transpose()?;
    if replaces == Some(*issuer) {
        return Err(Usage("this point cannot invite the one that takes its own place".to_owned()).into());
    }
    if let Some(other) = membership.named(&name)
        && replaces != Some(other.node)
    {
        let reason =
            format!("there is a point called {:?} already: if it is to be replaced, add --replaces", other.name);
        return Err(Failure::new(Fault::Refused, reason).into());
    }
    Ok(Grant {
        id: secret.id(),
        issuer: *issuer,
        name,
        level: args.level.as_deref().unwrap_or_default().trim().to_owned(),
        zone: args.zone.trim().to_owned(),
        rights: rights(&args.rights),
        replaces,
        key: secret.signing_key().id(),
        not_after_unix_ms: expires,
    })
}

/// The node that a name or an id means; one that is revoked already can still be replaced.
fn replaced(membership: &Membership, text: &str) -> Result<NodeId> {
    let revoked = || membership.all_revoked().find(|revoked| revoked.name.to_lowercase() == text.to_lowercase());
    let named = membership.named(text).map(|point| point.node).or_else(|| revoked().map(|revoked| revoked.node));
    let by_id = || text.parse().ok().filter(|id| membership.point(id).is_some() || membership.revoked(id).is_some());
    let found = named.or_else(by_id);
    Ok(found
        .ok_or_else(|| Failure::new(Fault::Missing, format!("{text:?} is not a point of this mesh and never was")))?)
}

/// The mesh port of this point, and where a code should say that its media plane is.
fn whereabouts(args: &Args, membership: &Membership, me: &NodeId) -> Result<(u16, Vec<Address>)> {
    let status = match args.data.ask(&Request::Status) {
        Ok(Response::Status(status)) => Some(status),
        Ok(_) => None,
        Err(error) if not_running(&error) => None,
        Err(error) => return Err(error),
    };
    let Some(status) = status else {
        if args.addresses.is_empty() {
            let why = "the node does not run, so its addresses are not known: start it, or add --address HOST:PORT";
            return Err(Usage(why.to_owned()).into());
        }
        return Ok((7400, args.addresses.clone()));
    };
    let own = status.own;
    if !args.addresses.is_empty() {
        return Ok((own.mesh_port, args.addresses.clone()));
    }
    let listed = membership.point(me).map(roster::addresses).unwrap_or_default();
    let heard = own.addresses.iter().filter_map(|text| text.parse::<Address>().ok());
    let mut addresses: Vec<Address> = Vec::new();
    // What the roster says is meant for those outside; of what the node hears itself on, loopback is for tests.
    for Address { host, .. } in listed.into_iter().chain(heard) {
        let address = Address { host, port: own.media_port };
        if !addresses.contains(&address) && addresses.len() < ADDRESSES_MAX {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        let why = "the node knows no address at which it can be reached: add --address HOST:PORT";
        return Err(Usage(why.to_owned()).into());
    }
    Ok((own.mesh_port, addresses))
}

/// Tells the running node of the invite; `false` when none runs.
fn take_up(data: &Data, invite: &Invite) -> Result<bool> {
    match data.ask(&Request::InviteTake { id: invite.id() }) {
        Ok(_) => Ok(true),
        Err(error) if not_running(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn cancel(args: &Data, data: &Path, id: &GrantId) -> Result<()> {
    match args.ask(&Request::InviteCancel { id: *id }) {
        Ok(_) => return Ok(()),
        Err(error) if not_running(&error) => {}
        Err(error) => return Err(error),
    }
    let invites = invite::load(data, output::now_ms())?;
    let mut invite = invites
        .into_iter()
        .find(|invite| invite.id() == *id)
        .ok_or_else(|| Failure::new(Fault::Missing, format!("there is no invite {id} here")))?;
    invite.may_be_withdrawn().map_err(|why| Failure::new(Fault::Refused, why))?;
    invite.withdraw();
    Ok(invite::save(data, &invite)?)
}

fn list(data: &Path, format: Format) -> Result<()> {
    let membership = Identity::public_of(data).ok().and_then(|me| roster::load(data, &me.node).ok());
    let now = output::now_ms();
    let mut lines: Vec<Line> = invite::load(data, now)?.iter().map(|invite| line(invite, now, &membership)).collect();
    lines.sort_by(|a, b| (a.expires, &a.id).cmp(&(b.expires, &b.id)));
    if format.json {
        return Ok(output::json(&lines)?);
    }
    let rows: Vec<Vec<String>> = lines.into_iter().map(row).collect();
    Ok(output::print(&output::table(&["ID", "NAME", "LEVEL", "GOOD UNTIL", "STATE"], &rows))?)
}

fn line(invite: &Invite, now: u64, membership: &Option<Membership>) -> Line {
    let grant = invite.grant();
    let state = match invite.used_by() {
        Some(_) => "used",
        None if invite.is_withdrawn() => "cancelled",
        None if now > grant.not_after_unix_ms => "expired",
        None => "open",
    };
    let name = |node: NodeId| {
        let point = membership.as_ref().and_then(|membership| membership.point(&node));
        point.map_or_else(|| node.to_string(), |point| point.name.clone())
    };
    Line {
        id: grant.id.to_string(),
        name: grant.name.clone(),
        level: grant.level.clone(),
        expires: grant.not_after_unix_ms,
        state,
        used_by: invite.used_by().map(name),
    }
}

fn row(line: Line) -> Vec<String> {
    vec![line.id, line.name, line.level, moment(line.expires), line.state.to_owned()]
}

fn not_running(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(control::Error::NotRunning(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_a_number_and_a_unit() {
        let seconds = |text: &str| text.parse::<Valid>().map(|valid| valid.0.as_secs());
        assert_eq!(seconds("30m"), Ok(1_800));
        assert_eq!(seconds("24h"), Ok(86_400));
        assert_eq!(seconds("30d"), Ok(30 * 86_400));
        for wrong in
            ["", "24", "h", "0h", "31d", "-1h", "1w", "1.5h", "24giờ", "99999999999999999999d", "9999999999999999d"]
        {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
