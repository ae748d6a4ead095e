//! What the process owes its secrets, before it reads any.
//!
//! Keys are in its memory, so nobody but the kernel may look into that: no core dump is written, to a file or to a crash
//! reporter, and other processes of the same user may not attach. Both are asked for, as they stop different things: a
//! limit of 0 does not keep the kernel from handing a dump to a crash reporter, and what a debugger may do is decided by
//! the second alone.
//!
//! Whatever the process writes is for its owner alone, whatever library writes it, a database's files and an exported film
//! alike: a film is a hearing in the clear, and who gives it to others should have to mean it.

use anyhow::{Context, Result};
use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask};

/// Does that for this process and all it starts.
pub(super) fn harden() -> Result<()> {
    umask(Mode::RWXG | Mode::RWXO);
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable))
        .context("the kernel does not forbid this process's core dumps, which would hold its keys")
}
