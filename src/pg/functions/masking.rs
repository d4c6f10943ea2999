//! The masking functions as C functions of the server: datum in, datum out; what they make of a value is `mask`'s.
//!
//! All are STRICT. Texts reach the core as UTF-8 whatever the server's encoding is; a mask shows characters of the
//! value and ASCII, so the way back always exists.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::CStr;
use std::os::raw::c_int;

use super::super::walk;
use pgrx::datum::{FromDatum, IntoDatum};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::mask::calendar::{self, Unit};
use crate::mask::keyed::MaskKey;
use crate::mask::{json, text};
use crate::pg::admin_error::AdminError;
use crate::pg::process::PerProcess;
use crate::pg::{guc, keys, own};

/// The key of pseudonyms never changes, so one look at the file is enough for the life of the backend.
static KEY: PerProcess<RefCell<Option<MaskKey>>> = PerProcess::new(RefCell::new(None));

fn with_key<T>(apply: impl FnOnce(&MaskKey) -> T) -> T {
    let known = KEY.with_borrow(Clone::clone);
    let key = known.unwrap_or_else(|| {
        match keys::mask_key() {
            Ok(secret) => {
                let key = MaskKey::new(&secret);
                KEY.with_borrow_mut(|place| place.clone_from(&key));
                key
            }
            Err(error) => {
                ErrorReport::from(error).report(PgLogLevel::ERROR);
                None
            }
        }
        .unwrap_or_else(|| unreachable!("HMAC takes keys of any length, and an ERROR does not return"))
    });
    apply(&key)
}

/// Marks the calls of hashes in a mask's expression, for plans of agents: elsewhere a hash refuses to run in a guarded session.
/// Whoever can hash values of its own choice can tell which value a pseudonym is of, and the planner sees no call that stands
/// in a constraint, a generated column, an index or a domain.
///
/// The mark is the form COERCE_SQL_SYNTAX, which the parser gives to built-in functions only, which survives copying and the
/// way to parallel workers, and which EXPLAIN writes as a plain call.
///
/// # Safety
/// `node` is an expression of the caller's own, made of a mask that was checked.
pub unsafe fn permit(node: *mut pg_sys::Node) {
    let hashes = own::hashes();
    // SAFETY: the caller's promise; the context is a slice that outlives the walk.
    unsafe { permit_node(node, (&raw const hashes).cast_mut().cast()) };
}

unsafe extern "C-unwind" fn permit_node(node: *mut pg_sys::Node, context: *mut std::ffi::c_void) -> bool {
    // SAFETY: called with valid nodes or null; the tag decides the cast; the context is the list of `permit`.
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ == pg_sys::NodeTag::T_FuncExpr {
            let call = &mut *node.cast::<pg_sys::FuncExpr>();
            if (*context.cast::<Vec<pg_sys::Oid>>()).contains(&call.funcid) {
                call.funcformat = pg_sys::CoercionForm::COERCE_SQL_SYNTAX;
            }
        }
        walk::expression(node, permit_node, context)
    }
}

/// Refuses a hash in a guarded session unless a mask has brought it.
fn permitted(call: Call) {
    if !guc::guarded() {
        return;
    }
    // SAFETY: the call's own description; the expression is null for calls that no expression makes.
    let marked = unsafe {
        let function = (*call.0).flinfo;
        let node = if function.is_null() { std::ptr::null_mut() } else { (*function).fn_expr };
        !node.is_null()
            && (*node).type_ == pg_sys::NodeTag::T_FuncExpr
            && (*node.cast::<pg_sys::FuncExpr>()).funcformat == pg_sys::CoercionForm::COERCE_SQL_SYNTAX
    };
    if !marked {
        let refusal = AdminError::forbidden("agents may not hash values of their own choice")
            .detail("reason=denied Whoever can make pseudonyms can tell which value one is of.")
            .hint("Compare and join the masked columns themselves.");
        ErrorReport::from(refusal).report(PgLogLevel::ERROR);
    }
}

/// Declares a masking function: its symbols and what it makes of its call.
macro_rules! masking {
    ($($name:ident, $info:ident = $body:expr;)*) => {$(
        #[unsafe(no_mangle)]
        #[doc(hidden)]
        pub extern "C" fn $info() -> &'static pg_sys::Pg_finfo_record {
            const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }

        /// A masking function; see sql/masks.sql.
        ///
        /// # Safety
        /// Called by the function manager with the arguments that sql/masks.sql declares, none of them NULL.
        #[unsafe(no_mangle)]
        #[pg_guard]
        pub unsafe extern "C-unwind" fn $name(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            let body: fn(Call) -> pg_sys::Datum = $body;
            if stringify!($name).starts_with("mask_hash") {
                permitted(Call(call));
            }
            body(Call(call))
        }
    )*};
}

/// The arguments of a call whose types sql/masks.sql declares.
#[derive(Clone, Copy)]
struct Call(pg_sys::FunctionCallInfo);

impl Call {
    fn argument(self, index: usize) -> pg_sys::Datum {
        // SAFETY: the functions are STRICT and declared with as many arguments as they ask for.
        unsafe { pgrx::fcinfo::pg_getarg_datum_raw(self.0, index) }
    }

    fn value<T: FromDatum + Default>(self, index: usize) -> T {
        value(self.argument(index))
    }

    fn count(self, index: usize) -> usize {
        usize::try_from(self.value::<i32>(index)).unwrap_or(0)
    }
}

fn value<T: FromDatum + Default>(datum: pg_sys::Datum) -> T {
    // SAFETY: a datum that is not NULL, of the type that sql/masks.sql declares.
    unsafe { T::from_datum(datum, false) }.unwrap_or_default()
}

fn datum<T: IntoDatum>(value: T) -> pg_sys::Datum {
    value.into_datum().unwrap_or(pg_sys::Datum::from(0))
}

/// The bytes of a variable-length value. They live as long as the call.
fn bytes<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: a varlena; a detoasted copy lives in the memory of the call, like the original.
    unsafe {
        let varlena = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
        pgrx::varlena::varlena_to_byte_slice(varlena)
    }
}

const UTF8: c_int = 6;

/// A text as UTF-8.
fn utf8<'a>(datum: pg_sys::Datum) -> Cow<'a, [u8]> {
    let bytes: &'a [u8] = bytes(datum);
    // SAFETY: a plain variable of this process; the conversion reads `length` bytes and gives NUL-terminated ones, or
    // its argument back where there is nothing to convert.
    unsafe {
        if bytes.is_ascii() || pg_sys::GetDatabaseEncoding() == UTF8 {
            return Cow::Borrowed(bytes);
        }
        let length = c_int::try_from(bytes.len()).unwrap_or(0);
        let from = bytes.as_ptr().cast();
        let converted = pg_sys::pg_server_to_any(from, length, UTF8);
        if std::ptr::eq(converted, from) {
            Cow::Borrowed(bytes)
        } else {
            Cow::Owned(CStr::from_ptr(converted).to_bytes().to_vec())
        }
    }
}

/// A text in the server's encoding.
fn server_text(text: &str) -> pg_sys::Datum {
    let length = c_int::try_from(text.len()).unwrap_or(0);
    // SAFETY: as in `utf8`; the server copies `length` bytes.
    unsafe {
        let from = text.as_ptr().cast::<std::os::raw::c_char>();
        if text.is_ascii() || pg_sys::GetDatabaseEncoding() == UTF8 {
            return pg_sys::Datum::from(pg_sys::cstring_to_text_with_len(from, length));
        }
        let converted = pg_sys::pg_any_to_server(from, length, UTF8);
        let length = if std::ptr::eq(converted, from) {
            length
        } else {
            c_int::try_from(CStr::from_ptr(converted).to_bytes().len()).unwrap_or(0)
        };
        pg_sys::Datum::from(pg_sys::cstring_to_text_with_len(converted, length))
    }
}

fn masked_text(from: pg_sys::Datum, mask: impl FnOnce(&str) -> String) -> pg_sys::Datum {
    server_text(&mask(&String::from_utf8_lossy(&utf8(from))))
}

fn byte_string(bytes: &[u8]) -> pg_sys::Datum {
    let length = c_int::try_from(bytes.len()).unwrap_or(0);
    // SAFETY: a text and a bytea are the same varlena; the server copies `length` bytes.
    unsafe { pg_sys::Datum::from(pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), length)) }
}

/// The type of an array's elements, as the server stores them.
struct Element {
    oid: pg_sys::Oid,
    length: c_int,
    by_value: bool,
    align: u8,
}

const TEXT: Element = Element { oid: pg_sys::TEXTOID, length: -1, by_value: false, align: b'i' };
const INTEGER: Element = Element { oid: pg_sys::INT4OID, length: 4, by_value: true, align: b'i' };
const BIGINT: Element = Element { oid: pg_sys::INT8OID, length: 8, by_value: true, align: b'd' };
const UUID: Element = Element { oid: pg_sys::UUIDOID, length: 16, by_value: false, align: b'c' };

/// The elements of an array, and which are NULL.
type Elements<'a> = (&'a mut [pg_sys::Datum], &'a mut [bool]);

/// # Safety
/// `array` is a detoasted array of these elements.
unsafe fn elements<'a>(array: *mut pg_sys::ArrayType, element: &Element) -> Elements<'a> {
    let mut values = std::ptr::null_mut();
    let mut nulls = std::ptr::null_mut();
    let mut count = 0;
    let align = element.align.cast_signed();
    let length = element.length;
    // SAFETY: the caller's promise; both results are palloc'd and have `count` members.
    unsafe {
        pg_sys::deconstruct_array(
            array,
            element.oid,
            length,
            element.by_value,
            align,
            &raw mut values,
            &raw mut nulls,
            &raw mut count,
        );
        let count = usize::try_from(count).unwrap_or(0);
        (std::slice::from_raw_parts_mut(values, count), std::slice::from_raw_parts_mut(nulls, count))
    }
}

/// The array with each element masked that is not NULL; its shape stays.
fn elementwise(
    from: pg_sys::Datum,
    element: &Element,
    mask: impl Fn(pg_sys::Datum) -> pg_sys::Datum,
) -> pg_sys::Datum {
    // SAFETY: an array of these elements, as sql/masks.sql declares. Behind its head stand ndim dimensions and as many
    // lower bounds (array.h).
    unsafe {
        let array = pg_sys::pg_detoast_datum(from.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        if (*array).ndim <= 0 {
            return pg_sys::Datum::from(array);
        }
        let (values, nulls) = elements(array, element);
        values
            .iter_mut()
            .zip(nulls.iter())
            .filter(|(_, null)| !**null)
            .for_each(|(value, _)| *value = mask(*value));
        let dimensions = array.add(1).cast::<c_int>();
        let bounds = dimensions.add(usize::try_from((*array).ndim).unwrap_or(0));
        let made = pg_sys::construct_md_array(
            values.as_mut_ptr(),
            nulls.as_mut_ptr(),
            (*array).ndim,
            dimensions,
            bounds,
            element.oid,
            element.length,
            element.by_value,
            element.align.cast_signed(),
        );
        pg_sys::Datum::from(made)
    }
}

fn hash_text(value: pg_sys::Datum) -> pg_sys::Datum {
    server_text(&with_key(|key| key.text(&utf8(value))))
}

fn hash_integer(from: pg_sys::Datum) -> pg_sys::Datum {
    datum(with_key(|key| key.integer(value(from))))
}

fn hash_bigint(from: pg_sys::Datum) -> pg_sys::Datum {
    datum(with_key(|key| key.bigint(value(from))))
}

fn hash_uuid(from: pg_sys::Datum) -> pg_sys::Datum {
    // SAFETY: a uuid is a pointer to sixteen bytes.
    let value = unsafe { *from.cast_mut_ptr::<[u8; 16]>() };
    datum(pgrx::datum::Uuid::from_bytes(with_key(|key| key.uuid(&value))))
}

fn partial(call: Call, value: pg_sys::Datum) -> pg_sys::Datum {
    let pad = utf8(call.argument(2));
    masked_text(value, |value| {
        text::partial(value, call.count(1), &String::from_utf8_lossy(&pad), call.count(3))
    })
}

/// Towards zero; what no bucket can be found for is in that of zero.
fn bucket(value: f64, size: f64) -> f64 {
    let bucket = (value / size).trunc() * size;
    if bucket.is_finite() { bucket } else { 0.0 }
}

fn keys_of(call: Call) -> Vec<String> {
    // SAFETY: the second argument is a text[].
    let (values, nulls) = unsafe {
        let array = pg_sys::pg_detoast_datum(call.argument(1).cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        elements(array, &TEXT)
    };
    let given = values.iter().zip(nulls.iter()).filter(|(_, null)| !**null);
    given.map(|(key, _)| String::from_utf8_lossy(&utf8(*key)).into_owned()).collect()
}

fn mask_document(call: Call, document: &str) -> String {
    let keys = keys_of(call);
    json::mask(document, &keys.iter().map(String::as_str).collect::<Vec<_>>())
}

fn jsonb(call: Call) -> pg_sys::Datum {
    // SAFETY: jsonb_out gives NUL-terminated text in the server's encoding, jsonb_in takes it.
    unsafe {
        let text = pg_sys::OidOutputFunctionCall(pg_sys::Oid::from(pg_sys::F_JSONB_OUT), call.argument(0));
        let from = pg_sys::Datum::from(pg_sys::cstring_to_text(text));
        let masked = masked_text(from, |document| mask_document(call, document));
        let text = pg_sys::text_to_cstring(masked.cast_mut_ptr());
        pg_sys::OidInputFunctionCall(pg_sys::Oid::from(pg_sys::F_JSONB_IN), text, pg_sys::JSONBOID, -1)
    }
}

masking! {
    mask_hash_text, pg_finfo_mask_hash_text = |call| hash_text(call.argument(0));
    mask_hash_integer, pg_finfo_mask_hash_integer = |call| hash_integer(call.argument(0));
    mask_hash_bigint, pg_finfo_mask_hash_bigint = |call| hash_bigint(call.argument(0));
    mask_hash_uuid, pg_finfo_mask_hash_uuid = |call| hash_uuid(call.argument(0));
    mask_hash_bytea, pg_finfo_mask_hash_bytea =
        |call| byte_string(&with_key(|key| key.bytes(bytes(call.argument(0)))));
    mask_hash_texts, pg_finfo_mask_hash_texts = |call| elementwise(call.argument(0), &TEXT, hash_text);
    mask_hash_integers, pg_finfo_mask_hash_integers =
        |call| elementwise(call.argument(0), &INTEGER, hash_integer);
    mask_hash_bigints, pg_finfo_mask_hash_bigints = |call| elementwise(call.argument(0), &BIGINT, hash_bigint);
    mask_hash_uuids, pg_finfo_mask_hash_uuids = |call| elementwise(call.argument(0), &UUID, hash_uuid);
    mask_partial_text, pg_finfo_mask_partial_text = |call| partial(call, call.argument(0));
    mask_partial_texts, pg_finfo_mask_partial_texts =
        |call| elementwise(call.argument(0), &TEXT, |value| partial(call, value));
    mask_email_text, pg_finfo_mask_email_text = |call| masked_text(call.argument(0), text::email);
    mask_email_texts, pg_finfo_mask_email_texts =
        |call| elementwise(call.argument(0), &TEXT, |value| masked_text(value, text::email));
    mask_card_text, pg_finfo_mask_card_text = |call| masked_text(call.argument(0), text::card);
    mask_card_texts, pg_finfo_mask_card_texts =
        |call| elementwise(call.argument(0), &TEXT, |value| masked_text(value, text::card));
    mask_phone_text, pg_finfo_mask_phone_text = |call| masked_text(call.argument(0), text::phone);
    mask_phone_texts, pg_finfo_mask_phone_texts =
        |call| elementwise(call.argument(0), &TEXT, |value| masked_text(value, text::phone));
    mask_redact_texts, pg_finfo_mask_redact_texts =
        |call| elementwise(call.argument(0), &TEXT, |_| server_text(text::REDACTED));
    mask_year_date, pg_finfo_mask_year_date = |call| datum(calendar::date(call.value(0), Unit::Year));
    mask_month_date, pg_finfo_mask_month_date = |call| datum(calendar::date(call.value(0), Unit::Month));
    mask_year_timestamp, pg_finfo_mask_year_timestamp =
        |call| datum(calendar::timestamp(call.value(0), Unit::Year));
    mask_month_timestamp, pg_finfo_mask_month_timestamp =
        |call| datum(calendar::timestamp(call.value(0), Unit::Month));
    mask_year_timestamptz, pg_finfo_mask_year_timestamptz =
        |call| datum(calendar::timestamp(call.value(0), Unit::Year));
    mask_month_timestamptz, pg_finfo_mask_month_timestamptz =
        |call| datum(calendar::timestamp(call.value(0), Unit::Month));
    mask_bucket_double, pg_finfo_mask_bucket_double = |call| datum(bucket(call.value(0), call.value(1)));
    mask_json_text, pg_finfo_mask_json_text =
        |call| masked_text(call.argument(0), |document| mask_document(call, document));
    mask_json_binary, pg_finfo_mask_json_binary = jsonb;
}
