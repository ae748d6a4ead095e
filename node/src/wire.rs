//! Messages between nodes: their bytes and their limits.

pub mod control;
mod envelope;
pub mod evidence;
pub mod media;
pub mod recover;
pub mod replica;
pub mod roster;

pub use self::envelope::Error;

/// The cases of an enum, by the words in which serde refuses one that it has not: for tables that must have a row for each.
#[cfg(test)]
pub(crate) fn cases(refusal: &serde_json::Error) -> std::collections::BTreeSet<String> {
    let words = refusal.to_string();
    let expected = words.split_once("expected one of ").expect("a case that does not exist").1;
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
