//! What the plan of a held query tells its approvers: the plan itself, how many rows it expects to change, and the
//! conditions by which those can be counted.
//!
//! All of it is read off the plan that the agent's own session has made, with the agent's rights: nothing is planned or run
//! for an approver, because planning runs functions. `exact` counts, from conditions that are found plain here and there.

use std::ffi::{CStr, c_void};
use std::sync::LazyLock;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;
use regex::Regex;
use serde_json::{Value, json};

use super::super::gather::names;
use super::super::walk;
use super::super::{catalog, conditions};
use crate::audit::event::prefix;
use crate::audit::redact::redact;

/// How much of a plan is shown.
const SHOWN: usize = 8 * 1024;
/// How large the conditions may be, as the server writes them.
const CONDITIONS: usize = 8 * 1024;
/// The first OID of what is not part of the server's initial catalogue data (FirstGenbkiObjectId); every built-in function
/// and type of interest is below.
const BUILT_IN: u32 = 10_000;

/// The plan as EXPLAIN writes it. `None` where it holds a constant of a type that is not built in: writing it calls the
/// type's function.
///
/// # Safety
/// The executor has started the query.
pub unsafe fn explained(query: *mut pg_sys::QueryDesc) -> Option<String> {
    // SAFETY: the caller's promise; the state and its text live in the current memory context.
    unsafe {
        if !constants_built_in((*query).plannedstmt) {
            return None;
        }
        let state = pg_sys::NewExplainState();
        (*state).costs = true;
        pg_sys::ExplainBeginOutput(state);
        pg_sys::ExplainPrintPlan(state, query);
        pg_sys::ExplainEndOutput(state);
        let text = catalog::text((*(*state).str_).data)?;
        Some(redact(prefix(text.trim_end(), SHOWN)).into_owned())
    }
}

/// Whether every constant of a plan is of a built-in type that writes itself without help. Read off the plan's text, because
/// the server has no walker over the expressions of plans; a name that looks like it makes it false, never true.
unsafe fn constants_built_in(plan: *mut pg_sys::PlannedStmt) -> bool {
    static TYPE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r":consttype (\d+)").ok());
    // SAFETY: nodeToString writes a complete plan.
    let text = unsafe { CStr::from_ptr(pg_sys::nodeToString(plan.cast_const().cast())) }.to_string_lossy();
    let Some(pattern) = TYPE.as_ref() else { return false };
    pattern.captures_iter(&text).all(|found| {
        let number = found.get(1).and_then(|number| number.as_str().parse::<u32>().ok());
        number.is_some_and(|number| built_in(pg_sys::Oid::from(number)))
    })
}

/// What a query is about to change: the estimate, and per scanned relation the conditions where they are plain.
///
/// # Safety
/// The executor has started the query.
pub unsafe fn changes(query: *mut pg_sys::QueryDesc) -> Option<Value> {
    // SAFETY: the caller's promise; the plan is only read.
    unsafe {
        let plan = (*query).plannedstmt;
        let changing = matches!(
            (*plan).commandType,
            pg_sys::CmdType::CMD_INSERT | pg_sys::CmdType::CMD_UPDATE | pg_sys::CmdType::CMD_DELETE
        );
        if !changing {
            return None;
        }
        Some(json!({ "estimated": conditions::changed_rows(plan), "scans": scans(plan) }))
    }
}

/// The scans below an UPDATE or DELETE as (relation, conditions); `None` where their rows are not simply those that are
/// changed, or a condition is not plain.
unsafe fn scans(plan: *mut pg_sys::PlannedStmt) -> Option<Vec<(u32, String)>> {
    // SAFETY: the caller's promise; the tags decide the casts.
    unsafe {
        let root = (*plan).planTree;
        let commands = [pg_sys::CmdType::CMD_UPDATE, pg_sys::CmdType::CMD_DELETE];
        if root.is_null()
            || (*root).type_ != T::T_ModifyTable
            || (*root).lefttree.is_null()
            || !(*plan).subplans.is_null()
            || !commands.contains(&(*plan).commandType)
        {
            return None;
        }
        let below = (*root).lefttree;
        let list = match (*below).type_ {
            // WHERE false: there is nothing to scan.
            tag if (*below).lefttree.is_null() && conditions::one_time_false(tag, below) => Vec::new(),
            T::T_Append => names::members((*below.cast::<pg_sys::Append>()).appendplans),
            _ => vec![below.cast()],
        };
        let found: Option<Vec<_>> = list.into_iter().map(|scan| of_scan(plan, scan.cast())).collect();
        found.filter(|scans| scans.iter().map(|(_, text)| text.len()).sum::<usize>() <= CONDITIONS)
    }
}

unsafe fn of_scan(plan: *mut pg_sys::PlannedStmt, scan: *mut pg_sys::Plan) -> Option<(u32, String)> {
    // SAFETY: the tag decides the cast; all of these begin with a Scan.
    unsafe {
        // A target's plan keeps also the conditions that a partial index implies, for rows that change meanwhile
        // (check_index_predicates in indxpath.c).
        let conditions = match (*scan).type_ {
            T::T_SeqScan => std::ptr::null_mut(),
            T::T_IndexScan => (*scan.cast::<pg_sys::IndexScan>()).indexqualorig,
            T::T_BitmapHeapScan => (*scan.cast::<pg_sys::BitmapHeapScan>()).bitmapqualorig,
            _ => return None,
        };
        let all = pg_sys::list_concat_copy(conditions, (*scan).qual);
        if !plain(all) {
            return None;
        }
        let number = usize::try_from((*scan.cast::<pg_sys::Scan>()).scanrelid).ok()?.checked_sub(1)?;
        let entry = *names::members((*plan).rtable).get(number)?;
        let text = catalog::text(pg_sys::nodeToString(all.cast_const().cast()))?;
        Some(((*entry.cast::<pg_sys::RangeTblEntry>()).relid.to_u32(), text))
    }
}

/// Whether conditions can be evaluated by whomever, at any time, without running anything but quick, immutable functions of
/// the server itself on values of its own types: a closed list of nodes, of which the relation's columns are the only input.
///
/// # Safety
/// A list of expressions.
pub unsafe fn plain(conditions: *mut pg_sys::List) -> bool {
    // SAFETY: the caller's promise; the walker visits valid nodes.
    unsafe { !not_plain(conditions.cast(), std::ptr::null_mut()) }
}

unsafe extern "C-unwind" fn not_plain(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: expression_tree_walker hands valid nodes or null; the tag decides the casts.
    unsafe {
        if node.is_null() {
            return false;
        }
        let fine = match (*node).type_ {
            T::T_List => return walk::expression(node, not_plain, context),
            T::T_Var => {
                let var = &*node.cast::<pg_sys::Var>();
                var.varattno > 0 && var.varlevelsup == 0 && var.varno > 0
            }
            T::T_FuncExpr => !(*node.cast::<pg_sys::FuncExpr>()).funcretset,
            T::T_OpExpr | T::T_DistinctExpr | T::T_NullIfExpr => !(*node.cast::<pg_sys::OpExpr>()).opretset,
            T::T_Const
            | T::T_ScalarArrayOpExpr
            | T::T_BoolExpr
            | T::T_NullTest
            | T::T_BooleanTest
            | T::T_RelabelType
            | T::T_CoalesceExpr => true,
            _ => false,
        };
        !fine
            || !TYPES.contains(&pg_sys::exprType(node))
            || pg_sys::check_functions_in_node(node, Some(not_quick), std::ptr::null_mut())
            || walk::expression(node, not_plain, context)
    }
}

/// The types of which conditions may be. What is missing (json, text search, bit strings, ranges, records) has
/// functions that are not quick, or calls those of other types.
const TYPES: [pg_sys::Oid; 36] = [
    pg_sys::BOOLOID,
    pg_sys::INT2OID,
    pg_sys::INT4OID,
    pg_sys::INT8OID,
    pg_sys::FLOAT4OID,
    pg_sys::FLOAT8OID,
    pg_sys::NUMERICOID,
    pg_sys::MONEYOID,
    pg_sys::OIDOID,
    pg_sys::CHAROID,
    pg_sys::NAMEOID,
    pg_sys::TEXTOID,
    pg_sys::VARCHAROID,
    pg_sys::BPCHAROID,
    pg_sys::BYTEAOID,
    pg_sys::UUIDOID,
    pg_sys::DATEOID,
    pg_sys::TIMEOID,
    pg_sys::TIMETZOID,
    pg_sys::TIMESTAMPOID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::INTERVALOID,
    pg_sys::INETOID,
    pg_sys::CIDROID,
    pg_sys::BOOLARRAYOID,
    pg_sys::INT2ARRAYOID,
    pg_sys::INT4ARRAYOID,
    pg_sys::INT8ARRAYOID,
    pg_sys::FLOAT8ARRAYOID,
    pg_sys::NUMERICARRAYOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::VARCHARARRAYOID,
    pg_sys::UUIDARRAYOID,
    pg_sys::DATEARRAYOID,
    pg_sys::TIMESTAMPARRAYOID,
    pg_sys::TIMESTAMPTZARRAYOID,
];

/// A built-in base type, or an array of one: its output function is the server's own. That of a record calls others.
fn built_in(of: pg_sys::Oid) -> bool {
    const BASE: u8 = b'b';
    // SAFETY: reads the type cache; 0 for a type that is gone.
    of.to_u32() < BUILT_IN && unsafe { pg_sys::get_typtype(of) }.cast_unsigned() == BASE
}

/// Built-in and immutable, and yet not quick: what their cost depends on is a number or a pattern, not the row.
const SLOW: [u32; 38] = [
    pg_sys::F_REPEAT,
    pg_sys::F_LPAD_TEXT_INT4_TEXT,
    pg_sys::F_RPAD_TEXT_INT4_TEXT,
    pg_sys::F_NUMERIC_POWER,
    pg_sys::F_POWER_NUMERIC_NUMERIC,
    pg_sys::F_POW_NUMERIC_NUMERIC,
    pg_sys::F_NUMERIC_EXP,
    pg_sys::F_EXP_NUMERIC,
    pg_sys::F_FACTORIAL,
    pg_sys::F_LN_NUMERIC,
    pg_sys::F_LOG_NUMERIC,
    pg_sys::F_LOG_NUMERIC_NUMERIC,
    pg_sys::F_NUMERIC_LN,
    pg_sys::F_NUMERIC_LOG,
    pg_sys::F_SQRT_NUMERIC,
    pg_sys::F_NUMERIC_SQRT,
    pg_sys::F_FORMAT_TEXT_ANY,
    pg_sys::F_TEXTREGEXEQ,
    pg_sys::F_TEXTREGEXNE,
    pg_sys::F_TEXTICREGEXEQ,
    pg_sys::F_TEXTICREGEXNE,
    pg_sys::F_NAMEREGEXEQ,
    pg_sys::F_NAMEREGEXNE,
    pg_sys::F_NAMEICREGEXEQ,
    pg_sys::F_NAMEICREGEXNE,
    pg_sys::F_BPCHARREGEXEQ,
    pg_sys::F_BPCHARREGEXNE,
    pg_sys::F_BPCHARICREGEXEQ,
    pg_sys::F_BPCHARICREGEXNE,
    pg_sys::F_REGEXP_MATCH_TEXT_TEXT,
    pg_sys::F_REGEXP_MATCH_TEXT_TEXT_TEXT,
    pg_sys::F_REGEXP_REPLACE_TEXT_TEXT_TEXT,
    pg_sys::F_REGEXP_REPLACE_TEXT_TEXT_TEXT_TEXT,
    pg_sys::F_REGEXP_SPLIT_TO_ARRAY_TEXT_TEXT,
    pg_sys::F_REGEXP_SPLIT_TO_ARRAY_TEXT_TEXT_TEXT,
    pg_sys::F_SUBSTRING_TEXT_TEXT,
    pg_sys::F_SUBSTRING_TEXT_TEXT_TEXT,
    pg_sys::F_ARRAY_FILL_ANYELEMENT__INT4,
];

unsafe extern "C-unwind" fn not_quick(function: pg_sys::Oid, _context: *mut c_void) -> bool {
    const INTERNAL_LANGUAGE: u32 = 12;
    let number = function.to_u32();
    // SAFETY: reads the function's row through the cache.
    number >= BUILT_IN
        || SLOW.contains(&number)
        || unsafe { pg_sys::func_volatile(function) }.cast_unsigned() != pg_sys::PROVOLATILE_IMMUTABLE
        || language(function) != Some(INTERNAL_LANGUAGE)
}

/// The language that a function is written in.
fn language(function: pg_sys::Oid) -> Option<u32> {
    // SAFETY: the tuple belongs to the cache until it is released; its data begin with the fixed columns.
    unsafe {
        let cache = i32::try_from(pg_sys::SysCacheIdentifier::PROCOID).ok()?;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(function));
        if tuple.is_null() {
            return None;
        }
        let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
        let language = (*form).prolang.to_u32();
        pg_sys::ReleaseSysCache(tuple);
        Some(language)
    }
}
