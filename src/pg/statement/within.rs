//! Secrets that a statement of the client turned out to hold when a utility statement within it named them: a password that a
//! function or DO block was given, and put into ALTER ROLE. They are taken out of the events of what runs around it.

use std::borrow::Cow;
use std::cell::RefCell;

use super::super::process::PerProcess;
use super::super::unusual::{self, Unusual};
use super::open::Open;
use crate::audit::redact::{secrets_of, without};

static SECRETS: PerProcess<RefCell<Vec<String>>> = PerProcess::new(RefCell::new(Vec::new()));

/// The commands in which a secret has a place of its own.
const NAMING: [&str; 10] = [
    "CREATE ROLE",
    "ALTER ROLE",
    "CREATE USER MAPPING",
    "ALTER USER MAPPING",
    "CREATE SERVER",
    "ALTER SERVER",
    "CREATE SUBSCRIPTION",
    "ALTER SUBSCRIPTION",
    "CREATE FOREIGN DATA WRAPPER",
    "ALTER FOREIGN DATA WRAPPER",
];

/// A statement has ended: learns what it names, if it ran within another one.
#[inline]
pub(super) fn learn(open: &Open) {
    if open.level > 0 && open.is_utility() && NAMING.contains(&open.command) {
        let secrets = secrets_of(&open.text);
        if !secrets.is_empty() {
            unusual::set(Unusual::Secrets, true);
            SECRETS.with_borrow_mut(|known| known.extend(secrets));
        }
    }
}

/// Whether there is anything to be taken out.
#[inline]
pub(super) fn any() -> bool {
    unusual::is(Unusual::Secrets)
}

/// The client's statement has ended.
pub(super) fn forget() {
    unusual::set(Unusual::Secrets, false);
    SECRETS.set(Vec::new());
}

/// A text without them.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if any() { SECRETS.with_borrow(|known| without(text, known)) } else { Cow::Borrowed(text) }
}

/// Parameters without them; `None` where there is nothing to take out.
pub(super) fn clean_list(list: &[Option<String>]) -> Option<Vec<Option<String>>> {
    any().then(|| list.iter().map(|item| item.as_deref().map(|item| clean(item).into_owned())).collect())
}
