//! What generated views are to agents: one that is read shows its masks once, and SELECT on it is enough to read its relation.
//!
//! A level of a query that is the view itself keeps the view's own expressions. A role that may not read a relation, but its
//! generated view, reads the relation's masked columns under the view's owner; that it still may is checked wherever the
//! plan starts (`may_read`), because plans are cached.

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::catalog;
use super::super::gather::names;
use super::super::masks::{self, Masked};
use super::super::version::ACL_SELECT;
use super::{Mark, filter, mark};
use crate::refusal::Refusal;

/// Whether this level of the query is the generated view of its entry `index`: it gives what the view gives, and nothing of
/// the raw rows decides which.
///
/// # Safety
/// `index` is an entry of the query.
pub unsafe fn is_shown(query: *mut pg_sys::Query, index: i32, masked: &Masked) -> bool {
    let Some(view) = masked.view else { return false };
    // SAFETY: a valid query; the tags decide the casts.
    unsafe {
        let level = &*query;
        let bare = level.commandType == pg_sys::CmdType::CMD_SELECT
            && level.setOperations.is_null()
            && level.cteList.is_null()
            && level.groupClause.is_null()
            && level.groupingSets.is_null()
            && level.havingQual.is_null()
            && level.distinctClause.is_null()
            && level.sortClause.is_null()
            && level.limitCount.is_null()
            && level.limitOffset.is_null()
            && !level.hasTargetSRFs
            && !level.hasSubLinks
            && !level.jointree.is_null()
            && (*level.jointree).quals.is_null();
        if !bare || !has_entry_of(level, view) {
            return false;
        }
        let from = names::members((*level.jointree).fromlist);
        let [only] = from.as_slice() else { return false };
        (**only).type_ == T::T_RangeTblRef
            && (*only.cast::<pg_sys::RangeTblRef>()).rtindex == index
            && masked.shows(level.targetList)
    }
}

/// Up to 15 the rewriter leaves the view's own entry beside what the view reads. From 16 on it does not: there whoever writes
/// the view's very target list reads what the view shows.
unsafe fn has_entry_of(level: &pg_sys::Query, view: pg_sys::Oid) -> bool {
    if cfg!(not(feature = "pg15")) {
        return true;
    }
    // SAFETY: a list of range table entries.
    unsafe {
        names::members(level.rtable).into_iter().any(|entry| {
            let entry = &*entry.cast::<pg_sys::RangeTblEntry>();
            entry.rtekind == pg_sys::RTEKind::RTE_RELATION && entry.relid == view
        })
    }
}

/// Leaves the view's own masks as they are, and adds what bears on its relation besides: masks of relatives, filters.
///
/// # Safety
/// As `is_shown`, which was true.
pub unsafe fn keep(
    query: *mut pg_sys::Query,
    index: i32,
    entry: *mut pg_sys::RangeTblEntry,
    masked: &Masked,
) {
    // SAFETY: target entries of the level and of a fresh copy; names of target entries of views are not null.
    unsafe {
        for target in names::members(masked.masked_targets(index)) {
            let target = &*target.cast::<pg_sys::TargetEntry>();
            for shown in names::members((*query).targetList) {
                let shown = &mut *shown.cast::<pg_sys::TargetEntry>();
                let plain = (*shown.expr.cast::<pg_sys::Node>()).type_ == T::T_Var
                    && (*shown.expr.cast::<pg_sys::Var>()).varattno == target.resno
                    && std::ffi::CStr::from_ptr(shown.resname) == std::ffi::CStr::from_ptr(target.resname);
                if plain {
                    shown.expr = target.expr;
                }
            }
        }
        filter(entry, index, masked);
        mark(entry, Mark::Substituted(masked.fingerprint));
    }
}

/// The owner of the generated view, where the role that reads the entry may read that view and not the relation.
///
/// # Safety
/// `entry` is an entry of the query, not replaced yet.
pub unsafe fn lender(
    query: *mut pg_sys::Query,
    entry: *mut pg_sys::RangeTblEntry,
    masked: &Masked,
) -> Option<pg_sys::Oid> {
    let view = masked.view?;
    // SAFETY: catalogue look-ups.
    unsafe {
        let (required, check_as) = permissions(query, entry)?;
        if required != pg_sys::ACL_SELECT || check_as != pg_sys::InvalidOid {
            return None;
        }
        let role = pg_sys::GetUserId();
        let any_column = pg_sys::AclMaskHow::ACLMASK_ANY;
        let relation = masked.relation;
        if pg_sys::pg_class_aclcheck(relation, role, ACL_SELECT) == pg_sys::AclResult::ACLCHECK_OK
            || pg_sys::pg_attribute_aclcheck_all(relation, role, ACL_SELECT, any_column)
                == pg_sys::AclResult::ACLCHECK_OK
            || pg_sys::pg_class_aclcheck(view, role, ACL_SELECT) != pg_sys::AclResult::ACLCHECK_OK
        {
            return None;
        }
    }
    catalog::relation_facts(view).map(|facts| facts.owner)
}

/// What an entry asks for, and as whom.
#[cfg(feature = "pg15")]
unsafe fn permissions(
    _query: *mut pg_sys::Query,
    entry: *mut pg_sys::RangeTblEntry,
) -> Option<(u32, pg_sys::Oid)> {
    // SAFETY: an entry of a query.
    unsafe { Some(((*entry).requiredPerms, (*entry).checkAsUser)) }
}

#[cfg(not(feature = "pg15"))]
unsafe fn permissions(
    query: *mut pg_sys::Query,
    entry: *mut pg_sys::RangeTblEntry,
) -> Option<(u32, pg_sys::Oid)> {
    // SAFETY: an entry of the query; perminfoindex counts from 1 in its list.
    unsafe {
        let at = usize::try_from((*entry).perminfoindex).ok()?.checked_sub(1)?;
        let infos = names::members((*query).rteperminfos);
        let info = &*infos.get(at)?.cast::<pg_sys::RTEPermissionInfo>();
        Some((u32::try_from(info.requiredPerms).ok()?, info.checkAsUser))
    }
}

/// Has an entry of the subquery checked as this role.
///
/// # Safety
/// `inner` is the entry of the subquery, with permissions of its own.
pub unsafe fn lend(subquery: *mut pg_sys::Query, inner: *mut pg_sys::RangeTblEntry, owner: pg_sys::Oid) {
    // SAFETY: the caller's promise; both are the planner's own copies.
    unsafe {
        #[cfg(feature = "pg15")]
        {
            let _ = subquery;
            (*inner).checkAsUser = owner;
        }
        #[cfg(not(feature = "pg15"))]
        {
            let at = usize::try_from((*inner).perminfoindex).unwrap_or(0);
            let infos = names::members((*subquery).rteperminfos);
            if let Some(info) = at.checked_sub(1).and_then(|at| infos.get(at)) {
                (*info.cast::<pg_sys::RTEPermissionInfo>()).checkAsUser = owner;
            }
        }
    }
}

/// Whether whoever runs a plan with a `Lent` entry still may read the generated view.
///
/// # Errors
/// Where the role may not, or there is no such view any more.
pub fn may_read(relation: pg_sys::Oid) -> Result<(), Refusal> {
    let view = masks::of(relation)?.and_then(|masked| masked.view);
    // SAFETY: a catalogue look-up.
    let may = view.is_some_and(|view| unsafe {
        pg_sys::pg_class_aclcheck(view, pg_sys::GetUserId(), ACL_SELECT) == pg_sys::AclResult::ACLCHECK_OK
    });
    if may {
        return Ok(());
    }
    // SAFETY: marks cached plans invalid (plancache.c), so that the next try is planned anew.
    unsafe { pg_sys::ResetPlanCache() };
    Err(masks::refusal(
        "mask_changed",
        relation,
        None,
        |name| format!("the privileges on {name} changed while the statement was prepared"),
        "Its plan was made for a role that may read the generated view.",
        "Run the statement again.",
    ))
}
