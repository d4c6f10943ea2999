//! Turns a `Refusal` into an ereport with its SQLSTATE, DETAIL, HINT and object fields. The only place that raises.

use std::os::raw::{c_char, c_int};

use pgrx::pg_sys;

use super::encoding;
use crate::refusal::Refusal;

unsafe extern "C-unwind" {
    fn errstart(elevel: c_int, domain: *const c_char) -> bool;
    fn errfinish(filename: *const c_char, lineno: c_int, funcname: *const c_char);
    fn errcode(sqlerrcode: c_int) -> c_int;
    fn errmsg_internal(fmt: *const c_char, ...) -> c_int;
    fn errdetail_internal(fmt: *const c_char, ...) -> c_int;
    fn errhint(fmt: *const c_char, ...) -> c_int;
    fn err_generic_string(field: c_int, str: *const c_char) -> c_int;
}

/// A refusal copied into the error context's memory: plain data that an outer hook frame can hold across an ERROR.
#[derive(Clone, Copy)]
pub struct Raised {
    sqlerrcode: c_int,
    message: *const c_char,
    detail: *const c_char,
    hint: *const c_char,
    schema: *const c_char,
    table: *const c_char,
    column: *const c_char,
}

impl Raised {
    /// Puts the refusal in the place of another error that is being reported.
    pub fn replace(self, data: &mut pg_sys::ErrorData) {
        data.sqlerrcode = self.sqlerrcode;
        data.message = self.message.cast_mut();
        data.detail = self.detail.cast_mut();
        data.detail_log = std::ptr::null_mut();
        data.hint = self.hint.cast_mut();
    }
}

/// Copies `text` into PostgreSQL's current memory context.
fn palloc_text(text: &str) -> *const c_char {
    let owned = encoding::c_string(text);
    // SAFETY: pstrdup copies a NUL-terminated string; it lives as long as the current memory context.
    unsafe { pg_sys::pstrdup(owned.as_ptr()) }
}

/// The integer form of a five-character SQLSTATE (MAKE_SQLSTATE in src/include/utils/elog.h).
pub fn sqlstate_number(code: &str) -> c_int {
    code.bytes()
        .take(5)
        .enumerate()
        .fold(0, |number, (i, byte)| number | (c_int::from(byte.wrapping_sub(b'0') & 0x3f) << (6 * i)))
}

/// The five characters of PostgreSQL's integer form of a SQLSTATE (unpack_sql_state in src/backend/utils/error/elog.c).
pub fn sqlstate_text(number: c_int) -> [u8; 5] {
    let mut text = *b"00000";
    for (i, byte) in text.iter_mut().enumerate() {
        let six = (number >> (6 * i)) & 0x3f;
        *byte = u8::try_from(six).unwrap_or(0).wrapping_add(b'0');
    }
    text
}

/// Prepares a refusal for `raise`: every text moves into PostgreSQL's memory, so that no Rust value is alive when
/// the error leaves.
#[cold]
pub fn prepare(refusal: &Refusal) -> Raised {
    let optional = |text: &str| {
        if text.is_empty() { std::ptr::null() } else { palloc_text(text) }
    };
    Raised {
        sqlerrcode: sqlstate_number(refusal.sqlstate.code()),
        message: palloc_text(&refusal.message),
        detail: palloc_text(&refusal.full_detail()),
        hint: optional(&refusal.hint),
        schema: optional(&refusal.place.schema),
        table: optional(&refusal.place.table),
        column: optional(&refusal.place.column),
    }
}

/// Raises what `prepare` made, with `elevel` ERROR or FATAL (or WARNING, when it returns).
///
/// # Safety
/// Called from a plain outer hook frame: no Rust value with a destructor may be alive in any frame up to the
/// server's own, because the error leaves by longjmp.
#[cold]
pub unsafe fn raise(elevel: u32, raised: Raised) {
    let level = c_int::try_from(elevel).unwrap_or(20);
    // SAFETY: errstart .. errfinish is the sequence of the ereport macro; every pointer is NUL-terminated palloc'd text.
    unsafe {
        if !errstart(level, std::ptr::null()) {
            return;
        }
        errcode(raised.sqlerrcode);
        errmsg_internal(c"%s".as_ptr(), raised.message);
        errdetail_internal(c"%s".as_ptr(), raised.detail);
        if !raised.hint.is_null() {
            errhint(c"%s".as_ptr(), raised.hint);
        }
        for (field, text) in [
            (pg_sys::PG_DIAG_SCHEMA_NAME, raised.schema),
            (pg_sys::PG_DIAG_TABLE_NAME, raised.table),
            (pg_sys::PG_DIAG_COLUMN_NAME, raised.column),
        ] {
            if !text.is_null() {
                err_generic_string(c_int::from(field), text);
            }
        }
        errfinish(c"agent_guard".as_ptr(), 0, c"raise".as_ptr());
    }
}
