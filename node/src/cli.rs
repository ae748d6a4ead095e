//! The command line. One command a file; the doc comment on a command is its help.
//!
//! `anyhow` lives here only: whatever went wrong becomes one sentence, its causes and a hint on stderr, and an exit code
//! that scripts may rely on (`cli/exit.rs`). With `--json`, JSON alone goes to stdout.

mod access;
mod account;
mod archive;
mod args;
mod authority;
mod bench;
mod demo;
mod exit;
mod init;
mod invite;
mod join;
mod key;
mod log;
mod output;
mod parent;
mod passphrase;
mod private;
mod qr;
mod reading;
mod recover;
mod run;
mod scrub;
mod session;
mod shares;
mod status;
mod support;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// A connection point of the citizen reception mesh
#[derive(Debug, Parser)]
#[command(name = "diemcau", version, arg_required_else_help = true)]
struct Program {
    /// Process that started this one and must not be outlived
    #[arg(long, hide = true, value_name = "PID")]
    parent: Option<i32>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Demo(demo::Args),
    Init(init::Args),
    Invite(invite::Args),
    Join(join::Args),
    Authority(authority::Args),
    Run(run::Args),
    Status(status::Args),
    Session(session::Args),
    Archive(archive::Args),
    Account(account::Args),
    Key(key::Args),
    Log(log::Args),
    SupportBundle(support::Args),
    Bench(bench::Args),
}

/// Reads the command line, does what it says, and says how that went.
pub(crate) fn main() -> ExitCode {
    if let Err(error) = private::harden() {
        return output::report(&error);
    }
    // clap itself ends the process with 2 when the command line is wrong, and with 0 after `--help`.
    let program = Program::parse();
    match program.parent.map_or(Ok(()), parent::end_with).and_then(|()| run(program.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::report(&error),
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo(args) => demo::main(args),
        Command::Init(args) => init::main(args),
        Command::Invite(args) => invite::main(args),
        Command::Join(args) => join::main(args),
        Command::Authority(args) => authority::main(args),
        Command::Run(args) => run::main(args),
        Command::Status(args) => status::main(args),
        Command::Session(args) => session::main(args),
        Command::Archive(args) => archive::main(args),
        Command::Account(args) => account::main(args),
        Command::Key(args) => key::main(args),
        Command::Log(args) => log::main(args),
        Command::SupportBundle(args) => support::main(args),
        Command::Bench(args) => bench::main(args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Program::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_exit_code_2() {
        for wrong in [
            &["dance"][..],
            &["session"],
            &["init", "--nmae", "A"],
            &["session", "show"],
            &["run", "--port", "x"],
            &["log", "access", "--from", "today"],
        ] {
            let error = Program::try_parse_from([&["diemcau"], wrong].concat()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong:?}");
        }
        assert_eq!(Program::try_parse_from(["diemcau", "--help"]).unwrap_err().exit_code(), 0);
    }

    #[test]
    fn every_command_has_a_help_line_without_full_stop() {
        fn check(command: &clap::Command) {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(!about.is_empty() && !about.ends_with('.'), "{}: {about:?}", command.get_name());
            command.get_subcommands().for_each(check);
        }
        check(&Program::command());
    }
}
