//! The relations that a utility statement names, held while it is decided and until it runs.
//!
//! The server looks names up anew when it has waited for its lock: what was decided on one table would then be done to another that
//! has got its name. So each is locked as the statement itself is about to lock it, no weaker, because two that ask for more
//! later wait for each other, and only where the server would let the agent do so. Decides nothing.

use pgrx::pg_sys;

use super::super::catalog;
use super::locks::{By, Named, named};
use super::names;

/// What the names of a statement stand for at this moment.
///
/// # Safety
/// `node` is a valid utility statement.
pub unsafe fn meant(node: *mut pg_sys::Node) -> Vec<pg_sys::Oid> {
    // SAFETY: the caller's promise.
    unsafe { named(node).into_iter().map(|one| names::relation(one.range)).collect() }
}

/// The same, locked until the end of the transaction. May wait, and raise while it does: a cancel.
///
/// # Safety
/// `node` is a valid utility statement.
pub unsafe fn hold(node: *mut pg_sys::Node) -> Vec<pg_sys::Oid> {
    // SAFETY: the caller's promise.
    unsafe { named(node).iter().map(|one| held(one)).collect() }
}

unsafe fn held(one: &Named) -> pg_sys::Oid {
    let lock = one.lock.cast_signed();
    // SAFETY: a RangeVar of the statement; a lock needs no relation to exist.
    unsafe {
        loop {
            let relation = names::relation(one.range);
            if relation == pg_sys::InvalidOid
                || !may_lock(relation, one.by)
                || too_strong_for_a_standby(one.lock)
            {
                return relation;
            }
            pg_sys::LockRelationOid(relation, lock);
            if names::relation(one.range) == relation {
                return relation;
            }
            pg_sys::UnlockRelationOid(relation, lock);
            pgrx::check_for_interrupts!();
        }
    }
}

/// LockAcquireExtended in lock.c. The statement is refused there, in words of its own.
fn too_strong_for_a_standby(lock: u32) -> bool {
    // SAFETY: it looks at shared memory.
    lock > pg_sys::RowExclusiveLock && unsafe { pg_sys::RecoveryInProgress() }
}

/// Whether the server lets the current user lock a relation for such a statement.
fn may_lock(relation: pg_sys::Oid, by: By) -> bool {
    let owner = catalog::relation_facts(relation).map(|facts| facts.owner);
    // SAFETY: catalogue look-ups; relations that are gone have no privileges.
    unsafe {
        let user = pg_sys::GetUserId();
        owner.is_some_and(|owner| match by {
            By::Anybody => true,
            By::Owner => pg_sys::has_privs_of_role(user, owner),
            By::Privileged(privileges) => {
                pg_sys::has_privs_of_role(user, owner)
                    || pg_sys::pg_class_aclcheck(relation, user, privileges) == pg_sys::AclResult::ACLCHECK_OK
            }
        })
    }
}
