//! Queries that are only looked at: relations and functions from a rewritten query tree, for `check_statement`.
//!
//! The accesses of a running query come from its plan (`relations`) and from the functions as they are prepared; this
//! is the same without planning, because planning evaluates functions.

use std::ffi::c_void;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::enforce::Wanted;
use super::super::policies::Policy;
use super::super::walk;
use super::super::{conditions, settings};
use super::{functions, names, relations, sequences};
use crate::request::{Verb, Voice};

struct Walk {
    entries: Vec<relations::Entry>,
    functions: Vec<pg_sys::Oid>,
    /// What the arguments of set_config ask for.
    by_argument: Vec<Wanted>,
    /// Sequences that identity columns, and calls with a constant argument, draw from.
    identities: Vec<pg_sys::Oid>,
    drawn: Vec<pg_sys::Oid>,
}

/// What a rewritten query needs: relations first, then functions, each once.
///
/// # Safety
/// `query` is a valid rewritten Query.
pub unsafe fn wanted(query: *mut pg_sys::Query, policy: &Policy) -> Vec<Wanted> {
    let mut walk = Walk {
        entries: Vec::new(),
        functions: Vec::new(),
        by_argument: Vec::new(),
        identities: Vec::new(),
        drawn: Vec::new(),
    };
    // SAFETY: the walker visits valid nodes; the context is our Walk.
    unsafe { visit(query.cast(), (&raw mut walk).cast()) };
    let mut wanted = relations::wanted(&walk.entries, policy);
    wanted.append(&mut walk.by_argument);
    let drawn = walk.drawn.iter();
    wanted.extend(drawn.filter_map(|one| sequences::wanted(policy, *one, Verb::Usage, Voice::Named)));
    wanted.extend(walk.identities.iter().filter_map(|sequence| sequences::by_identity(policy, *sequence)));
    wanted.extend(walk.functions.into_iter().filter_map(|function| {
        functions::wanted(function, Voice::Named).or_else(|| functions::denied_by_name(function, policy))
    }));
    wanted
}

/// Calls that a running session decides by their arguments (functions/stand_in.rs); true where constants tell all.
unsafe fn by_argument(
    call: &pg_sys::FuncExpr,
    wanted: &mut Vec<Wanted>,
    drawn: &mut Vec<pg_sys::Oid>,
) -> bool {
    // SAFETY: the arguments of an analysed call; constants are read by their type.
    unsafe {
        let arguments = names::members(call.args);
        match call.funcid.to_u32() {
            pg_sys::F_SET_CONFIG => {
                let texts: Vec<Option<String>> =
                    arguments.iter().take(2).map(|argument| conditions::constant_text(*argument)).collect();
                let [Some(name), value] = texts.as_slice() else { return false };
                if settings::is_token(name) {
                    return true;
                }
                match settings::change(name, value.as_deref()) {
                    Ok(needed) => wanted.extend(needed),
                    Err(_) => return false,
                }
                true
            }
            pg_sys::F_NEXTVAL | pg_sys::F_CURRVAL => {
                match arguments.first().and_then(|node| sequences::constant_oid(*node)) {
                    Some(sequence) => {
                        drawn.push(sequence);
                        true
                    }
                    None => false,
                }
            }
            _ => false,
        }
    }
}

unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: called with valid nodes or null; the tag decides the casts; the context is our Walk.
    unsafe {
        if node.is_null() {
            return false;
        }
        let walk = &mut *context.cast::<Walk>();
        let function = match (*node).type_ {
            T::T_Query => {
                let query = node.cast::<pg_sys::Query>();
                walk.entries.extend(relations::entries_of(query));
                return walk::query(query, visit, context, 0);
            }
            T::T_FuncExpr => {
                let call = &*node.cast::<pg_sys::FuncExpr>();
                if by_argument(call, &mut walk.by_argument, &mut walk.drawn) {
                    pg_sys::InvalidOid
                } else {
                    call.funcid
                }
            }
            T::T_NextValueExpr => {
                walk.identities.push((*node.cast::<pg_sys::NextValueExpr>()).seqid);
                pg_sys::InvalidOid
            }
            T::T_Aggref => (*node.cast::<pg_sys::Aggref>()).aggfnoid,
            T::T_WindowFunc => (*node.cast::<pg_sys::WindowFunc>()).winfnoid,
            T::T_OpExpr | T::T_DistinctExpr | T::T_NullIfExpr => {
                let operator = node.cast::<pg_sys::OpExpr>();
                pg_sys::set_opfuncid(operator);
                (*operator).opfuncid
            }
            _ => pg_sys::InvalidOid,
        };
        if function != pg_sys::InvalidOid && !walk.functions.contains(&function) {
            walk.functions.push(function);
        }
        walk::expression(node, visit, context)
    }
}
