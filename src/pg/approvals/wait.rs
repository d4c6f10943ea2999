//! Waiting for people instead of failing.
//!
//! Only where it costs nobody anything: a statement of the client's, outside a transaction block, before anything of it has
//! run. Its transaction is committed first, as VACUUM does it, so that the session waits without a lock, a snapshot or a
//! transaction; the statement then goes on in a new one. Here for utility statements, in `again` for changes of rows.
//! Everything else fails at once with the request.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::pg_sys;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

use super::super::session::{self, Session};
use super::super::slot::Slot;
use super::super::statement::{self, Key};
use super::super::{epoch, trail};
use super::table;
use crate::refusal::{Refusal, SqlState};

/// The longest wait, in milliseconds.
const LONGEST: i32 = 3_600_000;

/// How long requests are kept after their end, in seconds, where nothing else is set.
const KEPT: i32 = 90 * 86_400;

static WAIT: GucSetting<i32> = GucSetting::<i32>::new(0);
static RETENTION: GucSetting<i32> = GucSetting::<i32>::new(KEPT);

/// How long requests are kept after their end; `None` for ever.
pub fn retention() -> Option<Duration> {
    u64::try_from(RETENTION.get()).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

/// Defines the settings of approvals; called from `_PG_init`.
pub fn init() {
    GucRegistry::define_int_guc(
        c"agent_guard.approval_wait",
        c"How long a statement waits for its approval before it fails with the request.",
        c"Utility statements and changes of rows outside a transaction block wait; 0 is not at all.",
        &WAIT,
        0,
        LONGEST,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"agent_guard.approval_retention",
        c"How long requests for approval are kept after they were used, rejected or expired.",
        c"Older ones are removed when a new one is stored; 0 keeps them.",
        &RETENTION,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
}

/// Approvers have decided on something in this database: whoever waits looks again.
pub fn decided() {
    if let Some((_, slot)) = trail::my_slot() {
        slot.decisions.fetch_add(1, Ordering::SeqCst);
        slot.decided.broadcast();
    }
}

/// A wait that may begin.
pub struct Wait {
    request: [u8; 16],
    slot: &'static Slot,
    deadline: Instant,
    /// The revocations so far: at another one the session looks whether it is over.
    revocations: u64,
    /// When the token ends.
    ends: i64,
}

impl Wait {
    /// The wait for the request that a statement of the client's was just refused with; `None` where there is to be none:
    /// the session or the policy wants none, or a transaction block would be held open.
    pub fn allowed(refusal: &Refusal) -> Option<Wait> {
        let longest = Duration::from_millis(u64::try_from(WAIT.get()).unwrap_or(0));
        let waits = refusal.sqlstate == SqlState::ApprovalRequired && refusal.reason == "needs_approval";
        // SAFETY: looks at this process's transaction state.
        if longest.is_zero() || !waits || unsafe { pg_sys::IsInTransactionBlock(true) } {
            return None;
        }
        let (request, most) = super::request::last_asked()?;
        // The agent says how long it would wait, the policy how long it may.
        let longest = most.map_or(longest, |most| longest.min(most));
        if longest.is_zero() {
            return None;
        }
        let session = session::current().ok()?;
        let (_, slot) = trail::my_slot()?;
        Some(Wait {
            request,
            slot,
            deadline: Instant::now() + longest,
            revocations: epoch::revocations(),
            ends: session.token.expires_at().saturating_mul(1_000_000),
        })
    }

    /// Waits, between two transactions.
    ///
    /// # Safety
    /// The process is outside any transaction.
    pub unsafe fn wait(&self) {
        loop {
            // Before the look, so that no decision falls in between.
            let seen = self.slot.decisions.load(Ordering::SeqCst);
            // SAFETY: the caller's promise.
            let pending = unsafe {
                pg_sys::StartTransactionCommand();
                let pending = table::is_pending(&self.request);
                pg_sys::CommitTransactionCommand();
                pending
            };
            if !pending || !self.sleep(seen) {
                break;
            }
        }
    }

    /// Sleeps until somebody decides. False where there is nothing to wait for any more: the time is over, the statement is
    /// cancelled, or the token has perhaps ended.
    fn sleep(&self, seen: u64) -> bool {
        let go_on = loop {
            self.slot.decided.prepare();
            if self.slot.decisions.load(Ordering::SeqCst) != seen {
                break true;
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            let over =
                left.is_zero() || epoch::revocations() != self.revocations || epoch::clock() >= self.ends;
            if over || trail::interrupted() {
                break false;
            }
            trail::sleep_held(&self.slot.decided, left);
        };
        super::super::shmem::SharedCondition::cancel();
        go_on
    }
}

/// Waits until the request that a utility statement was just refused with is decided. The session as it is then; `None` where
/// there is no waiting, and the refusal stands. The statement is as if it had just been opened.
///
/// # Errors
/// Why the session may do nothing more: its token has ended meanwhile.
pub fn until_decided(
    key: Key,
    refusal: &Refusal,
    context: pg_sys::ProcessUtilityContext::Type,
) -> Result<Option<Rc<Session>>, Refusal> {
    if context != pg_sys::ProcessUtilityContext::PROCESS_UTILITY_TOPLEVEL {
        return Ok(None);
    }
    let Some(wait) = Wait::allowed(refusal) else { return Ok(None) };
    // SAFETY: between the client's message and the statement, outside a block: the transaction holds nothing but this
    // statement's parse tree, which lives in the portal. What EnsurePortalSnapshotExists puts back, the portal's owner pops.
    unsafe {
        let memory = pg_sys::CurrentMemoryContext;
        let snapshot = pg_sys::ActiveSnapshotSet();
        if snapshot {
            pg_sys::PopActiveSnapshot();
        }
        pg_sys::CommitTransactionCommand();
        wait.wait();
        pg_sys::StartTransactionCommand();
        if snapshot {
            pg_sys::EnsurePortalSnapshotExists();
        }
        pg_sys::MemoryContextSwitchTo(memory);
    }
    pgrx::check_for_interrupts!();
    let session = session::current()?;
    statement::with_key(key, statement::Open::begin_again);
    Ok(Some(session))
}
