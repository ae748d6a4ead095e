//! How a new node becomes a point: somebody who may invites, a clerk types one code on the new PC, and the rest happens by
//! itself.
//!
//! The authority signs a grant beforehand and may go back into its drawer; the inviting node redeems the grant for whoever
//! proves to know the code's secret, once. Pure parts: what a code says ([`code`]), what follows from its secret
//! ([`secret`]), the words ([`wire`]), the inviting node's side for all that knock ([`door`]) and the new node's side
//! ([`knock`]). Shells: invites on the disk ([`invite`]) and the way to the inviting node ([`call`]). The inviting node's
//! shell is the driver (`driver/porch.rs`), because letting a node in changes what everything else works with.

pub mod call;
pub mod code;
pub mod door;
pub mod invite;
pub mod knock;
pub mod secret;
pub mod wire;

#[cfg(test)]
mod tests;
