//! The table of what can be asked of a node, by people and by points: none is without a row, and each row says who may.

use std::collections::BTreeSet;

use store::id::{NodeId, SessionId};
use store::journal::NoteKind;
use store::roster::Right;

use crate::accounts::Role;
use crate::accounts::order::Order;
use crate::control::Request;
use crate::driver::gate::deed;
use crate::engine::rights::{Deed, Denied, Member, Members, Part, Who, may};
use crate::engine::session::question;
use crate::wire::control::{Accepted, End, Finished, Message};
use crate::wire::{self, cases};

const US: NodeId = NodeId::from_bytes([1; 32]);
const POINT: NodeId = NodeId::from_bytes([2; 32]);

/// This point with these rights, and another with every right.
fn members(ours: &[Right]) -> Members {
    let member = |rights: &[Right]| Member { name: "Điểm".into(), rights: rights.iter().copied().collect() };
    Members::new(US, [(US, member(ours)), (POINT, member(&Right::ALL))].into(), [].into())
}

/// Every request with the right that this point needs for it, and the roles that may make it at the page.
fn requests() -> Vec<(Request, Option<Right>, &'static [Role])> {
    let path = || "/x".into();
    let id = "0".repeat(32).parse().expect("a grant's id");
    let conduct: &[Role] = &[Role::Operator, Role::Chair, Role::Admin];
    let text = String::new;
    vec![
        (Request::Status, None, &Role::ALL),
        (Request::Room, None, &Role::ALL),
        (Request::Stats, None, &Role::ALL),
        (Request::SessionList, None, &Role::ALL),
        (Request::SessionShow { session: text() }, None, &Role::ALL),
        (Request::SessionStart { title: text(), points: vec![] }, Some(Right::Chair), conduct),
        (Request::SessionEnd { session: None }, None, conduct),
        (Request::SessionRemove { point: text(), session: None }, Some(Right::Chair), &[Role::Chair, Role::Admin]),
        (Request::SessionNote { kind: NoteKind::Course, point: None, text: text(), session: None }, None, &Role::ALL),
        (Request::Checkpoint { to: path() }, None, &[]),
        (Request::Scrubs, None, &Role::ALL),
        (Request::ScrubNow { session: None }, None, &[Role::Operator, Role::Admin]),
        (Request::Exporting { session: text() }, Some(Right::Read), &[Role::Secretary, Role::Chair]),
        (Request::Recover { session: None, from: vec![] }, None, &[]),
        (Request::Recovery, None, &Role::ALL),
        (Request::Keys { session: text(), wraps: vec![] }, Some(Right::Read), &[Role::Secretary, Role::Chair]),
        (Request::AccessLog { from: 0, filter: Default::default() }, None, &[Role::Admin]),
        (Request::AccountList, None, &[Role::Admin]),
        (Request::Account { order: Order::Remove { name: text() } }, None, &[Role::Admin]),
        (Request::RosterSet { from: path() }, None, &[Role::Admin]),
        (Request::InviteTake { id }, Some(Right::Admin), &[Role::Admin]),
        (Request::InviteCancel { id }, Some(Right::Admin), &[Role::Admin]),
        (Request::Stop, None, &[Role::Operator, Role::Admin]),
    ]
}

#[test]
fn every_request_has_its_right_at_the_socket_and_its_roles_at_the_page() {
    let names: BTreeSet<String> = requests()
        .iter()
        .map(|(request, ..)| serde_json::to_value(request).expect("plain")["ask"].as_str().expect("a name").to_owned())
        .collect();
    let all = cases(&serde_json::from_str::<Request>(r#"{"ask":"?"}"#).expect_err("no such request"));
    assert_eq!(names, all, "a request without a row");

    let (every, none) = (members(&Right::ALL), members(&[]));
    for (request, right, roles) in requests() {
        let asked = |members: &Members, who: Who| may(members, &who, deed(&request).0);
        let without = right.map_or(Ok(()), |right| Err(Denied::WeLack(right)));
        assert_eq!(asked(&every, Who::Owner { uid: 1 }), Ok(()), "{request:?}");
        assert_eq!(asked(&none, Who::Owner { uid: 1 }), without, "{request:?}");
        assert_eq!(asked(&every, Who::User { uid: 1 }), Err(Denied::User), "{request:?}");
        assert_eq!(asked(&every, Who::Node(POINT)), Err(Denied::Entrance), "{request:?}");
        for role in Role::ALL {
            let account = || Who::Account { name: "lan".into(), role };
            let refused = if roles.is_empty() { Denied::Entrance } else { Denied::Role(role) };
            let expected = if roles.contains(&role) { Ok(()) } else { Err(refused) };
            assert_eq!(asked(&every, account()), expected, "{role:?} {request:?}");
            assert_eq!(asked(&none, account()), expected.and(without), "{role:?} {request:?}");
        }
        let screen = deed(&request).0 == Deed::See;
        assert_eq!(asked(&every, Who::Browser).is_ok(), screen, "{request:?}");
    }
}

#[test]
fn every_question_of_a_point_has_its_right() {
    let session = SessionId::from_bytes([9; 16]);
    let reason = String::new();
    let end = End { session, unix_ms: 0, media: vec![], media_port: 0 };
    let accepted = Accepted { session, epoch: 0, first_seq: 0, unused: vec![] };
    // Of an invitation the head decides, which `engine::rights` has tests for.
    let rows = [
        (Message::End(end), Deed::Direct as fn(Part) -> Deed<'static>),
        (Message::Removed { session }, Deed::Direct),
        (Message::Finished(Finished { session, tracks: vec![], unused: vec![] }), Deed::Report),
        (Message::Back { session }, Deed::Report),
        (Message::Accepted(accepted), |_| Deed::Connect),
        (Message::Refused { session, reason }, |_| Deed::Connect),
        (Message::Ending { session, took_part: false }, |_| Deed::Connect),
        (Message::Wait { session }, |_| Deed::Connect),
        (Message::Done { session }, |_| Deed::Connect),
    ];
    let mut names: BTreeSet<String> = ["Invite".to_owned()].into();
    for (message, expected) in rows {
        let name = format!("{message:?}");
        names.extend(name.split([' ', '(']).next().map(str::to_owned));
        for part in [Part::Central, Part::Point, Part::Removed, Part::Outside, Part::Unknown] {
            assert_eq!(question(&message, part), expected(part), "{name}");
        }
    }
    let all = cases(&serde_json::from_str::<wire::control::Message>(r#"{"?":0}"#).expect_err("no such message"));
    assert_eq!(names, all, "a question without a row");
}
