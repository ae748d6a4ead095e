//! Locking, opening, and a power cut at every step between.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use super::*;

const PASSPHRASE: &str = "con trâu đi trước";

/// A data folder with keys in it.
fn point() -> (tempfile::TempDir, PathBuf, Identity) {
    let base = tempfile::tempdir().unwrap();
    let data = base.path().join("data");
    let (identity, _) = Identity::load_or_create(&data).unwrap();
    (base, data, identity)
}

fn same(a: &Identity, b: &Identity) -> bool {
    (a.node.secret_bytes(), a.wrap.secret_bytes()) == (b.node.secret_bytes(), b.wrap.secret_bytes())
}

fn names(data: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(data.join(FOLDER))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Every file of the folder of keys.
fn files(data: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |name: String| (name.clone(), fs::read(data.join(FOLDER).join(name)).unwrap());
    names(data).into_iter().map(read).collect()
}

/// Makes the folder of keys hold these files.
fn set(data: &Path, files: &BTreeMap<String, Vec<u8>>) {
    let folder = data.join(FOLDER);
    names(data).iter().for_each(|name| fs::remove_file(folder.join(name)).unwrap());
    for (name, bytes) in files {
        file::write_new(&folder.join(name), bytes).unwrap();
    }
}

#[test]
fn locked_keys_open_with_their_passphrase_and_no_other_and_their_public_halves_without() {
    let (_base, data, identity) = point();
    assert!(!Identity::is_locked(&data).unwrap());
    assert_eq!(Identity::public_of(&data).unwrap(), identity.public());
    identity.lock(&data, PASSPHRASE).unwrap();
    assert!(Identity::is_locked(&data).unwrap());
    assert_eq!(names(&data), [FILE]);
    assert_eq!(fs::metadata(data.join(FOLDER).join(FILE)).unwrap().mode() & 0o777, 0o600);
    assert_eq!(Identity::public_of(&data).unwrap(), identity.public());
    assert!(matches!(Identity::load(&data), Err(Error::Locked(_))));
    assert!(matches!(Identity::load_or_create(&data), Err(Error::Locked(_))));
    assert!(same(&Identity::unlock(&data, PASSPHRASE).unwrap(), &identity));
    let wrong = Identity::unlock(&data, "con trâu đi sau").unwrap_err();
    assert!(matches!(&wrong, Error::Key { source: locked::Error::Passphrase, .. }), "{wrong}");

    // Another passphrase, without a moment in which they are plain.
    identity.lock(&data, "con nghé").unwrap();
    assert_eq!(names(&data), [FILE]);
    assert!(Identity::unlock(&data, PASSPHRASE).is_err());
    let opened = Identity::unlock(&data, "con nghé").unwrap();
    opened.lay_open(&data).unwrap();
    assert_eq!(names(&data), [NODE, WRAP]);
    assert!(same(&Identity::load(&data).unwrap(), &identity));
    assert!(same(&Identity::unlock(&data, "whatever").unwrap(), &identity), "plain keys need no passphrase");
}

#[test]
fn nothing_of_the_secrets_stands_in_the_locked_file_or_in_what_is_said_of_it() {
    let (_base, data, identity) = point();
    identity.lock(&data, PASSPHRASE).unwrap();
    let path = data.join(FOLDER).join(FILE);
    let text = fs::read_to_string(&path).unwrap();
    let secrets = [identity.node.secret_bytes(), identity.wrap.secret_bytes()].map(|secret| hex::encode(*secret));
    let shown = format!("{text}{identity:?}{:?}{:?}", identity.node, identity.wrap);
    let mut said = vec![shown];
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    for (line, new) in [(0, "diemcau locked keys 2"), (1, "node 12"), (2, "wrap"), (4, "argon2id"), (12, "0000")] {
        let old = std::mem::replace(&mut lines[line], new.to_owned());
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        said.push(format!("{0} {0:?}", Identity::unlock(&data, PASSPHRASE).unwrap_err()));
        lines[line] = old;
    }
    for text in said {
        assert!(!secrets.iter().any(|secret| text.contains(secret)) && !text.contains(PASSPHRASE), "{text}");
    }
}

#[test]
fn a_damaged_file_is_refused_wherever_it_is_damaged() {
    let (_base, data, identity) = point();
    identity.lock(&data, PASSPHRASE).unwrap();
    let path = data.join(FOLDER).join(FILE);
    let good = fs::read(&path).unwrap();
    // A step that meets every line.
    for at in (0..good.len()).step_by(23) {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(Identity::unlock(&data, PASSPHRASE).is_err(), "byte {at}");
    }
    for len in (0..good.len() - 1).step_by(57) {
        fs::write(&path, &good[..len]).unwrap();
        assert!(matches!(Identity::unlock(&data, PASSPHRASE), Err(Error::Damaged { .. } | Error::Key { .. })), "{len}");
    }
    fs::write(&path, vec![b'x'; 100_000]).unwrap();
    assert!(matches!(Identity::public_of(&data), Err(Error::Damaged { .. })));
    fs::write(&path, &good).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(Identity::public_of(&data), Err(Error::Open { mode: 0o640, .. })));
}

#[test]
fn another_nodes_locked_keys_are_not_taken_for_ours() {
    let (_base, data, identity) = point();
    let (_other_base, other_data, other) = point();
    for (data, identity) in [(&data, &identity), (&other_data, &other)] {
        identity.lock(data, PASSPHRASE).unwrap();
    }
    let [path, other] = [&data, &other_data].map(|data| data.join(FOLDER).join(FILE));
    let (ours, theirs) = (fs::read_to_string(&path).unwrap(), fs::read_to_string(other).unwrap());
    let mixed: Vec<_> = ours.lines().take(8).chain(theirs.lines().skip(8)).collect();
    fs::write(&path, mixed.join("\n") + "\n").unwrap();
    let error = Identity::unlock(&data, PASSPHRASE).unwrap_err().to_string();
    assert!(error.contains("not those of its public ones"), "{error}");
}

/// What lies in the folder after each step of a change, as if the power had gone there: renaming and removing a file are
/// steps of their own, and beside each may lie a file half written.
#[test]
fn a_power_cut_at_any_step_leaves_one_good_form_and_the_next_start_tidies_up() {
    let (_base, data, identity) = point();
    let plain = files(&data);
    identity.lock(&data, PASSPHRASE).unwrap();
    let locked = files(&data);
    let with = |base: &BTreeMap<String, Vec<u8>>, more: &[(&str, &[u8])]| {
        let more = more.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()));
        base.clone().into_iter().chain(more).collect::<BTreeMap<_, _>>()
    };
    let (node, wrap, file) = (&plain[NODE][..], &plain[WRAP][..], &locked[FILE][..]);
    let half = &file[..100];
    for (state, is_locked) in [
        (with(&plain, &[(".locked.keys-1", half)]), false),
        (with(&plain, &[(".locked.keys-1", file)]), false),
        (with(&plain, &[(FILE, file)]), true),
        (with(&locked, &[(WRAP, wrap)]), true),
        (with(&locked, &[(".node.key-1", &node[..30])]), true),
        (with(&locked, &[(NODE, node), (".wrap.key-1", wrap)]), true),
        (with(&locked, &[(NODE, node), (WRAP, wrap)]), true),
        (plain.clone(), false),
    ] {
        set(&data, &state);
        assert_eq!(Identity::is_locked(&data).unwrap(), is_locked);
        let loaded = Identity::unlock(&data, PASSPHRASE).unwrap();
        assert!(same(&loaded, &identity));
        loaded.settle(&data).unwrap();
        if is_locked {
            assert_eq!(files(&data), locked, "no plain key is left beside the locked ones");
        }
        assert!(same(&Identity::unlock(&data, PASSPHRASE).unwrap(), &identity));
    }
}

#[test]
fn plain_keys_that_are_others_than_the_locked_ones_are_nobodys_to_remove() {
    let (_base, data, identity) = point();
    let (_other, other, _) = point();
    identity.lock(&data, PASSPHRASE).unwrap();
    let last_copy = data.join(FOLDER).join(NODE);
    fs::copy(other.join(FOLDER).join(NODE), &last_copy).unwrap();
    let error = identity.settle(&data).unwrap_err();
    assert!(matches!(&error, Error::Damaged { .. }) && error.to_string().contains("another key"), "{error}");
    assert!(File::open(last_copy).is_ok());
}
