//! The core's UTF-8 texts in the server's encoding, whatever that is, without an error; and the way back.
//!
//! A character that the server cannot hold becomes `\u{...}`, and so does NUL, which no text can hold.

use std::borrow::Cow;
use std::ffi::CStr;
use std::fmt::Write;
use std::os::raw::c_int;

use pgrx::prelude::*;

use crate::lossless;

/// A text of the server's as UTF-8. What is no text in its encoding becomes U+FFFD; SQL_ASCII is read as UTF-8.
///
/// Raises where the server has no conversion to UTF-8.
pub fn from_server(text: &CStr) -> String {
    let bytes = text.to_bytes();
    // SAFETY: reads a variable of this process; the conversion reads `length` bytes, and gives its argument back or a
    // palloc'd, NUL-terminated text.
    let converted = unsafe {
        let encoding = pg_sys::GetDatabaseEncoding();
        match c_int::try_from(bytes.len()) {
            Ok(length) if encoding != UTF8 && encoding != SQL_ASCII => {
                CStr::from_ptr(pg_sys::pg_server_to_any(text.as_ptr(), length, UTF8))
            }
            _ => text,
        }
    };
    converted.to_string_lossy().into_owned()
}

/// A text in any of the server's encodings as UTF-8, without an error: bytes that are no character of it stand for themselves
/// (`lossless`). Inside a transaction.
pub fn to_utf8(bytes: &[u8], encoding: c_int) -> String {
    if encoding == UTF8 || encoding == SQL_ASCII || bytes.is_ascii() {
        return lossless::text(bytes).into_owned();
    }
    // SAFETY: reads the catalogue.
    let conversion = unsafe { pg_sys::FindDefaultConversionProc(encoding, UTF8) };
    if conversion == pg_sys::InvalidOid {
        return lossless::text(bytes).into_owned();
    }
    let mut out = String::with_capacity(bytes.len().saturating_mul(2));
    let mut rest = bytes;
    while !rest.is_empty() {
        let (converted, taken) = convert(conversion, encoding, UTF8, rest);
        out.push_str(&lossless::text(&converted));
        rest = rest.get(taken..).unwrap_or(&[]);
        // What stopped it is passed as it is, a byte at a time.
        if let Some((byte, behind)) = rest.split_first() {
            out.push_str(&lossless::text(&[byte | 0x80]));
            rest = behind;
        }
    }
    out
}

/// Converts as far as it goes; what came of it, and how many bytes were taken.
fn convert(conversion: pg_sys::Oid, from: c_int, to: c_int, bytes: &[u8]) -> (Vec<u8>, usize) {
    // No server encoding takes more than four bytes a character; one more for the NUL.
    let mut into = vec![0_u8; bytes.len().saturating_mul(4).saturating_add(1)];
    let (Ok(length), Ok(room)) = (c_int::try_from(bytes.len()), c_int::try_from(into.len())) else {
        return (Vec::new(), 0);
    };
    // SAFETY: both buffers have the lengths given; with noError the procedure stops at what it cannot convert and tells how
    // many bytes it has taken.
    let taken = unsafe {
        pg_sys::pg_do_encoding_conversion_buf(
            conversion,
            from,
            to,
            bytes.as_ptr().cast_mut(),
            length,
            into.as_mut_ptr(),
            room,
            true,
        )
    };
    let end = into.iter().position(|byte| *byte == 0).unwrap_or(0);
    into.truncate(end);
    (into, usize::try_from(taken).unwrap_or(0).min(bytes.len()))
}

/// How texts become the server's.
pub enum ServerText {
    /// UTF-8 and SQL_ASCII take the bytes as they are.
    AsIs,
    /// Through a conversion procedure, to this encoding.
    Through(pg_sys::Oid, c_int),
    /// There is no conversion: only ASCII passes.
    AsciiOnly,
}

const UTF8: c_int = 6;
const SQL_ASCII: c_int = 0;

impl ServerText {
    /// What this database needs. Inside a transaction.
    pub fn of_database() -> ServerText {
        // SAFETY: reads a variable of this process, then the catalogue.
        unsafe {
            let encoding = pg_sys::GetDatabaseEncoding();
            if encoding == UTF8 || encoding == SQL_ASCII {
                return ServerText::AsIs;
            }
            let conversion = pg_sys::FindDefaultConversionProc(UTF8, encoding);
            if conversion == pg_sys::InvalidOid {
                ServerText::AsciiOnly
            } else {
                ServerText::Through(conversion, encoding)
            }
        }
    }

    /// The text, still in UTF-8, with everything escaped that the server cannot hold.
    pub fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let plain = |c: char| c != '\0' && (c.is_ascii() || matches!(self, ServerText::AsIs));
        let unchanged = match self {
            ServerText::AsIs => !text.as_bytes().contains(&0),
            _ => text.chars().all(plain),
        };
        if unchanged {
            return Cow::Borrowed(text);
        }
        let mut clean = String::with_capacity(text.len().saturating_add(16));
        for c in text.chars() {
            if plain(c) || (c != '\0' && self.convert(c.encode_utf8(&mut [0; 4])).is_some()) {
                clean.push(c);
            } else {
                let _ = write!(clean, "\\u{{{:x}}}", u32::from(c));
            }
        }
        Cow::Owned(clean)
    }

    /// The bytes of any text, cleaned.
    pub fn encoded<'a>(&self, text: &'a str) -> Cow<'a, [u8]> {
        match self.clean(text) {
            Cow::Borrowed(clean) => self.bytes(clean),
            Cow::Owned(clean) => Cow::Owned(self.bytes(&clean).into_owned()),
        }
    }

    /// The bytes of a text that `clean` has passed.
    pub fn bytes<'a>(&self, clean: &'a str) -> Cow<'a, [u8]> {
        match self {
            ServerText::Through(..) if !clean.is_ascii() => {
                Cow::Owned(self.convert(clean).unwrap_or_else(|| {
                    clean.bytes().map(|byte| if byte.is_ascii() { byte } else { b'?' }).collect()
                }))
            }
            _ => Cow::Borrowed(clean.as_bytes()),
        }
    }

    fn convert(&self, text: &str) -> Option<Vec<u8>> {
        let ServerText::Through(conversion, encoding) = self else { return None };
        // No server encoding takes more than four bytes a character; one more for the NUL.
        let mut into = vec![0_u8; text.len().saturating_mul(4).saturating_add(1)];
        // SAFETY: both buffers have the lengths given; with noError the procedure stops at what it cannot convert
        // and tells how many bytes it has taken.
        let taken = unsafe {
            pg_sys::pg_do_encoding_conversion_buf(
                *conversion,
                UTF8,
                *encoding,
                text.as_ptr().cast_mut(),
                c_int::try_from(text.len()).ok()?,
                into.as_mut_ptr(),
                c_int::try_from(into.len()).ok()?,
                true,
            )
        };
        if usize::try_from(taken) != Ok(text.len()) {
            return None;
        }
        let end = into.iter().position(|byte| *byte == 0)?;
        into.truncate(end);
        Some(into)
    }
}
