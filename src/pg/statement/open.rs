//! One open statement: what was decided for it so far, and what its end has to tell.

use std::borrow::Cow;
use std::rc::Rc;

use pgrx::pg_sys;

use super::super::approvals::{Asked, Held};
use super::super::decided::Decided;
use super::super::known::{Ending, Known};
use super::super::repeated::Repeated;
use super::super::rows::Given;
use super::super::session::{Session, Standing};
use super::super::trail::Reservation;
use super::super::withhold::Texts;
use super::super::{epoch, guc, quick, record};
use super::Key;
use crate::audit::event::AuditDecision;
use crate::audit::record::Number;
use crate::decision::{Obligations, RuleId};
use crate::refusal::{Decider, Refusal, SqlState};
use crate::request::Form;

/// Beyond this many the event tells no more; the decisions are made all the same.
const NOTED_MAX: usize = 256;

/// A longer text does not wait with a spare statement until the next one.
const KEPT_TEXT_MAX: usize = 4096;

/// The bind parameters.
#[derive(Default)]
pub(super) struct Parameters {
    /// Numbers and NULLs, told without the server's help; the memory is used again.
    pub(super) numbers: Vec<Number>,
    /// Any others, as text.
    pub(super) given: Option<Given>,
}

impl Parameters {
    /// Their values as text; `None` where there are none to be recorded.
    pub(super) fn texts(&self) -> Option<Cow<'_, [Option<String>]>> {
        if let Some(given) = &self.given {
            return Some(Cow::Borrowed(&given.values));
        }
        let text = |number: &Number| number.value.map(|value| value.to_string());
        (!self.numbers.is_empty()).then(|| self.numbers.iter().map(text).collect())
    }

    /// Their types.
    pub(super) fn types(&self) -> Cow<'_, [u32]> {
        match &self.given {
            Some(given) => Cow::Borrowed(&given.types),
            None => self.numbers.iter().map(|number| number.type_oid).collect(),
        }
    }
}

/// An open statement. What every statement needs comes first, close together.
#[repr(C)]
pub struct Open {
    pub(super) key: Key,
    /// The subtransaction that it began in; its failure ends the statement.
    pub(super) subtransaction: u32,
    /// Inside the server's executor or utility code right now, as opposed to suspended.
    pub(super) active: bool,
    /// Not all of what it touches is known yet: a query before its executor has started.
    pub starting: bool,
    /// It has run before, in part: a cursor or portal.
    pub(super) has_run: bool,
    /// It was opened by `parked`: nothing rides on it, and nothing is limited, masked or recorded beside it.
    pub(super) reopened: bool,
    pub(super) at: i64,
    pub(super) rows: i64,
    /// Rows handed to the client so far.
    pub sent: i64,
    /// The serial of the binding that it was opened under; 0 for none.
    pub(super) serial: u64,
    pub(super) rule: Option<RuleId>,
    pub(super) policy_version: i64,
    /// The policy epoch under which its plan was looked at.
    pub policies: u64,
    pub(super) known: Option<Rc<Known>>,
    /// Accesses that were decided before; they come before the others.
    pub(super) repeated: Option<Rc<Repeated>>,
    /// What was decided when it ended last, until its relations are asked for.
    pub(super) before: Option<Rc<Repeated>>,
    /// Its event, encoded when it ended last.
    pub(super) ending: Option<Rc<Ending>>,
    /// How its binding stood when it ended last.
    pub(super) standing: Standing,
    pub(super) reservation: Reservation,
    /// A query's command, as the plan tells it.
    pub operation: pg_sys::CmdType::Type,
    pub(super) level: u16,
    pub(super) decision: AuditDecision,
    /// Whether what an obligation refuses is only recorded.
    pub observed: bool,
    /// Whether `max_rows` rides on an allow to change rows.
    pub changes_limited: bool,
    /// The form through which the statement's accesses come.
    pub form: Form,
    /// Which texts of its reports are withheld.
    pub texts: Texts,
    /// Anything was masked or filtered when it was opened.
    pub masked: bool,
    /// Its query fills a table that it makes.
    pub makes_table: bool,
    /// An event of kind `begun` is on disk, or on its way: its rows need not wait for its end.
    pub begun: bool,
    /// What people have to agree to, or have agreed to. Most statements have none.
    pub held: Option<Box<Held>>,
    pub(super) accesses: Vec<Decided>,
    pub(super) parameters: Parameters,
    pub(super) failure: Option<([u8; 5], String)>,
    /// Relations whose allow asks for a condition, with the rule.
    pub where_required: Vec<(pg_sys::Oid, RuleId)>,
    /// What rides on the accesses that the agent itself named.
    pub obligations: Obligations,
    pub(super) command: &'static str,
    pub(super) text: Rc<str>,
    pub(super) session: Option<Rc<Session>>,
    pub(super) decided_by: Option<Decider>,
    /// Rows that it and what it called have changed so far, where a limit counts them.
    pub changed: u64,
    /// Its parse tree, where it is a utility statement that has yet to run; 0 for none.
    pub node: usize,
}

/// What an open statement begins with.
pub(super) struct Beginning {
    pub(super) key: Key,
    pub(super) level: u16,
    pub(super) at: i64,
    pub(super) command: &'static str,
    pub(super) text: Rc<str>,
    pub(super) known: Option<Rc<Known>>,
    pub(super) session: Option<Rc<Session>>,
    pub(super) form: Form,
    pub(super) reservation: Reservation,
}

impl Open {
    /// Memory for one.
    pub(super) fn blank() -> Open {
        Open {
            key: Key::Utility(0),
            active: false,
            subtransaction: 0,
            level: 0,
            at: 0,
            command: "",
            text: Rc::default(),
            parameters: Parameters::default(),
            known: None,
            repeated: None,
            accesses: Vec::new(),
            decision: AuditDecision::Allow,
            rule: None,
            decided_by: None,
            policy_version: 0,
            rows: -1,
            failure: None,
            reservation: Reservation::default(),
            session: None,
            obligations: Obligations::default(),
            where_required: Vec::new(),
            has_run: false,
            makes_table: false,
            observed: false,
            changes_limited: false,
            begun: false,
            sent: 0,
            changed: 0,
            form: Form::Plain,
            starting: false,
            node: 0,
            held: None,
            texts: Texts::PLAIN,
            masked: false,
            policies: 0,
            operation: pg_sys::CmdType::CMD_UNKNOWN,
            reopened: false,
            before: None,
            ending: None,
            serial: 0,
            standing: Standing::default(),
        }
    }

    /// Begins in this memory, which is blank or cleared. Written where it stays: a statement is too large to be made
    /// elsewhere and copied, each time one is opened.
    pub(super) fn begin(&mut self, beginning: Beginning) {
        let Beginning { key, level, at, command, text, known, session, form, reservation } = beginning;
        (self.key, self.level, self.at, self.command) = (key, level, at, command);
        self.serial = session.as_ref().map_or(0, |session| session.serial);
        (self.text, self.known, self.session) = (text, known, session);
        (self.form, self.reservation) = (form, reservation);
        (self.active, self.starting) = (true, matches!(key, Key::Query(_)));
        self.subtransaction = quick::subtransaction();
        self.policies = epoch::policies();
        (self.decision, self.rule, self.decided_by) = (AuditDecision::Allow, None, None);
        (self.policy_version, self.rows) = (0, -1);
        self.obligations = Obligations::default();
        (self.has_run, self.observed, self.changes_limited, self.begun) = (false, false, false, false);
        self.makes_table = false;
        (self.sent, self.changed, self.node) = (0, 0, 0);
        (self.texts, self.masked) = (Texts::PLAIN, false);
        (self.operation, self.reopened) = (pg_sys::CmdType::CMD_UNKNOWN, false);
    }

    /// Lets go of what belongs to the statement that has ended; memory that the next one can use stays.
    pub(super) fn clear(&mut self) {
        self.accesses.clear();
        self.where_required.clear();
        (self.session, self.known, self.repeated) = (None, None, None);
        (self.before, self.ending) = (None, None);
        (self.failure, self.held) = (None, None);
        self.parameters.numbers.clear();
        self.parameters.given = None;
        if self.text.len() > KEPT_TEXT_MAX {
            self.text = Rc::default();
        }
    }

    /// Whether it was allowed and has not failed, and touched nothing but what was decided before.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.accesses.is_empty() && self.failure.is_none() && self.decision == AuditDecision::Allow
    }

    /// The address of its QueryDesc while its executor is being started.
    pub fn starting_query(&self) -> Option<usize> {
        match self.key {
            Key::Query(query) if self.starting => Some(query),
            _ => None,
        }
    }

    /// Adds an access; a denial becomes the statement's.
    pub fn note(&mut self, decided: Decided, policy_version: i64) {
        // More than was decided before: something may ride on it.
        self.reopened = false;
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
    pub(super) fn asked(&self) -> Asked {
        Asked {
            command: self.command,
            text: Rc::clone(&self.text),
            parameters: self.parameters.texts().map(Cow::into_owned),
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
    pub fn note_repeated(&mut self, repeated: Rc<Repeated>) -> bool {
        if self.repeated.is_some() || !self.accesses.is_empty() || self.decision != AuditDecision::Allow {
            return false;
        }
        self.policy_version = repeated.policy_version;
        self.rule = self.rule.or(repeated.rule);
        self.observed = repeated.observed();
        self.repeated = Some(repeated);
        true
    }

    /// What was decided when the statement ended last, where it was reopened and nobody has asked yet.
    pub fn take_before(&mut self) -> Option<Rc<Repeated>> {
        self.before.take()
    }

    /// Whether it goes on as one that was reopened.
    pub fn is_reopened(&mut self, reopened: bool) {
        self.reopened = reopened;
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
    pub fn known(&self) -> Option<&Rc<Known>> {
        self.known.as_ref()
    }

    /// Back to how it was when it was opened: what was decided so far is decided anew.
    pub fn begin_again(&mut self) {
        self.accesses.clear();
        self.repeated = None;
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
        self.failure = Some((record::sqlstate_bytes(refusal.sqlstate.code()), refusal.message.clone()));
    }

    /// Keeps the bind parameters, where `write` can tell them without the server's help; false where it cannot.
    pub fn set_plain_parameters(&mut self, write: impl FnOnce(&mut Vec<Number>) -> bool) -> bool {
        write(&mut self.parameters.numbers)
    }

    /// Keeps the bind parameters.
    pub fn set_parameters(&mut self, given: Option<Given>) {
        self.parameters.given = given;
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
        self.serial
    }
}
