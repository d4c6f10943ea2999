//! Row security policies on relations that the agent could have made them on: what they read and call speaks for the agent,
//! whoever's view or function reads the relation.
//!
//! The server checks what a policy reads as whoever reads the relation, so neither the entry nor the call tells where it came
//! from. Every relation that such a policy names counts as named by the agent, wherever in the query it stands.

use std::ffi::c_void;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::masks::Opened;
use super::super::walk;
use super::super::{calls, catalog};
use super::names;
use super::relations::Entry;

/// What the agent's policies bring into a query.
#[derive(Default)]
pub struct Brought {
    /// The relations that they read.
    pub relations: Vec<pg_sys::Oid>,
    /// The functions that they call.
    pub functions: Vec<pg_sys::Oid>,
}

/// What policies of the agent's making bring into a query with these entries.
pub fn brought(entries: &[Entry]) -> Brought {
    let mut brought = Brought::default();
    for entry in entries {
        let relation = entry.relation();
        let by_agent =
            || catalog::relation_facts(relation).is_some_and(|facts| calls::is_agents(facts.owner));
        if catalog::has_row_security(relation)
            && by_agent()
            && let Some(opened) = Opened::open(relation)
        {
            // SAFETY: an open relation with row security has its policies in its cache entry; the context is ours.
            unsafe {
                let Some(security) = (*opened.0).rd_rsdesc.as_ref() else { continue };
                for policy in names::members(security.policies) {
                    let policy = &*policy.cast::<pg_sys::RowSecurityPolicy>();
                    visit(policy.qual.cast(), (&raw mut brought).cast());
                    visit(policy.with_check_qual.cast(), (&raw mut brought).cast());
                }
            }
        }
    }
    brought
}

unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: called with valid nodes or null; the tag decides the cast; the context is our Brought.
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ == T::T_Query {
            let query = node.cast::<pg_sys::Query>();
            (*context.cast::<Brought>()).relations.extend(names::read_by_query(query));
            return walk::query(query, visit, context, 0);
        }
        pg_sys::check_functions_in_node(node, Some(note), context);
        walk::expression(node, visit, context)
    }
}

unsafe extern "C-unwind" fn note(function: pg_sys::Oid, context: *mut c_void) -> bool {
    // SAFETY: the context is our Brought.
    let functions = unsafe { &mut (*context.cast::<Brought>()).functions };
    if !functions.contains(&function) {
        functions.push(function);
    }
    false
}
