//! Processes of this program that another one started, and that end with it.
//!
//! `demo` and `bench` end what they started, but SIGKILL and a machine out of memory leave them no time to. So the child
//! sees to it as well: it is told who started it, and asks the kernel to kill it together with that one. Not by a
//! pipe from the parent that it reads to the end, as a child that hangs would read nothing.

use std::ffi::OsStr;
use std::io;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// This program with these arguments, to be started by the main thread: the kernel ends the child with the thread that
/// started it.
pub(crate) fn child<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--parent", &std::process::id().to_string()]).args(args);
    Ok(command)
}

/// From now on this process ends with its parent, which must be `parent`.
pub(crate) fn end_with(parent: i32) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("the kernel does not tie this process to its parent")?;
    // It may have ended before the kernel was asked; then somebody else is our parent.
    if getppid().map(Pid::as_raw_pid) != Some(parent) {
        bail!("process {parent}, which started this one, has ended");
    }
    Ok(())
}
