//! The warden: ends what runs under a binding that has come to its end.
//!
//! A statement is refused at its start as soon as its binding is no good; what the start saw as good and still runs, or a
//! transaction that sits idle with its locks, is the warden's. It marks bindings whose time is over, cancels what
//! they run as pg_cancel_backend does, and ends the connection where the transaction is still open a moment later: it
//! was idle, it caught the error, or it does not look for interrupts. Whoever revokes does the first step at once.
//!
//! It aims at one transaction of one backend (`endings`), so that a session which has bound a new token meanwhile is left
//! alone.

use std::time::Duration;

use pgrx::pg_sys;

use super::bindings::{self, Ended, Hold};
use super::{endings, epoch, shmem};
use crate::refusal::{Refusal, SqlState};

/// How long a cancelled transaction may take to end before its connection does, in microseconds.
const GRACE: i64 = 400_000;
/// How often it is looked after until then.
const STEP: Duration = Duration::from_millis(50);

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// Ends the bindings that a revocation affects, at once. Returns how many there were. `affected` must not raise.
pub fn revoked(affected: impl Fn(&Hold) -> bool) -> usize {
    let now = epoch::clock();
    let count = endings::end(now, |hold| affected(hold).then_some(Ended::Revoked));
    press(now);
    wake();
    count
}

/// A session was bound that expires at `moment` (microseconds since the Unix epoch).
pub fn bound_until(moment: i64) {
    if bindings::sleeps_beyond(moment) {
        wake();
    }
}

fn wake() {
    if let Some(control) = shmem::control() {
        control.wake_launcher();
    }
}

/// One round; when the next one is due, if nobody wakes the process before.
pub fn patrol() -> Option<Duration> {
    // Until this round knows better, whoever binds wakes the process.
    bindings::looks_next(i64::MAX);
    let now = epoch::clock();
    endings::end(now, |hold| (hold.expires_at <= now).then_some(Ended::Expired));
    let earliest = press(now);
    bindings::looks_next(earliest);
    (earliest != i64::MAX).then(|| {
        // A millisecond more than needed, as WaitLatch counts in whole ones.
        let left = u64::try_from(earliest.saturating_sub(epoch::clock())).unwrap_or(0);
        Duration::from_micros(left).saturating_add(Duration::from_millis(1))
    })
}

/// Presses on with the doomed transactions. Returns when to look again, `i64::MAX` for never.
fn press(now: i64) -> i64 {
    let signal = |since: i64, heard: bool| match now.saturating_sub(since) < GRACE {
        true if heard => None,
        true => Some(SIGINT),
        false => Some(SIGTERM),
    };
    match endings::press(signal) {
        (false, earliest) => earliest,
        (true, earliest) => {
            earliest.min(now.saturating_add(i64::try_from(STEP.as_micros()).unwrap_or(i64::MAX)))
        }
    }
}

/// What to tell instead of the server's words for a cancel or a termination, where the warden is behind it.
pub fn verdict() -> Option<(&'static std::ffi::CStr, &'static std::ffi::CStr)> {
    endings::own_doom().map(words)
}

/// Message and DETAIL of an end.
fn words(ended: Ended) -> (&'static std::ffi::CStr, &'static std::ffi::CStr) {
    match ended {
        Ended::Revoked => (
            c"canceled because the token of this session was revoked",
            c"reason=revoked The window or a block of a token that this transaction ran under was revoked.",
        ),
        Ended::Expired => (
            c"canceled because the token of this session has expired",
            c"reason=expired A token that this transaction ran under came to its end.",
        ),
    }
}

/// The refusal of whatever else a transaction wants that has to go.
pub fn too_late(ended: Ended) -> Refusal {
    let (message, detail) = words(ended);
    let reason = match ended {
        Ended::Revoked => "revoked",
        Ended::Expired => "expired",
    };
    let text = |text: &std::ffi::CStr| text.to_str().unwrap_or_default().to_owned();
    let detail = text(detail).trim_start_matches(|c| c != ' ').trim_start().to_owned();
    Refusal::new(SqlState::QueryCanceled, reason, text(message), detail, text(HINT))
}

/// The hint that goes with a verdict.
pub const HINT: &std::ffi::CStr =
    c"Nothing more can be done under this token; ask the parent agent or a DBA for a new one.";

/// Whether a SQLSTATE is that of a cancelled statement or a terminated connection.
pub fn is_end(sqlerrcode: i32) -> bool {
    [
        pg_sys::errcodes::PgSqlErrorCode::ERRCODE_QUERY_CANCELED as i32,
        pg_sys::errcodes::PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN as i32,
    ]
    .contains(&sqlerrcode)
}
