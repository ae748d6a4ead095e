//! Bad networks, on virtual time and on real sockets, from one seed.
//!
//! [`link`] decides what happens to each packet of one direction of a line. It is pure: time comes in as an argument
//! and chance from [`rng`], so the same seed and the same packets give the same verdicts. [`relay`] lets real programs
//! feel such a line: it stands between two UDP sockets and does in real time what two links decide. [`lab`] gives real
//! programs a whole network of such lines: hosts with addresses of their own, offices, routers. [`world`] does without real
//! programs and without time: it runs any [`host::Host`] for a day in a moment, and the same day again from the same seed.
//!
//! The crate knows nothing of what the packets carry and depends on none of the others.

pub mod host;
pub mod lab;
pub mod link;
mod net;
pub mod relay;
pub mod rng;
pub mod trace;
mod waiting;
pub mod world;
