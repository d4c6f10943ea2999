//! ExecutorCheckPerms_hook: every relation and column of a query or COPY, at each execution, cached plans included.

use std::cell::Cell;

use pgrx::pg_sys;

use super::super::enforce::{Target, Wanted};
use super::super::gather::relations::{self, Entry};
use super::super::gather::{masked_reads, sequences};
use super::super::process::PerProcess;
use super::super::raise::{self, Raised};
use super::super::{enforce, guc, policies, repeated, rows, session, statement, substitute};
use super::{guarded, object_access, raise_if};
use crate::refusal::Refusal;
use crate::request::{Form, Verb};

static mut PREVIOUS: pg_sys::ExecutorCheckPerms_hook_type = None;

/// Saves the previous hook and installs ours.
pub fn init() {
    // SAFETY: _PG_init runs alone; a plain function pointer.
    unsafe {
        PREVIOUS = pg_sys::ExecutorCheckPerms_hook;
        #[cfg(feature = "pg15")]
        {
            pg_sys::ExecutorCheckPerms_hook = Some(check15);
        }
        #[cfg(not(feature = "pg15"))]
        {
            pg_sys::ExecutorCheckPerms_hook = Some(check16);
        }
    }
}

#[cfg(feature = "pg15")]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
unsafe extern "C-unwind" fn check15(range_table: *mut pg_sys::List, raises: bool) -> bool {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        let passes = !guc::guarded() || comes_again(range_table, range_table);
        if !passes && !look(range_table, range_table, raises) {
            return false;
        }
        match PREVIOUS {
            Some(previous) => previous(range_table, raises),
            None => true,
        }
    }
}

#[cfg(not(feature = "pg15"))]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
unsafe extern "C-unwind" fn check16(
    range_table: *mut pg_sys::List,
    infos: *mut pg_sys::List,
    raises: bool,
) -> bool {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        let passes = !guc::guarded() || comes_again(range_table, infos);
        if !passes && !look(range_table, infos, raises) {
            return false;
        }
        match PREVIOUS {
            Some(previous) => previous(range_table, infos, raises),
            None => true,
        }
    }
}

/// Whether it is what was decided when the statement ended last. Neither raises nor panics.
#[cfg_attr(feature = "pg15", expect(unused_variables, reason = "it is the list itself"))]
#[inline]
unsafe fn comes_again(range_table: *mut pg_sys::List, list: *mut pg_sys::List) -> bool {
    // SAFETY: the hook's own arguments.
    unsafe {
        #[cfg(not(feature = "pg15"))]
        if relations::any_lent(range_table) {
            return false;
        }
        repeated::comes_again(relations::each(list))
    }
}

/// Decides; false for a refusal that is not to be raised.
#[inline(never)]
unsafe fn look(range_table: *mut pg_sys::List, list: *mut pg_sys::List, raises: bool) -> bool {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        let refused = guarded(|| before(range_table, list));
        if raises {
            raise_if(refused);
        }
        refused.is_none()
    }
}

fn before(range_table: *mut pg_sys::List, list: *mut pg_sys::List) -> Option<Raised> {
    decide(range_table, list).err().map(|refusal| raise::prepare(&refusal))
}

fn fills_new_table(wanted: &Wanted) -> bool {
    match wanted.target {
        Target::Relation(relid) if wanted.action.verb == Verb::Insert => {
            object_access::just_created(relid) && statement::filling_new_table()
        }
        _ => false,
    }
}

/// Memory for what a check works on, empty between checks. Taken while one works: a check may bring about another.
static BUFFERS: PerProcess<Cell<(Vec<Entry>, Vec<Wanted>)>> =
    PerProcess::new(Cell::new((Vec::new(), Vec::new())));

#[cfg_attr(feature = "pg15", expect(unused_variables, reason = "it is the list itself"))]
fn decide(range_table: *mut pg_sys::List, list: *mut pg_sys::List) -> Result<(), Refusal> {
    // SAFETY: the hook's own arguments.
    let each = unsafe { relations::each(list) };
    #[cfg(feature = "pg15")]
    let told = true;
    #[cfg(not(feature = "pg15"))]
    // SAFETY: as above.
    let told = unsafe { !relations::any_lent(range_table) };
    // Whatever is decided here must depend on nothing but what `repeated` compares.
    if each.clone().next().is_none() || (told && repeated::note(each.clone())) {
        return Ok(());
    }
    let (mut entries, mut wanted) = BUFFERS.take();
    entries.extend(each);
    #[cfg(not(feature = "pg15"))]
    // SAFETY: as above.
    unsafe {
        relations::mark_lent(range_table, list, &mut entries);
    }
    let outcome = decide_entries(&entries, &mut wanted);
    entries.clear();
    wanted.clear();
    BUFFERS.set((entries, wanted));
    outcome
}

#[inline(never)]
fn decide_entries(entries: &[Entry], wanted: &mut Vec<Wanted>) -> Result<(), Refusal> {
    // Before anything else: the server checks another role in its place.
    for entry in entries.iter().filter(|entry| entry.is_lent()) {
        substitute::may_read(entry.relation()).inspect_err(enforce::note_refusal)?;
    }
    // Checked when the statement was opened, a moment ago.
    let (known, form) =
        statement::with_current(|open| (open.session(), open.form)).unwrap_or((None, Form::Plain));
    let session = match known.map_or_else(session::current, Ok) {
        Ok(session) => session,
        // Denials are recorded; masks are none.
        Err(_) if guc::observing() => return masked_reads::check(entries, None, form),
        Err(refusal) => return Err(refusal),
    };
    let policy = policies::policy(session.policy_id)?;
    let generation = policies::generation();
    relations::wanted_into(entries, &policy, wanted);
    // CREATE TABLE AS fills the table that it was allowed to create: the check of that INSERT comes from inside the run.
    if wanted.len() == 1 && wanted.iter().all(fills_new_table) {
        return Ok(());
    }
    let identities = sequences::forbidden_identities(entries, &policy, form);
    // Whether a plan draws is no circumstance that `repeated` compares.
    let repeats = identities.is_empty();
    wanted.extend(identities.into_iter().filter_map(|(draws, one)| draws.then_some(one)));
    enforce::enforce_under(&session, &policy, wanted, form)?;
    masked_reads::check(entries, Some(&policy), form)?;
    if form == Form::Copy {
        for (relation, filled) in entries.iter().filter_map(|one| Some((one.relation(), one.filled()?))) {
            let rest = object_access::copies_into(relation, &filled);
            let drawn = sequences::copied_identities(relation, &rest, &policy);
            enforce::enforce_under(&session, &policy, &drawn, form)?;
        }
        rows::refuse_plain_copy()?;
    }
    if repeats {
        repeated::remember(entries, &session, &policy, generation);
    }
    Ok(())
}
