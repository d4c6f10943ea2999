//! planner_hook: puts checked functions in the place of built-ins whose arguments decide (set_config, nextval, currval,
//! setval), and refuses direct calls of functions that only the server may call.
//!
//! An operator that is not built in has the query decided before it is planned: estimates call its function with stored
//! values. Otherwise no decision rests here, because cached plans do not pass again: what is not replaced is denied when it runs.
//! post_parse_analyze_hook only hides tokens in the text.

use std::ffi::c_void;
use std::os::raw::{c_char, c_int};
use std::sync::atomic::{AtomicI32, Ordering};

use pgrx::pg_sys;

use super::super::enforce::{Target, Wanted};
use super::super::fault;
use super::super::gather::functions::{self, Execution};
use super::super::gather::names;
use super::super::gather::relations;
use super::super::own::{self, StandIns};
use super::super::walk;
use super::super::{calls, catalog, enforce, guc, masks, policies, secrets, session, substitute};
use super::{checked, guarded, raise_if};
use crate::refusal::Refusal;
use crate::request::{Action, Form, Verb};

/// Where in the client's text the statement lies that is being planned, 1 + location and length: an error in planning tells no place.
static PLANNING: [AtomicI32; 2] = [const { AtomicI32::new(0) }; 2];

/// The location and length of the statement that was being planned when an error came up. Answers once.
pub fn failed_in() -> Option<(c_int, c_int)> {
    let location = PLANNING[0].swap(0, Ordering::Relaxed).checked_sub(1).filter(|location| *location >= 0)?;
    Some((location, PLANNING[1].load(Ordering::Relaxed)))
}

static mut PREV_PLANNER: pg_sys::planner_hook_type = None;
static mut PREV_ANALYZE: pg_sys::post_parse_analyze_hook_type = None;

unsafe extern "C-unwind" {
    // Unguarded, as in executor.rs.
    #[link_name = "standard_planner"]
    fn raw_planner(
        query: *mut pg_sys::Query,
        source: *const c_char,
        options: c_int,
        parameters: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
}

/// Saves the previous hooks and installs ours.
pub fn init() {
    // SAFETY: _PG_init runs alone; plain function pointers.
    unsafe {
        PREV_PLANNER = pg_sys::planner_hook;
        pg_sys::planner_hook = Some(planner);
        PREV_ANALYZE = pg_sys::post_parse_analyze_hook;
        pg_sys::post_parse_analyze_hook = Some(analyzed);
    }
}

unsafe extern "C-unwind" fn analyzed(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        if guc::guarded() {
            guarded(secrets::hide_current);
        }
        if let Some(previous) = PREV_ANALYZE {
            previous(state, query, jumble);
        }
    }
}

unsafe extern "C-unwind" fn planner(
    query: *mut pg_sys::Query,
    source: *const c_char,
    options: c_int,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        if guc::guarded() {
            // A statement that was parsed before (Parse, PREPARE) keeps a text of its own, and Bind has just shown it.
            guarded(|| secrets::hide(source));
            if source == pg_sys::debug_query_string {
                PLANNING[1].store((*query).stmt_len, Ordering::Relaxed);
                PLANNING[0].store((*query).stmt_location.max(0).saturating_add(1), Ordering::Relaxed);
            }
            raise_if(checked(|| before(query)));
        }
        let plan = match PREV_PLANNER {
            Some(previous) => previous(query, source, options, parameters),
            None => raw_planner(query, source, options, parameters),
        };
        PLANNING[0].store(0, Ordering::Relaxed);
        plan
    }
}

/// What the walker carries.
struct Walk {
    stand_ins: StandIns,
    /// A direct call of a function that takes `internal`.
    server_only: Option<pg_sys::Oid>,
    /// An operator that is not built in: estimating its selectivity calls its function with stored statistics.
    foreign_operator: bool,
    /// A function of the agent's is called, also by an operator.
    own_code: bool,
    /// The permission entries of every query level.
    entries: Vec<relations::Entry>,
    /// The relations of every level that a mask or filter could bear on.
    relations: Vec<pg_sys::Oid>,
}

fn before(query: *mut pg_sys::Query) -> Result<(), Refusal> {
    let Some(own) = own::own() else { return Ok(()) };
    let mut walk = Walk {
        stand_ins: own.stand_ins,
        server_only: None,
        foreign_operator: false,
        own_code: false,
        entries: Vec::new(),
        relations: Vec::new(),
    };
    // SAFETY: the planner may scribble on its input (planner.c), so may we; the walker visits valid nodes.
    unsafe { visit(query.cast(), (&raw mut walk).cast()) };
    if walk.foreign_operator {
        may_read(&walk.entries)?;
    }
    if walk.own_code {
        // SAFETY: as above.
        unsafe { close_views(query.cast(), std::ptr::null_mut()) };
    }
    put_masks(query, &walk.relations)?;
    match walk.server_only {
        None => Ok(()),
        Some(function) => {
            let wanted = Wanted {
                never: true,
                ..Wanted::named(Action::plain(Verb::Execute), Target::Function(function))
            };
            enforce::enforce(&*session::current()?, &[wanted], Form::Plain)
        }
    }
}

/// Puts masks and row filters in, where one of the query's relations has some. The server's own look-ups for foreign keys
/// compare raw values.
fn put_masks(query: *mut pg_sys::Query, relations: &[pg_sys::Oid]) -> Result<(), Refusal> {
    if !masks::any()
        || !relations.iter().any(|relation| masks::concern(*relation))
        || calls::in_foreign_key()
        || fault::skips_substitution()
    {
        return Ok(());
    }
    // SAFETY: as above.
    let outcome = unsafe { substitute::substitute(query) };
    outcome.inspect_err(enforce::note_refusal)
}

/// Decides before planning what is otherwise decided after it. Only refusals are recorded here.
fn may_read(entries: &[relations::Entry]) -> Result<(), Refusal> {
    let session = match session::current() {
        Err(_) if guc::observing() => return Ok(()),
        session => session?,
    };
    let policy = policies::policy(session.policy_id)?;
    for one in relations::wanted(entries, &policy) {
        if !enforce::would_allow(&session, &one)? {
            enforce::enforce(&session, &[one], Form::Plain)?;
        }
    }
    Ok(())
}

fn note_operator(operator: pg_sys::Oid, walk: &mut Walk) {
    if operator.to_u32() >= catalog::FIRST_NORMAL {
        walk.foreign_operator = true;
        // SAFETY: a syscache look-up; InvalidOid for an operator that is going.
        walk.own_code |= is_own_code(unsafe { pg_sys::get_opcode(operator) });
    }
}

/// Whether a function is the agent's own making: it may tell of what it is called with.
fn is_own_code(function: pg_sys::Oid) -> bool {
    function.to_u32() >= catalog::FIRST_NORMAL
        && catalog::function_facts(function).is_some_and(|facts| calls::is_agents(facts.owner))
}

/// A view that lends shows the rows that its condition leaves: no function of the agent's is called with others. What a
/// security_barrier says of such a view is said of the entry here.
unsafe extern "C-unwind" fn close_views(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: called with valid nodes or null; the tag decides the casts; the planner's input may be changed.
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ != pg_sys::NodeTag::T_Query {
            return walk::expression(node, close_views, context);
        }
        let query = node.cast::<pg_sys::Query>();
        for entry in names::members((*query).rtable) {
            let entry = &mut *entry.cast::<pg_sys::RangeTblEntry>();
            entry.security_barrier |=
                entry.rtekind == pg_sys::RTEKind::RTE_SUBQUERY && is_anothers_view(entry);
        }
        walk::query(query, close_views, context, 0)
    }
}

/// Whether a subquery is the body of a view that is not the agent's own.
unsafe fn is_anothers_view(entry: &pg_sys::RangeTblEntry) -> bool {
    let anothers = |relation: pg_sys::Oid| {
        catalog::relation_facts(relation)
            .is_some_and(|facts| facts.kind == b'v' && !calls::is_agents(facts.owner))
    };
    // Up to 15 the rewriter leaves the view's own entries in its body; from 16 on the entry keeps the view.
    #[cfg(not(feature = "pg15"))]
    return anothers(entry.relid);
    // SAFETY: the body of a subquery is a query with a list of entries.
    #[cfg(feature = "pg15")]
    unsafe {
        !entry.subquery.is_null()
            && names::members((*entry.subquery).rtable).into_iter().any(|inner| {
                let inner = &*inner.cast::<pg_sys::RangeTblEntry>();
                inner.rtekind == pg_sys::RTEKind::RTE_RELATION && anothers(inner.relid)
            })
    }
}

unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: called with valid nodes or null; the tag decides the casts; the context is our Walk.
    unsafe {
        if node.is_null() {
            return false;
        }
        match (*node).type_ {
            pg_sys::NodeTag::T_Query => {
                let query = node.cast::<pg_sys::Query>();
                let walk = &mut *context.cast::<Walk>();
                walk.entries.extend(relations::entries_of(query));
                walk.relations.extend(names::members((*query).rtable).into_iter().filter_map(|entry| {
                    let entry = &*entry.cast::<pg_sys::RangeTblEntry>();
                    substitute::may_concern(entry).then_some(entry.relid)
                }));
                walk::query(query, visit, context, 0)
            }
            tag => {
                let walk = &mut *context.cast::<Walk>();
                match tag {
                    pg_sys::NodeTag::T_FuncExpr => replace(&mut *node.cast(), walk),
                    // DistinctExpr is an OpExpr of another tag.
                    pg_sys::NodeTag::T_OpExpr | pg_sys::NodeTag::T_DistinctExpr => {
                        note_operator((*node.cast::<pg_sys::OpExpr>()).opno, walk);
                    }
                    pg_sys::NodeTag::T_ScalarArrayOpExpr => {
                        note_operator((*node.cast::<pg_sys::ScalarArrayOpExpr>()).opno, walk);
                    }
                    pg_sys::NodeTag::T_RowCompareExpr => {
                        let numbers = (*node.cast::<pg_sys::RowCompareExpr>()).opnos;
                        let length = if numbers.is_null() { 0 } else { (*numbers).length };
                        let length = usize::try_from(length).unwrap_or(0);
                        (0..length)
                            .for_each(|i| note_operator((*(*numbers).elements.add(i)).oid_value, walk));
                    }
                    _ => {}
                }
                walk::expression(node, visit, context)
            }
        }
    }
}

fn replace(call: &mut pg_sys::FuncExpr, walk: &mut Walk) {
    let with = match call.funcid.to_u32() {
        pg_sys::F_SET_CONFIG => walk.stand_ins.set_config,
        pg_sys::F_NEXTVAL => walk.stand_ins.nextval,
        pg_sys::F_CURRVAL => walk.stand_ins.currval,
        pg_sys::F_SETVAL_REGCLASS_INT8 => walk.stand_ins.setval,
        pg_sys::F_SETVAL_REGCLASS_INT8_BOOL => walk.stand_ins.setval3,
        _ => {
            // What a generated view brings is marked by a form that no statement can give a call of ours (masking.rs).
            let marked = call.funcformat == pg_sys::CoercionForm::COERCE_SQL_SYNTAX;
            if functions::execution(call.funcid) == Execution::ServerOnly && !marked {
                walk.server_only = Some(call.funcid);
            }
            walk.own_code |= is_own_code(call.funcid);
            return;
        }
    };
    call.funcid = with;
}
