//! The event of a statement that has ended.

use std::rc::Rc;

use super::super::decided::Decided;
use super::super::known::Ending;
use super::super::repeated::Repeated;
use super::super::session::Session;
use super::super::trail::{self, Waiting};
use super::super::{connection, epoch, fault, quick, record};
use super::open::Open;
use super::within;
use crate::audit::event::{AuditDecision, AuditEvent, EventKind, bounded_text, length};
use crate::audit::record::{Again, Turn};

/// Publishes it; what was reserved for it is given back with that.
pub fn publish(open: &Open) {
    within::learn(open);
    if !fault::skips_record() && (within::any() || publish_again(open).is_none()) {
        publish_whole(open);
    }
    if within::any() && open.level == 0 {
        within::forget();
    }
}

/// Publishes the event of a statement that came before, was decided as it was then, and ran: all of it is known but its turn.
fn publish_again(open: &Open) -> Option<()> {
    let (known, session) = (open.known.as_ref()?, open.session.as_deref()?);
    let repeated = open.repeated.as_ref()?;
    if !open.is_plain() || open.parameters.given.is_some() {
        return None;
    }
    let application = record::application_name();
    let mut ending = known.ending.try_borrow_mut().ok()?;
    let same = |it: &&mut Rc<Ending>| {
        Rc::ptr_eq(&it.repeated, repeated)
            && it.has_application(application)
            && it.command == open.command
            && it.level == open.level
    };
    let ending = match ending.as_mut().filter(same) {
        Some(ending) => ending,
        None => ending.insert(Rc::new(ending_of(open, session, repeated))),
    };
    turn(open, ending)
}

/// Encodes the event of a statement but for its turn.
#[inline(never)]
fn ending_of(open: &Open, session: &Session, repeated: &Rc<Repeated>) -> Ending {
    let application = record::application_name();
    let accesses: Vec<_> = repeated.accesses.iter().map(Decided::record).collect();
    let mut event = record::who(EventKind::Statement, open.at, Some(session));
    (event.command, event.statement, event.accesses) = (open.command, &open.text, &accesses);
    (event.level, event.statement_len) = (open.level, length(&open.text));
    (event.decision, event.rule_id) = (AuditDecision::Allow, open.rule);
    event.policy_version = open.policy_version;
    let (repeated, application) = (Rc::clone(repeated), application.to_owned());
    Ending { repeated, application, command: open.command, level: open.level, event: Again::of(&event) }
}

/// As `publish`, of a statement that `parked` has opened; false, with nothing done, where that takes a closer look.
#[inline]
pub fn reopened(open: &Open) -> bool {
    let Some(ending) = open.ending.as_deref() else { return false };
    open.is_plain()
        && open.repeated.is_some()
        && ending.has_application(record::application_name())
        && (fault::skips_record() || turn(open, ending).is_some())
}

#[inline]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
fn turn(open: &Open, ending: &Ending) -> Option<()> {
    let turn = Turn {
        at: open.at,
        xid: quick::full_transaction(),
        rows: open.rows,
        duration_us: epoch::clock().saturating_sub(open.at),
        parameters: &open.parameters.numbers,
    };
    trail::publish_again(&ending.event, &turn, open.reservation).then_some(())
}

/// Publishes that the statement has begun to return rows. Waits for room; false where there is none.
pub fn begun(open: &Open) -> bool {
    whole(open, |event| {
        let event = AuditEvent {
            kind: EventKind::Begun,
            rows: -1,
            duration_us: -1,
            message: "rows of it leave before it has ended",
            ..event
        };
        trail::publish_unreserved(&event, Waiting::Allowed)
    })
}

#[inline(never)]
fn publish_whole(open: &Open) {
    whole(open, |event| trail::publish(&event, open.reservation));
}

fn whole<R>(open: &Open, publish: impl FnOnce(AuditEvent<'_>) -> R) -> R {
    let refused = match &open.failure {
        Some((sqlstate, message)) => (Some(*sqlstate), message.as_str()),
        None => (None, ""),
    };
    // The writer redacts what it stores; a token is masked before it gets here (secrets.rs).
    let text = within::clean(&open.text);
    let bounded = bounded_text(&text);
    let message = within::clean(refused.1);
    let (parameters, types) = (open.parameters.texts(), open.parameters.types());
    let parameters = parameters.as_deref();
    let clean_parameters = parameters.and_then(within::clean_list);
    let before = open.repeated.as_deref().map_or(&[][..], |repeated| repeated.accesses.as_slice());
    let records: Vec<_> = before.iter().chain(&open.accesses).map(Decided::record).collect();
    let role = if open.session.is_none() { connection::login_name() } else { String::new() };
    // The server refused before anything was decided, by its own privileges for one.
    let undecided = records.is_empty() && open.failure.is_some() && open.decision == AuditDecision::Allow;
    let mut event = record::who(EventKind::Statement, open.at, open.session.as_deref());
    if open.session.is_none() {
        event.role = &role;
    }
    event.level = open.level;
    event.command = open.command;
    event.statement = bounded.text;
    event.statement_len = bounded.full_len;
    event.statement_sha256 = bounded.sha256;
    event.parameter_types = &types;
    event.parameters = clean_parameters.as_deref().or(parameters);
    event.accesses = &records;
    event.decision = if undecided { AuditDecision::None } else { open.decision };
    event.rule_id = open.rule;
    event.rows = open.rows;
    event.duration_us = epoch::clock().saturating_sub(open.at);
    (event.sqlstate, event.message) = (refused.0, &message);
    event.policy_version = open.policy_version;
    event.decided_by = open.decided_by;
    publish(event)
}
