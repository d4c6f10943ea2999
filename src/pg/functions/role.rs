//! guard_role, unguard_role.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::pg::admin_error::{AdminError, AdminResult, given};
use crate::pg::functions::{administrator, changes_policies, done};
use crate::pg::store::role::{self, Might, RoleRow};

#[pg_extern(sql = false)]
fn guard_role(role: Option<pg_sys::Oid>, allow_privileged: Option<bool>) -> Result<(), ErrorReport> {
    let guard = || -> AdminResult<()> {
        let allow_privileged = given(allow_privileged, "allow_privileged")?;
        let (oid, row) = subject(role)?;
        let RoleRow { name, superuser, login, guarded } = row;
        if superuser {
            return Err(AdminError::forbidden(format!(
                "role \"{name}\" is a superuser and cannot be guarded"
            ))
            .detail("A superuser can undo every guard from inside the server.")
            .hint(format!(
                "Give the agent a login role of its own, or run: ALTER ROLE {} NOSUPERUSER;",
                pgrx::spi::quote_identifier(&name)
            )));
        }
        let mights = role::mights(oid)?;
        if !mights.is_empty() {
            let told = privileged(&name, &mights);
            if !allow_privileged {
                return Err(told);
            }
            told.tell(PgLogLevel::WARNING);
        }
        role::guard(&name)?;
        done("guard_role", format!("role {name}{}", if allow_privileged { ", privileged" } else { "" }));
        // Sessions remember whose functions and views lend.
        changes_policies();
        if guarded {
            AdminError::new(
                PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
                format!("role \"{name}\" was guarded already"),
            )
            .tell(PgLogLevel::NOTICE);
        }
        if !login {
            AdminError::new(PgSqlErrorCode::ERRCODE_WARNING, format!("role \"{name}\" cannot log in"))
                .hint("Guard the login roles themselves: members of a guarded role are not guarded by it.")
                .tell(PgLogLevel::WARNING);
        }
        reconnect(oid, &name, "is not guarded before it reconnects", "are not guarded before they reconnect")
    };
    Ok(guard()?)
}

#[pg_extern(sql = false)]
fn unguard_role(role: Option<pg_sys::Oid>) -> Result<(), ErrorReport> {
    let unguard = || -> AdminResult<()> {
        let (oid, row) = subject(role)?;
        role::unguard(&row.name)?;
        done("unguard_role", format!("role {}", row.name));
        // Sessions remember whose functions and views lend.
        changes_policies();
        if !row.guarded {
            AdminError::new(
                PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
                format!("role \"{}\" was not guarded", row.name),
            )
            .tell(PgLogLevel::NOTICE);
            return Ok(());
        }
        let windows = role::open_windows(oid)?;
        if windows > 0 {
            AdminError::new(
                PgSqlErrorCode::ERRCODE_WARNING,
                format!("role \"{}\" still has open windows in this database: {windows}", row.name),
            )
            .hint("They hold again when the role is guarded again; revoke_window() ends them.")
            .tell(PgLogLevel::WARNING);
        }
        reconnect(oid, &row.name, "stays guarded until it reconnects", "stay guarded until they reconnect")
    };
    Ok(unguard()?)
}

/// The role, for a superuser in a session that is not guarded.
fn subject(role: Option<pg_sys::Oid>) -> AdminResult<(pg_sys::Oid, RoleRow)> {
    administrator()?;
    // SAFETY: reads the current user's row of pg_authid; a transaction is running.
    if !unsafe { pg_sys::superuser() } {
        return Err(AdminError::forbidden("only a superuser may say which roles are guarded")
            .hint("Ask a superuser to run the function."));
    }
    let oid = given(role, "role")?;
    // Two that guard one role follow each other: the server's own commands would tell the second of a tuple concurrently updated.
    // SAFETY: takes a lock until the end of the transaction, which does not need the role to exist.
    unsafe {
        let lock = pg_sys::ShareUpdateExclusiveLock.cast_signed();
        pg_sys::LockSharedObject(pg_sys::AuthIdRelationId, oid, 0, lock);
    }
    let row = role::existing(oid, "Name an existing role, as in guard_role('agent').")?;
    Ok((oid, row))
}

fn privileged(name: &str, mights: &[Might]) -> AdminError {
    let whats: Vec<&str> = mights.iter().map(|might| might.what.as_str()).collect();
    let mut remedies: Vec<&str> = mights.iter().map(|might| might.remedy.as_str()).collect();
    remedies.sort_unstable();
    remedies.dedup();
    AdminError::forbidden(format!("role \"{name}\" has privileges that an agent should not have"))
        .detail(format!("The role has {}.", whats.join(", ")))
        .hint(format!(
            "Take them away: {} With allow_privileged => true the guard alone stands before them.",
            remedies.join(" ")
        ))
}

fn reconnect(oid: pg_sys::Oid, name: &str, one: &str, more: &str) -> AdminResult<()> {
    let open = role::open_sessions(oid)?;
    if open > 0 {
        let text = match open {
            1 => format!("1 open session of role \"{name}\" {one}"),
            _ => format!("{open} open sessions of role \"{name}\" {more}"),
        };
        AdminError::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, text)
            .hint(format!(
                "To end them: SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {};",
                pgrx::spi::quote_literal(name)
            ))
            .tell(PgLogLevel::NOTICE);
    }
    Ok(())
}
