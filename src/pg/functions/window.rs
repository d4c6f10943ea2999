//! grant_window, revoke_window, revoke_block.

use pgrx::datum::{Interval, TimestampWithTimeZone, Uuid};
use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::keyring::block_id;
use crate::limit::Meter;
use crate::pg::admin_error::{AdminError, AdminResult, given};
use crate::pg::functions::{Untouched, administrator, done, limits};
use crate::pg::keys;
use crate::pg::store::policy as policies;
use crate::pg::store::role;
use crate::pg::store::window::{self as store, NewWindow};
use crate::pg::text_datum::Text;
use crate::pg::{epoch, ledger, record, warden};
use crate::token;

/// The longest name of an agent (docs/token.md).
const MAX_AGENT: usize = 64;
/// The deepest delegation that the token's format has room for.
const DEEPEST: i32 = 7;

type Granted = (Uuid, String, TimestampWithTimeZone);

#[pg_extern(sql = false)]
#[expect(clippy::too_many_arguments, reason = "the parameters of the SQL function")]
fn grant_window(
    policy: Option<Text>,
    role: Option<pg_sys::Oid>,
    agent: Option<Text>,
    ttl: Option<Interval>,
    max_depth: Option<i32>,
    max_sessions: Option<i32>,
    client_addr: Option<Untouched>,
    require_proof: Option<bool>,
    reason: Option<Text>,
    rows_per_statement: Option<i64>,
    rows_read: Option<i64>,
    rows_written: Option<i64>,
    bytes_read: Option<i64>,
    statements: Option<i64>,
    statement_timeout: Option<Interval>,
    uses: Option<i64>,
) -> Result<
    TableIterator<
        'static,
        (name!(window_id, Uuid), name!(token, String), name!(expires_at, TimestampWithTimeZone)),
    >,
    ErrorReport,
> {
    let (policy, agent, reason) = (policy.as_deref(), agent.as_deref(), reason.as_deref());
    let grant = || -> AdminResult<Granted> {
        administrator()?;
        let policy = given(policy, "policy")?;
        let role_oid = guarded(given(role, "role")?)?;
        let agent = agent_name(given(agent, "agent")?)?;
        let ttl = given(ttl, "ttl")?;
        let max_depth = depth(given(max_depth, "max_depth")?)?;
        if max_sessions.is_some_and(|sessions| sessions < 1) {
            return Err(AdminError::invalid("max_sessions must be at least 1")
                .hint("Leave it NULL for no limit on simultaneous sessions."));
        }
        let require_proof = given(require_proof, "require_proof")?;
        let addresses = || Untouched::parameter(client_addr, pg_sys::CIDRARRAYOID);
        if let Some(list) = store::addresses(addresses())?
            && (list.count == 0 || list.has_null)
        {
            return Err(AdminError::invalid("client_addr is an empty list or has NULL in it")
                .hint("Leave it NULL to accept every address."));
        }
        let mut limits = limits::limits(
            rows_per_statement,
            rows_read,
            rows_written,
            bytes_read,
            statements,
            statement_timeout,
        )?;
        if let Some(total) = limits.totals.get_mut(Meter::Uses.index()) {
            *total = limits::number(uses, "uses")?;
        }
        let found = policies::find_policy(policy)?.ok_or_else(|| policies::unknown_policy(policy))?;
        let expires_unix = match store::lifetime(ttl)? {
            Some(lifetime) if lifetime.acceptable => lifetime.expires_unix,
            _ => {
                return Err(AdminError::invalid("ttl must be at least one second and at most 30 days")
                    .hint("Grant a short window, such as ttl => '1 hour', and a new one when it is over."));
            }
        };
        let (kid, master) = keys::active()?;
        let stored_kid =
            i32::try_from(kid).map_err(|_| AdminError::state("the key's number is out of range"))?;
        let (id, salt) = (token::fresh_id()?, token::fresh_salt()?);
        let token = mint_root(&master, kid, &id, &salt, &agent, expires_unix, max_depth)?;
        let told = format!(
            "agent {agent} under policy {policy}, depth {max_depth}, reason: {}",
            reason.unwrap_or("none")
        );
        let expires_at = store::add(NewWindow {
            id,
            policy: found.id,
            role: role_oid,
            agent,
            expires_unix,
            max_depth,
            max_sessions,
            client_addr: addresses(),
            require_proof,
            kid: stored_kid,
            salt,
            reason: reason.map(str::to_owned),
            limits,
        })?;
        let expires_at = expires_at.ok_or_else(|| AdminError::state("the window was not stored"))?;
        record::record_admin("grant_window", &told, Some(id));
        Ok((Uuid::from_bytes(id), token, expires_at))
    };
    Ok(TableIterator::once(grant()?))
}

#[pg_extern(sql = false)]
fn revoke_window(window_id: Option<Uuid>, reason: Option<Text>) -> Result<(), ErrorReport> {
    let reason = reason.as_deref();
    let revoke = || -> AdminResult<()> {
        administrator()?;
        let window = given(window_id, "window_id")?;
        let revoked = store::lock(window)?.ok_or_else(|| {
            AdminError::undefined(format!("window {window} does not exist"))
                .hint("The view agent_guard.windows lists the windows of this database.")
        })?;
        if revoked {
            AdminError::new(
                PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
                format!("window {window} was revoked already"),
            )
            .tell(PgLogLevel::NOTICE);
        } else {
            store::revoke(window, reason.map(str::to_owned))?;
        }
        // Also the second time: shared memory may have been emptied by a restart in between.
        epoch::revoke(&window);
        ledger::window_over(window.as_bytes(), epoch::clock());
        tell(warden::revoked(|hold| hold.window == *window.as_bytes()));
        let told = format!("reason: {}", reason.unwrap_or("none"));
        record::record_admin("revoke_window", &told, Some(*window.as_bytes()));
        Ok(())
    };
    Ok(revoke()?)
}

#[pg_extern(sql = false)]
fn revoke_block(block: Option<Text>, reason: Option<Text>) -> Result<(), ErrorReport> {
    let (block, reason) = (block.as_deref(), reason.as_deref());
    let revoke = || -> AdminResult<()> {
        administrator()?;
        let text = given(block, "block_id")?;
        let block = block_id(text).ok_or_else(|| {
            AdminError::invalid("block_id is not 32 hexadecimal digits").hint(
                "The id of the last block is what SHOW agent_guard.token prints behind the second colon in the agent's session.",
            )
        })?;
        if !store::revoke_block(block, reason.map(str::to_owned))? {
            AdminError::new(
                PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
                format!("block {} was revoked already", text.trim().to_lowercase()),
            )
            .tell(PgLogLevel::NOTICE);
        }
        epoch::revoke(&block);
        tell(warden::revoked(|hold| hold.blocks().contains(&block)));
        done("revoke_block", format!("block {}, reason: {}", token::hex(&block), reason.unwrap_or("none")));
        Ok(())
    };
    Ok(revoke()?)
}

/// Tells how many sessions a revocation has ended.
fn tell(sessions: usize) {
    if sessions > 0 {
        let many =
            if sessions == 1 { "1 session ends".to_owned() } else { format!("{sessions} sessions end") };
        AdminError::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, format!("{many} with it"))
            .tell(PgLogLevel::NOTICE);
    }
}

/// The token of a new window: its first block.
fn mint_root(
    master: &[u8; 32],
    kid: u32,
    window: &[u8; 16],
    salt: &[u8; 16],
    agent: &str,
    expires_unix: i64,
    max_depth: i32,
) -> AdminResult<String> {
    // SAFETY: both are set before a backend runs its first statement and never change in it.
    let (system, database) = unsafe { (pg_sys::GetSystemIdentifier(), pg_sys::MyDatabaseId.to_u32()) };
    let key = token::window_key(master, system, database, window, salt);
    let mut claims = token::Claims::new(token::fresh_jti()?, agent, expires_unix);
    claims.depth = u8::try_from(max_depth).ok();
    Ok(token::mint(&key, kid, window, &claims)?)
}

/// The role's OID, if it is guarded.
fn guarded(oid: pg_sys::Oid) -> AdminResult<pg_sys::Oid> {
    let row = role::existing(oid, "Name an existing role that guard_role() has guarded.")?;
    if !row.guarded {
        return Err(AdminError::state(format!("role \"{}\" is not guarded", row.name)).hint(format!(
            "A superuser has to guard it first: SELECT agent_guard.guard_role({});",
            pgrx::spi::quote_literal(&row.name)
        )));
    }
    Ok(oid)
}

pub(super) fn agent_name(name: &str) -> AdminResult<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._:@/-".contains(c);
    if name.is_empty() || name.len() > MAX_AGENT || !name.chars().all(allowed) {
        return Err(AdminError::invalid("agent is no name of an agent").hint(
            "Use 1 to 64 characters out of A-Z, a-z, 0-9 and . _ : @ / -, such as 'reports/nightly'.",
        ));
    }
    Ok(name.to_owned())
}

fn depth(depth: i32) -> AdminResult<i32> {
    let ceiling = super::setting(c"agent_guard.max_delegation_depth").unwrap_or(DEEPEST).min(DEEPEST);
    if depth < 0 || depth > ceiling {
        return Err(AdminError::invalid(format!("max_depth must be between 0 and {ceiling}")).hint(
            "0 lets the agent derive no tokens for children; agent_guard.max_delegation_depth is the ceiling of this server.",
        ));
    }
    Ok(depth)
}
