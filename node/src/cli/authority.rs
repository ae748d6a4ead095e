//! `diemcau authority`: who belongs to the mesh, changed and signed with the authority's key.
//!
//! Every change is the same four steps ([`Desk`]): what is known here and beside the key is put together, pending
//! admissions become part of the roster, the one change is made, and the signed roster is handed to this data folder:
//! to the node if it runs, else into the file.

mod carry;
mod change;
mod show;

use std::path::PathBuf;

use anyhow::{Context, Result};
use node::control::{self, Fault, Request, Response};
use node::identity::authority::Authority;
use node::identity::{file, roster};
use serde::Serialize;
use store::id::NodeId;
use store::roster::{Membership, Point, Roster};
use store::signed::Signed;

use super::args::{Allowed, Data, Format, RIGHTS_DEFAULT, Stick};
use super::exit::{Failure, Usage};
use super::init::unix_ms;
use super::{output, passphrase};

/// Say who belongs to the mesh, with the authority's key
///
/// The key lies in DATA/authority, behind a passphrase (asked, or from DIEMCAU_PASSPHRASE). That folder may be moved to a
/// USB stick (`mv DATA/authority /media/stick/`) and be named by --authority DIR when it is needed; the mesh runs without it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    deed: Deed,
}

#[derive(Debug, clap::Subcommand)]
enum Deed {
    /// Show the roster: points and their rights, admissions waiting, revocations, open invitations
    Show {
        #[command(flatten)]
        place: Place,
    },
    /// Make machines points by hand, by the requests that `diemcau init` printed there
    Add {
        /// File with requests, a line each
        #[arg(required = true, value_name = "REQUEST-FILE")]
        requests: Vec<PathBuf>,
        /// What they may do
        #[arg(long, value_enum, value_delimiter = ',', value_name = "RIGHT,...", default_value = RIGHTS_DEFAULT)]
        rights: Vec<Allowed>,
        /// Another name than the request asks for
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Say anew what a point may do
    Rights {
        /// Its name or node id
        point: String,
        /// All it may do, or none
        #[arg(required = true, value_enum, value_delimiter = ',', value_name = "RIGHT,...")]
        rights: Vec<Allowed>,
        #[command(flatten)]
        place: Place,
    },
    /// Give a point's place to another machine, by its request: the old one is revoked
    Replace {
        /// Its name or node id
        point: String,
        /// File with the new machine's request
        #[arg(value_name = "REQUEST-FILE")]
        request: PathBuf,
        /// Why, for others to read
        #[arg(long, default_value = "replaced")]
        reason: String,
        #[command(flatten)]
        place: Place,
    },
    /// Shut a point out for ever
    Revoke {
        /// Its name or node id
        point: String,
        /// Why, for others to read
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        place: Place,
    },
    /// Take an invitation back
    Void {
        /// Its id, or the beginning of it
        grant: String,
        #[command(flatten)]
        place: Place,
    },
    /// Write what this node knows of the mesh into a file, to be carried to another machine
    ExportRoster {
        /// File to write
        file: PathBuf,
        #[command(flatten)]
        data: Data,
    },
    /// Take what another machine knows of the mesh
    ImportRoster {
        /// File that `export-roster` wrote
        file: PathBuf,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        format: Format,
    },
    /// Try whether shares still open the recovery key; nothing is opened or kept
    CheckShares {
        /// Files with shares [default: typed in]
        files: Vec<PathBuf>,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        format: Format,
    },
}

/// Where to work and how to print.
#[derive(Debug, clap::Args)]
struct Place {
    #[command(flatten)]
    stick: Stick,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    format: Format,
}

pub(crate) fn main(args: Args) -> Result<()> {
    match args.deed {
        Deed::Show { place } => show::show(&place),
        Deed::Add { requests, rights, name, place } => change::add(&place, &requests, &rights, name.as_deref()),
        Deed::Rights { point, rights, place } => change::set_rights(&place, &point, &rights),
        Deed::Replace { point, request, reason, place } => change::replace(&place, &point, &request, &reason),
        Deed::Revoke { point, reason, place } => change::revoke(&place, &point, &reason),
        Deed::Void { grant, place } => change::void(&place, &grant),
        Deed::ExportRoster { file, data } => carry::export(&data, &file),
        Deed::ImportRoster { file, data, format } => carry::import(&data, &file, format),
        Deed::CheckShares { files, data, format } => carry::check_shares(&data, &files, format),
    }
}

/// What a change prints with `--json`.
#[derive(Debug, Serialize)]
struct Changed {
    number: u64,
    points: usize,
    /// Whether the node runs and has taken it.
    in_force: bool,
    /// What was done, for people.
    done: String,
}

/// A change being made.
struct Desk<'a> {
    place: &'a Place,
    data: PathBuf,
    authority: Authority,
    /// What is known here and beside the key.
    known: Membership,
    /// The roster that will be signed.
    next: Roster,
}

impl<'a> Desk<'a> {
    /// Opens the authority. What is asked of the user before that must make sense already.
    fn open(place: &'a Place) -> Result<Self> {
        let data = place.data.folder()?;
        let ours = roster::read(&data.join(roster::FILE))?;
        let folder = place.stick.folder(&data)?;
        if !Authority::is_in(&folder) {
            return Err(node::identity::authority::Error::Missing(folder).into());
        }
        let authority = Authority::open(&folder, &passphrase::ask("the authority's key")?)?;
        let known = authority.known(ours)?;
        let next = known.next_roster(unix_ms());
        Ok(Self { place, data, authority, known, next })
    }

    /// The place in the next roster of the point of this name or node id.
    fn find(&self, point: &str) -> Result<usize> {
        let name = point.trim().to_lowercase();
        let node = name.parse::<NodeId>().ok();
        let is_it = |other: &Point| other.name.to_lowercase() == name || Some(other.node) == node;
        self.next.points.iter().position(is_it).ok_or_else(|| {
            let revoked = self.next.revoked.iter().any(|entry| entry.name.to_lowercase() == name);
            let hint = if revoked { "; one of that name was revoked" } else { "" };
            Failure::new(Fault::Missing, format!("{point:?} is not a point of this mesh{hint}")).into()
        })
    }

    /// Signs the roster and hands it over.
    fn finish(self, done: String) -> Result<()> {
        let after = self.authority.sign(&self.known, self.next).map_err(|error| match error {
            node::identity::authority::Error::Unsound(why) => Usage(why.to_string()).into(),
            error => anyhow::Error::from(error),
        })?;
        let in_force = hand_over(&self.data, &after)?;
        let changed = Changed { number: after.number(), points: after.points().len(), in_force, done };
        if self.place.format.json {
            return Ok(output::json(&changed)?);
        }
        let when = if in_force { "in force here" } else { "in force when this node starts" };
        Ok(output::print(&format!("{}\nRoster no. {} is signed and {when}.\n", changed.done, changed.number))?)
    }
}

/// Gives a membership to the data folder: to its node, if that runs (`true`), else into its file.
fn hand_over(data: &std::path::Path, membership: &Membership) -> Result<bool> {
    let beside = data.join(format!(".{}-{}", roster::FILE, "next"));
    file::put(&beside, &membership.encode()).with_context(|| beside.display().to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(control::call(data, &Request::RosterSet { from: beside.clone() }));
    // Left behind it would harm nobody.
    let _ = std::fs::remove_file(&beside);
    match answer {
        Ok(Response::Done) => Ok(true),
        Ok(Response::Not { fault, reason }) => Err(Failure::new(fault, reason).into()),
        Ok(other) => anyhow::bail!("the node answered something else: {other:?}"),
        Err(control::Error::NotRunning(_)) => {
            let _held = control::hold(data)?;
            let path = data.join(roster::FILE);
            let mut after = membership.clone();
            match roster::read(&path) {
                Ok(ours) => {
                    after.merge(&ours).map_err(|source| roster::wrong(&path, source))?;
                }
                Err(roster::Error::Missing(_)) => {}
                Err(error) => return Err(error.into()),
            }
            roster::save(data, &after)?;
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// What a request looks like before its digits.
const REQUEST: &str = "diemcau request 1";

/// A request as a line of text.
pub(super) fn request_line(request: &Signed<store::roster::Request>) -> String {
    format!("{REQUEST} {}", hex::encode(request.bytes()))
}

/// Reads a line that [`request_line`] wrote, with spaces and case as they come.
fn parse_request(line: &str) -> Result<Signed<store::roster::Request>> {
    let words: Vec<String> = line.split_whitespace().map(str::to_lowercase).collect();
    let digits = words.join(" ");
    let digits = digits.strip_prefix(REQUEST).map(|digits| digits.replace(' ', ""));
    let bytes = digits.and_then(|digits| hex::decode(digits).ok());
    let bytes = bytes.ok_or_else(|| {
        let reason =
            "this is not a request as `diemcau init` prints it: one line that begins with \"diemcau request 1\"";
        Failure::new(Fault::Damaged, reason)
    })?;
    Signed::parse(bytes.into())
        .map_err(|error| Failure::new(Fault::Damaged, format!("the request is damaged: {error}")).into())
}

#[cfg(test)]
mod tests {
    use store::keys::{NodeKey, WrapKey};
    use store::roster::Request;

    use super::*;

    #[test]
    fn a_request_is_read_back_and_no_changed_one_is() {
        let request = Request {
            wrap: WrapKey::generate().public(),
            name: "UBND xã Kim Thành".into(),
            level: "commune".into(),
            zone: String::new(),
            addresses: vec!["10.0.0.7:7400".into()],
        };
        let signed = Signed::sound(request, &NodeKey::generate()).unwrap();
        let line = request_line(&signed);
        assert_eq!(parse_request(&line).unwrap(), signed);
        let wrapped: Vec<String> =
            line.to_uppercase().as_bytes().chunks(70).map(|part| String::from_utf8_lossy(part).into_owned()).collect();
        assert_eq!(parse_request(&wrapped.join(" \n")).unwrap(), signed, "as a mail program might wrap it");
        let last = line.chars().last().unwrap();
        let other = if last == '0' { '1' } else { '0' };
        for wrong in [&line[..line.len() - 2], &format!("{}{other}", &line[..line.len() - 1]), "hello", ""] {
            assert!(parse_request(wrong).is_err(), "{wrong}");
        }
    }
}
