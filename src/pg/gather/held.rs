//! The relations that a statement of DDL names, held while it is decided and until it runs.
//!
//! The server looks names up anew when it has waited for its lock: what was decided on one table would then be done to another that
//! has got its name. So each is locked as the statement itself is about to lock it, no weaker, because two that ask for more
//! later wait for each other, and only where the server would let the agent do so. Decides nothing.

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::{catalog, version};
use super::names;

/// A relation by name, the lock that the statement takes on it, and the privilege that it takes if not ownership.
struct Named {
    range: *mut pg_sys::RangeVar,
    lock: u32,
    privilege: Option<pg_sys::AclMode>,
}

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
            if relation == pg_sys::InvalidOid || !may_lock(relation, one.privilege) {
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

/// Whether the server lets the current user lock a relation for such a statement.
fn may_lock(relation: pg_sys::Oid, privilege: Option<pg_sys::AclMode>) -> bool {
    let owner = catalog::relation_facts(relation).map(|facts| facts.owner);
    // SAFETY: catalogue look-ups; relations that are gone have no privileges.
    unsafe {
        let user = pg_sys::GetUserId();
        owner.is_some_and(|owner| {
            pg_sys::has_privs_of_role(user, owner)
                || privilege.is_some_and(|privilege| {
                    pg_sys::pg_class_aclcheck(relation, user, privilege) == pg_sys::AclResult::ACLCHECK_OK
                })
        })
    }
}

unsafe fn named(node: *mut pg_sys::Node) -> Vec<Named> {
    let one = |range: *mut pg_sys::RangeVar, lock| match range.is_null() {
        true => Vec::new(),
        false => vec![Named { range, lock, privilege: None }],
    };
    // SAFETY: the caller's promise; the tag decides each cast.
    unsafe {
        match (*node).type_ {
            T::T_AlterTableStmt => {
                let statement = &*node.cast::<pg_sys::AlterTableStmt>();
                if statement.objtype == pg_sys::ObjectType::OBJECT_TYPE {
                    return Vec::new();
                }
                let lock = pg_sys::AlterTableGetLockLevel(statement.cmds);
                one(statement.relation, lock.cast_unsigned())
            }
            T::T_RenameStmt => {
                let statement = &*node.cast::<pg_sys::RenameStmt>();
                let index = statement.renameType == pg_sys::ObjectType::OBJECT_INDEX;
                let lock = if index { pg_sys::ShareUpdateExclusiveLock } else { pg_sys::AccessExclusiveLock };
                one(statement.relation, lock)
            }
            T::T_AlterObjectSchemaStmt => {
                one((*node.cast::<pg_sys::AlterObjectSchemaStmt>()).relation, pg_sys::AccessExclusiveLock)
            }
            T::T_IndexStmt => {
                let statement = &*node.cast::<pg_sys::IndexStmt>();
                let lock =
                    if statement.concurrent { pg_sys::ShareUpdateExclusiveLock } else { pg_sys::ShareLock };
                one(statement.relation, lock)
            }
            T::T_CreateTrigStmt => {
                let range = (*node.cast::<pg_sys::CreateTrigStmt>()).relation;
                let lock = pg_sys::ShareRowExclusiveLock;
                vec![Named { range, lock, privilege: Some(version::ACL_TRIGGER) }]
            }
            T::T_RuleStmt => one((*node.cast::<pg_sys::RuleStmt>()).relation, pg_sys::AccessExclusiveLock),
            T::T_CreatePolicyStmt => {
                one((*node.cast::<pg_sys::CreatePolicyStmt>()).table, pg_sys::AccessExclusiveLock)
            }
            T::T_AlterPolicyStmt => {
                one((*node.cast::<pg_sys::AlterPolicyStmt>()).table, pg_sys::AccessExclusiveLock)
            }
            T::T_CreateStatsStmt => names::members((*node.cast::<pg_sys::CreateStatsStmt>()).relations)
                .into_iter()
                .filter(|range| (**range).type_ == T::T_RangeVar)
                .flat_map(|range| one(range.cast(), pg_sys::ShareUpdateExclusiveLock))
                .collect(),
            _ => Vec::new(),
        }
    }
}
