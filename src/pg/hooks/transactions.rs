//! Transaction, subtransaction and invalidation callbacks. Nothing here may raise or panic, as an error in a commit callback
//! would restart the server, but for the one before the commit: there an error still makes an abort of it.

use std::ffi::c_void;

use pgrx::pg_sys;

use super::super::unusual::Unusual;
use super::super::{
    approvals, calls, endings, epoch, guc, limit_timer, masks, own, policies, session, standby, statement,
    unusual, upkeep, withhold,
};
use super::{checked, object_access, raise_if};

/// Registers the callbacks; the registrations are inherited by every backend.
pub fn init() {
    // SAFETY: _PG_init; function pointers that live as long as the process.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction), std::ptr::null_mut());
        pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), pg_sys::Datum::from(0));
        for cache in [
            pg_sys::SysCacheIdentifier::PROCOID,
            pg_sys::SysCacheIdentifier::NAMESPACEOID,
            pg_sys::SysCacheIdentifier::AUTHOID,
        ] {
            let cache = i32::try_from(cache).unwrap_or(0);
            pg_sys::CacheRegisterSyscacheCallback(cache, Some(catalogue_changed), pg_sys::Datum::from(0));
        }
        // What an expression of a mask or filter uses besides functions, and whose it is.
        for cache in [
            pg_sys::SysCacheIdentifier::TYPEOID,
            pg_sys::SysCacheIdentifier::CONSTROID,
            pg_sys::SysCacheIdentifier::OPEROID,
            pg_sys::SysCacheIdentifier::COLLOID,
        ] {
            let cache = i32::try_from(cache).unwrap_or(0);
            pg_sys::CacheRegisterSyscacheCallback(cache, Some(code_changed), pg_sys::Datum::from(0));
        }
    }
}

#[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
unsafe extern "C-unwind" fn transaction(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent as E;
    epoch::transaction_ended(event);
    approvals::transaction_ended(event);
    if event == E::XACT_EVENT_COMMIT {
        over();
    } else if event == E::XACT_EVENT_PRE_COMMIT || event == E::XACT_EVENT_PRE_PREPARE {
        if guc::guarded() && endings::may_forbid_commit() {
            // SAFETY: outer frame; see hooks/mod.rs.
            unsafe { last_word() };
        }
    } else if event == E::XACT_EVENT_ABORT {
        over();
        aborted();
    }
}

#[inline]
fn over() {
    if withhold::armed() {
        withhold::transaction_ended();
    }
    if guc::guarded() {
        endings::transaction_over();
    }
}

/// The last word on a transaction one of whose tokens has ended: a function may have caught the cancel.
#[cold]
#[inline(never)]
unsafe fn last_word() {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe { raise_if(checked(session::may_commit)) };
}

#[cold]
#[inline(never)]
fn aborted() {
    upkeep::forget();
    if !guc::guarded() {
        return;
    }
    // After an error that reached the top the server has dropped the text (postgres.c); ROLLBACK still has it.
    // SAFETY: a plain pointer of this process.
    let error = unsafe { pg_sys::debug_query_string.is_null() };
    if error {
        calls::clear();
        object_access::forget_from(0);
        limit_timer::disarm();
    }
    statement::transaction_aborted(error);
}

unsafe extern "C-unwind" fn subtransaction(
    event: pg_sys::SubXactEvent::Type,
    own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    if guc::guarded() && event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        object_access::forget_from(own);
        statement::subtransaction_aborted(own);
    }
}

unsafe extern "C-unwind" fn relation_changed(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    approvals::relation_changed(relation);
    standby::relation_changed(relation);
    if guc::guarded() || guc::suspended() {
        policies::forget_compiled();
        masks::forget_compiled();
    }
}

unsafe extern "C-unwind" fn code_changed(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    if guc::guarded() || guc::suspended() {
        masks::forget_compiled();
    }
}

unsafe extern "C-unwind" fn catalogue_changed(_argument: pg_sys::Datum, cache: i32, _hash: u32) {
    // Administrative functions ask for our own objects too, in sessions that are not guarded.
    if u32::try_from(cache) != Ok(pg_sys::SysCacheIdentifier::AUTHOID) {
        own::forget();
        approvals::catalogue_changed();
    }
    if guc::guarded() || guc::suspended() {
        if u32::try_from(cache) == Ok(pg_sys::SysCacheIdentifier::NAMESPACEOID) {
            unusual::set(Unusual::Moved, true);
        }
        policies::forget_compiled();
        masks::forget_compiled();
    }
}
