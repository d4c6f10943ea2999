//! INSERT, UPDATE, DELETE and MERGE of the client's that wait for their approval.
//!
//! What they touch is known when their executor has started: by then they hold locks and a snapshot. So the executor is ended
//! again, before it has run, the transaction is committed, and after the wait everything is taken anew: locks, snapshot,
//! executor, and with it every decision. Only the plan is the one from before, so it must not have become stale: where the
//! catalogue has changed under it, the statement fails and says so.
//!
//! That is possible where the server itself expects a statement to end its transaction: in a portal that runs (PortalRunMulti),
//! as for VACUUM. A SELECT's executor starts before its portal runs (PortalStart), and rows of RETURNING go to a store that
//! belongs to the transaction: those do not wait.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::gather::names;
use super::super::process::PerProcess;
use super::super::statement::{self, Key};
use super::super::{calls, session};
use super::wait::Wait;
use crate::refusal::Refusal;

/// The relations of a plan that waits.
static WATCHED: PerProcess<RefCell<Vec<pg_sys::Oid>>> = PerProcess::new(RefCell::new(Vec::new()));
/// Whether one does: every invalidation asks.
static WATCHING: AtomicBool = AtomicBool::new(false);
/// The catalogue has changed under it.
static STALE: AtomicBool = AtomicBool::new(false);

/// The relation cache's callback: one relation, or all of them for 0. Neither raises nor panics.
pub fn relation_changed(relation: pg_sys::Oid) {
    if WATCHING.load(Ordering::Relaxed) {
        let another =
            WATCHED.with(|watched| watched.try_borrow().is_ok_and(|watched| !watched.contains(&relation)));
        if relation == pg_sys::InvalidOid || !another {
            STALE.store(true, Ordering::Relaxed);
        }
    }
}

/// The callback of the caches of functions and schemas: whichever it is, the plan may have been made with it.
pub fn catalogue_changed() {
    if WATCHING.load(Ordering::Relaxed) {
        STALE.store(true, Ordering::Relaxed);
    }
}

/// Waits until the request that a query was just refused with is decided. True where it has waited: its executor has to be
/// started again, under a statement that is as if it had just been opened. False where there is no waiting, and the refusal
/// stands.
///
/// # Errors
/// Why the session may do nothing more, or that the plan is stale.
pub fn until_decided(query: *mut pg_sys::QueryDesc, key: Key, refusal: &Refusal) -> Result<bool, Refusal> {
    let top = statement::with_key(key, |open| open.is_top_level()) == Some(true);
    // SAFETY: the query's executor has started.
    if !top || calls::any() || !unsafe { runs_alone(query) } {
        return Ok(false);
    }
    let Some(wait) = Wait::allowed(refusal) else { return Ok(false) };
    // SAFETY: the portal that runs this query and nothing else is the client's, outside a block (`runs_alone`): PortalRunMulti
    // keeps of the transaction nothing but the snapshot on top of the stack, and PortalRun finds the new one's resource owner.
    // The query, its plan and its parameters live in the portal, the plan's cache or the message.
    let stale = unsafe {
        let memory = pg_sys::CurrentMemoryContext;
        let desc = &mut *query;
        // Nothing has run: there are no triggers to fire, and the end only closes what the start has opened.
        pg_sys::AfterTriggerEndQuery(desc.estate);
        (*desc.estate).es_finished = true;
        pg_sys::standard_ExecutorEnd(query);
        pg_sys::UnregisterSnapshot(desc.snapshot);
        desc.snapshot = std::ptr::null_mut();
        pg_sys::PopActiveSnapshot();
        watch(desc.plannedstmt);
        pg_sys::CommitTransactionCommand();
        wait.wait();
        pg_sys::StartTransactionCommand();
        lock(desc.plannedstmt);
        let stale = watched();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        desc.snapshot = pg_sys::RegisterSnapshot(pg_sys::GetActiveSnapshot());
        pg_sys::MemoryContextSwitchTo(memory);
        stale
    };
    pgrx::check_for_interrupts!();
    session::current()?;
    if stale {
        return Err(changed_meanwhile(refusal));
    }
    statement::with_key(key, |open| {
        open.begin_again();
        open.starting = true;
        open.set_running();
    });
    Ok(true)
}

/// Whether the query is all that a portal of the client's runs right now, and it changes rows without returning any.
///
/// # Safety
/// The query is complete.
unsafe fn runs_alone(query: *mut pg_sys::QueryDesc) -> bool {
    // SAFETY: the caller's promise; the active portal is null or valid.
    unsafe {
        let (portal, plan) = (pg_sys::ActivePortal, (*query).plannedstmt);
        if portal.is_null() {
            return false;
        }
        let portal = &*portal;
        let own = names::members(portal.stmts);
        portal.strategy == pg_sys::PortalStrategy::PORTAL_MULTI_QUERY
            && portal.status == pg_sys::PortalStatus::PORTAL_ACTIVE
            && matches!(own.as_slice(), [only] if only.addr() == plan.addr())
            && portal.holdStore.is_null()
            && portal.holdSnapshot.is_null()
            && !portal.portalPinned
            && portal.queryEnv.is_null()
    }
}

/// The relations that a plan was made with.
///
/// # Safety
/// The plan is complete.
unsafe fn relations(plan: *mut pg_sys::PlannedStmt) -> Vec<(pg_sys::Oid, i32)> {
    // SAFETY: the caller's promise.
    unsafe {
        let entries =
            names::members((*plan).rtable).into_iter().map(|node| &*node.cast::<pg_sys::RangeTblEntry>());
        entries
            .filter(|entry| {
                entry.type_ == T::T_RangeTblEntry && entry.rtekind == pg_sys::RTEKind::RTE_RELATION
            })
            .map(|entry| (entry.relid, entry.rellockmode))
            .collect()
    }
}

/// Begins to watch what a plan was made with.
///
/// # Safety
/// The plan is complete.
unsafe fn watch(plan: *mut pg_sys::PlannedStmt) {
    // SAFETY: the caller's promise. The list has what the range table does not name any more.
    let (tables, more) = unsafe {
        let list = (*plan).relationOids;
        let count = if list.is_null() { 0 } else { usize::try_from((*list).length).unwrap_or(0) };
        let more: Vec<_> = (0..count).map(|i| (*(*list).elements.add(i)).oid_value).collect();
        (relations(plan), more)
    };
    let fresh = tables.into_iter().map(|(relid, _)| relid).chain(more).collect();
    WATCHED.with(|watched| {
        if let Ok(mut watched) = watched.try_borrow_mut() {
            *watched = fresh;
        }
    });
    STALE.store(false, Ordering::Relaxed);
    WATCHING.store(true, Ordering::Relaxed);
}

/// Ends it. Whether anything has changed; an error on the way leaves it watching, which costs little and decides nothing.
fn watched() -> bool {
    WATCHING.store(false, Ordering::Relaxed);
    STALE.load(Ordering::Relaxed)
}

/// Takes the locks of a plan again, as the plan cache does; taking one reads the invalidations that came before.
///
/// # Safety
/// The plan is complete.
unsafe fn lock(plan: *mut pg_sys::PlannedStmt) {
    // SAFETY: the caller's promise.
    unsafe {
        for (relid, mode) in relations(plan) {
            pg_sys::LockRelationOid(relid, mode);
        }
        pg_sys::AcceptInvalidationMessages();
    }
}

fn changed_meanwhile(refusal: &Refusal) -> Refusal {
    Refusal {
        reason: "plan_stale",
        hint: "What the statement was planned with has changed while it waited; run the very same statement again, which finds its request.".to_owned(),
        ..refusal.clone()
    }
}
