//! ExecutorStart, ExecutorRun, ExecutorFinish, ExecutorEnd: every query, also those from cached plans, functions and cursors.

use std::os::raw::c_int;

use pgrx::pg_sys;

use super::super::statement::{self, Key, Opening, parked};
use super::super::{
    approvals, calls, conditions, epoch, guc, known, limit_timer, masks, meter, outgoing, record, results,
    rows, second_line, session, synced, version, withhold,
};
use super::{checked, guarded, raise_if};
use crate::refusal::Refusal;
use crate::request::Form;

static mut PREV_START: pg_sys::ExecutorStart_hook_type = None;
static mut PREV_RUN: pg_sys::ExecutorRun_hook_type = None;
static mut PREV_FINISH: pg_sys::ExecutorFinish_hook_type = None;
static mut PREV_END: pg_sys::ExecutorEnd_hook_type = None;

unsafe extern "C-unwind" {
    // The bindings' own declarations are guarded: an error through them would lose its fields.
    #[link_name = "standard_ExecutorStart"]
    fn raw_start(query: *mut pg_sys::QueryDesc, flags: c_int);
    #[link_name = "standard_ExecutorFinish"]
    fn raw_finish(query: *mut pg_sys::QueryDesc);
    #[link_name = "standard_ExecutorEnd"]
    fn raw_end(query: *mut pg_sys::QueryDesc);
}

/// Saves the previous hooks and installs ours.
pub fn init() {
    // SAFETY: _PG_init runs alone; plain function pointers.
    unsafe {
        PREV_START = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(start);
        PREV_RUN = pg_sys::ExecutorRun_hook;
        #[cfg(not(feature = "pg18"))]
        {
            pg_sys::ExecutorRun_hook = Some(run);
        }
        #[cfg(feature = "pg18")]
        {
            pg_sys::ExecutorRun_hook = Some(run18);
        }
        PREV_FINISH = pg_sys::ExecutorFinish_hook;
        pg_sys::ExecutorFinish_hook = Some(finish);
        PREV_END = pg_sys::ExecutorEnd_hook;
        pg_sys::ExecutorEnd_hook = Some(end);
    }
}

fn key(query: *mut pg_sys::QueryDesc) -> Key {
    Key::Query(query.addr())
}

#[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
unsafe extern "C-unwind" fn start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: outer frame; see hooks/mod.rs. Apart from the guarded one, so that other sessions pay for no frame.
    unsafe { if guc::guarded() { guarded_start(query, flags) } else { start_executor(query, flags) } }
}

#[inline(never)]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
unsafe fn guarded_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        if !parked::reopen(query) {
            look_before_start(query);
        }
        start_executor(query, flags);
        if meter::limited() || !statement::has_started(key(query)) {
            look_after_start(query, flags);
        }
    }
}

#[inline(never)]
unsafe fn look_before_start(query: *mut pg_sys::QueryDesc) {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe { raise_if(checked(|| before_start(query))) };
}

#[inline(never)]
unsafe fn look_after_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        let mut waited = false;
        raise_if(checked(|| after_start(query, Some(&raw mut waited))));
        if waited {
            start_executor(query, flags);
            raise_if(checked(|| after_start(query, None)));
        }
    }
}

#[inline]
unsafe fn start_executor(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        match PREV_START {
            Some(previous) => previous(query, flags),
            None => raw_start(query, flags),
        }
    }
}

fn command(operation: pg_sys::CmdType::Type) -> &'static str {
    match operation {
        pg_sys::CmdType::CMD_SELECT => "SELECT",
        pg_sys::CmdType::CMD_INSERT => "INSERT",
        pg_sys::CmdType::CMD_UPDATE => "UPDATE",
        pg_sys::CmdType::CMD_DELETE => "DELETE",
        pg_sys::CmdType::CMD_MERGE => "MERGE",
        _ => "",
    }
}

fn before_start(query: *mut pg_sys::QueryDesc) -> Result<(), Refusal> {
    // SAFETY: the server passes a complete QueryDesc; only read here.
    let (operation, source, location, length, plan) = unsafe {
        let desc = &*query;
        let plan = &*desc.plannedstmt;
        (desc.operation, desc.sourceText, plan.stmt_location, plan.stmt_len, desc.plannedstmt)
    };
    if calls::parallel_worker() {
        return session::current().map(|_| ());
    }
    // SAFETY: the source text is palloc'd and NUL-terminated for as long as the query runs.
    let known = unsafe { known::query(source, location, length) };
    // Inside a trigger of a masked relation, text and parameters may hold what the trigger sees.
    let raw = withhold::inside_raw();
    let text = if raw && !calls::in_foreign_key() { withhold::TEXT.into() } else { known.text() };
    let mut observed: Option<Refusal> = None;
    let now = epoch::clock();
    let session = match session::current_at(now) {
        Ok(session) => Some(session),
        // SAFETY: the plan is complete.
        Err(_) if unsafe { conditions::only_sets_the_token(plan) } => None,
        Err(refusal) if guc::observing() => {
            outgoing::init();
            observed = Some(refusal);
            None
        }
        Err(refusal) => {
            // SAFETY: as above.
            let given = unsafe { if raw { None } else { rows::Given::to((*query).params) } };
            record::record_refused_with(command(operation), &text, given.as_ref(), None, &refusal);
            return Err(refusal);
        }
    };
    let form = (operation == pg_sys::CmdType::CMD_MERGE).then_some(Form::Merge);
    let (key, command) = (key(query), command(operation));
    let bound = session.clone();
    let (mut told, mut top) = (false, false);
    // What the text is replaced by is no statement that comes again.
    let known = (!raw).then_some(known);
    statement::open(Opening { key, command, text, known, session, form, at: Some(now) }, |open| {
        if let Some(refusal) = &observed {
            open.refuse(refusal, true);
        }
        top = open.is_top_level();
        open.operation = operation;
        // SAFETY: the parameters belong to the query; only read.
        told = raw || open.set_plain_parameters(|numbers| unsafe { rows::numbers((*query).params, numbers) });
    })?;
    if masks::any() {
        look_at_masks(query)?;
    }
    if !told {
        tell_parameters(query);
    }
    let Some(session) = bound.filter(|_| top) else { return Ok(()) };
    // SAFETY: the plan is complete.
    let opened = meter::opened(&session, || unsafe { conditions::only_sets_the_token(plan) });
    opened.inspect_err(|refusal| {
        statement::with_key(key, |open| open.refuse(refusal, false));
    })?;
    if results::wanted() {
        results::begins(key, None);
    }
    Ok(())
}

/// With the statement open, so that an error of an output function is recorded as the statement's.
#[inline(never)]
fn tell_parameters(query: *mut pg_sys::QueryDesc) {
    // SAFETY: the parameters belong to the query; only read.
    let given = unsafe { rows::Given::to((*query).params) };
    statement::with_key(key(query), |open| open.set_parameters(given));
}

/// Where anything is masked: proves that the plan reads nothing past masks and row filters, and notes which texts are withheld for it.
#[inline(never)]
fn look_at_masks(query: *mut pg_sys::QueryDesc) -> Result<(), Refusal> {
    let key = key(query);
    // SAFETY: the plan is complete.
    let texts = unsafe { second_line::check((*query).plannedstmt, false) };
    let texts = texts.inspect_err(|refusal| {
        statement::with_key(key, |open| open.refuse(refusal, false));
    })?;
    statement::with_key(key, |open| (open.texts, open.masked) = (texts, true));
    withhold::begin(texts);
    Ok(())
}

/// `waited`, the outer frame's local, is missing where it has waited once. True in it asks for the executor to be started again.
#[inline(never)]
fn after_start(query: *mut pg_sys::QueryDesc, waited: Option<*mut bool>) -> Result<(), Refusal> {
    let held = statement::with_key(key(query), |open| {
        open.starting = false;
        open.held.is_some()
    });
    if held == Some(true)
        && let Err(refusal) = approvals::started(query)
    {
        let Some(waited) = waited else { return Err(refusal) };
        let again = approvals::query_until_decided(query, key(query), &refusal);
        let again = again.inspect_err(|refusal| {
            statement::with_key(key(query), |open| open.refuse(refusal, false));
        })?;
        if !again {
            return Err(refusal);
        }
        if masks::any() {
            look_at_masks(query)?;
        }
        // SAFETY: the outer frame's local.
        unsafe { *waited = true };
        return Ok(());
    }
    let obligations = statement::with_key(key(query), |open| {
        open.set_suspended();
        let uncounted = open.obligations.max_rows.filter(|_| open.changes_limited);
        (std::mem::take(&mut open.where_required), uncounted)
    });
    let (required, limited) = obligations.unwrap_or_default();
    for (relid, rule) in required {
        // SAFETY: the plan is complete once the executor has started.
        if !unsafe { conditions::restricts((*query).plannedstmt, relid) } {
            unmet(query, conditions::where_refusal(relid, rule))?;
        }
    }
    // SAFETY: as above.
    if meter::limited()
        && unsafe { (*(*query).plannedstmt).hasModifyingCTE }
        && let Some(refusal) = meter::uncounted("rows cannot be changed inside WITH")
    {
        unmet(query, refusal)?;
    }
    match limited {
        // SAFETY: as above.
        Some((limit, rule)) if unsafe { (*(*query).plannedstmt).hasModifyingCTE } => {
            unmet(query, rows::uncounted_refusal(limit, rule))
        }
        _ => Ok(()),
    }
}

/// An obligation is not met: an error, unless the policy only observes.
fn unmet(query: *mut pg_sys::QueryDesc, refusal: Refusal) -> Result<(), Refusal> {
    let observed = statement::with_key(key(query), |open| {
        open.refuse(&refusal, open.observed);
        if !open.observed {
            // Back among the active ones, so that the error finds it.
            open.set_running();
        }
        open.observed
    });
    if observed == Some(true) { Ok(()) } else { Err(refusal) }
}

/// From 18 on the executor knows by itself whether it runs once.
#[cfg(feature = "pg18")]
unsafe extern "C-unwind" fn run18(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
) {
    // SAFETY: outer frame; see `run`.
    unsafe { run(query, direction, count, false) }
}

#[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
unsafe extern "C-unwind" fn run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    // SAFETY: outer frame; see hooks/mod.rs and `start`.
    unsafe {
        if guc::guarded() {
            guarded_run(query, direction, count, once);
        } else {
            run_executor(query, direction, count, once);
        }
    }
}

#[inline]
unsafe fn run_executor(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        version::run_executor(PREV_RUN, query, direction, count, once);
    }
}

#[inline(never)]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
unsafe fn guarded_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        if !meter::limited() && statement::begins_run(key(query)) {
            run_executor(query, direction, count, once);
        } else {
            look_and_run(query, direction, count, once);
        }
        let processed = processed(query);
        let counted = !meter::limited() && statement::ends_run(key(query), processed);
        if !counted || synced::wanted() {
            look_after_run(query, direction, count, (!counted).then_some(processed));
        }
    }
}

#[inline(never)]
unsafe fn look_and_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    // SAFETY: outer frame; see hooks/mod.rs. The cap is plain memory of the query's own context.
    unsafe {
        let mut receiver: *mut pg_sys::DestReceiver = std::ptr::null_mut();
        raise_if(checked(|| before_run(query, &raw mut receiver)));
        withhold::stay();
        run_executor(query, direction, count, once);
        if !receiver.is_null() {
            (*query).dest = receiver;
        }
    }
}

/// `uncounted` are the rows that have yet to be counted.
#[inline(never)]
unsafe fn look_after_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    uncounted: Option<i64>,
) {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        if let Some(processed) = uncounted {
            raise_if(checked(|| after_run(query, processed)));
        }
        if synced::wanted() {
            raise_if(checked(|| after_last_run(query, direction, count)));
        }
    }
}

/// The extended protocol answers a SELECT when it has run, and ends it when the portal goes: its event must not wait
/// for that. Cursors are run within FETCH, which is answered itself.
#[inline(never)]
fn after_last_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
) -> Result<(), Refusal> {
    // SAFETY: as in `after_run`; the plan is complete.
    let (processed, plain) = unsafe {
        let plan = &*(*query).plannedstmt;
        let processed = (*query).estate.as_ref().map_or(0, |estate| estate.es_processed);
        (processed, (*query).operation == pg_sys::CmdType::CMD_SELECT && !plan.hasModifyingCTE)
    };
    let forward = direction == pg_sys::ScanDirection::ForwardScanDirection;
    let complete = plain && forward && (count == 0 || processed < count);
    if complete && !statement::any_active() && statement::close(key(query)) {
        return synced::wait_at_top();
    }
    Ok(())
}

fn processed(query: *mut pg_sys::QueryDesc) -> i64 {
    // SAFETY: the executor's state exists while the query is open.
    let processed = unsafe { (*query).estate.as_ref() }.map_or(0, |estate| estate.es_processed);
    i64::try_from(processed).unwrap_or(i64::MAX)
}

/// A portal that outlived its binding gives no more rows; the window may also have ended since the last batch.
#[inline(never)]
fn before_run(
    query: *mut pg_sys::QueryDesc,
    receiver: *mut *mut pg_sys::DestReceiver,
) -> Result<(), Refusal> {
    let open = statement::with_key(key(query), |open| {
        open.set_running();
        let sent = open.is_top_level().then_some((open.sent, open.changed));
        let capped = open.obligations.max_rows.is_some();
        (open.serial(), open.starts_running(), capped, sent, open.policies)
    });
    let Some((serial, first, capped, sent, policies)) = open else { return Ok(()) };
    if serial != 0 && !first {
        let outcome = session::current()
            .and_then(|session| if session.serial == serial { Ok(()) } else { Err(rows::another_scope()) });
        if let Err(refusal) = outcome {
            statement::with_key(key(query), |open| open.refuse(&refusal, false));
            return Err(refusal);
        }
    }
    if let Some((sent, changed)) = sent.filter(|_| meter::limited()) {
        meter::runs(sent, changed);
    }
    if policies != epoch::policies() && masks::any() {
        // A mask may have come since it was opened, or since the last batch.
        // SAFETY: the plan is complete.
        let outcome = unsafe { second_line::check((*query).plannedstmt, true) };
        outcome.inspect_err(|refusal| {
            statement::with_key(key(query), |open| open.refuse(refusal, false));
        })?;
    }
    if capped {
        // SAFETY: the outer frame's local.
        unsafe { *receiver = rows::cap(query) };
    }
    Ok(())
}

#[inline(never)]
fn after_run(query: *mut pg_sys::QueryDesc, processed: i64) -> Result<(), Refusal> {
    if meter::limited() {
        count(query, u64::try_from(processed).unwrap_or(0))?;
    }
    let exceeded = statement::with_key(key(query), |open| {
        open.ran(processed);
        // What a query returns is capped where it is sent, unless the policy only observes.
        let exceeded = open.obligations.max_rows.filter(|(limit, _)| open.sent > *limit);
        if exceeded.is_some() {
            return (exceeded, false);
        }
        // Undone by the error, where people have not agreed.
        let many =
            open.obligations.approve_above.is_some_and(|(limit, _)| open.sent > limit) && !open.observed;
        if !many {
            open.set_suspended();
        }
        (None, many)
    });
    let (exceeded, many) = exceeded.unwrap_or_default();
    if many {
        approvals::counted(query)?;
        statement::set_active(key(query), false);
    }
    match exceeded {
        None => Ok(()),
        Some((limit, rule)) => {
            unmet(query, rows::limit_refusal(limit, rule))?;
            statement::set_active(key(query), false);
            Ok(())
        }
    }
}

/// Rows that a query has changed, and the clock of one that may stay open and wait for its client.
fn count(query: *mut pg_sys::QueryDesc, processed: u64) -> Result<(), Refusal> {
    // SAFETY: the query is complete while it runs.
    let (reads, modifies) = unsafe {
        ((*query).operation == pg_sys::CmdType::CMD_SELECT, (*(*query).plannedstmt).hasModifyingCTE)
    };
    if (!reads || statement::filling_new_table())
        && let Err(refusal) = meter::wrote(processed)
    {
        unmet(query, refusal)?;
    }
    let top = statement::with_key(key(query), |open| {
        open.changed = meter::changed();
        open.is_top_level()
    });
    if reads && !modifies && top == Some(true) {
        limit_timer::disarm();
    }
    Ok(())
}

/// AFTER triggers and foreign keys run here, still inside the statement.
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
unsafe extern "C-unwind" fn finish(query: *mut pg_sys::QueryDesc) {
    // SAFETY: outer frame; see hooks/mod.rs. Marking a statement neither panics nor calls the server.
    unsafe {
        // A plain SELECT changes no rows: nothing is left to be done for it.
        let guard = guc::guarded()
            && ((*query).operation != pg_sys::CmdType::CMD_SELECT || (*(*query).plannedstmt).hasModifyingCTE);
        if guard {
            finish_active(query);
        } else {
            finish_executor(query);
        }
    }
}

#[inline(never)]
unsafe fn finish_active(query: *mut pg_sys::QueryDesc) {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        statement::set_active(key(query), true);
        withhold::stay();
        finish_executor(query);
        statement::set_active(key(query), false);
    }
}

#[inline]
unsafe fn finish_executor(query: *mut pg_sys::QueryDesc) {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        match PREV_FINISH {
            Some(previous) => previous(query),
            None => raw_finish(query),
        }
    }
}

#[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
unsafe extern "C-unwind" fn end(query: *mut pg_sys::QueryDesc) {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        match PREV_END {
            Some(previous) => previous(query),
            None => raw_end(query),
        }
        if guc::guarded() && !parked::end(key(query)) {
            close(query);
        }
    }
}

#[inline(never)]
unsafe fn close(query: *mut pg_sys::QueryDesc) {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        let closed = guarded(|| {
            if limit_timer::armed()
                && statement::with_key(key(query), |open| open.is_top_level()) == Some(true)
            {
                limit_timer::disarm();
            }
            statement::close(key(query))
        });
        if closed && synced::wanted() {
            raise_if(checked(synced::wait_at_top));
        }
    }
}
