//! What hangs on a relation that the agent's role owns, and so may be of the agent's making: row security policies, the body of
//! a view, rules, defaults, checks, conditions of triggers, domains of columns. What it reads and calls speaks for the agent,
//! whoever's view or function uses the relation.
//!
//! The server runs all of it as whoever uses the relation, so neither the entry nor the call tells where it came from. Every
//! relation that a policy names counts as named by the agent, wherever in the query it stands, and so does every function.

use std::ffi::{c_char, c_void};

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::masks::Opened;
use super::super::{calls, catalog, walk};
use super::relations::Entry;
use super::{names, sequences};

/// What is brought into a query.
#[derive(Default)]
pub struct Brought {
    /// The relations that policies read. Those of views and rules are told by whom the server checks.
    pub relations: Vec<pg_sys::Oid>,
    /// The functions that are called.
    functions: Vec<pg_sys::Oid>,
}

impl Brought {
    /// The functions that are called and not the agent's own: those lend nothing when they run.
    pub fn functions(self) -> impl Iterator<Item = pg_sys::Oid> {
        self.functions.into_iter().filter(|function| {
            function.to_u32() < catalog::FIRST_NORMAL
                || catalog::function_facts(*function).is_none_or(|facts| !calls::is_agents(facts.owner))
        })
    }
}

/// What hangs on the relations of these entries, as far as the agent could have made it. `lends` tells of a view whose body
/// was allowed as it is.
pub fn brought(entries: &[Entry], lends: impl Fn(&Entry) -> bool) -> Brought {
    let mut brought = Brought::default();
    for entry in entries {
        let mut relations = vec![entry.relation()];
        if entry.changes() {
            // Rows go to partitions and children, whose checks and triggers then run.
            relations.extend(catalog::descendants(entry.relation()));
        }
        for relation in relations {
            let by_agent =
                catalog::relation_facts(relation).is_some_and(|facts| calls::is_agents(facts.owner));
            if let Some(opened) = by_agent.then(|| Opened::open(relation)).flatten() {
                // SAFETY: an open relation's cache entry.
                unsafe { of_relation(&opened, entry, !lends(entry), &mut brought) };
            }
        }
    }
    brought
}

/// # Safety
/// An open relation.
unsafe fn of_relation(opened: &Opened, entry: &Entry, with_rules: bool, brought: &mut Brought) {
    // SAFETY: the fields of a relation's cache entry are null or as rel.h says; the context of the walks is ours.
    unsafe {
        let relation = &*opened.0;
        if let Some(security) = relation.rd_rsdesc.as_ref().filter(|_| (*relation.rd_rel).relrowsecurity) {
            for policy in names::members(security.policies) {
                let policy = &*policy.cast::<pg_sys::RowSecurityPolicy>();
                visit(policy.qual.cast(), (&raw mut *brought).cast());
                visit(policy.with_check_qual.cast(), (&raw mut *brought).cast());
            }
        }
        let mut evaluated = Brought::default();
        let context: *mut c_void = (&raw mut evaluated).cast();
        if let Some(rules) = relation.rd_rules.as_ref().filter(|_| with_rules) {
            for i in 0..usize::try_from(rules.numLocks).unwrap_or(0) {
                let rule = &**rules.rules.add(i);
                visit(rule.qual, context);
                names::members(rule.actions).into_iter().for_each(|action| {
                    visit(action, context);
                });
            }
        }
        if entry.changes() {
            of_rows(relation, opened, context);
        }
        // Sequences are decided by their name, where the call runs.
        evaluated.functions.retain(|function| sequences::verb(*function).is_none());
        brought.functions.append(&mut evaluated.functions);
    }
}

/// What is evaluated for rows that come or change.
///
/// # Safety
/// An open relation, and our context.
unsafe fn of_rows(relation: &pg_sys::RelationData, opened: &Opened, context: *mut c_void) {
    // SAFETY: as above; texts of expressions are those that the server wrote.
    unsafe {
        let stored = |text: *mut c_char| {
            if !text.is_null() {
                visit(pg_sys::stringToNode(text).cast(), context);
            }
        };
        if let Some(constraints) = (*relation.rd_att).constr.as_ref() {
            (0..usize::from(constraints.num_defval)).for_each(|i| stored((*constraints.defval.add(i)).adbin));
            (0..usize::from(constraints.num_check)).for_each(|i| stored((*constraints.check.add(i)).ccbin));
        }
        if let Some(triggers) = relation.trigdesc.as_ref() {
            let count = usize::try_from(triggers.numtriggers).unwrap_or(0);
            // Copied first: another session may make a trigger on a partition, and looking functions up hears of it.
            let conditions =
                (0..count).map(|i| (*triggers.triggers.add(i)).tgqual).filter(|it| !it.is_null());
            let conditions: Vec<*mut c_char> = conditions.map(|it| pg_sys::pstrdup(it)).collect();
            conditions.into_iter().for_each(stored);
        }
        for column in opened.attributes().iter().filter(|one| !one.attisdropped) {
            if pg_sys::get_typtype(column.atttypid).cast_unsigned() != b'd' {
                continue;
            }
            visit(pg_sys::get_typdefault(column.atttypid), context);
            // The server keeps a callback in it for as long as the memory context lives.
            let domain = pg_sys::palloc0(size_of::<pg_sys::DomainConstraintRef>())
                .cast::<pg_sys::DomainConstraintRef>();
            pg_sys::InitDomainConstraintRef(column.atttypid, domain, pg_sys::CurrentMemoryContext, false);
            for constraint in names::members((*domain).constraints) {
                visit((*constraint.cast::<pg_sys::DomainConstraintState>()).check_expr.cast(), context);
            }
        }
    }
}

unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: called with valid nodes or null; the tag decides the cast; the context is a Brought.
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
    // SAFETY: the context is a Brought.
    let functions = unsafe { &mut (*context.cast::<Brought>()).functions };
    if !functions.contains(&function) {
        functions.push(function);
    }
    false
}
