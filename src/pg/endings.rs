//! The end of tokens: which bindings it concerns, which transactions have to go with it, and that they do.
//!
//! A transaction is doomed by the end of any token that it ran under. It neither sends another row nor commits; `warden`
//! presses it until it is gone. Signals are sent under the bindings' lock to a transaction that is open at that moment, and
//! the backend takes back what is still on its way when that transaction ends: none hits the one after it.

use std::sync::atomic::Ordering;

use pgrx::pg_sys;

use super::bindings::{Ended, Hold, Slot, each_mut, open_transaction, own, own_transaction, with_own};
use super::{epoch, quick};

unsafe extern "C" {
    #[link_name = "kill"]
    fn libc_kill(pid: i32, signal: i32) -> i32;
}

/// Dooms the open transaction of a slot.
fn doom(slot: &mut Slot, transaction: u32, ended: Ended, now: i64) {
    // INVARIANT: the other two are read only by whoever sees the transaction's number, under the lock.
    (slot.doomed_at, slot.doomed_by) = (now, ended.code());
    slot.heard.store(0, Ordering::Relaxed);
    slot.doomed.store(transaction, Ordering::SeqCst);
}

/// Puts every binding to its end that `affected` gives a reason for, and dooms the transactions that ran under such a token.
/// Returns how many bindings there were. `affected` must not raise.
pub fn end(now: i64, affected: impl Fn(&Hold) -> Option<Ended>) -> usize {
    let mut count = 0;
    each_mut(|slot| {
        if slot.process == 0 {
            return;
        }
        // SAFETY: a slot with a process has its backend's entry.
        let open = unsafe { open_transaction(slot.process) };
        let mut dooming = None;
        if slot.pid != 0
            && slot.ended().is_none()
            && let Some(ended) = affected(&slot.hold)
        {
            count += 1;
            slot.ended.store(ended.code(), Ordering::SeqCst);
            // A transaction that only presents the next token is left alone; `bindings::runs` has the other half.
            dooming = (slot.ran_in.load(Ordering::SeqCst) == open).then_some(ended);
        }
        if open != 0 && slot.earlier_in == open {
            dooming = dooming.or_else(|| slot.earlier().iter().find_map(&affected));
        }
        if let Some(ended) = dooming
            && open != 0
            && slot.doomed.load(Ordering::Relaxed) != open
        {
            doom(slot, open, ended, now);
        }
    });
    count
}

/// This backend's open transaction ran under a token that has just been let go of after its end.
pub fn outlived(now: i64) {
    with_own(|slot| {
        let open = own_transaction();
        if open != 0 && slot.doomed.load(Ordering::Relaxed) != open {
            doom(slot, open, Ended::Expired, now);
        }
    });
}

/// Sends each doomed transaction that is still open the signal that `choose` has for the time it was doomed at, and for whether it
/// has heard of that already. Returns whether there was one, and the earliest moment at which a token in charge expires. `choose`
/// must not raise.
pub fn press(choose: impl Fn(i64, bool) -> Option<i32>) -> (bool, i64) {
    let (mut any, mut earliest) = (false, i64::MAX);
    each_mut(|slot| {
        if slot.process == 0 {
            return;
        }
        // SAFETY: a slot with a process has its backend's entry.
        let open = unsafe { open_transaction(slot.process) };
        let doomed = slot.doomed.load(Ordering::Relaxed);
        if doomed != 0 && doomed == open {
            any = true;
            if let Some(signal) = choose(slot.doomed_at, slot.heard.load(Ordering::SeqCst) != 0) {
                slot.pressed.store(1, Ordering::SeqCst);
                // SAFETY: a plain signal to a backend that cannot exit without this lock (at_exit in bindings).
                unsafe { libc_kill(slot.backend, signal) };
            }
        }
        if slot.pid != 0 && slot.ended().is_none() {
            earliest = earliest.min(slot.hold.expires_at);
        }
        if open != 0 && slot.earlier_in == open && doomed != open {
            earliest = slot.earlier().iter().fold(earliest, |earliest, hold| earliest.min(hold.expires_at));
        }
    });
    (any, earliest)
}

/// Whether this backend's open transaction has to go. Two loads where nothing ever ended.
#[inline]
pub fn doomed() -> bool {
    own().is_some_and(|slot| match slot.doomed.load(Ordering::SeqCst) {
        0 => false,
        doomed => doomed == own_transaction(),
    })
}

/// Why this backend's open transaction has to go, if it has to.
pub fn own_doom() -> Option<Ended> {
    with_own(|slot| match slot.doomed.load(Ordering::Relaxed) {
        0 => None,
        _ => Ended::of(slot.doomed_by),
    })
    .flatten()
}

/// Whether `must_not_commit` has to be asked: not for a transaction that has written nothing, where nothing has ended.
#[inline]
pub fn may_forbid_commit() -> bool {
    own().is_some_and(|slot| slot.doomed.load(Ordering::SeqCst) != 0) || quick::transaction() != 0
}

/// Why this backend's open transaction may not commit: it is doomed, or it has written something and the time of a token
/// that it ran under is over without anybody having noticed yet.
pub fn must_not_commit() -> Option<Ended> {
    let slot = own()?;
    if doomed() {
        return own_doom();
    }
    if quick::transaction() == 0 {
        return None;
    }
    // INVARIANT: what is read here is written by this backend alone.
    let open = own_transaction();
    let current = if slot.pid != 0 { slot.hold.expires_at } else { i64::MAX };
    let earlier = if slot.earlier_in == open { slot.earlier() } else { &[] };
    let earliest = earlier.iter().fold(current, |earliest, hold| earliest.min(hold.expires_at));
    (earliest != i64::MAX && earliest <= epoch::clock()).then_some(Ended::Expired)
}

/// This backend is about to answer with the error that ends its transaction. If that one is doomed, it is cancelled no more: what is
/// left to do is to record the error, and a cancel would end the wait for that. Neither raises nor panics.
pub fn heard() {
    if doomed() {
        take_back(|slot| slot.heard.store(1, Ordering::SeqCst));
    }
}

/// This backend's transaction is over: takes back the cancels that were meant for it. Neither raises nor panics.
#[inline]
pub fn transaction_over() {
    let Some(slot) = own() else { return };
    if slot.doomed.load(Ordering::SeqCst) == 0 && slot.pressed.load(Ordering::SeqCst) == 0 {
        return;
    }
    take_back(|slot| slot.doomed.store(0, Ordering::SeqCst));
}

/// Takes back the cancels that were sent until `mark` has said that there shall be no more.
#[cold]
fn take_back(mark: impl FnOnce(&mut Slot)) {
    let pressed = with_own(|slot| {
        mark(slot);
        slot.pressed.swap(0, Ordering::SeqCst) != 0
    });
    if pressed == Some(true) {
        // SAFETY: from here on nobody sends a cancel for that transaction. What was sent before is delivered at the latest when a
        // system call returns, of which this one does nothing else; the flag is this process's own (miscadmin.h).
        unsafe {
            libc_kill(pg_sys::MyProcPid, 0);
            pg_sys::QueryCancelPending = 0;
        }
    }
}
