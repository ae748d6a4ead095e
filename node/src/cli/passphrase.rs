//! Asking for a passphrase: from the variable `DIEMCAU_PASSPHRASE`, or at the terminal without showing it. That of a point's
//! keys may also come from systemd, which can keep it encrypted by the machine's TPM and hands it to this service alone
//! (`LoadCredentialEncrypted=`, systemd.exec(5)).
//!
//! It is never an argument: those are seen by everybody on the machine (`ps`) and stay in the shell's history.

use std::env;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use anyhow::{Context, Result};
use node::control::Fault;
use node::secret::Secret;
use node::words::Text;
use zeroize::Zeroizing;

use super::exit::{Failure, Usage};

/// Where scripts put it.
pub(crate) const VARIABLE: &str = "DIEMCAU_PASSPHRASE";
/// Where systemd says that a service's credentials are.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// The credential's name.
const CREDENTIAL: &str = "diemcau-passphrase";
/// Longest passphrase in a credential.
const BYTES_MAX: usize = 1024;
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

/// The passphrase that this point's keys are to have; `again` if they have one already.
pub(crate) fn new_for_keys(again: bool) -> Result<Secret> {
    // The variable holds the passphrase that opened them.
    if again && from_variable()?.is_some() {
        let reason =
            format!("another passphrase is typed at a terminal, without {VARIABLE}, which holds the one there is");
        return Err(Usage(reason).into());
    }
    Ok(new("this point's keys")?.into())
}

/// The passphrase of this point's keys; `None` if nobody gives it and there is nobody to ask.
pub(crate) fn of_keys() -> Result<Option<Secret>> {
    if let Some(given) = from_credential()? {
        return Ok(Some(given.into()));
    }
    if let Some(given) = from_variable()? {
        return Ok(Some(given.into()));
    }
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    Ok(Some(prompt(&format!("{}: ", Text::KeysPrompt.everywhere()))?.into()))
}

fn from_credential() -> Result<Option<Zeroizing<String>>> {
    let Some(folder) = env::var_os(CREDENTIALS) else { return Ok(None) };
    let path = PathBuf::from(folder).join(CREDENTIAL);
    let file = match File::open(&path) {
        // A service may have other credentials and not this one.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.with_context(|| path.display().to_string())?,
    };
    // Its room is made at once, as a text that grows leaves copies of itself behind.
    let mut text = Zeroizing::new(String::with_capacity(BYTES_MAX + 1));
    file.take(BYTES_MAX as u64 + 1).read_to_string(&mut text).with_context(|| path.display().to_string())?;
    // An editor ends a file with a new line; a passphrase has none.
    let passphrase = Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned());
    if text.len() > BYTES_MAX || passphrase.is_empty() || passphrase.contains('\n') {
        let reason = format!("{} does not hold a passphrase on one line", path.display());
        return Err(Failure::new(Fault::Refused, reason).into());
    }
    Ok(Some(passphrase))
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
