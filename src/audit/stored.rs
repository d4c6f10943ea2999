//! An event as it is read back: the same fields, owned, and what is missing of it.
//!
//! All its texts lie in one: a writer reads a hundred thousand events a second, and an allocation for each text was a tenth of what
//! an event cost it.

#![forbid(unsafe_code)]

use crate::audit::event::{AccessRecord, AuditDecision, EventKind};
use crate::refusal::Decider;
use crate::request::{Kind, ObjectClass, Verb};

/// Which parts of an event are not whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Parameters are missing, or the last one is cut.
    pub parameters: bool,
    /// Then the length and SHA-256 of the whole list (`whole_list`).
    pub whole_parameters: Option<(u64, [u8; 32])>,
    /// Accesses are missing.
    pub accesses: bool,
    /// The message, a name or the lineage is cut.
    pub other: bool,
}

/// Where a text lies in the one that holds all.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

/// The span of what is NULL: it lies nowhere.
const NULL: Span = Span { start: u32::MAX, end: 0 };

/// Texts one behind the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts(String);

impl Texts {
    /// Room for texts of so many bytes together.
    pub(super) fn with_capacity(bytes: usize) -> Texts {
        Texts(String::with_capacity(bytes))
    }

    /// Takes a text up.
    pub(super) fn push(&mut self, text: Option<&str>) -> Span {
        let Some(text) = text else { return NULL };
        // INVARIANT: an event has at most `MAX_EVENT` bytes.
        let at = |text: &String| u32::try_from(text.len()).unwrap_or(u32::MAX);
        let start = at(&self.0);
        self.0.push_str(text);
        Span { start, end: at(&self.0) }
    }

    fn get(&self, span: Span) -> Option<&str> {
        let place = |at: u32| usize::try_from(at).unwrap_or(usize::MAX);
        self.0.get(place(span.start)..place(span.end))
    }
}

/// What an access is beside its texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnedAccess {
    pub verb: Verb,
    pub kind: Option<Kind>,
    pub class: ObjectClass,
    pub oid: u32,
    pub decision: AuditDecision,
    pub rule: Option<i64>,
    pub name: Span,
    pub columns: Span,
}

/// An event read back. The fields, and what functions tell, are those of `AuditEvent`.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are those of AuditEvent")]
pub struct OwnedEvent {
    pub kind: EventKind,
    pub at: i64,
    pub session_id: [u8; 16],
    pub window_id: Option<[u8; 16]>,
    pub pid: i32,
    pub xid: u64,
    pub level: u16,
    pub statement_len: u64,
    pub statement_sha256: Option<[u8; 32]>,
    pub decision: AuditDecision,
    pub rule_id: Option<i64>,
    pub rows: i64,
    pub duration_us: i64,
    pub sqlstate: Option<[u8; 5]>,
    pub policy_version: i64,
    pub decided_by: Option<Decider>,
    pub parameter_types: Vec<u32>,
    pub results: Vec<u8>,
    pub cut: Cut,
    pub(super) role: Span,
    pub(super) client_addr: Span,
    pub(super) application_name: Span,
    pub(super) command: Span,
    pub(super) statement: Span,
    pub(super) message: Span,
    /// The parameters, where there is a list of them, and behind them the lineage.
    pub(super) items: Vec<Span>,
    pub(super) parameters: Option<usize>,
    pub(super) accesses: Vec<OwnedAccess>,
    pub(super) texts: Texts,
}

#[expect(missing_docs, reason = "they are those of AuditEvent")]
impl OwnedEvent {
    /// An event with only a kind, a time and a message.
    pub fn bare(kind: EventKind, at: i64, message: &str) -> OwnedEvent {
        let mut texts = Texts::default();
        let message = texts.push(Some(message));
        OwnedEvent {
            kind,
            at,
            session_id: [0; 16],
            window_id: None,
            pid: 0,
            xid: 0,
            level: 0,
            statement_len: 0,
            statement_sha256: None,
            decision: AuditDecision::None,
            rule_id: None,
            rows: -1,
            duration_us: -1,
            sqlstate: None,
            policy_version: 0,
            decided_by: None,
            parameter_types: Vec::new(),
            results: Vec::new(),
            cut: Cut::default(),
            role: Span::default(),
            client_addr: Span::default(),
            application_name: Span::default(),
            command: Span::default(),
            statement: Span::default(),
            message,
            items: Vec::new(),
            parameters: None,
            accesses: Vec::new(),
            texts,
        }
    }

    pub fn role(&self) -> &str {
        self.text(self.role)
    }

    pub fn client_addr(&self) -> &str {
        self.text(self.client_addr)
    }

    pub fn application_name(&self) -> &str {
        self.text(self.application_name)
    }

    pub fn command(&self) -> &str {
        self.text(self.command)
    }

    pub fn statement(&self) -> &str {
        self.text(self.statement)
    }

    pub fn message(&self) -> &str {
        self.text(self.message)
    }

    pub fn lineage(&self) -> impl ExactSizeIterator<Item = &str> {
        let behind = self.items.get(self.parameters.unwrap_or(0)..).unwrap_or(&[]);
        behind.iter().map(|span| self.text(*span))
    }

    /// `None` inside for NULL.
    pub fn parameters(&self) -> Option<impl ExactSizeIterator<Item = Option<&str>>> {
        let items = self.items.get(..self.parameters?)?;
        Some(items.iter().map(|span| self.texts.get(*span)))
    }

    pub fn accesses(&self) -> impl ExactSizeIterator<Item = AccessRecord<'_>> + Clone {
        self.accesses.iter().map(|access| AccessRecord {
            verb: access.verb,
            kind: access.kind,
            class: access.class,
            oid: access.oid,
            name: self.text(access.name),
            columns: self.text(access.columns),
            decision: access.decision,
            rule: access.rule,
        })
    }

    /// Whether both needed the same.
    pub fn needed_what(&self, other: &OwnedEvent) -> bool {
        // Most differ in the first object.
        let first = |event: &OwnedEvent| event.accesses.first().map(|access| access.oid);
        first(self) == first(other) && self.accesses().eq(other.accesses())
    }

    fn text(&self, span: Span) -> &str {
        self.texts.get(span).unwrap_or("")
    }
}
