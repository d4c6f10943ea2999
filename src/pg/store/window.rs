//! The tables window_grant and revoked_block.

use pgrx::datum::{DatumWithOid, Interval, TimestampWithTimeZone, Uuid};
use pgrx::pg_sys::Oid;

use crate::limit::Limits;
use crate::pg::admin_error::AdminResult;
use crate::pg::store::policy::{PolicyId, parameter};
use crate::pg::store::row;

/// When a window of some length that opens at this moment ends.
pub struct Lifetime {
    /// Whether the length is one second at least and thirty days at most.
    pub acceptable: bool,
    /// The end, in whole seconds since 1970.
    pub expires_unix: i64,
}

/// Counts a length of time from the clock (not from the start of the transaction). A month is thirty days.
pub fn lifetime(ttl: Interval) -> AdminResult<Option<Lifetime>> {
    row(
        "SELECT t.ok, CASE WHEN t.ok THEN pg_catalog.floor(
             EXTRACT(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.+) EXTRACT(epoch FROM $1)
             )::pg_catalog.int8 ELSE 0 END
         FROM (SELECT $1 OPERATOR(pg_catalog.>=) '1 second'::pg_catalog.interval
                  AND $1 OPERATOR(pg_catalog.<=) '30 days'::pg_catalog.interval) t (ok)",
        &[ttl.into()],
        |row| Ok(Lifetime { acceptable: row.need(1)?, expires_unix: row.need(2)? }),
    )
}

/// A window about to be stored.
pub struct NewWindow<'a> {
    /// The identifier.
    pub id: [u8; 16],
    /// Its policy.
    pub policy: PolicyId,
    /// The login role that may bind it.
    pub role: Oid,
    /// The agent's name.
    pub agent: String,
    /// The end, in whole seconds since 1970.
    pub expires_unix: i64,
    /// How deep it may be delegated.
    pub max_depth: i32,
    /// How many sessions may be bound at once.
    pub max_sessions: Option<i32>,
    /// `cidr[]`: where clients may come from.
    pub client_addr: DatumWithOid<'a>,
    /// Whether bearer tokens are refused.
    pub require_proof: bool,
    /// The signing key.
    pub kid: i32,
    /// The window's salt.
    pub salt: [u8; 16],
    /// Why it was granted.
    pub reason: Option<String>,
    /// What it limits.
    pub limits: Limits,
}

/// Stores a window; its end as the server writes it.
pub fn add(window: NewWindow<'_>) -> AdminResult<Option<TimestampWithTimeZone>> {
    let [rows_read, rows_written, bytes_read, statements, uses] = window.limits.totals.map(parameter);
    row(
        "INSERT INTO agent_guard.window_grant (window_id, policy_id, role_oid, agent, granted_at, expires_at, max_depth,
             max_sessions, client_addr, require_proof, kid, salt, reason, rows_per_statement, rows_read, rows_written,
             bytes_read, statements, statement_timeout, uses)
         VALUES ($1, $2, $3, $4, pg_catalog.clock_timestamp(), pg_catalog.to_timestamp($5::pg_catalog.float8), $6, $7,
             $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
             $18::pg_catalog.float8 OPERATOR(pg_catalog.*) '1 ms'::pg_catalog.interval, $19)
         RETURNING expires_at",
        &[
            Uuid::from_bytes(window.id).into(),
            window.policy.0.into(),
            window.role.into(),
            window.agent.into(),
            window.expires_unix.into(),
            window.max_depth.into(),
            window.max_sessions.into(),
            window.client_addr,
            window.require_proof.into(),
            window.kid.into(),
            window.salt.to_vec().into(),
            window.reason.into(),
            parameter(window.limits.rows_per_statement),
            rows_read,
            rows_written,
            bytes_read,
            statements,
            parameter(window.limits.statement_timeout.map(|microseconds| microseconds / 1000)),
            uses,
        ],
        |row| row.need(1),
    )
}

/// What is wrong with a list of client addresses.
pub struct Addresses {
    /// How many there are.
    pub count: i32,
    /// Whether one is NULL.
    pub has_null: bool,
}

/// Looks at a list of client addresses.
pub fn addresses(list: DatumWithOid<'_>) -> AdminResult<Option<Addresses>> {
    row(
        "SELECT pg_catalog.cardinality($1), pg_catalog.array_position($1, NULL) IS NOT NULL WHERE $1 IS NOT NULL",
        &[list],
        |row| Ok(Addresses { count: row.need(1)?, has_null: row.need(2)? }),
    )
}

/// How many windows of a policy are neither over nor revoked.
pub fn open_windows(policy: PolicyId) -> AdminResult<i64> {
    let count = row(
        "SELECT pg_catalog.count(*) FROM agent_guard.window_grant w
         WHERE w.policy_id OPERATOR(pg_catalog.=) $1 AND w.revoked_at IS NULL
           AND w.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()",
        &[policy.0.into()],
        |row| row.need(1),
    )?;
    Ok(count.unwrap_or(0))
}

/// Finds a window and locks it; whether it was revoked before.
pub fn lock(window: Uuid) -> AdminResult<Option<bool>> {
    row(
        "SELECT w.revoked_at IS NOT NULL
         FROM agent_guard.window_grant w WHERE w.window_id OPERATOR(pg_catalog.=) $1 FOR UPDATE",
        &[window.into()],
        |row| row.need(1),
    )
}

/// Marks a window as revoked.
pub fn revoke(window: Uuid, reason: Option<String>) -> AdminResult<()> {
    super::run(
        "UPDATE agent_guard.window_grant SET revoked_at = pg_catalog.clock_timestamp(), revoked_by = SESSION_USER,
             revoke_reason = $2
         WHERE window_id OPERATOR(pg_catalog.=) $1",
        &[window.into(), reason.into()],
    )
}

/// Stores a revoked block; whether it is new.
pub fn revoke_block(block: [u8; 16], reason: Option<String>) -> AdminResult<bool> {
    let added: Option<bool> = row(
        "INSERT INTO agent_guard.revoked_block (block_id, revoked_at, reason)
         VALUES ($1, pg_catalog.clock_timestamp(), $2) ON CONFLICT (block_id) DO NOTHING RETURNING true",
        &[block.to_vec().into(), reason.into()],
        |row| row.need(1),
    )?;
    Ok(added.is_some())
}
