//! Conditions over a row: from the text that was stored to a tree, and from one relation's columns to another's.

use std::ffi::{CString, c_void};

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::gather::names;
use super::super::walk;
use super::super::{encoding, pinned};
use super::compile::Opened;

/// The tree of a stored condition, whose Vars refer to `relation` as entry 1; `None` where the text is no single condition.
/// Read under the settings that it was written under, whatever the agent has set.
///
/// # Safety
/// Called in a transaction; the relation is open.
pub unsafe fn parsed(text: &str, relation: &Opened) -> Option<*mut pg_sys::Node> {
    let text = encoding::c_string(text);
    let _settings = pinned::Settings::begin();
    // SAFETY: the server's own parser; an error of it leaves as an error, and the settings go back.
    unsafe { analysed(&text, relation) }
}

unsafe fn analysed(text: &CString, relation: &Opened) -> Option<*mut pg_sys::Node> {
    // SAFETY: raw_parser gives a list of RawStmt; the tags are checked before each cast.
    unsafe {
        let statements =
            names::members(pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_PLPGSQL_EXPR));
        let [statement] = statements.as_slice() else { return None };
        let select = (*statement.cast::<pg_sys::RawStmt>()).stmt;
        if (*select).type_ != T::T_SelectStmt {
            return None;
        }
        let select = &*select.cast::<pg_sys::SelectStmt>();
        let targets = names::members(select.targetList);
        let [target] = targets.as_slice() else { return None };
        let bare = select.fromClause.is_null()
            && select.whereClause.is_null()
            && select.groupClause.is_null()
            && select.distinctClause.is_null()
            && select.havingClause.is_null()
            && select.windowClause.is_null()
            && select.sortClause.is_null()
            && select.limitCount.is_null()
            && select.limitOffset.is_null()
            && select.lockingClause.is_null()
            && select.withClause.is_null()
            && select.op == pg_sys::SetOperation::SETOP_NONE;
        if !bare || (**target).type_ != T::T_ResTarget {
            return None;
        }
        let raw = (*target.cast::<pg_sys::ResTarget>()).val;
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        (*state).p_sourcetext = text.as_ptr();
        let item =
            pg_sys::addRangeTableEntryForRelation(state, relation.0, 1, std::ptr::null_mut(), false, false);
        pg_sys::addNSItemToQuery(state, item, false, true, true);
        // A policy's condition: no aggregates, no windows, no functions that return sets.
        let condition = pg_sys::transformExpr(state, raw, pg_sys::ParseExprKind::EXPR_KIND_POLICY);
        let condition = pg_sys::coerce_to_boolean(state, condition, c"row filter".as_ptr());
        pg_sys::assign_expr_collations(state, condition);
        let sublinks = (*state).p_hasSubLinks;
        pg_sys::free_parsestate(state);
        (!sublinks).then_some(condition)
    }
}

struct Carry<'a> {
    from: &'a Opened,
    to: &'a Opened,
    complete: bool,
}

/// Rewrites the Vars of a tree from one relation's columns to those of the same names of another; false where one is
/// missing, is of another type, or the whole row is meant.
///
/// # Safety
/// `tree` is an expression of the caller's own whose Vars refer to entry 1.
pub unsafe fn carry(tree: *mut pg_sys::Node, from: &Opened, to: &Opened) -> bool {
    let mut carry = Carry { from, to, complete: true };
    // SAFETY: the walker visits valid nodes; the context is our Carry.
    unsafe { carry_node(tree, (&raw mut carry).cast()) };
    carry.complete
}

unsafe extern "C-unwind" fn carry_node(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: called with valid nodes or null; the tag decides the cast; the context is the caller's Carry.
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ != T::T_Var {
            return walk::expression(node, carry_node, context);
        }
        let carry = &mut *context.cast::<Carry<'_>>();
        let var = &mut *node.cast::<pg_sys::Var>();
        if var.varattno < 0 {
            return false;
        }
        let number = carry.from.name(var.varattno).and_then(|name| carry.to.number(&name));
        let typed = |number: &i16| {
            let found = carry.to.attributes().iter().find(|one| one.attnum == *number);
            found.is_some_and(|one| one.atttypid == var.vartype)
        };
        match number.filter(typed) {
            Some(number) => {
                var.varattno = number;
                var.varattnosyn = number;
            }
            None => carry.complete = false,
        }
        false
    }
}

/// `condition`, for the rows of `child` alone: every other row passes.
///
/// # Safety
/// `condition` is an expression of the caller's own, over entry 1.
pub unsafe fn for_rows_of(child: pg_sys::Oid, condition: *mut pg_sys::Node) -> *mut pg_sys::Node {
    const OID_NE: u32 = 608;
    // SAFETY: nodes made in the current context.
    unsafe {
        let mut family = vec![child];
        family.extend(super::super::catalog::descendants(child));
        let mut others: *mut pg_sys::List = std::ptr::null_mut();
        for one in family {
            let number = i16::try_from(pg_sys::TableOidAttributeNumber).unwrap_or(-6);
            let table = pg_sys::makeVar(1, number, pg_sys::OIDOID, -1, pg_sys::InvalidOid, 0);
            let constant = pg_sys::makeConst(
                pg_sys::OIDOID,
                -1,
                pg_sys::InvalidOid,
                4,
                pg_sys::Datum::from(one),
                false,
                true,
            );
            let differs = pg_sys::make_opclause(
                pg_sys::Oid::from(OID_NE),
                pg_sys::BOOLOID,
                false,
                table.cast(),
                constant.cast(),
                pg_sys::InvalidOid,
                pg_sys::InvalidOid,
            );
            pg_sys::set_opfuncid(differs.cast());
            others = pg_sys::lappend(others, differs.cast());
        }
        let others = pg_sys::make_andclause(others);
        let arguments =
            pg_sys::lappend(pg_sys::lappend(std::ptr::null_mut(), others.cast()), condition.cast());
        pg_sys::make_orclause(arguments).cast()
    }
}
