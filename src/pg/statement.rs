//! The statements that this backend has open, from their first check to their event in the trail.
//!
//! ERROR leaves the executor by longjmp, so no destructor closes a statement: the executor's end does, or the callback of
//! the (sub)transaction that fails. A statement that a cursor suspends stays open without being active. An event is
//! published exactly once; what was reserved for it is given back with it.

mod open;
pub mod parked;
mod publish;
mod within;

use std::cell::RefCell;
use std::rc::Rc;

use super::approvals::Asked;
use super::known::{Known, PLACES};
use super::process::PerProcess;
use super::session::Session;
use super::trail::{self, Reservation};
use super::withhold::Texts;
use super::{calls, epoch, fault, guc, long_text, quick, raise, record};
use crate::audit::redact::redact_beside;
use crate::refusal::Refusal;
use crate::request::Form;

use open::Beginning;
pub use open::Open;
use publish::publish;

/// What a statement is known by while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The address of its QueryDesc.
    Query(usize),
    /// A utility statement: its number.
    Utility(u64),
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

#[expect(
    clippy::vec_box,
    reason = "statements are taken out and put back, and are too large to be copied each time"
)]
struct Statements {
    open: Vec<Box<Open>>,
    /// The memory of one that ended, for the next one.
    spare: Option<Box<Open>>,
    /// Those that may come again, each in the place of its text (`known`).
    parked: [Option<Box<Open>>; PLACES],
    /// The error on its way to the client, as emit_log_hook saw it.
    error: Option<([u8; 5], String)>,
    next_utility: u64,
    /// Whose rows were sent last without a word of it in the trail.
    rows_of: Option<Key>,
}

static STATEMENTS: PerProcess<RefCell<Statements>> = PerProcess::new(RefCell::new(Statements {
    open: Vec::new(),
    spare: None,
    parked: [const { None }; PLACES],
    error: None,
    next_utility: 0,
    rows_of: None,
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
    let reserved =
        if fault::skips_record() { Some(Reservation::default()) } else { trail::reserve_at_once(cost)? };
    let (reservation, at) = match reserved {
        Some(reservation) => (reservation, at),
        // Waiting for room is no part of the statement.
        None => (trail::reserve_waiting(cost)?, None),
    };
    let at = at.unwrap_or_else(epoch::clock);
    if let Err(refusal) = long_text::record(&text, at, command, session.as_deref()) {
        trail::release(reservation);
        return Err(refusal);
    }
    let opened = with(|statements| {
        let around = statements.open.iter().rev().find(|open| open.active);
        let form = form.or(around.map(|around| around.form)).unwrap_or(Form::Plain);
        // What deferred triggers run when the server commits, and functions that the protocol calls, has no statement around it.
        let alone = || u16::from(quick::in_foreign_key() || calls::any());
        let level = around.map_or_else(alone, |around| around.level.saturating_add(1));
        let mut open = statements.spare.take().unwrap_or_else(|| Box::new(Open::blank()));
        open.begin(Beginning { key, level, at, command, text, known, session, form, reservation });
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

/// Whether rows that are sent now belong to a statement of which nothing is recorded yet.
pub fn rows_are_unrecorded() -> bool {
    with(|statements| {
        let open = statements.open.iter().find(|open| open.active).filter(|open| !open.begun)?;
        statements.rows_of = Some(open.key);
        Some(())
    })
    .is_none_or(|open| open.is_some())
}

/// Records that rows of the client's statement leave before it has ended. False where the trail does not take it.
pub fn record_begun() -> bool {
    with(|statements| {
        let of = statements.rows_of;
        let open = statements.open.iter_mut().rev().find(|open| Some(open.key) == of);
        open.is_some_and(|open| {
            open.begun = open.begun || publish::begun(open);
            open.begun
        })
    })
    .unwrap_or(false)
}

/// Whether any statement is being worked on.
pub fn any_active() -> bool {
    with(|statements| statements.open.iter().any(|open| open.active)).unwrap_or(true)
}

/// Whether the query that runs fills a table that an enclosing CREATE TABLE AS makes, under EXPLAIN ANALYZE too.
pub fn filling_new_table() -> bool {
    with(|statements| {
        let mut active = statements.open.iter().rev().filter(|open| open.active);
        let query = active.next().is_some_and(|open| !open.is_utility());
        query && active.next().is_some_and(|open| open.makes_table)
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
        if open.before.is_some() {
            // It asked for no relation at all this time.
            (open.before, open.reopened) = (None, false);
        }
        let free = open.where_required.is_empty() && !open.changes_limited && open.held.is_none();
        open.active &= !free;
        free
    })
    .unwrap_or(false)
}

/// A run of a statement begins. False where there is more to it: a further batch, another binding, a cap on rows, masks.
pub fn begins_run(key: Key) -> bool {
    with_key(key, |open| {
        let more = open.has_run
            || !(open.reopened || (!open.masked && open.obligations.is_empty()))
            || open.serial() != guc::active_serial()
            // A mask may have come since it was opened.
            || open.policies != epoch::policies()
            || epoch::changed_here();
        if !more {
            (open.active, open.has_run) = (true, true);
        }
        !more
    })
    .unwrap_or(false)
}

/// A run of a statement has ended; the rows so far. False where they have to be compared with a limit.
pub fn ends_run(key: Key, processed: i64) -> bool {
    with_key(key, |open| {
        let plain = open.reopened || open.obligations.is_empty();
        if plain {
            open.ran(processed);
            open.active = false;
        }
        plain
    })
    .unwrap_or(false)
}

/// Ends a statement that ran to its end; false where that was known already.
pub fn close(key: Key) -> bool {
    let open = with(|statements| {
        let at = statements.open.iter().rposition(|open| open.key == key)?;
        Some(statements.open.remove(at))
    })
    .flatten();
    let found = open.is_some();
    if let Some(open) = open {
        publish(&open);
        with(|statements| {
            if let Some(mut open) = parked::keep(statements, open) {
                open.clear();
                statements.spare = Some(open);
            }
        });
    }
    found
}

/// An ERROR is on its way to the client (emit_log_hook). One that belongs to no open statement failed before it could be
/// opened, mostly at parse, and gets its event here. One that comes between two messages, and so has no text (the time of a
/// statement that is bound or suspended is over; ProcessInterrupts in postgres.c), is the end of the statement opened last.
pub fn failing(sqlerrcode: i32, message: &str, statement: &str) {
    let sqlstate = raise::sqlstate_text(sqlerrcode);
    let message = redact_beside(message, statement).into_owned();
    let recorded = record::take_recorded();
    let alone = with(|statements| {
        let active = statements.open.iter().any(|open| open.active);
        if active {
            statements.error = Some((sqlstate, message.clone()));
        } else if let Some(last) = statements.open.last_mut().filter(|_| statement.is_empty()) {
            last.failure.get_or_insert_with(|| (sqlstate, message.clone()));
            return false;
        }
        !active
    });
    if alone == Some(true) && !recorded {
        record::record_failed_alone(sqlstate, &message, statement);
    }
}

/// The error that `failing` was told of is about to go to the client: what it ends is published before that, instead of
/// when the transaction aborts.
pub fn publish_failed() {
    let (ended, failure) = with(|statements| {
        let open = std::mem::take(&mut statements.open);
        let (ended, kept) =
            open.into_iter().partition::<Vec<_>, _>(|open| open.active || open.failure.is_some());
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
    // Whatever error there was is over.
    record::take_recorded();
    let (ended, failure) = with(|statements| {
        let failure = statements.error.take();
        let open = std::mem::take(&mut statements.open);
        let (kept, ended) = open.into_iter().partition::<Vec<_>, _>(|open| open.active && !error);
        statements.open = kept;
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

/// A subtransaction failed: what began in it or below it has ended, with the error that went to the client, where it is a
/// savepoint's. The server tells no message where a function's exception clause caught the error.
pub fn subtransaction_aborted(subtransaction: u32) {
    let (ended, failure) = with(|statements| {
        let failure = statements.error.take();
        let open = std::mem::take(&mut statements.open);
        let (ended, kept) =
            open.into_iter().partition::<Vec<_>, _>(|open| open.subtransaction >= subtransaction);
        statements.open = kept;
        (ended, failure)
    })
    .unwrap_or_default();
    let caught = || (*b"P0000", "failed; the error was caught inside a function".to_owned());
    for mut open in ended.into_iter().rev() {
        if open.failure.is_none() && open.active {
            open.failure = Some(failure.clone().unwrap_or_else(caught));
        }
        publish(&open);
    }
}
