//! Who this backend is: unguarded, guarded without a token, or bound to the scope of one.
//!
//! `guc` tells which token value is in force; this module holds what was verified for it. A value that was verified
//! but is no longer in force is dropped, a value in force that was not just verified binds nothing.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;

use pgrx::pg_sys;

use super::own::own;
use super::scan::{self, Key};
use super::{bindings, catalog, challenge, epoch, guc, keys, raise, warden};
use crate::refusal::{Refusal, SqlState};
use crate::token::{self, ActiveToken, Circumstance, Peer, PresentedToken, WindowFacts};

/// How the text of a proof begins.
const PROOF: &str = "agp1.";

/// Refused handshakes after which the connection ends.
const MAX_REFUSED: u32 = 5;

/// What a bound session may rely on.
pub struct Session {
    /// The serial of the token value that it belongs to.
    pub serial: u64,
    /// The random id of this binding.
    pub id: [u8; 16],
    /// The verified token.
    pub token: ActiveToken,
    /// The window's policy.
    pub policy_id: i64,
    /// The window's policy by name.
    pub policy: String,
    /// The session user's name.
    pub role: String,
    /// The client's address; empty for a local socket.
    pub address: String,
    /// The window's limit on sessions at a time.
    max_sessions: Option<usize>,
    /// The revocation epoch up to which the token is known to be good.
    checked: Cell<u64>,
}

/// What was accepted for a serial and waits for its value to come into force.
enum Pending {
    /// Verified: SET in a transaction.
    Verified(Rc<Session>),
    /// Presented in the startup packet; verified when the first statement needs it.
    Deferred(String),
    /// Presented in the startup packet and not even well-formed.
    Refused(Refusal),
}

#[derive(Default)]
struct State {
    bound: Option<Rc<Session>>,
    pending: Option<(u64, Pending)>,
    /// Why there is no binding, where a token was refused without an error.
    refusal: Option<Refusal>,
    refused: u32,
    exit_hook: bool,
}

thread_local! {
    /// The role that `check_statement` decides for.
    static SUBJECT: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
    static STATE: RefCell<State> = RefCell::new(State::default());
}

fn with_state<T>(body: impl FnOnce(&mut State) -> T) -> Option<T> {
    STATE.with(|state| state.try_borrow_mut().ok().map(|mut state| body(&mut state)))
}

/// The authenticated user, whom neither SET ROLE nor SET SESSION AUTHORIZATION nor SECURITY DEFINER changes.
pub fn authenticated_role() -> pg_sys::Oid {
    if let Some(role) = SUBJECT.get() {
        return role;
    }
    // SAFETY: a plain value of this process (miscinit.c).
    unsafe { pg_sys::GetAuthenticatedUserId() }
}

/// Decides as if `role` had logged in, until `None` is given.
pub fn decide_for(role: Option<pg_sys::Oid>) {
    SUBJECT.set(role);
}

/// The refusal of a token that does not come from SET, set_config or the connection.
pub fn session_only() -> Refusal {
    Refusal::handshake(
        "session_only",
        "agent_guard.token can only be set in a session",
        "A token stored on a role, a database, a function or in a file would be readable and would outlive its session.",
        "Run SET agent_guard.token = '...' after connecting, or pass it in the connection's options.",
    )
}

fn no_token() -> Refusal {
    Refusal::handshake(
        "no_token",
        "this role is guarded and the session has presented no token",
        "Nothing runs in this session until a token is accepted.",
        "Ask a DBA for a window (agent_guard.grant_window), then run SET agent_guard.token = '<token>'.",
    )
}

/// Ends the login where the guard cannot work: extension missing, template1, replication.
///
/// Called from the check hook of agent_guard.guarded while the backend starts, inside its first transaction.
pub fn refuse_unguardable_database() {
    // SAFETY: plain values of this process.
    let (database, replication) = unsafe { (pg_sys::MyDatabaseId, pg_sys::am_walsender) };
    let refusal = if replication {
        replication_refused()
    } else if database == pg_sys::InvalidOid {
        return;
    } else if database.to_u32() == 1 {
        Refusal::handshake(
            "not_ready",
            "a guarded role cannot connect to template1",
            "",
            "Connect to another database.",
        )
    } else if own().is_none() {
        Refusal::handshake(
            "not_ready",
            "this role is guarded and the extension agent_guard is not installed in this database",
            "Without it nothing could be decided or recorded.",
            "Run CREATE EXTENSION agent_guard in this database as a superuser, or connect to one that has it.",
        )
    } else {
        return;
    };
    let raised = raise::prepare(&refusal);
    drop(refusal);
    // SAFETY: FATAL ends the process; nothing returns here and nothing is left to unwind.
    unsafe { raise::raise(pg_sys::FATAL, raised) };
}

/// The refusal of a replication connection, whose commands pass no hook.
pub fn replication_refused() -> Refusal {
    Refusal::handshake(
        "not_ready",
        "a guarded role cannot open a replication connection",
        "Replication commands reach data past every check.",
        "Use a role that is not guarded for replication.",
    )
}

/// Verifies a token that a statement sets. Returns the public id that takes its place.
///
/// # Errors
/// Every refusal of token.md, before anything binds.
pub fn present(text: &str, serial: u64) -> Result<String, Refusal> {
    if !guc::guarded() {
        return Err(Refusal::handshake(
            "wrong_role",
            "the role of this session is not guarded",
            "A token contains a guarded role; it would contain nothing here.",
            "Connect as the role that the window was granted to.",
        ));
    }
    // An answer closes the challenge, whatever comes of it.
    let open = if text.starts_with(PROOF) { challenge::take() } else { None };
    let session = Rc::new(verify(text, serial, open.as_deref())?);
    let public = session.token.public_id();
    with_state(|state| {
        state.refused = 0;
        state.pending = Some((serial, Pending::Verified(session)));
    });
    Ok(public)
}

/// Keeps a token of the startup packet for the first statement: the role's settings are not known yet. Never fails, so
/// that the session can tell its agent what is wrong. Returns the public id, or nothing for a malformed token.
pub fn present_at_startup(text: &str, serial: u64) -> String {
    let (public, pending) = match PresentedToken::parse(text) {
        Ok(token) => (token.public_id(), Pending::Deferred(text.to_owned())),
        Err(refusal) => (String::new(), Pending::Refused(refusal)),
    };
    with_state(|state| state.pending = Some((serial, pending)));
    public
}

/// Counts a refused SET; true when the connection has to end.
pub fn refused(refusal: &Refusal) -> bool {
    if !guc::guarded() {
        return false;
    }
    super::statement::record_refused_handshake(refusal);
    with_state(|state| {
        state.refused += 1;
        state.refused >= MAX_REFUSED
    })
    .unwrap_or(true)
}

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

fn not_installed() -> Refusal {
    Refusal::handshake(
        "not_ready",
        "the extension agent_guard is not installed in this database",
        "",
        "Run CREATE EXTENSION agent_guard as a superuser.",
    )
}

/// A window's row, as far as the handshake needs it.
struct WindowRow {
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
    revoked: bool,
}

fn window_row(window: &[u8; 16]) -> Option<WindowRow> {
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
            })
        })();
    });
    found
}

/// array_out (src/include/catalog/pg_proc.dat).
const ARRAY_OUT: u32 = 751;

fn block_revoked_in_table(block: &[u8; 16]) -> bool {
    let Some(own) = own() else { return true };
    let mut found = false;
    scan::rows(own.revoked_block, Some((own.revoked_block_pkey, 1, Key::Bytes(*block))), |_| found = true);
    found
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
    let session = current()?;
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

fn verify(text: &str, serial: u64, challenge: Option<&str>) -> Result<Session, Refusal> {
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
    establish(&row, serial, fresh_session_id()?, |facts, here| authentic.activate(facts, here))
}

/// The part of the handshake that the leader's token and a presented one share.
/// Limits in a token's blocks are not counted by this version: a token that carries one is refused, so that a parent's
/// limit on a child never silently means nothing.
fn refuse_uncounted(token: &ActiveToken) -> Result<(), Refusal> {
    let limits = token.limits();
    let named = [
        ("rows", limits.rows.is_some()),
        ("bytes", limits.bytes.is_some()),
        ("stmts", limits.stmts.is_some()),
        ("uses", limits.uses.is_some()),
        ("sess", limits.sess.is_some()),
    ];
    match named.iter().find(|limit| limit.1) {
        None => Ok(()),
        Some((name, _)) => Err(Refusal::handshake(
            "not_ready",
            "the token carries a limit that this server does not count",
            format!("field={name} A limit that nobody counts would not hold."),
            format!("Derive the token again without \"{name}\"."),
        )),
    }
}

fn too_many_sessions(limit: usize) -> Refusal {
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

fn establish(
    row: &WindowRow,
    serial: u64,
    id: [u8; 16],
    activate: impl FnOnce(&WindowFacts, &Circumstance<'_>) -> Result<ActiveToken, Refusal>,
) -> Result<Session, Refusal> {
    let (facts, policy) = judged_by(row)?;
    let role_oid = authenticated_role();
    let role = catalog::role_name(role_oid).unwrap_or_default();
    let (peer, address) = peer();
    // SAFETY: plain values; get_database_name returns a palloc'd copy; GetDatabaseEncoding a constant.
    let (database, utf8) = unsafe {
        let name = catalog::text(pg_sys::get_database_name(pg_sys::MyDatabaseId)).unwrap_or_default();
        (name, pg_sys::GetDatabaseEncoding() == i32::try_from(pg_sys::pg_enc::PG_UTF8).unwrap_or(-1))
    };
    let checked = epoch::revocations();
    let is_revoked = |id: &[u8; 16]| epoch::is_revoked(id) || block_revoked_in_table(id);
    let here = Circumstance {
        now: epoch::clock().div_euclid(1_000_000),
        role: &role,
        database: &database,
        peer,
        system_user: None,
        proof_only: guc::proof_only(),
        depth_ceiling: guc::max_delegation_depth(),
        is_revoked: &is_revoked,
        utf8,
    };
    let token = activate(&facts, &here)?;
    refuse_uncounted(&token)?;
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
        checked: Cell::new(checked),
    })
}

fn fresh_session_id() -> Result<[u8; 16], Refusal> {
    let mut id = [0u8; 16];
    getrandom::fill(&mut id).map_err(|_| {
        Refusal::new(
            SqlState::InternalError,
            "fault",
            "no random numbers are to be had from the system",
            "",
            "",
        )
    })?;
    // Version 4, variant 1 (RFC 9562), so that it reads as a random UUID.
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut id;
    *version = (*version & 0x0f) | 0x40;
    *variant = (*variant & 0x3f) | 0x80;
    Ok(id)
}

fn from_leader() -> Result<Session, Refusal> {
    let (window, id, public) = bindings::leader().ok_or_else(no_token)?;
    let row = window_row(&window).ok_or_else(no_token)?;
    establish(&row, guc::WORKER_SERIAL, id, |facts, here| ActiveToken::from_public_text(&public, facts, here))
}

/// The binding in force, checked against the clock and the revocations of this moment.
///
/// # Errors
/// Why nothing may run: no token, a refused one, expired, revoked.
pub fn current() -> Result<Rc<Session>, Refusal> {
    current_at(epoch::clock())
}

/// As `current`, for whoever has just read the clock.
///
/// # Errors
/// As `current`.
pub fn current_at(now: i64) -> Result<Rc<Session>, Refusal> {
    let serial = guc::active_serial();
    let bound = STATE.with(|state| state.borrow().bound.clone());
    let session = match bound {
        Some(session) if session.serial == serial => session,
        other => rebind(serial, other.is_some())?,
    };
    let revocations = epoch::revocations();
    if session.checked.get() == revocations {
        session.token.check_still(now.div_euclid(1_000_000), &|_| false)?;
    } else {
        let overflowed = epoch::revocations_overflowed();
        let is_revoked = |id: &[u8; 16]| epoch::is_revoked(id) || (overflowed && block_revoked_in_table(id));
        let window = *session.token.window();
        let window_gone =
            epoch::is_revoked(&window) || (overflowed && window_row(&window).is_none_or(|row| row.revoked));
        if window_gone {
            return Err(window_revoked());
        }
        session.token.check_still(now.div_euclid(1_000_000), &is_revoked)?;
        session.checked.set(revocations);
    }
    Ok(session)
}

fn window_revoked() -> Refusal {
    Refusal::handshake(
        "revoked",
        "the window of this session was revoked",
        "Every token of the window ends with it.",
        "Ask a DBA for a new window.",
    )
}

/// Replaces the binding by the one that belongs to `serial`, or by none.
fn rebind(serial: u64, was_bound: bool) -> Result<Rc<Session>, Refusal> {
    let pending = with_state(|state| {
        state.bound = None;
        let pending = state.pending.take();
        pending.filter(|pending| pending.0 == serial).map(|pending| pending.1)
    })
    .flatten();
    if was_bound {
        bindings::unbind();
        super::statement::record_unbound();
        super::policies::forget();
        forget_plans();
    }
    if serial == 0 {
        return Err(with_state(|state| state.refusal.clone()).flatten().unwrap_or_else(no_token));
    }
    let session = match pending {
        Some(Pending::Verified(session)) => session,
        // A proof of the startup packet cannot have seen a challenge.
        Some(Pending::Deferred(text)) => match verify(&text, serial, None) {
            Ok(session) => Rc::new(session),
            Err(refusal) => return Err(keep_refused(refusal)),
        },
        Some(Pending::Refused(refusal)) => return Err(keep_refused(refusal)),
        None if serial == guc::WORKER_SERIAL => Rc::new(from_leader()?),
        None => return Err(with_state(|state| state.refusal.clone()).flatten().unwrap_or_else(no_token)),
    };
    if serial != guc::WORKER_SERIAL {
        publish(&session)?;
    }
    with_state(|state| {
        state.bound = Some(Rc::clone(&session));
        state.refusal = None;
    });
    Ok(session)
}

/// A startup token was refused: recorded once, told again at every statement.
fn keep_refused(refusal: Refusal) -> Refusal {
    super::statement::record_refused_handshake(&refusal);
    with_state(|state| state.refusal = Some(refusal.clone()));
    refusal
}

fn publish(session: &Session) -> Result<(), Refusal> {
    let first = with_state(|state| !std::mem::replace(&mut state.exit_hook, true)).unwrap_or(false);
    if first {
        bindings::unbind_at_exit();
    }
    let (_, database) = realm();
    let token = &session.token;
    let bound = bindings::bind(&bindings::Binding {
        database,
        role: authenticated_role().to_u32(),
        window: token.window(),
        session: &session.id,
        blocks: token.block_ids(),
        public: token.public_text(),
        lineage: token.lineage(),
        bound_at: epoch::clock(),
        expires_at: token.expires_at().saturating_mul(1_000_000),
        max_sessions: session.max_sessions,
    });
    if !bound {
        return Err(too_many_sessions(session.max_sessions.unwrap_or(0)));
    }
    warden::bound_until(token.expires_at().saturating_mul(1_000_000));
    forget_plans();
    super::statement::record_bound(session);
    Ok(())
}

/// Drops the plans made under another scope. Prepared statements stay and are planned anew.
fn forget_plans() {
    // SAFETY: marks cached plans invalid (plancache.c); they are rebuilt at their next use.
    unsafe { pg_sys::ResetPlanCache() };
}

/// The token's variable was set or reset: bind at once, and drop what the scope before has left behind. Portals, WITH HOLD
/// cursors too, because what these have stored passes no hook when it is sent; temporary tables, because their rows
/// may be what the new scope must not read. A refusal is told at the next statement.
pub fn settle() {
    // Binds, where there is something to bind.
    let _told_at_the_next_statement = current();
    // SAFETY: DISCARD ALL does both inside a statement of its own; the active portal is left alone, and an error ends the
    // transaction, hence the binding.
    unsafe {
        pg_sys::PortalHashTableDeleteAll();
        pg_sys::ResetTempTableNamespace();
    }
}

/// The binding without the check of this moment, for records and views; `None` when unbound.
pub fn bound() -> Option<Rc<Session>> {
    let serial = guc::active_serial();
    STATE.with(|state| state.try_borrow().ok()?.bound.clone()).filter(|session| session.serial == serial)
}
