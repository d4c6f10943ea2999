//! The settings of the audit trail.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::time::Duration;

/// What happens to a statement when the ring is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
#[expect(non_camel_case_types, reason = "the variants are the setting's words")]
pub enum Overflow {
    /// It waits, and is denied after `agent_guard.audit_timeout`.
    wait,
    /// It runs; an event for which there is no room is counted and lost.
    drop,
}

static BUFFER: GucSetting<i32> = GucSetting::<i32>::new(16 * 1024);
static DATABASES: GucSetting<i32> = GucSetting::<i32>::new(4);
static CAPACITY: GucSetting<i32> = GucSetting::<i32>::new(1_000_000);
static OVERFLOW: GucSetting<Overflow> = GucSetting::<Overflow>::new(Overflow::wait);
static LOG_JSON: GucSetting<bool> = GucSetting::<bool>::new(false);
static TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5000);

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
