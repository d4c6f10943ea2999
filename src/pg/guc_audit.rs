//! The settings of the audit trail.

use pgrx::guc::{GucContext, GucEnum, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::ffi::CString;
use std::path::PathBuf;
use std::time::Duration;

use super::quick;

/// What happens to a statement when the ring is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
#[expect(non_camel_case_types, reason = "the variants are the setting's words")]
pub enum Overflow {
    /// It waits, and is denied after `agent_guard.audit_timeout`.
    wait,
    /// It runs; an event for which there is no room is counted and lost.
    drop,
}

/// Whether the trail is kept in files beside the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
#[expect(non_camel_case_types, reason = "the variants are the setting's words")]
pub enum Journal {
    /// No: it goes with a crash.
    off,
    /// Yes, a few milliseconds behind the statement.
    on,
    /// Yes, and a statement completes only when its event is on disk.
    sync,
}

static BUFFER: GucSetting<i32> = GucSetting::<i32>::new(16 * 1024);
static DATABASES: GucSetting<i32> = GucSetting::<i32>::new(4);
static CAPACITY: GucSetting<i32> = GucSetting::<i32>::new(1_000_000);
static OVERFLOW: GucSetting<Overflow> = GucSetting::<Overflow>::new(Overflow::wait);
static LOG_JSON: GucSetting<bool> = GucSetting::<bool>::new(false);
static TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5000);
static STATEMENT_SIZE: GucSetting<i32> = GucSetting::<i32>::new(1024);
static RETENTION: GucSetting<i32> = GucSetting::<i32>::new(0);
static CHECKPOINT_EVENTS: GucSetting<i32> = GucSetting::<i32>::new(100_000);
static CHECKPOINT_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(300);
static JOURNAL: GucSetting<Journal> = GucSetting::<Journal>::new(Journal::off);
static JOURNAL_DIRECTORY: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"agent_guard_journal"));
static JOURNAL_FILE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(16 * 1024);
static JOURNAL_MAX_SIZE: GucSetting<i32> = GucSetting::<i32>::new(1024 * 1024);
static JOURNAL_MAX_AGE: GucSetting<i32> = GucSetting::<i32>::new(0);

/// The most databases that can be asked for; also the size of the backend's table of reservations.
pub const MAX_DATABASES: usize = 64;

/// Defines the settings. Called once, from `_PG_init`.
pub fn init() {
    GucRegistry::define_int_guc(
        c"agent_guard.audit_buffer",
        c"Size of the shared-memory ring between backends and the audit writer, for each database.",
        c"There are agent_guard.audit_databases such rings.",
        &BUFFER,
        1024,
        1024 * 1024,
        GucContext::Postmaster,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"agent_guard.audit_databases",
        c"Number of databases that can have an audit trail at the same time.",
        c"Each has its own ring and writer, so that none can starve another.",
        &DATABASES,
        1,
        i32::try_from(MAX_DATABASES).unwrap_or(i32::MAX),
        GucContext::Postmaster,
        GucFlags::empty(),
    );
    GucRegistry::define_int_guc(
        c"agent_guard.audit_capacity",
        c"Number of events kept in each database's audit trail.",
        c"Beyond it the oldest sixteenth is removed.",
        &CAPACITY,
        16,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::empty(),
    );
    GucRegistry::define_enum_guc(
        c"agent_guard.audit_overflow",
        c"What an agent's statement does when the audit ring is full.",
        c"\"wait\" makes it wait and then denies it; \"drop\" runs it and counts the lost event.",
        &OVERFLOW,
        GucContext::Sighup,
        GucFlags::empty(),
    );
    GucRegistry::define_bool_guc(
        c"agent_guard.log_json",
        c"Writes each audit event to the server log too, as one line of JSON.",
        c"",
        &LOG_JSON,
        GucContext::Sighup,
        GucFlags::empty(),
    );
    GucRegistry::define_int_guc(
        c"agent_guard.audit_timeout",
        c"How long an agent's statement waits for the audit trail before it is denied.",
        c"",
        &TIMEOUT,
        1,
        600_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"agent_guard.audit_statement_size",
        c"Size up to which the text of a statement is kept whole.",
        c"A longer one is kept so far, with the length and the SHA-256 of the whole.",
        &STATEMENT_SIZE,
        32,
        1024 * 1024,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"agent_guard.audit_retention",
        c"Age beyond which events leave each database's audit trail; 0 for none.",
        c"They go by segments, up to a fifteenth later.",
        &RETENTION,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"agent_guard.audit_checkpoint_events",
        c"Events after which the head of the hash chain is written to the server log; 0 for never.",
        c"",
        &CHECKPOINT_EVENTS,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::empty(),
    );
    GucRegistry::define_int_guc(
        c"agent_guard.audit_checkpoint_interval",
        c"Time after which the head of the hash chain is written to the server log if it has moved; 0 for never.",
        c"",
        &CHECKPOINT_INTERVAL,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    init_journal();
}

fn init_journal() {
    GucRegistry::define_enum_guc(
        c"agent_guard.journal",
        c"Whether the audit trail is also kept in files, which survive a crash.",
        c"With \"sync\" an agent's statement completes only when its event is on disk.",
        &JOURNAL,
        GucContext::Sighup,
        GucFlags::empty(),
    );
    GucRegistry::define_string_guc(
        c"agent_guard.journal_directory",
        c"Directory of the audit journal.",
        c"Relative to the data directory. Each database has a directory of its own in it.",
        &JOURNAL_DIRECTORY,
        GucContext::Postmaster,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_int_guc(
        c"agent_guard.journal_file_size",
        c"Size beyond which the audit journal begins another file.",
        c"",
        &JOURNAL_FILE_SIZE,
        64,
        1024 * 1024,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"agent_guard.journal_max_size",
        c"Size beyond which the oldest files of each database's journal are removed; 0 for no limit.",
        c"",
        &JOURNAL_MAX_SIZE,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"agent_guard.journal_max_age",
        c"Age beyond which files of the audit journal are removed; 0 for none.",
        c"A file is as old as its last event.",
        &JOURNAL_MAX_AGE,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
}

/// Bytes of one database's ring.
pub fn buffer() -> u64 {
    u64::try_from(BUFFER.get()).unwrap_or(1024).saturating_mul(1024)
}

/// How many rings there are.
pub fn databases() -> usize {
    usize::try_from(DATABASES.get()).unwrap_or(1).clamp(1, MAX_DATABASES)
}

/// Events kept in a trail.
pub fn capacity() -> u64 {
    u64::try_from(CAPACITY.get()).unwrap_or(16)
}

/// What a full ring means.
pub fn overflow() -> Overflow {
    OVERFLOW.get()
}

/// Whether events go to the server log too.
pub fn log_json() -> bool {
    LOG_JSON.get()
}

/// How long to wait for room or for the writer.
pub fn timeout() -> Duration {
    Duration::from_millis(u64::try_from(TIMEOUT.get()).unwrap_or(5000))
}

/// Bytes of a statement's text that are kept.
pub fn statement_size() -> usize {
    usize::try_from(STATEMENT_SIZE.get()).unwrap_or(32).saturating_mul(1024)
}

/// How old an event may grow in the trail.
pub fn retention() -> Option<Duration> {
    positive(RETENTION.get()).map(Duration::from_secs)
}

/// After how many events the chain's head is to be logged.
pub fn checkpoint_events() -> Option<u64> {
    positive(CHECKPOINT_EVENTS.get())
}

/// After which time the chain's head is to be logged.
pub fn checkpoint_interval() -> Option<Duration> {
    positive(CHECKPOINT_INTERVAL.get()).map(Duration::from_secs)
}

/// Whether there is a journal.
pub fn journal() -> Journal {
    Journal::from_ordinal(quick::setting(&JOURNAL))
}

/// Where the journals are; relative to the data directory, which is every process's working directory.
pub fn journal_directory() -> PathBuf {
    let text = JOURNAL_DIRECTORY.get().and_then(|text| text.into_string().ok());
    PathBuf::from(text.filter(|text| !text.is_empty()).unwrap_or_else(|| "agent_guard_journal".to_owned()))
}

/// Bytes of a journal's file.
pub fn journal_file_size() -> u64 {
    positive(JOURNAL_FILE_SIZE.get()).unwrap_or(64).saturating_mul(1024)
}

/// Bytes of all files of a journal.
pub fn journal_max_size() -> Option<u64> {
    positive(JOURNAL_MAX_SIZE.get()).map(|size| size.saturating_mul(1024))
}

/// How old a journal's file may grow.
pub fn journal_max_age() -> Option<Duration> {
    positive(JOURNAL_MAX_AGE.get()).map(Duration::from_secs)
}

fn positive(value: i32) -> Option<u64> {
    u64::try_from(value).ok().filter(|value| *value > 0)
}
