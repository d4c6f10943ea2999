//! A row of the trail as the bytes that the chain hashes and the journal keeps (src/audit/chain.rs), and back.
//!
//! The kinds of the columns come from the table itself, by their types: a column that is added is hashed too. What
//! a row means is not known here.

use pgrx::prelude::*;

use super::row::{inet_in, input, jsonb_in, varlena};
use crate::audit::chain::{Columns, Value};
use crate::audit::jsonb;

/// The most columns that a segment may have: their numbers are bytes.
const MOST: usize = 200;

/// How a column's values become bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The event's number, which is hashed by itself.
    Seq,
    /// The hash itself.
    Hash,
    /// int4.
    Small,
    /// int8, xid8.
    Integer,
    /// timestamptz.
    Time,
    /// interval.
    Interval,
    /// uuid.
    Uuid,
    /// text.
    Text,
    /// bytea.
    Bytes,
    /// inet.
    Address,
    /// text[].
    List,
    /// jsonb.
    Json,
}

impl Kind {
    /// The word in a journal's header.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Seq => "seq",
            Kind::Hash => "hash",
            Kind::Small | Kind::Integer => "integer",
            Kind::Time => "timestamp",
            Kind::Interval => "interval",
            Kind::Uuid => "uuid",
            Kind::Text => "text",
            Kind::Bytes => "bytes",
            Kind::Address => "inet",
            Kind::List => "list",
            Kind::Json => "json",
        }
    }
}

/// The columns of a segment: their names and kinds, in the order of their numbers.
pub type Layout = Vec<(String, Kind)>;

/// The layout of a table or of a query's rows; `None` where a column is of a type that the trail does not have.
///
/// # Safety
/// `descriptor` is valid.
pub unsafe fn layout(descriptor: pg_sys::TupleDesc) -> Option<Layout> {
    // SAFETY: the caller's promise; attribute numbers are within natts.
    unsafe {
        let count = usize::try_from((*descriptor).natts).ok().filter(|count| *count <= MOST)?;
        let mut layout = Layout::with_capacity(count);
        for n in 0..count {
            #[cfg(not(feature = "pg18"))]
            let attribute = (*descriptor).attrs.as_ptr().add(n);
            #[cfg(feature = "pg18")]
            let attribute = pg_sys::TupleDescAttr(descriptor, i32::try_from(n).ok()?);
            let name = std::ffi::CStr::from_ptr((*attribute).attname.data.as_ptr()).to_str().ok()?;
            let kind = match (*attribute).atttypid {
                pg_sys::INT8OID if name == "seq" => Kind::Seq,
                pg_sys::BYTEAOID if name == "hash" => Kind::Hash,
                pg_sys::INT4OID => Kind::Small,
                pg_sys::INT8OID | pg_sys::XID8OID => Kind::Integer,
                pg_sys::TIMESTAMPTZOID => Kind::Time,
                pg_sys::INTERVALOID => Kind::Interval,
                pg_sys::UUIDOID => Kind::Uuid,
                pg_sys::TEXTOID => Kind::Text,
                pg_sys::BYTEAOID => Kind::Bytes,
                pg_sys::INETOID => Kind::Address,
                pg_sys::TEXTARRAYOID => Kind::List,
                pg_sys::JSONBOID => Kind::Json,
                _ => return None,
            };
            layout.push((name.to_owned(), kind));
        }
        Some(layout)
    }
}

/// The layout as a journal's header tells it.
pub fn described(layout: &Layout) -> String {
    layout.iter().map(|(name, kind)| format!("{name} {}", kind.word())).collect::<Vec<_>>().join(",")
}

unsafe extern "C-unwind" {
    fn jsonb_out(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
    fn inet_out(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
}

/// Texts of values that rows of one chunk share, or that one row after the other repeats.
#[derive(Default)]
pub struct Remembered {
    json: Vec<(usize, Vec<u8>)>,
    /// The lists of the row before by the numbers of their columns, as they were put.
    lists: Vec<(u8, usize, Vec<u8>)>,
    address: (Vec<u8>, Vec<u8>),
}

/// How many different JSON values are remembered.
const JSONS: usize = 16;

impl Remembered {
    /// Forgets what may lie at another value's address by now.
    pub fn forget(&mut self) {
        self.json.clear();
        self.lists.clear();
    }

    /// Puts a list, as it was put for the row before if it is the same.
    ///
    /// # Safety
    /// `value` is a text[].
    unsafe fn list(&mut self, number: u8, value: pg_sys::Datum, columns: &mut Columns<'_>) {
        let at = value.value();
        let place = self.lists.iter().position(|(known, ..)| *known == number);
        if let Some((_, known, bytes)) = place.and_then(|place| self.lists.get(place))
            && *known == at
        {
            columns.0.extend_from_slice(bytes);
            return;
        }
        let before = columns.0.len();
        // SAFETY: the caller's promise.
        unsafe { list(number, value, columns) };
        let bytes = columns.0.get(before..).unwrap_or(&[]);
        match place.and_then(|place| self.lists.get_mut(place)) {
            Some((_, known, kept)) => {
                *known = at;
                kept.clear();
                kept.extend_from_slice(bytes);
            }
            None => self.lists.push((number, at, bytes.to_vec())),
        }
    }
}

/// Puts the columns of a row, without its number and hash, into `out`.
///
/// # Safety
/// `values` and `nulls` are a row of this layout.
pub unsafe fn put(
    layout: &Layout,
    values: &[pg_sys::Datum],
    nulls: &[bool],
    remembered: &mut Remembered,
    out: &mut Vec<u8>,
) {
    let mut columns = Columns(out);
    for ((number, (_, kind)), (value, null)) in (1_u8..).zip(layout).zip(values.iter().zip(nulls)) {
        if *null {
            continue;
        }
        // SAFETY: the caller's promise: each value is one of its column's type.
        unsafe {
            match kind {
                Kind::Seq | Kind::Hash => {}
                Kind::Small => columns.integer(number, i64::from(low(*value))),
                Kind::Integer | Kind::Time => columns.integer(number, whole(*value)),
                Kind::Interval => {
                    let interval = value.cast_mut_ptr::<pg_sys::Interval>().read();
                    columns.interval(number, interval.time, interval.day, interval.month);
                }
                Kind::Uuid => {
                    columns.bytes(number, std::slice::from_raw_parts(value.cast_mut_ptr::<u8>(), 16));
                }
                Kind::Text | Kind::Bytes => columns.bytes(number, plain(*value)),
                Kind::Address => {
                    let bytes = plain(*value);
                    if remembered.address.0 != bytes {
                        remembered.address = (bytes.to_vec(), output(inet_out, *value).to_vec());
                    }
                    columns.bytes(number, &remembered.address.1);
                }
                Kind::Json => {
                    let at = value.value();
                    if let Some((_, text)) = remembered.json.iter().find(|(known, _)| *known == at) {
                        columns.bytes(number, text);
                    } else {
                        let text = match jsonb::text(plain(*value)) {
                            Some(text) => text,
                            None => output(jsonb_out, *value).to_vec(),
                        };
                        columns.bytes(number, &text);
                        if remembered.json.len() < JSONS {
                            remembered.json.push((at, text));
                        }
                    }
                }
                Kind::List => remembered.list(number, *value, &mut columns),
            }
        }
    }
}

fn low(value: pg_sys::Datum) -> i32 {
    let [a, b, c, d, ..] = value.value().to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

fn whole(value: pg_sys::Datum) -> i64 {
    i64::from_le_bytes(value.value().to_le_bytes())
}

/// The bytes of a varlena, detoasted into the current memory context where it has to be.
///
/// # Safety
/// `value` is a varlena; the bytes are used before the context goes.
unsafe fn plain<'a>(value: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe {
        let value = pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr());
        let length = pgrx::varlena::varsize_any_exhdr(value);
        std::slice::from_raw_parts(pgrx::varlena::vardata_any(value).cast::<u8>(), length)
    }
}

/// A value's text in the current memory context.
///
/// # Safety
/// `function` is the output function of the value's type.
unsafe fn output<'a>(
    function: unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum,
    value: pg_sys::Datum,
) -> &'a [u8] {
    // SAFETY: the caller's promise; output functions give a NUL-terminated text.
    unsafe {
        let text = pg_sys::DirectFunctionCall1Coll(Some(function), pg_sys::InvalidOid, value);
        std::ffi::CStr::from_ptr(text.cast_mut_ptr()).to_bytes()
    }
}

/// # Safety
/// `value` is a text[].
unsafe fn list(number: u8, value: pg_sys::Datum, columns: &mut Columns<'_>) {
    // SAFETY: the caller's promise; deconstruct_array fills arrays of `count` entries.
    unsafe {
        let array = pg_sys::pg_detoast_datum(value.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let lower = array.cast::<u8>().add(size_of::<pg_sys::ArrayType>()).cast::<i32>();
        let (mut items, mut missing, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        let dimensions = (*array).ndim;
        // Behind the one dimension's length stands its lower bound.
        if dimensions > 1 || (dimensions == 1 && lower.add(1).read() != 1) {
            return columns.strange(number);
        }
        pg_sys::deconstruct_array(
            array,
            pg_sys::TEXTOID,
            -1,
            false,
            std::os::raw::c_char::from_ne_bytes([b'i']),
            &mut items,
            &mut missing,
            &mut count,
        );
        let Ok(count) = u16::try_from(count) else { return columns.strange(number) };
        columns.list(number, count);
        for n in 0..usize::from(count) {
            let item = (!*missing.add(n)).then(|| plain(*items.add(n)));
            columns.item(item);
        }
    }
}

/// Fills a row with what `chain::values` has read; false where a value is not of its column's kind.
///
/// # Safety
/// Inside a transaction; the row has the layout's length.
pub unsafe fn fill(
    layout: &Layout,
    read: &[(u8, Value<'_>)],
    values: &mut [pg_sys::Datum],
    nulls: &mut [bool],
) -> bool {
    nulls.fill(true);
    for (number, value) in read {
        let n = usize::from(*number).wrapping_sub(1);
        let Some((((_, kind), cell), null)) = layout.get(n).zip(values.get_mut(n)).zip(nulls.get_mut(n))
        else {
            return false;
        };
        let datum = match (kind, value) {
            (Kind::Small, Value::Integer(value)) => {
                let Ok(value) = i32::try_from(*value) else { return false };
                pg_sys::Datum::from(value)
            }
            (Kind::Integer | Kind::Time, Value::Integer(value)) => pg_sys::Datum::from(*value),
            (Kind::Interval, Value::Interval(time, day, month)) => {
                // SAFETY: palloc gives memory for one Interval, suitably aligned, or raises.
                unsafe {
                    let memory = pg_sys::palloc(size_of::<pg_sys::Interval>()).cast::<pg_sys::Interval>();
                    memory.write(pg_sys::Interval { time: *time, day: *day, month: *month });
                    pg_sys::Datum::from(memory)
                }
            }
            (Kind::Uuid, Value::Bytes(bytes)) if bytes.len() == 16 => {
                // SAFETY: palloc gives 16 bytes, or raises.
                unsafe {
                    let memory = pg_sys::palloc(16).cast::<u8>();
                    std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory, 16);
                    pg_sys::Datum::from(memory)
                }
            }
            (Kind::Text, Value::Bytes(bytes)) if !bytes.contains(&0) => varlena(bytes),
            (Kind::Bytes, Value::Bytes(bytes)) => varlena(bytes),
            (Kind::Address, Value::Bytes(bytes)) => input(inet_in, bytes),
            (Kind::Json, Value::Bytes(bytes)) => input(jsonb_in, bytes),
            (Kind::List, Value::List(items)) => {
                super::row::array_of(items.iter().map(|item| item.map(std::borrow::Cow::Borrowed)))
            }
            _ => return false,
        };
        *cell = datum;
        *null = false;
    }
    true
}
