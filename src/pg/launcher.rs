//! The launcher: starts a writer for every database that wants one, and again when one dies. It writes nothing. Between
//! its rounds it lends its process to the warden.

use std::ffi::CStr;
use std::os::raw::c_char;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::guc_audit::{self, Journal};
use super::shmem::{self, Control, is_set};
use super::slot::Slot;
use super::{epoch, standby, version, warden};

const LIBRARY: &CStr = c"agent_guard";
/// A writer that lives shorter than this has failed.
const QUICK: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// What a launcher waits before it starts writers, where its predecessor began hardly longer ago.
const HASTE: Duration = Duration::from_millis(100);

/// Registers the launcher. Called once, from `_PG_init`.
pub fn init() {
    // At once: while it is gone nobody looks after the clock.
    let mut worker = worker(c"agent_guard audit launcher", c"agent_guard_audit_launcher", 0);
    // SAFETY: called while shared_preload_libraries is processed, the only time when static workers register.
    unsafe { pg_sys::RegisterBackgroundWorker(&mut worker) };
}

/// A description of one of our workers; `restart` in seconds, negative for never.
fn worker(name: &CStr, function: &CStr, restart: i32) -> pg_sys::BackgroundWorker {
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: i32::try_from(
            pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION,
        )
        .unwrap_or(0),
        // Also on a standby, as soon as anybody may connect.
        bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_ConsistentState,
        bgw_restart_time: restart,
        ..Default::default()
    };
    copy_name(name, &mut worker.bgw_name);
    copy_name(name, &mut worker.bgw_type);
    copy_name(LIBRARY, &mut worker.bgw_library_name);
    copy_name(function, &mut worker.bgw_function_name);
    worker
}

fn copy_name<const N: usize>(name: &CStr, into: &mut [c_char; N]) {
    for (to, from) in into.iter_mut().zip(name.to_bytes().iter().take(N.saturating_sub(1))) {
        *to = c_char::from_ne_bytes([*from]);
    }
}

/// Sets the signal handlers of both kinds of workers: SIGHUP and SIGTERM set flags, nothing raises.
pub fn attach_signals() {
    // SAFETY: the server's own handlers, set before signals are unblocked, in a process of our own.
    unsafe {
        unsafe extern "C-unwind" {
            fn SignalHandlerForConfigReload(signal: i32);
            fn SignalHandlerForShutdownRequest(signal: i32);
        }
        version::handle_signal(1, SignalHandlerForConfigReload);
        version::handle_signal(15, SignalHandlerForShutdownRequest);
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// Whether the process has been asked to end.
pub fn asked_to_end() -> bool {
    // SAFETY: a flag that the signal handler sets.
    unsafe { pg_sys::ShutdownRequestPending != 0 }
}

/// Waits on the process's latch; whether it was set.
pub fn wait(longest: Option<Duration>) -> bool {
    let mut events = pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH;
    let mut timeout = -1;
    if let Some(longest) = longest {
        events |= pg_sys::WL_TIMEOUT;
        timeout = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX);
    }
    // SAFETY: the process's own latch.
    let woken = unsafe {
        let events = i32::try_from(events).unwrap_or(0);
        let woken = pg_sys::WaitLatch(pg_sys::MyLatch, events, timeout, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
        woken
    };
    serve();
    u32::try_from(woken).unwrap_or(0) & pg_sys::WL_LATCH_SET != 0
}

/// Does what the server asks of every process between two pieces of work; for one that works without waiting, too.
pub fn serve() {
    pgrx::check_for_interrupts!();
    reload();
}

/// Reads the configuration again if the server was told to.
fn reload() {
    // SAFETY: the flag is the signal handler's; called between transactions.
    unsafe {
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// What the launcher knows of the writer of one slot.
struct Start {
    handle: *mut pg_sys::BackgroundWorkerHandle,
    began: Instant,
    not_before: Instant,
    failures: u32,
    warned: bool,
}

/// The launcher's main function.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn agent_guard_audit_launcher(_arg: pg_sys::Datum) {
    attach_signals();
    let Some(control) = shmem::control() else { return };
    // SAFETY: no database and no role: shared catalogues only, to see which databases exist.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
        pg_sys::before_shmem_exit(Some(launcher_gone), pg_sys::Datum::from(0_usize));
        control.launcher_latch.store(pg_sys::MyLatch, Ordering::SeqCst);
        control.launcher_pid.store(pg_sys::MyProcPid, Ordering::SeqCst);
    }
    restore_journaled(control);
    let mut starts: Vec<Option<Start>> = control.slots().map(|_| None).collect();
    // What has ended while there was no launcher comes first. Should one die young again and again, its successors take
    // time before the rest.
    warden::patrol();
    if control.launcher_is_hasty(epoch::clock()) {
        wait(Some(HASTE));
    }
    while !asked_to_end() {
        let mut pause: Option<Duration> = None;
        for ((n, slot), start) in control.slots().zip(starts.iter_mut()) {
            if let Some(again) = look_after(control, n, slot, start) {
                pause = Some(pause.map_or(again, |pause| pause.min(again)));
            }
        }
        let patrol = warden::patrol();
        wait(match (pause, patrol) {
            (Some(pause), Some(patrol)) => Some(pause.min(patrol)),
            (pause, patrol) => pause.or(patrol),
        });
    }
    // Anything but 0, or the postmaster would not start it again.
    // SAFETY: ends this process in the orderly way.
    unsafe { pg_sys::proc_exit(1) };
}

/// Databases with a journal get their writers at once: a crash may have emptied their tables.
fn restore_journaled(control: &Control) {
    // A standby has no tables to be filled.
    if guc_audit::journal() == Journal::off || standby::is_one() {
        return;
    }
    let Ok(directories) = std::fs::read_dir(guc_audit::journal_directory()) else { return };
    for directory in directories.flatten() {
        let database = directory.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if let Some(database) = database.filter(|database| database_exists(*database))
            && let Some((_, slot)) = control.claim_slot(pg_sys::Oid::from(database))
        {
            slot.want_writer();
        }
    }
}

unsafe extern "C-unwind" fn launcher_gone(_code: i32, _arg: pg_sys::Datum) {
    if let Some(control) = shmem::control() {
        control.launcher_pid.store(0, Ordering::SeqCst);
    }
}

/// Starts the slot's writer if it wants one; when to look again, if there is more to come.
fn look_after(_control: &Control, n: usize, slot: &Slot, start: &mut Option<Start>) -> Option<Duration> {
    let database = slot.database.load(Ordering::SeqCst);
    let lives = slot.writer_pid.load(Ordering::SeqCst) != 0;
    if let Some(known) = start.as_mut()
        && !known.handle.is_null()
        && stopped(known.handle)
    {
        // SAFETY: the handle is the palloc'd one of RegisterDynamicBackgroundWorker, not used any more.
        unsafe { pg_sys::pfree(known.handle.cast()) };
        known.handle = std::ptr::null_mut();
        let failed = known.began.elapsed() < QUICK && is_set(&slot.wanted);
        known.failures = if failed { known.failures.saturating_add(1) } else { 0 };
        known.not_before = Instant::now() + pause_after(known.failures);
        if failed && !database_exists(database) {
            let lost = slot.free(n);
            log!(
                "audit ring of database {database} is freed, the database is gone; {lost} events are lost with it"
            );
        }
    }
    if database == 0 || lives {
        return None;
    }
    if !is_set(&slot.wanted) && slot.used() == 0 {
        match until_too_old(slot) {
            Some(Duration::ZERO) => slot.wanted.store(1, Ordering::SeqCst),
            later => return later,
        }
    }
    let known = start.get_or_insert_with(|| Start {
        handle: std::ptr::null_mut(),
        began: Instant::now(),
        not_before: Instant::now(),
        failures: 0,
        warned: false,
    });
    if !known.handle.is_null() {
        // On its way; the postmaster signals this process when that changes.
        return Some(Duration::from_secs(1));
    }
    let pause = known.not_before.saturating_duration_since(Instant::now());
    if !pause.is_zero() {
        return Some(pause);
    }
    let mut worker = worker(c"agent_guard audit writer", c"agent_guard_audit_writer", -1);
    worker.bgw_main_arg = pg_sys::Datum::from(n);
    // SAFETY: a plain variable of this process.
    worker.bgw_notify_pid = unsafe { pg_sys::MyProcPid };
    known.began = Instant::now();
    // SAFETY: both are valid for the call; the handle is kept until the worker has stopped.
    if unsafe { pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut known.handle) } {
        known.warned = false;
        return Some(Duration::from_secs(1));
    }
    known.handle = std::ptr::null_mut();
    known.not_before = Instant::now() + Duration::from_secs(1);
    if !known.warned {
        known.warned = true;
        warning!(
            "no worker slot is free for the audit writer of database {database}; raise max_worker_processes"
        );
    }
    Some(Duration::from_secs(1))
}

/// How long until the oldest events of a trail whose writer rests have to go, if they ever have to.
fn until_too_old(slot: &Slot) -> Option<Duration> {
    let (age, oldest) = (guc_audit::retention()?, slot.oldest_at.load(Ordering::SeqCst));
    if oldest == 0 || standby::is_one() {
        return None;
    }
    let due = oldest.saturating_add(i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
    let left = due.saturating_sub(super::scan::clock());
    Some(Duration::from_micros(u64::try_from(left.max(0)).unwrap_or(0)))
}

fn stopped(handle: *mut pg_sys::BackgroundWorkerHandle) -> bool {
    let mut pid = 0;
    // SAFETY: the handle comes from RegisterDynamicBackgroundWorker.
    let status = unsafe { pg_sys::GetBackgroundWorkerPid(handle, &mut pid) };
    matches!(status, pg_sys::BgwHandleStatus::BGWH_STOPPED | pg_sys::BgwHandleStatus::BGWH_POSTMASTER_DIED)
}

/// None for the first death, then growing.
fn pause_after(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => Duration::from_millis(100).saturating_mul(1 << n.min(6)).min(LONGEST_PAUSE),
    }
}

fn database_exists(database: u32) -> bool {
    // SAFETY: a short transaction of a process connected to the shared catalogues.
    unsafe {
        pg_sys::StartTransactionCommand();
        let exists = pg_sys::SearchSysCacheExists(
            i32::try_from(pg_sys::SysCacheIdentifier::DATABASEOID).unwrap_or(0),
            pg_sys::Datum::from(database),
            pg_sys::Datum::from(0_usize),
            pg_sys::Datum::from(0_usize),
            pg_sys::Datum::from(0_usize),
        );
        pg_sys::CommitTransactionCommand();
        exists
    }
}
