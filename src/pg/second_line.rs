//! The second line: a plan may read a masked or filtered relation only where `substitute` has left its mark, whichever way
//! the plan came about. A leak takes two bugs.

use pgrx::pg_sys;

use super::calls;
use super::gather::names;
use super::masks;
use super::substitute::{self, Mark};
use super::version;
use super::withhold::Texts;
use crate::refusal::{Refusal, SqlState};

/// Looks at every entry of a plan that is about to start, or to go on after it was suspended. Returns which of its texts
/// have to be withheld.
///
/// # Errors
/// An internal fault where a relation would be read raw, and a plan that is out of date.
///
/// # Safety
/// `plan` is a complete PlannedStmt.
pub unsafe fn check(plan: *mut pg_sys::PlannedStmt, resumed: bool) -> Result<Texts, Refusal> {
    if !masks::any() {
        return Ok(Texts::PLAIN);
    }
    let foreign_key = calls::in_foreign_key();
    let mut texts = Texts::PLAIN;
    // Fingerprints of entries that stand for themselves: what a parent's mark says holds for its children.
    let mut proven: Vec<u64> = Vec::new();
    let mut open: Vec<(pg_sys::Oid, u64)> = Vec::new();
    // SAFETY: the caller's promise; entries are only read.
    for node in unsafe { names::members((*plan).rtable) } {
        // SAFETY: as above.
        let entry = unsafe { &*node.cast::<pg_sys::RangeTblEntry>() };
        if !substitute::may_concern(entry) {
            continue;
        }
        let Some(masked) = masks::of(entry.relid)? else { continue };
        if !masked.masks() && !masked.filters_rows() {
            continue;
        }
        let fingerprint = match Mark::of(entry) {
            Some(Mark::Policy) => {
                texts = texts.and(Texts::VALUES);
                continue;
            }
            None if foreign_key => {
                texts = texts.and(Texts::RAW);
                continue;
            }
            None if resumed => return Err(stale(entry.relid)),
            None => return Err(fault(entry.relid)),
            Some(Mark::Substituted(fingerprint) | Mark::Lent(fingerprint)) => {
                if masked.leaks_in_errors || masked.row_security {
                    texts = texts.and(Texts::VALUES);
                }
                fingerprint
            }
            Some(Mark::Target(fingerprint)) => {
                texts = texts.and(Texts::RAW);
                fingerprint
            }
        };
        if fingerprint == masked.fingerprint {
            proven.push(fingerprint);
        } else if version::has_permissions(entry) {
            return Err(stale(entry.relid));
        } else {
            open.push((entry.relid, fingerprint));
        }
    }
    match open.iter().find(|(_, fingerprint)| !proven.contains(fingerprint)) {
        Some((relation, _)) => Err(stale(*relation)),
        None => Ok(texts),
    }
}

fn fault(relation: pg_sys::Oid) -> Refusal {
    let refusal = masks::refusal(
        "mask_fault",
        relation,
        None,
        |name| format!("internal fault: {name} would be read past its mask or row filter"),
        "The statement was stopped before it read anything.",
        "Tell a DBA: this is a fault of agent_guard.",
    );
    Refusal { sqlstate: SqlState::InternalError, ..refusal }
}

fn stale(relation: pg_sys::Oid) -> Refusal {
    // SAFETY: marks cached plans invalid (plancache.c), so that the next try is planned anew.
    unsafe { pg_sys::ResetPlanCache() };
    masks::refusal(
        "mask_changed",
        relation,
        None,
        |name| format!("the masks or row filters of {name} changed while the statement was prepared"),
        "Its plan was made for what held before.",
        "Run the statement again.",
    )
}
