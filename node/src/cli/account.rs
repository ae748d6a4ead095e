//! `diemcau account`: who may log in at the room's page. The running node does it, as its page must know at once; on a
//! stopped node the command does, and holds the folder meanwhile.

use anyhow::{Result, bail};
use clap::ValueEnum;
use node::accounts::order::{Done, Order};
use node::accounts::{Account, Accounts, Role};
use node::control::{self, Request, Response};
use node::identity::Identity;
use serde::Serialize;
use store::access::{Access, Deed, What as To, Who};

use super::args::{Data, Format};
use super::output::{self, table};
use super::{access, key};

/// Say who may log in at the room's page, and as what
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make an account and print its password, once
    ///
    /// Whoever it is for must choose another password when logging in for the first time.
    Add {
        /// Letters, digits, dots and dashes
        name: String,
        /// What the account is for
        #[arg(long, value_enum)]
        role: Chosen,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        format: Format,
    },
    /// List the accounts
    List {
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        format: Format,
    },
    /// Give an account another role; whoever is logged in has to log in again
    Role {
        /// Of the account
        name: String,
        /// What it is for from now on
        #[arg(value_enum)]
        role: Chosen,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        format: Format,
    },
    /// Give an account a new password and print it, once
    Reset {
        /// Of the account
        name: String,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        format: Format,
    },
    /// Remove an account
    Remove {
        /// Of the account
        name: String,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        format: Format,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Chosen {
    /// Looks after the room; starts and ends sessions
    Operator,
    /// Writes the minutes; plays and exports what was recorded
    Secretary,
    /// Leads receptions; starts and ends sessions, plays and exports
    Chair,
    /// Answers for the node; sees to accounts and the access log
    Admin,
}

impl From<Chosen> for Role {
    fn from(chosen: Chosen) -> Self {
        match chosen {
            Chosen::Operator => Role::Operator,
            Chosen::Secretary => Role::Secretary,
            Chosen::Chair => Role::Chair,
            Chosen::Admin => Role::Admin,
        }
    }
}

pub(crate) fn main(args: Args) -> Result<()> {
    let (order, data, format) = match args.what {
        What::List { data, format } => return list(&data, format),
        What::Add { name, role, data, format } => (Order::Add { name, role: role.into() }, data, format),
        What::Role { name, role, data, format } => (Order::Role { name, role: role.into() }, data, format),
        What::Reset { name, data, format } => (Order::Reset { name }, data, format),
        What::Remove { name, data, format } => (Order::Remove { name }, data, format),
    };
    let done = match data.ask(&Request::Account { order: order.clone() }) {
        Ok(Response::Account(done)) => *done,
        Ok(_) => bail!("the node answered something else"),
        Err(error) if is_stopped(&error) => stopped(&data, &order)?,
        Err(error) => return Err(error),
    };
    if format.json {
        return Ok(output::json(&Report::of(&done))?);
    }
    Ok(output::print(&describe(&order, &done))?)
}

fn is_stopped(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(control::Error::NotRunning(_)))
}

/// Carries an order out on the folder of a stopped node.
fn stopped(data: &Data, order: &Order) -> Result<Done> {
    let folder = data.folder()?;
    let identity = key::load(&folder)?;
    let _held = control::hold(&folder)?;
    let accounts = Accounts::load(&folder)?;
    let done = accounts.carry_out(order, |name| {
        let what = To::Account { name: name.to_owned() };
        let who = Who::User { uid: control::own_uid() };
        access::write_down(&folder, &identity, Access::done(who, Deed::Account, what, output::now_ms()))
    });
    Ok(done?)
}

fn list(data: &Data, format: Format) -> Result<()> {
    let accounts = match data.ask(&Request::AccountList) {
        Ok(Response::Accounts { accounts }) => accounts,
        Ok(_) => bail!("the node answered something else"),
        Err(error) if is_stopped(&error) => {
            let folder = data.folder()?;
            Identity::public_of(&folder)?;
            Accounts::load(&folder)?.list()
        }
        Err(error) => return Err(error),
    };
    if format.json { Ok(output::json(&accounts)?) } else { Ok(output::print(&listed(&accounts))?) }
}

/// What `--json` prints: the account, and its password if it has a new one.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    account: &'a Account,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<&'a str>,
}

impl<'a> Report<'a> {
    fn of(done: &'a Done) -> Self {
        Self { account: &done.account, password: done.password.as_ref().map(|password| password.expose()) }
    }
}

fn describe(order: &Order, done: &Done) -> String {
    let Account { name, role, .. } = &done.account;
    let mut text = match order {
        Order::Add { .. } => format!("{name} may log in as {}\n", role.name()),
        Order::Role { .. } => format!("{name} is {} from now on\n", role.name()),
        Order::Reset { .. } => format!("{name} has a new password\n"),
        Order::Remove { .. } => format!("{name} may not log in any more\n"),
    };
    if let Some(password) = &done.password {
        text.push_str(&format!(
            "password, shown this once: {}\nIt must be changed when logging in for the first time.\n",
            password.expose()
        ));
    }
    text
}

fn listed(accounts: &[Account]) -> String {
    let state = |account: &Account| if account.must_change { "set by the administrator" } else { "chosen" };
    let row = |account: &Account| vec![account.name.clone(), account.role.name().to_owned(), state(account).to_owned()];
    table(&["NAME", "ROLE", "PASSWORD"], &accounts.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use node::secret::Secret;
    use serde_json::json;

    use super::*;

    fn done(password: Option<&str>) -> Done {
        let password = password.map(|text| serde_json::from_value::<Secret>(json!(text)).unwrap());
        let account = Account { name: "lan".into(), role: Role::Chair, must_change: true, stamp: 0 };
        Done { account, password }
    }

    #[test]
    fn a_password_is_printed_once_and_named_so() {
        let order = Order::Add { name: "lan".into(), role: Role::Chair };
        let expected = "lan may log in as chair\n\
                        password, shown this once: abcd-efgh\n\
                        It must be changed when logging in for the first time.\n";
        assert_eq!(describe(&order, &done(Some("abcd-efgh"))), expected);
        let json = serde_json::to_string(&Report::of(&done(Some("abcd-efgh")))).unwrap();
        assert_eq!(json, r#"{"name":"lan","role":"chair","must_change":true,"password":"abcd-efgh"}"#);
        let json = serde_json::to_string(&Report::of(&done(None))).unwrap();
        assert_eq!(json, r#"{"name":"lan","role":"chair","must_change":true}"#);
    }

    #[test]
    fn a_list_shows_no_password() {
        let expected = "NAME  ROLE   PASSWORD\nlan   chair  set by the administrator\n";
        assert_eq!(listed(&[done(None).account]), expected);
    }
}
