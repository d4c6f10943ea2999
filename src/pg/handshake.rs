//! Verifies a token: from its text, the window's row and this session to what a session may rely on.
//!
//! Nothing here binds or remembers; `session` does.

use std::cell::Cell;
use std::net::IpAddr;

use pgrx::pg_sys;

use super::own::own;
use super::scan::{self, Key};
use super::session;
use super::session::{Session, authenticated_role};
use super::{bindings, catalog, epoch, guc, keys, policies, version};
use crate::limit::Limits;
use crate::refusal::{Refusal, RefusedToken, SqlState};
use crate::token::refusals::no_token;
use crate::token::{self, ActiveToken, Circumstance, Peer, PresentedToken, WindowFacts};

/// The session's address, and how the token code names it.
fn peer() -> (Peer, String) {
    // SAFETY: inet_client_addr needs no arguments; it gives NULL for local sockets and background processes.
    let address = unsafe {
        pgrx::direct_function_call::<pgrx::Inet>(pg_sys::inet_client_addr, &[]).map(|inet| inet.to_string())
    };
    let Some(address) = address else { return (Peer::Local, String::new()) };
    let bare = address.split('/').next().unwrap_or("").to_owned();
    match bare.parse::<IpAddr>() {
        Ok(ip) => (Peer::Ip(ip), bare),
        Err(_) => (Peer::Local, bare),
    }
}

/// The refusal where the extension is missing.
pub fn not_installed() -> Refusal {
    Refusal::handshake(
        "not_ready",
        "the extension agent_guard is not installed in this database",
        "",
        "Run CREATE EXTENSION agent_guard as a superuser.",
    )
}

/// A window's row, as far as the handshake needs it.
pub struct WindowRow {
    id: [u8; 16],
    max_sessions: Option<usize>,
    policy_id: i64,
    role: pg_sys::Oid,
    agent: String,
    expires_at: i64,
    max_depth: u8,
    client_addr: Option<Vec<String>>,
    require_proof: bool,
    kid: u32,
    salt: [u8; 16],
    limits: Limits,
    /// It was revoked.
    pub revoked: bool,
}

/// Looks up a window.
pub fn window_row(window: &[u8; 16]) -> Option<WindowRow> {
    let own = own()?;
    let mut found = None;
    scan::rows(own.window_grant, Some((own.window_grant_pkey, 1, Key::Uuid(*window))), |row| {
        found = (|| {
            Some(WindowRow {
                id: *window,
                max_sessions: row.column::<i32>(8).and_then(|sessions| usize::try_from(sessions).ok()),
                policy_id: row.column(2)?,
                role: row.column(3)?,
                agent: row.column(4)?,
                expires_at: row.unix_micros(6)?.div_euclid(1_000_000),
                max_depth: u8::try_from(row.column::<i32>(7)?).ok()?,
                client_addr: row.datum(9).map(|datum| {
                    // SAFETY: cidr[] through its own output function: "{10.0.0.0/8,::1/128}".
                    let text = unsafe {
                        catalog::text(pg_sys::OidOutputFunctionCall(pg_sys::Oid::from(ARRAY_OUT), datum))
                    };
                    let text = text.unwrap_or_default();
                    text.trim_matches(['{', '}'])
                        .split(',')
                        .filter(|item| !item.is_empty())
                        .map(str::to_owned)
                        .collect()
                }),
                require_proof: row.column(10)?,
                kid: u32::try_from(row.column::<i32>(11)?).ok()?,
                salt: row.sixteen(12)?,
                revoked: row.datum(13).is_some(),
                limits: policies::limits_at(row, WINDOW_LIMITS),
            })
        })();
    });
    found
}

/// The first column of the limits in the table window_grant.
const WINDOW_LIMITS: usize = 18;

/// array_out (src/include/catalog/pg_proc.dat).
const ARRAY_OUT: u32 = 751;

/// Hands `body` the question whether the table of revocations names a block.
pub fn with_revoked_blocks<R>(body: impl FnOnce(&dyn Fn(&[u8; 16]) -> bool) -> R) -> R {
    match own() {
        Some(own) => scan::with_lookup(own.revoked_block, own.revoked_block_pkey, body),
        None => body(&|_| true),
    }
}

/// The name of a policy by its id.
fn policy_name(id: i64) -> Option<String> {
    let own = own()?;
    let mut name = None;
    scan::rows(own.policy, Some((own.policy_pkey, 1, Key::Big(id))), |row| name = row.column(2));
    name
}

/// This cluster and database as the key derivation binds them.
pub fn realm() -> (u64, u32) {
    // SAFETY: reads the control file's copy in shared memory, and a plain value of this process.
    unsafe { (pg_sys::GetSystemIdentifier(), pg_sys::MyDatabaseId.to_u32()) }
}

/// The key that signs a window's tokens.
fn key_of(row: &WindowRow) -> Result<token::WindowKey, Refusal> {
    let master = keys::master(row.kid)?;
    let (sysid, database) = realm();
    Ok(token::window_key(&master, sysid, database, &row.id, &row.salt))
}

/// Derives a child's token from this session's.
///
/// # Errors
/// Why the session has no token in force, or why the child cannot be derived.
pub fn delegate(child: &token::Claims) -> Result<String, Refusal> {
    let session = session::current()?;
    let row = window_row(session.token.window()).ok_or_else(token::unknown_window)?;
    session.token.delegate(&key_of(&row)?, child)
}

/// What of a window's row and this session the token is judged by.
fn judged_by(row: &WindowRow) -> Result<(WindowFacts, String), Refusal> {
    let policy = policy_name(row.policy_id).ok_or_else(token::unknown_window)?;
    let role = catalog::role_name(row.role).ok_or_else(token::unknown_window)?;
    let client_addr = match &row.client_addr {
        None => None,
        Some(texts) => Some(
            texts
                .iter()
                .map(|text| token::Network::parse(text).ok_or_else(token::unknown_window))
                .collect::<Result<Vec<_>, _>>()?,
        ),
    };
    let facts = WindowFacts {
        agent: row.agent.clone(),
        policy: policy.clone(),
        role,
        max_depth: row.max_depth,
        expires_at: row.expires_at,
        require_proof: row.require_proof,
        client_addr,
        // Revoked in a transaction that is still open, or was rolled back: in force all the same.
        revoked: row.revoked || epoch::is_revoked(&row.id),
    };
    Ok((facts, policy))
}

/// How a token was presented.
#[derive(Clone, Copy)]
pub enum Shown<'a> {
    /// By a statement, with the challenge that was open.
    Set(Option<&'a str>),
    /// In the connection's options.
    AtConnect,
}

/// Verifies a presented token against its window, this session and this moment.
///
/// # Errors
/// Every refusal of a handshake.
pub fn verify(text: &str, serial: u64, shown: Shown<'_>) -> Result<Session, Refusal> {
    verify_unnamed(text, serial, shown).map_err(|refusal| named(text, refusal))
}

/// A refusal that comes after the signature names the token for the record. Before it, anybody could have put another's ids
/// there.
fn named(text: &str, refusal: Refusal) -> Refusal {
    let signed = !["token_refused", "proof_stale"].contains(&refusal.reason);
    let token = PresentedToken::parse(text).ok().filter(|_| signed);
    let token =
        token.map(|token| Box::new(RefusedToken { window: *token.window(), blocks: token.block_ids() }));
    Refusal { token, ..refusal }
}

fn verify_unnamed(text: &str, serial: u64, shown: Shown<'_>) -> Result<Session, Refusal> {
    let challenge = match shown {
        Shown::Set(challenge) => challenge,
        // A proof of the startup packet cannot have seen a challenge.
        Shown::AtConnect => None,
    };
    let at_connect = matches!(shown, Shown::AtConnect);
    let presented = PresentedToken::parse(text)?;
    if presented.form() == token::Form::Proof && challenge.is_none() {
        return Err(token::refusals::proof_stale());
    }
    if own().is_none() {
        return Err(not_installed());
    }
    let window = *presented.window();
    let row = match window_row(&window) {
        Some(row) if row.kid == presented.kid() => row,
        _ => {
            presented.burn();
            return Err(token::unknown_window());
        }
    };
    let key = key_of(&row)?;
    let authentic = presented.authenticate(&key, challenge)?;
    establish(&row, serial, token::fresh_id()?, at_connect, |facts, here| authentic.activate(facts, here))
}

/// The refusal of one session more than the window allows.
pub fn too_many_sessions(limit: usize) -> Refusal {
    Refusal::new(
        SqlState::ConfigurationLimitExceeded,
        "limit_exhausted",
        "the window has as many sessions as it may have",
        format!("limit={limit} max_sessions of the window."),
        "End another session of this window, or ask a DBA for a window with more sessions.",
    )
}

/// Told at the SET; the slot itself is taken under the lock when the session binds.
fn check_sessions(row: &WindowRow) -> Result<(), Refusal> {
    match row.max_sessions {
        Some(limit) if bindings::sessions_of(&row.id) >= limit => Err(too_many_sessions(limit)),
        _ => Ok(()),
    }
}

/// The part of the handshake that the leader's token and a presented one share.
fn establish(
    row: &WindowRow,
    serial: u64,
    id: [u8; 16],
    at_connect: bool,
    activate: impl FnOnce(&WindowFacts, &Circumstance<'_>) -> Result<ActiveToken, Refusal>,
) -> Result<Session, Refusal> {
    let (facts, policy) = judged_by(row)?;
    let windows = own().ok_or_else(not_installed)?.window_grant;
    let role_oid = authenticated_role();
    let role = catalog::role_name(role_oid).unwrap_or_default();
    let (peer, address) = peer();
    let system_user = version::system_user();
    // SAFETY: plain values; get_database_name returns a palloc'd copy; GetDatabaseEncoding a constant.
    let (database, utf8) = unsafe {
        let name = catalog::text(pg_sys::get_database_name(pg_sys::MyDatabaseId)).unwrap_or_default();
        (name, pg_sys::GetDatabaseEncoding() == i32::try_from(pg_sys::pg_enc::PG_UTF8).unwrap_or(-1))
    };
    let checked = epoch::revocations();
    let token = with_revoked_blocks(|in_table| {
        let is_revoked = |id: &[u8; 16]| epoch::is_revoked(id) || in_table(id);
        let here = Circumstance {
            now: epoch::clock().div_euclid(1_000_000),
            role: &role,
            database: &database,
            peer,
            system_user: system_user.as_deref(),
            proof_only: guc::proof_only(),
            at_connect,
            depth_ceiling: guc::max_delegation_depth(),
            is_revoked: &is_revoked,
            utf8,
        };
        activate(&facts, &here)
    })?;
    if serial != guc::WORKER_SERIAL {
        check_sessions(row)?;
    }
    if !token.allows_policy(&policy) {
        return Err(Refusal::handshake(
            "out_of_scope",
            "the token leaves no policy to act under",
            format!("The window's policy \"{policy}\" is not among those that every block names."),
            "Derive the token again with the window's policy in pol, or without pol.",
        ));
    }
    Ok(Session {
        serial,
        id,
        token,
        policy_id: row.policy_id,
        policy,
        role,
        address,
        max_sessions: row.max_sessions,
        limits: row.limits,
        window_ends: row.expires_at,
        checked: Cell::new(checked),
        windows,
    })
}

/// The binding of a parallel worker: that of its leader.
///
/// # Errors
/// `no_token` where the leader has none, and every refusal that time or a revocation has brought since.
pub fn from_leader() -> Result<Session, Refusal> {
    let (window, id, public) = bindings::leader().ok_or_else(no_token)?;
    let row = window_row(&window).ok_or_else(no_token)?;
    establish(&row, guc::WORKER_SERIAL, id, false, |facts, here| {
        ActiveToken::from_public_text(&public, facts, here)
    })
}
