//! Joining from offices as they are: behind a router of any kind, behind a firewall, on a line that is dead.

use std::path::PathBuf;

use serde_json::Value;
use simnet::lab::nat::Kind;
use simnet::lab::{Host, Lab, Office, Protocol, trial};
use tests::office::{Point, SOON, alone};
use tests::program::{Call, Finished, Folder, until};

const PASSPHRASE: &str = "một con vịt xoè ra";

/// A mesh whose first point runs in a public office of a lab, and offices from which others would join it.
struct Mesh {
    lab: Lab,
    folder: Folder,
    central: Point,
}

impl Mesh {
    /// The first point is in office 0; the others' places are as they stand here, from 1.
    fn found(offices: impl IntoIterator<Item = Office>) -> Self {
        let sites: Vec<_> = [Office::default()].into_iter().chain(offices).collect();
        let lab = Lab::lay(1, &sites).expect("it was possible a moment ago");
        let folder = Folder::new();
        let data = folder.join("central");
        let init = Call::on(lab.host(0), ["init", "--agency", "Thành phố Hải Phòng", "--name", "Trung tâm", "--json"]);
        let init = init.arg("--shares-to").arg(folder.join("shares"));
        init.data(&data).env("DIEMCAU_PASSPHRASE", PASSPHRASE).run().succeeded();
        let mut central = Point::on(data, "Trung tâm");
        central.start(Call::on(lab.host(0), ["run"]));
        Self { lab, folder, central }
    }

    fn host(&self, office: usize) -> &Host {
        self.lab.host(office)
    }

    fn data(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A code that names no address by hand: where central is, it finds out by itself.
    fn code(&self, name: &str) -> String {
        let invite = Call::on(self.host(0), ["invite", name, "--level", "commune", "--json"]);
        let invite: Value = invite.data(&self.central.data).env("DIEMCAU_PASSPHRASE", PASSPHRASE).json();
        invite["code"].as_str().expect("a code").to_owned()
    }

    fn join(&self, office: usize, code: &str, name: &str) -> Finished {
        Call::on(self.host(office), ["join", code]).data(self.data(name)).run()
    }
}

/// It must have ended with 5 and said this, in Vietnamese first.
fn refused(done: Finished, vietnamese: &str, english: &str) {
    let done = done.ended_with(5);
    let [first, second] = [vietnamese, english].map(|words| done.stderr.find(words).unwrap_or(usize::MAX));
    assert!(first < second && second < usize::MAX, "{vietnamese:?} and {english:?} are said\n{done}");
}

#[test]
fn a_machine_joins_by_its_code_behind_a_router_of_any_kind() {
    trial("trust::offices::a_machine_joins_by_its_code_behind_a_router_of_any_kind", || {
        let _machine = alone();
        let mesh = Mesh::found(Kind::USUAL.map(|(_, kind)| Office { nat: Some(kind), ..Office::default() }));
        let mut points = Vec::new();
        for (office, (name, _)) in (1..).zip(Kind::USUAL) {
            mesh.join(office, &mesh.code(name), name).succeeded();
            let mut point = Point::on(mesh.data(name), name);
            point.start(Call::on(mesh.host(office), ["run"]));
            points.push(point);
        }
        for point in &points {
            until("central sees who has joined", SOON, || mesh.central.sees(&point.name).then_some(()));
        }
        let session = mesh.central.start_session("Buổi đầu tiên").id;
        mesh.central.wait_for_all(&session);
        mesh.central.wait_for_groups(4);
        assert_eq!(mesh.central.end_session().gaps, 0);
        points.iter_mut().for_each(Point::stop);
    });
}

#[test]
fn where_no_way_leads_to_central_a_clerk_is_told_and_the_code_stays_good() {
    trial("trust::offices::where_no_way_leads_to_central_a_clerk_is_told_and_the_code_stays_good", || {
        let _machine = alone();
        let walled = Office { nat: Some(Kind::SYMMETRIC), blocked: Some(Protocol::Udp), ..Office::default() };
        let mesh = Mesh::found([walled, Office { nat: Some(Kind::FULL_CONE), ..Office::default() }]);
        let code = mesh.code("UBND xã Một");
        let address = mesh.host(0).address();
        let tried = format!("đã thử UDP đến {address}:7500");
        refused(mesh.join(1, &code, "one"), &tried, "UDP is blocked");
        mesh.lab.cut(2, true);
        refused(mesh.join(2, &code, "one"), "Không kết nối được với điểm mời", "cannot be reached");
        assert!(!mesh.data("one").join("roster.cose").exists());
        // The line is mended, and nothing was used up.
        mesh.lab.cut(2, false);
        mesh.join(2, &code, "one").succeeded();
        refused(mesh.join(2, &code, "two"), "đã được một máy khác dùng", "Another machine has used this code");
    });
}
