//! The settings of api.md that belong to sessions, and the hooks that make `agent_guard.token` a handshake.
//!
//! PostgreSQL's GUC machinery is the only choke point that sees every way of setting a variable (SET, set_config,
//! UPDATE pg_settings, SET clauses, startup options, ROLLBACK, DISCARD, parallel workers). The check hook runs where
//! a value is *set*, the assign hook alone where one is *restored*: that difference decides what binds. The check
//! hook marks the value's `extra` with a serial number; the assign hook takes effect as a binding only for the
//! serial that was just checked, and leaves the session unbound for every other one.

use std::ffi::{CStr, c_void};
use std::os::raw::c_char;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pgrx::guc::GucEnum;
use pgrx::prelude::*;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

use super::version::{guc_allocate, guc_release};
use super::{challenge, encoding, quick, raise, session};
use crate::refusal::Refusal;

/// What `agent_guard.enforcement` can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum Enforcement {
    /// Denials are raised.
    #[name = c"enforce"]
    Enforce,
    /// Denials are only recorded.
    #[name = c"observe"]
    Observe,
}

/// What `agent_guard.handshake` can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum Handshake {
    /// Tokens and proofs are accepted.
    #[name = c"any"]
    Any,
    /// Proofs alone are accepted.
    #[name = c"proof"]
    Proof,
}

static ENFORCEMENT: GucSetting<Enforcement> = GucSetting::<Enforcement>::new(Enforcement::Enforce);
static HANDSHAKE: GucSetting<Handshake> = GucSetting::<Handshake>::new(Handshake::Any);
static REQUIRE_LOCAL: GucSetting<bool> = GucSetting::<bool>::new(false);
static MAX_DEPTH: GucSetting<i32> = GucSetting::<i32>::new(8);

/// The session's role is guarded: by the role's setting, or by the label seen at login.
static GUARDED: AtomicBool = AtomicBool::new(false);
static GUARDED_BY_LABEL: AtomicBool = AtomicBool::new(false);

/// The serial of the value that the check hook accepted last and the assign hook has not seen yet.
static CHECKED: AtomicU64 = AtomicU64::new(0);
/// The serial of the value in force; 0 when the session is unbound.
static ACTIVE: AtomicU64 = AtomicU64::new(0);
static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);

/// The value in force came from the leader of a parallel worker.
pub const WORKER_SERIAL: u64 = u64::MAX;

static mut TOKEN_VALUE: *mut c_char = std::ptr::null_mut();
static mut GUARDED_VALUE: bool = false;

/// What the GUC machinery keeps beside a token value and frees with it: flat, malloc'd.
#[repr(C)]
struct TokenExtra {
    serial: u64,
}

/// Whether this session belongs to a guarded role. One load: the first thing that every hook asks.
#[inline]
pub fn guarded() -> bool {
    GUARDED.load(Ordering::Relaxed)
}

/// While it lives the hooks take this session for one that is not guarded: for the extension's own statements, whose
/// texts and effects no agent chooses. Dropped also while an error unwinds.
pub struct OwnWork {
    guarded: bool,
}

static SUSPENDED: AtomicBool = AtomicBool::new(false);

/// Whether this session is a guarded one in which the extension does work of its own: what it has cached still changes.
#[inline]
pub fn suspended() -> bool {
    SUSPENDED.load(Ordering::Relaxed)
}

impl OwnWork {
    /// Begins it.
    pub fn begin() -> OwnWork {
        let guarded = GUARDED.swap(false, Ordering::Relaxed);
        if guarded {
            SUSPENDED.store(true, Ordering::Relaxed);
        }
        OwnWork { guarded }
    }
}

impl Drop for OwnWork {
    fn drop(&mut self) {
        // One inside another has nothing to put back.
        if self.guarded {
            GUARDED.store(true, Ordering::Relaxed);
            SUSPENDED.store(false, Ordering::Relaxed);
        }
    }
}

/// Notes at login that the role carries the label of `guard_role`.
pub fn guarded_by_label() {
    GUARDED_BY_LABEL.store(true, Ordering::Relaxed);
    GUARDED.store(true, Ordering::Relaxed);
    challenge::report();
}

/// The serial of the token value in force; 0 for none.
pub fn active_serial() -> u64 {
    ACTIVE.load(Ordering::Relaxed)
}

/// Ends the binding. The server leaves a variable alone that still has its value from the connection, so that DISCARD ALL
/// by itself would hand a token given there on to the next user of a pooled connection.
pub fn unbind() {
    ACTIVE.store(0, Ordering::Relaxed);
}

/// Whether denials are only recorded on this server.
pub fn observing() -> bool {
    quick::setting(&ENFORCEMENT) == Enforcement::Observe.to_ordinal()
}

/// Whether this server accepts no bearer tokens.
pub fn proof_only() -> bool {
    HANDSHAKE.get() == Handshake::Proof
}

/// Whether a token may be set for a transaction only.
pub fn require_local() -> bool {
    REQUIRE_LOCAL.get()
}

/// The ceiling over every window's depth.
pub fn max_delegation_depth() -> u8 {
    u8::try_from(MAX_DEPTH.get()).unwrap_or(0)
}

/// Defines the settings; called from `_PG_init`.
pub fn init() {
    GucRegistry::define_enum_guc(
        c"agent_guard.enforcement",
        c"Whether denials of agent_guard are raised or only recorded.",
        c"There is no value that switches the guard off: unguard the role for that.",
        &ENFORCEMENT,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"agent_guard.handshake",
        c"Which forms of a token sessions may present.",
        c"any: the token itself or a proof that answers agent_guard.challenge; proof: proofs only.",
        &HANDSHAKE,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"agent_guard.require_local",
        c"Whether a token may be set for one transaction only.",
        c"For transaction poolers: a token that outlives its transaction would serve the connection's next client.",
        &REQUIRE_LOCAL,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"agent_guard.max_delegation_depth",
        c"The deepest chain of child agents that any window allows.",
        c"A ceiling over the max_depth of every window.",
        &MAX_DEPTH,
        0,
        8,
        GucContext::Sighup,
        GucFlags::default(),
    );
    let flags = pg_sys::GUC_NOT_IN_SAMPLE | pg_sys::GUC_DISALLOW_IN_FILE;
    // SAFETY: _PG_init; the statics outlive the process, the hooks have the types that guc.h gives them.
    unsafe {
        pg_sys::DefineCustomBoolVariable(
            c"agent_guard.guarded".as_ptr(),
            c"Whether the session's role is guarded; set by agent_guard.guard_role().".as_ptr(),
            std::ptr::null(),
            &raw mut GUARDED_VALUE,
            false,
            pg_sys::GucContext::PGC_SUSET,
            i32::try_from(flags).unwrap_or(0),
            Some(guarded_check),
            Some(guarded_assign),
            None,
        );
        pg_sys::DefineCustomStringVariable(
            c"agent_guard.token".as_ptr(),
            c"The token that an agent presents; shows the public id of the accepted one.".as_ptr(),
            std::ptr::null(),
            &raw mut TOKEN_VALUE,
            c"".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            i32::try_from(flags | pg_sys::GUC_NOT_WHILE_SEC_REST).unwrap_or(0),
            Some(token_check),
            Some(token_assign),
            None,
        );
    }
}

/// Keeps everybody else from defining `agent_guard.*`; called after the last setting is defined.
pub fn reserve_prefix() {
    // SAFETY: _PG_init, after all DefineCustom calls.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"agent_guard".as_ptr()) };
}

fn initializing_parallel_worker() -> bool {
    // SAFETY: a plain flag of this process.
    unsafe { pg_sys::InitializingParallelWorker }
}

/// Hands a refusal to the GUC machinery, which raises it when the hook returns false. Without a message of ours it
/// would print the value.
fn refuse(refusal: &Refusal) {
    let text = |text: &str| -> *mut c_char {
        let owned = encoding::c_string(text);
        // SAFETY: pstrdup copies; the GUC machinery reads the string before the memory context ends.
        unsafe { pg_sys::pstrdup(owned.as_ptr()) }
    };
    // SAFETY: the GUC_check_* variables exist to be set by check hooks (src/include/utils/guc.h).
    unsafe {
        pg_sys::GUC_check_errcode(raise::sqlstate_number(refusal.sqlstate.code()));
        pg_sys::GUC_check_errmsg_string = text(&refusal.message);
        pg_sys::GUC_check_errdetail_string = text(&refusal.full_detail());
        if !refusal.hint.is_empty() {
            pg_sys::GUC_check_errhint_string = text(&refusal.hint);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn guarded_check(
    newval: *mut bool,
    _extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    use pg_sys::GucSource::{PGC_S_DATABASE_USER, PGC_S_DEFAULT, PGC_S_TEST, PGC_S_USER};
    if initializing_parallel_worker() || matches!(source, PGC_S_DEFAULT | PGC_S_TEST) {
        return true;
    }
    if !matches!(source, PGC_S_USER | PGC_S_DATABASE_USER) {
        refuse(&Refusal::new(
            crate::refusal::SqlState::InsufficientPrivilege,
            "session_only",
            "parameter \"agent_guard.guarded\" can only be set on a role",
            "",
            "Run SELECT agent_guard.guard_role('the_role') as a superuser.",
        ));
        return false;
    }
    // SAFETY: the GUC machinery passes a valid pointer.
    if unsafe { *newval } {
        session::refuse_unguardable_database();
    }
    true
}

/// The assign hook must not fail and has no choice to make.
unsafe extern "C-unwind" fn guarded_assign(newval: bool, _extra: *mut c_void) {
    GUARDED.store(newval || GUARDED_BY_LABEL.load(Ordering::Relaxed), Ordering::Relaxed);
    if newval {
        challenge::report();
    }
}

/// Outer frame: a refusal beyond the limit of tries is raised here as FATAL, where no Rust value is alive.
unsafe extern "C-unwind" fn token_check(
    newval: *mut *mut c_char,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    let mut fatal: Option<raise::Raised> = None;
    // SAFETY: the GUC machinery's own pointers.
    let accepted = unsafe { token_check_guarded(newval, extra, source, &raw mut fatal) };
    if let Some(raised) = fatal {
        // SAFETY: a plain frame; Raised is plain data.
        unsafe { raise::raise(pg_sys::FATAL, raised) };
    }
    accepted
}

#[pg_guard]
unsafe extern "C-unwind" fn token_check_guarded(
    newval: *mut *mut c_char,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
    fatal: *mut Option<raise::Raised>,
) -> bool {
    use pg_sys::GucSource::{PGC_S_CLIENT, PGC_S_DEFAULT, PGC_S_SESSION};
    if source == PGC_S_DEFAULT {
        return true;
    }
    // SAFETY: the GUC machinery passes a valid, NUL-terminated string for a string variable that is being set.
    let text = unsafe { CStr::from_ptr(*newval) }.to_string_lossy().into_owned();
    if initializing_parallel_worker() {
        // SAFETY: extra is the GUC machinery's place for our malloc'd data.
        return text.is_empty() || unsafe { keep_serial(extra, WORKER_SERIAL) };
    }
    let serial = NEXT_SERIAL.fetch_add(1, Ordering::Relaxed);
    let outcome = match source {
        PGC_S_SESSION if text.is_empty() => Ok(String::new()),
        PGC_S_SESSION => session::present(&text, serial),
        PGC_S_CLIENT => Ok(session::present_at_startup(&text, serial)),
        _ => Err(crate::token::refusals::session_only()),
    };
    match outcome {
        Ok(public) => {
            // SAFETY: both pointers belong to the value that the GUC machinery is about to take over.
            let kept = unsafe { replace_value(newval, &public) && keep_serial(extra, serial) };
            CHECKED.store(serial, Ordering::Relaxed);
            kept
        }
        Err(refusal) => {
            if source == PGC_S_SESSION && session::refused(&refusal) {
                // SAFETY: the outer frame's local.
                unsafe { *fatal = Some(raise::prepare(&refusal)) };
            }
            refuse(&refusal);
            false
        }
    }
}

/// The assign hook: takes note of which value is in force. Allocates nothing, raises nothing.
unsafe extern "C-unwind" fn token_assign(_newval: *const c_char, extra: *mut c_void) {
    // SAFETY: extra is null or what the check hook stored.
    let serial = unsafe { extra.cast::<TokenExtra>().as_ref() }.map_or(0, |extra| extra.serial);
    let fresh = serial == WORKER_SERIAL || (serial != 0 && CHECKED.swap(0, Ordering::Relaxed) == serial);
    ACTIVE.store(if fresh { serial } else { 0 }, Ordering::Relaxed);
}

/// Stores the serial beside the value; false when there is no memory.
///
/// # Safety
/// `extra` is the check hook's own parameter.
unsafe fn keep_serial(extra: *mut *mut c_void, serial: u64) -> bool {
    // SAFETY: fresh memory of the right size; alignment of malloc suffices for a u64.
    unsafe {
        let place = guc_allocate(size_of::<TokenExtra>()).cast::<TokenExtra>();
        if place.is_null() {
            return false;
        }
        place.write(TokenExtra { serial });
        *extra = place.cast();
    }
    true
}

/// Puts the public id in the secret's place and wipes the secret.
///
/// # Safety
/// `newval` is the check hook's own parameter.
unsafe fn replace_value(newval: *mut *mut c_char, public: &str) -> bool {
    // SAFETY: the old value is a NUL-terminated string that belongs to the hook from here on; the new one is
    // allocated as the GUC machinery would have done it.
    unsafe {
        let fresh = guc_allocate(public.len() + 1).cast::<u8>();
        if fresh.is_null() {
            return false;
        }
        std::ptr::copy_nonoverlapping(public.as_ptr(), fresh, public.len());
        fresh.add(public.len()).write(0);
        let old = *newval;
        let len = CStr::from_ptr(old).to_bytes().len();
        for i in 0..len {
            std::ptr::write_volatile(old.add(i), 0);
        }
        guc_release(old.cast());
        *newval = fresh.cast();
    }
    true
}
