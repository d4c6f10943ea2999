//! The time that one statement of the client may take: a timer of this backend, armed where the statement begins and
//! disarmed where it ends.
//!
//! It cancels as the server's statement_timeout does, which may end the statement earlier. A function that catches the cancel
//! is cancelled again, and its connection ended after that: it would never end by itself.

use std::os::raw::c_int;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use pgrx::pg_sys;

use super::unusual::{self, Unusual};
use super::version;

/// How often the cancel is repeated, in milliseconds.
const AGAIN: c_int = 100;
/// How many cancels there are before the connection ends.
const CANCELS: u32 = 5;
const SIGINT: c_int = 2;
const SIGTERM: c_int = 15;

unsafe extern "C-unwind" {
    // src/include/utils/timeout.h; the bindings lack them.
    fn RegisterTimeout(id: c_int, handler: Option<unsafe extern "C-unwind" fn()>) -> c_int;
    fn enable_timeout_every(id: c_int, first: i64, delay_in_ms: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
}

unsafe extern "C" {
    #[link_name = "kill"]
    fn libc_kill(pid: c_int, signal: c_int) -> c_int;
}

/// The timer's number; negative before it has one.
static TIMER: AtomicI32 = AtomicI32::new(-1);
/// How often it has gone off for the statement that runs or ended last.
static FIRED: AtomicU32 = AtomicU32::new(0);
/// The limit, in microseconds.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// A statement of the client begins: it has so many microseconds.
pub fn arm(limit: u64) {
    FIRED.store(0, Ordering::Relaxed);
    LIMIT.store(limit, Ordering::Relaxed);
    unusual::set(Unusual::Timed, true);
    // SAFETY: a backend that runs statements has its timeouts initialised (InitPostgres); both calls keep to timeout.h.
    unsafe {
        let mut timer = TIMER.load(Ordering::Relaxed);
        if timer < 0 {
            timer = RegisterTimeout(version::USER_TIMEOUT, Some(went_off));
            TIMER.store(timer, Ordering::Relaxed);
        }
        let end = super::quick::timestamp().saturating_add(i64::try_from(limit).unwrap_or(i64::MAX));
        enable_timeout_every(timer, end, AGAIN);
    }
}

/// The statement has ended, or waits for its client.
pub fn disarm() {
    if armed() {
        unusual::set(Unusual::Timed, false);
        // SAFETY: armed, hence registered.
        unsafe { disable_timeout(TIMER.load(Ordering::Relaxed), false) };
    }
}

/// Whether it may go off.
pub fn armed() -> bool {
    unusual::is(Unusual::Timed)
}

/// The limit that the running statement has passed, in microseconds; `None` where the timer has not gone off.
pub fn passed() -> Option<u64> {
    let fired = armed() && FIRED.load(Ordering::Relaxed) > 0;
    fired.then(|| LIMIT.load(Ordering::Relaxed))
}

/// A signal handler: flags and a signal, as the server's own for statement_timeout.
unsafe extern "C-unwind" fn went_off() {
    if !armed() {
        return;
    }
    let before = FIRED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: a plain signal to this process.
    unsafe { libc_kill(pg_sys::MyProcPid, if before < CANCELS { SIGINT } else { SIGTERM }) };
}
