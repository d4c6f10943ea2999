//! COPY of a table reads the heap past every plan: where masks or filters apply it is made a COPY of a query, as the server
//! itself does it for row security (DoCopy in copy.c).

use std::ffi::CStr;
use std::os::raw::c_char;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::gather::names;
use super::masks;
use super::version;
use crate::refusal::Refusal;

/// A statement that copies a query in the place of one that copies a masked or filtered table; `None` where it stays.
///
/// # Errors
/// Where the mask cannot be put in force.
///
/// # Safety
/// `planned` is the utility statement of the hook.
pub unsafe fn as_query(
    planned: *mut pg_sys::PlannedStmt,
) -> Result<Option<*mut pg_sys::PlannedStmt>, Refusal> {
    // SAFETY: the tag decides the cast; what is changed is a copy.
    unsafe {
        let node = (*planned).utilityStmt;
        if (*node).type_ != T::T_CopyStmt || !masks::any() {
            return Ok(None);
        }
        let copy = &*node.cast::<pg_sys::CopyStmt>();
        if copy.is_from || copy.relation.is_null() || !copy.query.is_null() {
            return Ok(None);
        }
        let relation = names::relation(copy.relation);
        let Some(masked) = masks::of(relation)? else { return Ok(None) };
        // A partitioned table is refused by the server, with its own words.
        let facts = super::catalog::relation_facts(relation);
        if !(masked.masks() || masked.filters_rows()) || facts.is_none_or(|facts| facts.kind == b'p') {
            return Ok(None);
        }
        let planned: *mut pg_sys::PlannedStmt = pg_sys::copyObjectImpl(planned.cast()).cast();
        let copy = &mut *(*planned).utilityStmt.cast::<pg_sys::CopyStmt>();
        let select = make::<pg_sys::SelectStmt>(T::T_SelectStmt);
        for column in columns(copy, relation) {
            let reference = make::<pg_sys::ColumnRef>(T::T_ColumnRef);
            (*reference).fields = pg_sys::lappend(std::ptr::null_mut(), pg_sys::makeString(column).cast());
            (*reference).location = -1;
            let target = make::<pg_sys::ResTarget>(T::T_ResTarget);
            (*target).val = reference.cast();
            (*target).location = -1;
            (*select).targetList = pg_sys::lappend((*select).targetList, target.cast());
        }
        // The table alone, as COPY of a table means it.
        (*copy.relation).inh = false;
        (*select).fromClause = pg_sys::lappend(std::ptr::null_mut(), copy.relation.cast());
        copy.query = select.cast();
        copy.relation = std::ptr::null_mut();
        copy.attlist = std::ptr::null_mut();
        Ok(Some(planned))
    }
}

/// The encoding that a COPY to the client asks for itself, by its number.
///
/// # Safety
/// `node` is a valid utility statement.
pub unsafe fn encoding(node: *mut pg_sys::Node) -> Option<i32> {
    // SAFETY: the tag decides the cast; options are DefElem nodes.
    unsafe {
        if (*node).type_ != T::T_CopyStmt {
            return None;
        }
        let copy = &*node.cast::<pg_sys::CopyStmt>();
        let options = names::members(copy.options).into_iter().map(|option| option.cast::<pg_sys::DefElem>());
        let mut named = options.filter(|option| CStr::from_ptr((**option).defname) == c"encoding");
        let number = version::encoding_number(pg_sys::defGetString(named.next()?));
        (number >= 0).then_some(number)
    }
}

/// The columns that are named, or all but generated ones.
unsafe fn columns(copy: &pg_sys::CopyStmt, relation: pg_sys::Oid) -> Vec<*mut c_char> {
    // SAFETY: a list of String nodes; names are palloc'd copies.
    unsafe {
        if !copy.attlist.is_null() {
            let named = names::members(copy.attlist).into_iter();
            return named.map(|node| (*node.cast::<pg_sys::String>()).sval).collect();
        }
        let Some(opened) = masks::Opened::open(relation) else { return Vec::new() };
        let copied = opened.attributes().iter().filter(|one| !one.attisdropped && one.attgenerated == 0);
        copied.map(|one| pg_sys::pstrdup(one.attname.data.as_ptr())).collect()
    }
}

unsafe fn make<N>(tag: pg_sys::NodeTag) -> *mut N {
    // SAFETY: as substitute::node.
    unsafe { super::substitute::node(tag) }
}
