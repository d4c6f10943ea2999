//! Rows that leave and rows that change: bind parameters for the record, the cap of max_rows, portals of another scope.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::encoding;
use super::raise::{self, Raised};
use super::statement::{self, Key};
use crate::audit::record::{Again, Number};
use crate::decision::RuleId;
use crate::refusal::{Refusal, SqlState};

/// The refusal of a statement that returns or changes more rows than a rule lets it.
pub fn limit_refusal(limit: i64, rule: RuleId) -> Refusal {
    Refusal {
        rule: Some(rule),
        ..Refusal::new(
            SqlState::ConfigurationLimitExceeded,
            "max_rows",
            format!("the statement reaches the limit of {limit} rows"),
            format!("rule={rule} limit={limit} Rows returned or changed by one statement."),
            "Ask for fewer rows with a narrower condition, or with LIMIT.",
        )
    }
}

/// The refusal of a limited change inside WITH, whose rows the server does not count.
pub fn uncounted_refusal(limit: i64, rule: RuleId) -> Refusal {
    Refusal {
        rule: Some(rule),
        ..Refusal::new(
            SqlState::InsufficientPrivilege,
            "max_rows",
            "rows cannot be changed inside WITH where a rule limits them",
            format!(
                "rule={rule} limit={limit} The rows that a part of the statement changes are not counted."
            ),
            "Run the change as a statement of its own.",
        )
    }
}

/// The refusal of a cursor or portal that was opened under another token.
pub fn another_scope() -> Refusal {
    Refusal::new(
        SqlState::InsufficientPrivilege,
        "another_scope",
        "this cursor was opened under another token",
        "What a wider scope could read is not handed down.",
        "Close it and run the query again under the present token.",
    )
}

/// COPY of a table itself passes neither the plan nor a receiver, so nothing could hold a condition or a cap there.
///
/// # Errors
/// 42501 where the allow carries an obligation.
pub fn refuse_plain_copy() -> Result<(), Refusal> {
    let refused = statement::with_current(|open| {
        let rule = open.where_required.first().map(|required| required.1);
        let rule = rule.or(open.obligations.max_rows.map(|limit| limit.1)).filter(|_| open.is_utility())?;
        let refusal = copy_refusal(rule);
        open.refuse(&refusal, open.observed);
        (!open.observed).then_some(refusal)
    });
    match refused.flatten() {
        None => Ok(()),
        Some(refusal) => Err(refusal),
    }
}

fn copy_refusal(rule: RuleId) -> Refusal {
    Refusal {
        rule: Some(rule),
        ..Refusal::new(
            SqlState::InsufficientPrivilege,
            "copy_with_obligation",
            "the table cannot be copied as a whole",
            format!("rule={rule} The rule that allows it asks for a condition or limits the rows."),
            "Use COPY (SELECT ... WHERE ...) TO STDOUT, or SELECT and INSERT.",
        )
    }
}

/// A receiver that passes rows on until its cap is reached. The first field makes it a DestReceiver for the server.
#[repr(C)]
struct Capped {
    receiver: pg_sys::DestReceiver,
    inner: *mut pg_sys::DestReceiver,
    left: i64,
    refused: Raised,
    query: usize,
}

/// Puts a capped receiver before the query's own where a rule limits the rows that it returns. Returns the receiver to be
/// put back after the run; null where there is no cap.
pub fn cap(query: *mut pg_sys::QueryDesc) -> *mut pg_sys::DestReceiver {
    // SAFETY: called by ExecutorRun's hook with the server's QueryDesc.
    let (operation, inner) = unsafe { ((*query).operation, (*query).dest) };
    if operation != pg_sys::CmdType::CMD_SELECT || inner.is_null() {
        return std::ptr::null_mut();
    }
    let limit = statement::with_key(Key::Query(query.addr()), |open| {
        let limit = open.obligations.max_rows.filter(|_| !open.observed);
        limit.map(|(limit, rule)| (limit, rule, limit.saturating_sub(open.sent).max(0)))
    });
    let Some((limit, rule, left)) = limit.flatten() else { return std::ptr::null_mut() };
    // SAFETY: palloc'd in the query's own context, so it lives as long as the run; the inner receiver outlives it.
    unsafe {
        let context = (*(*query).estate).es_query_cxt;
        let old = pg_sys::MemoryContextSwitchTo(context);
        let capped = pg_sys::palloc0(size_of::<Capped>()).cast::<Capped>();
        let refused = raise::prepare(&limit_refusal(limit, rule));
        pg_sys::MemoryContextSwitchTo(old);
        capped.write(Capped {
            receiver: pg_sys::DestReceiver {
                receiveSlot: Some(receive),
                rStartup: Some(startup),
                rShutdown: Some(shutdown),
                rDestroy: Some(destroy),
                mydest: (*inner).mydest,
            },
            inner,
            left,
            refused,
            query: query.addr(),
        });
        (*query).dest = capped.cast();
    }
    inner
}

unsafe extern "C-unwind" fn receive(
    slot: *mut pg_sys::TupleTableSlot,
    this: *mut pg_sys::DestReceiver,
) -> bool {
    // SAFETY: a plain frame without destructors; `this` is the Capped that cap() made.
    unsafe {
        let capped = this.cast::<Capped>();
        if (*capped).left <= 0 {
            note_limit((*capped).query);
            raise::raise(pg_sys::PGERROR, (*capped).refused);
        }
        (*capped).left -= 1;
        match (*(*capped).inner).receiveSlot {
            Some(next) => next(slot, (*capped).inner),
            None => false,
        }
    }
}

/// The record says what the rule refused, whatever the client shows.
fn note_limit(query: usize) {
    statement::with_key(Key::Query(query), |open| {
        if let Some((limit, rule)) = open.obligations.max_rows {
            open.refuse(&limit_refusal(limit, rule), false);
        }
    });
}

unsafe extern "C-unwind" fn startup(
    this: *mut pg_sys::DestReceiver,
    operation: std::os::raw::c_int,
    descriptor: pg_sys::TupleDesc,
) {
    // SAFETY: passes on to the receiver that this one stands before.
    unsafe {
        let inner = (*this.cast::<Capped>()).inner;
        if let Some(next) = (*inner).rStartup {
            next(inner, operation, descriptor);
        }
    }
}

unsafe extern "C-unwind" fn shutdown(this: *mut pg_sys::DestReceiver) {
    // SAFETY: as above.
    unsafe {
        let inner = (*this.cast::<Capped>()).inner;
        if let Some(next) = (*inner).rShutdown {
            next(inner);
        }
    }
}

unsafe extern "C-unwind" fn destroy(_this: *mut pg_sys::DestReceiver) {
    // The inner receiver is destroyed by whoever made it; this one goes with its memory context.
}

/// Stands for a value that is not printed.
pub const UNPRINTABLE: &str = "(value of a user-defined type)";

/// The bind parameters as text, through the output functions of their types. Values of types outside the server's own
/// catalogue are not printed: their output functions are anybody's code.
///
/// # Safety
/// `parameters` is null or the parameter list of a query that is about to run.
pub unsafe fn parameters(parameters: pg_sys::ParamListInfo) -> Option<Vec<Option<String>>> {
    // SAFETY: numParams entries follow the header; a fetch hook (PL/pgSQL) makes values only on demand, so such lists
    // are left alone: what a function hands to its own queries is not what the client sent.
    unsafe {
        let list = parameters.as_ref()?;
        if list.paramFetch.is_some() || list.numParams <= 0 {
            return None;
        }
        let count = usize::try_from(list.numParams).ok()?;
        let values = list.params.as_slice(count);
        Some(values.iter().map(|value| parameter(value)).collect())
    }
}

/// Bind parameters: their values as text, and their types.
#[derive(Default)]
pub struct Given {
    /// As `parameters` tells them.
    pub values: Vec<Option<String>>,
    /// As `parameter_types` tells them.
    pub types: Vec<u32>,
}

impl Given {
    /// What a statement was given, if anything.
    ///
    /// # Safety
    /// As `parameters`.
    pub unsafe fn to(parameters: pg_sys::ParamListInfo) -> Option<Given> {
        let mut types = Vec::new();
        // SAFETY: the caller's promise.
        let values = unsafe {
            parameter_types(parameters, &mut types);
            self::parameters(parameters)
        };
        values.map(|values| Given { values, types })
    }
}

/// The types of the parameters that `parameters` tells.
///
/// # Safety
/// As `parameters`.
unsafe fn parameter_types(parameters: pg_sys::ParamListInfo, into: &mut Vec<u32>) {
    into.clear();
    // SAFETY: as in `parameters`.
    unsafe {
        let Some(list) = parameters.as_ref().filter(|list| list.paramFetch.is_none()) else { return };
        let count = usize::try_from(list.numParams).unwrap_or(0);
        into.extend(list.params.as_slice(count).iter().map(|value| value.ptype.to_u32()));
    }
}

/// As `parameters`, without calling the server: for numbers and NULLs, if they are few, by far the commonest. Writes over what
/// is there. False where the output function of a type has to be asked.
///
/// # Safety
/// As `parameters`.
#[inline]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
pub unsafe fn numbers(parameters: pg_sys::ParamListInfo, into: &mut Vec<Number>) -> bool {
    into.clear();
    // SAFETY: as in `parameters`.
    let values = unsafe {
        let Some(list) = parameters.as_ref() else { return true };
        match usize::try_from(list.numParams) {
            Ok(count) if count > 0 && list.paramFetch.is_none() => list.params.as_slice(count),
            _ => return true,
        }
    };
    if values.len() > Again::NUMBERS_MAX {
        return false;
    }
    for given in values {
        // On 64-bit machines both are passed by value; an int4 is the low half.
        #[expect(clippy::cast_possible_truncation, reason = "the low half is the value")]
        let value = match given.ptype {
            _ if given.isnull => None,
            pg_sys::INT4OID => Some(i64::from(given.value.value() as i32)),
            pg_sys::INT8OID => Some(given.value.value().cast_signed() as i64),
            _ => {
                into.clear();
                return false;
            }
        };
        into.push(Number { type_oid: given.ptype.to_u32(), value });
    }
    true
}

unsafe fn parameter(value: &pg_sys::ParamExternData) -> Option<String> {
    if value.isnull {
        return None;
    }
    match value.ptype {
        // Cheaper than a function call. On 64-bit machines both are passed by value.
        pg_sys::INT4OID => {
            return unsafe { <i32 as pgrx::FromDatum>::from_datum(value.value, false) }
                .map(|n| n.to_string());
        }
        pg_sys::INT8OID => {
            return unsafe { <i64 as pgrx::FromDatum>::from_datum(value.value, false) }
                .map(|n| n.to_string());
        }
        oid if oid.to_u32() >= super::catalog::FIRST_NORMAL => {
            return Some(UNPRINTABLE.to_owned());
        }
        _ => {}
    }
    // SAFETY: a value of a built-in type through that type's own output function.
    unsafe {
        let mut function = pg_sys::InvalidOid;
        let mut varlena = false;
        pg_sys::getTypeOutputInfo(value.ptype, &raw mut function, &raw mut varlena);
        let text = pg_sys::OidOutputFunctionCall(function, value.value);
        let owned = encoding::from_server(CStr::from_ptr(text));
        pg_sys::pfree(text.cast());
        Some(owned)
    }
}
