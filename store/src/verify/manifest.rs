//! What the manifest says of a recording's ends, and who countersigned it.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Account, Exhibit, Options, Report, sentence};
use crate::{
    id::Hash,
    manifest::{ChainEnd, Countersignature, Manifest},
    session::{Head, Member, State},
    signed::Signed,
};

pub(super) fn manifest_of(
    exhibit: &dyn Exhibit,
    options: &Options<'_>,
    head: &Head,
    bytes: &Bytes,
    account: &Account,
    report: &mut Report,
) {
    let Some(manifest) = last(exhibit, head, options.only.is_none(), report) else { return };
    let content = manifest.content();
    report.manifest = Some(content.n);
    // A point that missed the end has written another end into its own head.
    if options.only.is_none() && content.head != Hash::of(bytes) {
        report.find("head", "is not the one that central signed for in the manifest");
    }
    if options.only.is_none() && !account.broken {
        let (here, known) = (account.journal.len() as u64, content.entries);
        let at = usize::try_from(known).ok().and_then(|known| account.journal.get(known.checked_sub(1)?));
        match at {
            Some(hash) if *hash == content.journal => {}
            Some(_) => report.find(format!("journal entry {}", known - 1), "is another than the manifest names"),
            None => {
                report.find("journal", format!("is cut off: the manifest knows of {known} entries, {here} are here"))
            }
        }
        if here > known {
            report.notes.push(format!("{} entries of the journal are later than the manifest", here - known));
        }
    }
    let members = head.points.iter().filter(|member| options.only.is_none_or(|only| only == member.number));
    let signers = countersigners(exhibit, head, &manifest, report);
    for member in members {
        let Some(end) = content.chain(member.number) else {
            report.find("manifest", format!("does not name {}", member.name));
            continue;
        };
        chain_end(member, end, account, report);
        let asked = end.segments > 0 && member.node != head.central && !head.was_removed(member.number);
        if asked && !signers.contains(&member.number) {
            report.notes.push(format!("{} has not countersigned the manifest", member.name));
        }
    }
}

/// The last manifest, if all are whole up to it. A point that is not central has those it was asked to countersign, so some
/// may be missing between them.
fn last(exhibit: &dyn Exhibit, head: &Head, whole: bool, report: &mut Report) -> Option<Signed<Manifest>> {
    let mut last: Option<Signed<Manifest>> = None;
    for (n, bytes) in (0..).zip(exhibit.manifests()) {
        let prev = last.as_ref().map_or(Hash::NONE, Signed::hash);
        let least = last.as_ref().map_or(0, |last| last.content().n.saturating_add(1));
        let read = bytes.and_then(|bytes| Signed::<Manifest>::parse(bytes).map_err(|error| sentence(&error)));
        let read = read.and_then(|manifest| {
            let content = manifest.content();
            match (manifest.signer() == head.central, content.session == head.id) {
                (false, _) => Err("is not signed by central".to_owned()),
                (_, false) => Err("is of another session".to_owned()),
                _ if content.n < least
                    || (content.n > least && whole)
                    || (content.n == least && content.prev != prev) =>
                {
                    Err("does not follow the one before it".to_owned())
                }
                _ => Ok(manifest),
            }
        });
        match read {
            Ok(manifest) => last = Some(manifest),
            Err(what) => {
                report.find(format!("manifest {n}"), what);
                return None;
            }
        }
    }
    if last.is_none() && head.state == State::Ended {
        let what = "is not there: that nothing was cut off at the end cannot be shown";
        if whole {
            report.find("manifest", what);
        }
    }
    last
}

fn chain_end(member: &Member, end: &ChainEnd, account: &Account, report: &mut Report) {
    let empty = Vec::new();
    let hashes = account.chains.get(&member.number).unwrap_or(&empty);
    let known = end.segments as usize;
    match known.checked_sub(1).map(|at| hashes.get(at)) {
        None => {}
        Some(Some(hash)) if *hash == end.last => {}
        Some(Some(_)) => {
            report.find(format!("segment {} of {}", known - 1, member.name), "is another than the manifest names");
        }
        Some(None) => {
            let what = format!("are cut off: the manifest knows of {known}, {} good ones are here", hashes.len());
            report.find(format!("segments of {}", member.name), what);
        }
    }
}

/// The points that countersigned this manifest.
fn countersigners(
    exhibit: &dyn Exhibit,
    head: &Head,
    manifest: &Signed<Manifest>,
    report: &mut Report,
) -> BTreeSet<crate::id::PointNumber> {
    let mut signers = BTreeSet::new();
    for (n, bytes) in exhibit.countersigned().enumerate() {
        let read = bytes.and_then(|bytes| Signed::<Countersignature>::parse(bytes).map_err(|error| sentence(&error)));
        let read = read.and_then(|by| {
            let content = by.content();
            let Countersignature { point, segments, last, .. } = *content;
            let member = head.member(point).filter(|member| member.node == by.signer());
            match (member, content.session == head.id) {
                (Some(_), true) => {}
                (None, _) => return Err("is not signed by the point it names".to_owned()),
                (Some(_), false) => return Err("is of another session".to_owned()),
            }
            // One of an earlier manifest counts for that one.
            let this = content.manifest == manifest.hash();
            match Countersignature::objection(manifest.content(), point, segments, last).filter(|_| this) {
                Some(objection) => Err(objection),
                None => Ok(this.then_some(point)),
            }
        });
        match read {
            Ok(point) => signers.extend(point),
            Err(what) => report.find(format!("countersignature {n}"), what),
        }
    }
    signers
}
