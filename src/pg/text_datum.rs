//! Texts as arguments, results, columns and parameters: pgrx's own are for UTF-8, these for every encoding.

use std::ffi::CStr;
use std::ops::Deref;

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::{Array, Datum, DatumWithOid, FromDatum, IntoDatum, JsonB};
use pgrx::pg_sys;

use super::{encoding, row};

/// A text of the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub String);

/// A list of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts(pub Vec<Option<String>>);

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text(text)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text(text.to_owned())
    }
}

impl From<Vec<String>> for Texts {
    fn from(texts: Vec<String>) -> Texts {
        Texts(texts.into_iter().map(Some).collect())
    }
}

impl FromDatum for Text {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, of: pg_sys::Oid) -> Option<Text> {
        // SAFETY: the caller's promise: a varlena of text, or NULL.
        let bytes = unsafe { <&[u8]>::from_polymorphic_datum(datum, is_null, of) };
        bytes.map(|bytes| Text(encoding::text_of(bytes)))
    }
}

impl IntoDatum for Text {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(encoding::datum(&self.0))
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::TEXTOID
    }

    fn is_compatible_with(other: pg_sys::Oid) -> bool {
        String::is_compatible_with(other)
    }
}

impl FromDatum for Texts {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, of: pg_sys::Oid) -> Option<Texts> {
        // SAFETY: the caller's promise: an array of text, or NULL.
        let items = unsafe { Array::<'_, &[u8]>::from_polymorphic_datum(datum, is_null, of) };
        items.map(|items| Texts(items.iter().map(|item| item.map(encoding::text_of)).collect()))
    }
}

impl IntoDatum for Texts {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        let items = self.0.iter().map(|item| item.as_deref().map(encoding::to_server));
        Some(row::array_of(items))
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::TEXTARRAYOID
    }
}

// SAFETY: reads the argument as the varlena that its function declares; NULL is the caller's Option.
unsafe impl<'fcx> ArgAbi<'fcx> for Text {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Text {
        // SAFETY: as above.
        unsafe { arg.unbox_arg_using_from_datum::<Text>() }.unwrap_or_else(|| Text(String::new()))
    }
}

// SAFETY: as above.
unsafe impl<'fcx> ArgAbi<'fcx> for Texts {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Texts {
        // SAFETY: as above.
        unsafe { arg.unbox_arg_using_from_datum::<Texts>() }.unwrap_or_else(|| Texts(Vec::new()))
    }
}

// SAFETY: a text datum, as the function declares.
unsafe impl BoxRet for Text {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(encoding::datum(&self.0)) }
    }
}

// SAFETY: a text[] datum, as the function declares.
unsafe impl BoxRet for Texts {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        match self.into_datum() {
            // SAFETY: as above.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}

/// A document as jsonb.
pub struct Document(pub serde_json::Value);

impl FromDatum for Document {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _: pg_sys::Oid,
    ) -> Option<Document> {
        if is_null {
            return None;
        }
        // SAFETY: the caller's promise: a jsonb, which jsonb_out makes a text of.
        let text: Option<&CStr> = unsafe { pgrx::direct_function_call(pg_sys::jsonb_out, &[Some(datum)]) };
        serde_json::from_str(&encoding::from_server(text?)).ok().map(Document)
    }
}

impl IntoDatum for Document {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        let text = encoding::to_server(&self.0.to_string()).into_owned();
        Some(row::input(row::jsonb_in, &text))
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}

// SAFETY: a jsonb datum, as the function declares.
unsafe impl BoxRet for Document {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        match self.into_datum() {
            // SAFETY: as above.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}

/// What a column of a table is read as.
pub trait Column: Sized {
    /// What it comes as.
    type Raw: FromDatum + IntoDatum;

    /// What it is.
    fn of(raw: Self::Raw) -> Self;
}

macro_rules! columns {
    ($($kind:ty),+) => { $(
        impl Column for $kind {
            type Raw = $kind;

            fn of(raw: $kind) -> $kind {
                raw
            }
        }
    )+ };
}

columns!(
    bool,
    i8,
    i16,
    i32,
    i64,
    pg_sys::Oid,
    Vec<u8>,
    Vec<Option<i16>>,
    Vec<Option<pg_sys::Oid>>,
    pgrx::datum::Interval,
    pgrx::datum::TimestampWithTimeZone,
    pgrx::datum::Uuid
);

impl Column for JsonB {
    type Raw = Document;

    fn of(raw: Document) -> JsonB {
        JsonB(raw.0)
    }
}

impl Column for String {
    type Raw = Text;

    fn of(raw: Text) -> String {
        raw.0
    }
}

impl Column for Vec<Option<String>> {
    type Raw = Texts;

    fn of(raw: Texts) -> Vec<Option<String>> {
        raw.0
    }
}

impl Column for Vec<String> {
    type Raw = Texts;

    fn of(raw: Texts) -> Vec<String> {
        raw.0.into_iter().flatten().collect()
    }
}

/// Parameters whose texts are UTF-8, as the server's.
pub fn parameters<'a>(given: &[DatumWithOid<'a>]) -> Vec<DatumWithOid<'a>> {
    let utf8 = encoding::is_utf8();
    given
        .iter()
        .map(|one| {
            // SAFETY: the datum and the type that it came with.
            let same = || unsafe { DatumWithOid::new_from_datum(one.datum(), one.oid()) };
            match one.datum() {
                // SAFETY: a datum that pgrx has made of Rust's texts.
                Some(datum) if !utf8 => {
                    unsafe { parameter(datum.sans_lifetime(), one.oid()) }.unwrap_or_else(same)
                }
                _ => same(),
            }
        })
        .collect()
}

/// A parameter of texts in UTF-8; `None` where it has none.
///
/// # Safety
/// The datum is of this type.
unsafe fn parameter<'a>(datum: pg_sys::Datum, oid: pg_sys::Oid) -> Option<DatumWithOid<'a>> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // SAFETY: the caller's promise.
    unsafe {
        match oid {
            pg_sys::TEXTOID => {
                let bytes = <&[u8]>::from_datum(datum, false)?;
                Some(DatumWithOid::new(Text(text(bytes)), oid))
            }
            pg_sys::TEXTARRAYOID => {
                let items = Array::<'_, &[u8]>::from_datum(datum, false)?;
                let texts = Texts(items.iter().map(|item| item.map(text)).collect());
                Some(DatumWithOid::new(texts, oid))
            }
            _ => None,
        }
    }
}
