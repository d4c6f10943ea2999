//! The statements that this backend has open, from their first check to their event in the trail.
//!
//! ERROR leaves the executor by longjmp, so no destructor closes a statement: the executor's end does, or the callback of
//! the (sub)transaction that fails. A statement that a cursor suspends stays open without being active. An event is
//! published exactly once; what was reserved for it is given back with it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys;

use super::approvals::{Asked, Held};
use super::known::{Ending, Known};
use super::process::PerProcess;
use super::repeated::Repeated;
use super::session::{self, Session};
use super::trail::{self, Reservation, Waiting};
use super::withhold::Texts;
use super::{connection, epoch, guc, quick, raise, results};
use crate::audit::event::{AccessRecord, AuditDecision, AuditEvent, EventKind, bounded_text, length};
use crate::audit::record::{Head, Tail};
use crate::audit::redact::redact;
use crate::decision::{Obligations, RuleId};
use crate::refusal::{Decider, Refusal, SqlState};
use crate::request::{Action, Form, Object, ObjectClass};

/// What a statement is known by while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The address of its QueryDesc.
    Query(usize),
    /// A utility statement: its number.
    Utility(u64),
}

/// One access as it was decided.
#[derive(Clone)]
pub struct Decided {
    /// What is done.
    pub action: Action,
    /// To what.
    pub object: Option<Arc<Object>>,
    /// The object's qualified name; empty for none.
    pub name: Rc<str>,
    /// The columns by name, separated by commas; `None` for none in particular.
    pub columns: Option<Rc<str>>,
    /// The outcome.
    pub decision: AuditDecision,
    /// The rule that decided.
    pub rule: Option<RuleId>,
}

/// Beyond this many the event tells no more; the decisions are made all the same.
const NOTED_MAX: usize = 256;

impl Decided {
    /// The access in the words of requests.
    pub fn item(&self) -> String {
        let (class, oid) =
            self.object.as_deref().map_or((ObjectClass::Other, 0), |object| (object.class, object.oid.0));
        crate::approval::item(class, oid, self.action, &self.name, self.columns.as_deref().unwrap_or(""))
    }
}

/// What came of telling parameters without the server's help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// There are none, or none to be told.
    Nothing,
    /// All of them were.
    Written,
    /// The output function of a type has to be asked.
    Unknown,
}

/// What `open` is told of a statement.
pub struct Opening {
    /// What it is known by.
    pub key: Key,
    /// The command tag.
    pub command: &'static str,
    /// The text.
    pub text: Rc<str>,
    /// What is known about it, where it is a query.
    pub known: Option<Rc<Known>>,
    /// The binding that it runs under.
    pub session: Option<Rc<Session>>,
    /// The form through which its accesses come; `None` for that of the statement around it.
    pub form: Option<Form>,
    /// When it began, where the caller has just read the clock.
    pub at: Option<i64>,
}

/// The bind parameters as text.
#[derive(Default)]
struct Parameters {
    values: Vec<Option<String>>,
    /// There are some to be recorded.
    present: bool,
    /// Numbers and NULLs: small, so that the memory is used again.
    plain: bool,
}

/// An open statement.
pub struct Open {
    key: Key,
    /// Inside the server's executor or utility code right now, as opposed to suspended.
    active: bool,
    /// The subtransaction that it began in; its failure ends the statement.
    subtransaction: u32,
    level: u16,
    at: i64,
    command: &'static str,
    text: Rc<str>,
    parameters: Parameters,
    known: Option<Rc<Known>>,
    /// Accesses that were decided before; they come before the others.
    repeated: Option<Rc<Repeated>>,
    accesses: Vec<Decided>,
    decision: AuditDecision,
    rule: Option<RuleId>,
    decided_by: Option<Decider>,
    policy_version: i64,
    rows: i64,
    failure: Option<([u8; 5], String)>,
    reservation: Reservation,
    session: Option<Rc<Session>>,
    /// What rides on the accesses that the agent itself named.
    pub obligations: Obligations,
    /// Relations whose allow asks for a condition, with the rule.
    pub where_required: Vec<(pg_sys::Oid, RuleId)>,
    /// It has run before, in part: a cursor or portal.
    has_run: bool,
    /// Whether what an obligation refuses is only recorded.
    pub observed: bool,
    /// Whether `max_rows` rides on an allow to change rows.
    pub changes_limited: bool,
    /// Rows handed to the client so far.
    pub sent: i64,
    /// Rows that it and what it called have changed so far, where a limit counts them.
    pub changed: u64,
    /// The form through which the statement's accesses come.
    pub form: Form,
    /// Not all of what it touches is known yet: a query before its executor has started.
    pub starting: bool,
    /// Its parse tree, where it is a utility statement that has yet to run; 0 for none.
    pub node: usize,
    /// What people have to agree to, or have agreed to. Most statements have none.
    pub held: Option<Box<Held>>,
    /// Which texts of its reports are withheld.
    pub texts: Texts,
    /// The policy epoch under which its plan was looked at.
    pub policies: u64,
}

#[expect(
    clippy::vec_box,
    reason = "statements are taken out and put back, and are too large to be copied each time"
)]
struct Statements {
    open: Vec<Box<Open>>,
    /// The memory of one that ended, for the next one.
    spare: Option<Box<Open>>,
    /// The error on its way to the client, as emit_log_hook saw it.
    error: Option<([u8; 5], String)>,
    /// A refusal outside any open statement was recorded; its error needs no event of its own.
    recorded: bool,
    next_utility: u64,
}

static STATEMENTS: PerProcess<RefCell<Statements>> = PerProcess::new(RefCell::new(Statements {
    open: Vec::new(),
    spare: None,
    error: None,
    recorded: false,
    next_utility: 0,
}));

fn with<T>(body: impl FnOnce(&mut Statements) -> T) -> Option<T> {
    STATEMENTS.with(|statements| statements.try_borrow_mut().ok().map(|mut statements| body(&mut statements)))
}

/// A new number for a utility statement.
pub fn next_utility() -> Key {
    Key::Utility(
        with(|statements| {
            statements.next_utility += 1;
            statements.next_utility
        })
        .unwrap_or(0),
    )
}

/// Opens a statement: reserves the room of its event, so that nothing runs that could not be recorded. `complete` calls
/// nothing of the server's that may raise.
///
/// # Errors
/// 53100 when the trail cannot take the event.
pub fn open(opening: Opening, complete: impl FnOnce(&mut Open)) -> Result<(), Refusal> {
    let Opening { key, command, text, known, session, form, at } = opening;
    let cost = trail::cost(text.len());
    let (reservation, at) = match trail::reserve_at_once(cost)? {
        Some(reservation) => (reservation, at),
        // Waiting for room is no part of the statement.
        None => (trail::reserve_waiting(cost)?, None),
    };
    let at = at.unwrap_or_else(epoch::clock);
    let opened = with(|statements| {
        let mut active = statements.open.iter().rev().filter(|open| open.active);
        let around = active.next();
        let form = form.or(around.map(|around| around.form)).unwrap_or(Form::Plain);
        let level = usize::from(around.is_some()).saturating_add(active.count());
        let mut place = statements.spare.take();
        let (mut parameters, accesses) = place
            .as_deref_mut()
            .map(|spare| (std::mem::take(&mut spare.parameters), std::mem::take(&mut spare.accesses)))
            .unwrap_or_default();
        // What lies in the memory is another statement's until this one tells of its own.
        parameters.present = false;
        let fresh = Open {
            key,
            active: true,
            subtransaction: quick::subtransaction(),
            level: u16::try_from(level).unwrap_or(u16::MAX),
            at,
            command,
            text,
            parameters,
            known,
            repeated: None,
            accesses,
            decision: AuditDecision::Allow,
            rule: None,
            decided_by: None,
            policy_version: 0,
            rows: -1,
            failure: None,
            reservation,
            session,
            obligations: Obligations::default(),
            where_required: Vec::new(),
            has_run: false,
            observed: false,
            changes_limited: false,
            sent: 0,
            changed: 0,
            form,
            starting: matches!(key, Key::Query(_)),
            node: 0,
            held: None,
            texts: Texts::PLAIN,
            policies: epoch::policies(),
        };
        let mut open = match place.take() {
            Some(mut place) => {
                *place = fresh;
                place
            }
            None => Box::new(fresh),
        };
        complete(&mut open);
        statements.open.push(open);
    });
    if opened.is_none() {
        trail::release(reservation);
    }
    Ok(())
}

/// The statement that is being worked on: the innermost active one.
pub fn with_current<T>(body: impl FnOnce(&mut Open) -> T) -> Option<T> {
    with(|statements| statements.open.iter_mut().rev().find(|open| open.active).map(|open| body(open)))
        .flatten()
}

/// Which texts the statements that are being worked on withhold, and whether the innermost fires what was deferred; `None`
/// between statements. Cannot panic: asked inside the server's error reporting. Everything, where it cannot be told.
pub fn texts() -> Option<(Texts, bool)> {
    let Ok(statements) = STATEMENTS.try_borrow() else { return Some((Texts::RAW, false)) };
    let active = || statements.open.iter().rev().filter(|open| open.active);
    let innermost = active().next()?;
    let texts = active().fold(Texts::PLAIN, |texts, open| texts.and(open.texts));
    Some((texts, matches!(innermost.command, "SET CONSTRAINTS" | "COMMIT" | "PREPARE TRANSACTION")))
}

/// Whether any statement is being worked on.
pub fn any_active() -> bool {
    with(|statements| statements.open.iter().any(|open| open.active)).unwrap_or(true)
}

/// Whether the query that runs fills a table that an enclosing CREATE TABLE AS makes.
pub fn filling_new_table() -> bool {
    with(|statements| {
        let mut active = statements.open.iter().rev().filter(|open| open.active);
        let query = active.next().is_some_and(|open| !open.is_utility());
        let makes = ["CREATE TABLE AS", "SELECT INTO", "CREATE MATERIALIZED VIEW"];
        query && active.next().is_some_and(|open| makes.contains(&open.command))
    })
    .unwrap_or(false)
}

/// The open statement of this key.
pub fn with_key<T>(key: Key, body: impl FnOnce(&mut Open) -> T) -> Option<T> {
    with(|statements| statements.open.iter_mut().rev().find(|open| open.key == key).map(|open| body(open)))
        .flatten()
}

/// The statements that are being worked on, outermost first.
pub fn chain() -> Vec<Asked> {
    with(|statements| statements.open.iter().filter(|open| open.active).map(|open| open.asked()).collect())
        .unwrap_or_default()
}

/// Marks a statement as running or suspended. Cannot panic, as the three below: outer hook frames call them without a
/// guard.
pub fn set_active(key: Key, active: bool) {
    with_key(key, |open| open.active = active);
}

/// The executor has started a statement: it waits to be run. False where it has obligations to be looked at first.
pub fn has_started(key: Key) -> bool {
    with_key(key, |open| {
        open.starting = false;
        let free = open.where_required.is_empty() && !open.changes_limited && open.held.is_none();
        open.active &= !free;
        free
    })
    .unwrap_or(false)
}

/// A run of a statement begins. False where there is more to it: a further batch, another binding, a cap on rows.
pub fn begins_run(key: Key) -> bool {
    with_key(key, |open| {
        let plain = !open.has_run && open.serial() == guc::active_serial() && open.obligations.is_empty();
        (open.active, open.has_run) = (open.active || plain, open.has_run || plain);
        plain
    })
    .unwrap_or(false)
}

/// A run of a statement has ended; the rows so far. False where they have to be compared with a limit.
pub fn ends_run(key: Key, processed: i64) -> bool {
    with_key(key, |open| {
        let plain = open.obligations.is_empty();
        if plain {
            open.ran(processed);
            open.active = false;
        }
        plain
    })
    .unwrap_or(false)
}

impl Open {
    /// Adds an access; a denial becomes the statement's.
    pub fn note(&mut self, decided: Decided, policy_version: i64) {
        self.policy_version = policy_version;
        match decided.decision {
            AuditDecision::Deny => (self.decision, self.rule) = (AuditDecision::Deny, decided.rule),
            AuditDecision::Observe if self.decision != AuditDecision::Deny => {
                (self.decision, self.rule) = (AuditDecision::Observe, decided.rule);
            }
            _ if self.rule.is_none() && self.decision == AuditDecision::Allow => self.rule = decided.rule,
            _ => {}
        }
        if self.accesses.len() < NOTED_MAX {
            self.accesses.push(decided);
        } else if let Some(held) = self.held.as_deref_mut() {
            held.incomplete = true;
        }
    }

    /// Notes that people have to agree to an access: `words` where it is held, none where that depends on the number of
    /// rows. True where something has to be looked at: an access is held, or the statement runs with an approval.
    pub fn hold(&mut self, decided: &Decided, rules: Vec<RuleId>, words: Option<&Refusal>) -> bool {
        if rules.is_empty() && self.held.is_none() {
            return false;
        }
        let incomplete = self.noted().count() >= NOTED_MAX;
        let held = self.held.get_or_insert_default();
        held.incomplete |= incomplete;
        held.add(decided, rules, words)
    }

    /// Takes the statement for what it is, for `approvals`.
    fn asked(&self) -> Asked {
        Asked {
            command: self.command,
            text: Rc::clone(&self.text),
            parameters: self.parameters.present.then(|| self.parameters.values.clone()),
            level: self.level,
        }
    }

    /// What was noted, in the words of requests.
    pub fn items(&self) -> Vec<String> {
        self.noted().map(Decided::item).collect()
    }

    /// The accesses that were noted, those that were decided before among them.
    pub fn noted(&self) -> impl Iterator<Item = &Decided> {
        let before = self.repeated.as_deref().map_or(&[][..], |repeated| repeated.accesses.as_slice());
        before.iter().chain(&self.accesses)
    }

    /// Adds what was decided before; false where this statement has more to tell already.
    pub fn note_repeated(&mut self, repeated: &Rc<Repeated>) -> bool {
        if self.repeated.is_some() || !self.accesses.is_empty() || self.decision != AuditDecision::Allow {
            return false;
        }
        self.policy_version = repeated.policy_version;
        self.rule = self.rule.or(repeated.rule);
        self.observed = repeated.observed();
        self.repeated = Some(Rc::clone(repeated));
        true
    }

    /// Takes the accesses so far, with the rule, where all of them were allowed and nothing rides on that.
    pub fn take_plain_accesses(&mut self) -> Option<(Vec<Decided>, Option<RuleId>)> {
        let allowed = self.accesses.iter().all(|decided| decided.decision == AuditDecision::Allow);
        let plain = allowed
            && self.decision == AuditDecision::Allow
            && self.failure.is_none()
            && self.repeated.is_none()
            && self.obligations.is_empty()
            && self.where_required.is_empty()
            && !self.changes_limited
            && self.held.is_none();
        plain.then(|| (std::mem::take(&mut self.accesses), self.rule))
    }

    /// What is known about the statement, where it is a query.
    pub fn known(&self) -> Option<Rc<Known>> {
        self.known.clone()
    }

    /// Back to how it was when it was opened: what was decided so far is decided anew.
    pub fn begin_again(&mut self) {
        self.accesses.clear();
        self.where_required.clear();
        (self.decision, self.rule, self.failure, self.held) = (AuditDecision::Allow, None, None, None);
        self.obligations = Obligations::default();
    }

    /// Notes that the statement is refused.
    pub fn refuse(&mut self, refusal: &Refusal, observed: bool) {
        self.decided_by = refusal.decided_by;
        if observed {
            self.decision = AuditDecision::Observe;
            return;
        }
        self.decision = match refusal.sqlstate {
            SqlState::ApprovalRequired => AuditDecision::Approve,
            _ => AuditDecision::Deny,
        };
        self.rule = refusal.rule.or(self.rule);
        self.failure = Some((sqlstate_bytes(refusal.sqlstate.code()), refusal.message.clone()));
    }

    /// Keeps the bind parameters, where `write` can tell them without the server's help; false where it cannot.
    pub fn set_plain_parameters(&mut self, write: impl FnOnce(&mut Vec<Option<String>>) -> Plain) -> bool {
        let parameters = &mut self.parameters;
        let outcome = write(&mut parameters.values);
        (parameters.present, parameters.plain) = (outcome == Plain::Written, outcome != Plain::Unknown);
        parameters.plain
    }

    /// Keeps the bind parameters.
    pub fn set_parameters(&mut self, parameters: Option<Vec<Option<String>>>) {
        let present = parameters.is_some();
        self.parameters = Parameters { values: parameters.unwrap_or_default(), present, plain: false };
    }

    /// Suspends the statement after a run; the rows so far.
    pub fn ran(&mut self, processed: i64) {
        // A cursor is run piece by piece, and es_processed starts anew with each; a write runs once.
        self.sent = self.sent.saturating_add(processed);
        self.rows = self.sent;
    }

    /// The rows of a finished statement.
    pub fn set_rows(&mut self, rows: i64) {
        self.rows = rows;
    }

    /// Marks the statement as suspended.
    pub fn set_suspended(&mut self) {
        self.active = false;
    }

    /// Marks the statement as running.
    pub fn set_running(&mut self) {
        self.active = true;
    }

    /// Whether this is its first run; later ones are further batches of a cursor.
    pub fn starts_running(&mut self) -> bool {
        let serial = self.serial();
        let first = !std::mem::replace(&mut self.has_run, true);
        first && serial == guc::active_serial()
    }

    /// When it began, later than `last`, the command, and the binding: what its results are known by.
    pub fn told_apart(&mut self, last: i64) -> (i64, &'static str, Option<Rc<Session>>) {
        self.at = self.at.max(last.saturating_add(1));
        (self.at, self.command, self.session.clone())
    }

    /// Whether the client sent it, as opposed to a function or another statement.
    pub fn is_top_level(&self) -> bool {
        self.level == 0
    }

    /// Whether it is a utility statement.
    pub fn is_utility(&self) -> bool {
        matches!(self.key, Key::Utility(_))
    }

    /// The text as it was sent.
    pub fn text(&self) -> Rc<str> {
        Rc::clone(&self.text)
    }

    /// The binding that the statement was opened under.
    pub fn session(&self) -> Option<Rc<Session>> {
        self.session.clone()
    }

    /// The serial of the binding that the statement was opened under; 0 for none.
    pub fn serial(&self) -> u64 {
        self.session.as_ref().map_or(0, |session| session.serial)
    }
}

fn sqlstate_bytes(code: &str) -> [u8; 5] {
    code.as_bytes().try_into().unwrap_or(*b"XX000")
}

/// A longer text does not wait with a spare statement until the next one.
const KEPT_TEXT_MAX: usize = 4096;

/// Ends a statement that ran to its end; false where that was known already.
pub fn close(key: Key) -> bool {
    let open = with(|statements| {
        let at = statements.open.iter().rposition(|open| open.key == key)?;
        Some(statements.open.remove(at))
    })
    .flatten();
    let found = open.is_some();
    if let Some(mut open) = open {
        publish(&open);
        open.accesses.clear();
        (open.session, open.known, open.repeated) = (None, None, None);
        if open.text.len() > KEPT_TEXT_MAX {
            open.text = Rc::default();
        }
        if !open.parameters.plain {
            open.parameters = Parameters::default();
        }
        with(|statements| statements.spare = Some(open));
    }
    found
}

fn publish(open: &Open) {
    if publish_again(open).is_none() {
        publish_whole(open);
    }
}

/// Publishes the event of a statement that came before, was decided as it was then, and ran: its end is known.
fn publish_again(open: &Open) -> Option<()> {
    let (known, session) = (open.known.as_ref()?, open.session.as_deref()?);
    let repeated = open.repeated.as_ref()?;
    if !open.accesses.is_empty() || open.failure.is_some() || open.decision != AuditDecision::Allow {
        return None;
    }
    let application = application_name();
    let mut ending = known.ending.try_borrow_mut().ok()?;
    let same = |it: &&mut Ending| {
        Rc::ptr_eq(&it.repeated, repeated) && *it.application == *application && it.command == open.command
    };
    let ending = match ending.as_mut().filter(same) {
        Some(ending) => ending,
        None => {
            let accesses: Vec<_> = repeated.accesses.iter().map(access_record).collect();
            let mut event = who(EventKind::Statement, open.at, Some(session));
            (event.command, event.statement, event.accesses) = (open.command, &open.text, &accesses);
            let (repeated, application) = (Rc::clone(repeated), application.to_owned());
            let fresh = Ending { repeated, application, command: open.command, tail: Tail::of(&event) };
            ending.insert(fresh)
        }
    };
    let head = Head {
        kind: EventKind::Statement,
        decision: AuditDecision::Allow,
        decided_by: None,
        at: open.at,
        pid: process_id(),
        xid: quick::full_transaction(),
        level: open.level,
        rows: open.rows,
        duration_us: epoch::clock().saturating_sub(open.at),
        policy_version: open.policy_version,
        statement_len: length(&open.text),
        rule_id: open.rule,
        sqlstate: None,
        statement_sha256: None,
        parameters: open.parameters.present.then_some(open.parameters.values.as_slice()),
    };
    trail::publish_again(&head, &ending.tail, open.reservation).then_some(())
}

fn publish_whole(open: &Open) {
    let refused = match &open.failure {
        Some((sqlstate, message)) => (Some(*sqlstate), message.as_str()),
        None => (None, ""),
    };
    // The writer redacts what it stores; a token is masked before it gets here (secrets.rs).
    let bounded = bounded_text(&open.text);
    let before = open.repeated.as_deref().map_or(&[][..], |repeated| repeated.accesses.as_slice());
    let records: Vec<_> = before.iter().chain(&open.accesses).map(access_record).collect();
    let role = if open.session.is_none() { connection::login_name() } else { String::new() };
    // The server refused before anything was decided, by its own privileges for one.
    let undecided = records.is_empty() && open.failure.is_some() && open.decision == AuditDecision::Allow;
    let mut event = who(EventKind::Statement, open.at, open.session.as_deref());
    if open.session.is_none() {
        event.role = &role;
    }
    event.level = open.level;
    event.command = open.command;
    event.statement = bounded.text;
    event.statement_len = bounded.full_len;
    event.statement_sha256 = bounded.sha256;
    event.parameters = open.parameters.present.then_some(open.parameters.values.as_slice());
    event.accesses = &records;
    event.decision = if undecided { AuditDecision::None } else { open.decision };
    event.rule_id = open.rule;
    event.rows = open.rows;
    event.duration_us = epoch::clock().saturating_sub(open.at);
    (event.sqlstate, event.message) = refused;
    event.policy_version = open.policy_version;
    event.decided_by = open.decided_by;
    trail::publish(&event, open.reservation);
}

fn access_record(decided: &Decided) -> AccessRecord<'_> {
    let object = decided.object.as_deref();
    AccessRecord {
        verb: decided.action.verb,
        kind: decided.action.kind,
        class: object.map_or(ObjectClass::Other, |object| object.class),
        oid: object.map_or(0, |object| object.oid.0),
        name: &decided.name,
        columns: decided.columns.as_deref().unwrap_or(""),
        decision: decided.decision,
        rule: decided.rule,
    }
}

fn process_id() -> i32 {
    // SAFETY: a plain value of this process.
    unsafe { pg_sys::MyProcPid }
}

/// The client's application_name.
fn application_name() -> &'static std::ffi::CStr {
    // SAFETY: a NUL-terminated GUC string or null; whoever asks lets go of it before the setting can change.
    unsafe {
        let name = pg_sys::application_name;
        if name.is_null() { c"" } else { std::ffi::CStr::from_ptr(name) }
    }
}

/// The part of an event that says who: the session's where it is bound, else what the connection tells.
fn who<'a>(kind: EventKind, at: i64, session: Option<&'a Session>) -> AuditEvent<'a> {
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
        let message = if code == 0 { "connection closed" } else { "connection ended by an error" };
        publish_alone(EventKind::Unbind, Some(&session), |event, publish| {
            publish(&AuditEvent { message, ..event });
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
        publish(&AuditEvent {
            window_id: window,
            command: action,
            message: what,
            statement: bounded.text,
            statement_len: bounded.full_len,
            statement_sha256: bounded.sha256,
            ..event
        });
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
    with(|statements| statements.recorded = true);
}

/// A refusal where no statement is open: while planning, in a fast-path call, before a statement could be opened.
pub fn record_refused_alone(command: &str, text: &str, decided: Option<&Decided>, refusal: &Refusal) {
    let text = redact(text);
    let bounded = bounded_text(&text);
    let records: Vec<AccessRecord<'_>> = decided.map(access_record).into_iter().collect();
    publish_alone(EventKind::Statement, session::bound().as_deref(), |event, publish| {
        publish(&AuditEvent {
            command,
            statement: bounded.text,
            statement_len: bounded.full_len,
            statement_sha256: bounded.sha256,
            accesses: &records,
            decision: AuditDecision::Deny,
            rule_id: refusal.rule,
            decided_by: refusal.decided_by,
            sqlstate: Some(sqlstate_bytes(refusal.sqlstate.code())),
            message: &refusal.message,
            ..event
        });
    });
    with(|statements| statements.recorded = true);
}

/// Something ran or was seen outside any statement (a fast-path call): its event is complete at once.
pub fn record_alone(command: &str, text: &str, decided: &Decided) {
    let records = [access_record(decided)];
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

/// An ERROR is on its way to the client (emit_log_hook). One that belongs to no open statement failed before it could be
/// opened, mostly at parse, and gets its event here.
pub fn failing(sqlerrcode: i32, message: &str, statement: &str) {
    let sqlstate = raise::sqlstate_text(sqlerrcode);
    let message = redact(message).into_owned();
    let alone = with(|statements| {
        let active = statements.open.iter().any(|open| open.active);
        let recorded = std::mem::replace(&mut statements.recorded, false);
        if active {
            statements.error = Some((sqlstate, message.clone()));
        }
        !active && !recorded
    });
    if alone == Some(true) {
        let text = redact(statement);
        let bounded = bounded_text(&text);
        publish_alone(EventKind::Statement, session::bound().as_deref(), |event, publish| {
            publish(&AuditEvent {
                statement: bounded.text,
                statement_len: bounded.full_len,
                statement_sha256: bounded.sha256,
                sqlstate: Some(sqlstate),
                message: &message,
                ..event
            });
        });
    }
}

/// The error that `failing` was told of is about to go to the client: what it ends is published before that, instead of
/// when the transaction aborts.
pub fn publish_failed() {
    let (ended, failure) = with(|statements| {
        let open = std::mem::take(&mut statements.open);
        let (ended, kept) = open.into_iter().partition::<Vec<_>, _>(|open| open.active);
        statements.open = kept;
        (ended, statements.error.clone())
    })
    .unwrap_or_default();
    for mut open in ended.into_iter().rev() {
        open.failure = open.failure.take().or_else(|| failure.clone());
        publish(&open);
    }
}

/// The transaction failed or was rolled back. `error` tells whether an ERROR reached the top: then nothing stays
/// active; otherwise (ROLLBACK, also inside a procedure) the active statements go on.
pub fn transaction_aborted(error: bool) {
    let (ended, failure) = with(|statements| {
        let failure = statements.error.take();
        let open = std::mem::take(&mut statements.open);
        let (kept, ended) = open.into_iter().partition::<Vec<_>, _>(|open| open.active && !error);
        statements.open = kept;
        statements.recorded = false;
        (ended, failure)
    })
    .unwrap_or_default();
    for mut open in ended.into_iter().rev() {
        if open.failure.is_none() && open.active {
            open.failure = failure
                .clone()
                .or_else(|| Some((*b"XX000", "failed; the server kept no message".to_owned())));
        }
        publish(&open);
    }
}

/// A subtransaction failed: what began in it or below it has ended. The server tells no message where a function's
/// exception clause caught the error.
pub fn subtransaction_aborted(subtransaction: u32) {
    let ended = with(|statements| {
        let open = std::mem::take(&mut statements.open);
        let (ended, kept) =
            open.into_iter().partition::<Vec<_>, _>(|open| open.subtransaction >= subtransaction);
        statements.open = kept;
        ended
    })
    .unwrap_or_default();
    for mut open in ended.into_iter().rev() {
        if open.failure.is_none() && open.active {
            open.failure = Some((*b"P0000", "failed; the error was caught inside a function".to_owned()));
        }
        publish(&open);
    }
}
