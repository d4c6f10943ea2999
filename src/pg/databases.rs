//! Commands that need a database without connections: the trail's writer leaves it first.

use std::os::raw::c_char;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::trail;

/// Whether a statement is DROP DATABASE, CREATE DATABASE or ALTER DATABASE ... RENAME.
///
/// # Safety
/// `statement` is a valid utility statement. Called in every session: a comparison of tags, no more.
pub unsafe fn needs_them_empty(statement: *mut pg_sys::Node) -> bool {
    // SAFETY: the tag decides the cast.
    unsafe {
        match (*statement).type_ {
            T::T_DropdbStmt | T::T_CreatedbStmt => true,
            T::T_RenameStmt => {
                (*statement.cast::<pg_sys::RenameStmt>()).renameType == pg_sys::ObjectType::OBJECT_DATABASE
            }
            _ => false,
        }
    }
}

/// Asks the writer to leave the database that the statement needs for itself. It comes back with the next event.
pub fn vacate(statement: *mut pg_sys::Node) {
    // SAFETY: as above; names are NUL-terminated or null.
    unsafe {
        match (*statement).type_ {
            T::T_DropdbStmt => leave((*statement.cast::<pg_sys::DropdbStmt>()).dbname),
            T::T_RenameStmt => leave((*statement.cast::<pg_sys::RenameStmt>()).subname),
            T::T_CreatedbStmt => {
                for node in super::gather::names::members((*statement.cast::<pg_sys::CreatedbStmt>()).options)
                {
                    let option = &*node.cast::<pg_sys::DefElem>();
                    if super::catalog::text(option.defname).as_deref() == Some("template")
                        && !option.arg.is_null()
                    {
                        leave(pg_sys::defGetString(node.cast()));
                    }
                }
            }
            _ => {}
        }
    }
}

unsafe fn leave(name: *const c_char) {
    if name.is_null() {
        return;
    }
    // SAFETY: a NUL-terminated name; an unknown one gives InvalidOid.
    let database = unsafe { pg_sys::get_database_oid(name, true) };
    if database != pg_sys::InvalidOid {
        trail::leave_database(database);
    }
}
