//! The security label that marks guarded roles: `SECURITY LABEL FOR agent_guard ON ROLE r IS 'guarded'`.
//!
//! guard_role sets it; the login hook reads it. This module only says who may set what.

use std::ffi::CStr;
use std::os::raw::c_char;

use pgrx::prelude::*;

use crate::pg::admin_error::{AdminError, AdminResult};

/// The only value of the label.
const GUARDED: &CStr = c"guarded";

/// Registers the provider; while the library is loaded.
pub fn init() {
    // SAFETY: the name is a constant, and the hook lives as long as the library, which is never unloaded.
    unsafe { pg_sys::register_label_provider(c"agent_guard".as_ptr(), Some(relabel)) };
}

#[pg_guard]
unsafe extern "C-unwind" fn relabel(object: *const pg_sys::ObjectAddress, label: *const c_char) {
    // SAFETY: the server passes a valid address for the length of the call.
    let object = unsafe { *object };
    let label = if label.is_null() {
        None
    } else {
        // SAFETY: not NULL, hence a NUL-terminated string of the statement.
        Some(unsafe { CStr::from_ptr(label) })
    };
    if let Err(error) = permitted(object, label) {
        error.tell(PgLogLevel::ERROR);
    }
}

fn permitted(object: pg_sys::ObjectAddress, label: Option<&CStr>) -> AdminResult<()> {
    // SAFETY: reads the current user's row of pg_authid; a transaction is running, as for every statement.
    if !unsafe { pg_sys::superuser() } {
        return Err(AdminError::forbidden("only a superuser may set the label of a guarded role")
            .hint("Ask a superuser to run SELECT agent_guard.guard_role('<role>')."));
    }
    if object.classId != pg_sys::AuthIdRelationId {
        return Err(AdminError::new(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            "agent_guard labels nothing but roles",
        )
        .hint("Masks and rules have functions of their own in the schema agent_guard."));
    }
    let Some(label) = label else {
        return Ok(());
    };
    if label != GUARDED {
        return Err(AdminError::new(
            PgSqlErrorCode::ERRCODE_INVALID_NAME,
            format!("\"{}\" is no label of agent_guard", label.to_string_lossy()),
        )
        .hint("The only label is 'guarded'; agent_guard.guard_role(role) sets it together with the setting that belongs to it."));
    }
    // SAFETY: looks a role up by OID; a transaction is running.
    if unsafe { pg_sys::superuser_arg(object.objectId) } {
        return Err(AdminError::forbidden("a superuser cannot be guarded")
            .hint("Give the agent a login role of its own that is no superuser."));
    }
    Ok(())
}
