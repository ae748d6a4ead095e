//! Asking for a passphrase: from the variable `DIEMCAU_PASSPHRASE`, or at the terminal without showing it.
//!
//! It is never an argument: those are seen by everybody on the machine (`ps`) and stay in the shell's history.

use std::env;
use std::io::{self, IsTerminal};

use anyhow::{Context, Result};
use node::control::Fault;
use zeroize::Zeroizing;

use super::exit::{Failure, Usage};

/// Where scripts put it.
pub(crate) const VARIABLE: &str = "DIEMCAU_PASSPHRASE";
/// Fewest characters of a new passphrase. What protects is its length; with the cost of trying one (about a tenth of a
/// second), eight random letters and digits take a thief with a thousand machines some thousand years.
const LEN_MIN: usize = 8;
/// Times a new one may be typed differently.
const TRIES: usize = 3;

/// A passphrase that is to be set for `what`, typed twice.
pub(crate) fn new(what: &str) -> Result<Zeroizing<String>> {
    if let Some(given) = from_variable()? {
        return check(given).map_err(|why| Usage(format!("{VARIABLE} {why}")).into());
    }
    must_be_terminal(what)?;
    for _ in 0..TRIES {
        let first = prompt(&format!("New passphrase for {what}: "))?;
        let first = match check(first) {
            Ok(first) => first,
            Err(why) => {
                eprintln!("The passphrase {why}.");
                continue;
            }
        };
        if *prompt("The same once more: ")? == *first {
            return Ok(first);
        }
        eprintln!("The two differ.");
    }
    Err(Failure::new(Fault::Refused, format!("no passphrase for {what} was set")).into())
}

/// The passphrase that was set for `what`.
pub(crate) fn ask(what: &str) -> Result<Zeroizing<String>> {
    if let Some(given) = from_variable()? {
        return Ok(given);
    }
    must_be_terminal(what)?;
    prompt(&format!("Passphrase for {what}: "))
}

fn from_variable() -> Result<Option<Zeroizing<String>>> {
    match env::var(VARIABLE) {
        Ok(given) => Ok(Some(Zeroizing::new(given))),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(Usage(format!("{VARIABLE} is not UTF-8")).into()),
    }
}

fn must_be_terminal(what: &str) -> Result<()> {
    if io::stdin().is_terminal() {
        return Ok(());
    }
    let reason = format!("the passphrase for {what} is needed: run this at a terminal, or set {VARIABLE}");
    Err(Usage(reason).into())
}

fn prompt(text: &str) -> Result<Zeroizing<String>> {
    rpassword::prompt_password(text).map(Zeroizing::new).context("the passphrase cannot be read")
}

fn check(passphrase: Zeroizing<String>) -> Result<Zeroizing<String>, String> {
    if passphrase.chars().count() < LEN_MIN {
        return Err(format!("is shorter than {LEN_MIN} characters"));
    }
    Ok(passphrase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_passphrase_is_not_short() {
        let check = |text: &str| check(Zeroizing::new(text.to_owned())).map(|_| ());
        assert_eq!(check("bảy chữ"), Err("is shorter than 8 characters".to_owned()));
        assert_eq!(check("tám chữ!"), Ok(()));
    }
}
