//! Texts between the server's encodings and the core's UTF-8, without an error and without a loss.
//!
//! A text of the server's becomes UTF-8 by the server's own conversion where that is whole and leads back to the same bytes.
//! Otherwise each of its bytes beyond ASCII stands for itself (`lossless`). So two names are equal here exactly where their
//! bytes are, in every encoding, SQL_ASCII among them. On the way back bytes are bytes again; a character that the server
//! cannot hold becomes `\u{...}`, and so does NUL, which no text can hold.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::fmt::Write;
use std::os::raw::c_int;

use pgrx::prelude::*;

use super::process::PerProcess;
use crate::lossless;

const UTF8: c_int = 6;
const SQL_ASCII: c_int = 0;

unsafe extern "C-unwind" {
    // Not in the bindings (src/include/catalog/pg_conversion.h).
    fn FindDefaultConversion(namespace: pg_sys::Oid, from: i32, to: i32) -> pg_sys::Oid;
}

/// The encoding of this database, by its number.
fn of_database() -> c_int {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::GetDatabaseEncoding() }
}

/// Whether the server's texts are UTF-8.
pub fn is_utf8() -> bool {
    of_database() == UTF8
}

/// A text of the server's as UTF-8.
pub fn from_server(text: &CStr) -> String {
    text_of(text.to_bytes())
}

/// As `from_server`, for bytes.
pub fn text_of(bytes: &[u8]) -> String {
    to_utf8(bytes, of_database())
}

/// A name of the catalogue as UTF-8.
pub fn name(name: &pg_sys::NameData) -> String {
    // SAFETY: a NameData is NUL-terminated.
    from_server(unsafe { CStr::from_ptr(name.data.as_ptr()) })
}

/// A text in any of the server's encodings as UTF-8.
pub fn to_utf8(bytes: &[u8], encoding: c_int) -> String {
    if encoding == UTF8 || encoding == SQL_ASCII || bytes.is_ascii() {
        return lossless::text(bytes).into_owned();
    }
    let whole = convert(encoding, UTF8, bytes).and_then(|converted| String::from_utf8(converted).ok());
    let returns = |text: &String| {
        !lossless::has_bytes(text)
            && convert(UTF8, encoding, text.as_bytes()).is_some_and(|back| back == bytes)
    };
    whole.filter(returns).unwrap_or_else(|| lossless::ascii(bytes))
}

/// A text as the server's bytes.
pub fn to_server(text: &str) -> Cow<'_, [u8]> {
    ServerText::of_database().encoded(text)
}

/// A text as a C string of the server's.
pub fn c_string(text: &str) -> CString {
    // NUL is escaped already.
    CString::new(to_server(text).into_owned()).unwrap_or_default()
}

/// A text as a datum of the type text.
pub fn datum(text: &str) -> pg_sys::Datum {
    super::row::varlena(&to_server(text))
}

/// How texts become the server's.
#[derive(Clone, Copy)]
pub struct ServerText(c_int);

impl ServerText {
    /// What this database needs.
    pub fn of_database() -> ServerText {
        ServerText(of_database())
    }

    /// The bytes of any text.
    pub fn encoded<'a>(&self, text: &'a str) -> Cow<'a, [u8]> {
        let as_is = self.0 == UTF8 || self.0 == SQL_ASCII;
        let plain = !text.as_bytes().contains(&0);
        if plain && (text.is_ascii() || (as_is && !lossless::has_bytes(text))) {
            return Cow::Borrowed(text.as_bytes());
        }
        if plain
            && !as_is
            && !lossless::has_bytes(text)
            && let Some(whole) = convert(UTF8, self.0, text.as_bytes())
        {
            return Cow::Owned(whole);
        }
        let bytes = self.piecewise(text, |byte, out| out.push(byte));
        // Bytes of a text that was cut may be no text.
        if self.holds(&bytes) {
            return Cow::Owned(bytes);
        }
        Cow::Owned(
            self.piecewise(text, |byte, out| out.extend_from_slice(format!("\\x{byte:02x}").as_bytes())),
        )
    }

    /// The bytes of a text character by character; `byte` puts what stands for one.
    fn piecewise(&self, text: &str, byte: impl Fn(u8, &mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len().saturating_add(16));
        for c in text.chars() {
            let mut buffer = [0; 4];
            let utf8 = c.encode_utf8(&mut buffer).as_bytes();
            match lossless::byte_of(c) {
                Some(one) => byte(one, &mut out),
                None if c == '\0' => out.extend_from_slice(b"\\u{0}"),
                None if c.is_ascii() || self.0 == UTF8 || self.0 == SQL_ASCII => out.extend_from_slice(utf8),
                None => match convert(UTF8, self.0, utf8) {
                    Some(bytes) => out.extend_from_slice(&bytes),
                    None => {
                        let mut escape = String::new();
                        let _ = write!(escape, "\\u{{{:x}}}", u32::from(c));
                        out.extend_from_slice(escape.as_bytes());
                    }
                },
            }
        }
        out
    }

    /// Whether bytes are a text of the server's.
    fn holds(&self, bytes: &[u8]) -> bool {
        // SAFETY: reads as many bytes as it is told of; with noError it raises nothing.
        c_int::try_from(bytes.len()).is_ok_and(|length| unsafe {
            pg_sys::pg_verify_mbstr(self.0, bytes.as_ptr().cast(), length, true)
        })
    }
}

/// A conversion of the server's own: from, to, and how it is called; null where there is none.
type Conversion = (c_int, c_int, *mut pg_sys::FmgrInfo);

static CONVERSIONS: PerProcess<RefCell<Vec<Conversion>>> = PerProcess::new(RefCell::new(Vec::new()));

/// Finds the conversions of this database while the catalogue can be read.
pub fn prepare() {
    let encoding = of_database();
    if encoding != UTF8 && encoding != SQL_ASCII {
        conversion(encoding, UTF8);
        conversion(UTF8, encoding);
    }
}

/// Finds a conversion, at first in the catalogue; outside a transaction only one that has been found before.
fn conversion(from: c_int, to: c_int) -> Option<*mut pg_sys::FmgrInfo> {
    let known = |all: &Vec<Conversion>| all.iter().find(|one| (one.0, one.1) == (from, to)).map(|one| one.2);
    if let Some(found) = CONVERSIONS.try_borrow().ok().and_then(|all| known(&all)) {
        return Some(found).filter(|found| !found.is_null());
    }
    // SAFETY: in a transaction the catalogue may be read. What is kept lives as long as the process.
    let found = unsafe {
        // Where an error is being reported, locks may be held: no time to read the catalogue.
        if !pg_sys::IsTransactionState()
            || pg_sys::InterruptHoldoffCount != 0
            || pg_sys::CritSectionCount != 0
        {
            return None;
        }
        // Of pg_catalog alone: a conversion of anybody's is not asked.
        let procedure = FindDefaultConversion(pg_sys::Oid::from(pg_sys::PG_CATALOG_NAMESPACE), from, to);
        if procedure == pg_sys::InvalidOid {
            std::ptr::null_mut()
        } else {
            let info =
                pg_sys::MemoryContextAllocZero(pg_sys::TopMemoryContext, size_of::<pg_sys::FmgrInfo>());
            let info = info.cast::<pg_sys::FmgrInfo>();
            pg_sys::fmgr_info_cxt(procedure, info, pg_sys::TopMemoryContext);
            info
        }
    };
    if let Ok(mut all) = CONVERSIONS.try_borrow_mut() {
        all.push((from, to, found));
    }
    Some(found).filter(|found| !found.is_null())
}

/// A text in another encoding; `None` where not all of it can be, or there is no conversion.
fn convert(from: c_int, to: c_int, bytes: &[u8]) -> Option<Vec<u8>> {
    let procedure = conversion(from, to)?;
    // No server encoding takes more than four bytes a character; one more for the NUL.
    let mut into = vec![0_u8; bytes.len().saturating_mul(4).saturating_add(1)];
    let length = i32::try_from(bytes.len()).ok()?;
    // SAFETY: a conversion reads `length` bytes, writes at most four for each and a NUL; with noError it stops at what it
    // cannot convert, and tells how many bytes it has taken.
    let taken = unsafe {
        pg_sys::FunctionCall6Coll(
            procedure,
            pg_sys::InvalidOid,
            pg_sys::Datum::from(from),
            pg_sys::Datum::from(to),
            pg_sys::Datum::from(bytes.as_ptr()),
            pg_sys::Datum::from(into.as_mut_ptr()),
            pg_sys::Datum::from(length),
            pg_sys::Datum::from(true),
        )
    };
    if taken.value() != bytes.len() {
        return None;
    }
    into.truncate(into.iter().position(|byte| *byte == 0)?);
    Some(into)
}
