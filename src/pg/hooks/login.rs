//! ClientAuthentication_hook: knows guarded roles by their label and refuses them replication connections.

use std::os::raw::c_int;

use pgrx::pg_sys;

use super::super::connection::{self, Port};
use super::super::raise::{self, Raised};
use super::super::{calls, connection_settings, guc, session};
use super::guarded;

type Authentication = Option<unsafe extern "C-unwind" fn(*mut Port, c_int)>;

unsafe extern "C" {
    // Not in pgrx's bindings (src/include/libpq/auth.h).
    static mut ClientAuthentication_hook: Authentication;
}

static mut PREVIOUS: Authentication = None;

/// Saves the previous hook and installs ours.
pub fn init() {
    // SAFETY: _PG_init runs alone; a plain function pointer.
    unsafe {
        PREVIOUS = ClientAuthentication_hook;
        ClientAuthentication_hook = Some(authenticated);
    }
}

unsafe extern "C-unwind" fn authenticated(port: *mut Port, status: c_int) {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        if let Some(previous) = PREVIOUS {
            previous(port, status);
        }
        if status == 0 {
            let refused = guarded(|| note_role(port));
            if let Some(raised) = refused {
                raise::raise(pg_sys::FATAL, raised);
            }
        }
    }
}

/// Shared catalogues are readable here, the role's settings are not; a label tells.
fn note_role(port: *mut Port) -> Option<Raised> {
    // SAFETY: the hook's own argument.
    let role = unsafe { connection::login_role(port) };
    if role == pg_sys::InvalidOid || !calls::has_label(role) {
        return None;
    }
    guc::guarded_by_label();
    connection_settings::remember();
    super::log::see_every_error();
    // SAFETY: a plain flag of this process.
    unsafe { pg_sys::am_walsender }.then(|| raise::prepare(&session::replication_refused()))
}
