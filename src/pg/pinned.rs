//! Settings under which SQL expressions that are stored as text are written and read, whatever the session has set.
//!
//! Each changes what a text means: which function a name is, where a literal ends, what `x = NULL` is, which day a date. An
//! agent may set most of them. Whoever parses or writes a stored expression does so while `Settings` lives.

use std::ffi::CStr;

use pgrx::pg_sys;

const SETTINGS: [(&CStr, &CStr); 13] = [
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"standard_conforming_strings", c"on"),
    (c"backslash_quote", c"safe_encoding"),
    (c"quote_all_identifiers", c"off"),
    (c"transform_null_equals", c"off"),
    (c"array_nulls", c"on"),
    (c"DateStyle", c"ISO, YMD"),
    (c"IntervalStyle", c"postgres"),
    (c"TimeZone", c"UTC"),
    (c"bytea_output", c"hex"),
    (c"extra_float_digits", c"1"),
    (c"lc_monetary", c"C"),
    (c"xmloption", c"content"),
];

/// The settings, put back when this is dropped, also while an error unwinds.
pub struct Settings {
    level: i32,
}

impl Settings {
    /// Pins them.
    pub fn begin() -> Settings {
        // SAFETY: names and values are static and accepted by every session; they end with the level that begins here.
        unsafe {
            let settings = Settings { level: pg_sys::NewGUCNestLevel() };
            for (name, value) in SETTINGS {
                pg_sys::set_config_option(
                    name.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
            settings
        }
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        // SAFETY: the level of `begin`, or one that the end of a failed transaction has closed.
        unsafe { pg_sys::AtEOXact_GUC(true, self.level) };
    }
}
