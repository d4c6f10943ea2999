//! The settings that a client puts into its startup packet. An agent writes that packet, so they are decided as its SET would
//! be: a role, a tenant of the application or a higher limit that came with the connection is none the less the agent's.
//!
//! They are looked at when a token binds, because it takes a policy to decide. What a DBA has set on the role, the database or
//! in a file is the DBA's.

use std::cell::RefCell;
use std::ffi::CString;

use pgrx::pg_sys;

use super::handshake::realm;
use super::process::PerProcess;
use super::session::{self, Session};
use super::{catalog, enforce, scan, settings, version};
use crate::policy::builtin::{ONLY_LOWER, Setting, setting_class};
use crate::refusal::Refusal;

/// pg_db_role_setting (src/include/catalog/pg_db_role_setting.h).
const ROLE_SETTINGS: pg_sys::Oid = pg_sys::Oid::from_u32(2964);

/// Names and values of settings.
type Values = Vec<(String, String)>;

/// Name and value of what can only be lowered, from before the startup packet was read.
static BEFORE: PerProcess<RefCell<Vec<(&'static str, String)>>> = PerProcess::new(RefCell::new(Vec::new()));
/// Name and value of what the startup packet has set, once it was looked for.
static BROUGHT: PerProcess<RefCell<Option<Values>>> = PerProcess::new(RefCell::new(None));

/// Keeps the limits as files have them: called when a guarded role has authenticated, before its settings are read.
pub fn remember() {
    let limits = ONLY_LOWER.iter().filter_map(|name| {
        let c_name = CString::new(*name).ok()?;
        // SAFETY: a NUL-terminated name; null where this version has no such setting.
        let value = unsafe { catalog::text(pg_sys::GetConfigOption(c_name.as_ptr(), true, false)) }?;
        Some((*name, value))
    });
    BEFORE.set(limits.collect());
}

/// Whether the policy lets the agent have what its connection has set.
///
/// # Errors
/// 42501 for the first that it does not.
pub fn permitted(session: &Session) -> Result<(), Refusal> {
    let brought = BROUGHT.with_borrow_mut(|brought| brought.get_or_insert_with(look).clone());
    brought.iter().try_for_each(|(name, value)| one(session, name, value))
}

fn look() -> Values {
    let mut brought = Values::new();
    for setting in version::settings() {
        // SAFETY: every element is a setting, whose name is NUL-terminated; the reset value is the connection's own.
        unsafe {
            if (*setting).reset_source != pg_sys::GucSource::PGC_S_CLIENT {
                continue;
            }
            let name = catalog::text((*setting).name).unwrap_or_default();
            if setting_class(&name) == Setting::Harmless {
                continue;
            }
            let value = catalog::text(pg_sys::GetConfigOptionResetString((*setting).name));
            brought.push((name, value.unwrap_or_default()));
        }
    }
    brought
}

fn one(session: &Session, name: &str, value: &str) -> Result<(), Refusal> {
    let wanted = match setting_class(name) {
        Setting::OnlyLower => {
            return settings::no_higher(name, value, without(name).as_deref()).map_err(came);
        }
        Setting::Needs(_) if value.eq_ignore_ascii_case("none") => return Ok(()),
        _ => settings::change(name, Some(value)).map_err(came)?,
    };
    let Some(wanted) = wanted else { return Ok(()) };
    if enforce::observing(session) {
        return Ok(());
    }
    enforce::decide_alone(session, &wanted)?.1.map_or(Ok(()), |refusal| Err(came(refusal)))
}

fn came(refusal: Refusal) -> Refusal {
    let hint = "The connection's options set it: connect without them, or have a DBA set it on the role (ALTER ROLE ... SET).";
    Refusal { hint: hint.to_owned(), ..refusal }
}

/// What the limit would be without the connection's own value: the role's, the database's, or that of the files.
fn without(name: &str) -> Option<String> {
    let (role, database) = (session::authenticated_role(), realm().1);
    let mut found: Option<(u8, String)> = None;
    scan::rows(ROLE_SETTINGS, None, |row| {
        let (of_database, of_role) =
            (row.column(1).unwrap_or(pg_sys::InvalidOid), row.column(2).unwrap_or(pg_sys::InvalidOid));
        let everywhere = of_database == pg_sys::InvalidOid;
        let everybody = of_role == pg_sys::InvalidOid;
        if (!everywhere && of_database.to_u32() != database) || (!everybody && of_role != role) {
            return;
        }
        // As the server ranks them (process_settings in postinit.c).
        let rank = u8::from(!everybody) * 2 + u8::from(!everywhere);
        for line in row.texts(3) {
            if let Some((set, value)) = line.split_once('=')
                && set.eq_ignore_ascii_case(name)
                && found.as_ref().is_none_or(|(best, _)| rank >= *best)
            {
                found = Some((rank, value.to_owned()));
            }
        }
    });
    found.map(|(_, value)| value).or_else(|| {
        BEFORE.with_borrow(|before| {
            let known = before.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            known.map(|(_, value)| value.clone())
        })
    })
}
