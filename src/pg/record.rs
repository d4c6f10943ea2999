//! Events: whom they are about, and those that are not the end of an open statement.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys;

use super::decided::Decided;
use super::process::PerProcess;
use super::rows::Given;
use super::session::{self, Session};
use super::trail::{self, Reservation, Waiting};
use super::{connection, epoch, long_text, quick, results};
use crate::audit::event::{AccessRecord, AuditDecision, AuditEvent, EventKind, bounded_text};
use crate::audit::redact::{redact, redact_beside};
use crate::decision::RuleId;
use crate::refusal::Refusal;

/// A refusal outside any open statement was recorded; its error needs no event of its own.
static RECORDED: PerProcess<Cell<bool>> = PerProcess::new(Cell::new(false));

/// An error's SQLSTATE and message.
type Failure = ([u8; 5], String);

/// The FATAL error that ends the connection.
static ENDED_BY: PerProcess<RefCell<Option<Failure>>> = PerProcess::new(RefCell::new(None));

/// A FATAL error ends the connection, and its session with it.
pub fn connection_ends_by(sqlstate: [u8; 5], message: &str) {
    let told = (sqlstate, redact_beside(message, &super::text::current()).into_owned());
    ENDED_BY.with(|ended| ended.try_borrow_mut().map(|mut ended| *ended = Some(told)).ok());
}

/// Whether the error on its way has its event already; the question answers for one error.
pub fn take_recorded() -> bool {
    RECORDED.with(|recorded| recorded.replace(false))
}

/// This backend's process id.
pub fn process_id() -> i32 {
    // SAFETY: a plain value of this process.
    unsafe { pg_sys::MyProcPid }
}

/// The client's application_name.
pub fn application_name() -> &'static std::ffi::CStr {
    // SAFETY: a NUL-terminated GUC string or null; whoever asks lets go of it before the setting can change.
    unsafe {
        let name = pg_sys::application_name;
        if name.is_null() { c"" } else { std::ffi::CStr::from_ptr(name) }
    }
}

/// The part of an event that says who: the session's where it is bound, else what the connection tells.
pub fn who<'a>(kind: EventKind, at: i64, session: Option<&'a Session>) -> AuditEvent<'a> {
    let mut event = AuditEvent::bare(kind, at, [0; 16]);
    (event.pid, event.xid) = (process_id(), quick::full_transaction());
    event.application_name = application_name().to_str().unwrap_or("");
    if let Some(session) = session {
        event.session_id = session.id;
        event.window_id = Some(*session.token.window());
        event.lineage = session.token.lineage();
        event.role = &session.role;
        event.client_addr = &session.address;
    }
    event
}

/// Publishes an event about the session itself, or about a statement that never got as far as being open.
fn publish_alone(
    kind: EventKind,
    session: Option<&Session>,
    complete: impl FnOnce(AuditEvent<'_>, &mut dyn FnMut(&AuditEvent<'_>)),
) {
    publish_event(kind, session, |event| {
        complete(event, &mut |event| {
            trail::publish_unreserved(event, Waiting::Never);
        });
    });
}

/// Publishes an event behind the pieces of its text, where it has not all of it.
fn publish_with_text(text: &str, publish: &mut dyn FnMut(&AuditEvent<'_>), event: &AuditEvent<'_>) {
    long_text::record_beside(text, event);
    publish(event);
}

fn publish_event(kind: EventKind, session: Option<&Session>, complete: impl FnOnce(AuditEvent<'_>)) {
    let role = match session {
        Some(_) => String::new(),
        // Role names are in the catalogue, which cannot be read in a failed transaction.
        None => connection::login_name(),
    };
    let event = who(kind, epoch::clock(), session);
    let event = if session.is_none() { AuditEvent { role: &role, ..event } } else { event };
    complete(event);
}

/// Records a request for approval, or what became of one. False where the trail cannot take it.
pub fn record_approval(
    request: Option<&str>,
    message: &str,
    decision: AuditDecision,
    rule: Option<RuleId>,
) -> bool {
    let kind = if request.is_some() { EventKind::ApprovalRequest } else { EventKind::Approval };
    let parameters = request.map(|request| [Some(request.to_owned())]);
    let mut stored = false;
    let session = session::bound();
    publish_event(kind, session.as_deref(), |event| {
        stored = trail::publish_unreserved(
            &AuditEvent {
                message,
                parameters: parameters.as_ref().map(|list| list.as_slice()),
                decision,
                rule_id: rule,
                ..event
            },
            if request.is_some() { Waiting::Allowed } else { Waiting::Never },
        );
    });
    stored
}

/// Records a part of a statement's results.
pub fn record_results(
    session: Option<&Session>,
    at: i64,
    command: &str,
    rows: i64,
    results: &[u8],
    told: &str,
    reservation: Reservation,
) {
    let event = who(EventKind::Results, at, session);
    trail::publish(&AuditEvent { command, rows, results, message: told, ..event }, reservation);
}

/// Sees to it, once in each process, that the end of a connection whose session is still bound is recorded.
fn register_connection_end() {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: registers a plain function without an argument.
        unsafe { pg_sys::before_shmem_exit(Some(connection_ends), pg_sys::Datum::from(0_usize)) };
    }
}

unsafe extern "C-unwind" fn connection_ends(code: i32, _arg: pg_sys::Datum) {
    results::connection_ends();
    if let Some(session) = session::bound() {
        // proc_exit(0) is the client's going, or its being told to; anything else a FATAL error.
        let ended = ENDED_BY.with(|ended| ended.try_borrow_mut().ok().and_then(|mut ended| ended.take()));
        let (sqlstate, message) = match ended {
            Some((sqlstate, message)) => (Some(sqlstate), format!("connection ended by an error: {message}")),
            None if code == 0 => (None, "connection closed".to_owned()),
            None => (None, "connection ended by an error".to_owned()),
        };
        publish_alone(EventKind::Unbind, Some(&session), |event, publish| {
            publish(&AuditEvent { sqlstate, message: &message, ..event });
        });
    }
}

/// A token came into force.
pub fn record_bound(session: &Session) {
    register_connection_end();
    // The view `sessions` knows a past session's blocks from here.
    let blocks: Vec<_> = session.token.block_ids().iter().map(|id| Some(crate::token::hex(id))).collect();
    publish_alone(EventKind::Bind, Some(session), |event, publish| {
        publish(&AuditEvent {
            command: "SET",
            message: "token accepted",
            parameters: Some(&blocks),
            decision: AuditDecision::Allow,
            ..event
        });
    });
}

/// The session's token is no longer in force.
pub fn record_unbound(session: Option<&Session>) {
    publish_alone(EventKind::Unbind, session, |event, publish| {
        publish(&AuditEvent { message: "token no longer in force", ..event });
    });
}

/// Somebody has administered agent_guard. Never waits: a trail that takes nothing must not keep anybody from revoking.
pub fn record_admin(action: &str, what: &str, window: Option<[u8; 16]>) {
    let text = redact(&super::text::current()).into_owned();
    let bounded = bounded_text(&text);
    publish_alone(EventKind::Admin, None, |event, publish| {
        publish_with_text(
            &text,
            publish,
            &AuditEvent {
                window_id: window,
                command: action,
                message: what,
                statement: bounded.text,
                statement_len: bounded.full_len,
                statement_sha256: bounded.sha256,
                ..event
            },
        );
    });
}

/// A token was refused.
pub fn record_refused_handshake(refusal: &Refusal) {
    let refused = refusal.token.as_deref();
    let blocks: Option<Vec<_>> =
        refused.map(|token| token.blocks.iter().map(|id| Some(crate::token::hex(id))).collect());
    publish_alone(EventKind::HandshakeRefused, session::bound().as_deref(), |event, publish| {
        publish(&AuditEvent {
            command: "SET",
            window_id: refused.map(|token| token.window).or(event.window_id),
            parameters: blocks.as_deref(),
            decided_by: refusal.decided_by,
            decision: AuditDecision::Deny,
            sqlstate: Some(sqlstate_bytes(refusal.sqlstate.code())),
            message: &format!("{}: {}", refusal.reason, refusal.message),
            ..event
        });
    });
    RECORDED.with(|recorded| recorded.set(true));
}

/// A refusal where no statement is open: while planning, in a fast-path call, before a statement could be opened.
pub fn record_refused_alone(command: &str, text: &str, decided: Option<&Decided>, refusal: &Refusal) {
    record_refused_with(command, text, None, decided, refusal);
}

/// As `record_refused_alone`, with the bind parameters.
pub fn record_refused_with(
    command: &str,
    text: &str,
    given: Option<&Given>,
    decided: Option<&Decided>,
    refusal: &Refusal,
) {
    let text = redact(text);
    let bounded = bounded_text(&text);
    let records: Vec<AccessRecord<'_>> = decided.map(Decided::record).into_iter().collect();
    publish_alone(EventKind::Statement, session::bound().as_deref(), |event, publish| {
        publish_with_text(
            &text,
            publish,
            &AuditEvent {
                command,
                statement: bounded.text,
                statement_len: bounded.full_len,
                statement_sha256: bounded.sha256,
                accesses: &records,
                parameters: given.map(|given| given.values.as_slice()),
                parameter_types: given.map_or(&[], |given| given.types.as_slice()),
                decision: AuditDecision::Deny,
                rule_id: refusal.rule,
                decided_by: refusal.decided_by,
                sqlstate: Some(sqlstate_bytes(refusal.sqlstate.code())),
                message: &refusal.message,
                ..event
            },
        );
    });
    RECORDED.with(|recorded| recorded.set(true));
}

/// Something ran or was seen outside any statement (a fast-path call): its event is complete at once.
pub fn record_alone(command: &str, text: &str, decided: &Decided) {
    let records = [decided.record()];
    publish_alone(EventKind::Statement, session::bound().as_deref(), |event, publish| {
        publish(&AuditEvent {
            command,
            statement: text,
            statement_len: u64::try_from(text.len()).unwrap_or(0),
            accesses: &records,
            decision: decided.decision,
            rule_id: decided.rule,
            ..event
        });
    });
}

/// A code as events carry it.
pub fn sqlstate_bytes(code: &str) -> [u8; 5] {
    code.as_bytes().try_into().unwrap_or(*b"XX000")
}

/// An error that belongs to no open statement: it failed before it could be opened, mostly at parse.
pub fn record_failed_alone(sqlstate: [u8; 5], message: &str, statement: &str) {
    let (text, message) = (redact(statement), redact_beside(message, statement));
    let bounded = bounded_text(&text);
    publish_alone(EventKind::Statement, session::bound().as_deref(), |event, publish| {
        publish_with_text(
            &text,
            publish,
            &AuditEvent {
                statement: bounded.text,
                statement_len: bounded.full_len,
                statement_sha256: bounded.sha256,
                sqlstate: Some(sqlstate),
                message: &message,
                ..event
            },
        );
    });
}
