//! What an administrator wants done about an account, carried out alike by a running node and by a command on a stopped
//! one: first it is seen whether it can be done, then it is written into the access log, then it is done.

use serde::{Deserialize, Serialize};

use super::{Account, Accounts, Error, Role};
use crate::secret::Secret;

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Make an account.
    Add {
        /// Its name.
        name: String,
        /// What it is for.
        role: Role,
    },
    /// Give it another role.
    Role {
        /// Its name.
        name: String,
        /// What it is for from now on.
        role: Role,
    },
    /// Give it a new one-time password.
    Reset {
        /// Its name.
        name: String,
    },
    /// Remove it.
    Remove {
        /// Its name.
        name: String,
    },
}

impl Order {
    /// The account it is about.
    pub fn name(&self) -> &str {
        match self {
            Order::Add { name, .. } | Order::Role { name, .. } | Order::Reset { name } | Order::Remove { name } => name,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The account as it is now, or as it was.
    pub account: Account,
    /// Its new one-time password, shown this once.
    pub password: Option<Secret>,
}

impl Accounts {
    /// Carries out an order, once `write_down` has put the account's name into the access log.
    pub fn carry_out(&self, order: &Order, write_down: impl FnOnce(&str) -> Result<(), String>) -> Result<Done, Error> {
        let name = order.name().trim();
        let known = match order {
            Order::Add { .. } => self.check_new(name).map(|()| None)?,
            Order::Role { .. } | Order::Reset { .. } | Order::Remove { .. } => {
                Some(self.get(name).ok_or_else(|| Error::Missing(name.to_owned()))?)
            }
        };
        write_down(known.as_ref().map_or(name, |account| &account.name)).map_err(Error::Unlogged)?;
        let password = match order {
            Order::Add { role, .. } => Some(self.add(name, *role)?),
            Order::Role { role, .. } => self.set_role(name, *role).map(|()| None)?,
            Order::Reset { .. } => Some(self.reset(name)?),
            Order::Remove { .. } => self.remove(name).map(|()| None)?,
        };
        let account = self.get(name).or(known).ok_or_else(|| Error::Missing(name.to_owned()))?;
        Ok(Done { account, password: password.map(Secret::from) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_down_or_done_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let accounts = Accounts::load(dir.path()).unwrap();
        let add = Order::Add { name: " Lan".into(), role: Role::Chair };
        let refused = accounts.carry_out(&add, |_| Err("the disk is full".into()));
        assert!(matches!(refused, Err(Error::Unlogged(reason)) if reason == "the disk is full"));
        assert_eq!(accounts.list(), []);

        let mut log = Vec::new();
        let mut carry_out = |order: &Order| {
            accounts.carry_out(order, |name| {
                log.push(name.to_owned());
                Ok(())
            })
        };
        let done = carry_out(&add).unwrap();
        assert!(done.password.is_some() && done.account.must_change);
        assert!(matches!(carry_out(&add), Err(Error::Taken(_))));
        let role = carry_out(&Order::Role { name: "lan".into(), role: Role::Admin }).unwrap();
        assert_eq!((role.account.role, role.password), (Role::Admin, None));
        assert!(carry_out(&Order::Reset { name: "lan".into() }).unwrap().password != done.password);
        carry_out(&Order::Remove { name: "LAN".into() }).unwrap();
        assert!(matches!(carry_out(&Order::Remove { name: "lan".into() }), Err(Error::Missing(_))));
        assert_eq!(log, ["Lan", "Lan", "Lan", "Lan"]);
    }
}
