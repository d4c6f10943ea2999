//! Statements that have ended and may come again: kept whole, so that opening one anew takes a comparison and no work.
//!
//! Nothing here decides. INVARIANT: `reopen` opens only what `statement::open` would have opened as it is. What the checks at an
//! opening depend on is the binding and its end, the policy epoch, under which limits, recording and masks were looked up, and
//! what runs around it; all that is compared. That it asks for the same relations as it did is proved when it does (`repeated`).

use std::rc::Rc;

use pgrx::pg_sys;

use super::super::known::{self, Known};
use super::super::session::Standing;
use super::super::withhold::Texts;
use super::super::{epoch, fault, guc, quick, results, rows, synced, trail, unusual};
use super::open::Open;
use super::publish;
use super::{Key, STATEMENTS, Statements};

/// Opens a query as it was left, if nothing that counts has changed since; false where it has to be looked at. Neither raises
/// nor panics.
///
/// # Safety
/// `query` is complete, as ExecutorStart gets it.
pub unsafe fn reopen(query: *mut pg_sys::QueryDesc) -> bool {
    // SAFETY: the caller's promise; only read.
    let (desc, plan) = unsafe { (&*query, &*(*query).plannedstmt) };
    if unusual::any() {
        return false;
    }
    let Ok(mut statements) = STATEMENTS.try_borrow_mut() else { return false };
    let statements = &mut *statements;
    // SAFETY: the source text is palloc'd and NUL-terminated for as long as the query runs.
    let place = unsafe { known::place(desc.sourceText, plan.stmt_location) };
    let Some(place) = statements.parked.get_mut(place) else { return false };
    let Some(open) = place.as_mut() else { return false };
    // SAFETY: as above.
    let same = open.operation == desc.operation
        && open
            .known
            .as_ref()
            .is_some_and(|known| unsafe { known.is(desc.sourceText, plan.stmt_location, plan.stmt_len) });
    if !same {
        return false;
    }
    let now = epoch::clock();
    let stays = open.standing.holds(now)
        && !(synced::wanted() || quick::in_foreign_key())
        && !statements.open.iter().any(|open| open.active)
        // SAFETY: the parameters belong to the query; only read.
        && unsafe { rows::numbers(desc.params, &mut open.parameters.numbers) }
        && (fault::skips_record() || trail::reserve_again(open.reservation));
    if !stays {
        return false;
    }
    let Some(mut open) = place.take() else { return false };
    (open.key, open.at, open.subtransaction) = (Key::Query(query.addr()), now, quick::subtransaction());
    (open.active, open.starting, open.has_run, open.reopened) = (true, true, false, true);
    open.begun = false;
    (open.rows, open.sent, open.rule, open.policy_version) = (-1, 0, None, 0);
    statements.open.push(open);
    true
}

/// Ends a statement that was reopened and ran as it did before, and parks it again; false where it takes a closer look.
/// Neither raises nor panics.
pub fn end(key: Key) -> bool {
    if unusual::any() || synced::wanted() {
        return false;
    }
    let Ok(mut statements) = STATEMENTS.try_borrow_mut() else { return false };
    let last = statements.open.last().filter(|open| open.reopened && open.key == key);
    let ended = last.is_some_and(|open| publish::reopened(open));
    if ended && let Some(open) = statements.open.pop() {
        park(&mut statements, open);
    }
    ended
}

#[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
fn park(statements: &mut Statements, mut open: Box<Open>) {
    open.before = open.repeated.take();
    let place = open.known.as_ref().and_then(|known| statements.parked.get_mut(known.place()));
    if let Some(place) = place {
        *place = Some(open);
    }
}

/// Keeps a statement that has just ended and was published, where it is one that can be reopened; gives it back where not.
#[inline(never)]
pub(super) fn keep(statements: &mut Statements, mut open: Box<Open>) -> Option<Box<Open>> {
    if !can_come_again(&open) {
        return Some(open);
    }
    let ending = open.known.as_ref().and_then(|known| known.ending.try_borrow().ok()?.clone());
    let same = |repeated| {
        ending.as_ref().is_some_and(|it| {
            Rc::ptr_eq(&it.repeated, repeated) && it.command == open.command && it.level == open.level
        })
    };
    if !open.repeated.as_ref().is_some_and(same) {
        return Some(open);
    }
    let standing = open.session.as_deref().and_then(|session| Standing::of(session, open.policies));
    let Some(standing) = standing else { return Some(open) };
    (open.ending, open.standing) = (ending, standing);
    park(statements, open);
    None
}

/// Whether nothing rode on the statement, and nothing was limited, masked, held back or recorded beside it.
fn can_come_again(open: &Open) -> bool {
    let settled = open.serial() == guc::active_serial()
        && open.policies == epoch::policies()
        && open.known.as_deref().is_some_and(Known::came_again);
    let bare = open.level == 0
        && open.operation != pg_sys::CmdType::CMD_UNKNOWN
        && open.is_plain()
        && open.held.is_none()
        && open.obligations.is_empty()
        && open.where_required.is_empty()
        && !(open.changes_limited || open.makes_table || open.begun || open.masked)
        && open.texts == Texts::PLAIN
        && open.parameters.given.is_none();
    settled && bare && !(unusual::any() || results::wanted() || synced::wanted())
}

/// Forgets them: the binding that they ran under is let go of.
pub fn forget() {
    if let Ok(mut statements) = STATEMENTS.try_borrow_mut() {
        statements.parked.fill_with(|| None);
    }
}
