//! What is kept, and why it can be believed: sealed groups, evidence, keys.
//!
//! This crate knows nothing of media: frames come in as bytes, are sealed once at the source, and from then on the
//! same bytes travel, are stored and are hashed. It knows nothing of networks either.
//!
//! - [`id`] names things; [`keys`] and [`seal`] make and use secrets; [`record`] is the layout of a group.
//! - [`locked`] is a secret behind a passphrase, [`shares`] the recovery key on paper.
//! - [`signed`] is the form of signed records, [`cbor`] what they are written in; [`journal`], [`segment`], [`manifest`],
//!   [`receipt`], [`access`], [`roster`] and [`session`] are such records and the plain ones beside them.
//! - [`inventory`] says which groups somebody has, [`placement`] who should; [`verify`] whether a recording is what was
//!   recorded, [`recover`] what can be believed of one that comes back from others; [`scrub`] how far it was read again.
//!
//! All of these are pure: bytes in, values out. What touches a disk is apart:
//!
//! - [`schema`] says what lies where, [`db`] what is asked of a database, with RocksDB and a twin in memory behind it;
//!   [`archive`] is what a node keeps.

pub mod access;
pub mod archive;
pub mod cbor;
pub mod db;
pub mod id;
pub mod inventory;
pub mod journal;
pub mod keys;
pub mod locked;
pub mod manifest;
pub mod placement;
pub mod receipt;
pub mod record;
pub mod recover;
pub mod roster;
pub mod schema;
pub mod scrub;
pub mod seal;
pub mod segment;
pub mod session;
pub mod shares;
pub mod signed;
pub mod verify;
