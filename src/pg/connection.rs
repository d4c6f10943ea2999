//! The client's connection: the name that it logged in with.
//!
//! `Port` is not in pgrx's bindings as each server lays it out (its own declaration for 17 has a field too many), so the
//! beginning of it is declared here.

use std::os::raw::{c_char, c_int};

use pgrx::pg_sys;

use super::catalog;

/// The beginning of a connection's `Port` (src/include/libpq/libpq-be.h), up to what is read.
#[repr(C)]
pub struct Port {
    sock: pg_sys::pgsocket,
    noblock: bool,
    proto: u32,
    laddr: pg_sys::SockAddr,
    raddr: pg_sys::SockAddr,
    remote_host: *mut c_char,
    remote_hostname: *mut c_char,
    remote_hostname_resolv: c_int,
    remote_hostname_errcode: c_int,
    remote_port: *mut c_char,
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    can_accept_connections: c_int,
    #[cfg(feature = "pg18")]
    local_host: [c_char; 64],
    database_name: *mut c_char,
    user_name: *mut c_char,
}

unsafe extern "C" {
    // src/include/miscadmin.h; null in background processes.
    static MyProcPort: *mut Port;
}

/// Whether this process serves a client.
pub fn has_client() -> bool {
    // SAFETY: a plain pointer of this process.
    unsafe { !MyProcPort.is_null() }
}

/// The name that the client logged in with; empty for background processes.
pub fn login_name() -> String {
    // SAFETY: this backend's own connection; user_name is NUL-terminated for the connection's life.
    unsafe { MyProcPort.as_ref().and_then(|port| catalog::text(port.user_name)).unwrap_or_default() }
}

/// The role that logs in; InvalidOid where there is none of its name.
///
/// # Safety
/// `port` is the connection that the server hands to ClientAuthentication_hook.
pub unsafe fn login_role(port: *mut Port) -> pg_sys::Oid {
    // SAFETY: the caller's promise; with missing_ok an unknown role gives InvalidOid.
    unsafe { pg_sys::get_role_oid((*port).user_name, true) }
}
