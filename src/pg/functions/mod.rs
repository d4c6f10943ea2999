//! The SQL functions: argument, call, row.
//!
//! Declared in sql/functions.sql. They raise PostgreSQL's own SQLSTATEs, and only from here, after everything else
//! has returned.

mod agent;
mod approval;
pub mod audit;
mod check;
mod delegate;
mod keys;
mod limits;
mod lint;
mod mask;
mod mask_document;
pub mod masking;
mod policy;
mod reach;
mod replay;
mod role;
mod sessions;
mod simulate;
mod stand_in;
mod verify;
mod window;

use std::ffi::CStr;

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::datum::{DatumWithOid, FromDatum};
use pgrx::pg_sys;

use crate::pg::admin_error::{AdminError, AdminResult, given};
use crate::pg::text_datum::Texts;
use crate::pg::{epoch, record, standby};

/// Refuses in a guarded session: an agent administers nothing, whatever it has been granted.
fn administrator() -> AdminResult<()> {
    if epoch::guarded_session() {
        return Err(AdminError::forbidden("a guarded session cannot administer agent_guard")
            .detail("reason=denied")
            .hint("Connect as a role that is not guarded."));
    }
    Ok(())
}

/// What agents' sessions have read of policies is out of date when this transaction commits, wherever: here, on standbys, or by
/// COMMIT PREPARED.
fn changes_policies() {
    epoch::policy_changes_at_commit();
    standby::tell();
}

/// Puts into the trail what was just done. Its transaction tells whether it took effect.
fn done(action: &str, what: impl AsRef<str>) {
    record::record_admin(action, what.as_ref(), None);
}

/// A whole-number setting of this extension, by name.
fn setting(name: &CStr) -> Option<i32> {
    // SAFETY: looks a setting up by a NUL-terminated name; NULL when there is none of it.
    let value = unsafe { pg_sys::GetConfigOption(name.as_ptr(), true, false) };
    if value.is_null() {
        return None;
    }
    // SAFETY: not NULL, hence a NUL-terminated text that is valid until the next call.
    unsafe { CStr::from_ptr(value) }.to_str().ok()?.parse().ok()
}

/// A list of texts without NULLs.
fn texts(list: Option<Texts>, name: &str) -> AdminResult<Vec<String>> {
    optional_texts(list, name).and_then(|list| given(list, name))
}

/// A list of texts without NULLs, or none.
fn optional_texts(list: Option<Texts>, name: &str) -> AdminResult<Option<Vec<String>>> {
    let Some(list) = list else {
        return Ok(None);
    };
    let each = |(i, text): (usize, Option<String>)| {
        text.ok_or_else(|| {
            AdminError::invalid(format!("{name}[{i}]: NULL in the list"))
                .hint("Leave the element out; elements are counted from 0.")
        })
    };
    list.0.into_iter().enumerate().map(each).collect::<AdminResult<Vec<_>>>().map(Some)
}

/// An argument of a type that pgrx does not know: passed on to SPI or to an output function as it came.
#[derive(Clone, Copy)]
struct Untouched(pg_sys::Datum);

impl FromDatum for Untouched {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _: pg_sys::Oid,
    ) -> Option<Untouched> {
        if is_null { None } else { Some(Untouched(datum)) }
    }
}

// SAFETY: no assumption is made about the datum; NULL is the caller's Option.
unsafe impl<'fcx> ArgAbi<'fcx> for Untouched {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Untouched {
        // SAFETY: reads the datum without looking into it.
        let value = unsafe { arg.unbox_arg_using_from_datum::<Untouched>() };
        value.unwrap_or(Untouched(pg_sys::Datum::null()))
    }
}

impl Untouched {
    /// The argument as a parameter of the type that its function declares.
    fn parameter<'src>(argument: Option<Untouched>, declared: pg_sys::Oid) -> DatumWithOid<'src> {
        match argument {
            // SAFETY: sql/functions.sql declares the parameter with this type, and arguments live as long as the call.
            Some(Untouched(datum)) => unsafe { DatumWithOid::new(datum, declared) },
            None => DatumWithOid::null_oid(declared),
        }
    }
}
