//! Who this backend is: unguarded, guarded without a token, or bound to the scope of one.
//!
//! `guc` tells which token value is in force; this module holds what was verified for it. A value that was verified
//! but is no longer in force is dropped, a value in force that was not just verified binds nothing.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use pgrx::pg_sys;

use super::bindings::Published;
use super::handshake::{
    Shown, from_leader, not_installed, realm, too_many_sessions, verify, window_row, with_revoked_blocks,
};
use super::own::own;
use super::process::PerProcess;
use super::unusual::{self, Unusual};
use super::{
    bindings, challenge, connection_settings, encoding, endings, epoch, guc, meter, outgoing, quick, raise,
    record, standby, warden,
};
use crate::limit::{self, Holder, Limits};
use crate::refusal::{Decider, Refusal};
use crate::token::refusals::{local_only, no_token};
use crate::token::{self, ActiveToken, PresentedToken};

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
    pub(super) max_sessions: Option<usize>,
    /// What the window itself limits; its policy's limits hold besides.
    pub limits: Limits,
    /// The end of the window, in unix seconds.
    pub window_ends: i64,
    /// The revocation epoch up to which the token is known to be good.
    pub(super) checked: Cell<u64>,
    /// The table of windows that it was bound by: another one where the extension was dropped and created anew.
    pub(super) windows: pg_sys::Oid,
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

struct State {
    bound: Option<Rc<Session>>,
    pending: Option<(u64, Pending)>,
    /// Why there is no binding, where a token was refused without an error.
    refusal: Option<Refusal>,
    /// Why a token that a statement has just set does not bind.
    unsettled: Option<Refusal>,
    refused: u32,
    exit_hook: bool,
}

/// The role that `check_statement` decides for.
static SUBJECT: PerProcess<Cell<Option<pg_sys::Oid>>> = PerProcess::new(Cell::new(None));
static STATE: PerProcess<RefCell<State>> = PerProcess::new(RefCell::new(State {
    bound: None,
    pending: None,
    refusal: None,
    unsettled: None,
    refused: 0,
    exit_hook: false,
}));

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
    let answers = text.split_once('.').is_some_and(|(form, _)| form == token::Form::Proof.word());
    let open = if answers { challenge::take() } else { None };
    let session = Rc::new(verify(text, serial, Shown::Set(open.as_deref()))?);
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
        Ok(token) if guc::require_local() => (token.public_id(), Pending::Refused(local_only())),
        Ok(token) => (token.public_id(), Pending::Deferred(text.to_owned())),
        Err(refusal) => (String::new(), Pending::Refused(refusal)),
    };
    with_state(|state| state.pending = Some((serial, pending)));
    public
}

/// Refuses a token for the whole session where the server takes them for a transaction only.
///
/// # Errors
/// `local_only`, recorded.
pub fn for_the_session() -> Result<(), Refusal> {
    if !guc::require_local() {
        return Ok(());
    }
    let refusal = local_only();
    record::record_refused_handshake(&refusal);
    Err(refusal)
}

/// Counts a refused SET; true when the connection has to end.
pub fn refused(refusal: &Refusal) -> bool {
    if !guc::guarded() {
        return false;
    }
    record::record_refused_handshake(refusal);
    with_state(|state| {
        state.refused += 1;
        state.refused >= MAX_REFUSED
    })
    .unwrap_or(true)
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
    let seconds = now.div_euclid(1_000_000);
    if session.checked.get() != epoch::revocations() || standby::is_one() || unusual::is(Unusual::Moved) {
        still_installed(&session)?;
        look_for_revocations(&session, seconds)?;
    } else if !session.token.is_within(seconds) {
        session.token.check_still(seconds, &|_| false)?;
    }
    // The transaction may also have run under another token, before this one.
    if endings::doomed()
        && let Some(ended) = endings::own_doom()
    {
        return Err(warden::too_late(ended));
    }
    match bindings::runs() {
        Some(ended) if serial != guc::WORKER_SERIAL => Err(warden::too_late(ended)),
        _ => Ok(session),
    }
}

/// A binding as it was when it was last looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    serial: u64,
    policies: u64,
    revocations: u64,
    /// In microseconds since the Unix epoch.
    until: i64,
}

impl Standing {
    /// How a binding stands under this policy epoch; `None` where each statement has to look.
    pub fn of(session: &Session, policies: u64) -> Option<Standing> {
        let until = session.token.within_until().filter(|_| !standby::is_one())?;
        Some(Standing {
            serial: session.serial,
            policies,
            revocations: session.checked.get(),
            until: until.saturating_mul(1_000_000),
        })
    }

    /// Whether it is the one in force and stands as it did, and so do the policies. Where it does not, `current_at` says why.
    #[inline]
    pub fn holds(&self, now: i64) -> bool {
        self.serial == guc::active_serial()
            && now < self.until
            && epoch::are(self.policies, self.revocations)
            && !endings::doomed()
            && bindings::runs().is_none()
    }
}

/// Schemas changed. What a binding knows by number, its policy above all, is another one's in an extension made anew.
#[cold]
#[inline(never)]
fn still_installed(session: &Session) -> Result<(), Refusal> {
    // Where nothing can be looked up, nothing can run that needs it; the next statement looks.
    if !unusual::is(Unusual::Moved) || !quick::in_transaction() {
        return Ok(());
    }
    match own() {
        Some(own) if own.window_grant == session.windows => {
            unusual::set(Unusual::Moved, false);
            Ok(())
        }
        Some(_) => Err(window_revoked("The extension agent_guard was dropped and created anew since.")),
        None => Err(not_installed()),
    }
}

/// Something was revoked since the last look, or this is a standby.
#[cold]
#[inline(never)]
fn look_for_revocations(session: &Session, seconds: i64) -> Result<(), Refusal> {
    let revocations = epoch::revocations();
    // Those of the primary come to a standby in the tables alone.
    let overflowed = standby::is_one() || epoch::revocations_overflowed();
    let window = *session.token.window();
    let window_gone =
        epoch::is_revoked(&window) || (overflowed && window_row(&window).is_none_or(|row| row.revoked));
    if window_gone {
        return Err(window_revoked("Every token of the window ends with it."));
    }
    if overflowed {
        with_revoked_blocks(|in_table| {
            session.token.check_still(seconds, &|id| epoch::is_revoked(id) || in_table(id))
        })?;
    } else {
        session.token.check_still(seconds, &epoch::is_revoked)?;
    }
    session.checked.set(revocations);
    Ok(())
}

/// Whether the open transaction may commit: every token that it ran under is still good.
///
/// # Errors
/// Which end forbids it.
pub fn may_commit() -> Result<(), Refusal> {
    endings::must_not_commit().map_or(Ok(()), |ended| Err(warden::too_late(ended)))
}

fn window_revoked(detail: &str) -> Refusal {
    Refusal::handshake(
        "revoked",
        "the window of this session was revoked",
        detail,
        "Ask a DBA for a new window.",
    )
    .by(Decider::Window)
}

/// Replaces the binding by the one that belongs to `serial`, or by none.
#[cold]
#[inline(never)]
fn rebind(serial: u64, was_bound: bool) -> Result<Rc<Session>, Refusal> {
    let (before, pending) = with_state(|state| {
        let pending = state.pending.take();
        (state.bound.take(), pending.filter(|pending| pending.0 == serial).map(|pending| pending.1))
    })
    .unwrap_or_default();
    if !super::statement::any_active() {
        meter::leave();
    }
    if was_bound {
        let now = epoch::clock();
        if !bindings::unbind(now) {
            endings::outlived(now);
        }
        record::record_unbound(before.as_deref());
        super::policies::forget();
        super::statement::parked::forget();
        forget_plans();
    }
    if serial == 0 {
        return Err(with_state(|state| state.refusal.clone()).flatten().unwrap_or_else(no_token));
    }
    encoding::prepare();
    let startup = matches!(pending, Some(Pending::Deferred(_)));
    let session = match pending {
        Some(Pending::Verified(session)) => session,
        Some(Pending::Deferred(text)) => match verify(&text, serial, Shown::AtConnect) {
            Ok(session) => Rc::new(session),
            Err(refusal) => return Err(keep_refused(refusal)),
        },
        Some(Pending::Refused(refusal)) => return Err(keep_refused(refusal)),
        None if serial == guc::WORKER_SERIAL => Rc::new(from_leader()?),
        None => return Err(with_state(|state| state.refusal.clone()).flatten().unwrap_or_else(no_token)),
    };
    if serial != guc::WORKER_SERIAL
        && let Err(refusal) = connection_settings::permitted(&session).and_then(|()| publish(&session))
    {
        return Err(if startup { keep_refused(refusal) } else { tell_refused(refusal) });
    }
    with_state(|state| {
        state.bound = Some(Rc::clone(&session));
        state.refusal = None;
    });
    Ok(session)
}

/// A startup token was refused: recorded once, told again at every statement.
fn keep_refused(refusal: Refusal) -> Refusal {
    record::record_refused_handshake(&refusal);
    with_state(|state| state.refusal = Some(refusal.clone()));
    refusal
}

/// A token that a statement has set was good and cannot bind: recorded; `settle` ends the statement with it.
fn tell_refused(refusal: Refusal) -> Refusal {
    record::record_refused_handshake(&refusal);
    with_state(|state| state.unsettled = Some(refusal.clone()));
    refusal
}

fn publish(session: &Rc<Session>) -> Result<(), Refusal> {
    let first = with_state(|state| !std::mem::replace(&mut state.exit_hook, true)).unwrap_or(false);
    if first {
        bindings::unbind_at_exit();
        outgoing::init();
    }
    let (_, database) = realm();
    let token = &session.token;
    let ends = token.expires_at().saturating_mul(1_000_000);
    let blocks = || token.claims().iter().zip(token.block_ids()).enumerate();
    let each_limit: Vec<_> = blocks()
        .filter_map(|(index, (claims, id))| {
            let limit = claims.sess?;
            Some((Holder::Block(index, *id), *id, usize::try_from(limit).unwrap_or(usize::MAX)))
        })
        .collect();
    let published = bindings::bind(&bindings::Binding {
        database,
        role: authenticated_role().to_u32(),
        window: token.window(),
        session: &session.id,
        blocks: token.block_ids(),
        public: token.public_text(),
        lineage: token.lineage(),
        bound_at: epoch::clock(),
        expires_at: ends,
        max_sessions: session.max_sessions,
        sessions: &each_limit,
    });
    match published {
        Published::Bound => {}
        Published::WindowFull => return Err(too_many_sessions(session.max_sessions.unwrap_or(0))),
        Published::BlockFull(holder, limit) => {
            return Err(limit::refusal::sessions(u64::try_from(limit).unwrap_or(u64::MAX), holder));
        }
        Published::Overburdened => return Err(too_many_tokens()),
    }
    // After the slot, so that a session for which there is no room uses nothing up.
    if let Err(refusal) = meter::bind(session) {
        bindings::unbind(epoch::clock());
        return Err(refusal);
    }
    warden::bound_until(ends);
    forget_plans();
    record::record_bound(session);
    Ok(())
}

/// The refusal of one token more than a transaction can answer for.
fn too_many_tokens() -> Refusal {
    Refusal::handshake(
        "resource_limit",
        "this transaction has run under too many tokens",
        "It ends when any of them ends, and the server keeps account of a bounded number.",
        "End the transaction, then present the token again.",
    )
}

/// Drops the plans made under another scope. Prepared statements stay and are planned anew.
fn forget_plans() {
    // SAFETY: marks cached plans invalid (plancache.c); they are rebuilt at their next use.
    unsafe { pg_sys::ResetPlanCache() };
}

/// The token's variable was set or reset: bind at once, and drop what the scope before has left behind. Portals, WITH HOLD
/// cursors too, because what these have stored passes no hook when it is sent; temporary tables, because their rows
/// may be what the new scope must not read; channels listened to and advisory locks of the session.
///
/// # Errors
/// Why a token that was set does not bind: a limit of its uses or sessions, or no room to count.
pub fn settle() -> Result<(), Refusal> {
    with_state(|state| state.unsettled = None);
    // Binds, where there is something to bind. What else is wrong is told at the next statement.
    let _told_at_the_next_statement = current();
    // SAFETY: DISCARD ALL does all of it inside a statement of its own; the active portal is left alone, and an error ends
    // the transaction, hence the binding.
    unsafe {
        pg_sys::PortalHashTableDeleteAll();
        drop_temporary();
        pg_sys::LockReleaseSession(pg_sys::USER_LOCKMETHOD as pg_sys::LOCKMETHODID);
        async_unlisten_all();
    }
    with_state(|state| state.unsettled.take()).flatten().map_or(Ok(()), Err)
}

/// Drops the session's temporary objects, if it has any.
///
/// # Safety
/// Inside a transaction that has not failed.
unsafe fn drop_temporary() {
    // SAFETY: the caller's promise. Whoever changes catalogues needs a snapshot, as their rows may have parts elsewhere; the server
    // gives none to a statement that sets a variable, and one of the transaction's own would forbid SET TRANSACTION after it. An
    // error takes it off the stack.
    unsafe {
        let (mut namespace, mut toast) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        pg_sys::GetTempNamespaceState(&mut namespace, &mut toast);
        if namespace == pg_sys::InvalidOid {
            return;
        }
        pg_sys::PushActiveSnapshot(pg_sys::GetCatalogSnapshot(pg_sys::InvalidOid));
        pg_sys::ResetTempTableNamespace();
        pg_sys::PopActiveSnapshot();
    }
}

unsafe extern "C-unwind" {
    // commands/async.h, which pgrx does not bind.
    #[link_name = "Async_UnlistenAll"]
    fn async_unlisten_all();
}

/// The binding without the check of this moment, for records and views; `None` when unbound.
pub fn bound() -> Option<Rc<Session>> {
    let serial = guc::active_serial();
    STATE.with(|state| state.try_borrow().ok()?.bound.clone()).filter(|session| session.serial == serial)
}
