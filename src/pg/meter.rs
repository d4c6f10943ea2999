//! What this session may still use up: the counters that its token, window and policy have it charge, and the charging.
//!
//! A charge goes to every block of the token that declares the limit, leaf first, then to the window, whose limit is the
//! tighter of its own and its policy's as that is now. The counters are looked up when the session binds and when a policy
//! changes; a statement under no limit costs the comparison of two numbers. Where results leave is `door`'s, where
//! time runs `limit_timer`'s.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::ledger::{self, Label, NoRoom, Tally};
use super::mark::{self, Interrupts};
use super::own::own;
use super::process::PerProcess;
use super::scan::{self, Key};
use super::session::Session;
use super::unusual::{self, Unusual};
use super::{
    door, enforce, epoch, handshake, limit_timer, policies, quick, record, results, standby, statement, text,
};
use crate::limit::counter::{Due, Unpaid, charge_all};
use crate::limit::{Holder, METERS, Meter, refusal, totals_of};
use crate::recording::Recording;
use crate::refusal::Refusal;

/// A counter with the limit that it has for this session.
struct Line {
    tally: &'static Tally,
    limit: u64,
    holder: Holder,
}

/// Everything that a binding is limited by.
struct Account {
    session: Rc<Session>,
    /// For each meter, leaf to root, the window last.
    lines: [Vec<Line>; METERS],
    rows_per_statement: Option<u64>,
    statement_timeout: Option<u64>,
}

/// The serial and policy epoch for which `ACCOUNT` holds.
static RESOLVED: PerProcess<Cell<(u64, u64)>> = PerProcess::new(Cell::new((0, 0)));
static ACCOUNT: PerProcess<RefCell<Option<Rc<Account>>>> = PerProcess::new(RefCell::new(None));
/// Rows that the statement of the client has returned and changed.
static RETURNED: PerProcess<Cell<u64>> = PerProcess::new(Cell::new(0));
static CHANGED: PerProcess<Cell<u64>> = PerProcess::new(Cell::new(0));

fn account() -> Option<Rc<Account>> {
    ACCOUNT.try_borrow().ok()?.clone()
}

impl Account {
    fn of(&self, meter: Meter) -> &[Line] {
        self.lines.get(meter.index()).map_or(&[], Vec::as_slice)
    }

    fn counts(&self, meter: Meter) -> bool {
        !self.of(meter).is_empty()
    }

    /// Charges every line of a meter, or none.
    fn charge(&self, meter: Meter, n: u64, interrupts: Interrupts) -> Result<(), Refusal> {
        let lines = self.of(meter);
        loop {
            match self.try_charge(meter, n) {
                Ok(()) => return Ok(()),
                Err(Unpaid::NeedsMark { at, mark }) => {
                    let Some(line) = lines.get(at) else { return Ok(()) };
                    mark::reach(line.tally, meter, mark, line.limit, interrupts)?;
                }
                Err(Unpaid::Exhausted { at, used }) => {
                    let Some(line) = lines.get(at) else { return Ok(()) };
                    return Err(refusal::exhausted(meter, line.limit, used, line.holder));
                }
            }
        }
    }

    fn try_charge(&self, meter: Meter, n: u64) -> Result<(), Unpaid> {
        let lines = self.of(meter);
        let due = |line: &'static Tally, limit| Due { counter: line.counter(meter.index()), limit, n };
        charge_all(lines.iter().map(|line| due(line.tally, line.limit)))?;
        lines.iter().for_each(|line| mark::ask_ahead(line.tally, meter, line.limit));
        Ok(())
    }

    fn take_back(&self, meter: Meter, n: u64) {
        self.of(meter).iter().for_each(|line| line.tally.counter(meter.index()).take_back(n));
    }

    /// The least that is left of a meter; `None` where nothing limits it.
    fn left(&self, meter: Meter) -> Option<u64> {
        let left = |line: &Line| line.limit.saturating_sub(line.tally.counter(meter.index()).used());
        self.of(meter).iter().map(left).min()
    }
}

/// What the table says of a counter that no shared memory knows. Nobody else charges it then.
fn stored(id: &[u8; 16]) -> Result<[u64; METERS], Refusal> {
    let own = own().ok_or_else(|| refusal::not_durable("the extension is not installed in this database"))?;
    let mut found = [0; METERS];
    scan::rows(own.ledger, Some((own.ledger_pkey, 1, Key::Bytes(*id))), |row| {
        for (place, used) in found.iter_mut().enumerate() {
            // A number that cannot be read is one that is used up.
            *used = row.column::<i64>(place + 4).and_then(|n| u64::try_from(n).ok()).unwrap_or(u64::MAX);
        }
    });
    Ok(found)
}

fn tally(label: Label) -> Result<&'static Tally, Refusal> {
    if let Some(tally) = ledger::known(&label.id, label.database) {
        return Ok(tally);
    }
    let stored = stored(&label.id)?;
    ledger::open(label, stored, epoch::clock()).map_err(|full| match full {
        NoRoom::Window => refusal::no_room(format!(
            "The window has {} counters in use, one for each block that carries a limit.",
            ledger::ENTRIES_OF_WINDOW
        )),
        NoRoom::Server => {
            refusal::no_room("Every counter of the server belongs to an open window.".to_owned())
        }
    })
}

/// Looks up what a binding is limited by; `None` for nothing at all.
fn resolve(session: &Rc<Session>) -> Result<Option<Rc<Account>>, Refusal> {
    let policy = policies::policy(session.policy_id)?;
    let limits = session.limits.and(&policy.limits);
    let token = &session.token;
    let (_, database) = handshake::realm();
    let window = *token.window();
    let mut lines: [Vec<Line>; METERS] = Default::default();
    let mut add = |label: Label, totals: crate::limit::Totals, holder| -> Result<(), Refusal> {
        if totals.iter().all(Option::is_none) {
            return Ok(());
        }
        let tally = tally(label)?;
        for (meter, (limit, lines)) in Meter::ALL.into_iter().zip(totals.into_iter().zip(&mut lines)) {
            if let Some(limit) = limit {
                mark::note_need(tally, meter, limit);
                lines.push(Line { tally, limit, holder });
            }
        }
        Ok(())
    };
    for (index, (claims, id)) in token.claims().iter().zip(token.block_ids()).enumerate().rev() {
        let ends = claims.exp.min(session.window_ends).saturating_mul(1_000_000);
        add(Label { id: *id, window, database, ends }, totals_of(claims), Holder::Block(index, *id))?;
    }
    let ends = session.window_ends.saturating_mul(1_000_000);
    add(Label { id: window, window, database, ends }, limits.totals, Holder::Window)?;
    if standby::is_one() && lines.iter().any(|lines| !lines.is_empty()) {
        return Err(refusal::not_durable(standby::STORES_NOTHING));
    }
    let (rows_per_statement, statement_timeout) = (limits.rows_per_statement, limits.statement_timeout);
    if lines.iter().all(Vec::is_empty) && rows_per_statement.is_none() && statement_timeout.is_none() {
        return Ok(None);
    }
    let session = Rc::clone(session);
    Ok(Some(Rc::new(Account { session, lines, rows_per_statement, statement_timeout })))
}

/// Makes what a session is limited by the account of this backend.
fn adopt(session: &Rc<Session>) -> Result<(), Refusal> {
    let epoch = epoch::policies();
    let account = resolve(session)?;
    let recording = policies::policy(session.policy_id)?.recording;
    // An error's text finds its bytes marked, as it cannot wait for the writer.
    for line in account.iter().flat_map(|account| account.of(Meter::BytesRead)) {
        let (counter, meter) = (line.tally.counter(Meter::BytesRead.index()), Meter::BytesRead);
        let need = counter.used().saturating_add(1);
        if need <= line.limit && counter.mark() < need {
            mark::reach(line.tally, meter, need, line.limit, Interrupts::Served)?;
        }
    }
    put(account, (session.serial, epoch), recording);
    Ok(())
}

/// A session binds: finds its counters and charges one use. A refused activation charges nothing.
///
/// # Errors
/// 53400 where a limit of uses is reached or there is no room to count; 53100 where the use cannot be stored.
pub fn bind(session: &Rc<Session>) -> Result<(), Refusal> {
    let (before, resolved, recording) = (account(), RESOLVED.get(), results::recording());
    let bound = adopt(session).and_then(|()| match account() {
        None => Ok(()),
        Some(account) => account.charge(Meter::Uses, 1, Interrupts::Served),
    });
    // Inside a function that catches the refusal, what it has read goes on being charged as before.
    bound.inspect_err(|_| put(before, resolved, recording))
}

fn put(account: Option<Rc<Account>>, resolved: (u64, u64), recording: Recording) {
    let counted = account.as_ref().is_some_and(|account| {
        account.rows_per_statement.is_some()
            || account.counts(Meter::RowsRead)
            || account.counts(Meter::BytesRead)
    });
    unusual::set(Unusual::Limited, account.is_some());
    ACCOUNT.replace(account);
    RESOLVED.set(resolved);
    door::watch(counted);
    results::watch(recording);
}

/// Nothing is bound, and no statement runs that was: what leaves from here on is nobody's.
pub fn leave() {
    if RESOLVED.get().0 != 0 {
        put(None, (0, 0), Recording::default());
    }
}

/// Whether anything is limited here.
#[inline]
pub fn limited() -> bool {
    unusual::is(Unusual::Limited)
}

/// A statement of the client begins under `session`. `free` tells whether it is one that an exhausted session needs to
/// leave; it is asked only where statements are counted.
///
/// # Errors
/// 53400 where the limit of statements is reached, and the refusals of `bind` where the policy has changed.
#[inline]
pub fn opened(session: &Rc<Session>, free: impl FnOnce() -> bool) -> Result<(), Refusal> {
    if RESOLVED.get() != (session.serial, epoch::policies()) {
        adopt(session)?;
    }
    if !limited() || quick::in_foreign_key() {
        return Ok(());
    }
    begin(free)
}

fn begin(free: impl FnOnce() -> bool) -> Result<(), Refusal> {
    let Some(account) = account() else { return Ok(()) };
    RETURNED.set(0);
    CHANGED.set(0);
    if !account.counts(Meter::Statements) || free() {
        return Ok(());
    }
    enforced(&account, account.charge(Meter::Statements, 1, Interrupts::Served))
}

/// Where denials are only recorded, so are limits.
fn enforced(account: &Account, outcome: Result<(), Refusal>) -> Result<(), Refusal> {
    match outcome {
        Err(refusal) if enforce::observing(&account.session) => {
            statement::with_current(|open| open.refuse(&refusal, true));
            Ok(())
        }
        outcome => outcome,
    }
}

/// A query of the client is run, at first or further on, which has returned and changed so many rows before.
pub fn runs(sent: i64, changed: u64) {
    RETURNED.set(u64::try_from(sent).unwrap_or(0));
    CHANGED.set(changed);
    begins();
}

/// The time of a statement of the client begins. Not where it is opened: a portal may wait for its client then.
pub fn begins() {
    if let Some(timeout) = account().and_then(|account| account.statement_timeout) {
        limit_timer::arm(timeout);
    }
}

/// The rows that the statement of the client has changed.
pub fn changed() -> u64 {
    CHANGED.get()
}

/// A fast-path call is a statement whose end nobody sees.
///
/// # Errors
/// 53400 where the time of statements is limited.
pub fn untimed() -> Result<(), Refusal> {
    match account().and_then(|account| account.statement_timeout) {
        Some(limit) => Err(refusal::untimed(limit)),
        None => Ok(()),
    }
}

/// A row of so many bytes is about to leave.
///
/// # Errors
/// 53400 where it would pass a limit: it must not be sent.
pub fn row(bytes: u64) -> Result<(), Refusal> {
    let Some(account) = account() else { return Ok(()) };
    let returned = RETURNED.get().saturating_add(1);
    let outcome = match account.rows_per_statement {
        Some(limit) if returned > limit => Err(refusal::rows_per_statement(limit)),
        _ => account.charge(Meter::RowsRead, 1, Interrupts::Served).and_then(|()| {
            account
                .charge(Meter::BytesRead, bytes, Interrupts::Served)
                .inspect_err(|_| account.take_back(Meter::RowsRead, 1))
        }),
    };
    RETURNED.set(returned);
    enforced(&account, outcome).inspect_err(note)
}

/// Other results of so many bytes are about to leave.
///
/// # Errors
/// 53400 where they would pass a limit.
pub fn bytes(bytes: u64) -> Result<(), Refusal> {
    let Some(account) = account() else { return Ok(()) };
    enforced(&account, account.charge(Meter::BytesRead, bytes, Interrupts::Served)).inspect_err(note)
}

/// A message that cannot be refused by an error is about to leave: it is dropped where this fails.
///
/// # Errors
/// Why it is to be dropped.
pub fn aside(bytes: u64) -> Result<(), Refusal> {
    let Some(account) = account() else { return Ok(()) };
    enforced(&account, account.charge(Meter::BytesRead, bytes, Interrupts::Held))
}

/// An error's text of so many bytes is about to leave. Waits for nothing: locks may be held.
///
/// # Errors
/// Why another text has to take its place.
pub fn error_text(bytes: u64) -> Result<(), Refusal> {
    let Some(account) = account() else { return Ok(()) };
    if !account.counts(Meter::BytesRead) {
        return Ok(());
    }
    let outcome = account.try_charge(Meter::BytesRead, bytes).map_err(|unpaid| {
        let (Unpaid::NeedsMark { at, .. } | Unpaid::Exhausted { at, .. }) = unpaid;
        let line = account.of(Meter::BytesRead).get(at);
        let (limit, holder) = line.map_or((0, Holder::Window), |line| (line.limit, line.holder));
        let used = line.map_or(0, |line| line.tally.counter(Meter::BytesRead.index()).used());
        refusal::exhausted(Meter::BytesRead, limit, used, holder)
    });
    enforced(&account, outcome)
}

/// Rows were changed, at any depth of a statement.
///
/// # Errors
/// 53400 where that passes a limit: the statement has to fail.
pub fn wrote(rows: u64) -> Result<(), Refusal> {
    let Some(account) = account() else { return Ok(()) };
    let changed = CHANGED.get().saturating_add(rows);
    CHANGED.set(changed);
    match account.rows_per_statement {
        Some(limit) if changed > limit => Err(refusal::rows_per_statement(limit)),
        _ => account.charge(Meter::RowsWritten, rows, Interrupts::Served),
    }
}

/// What a statement of the client says it has returned or changed is within the limit of one statement.
///
/// # Errors
/// 53400 where it is not.
pub fn completed(rows: u64) -> Result<(), Refusal> {
    match account().and_then(|account| account.rows_per_statement) {
        Some(limit) if rows > limit => Err(refusal::rows_per_statement(limit)),
        _ => Ok(()),
    }
}

/// The refusal of a change that the server does not count, where one counts.
pub fn uncounted(what: &str) -> Option<Refusal> {
    let account = account()?;
    if let Some(limit) = account.rows_per_statement {
        return Some(refusal::uncounted("rows_per_statement", limit, what));
    }
    let line = account.of(Meter::RowsWritten).first()?;
    Some(refusal::uncounted(Meter::RowsWritten.word(), line.limit, what))
}

/// A refusal in the middle of results: for the record.
fn note(refusal: &Refusal) {
    let noted = statement::with_current(|open| open.refuse(refusal, false));
    if noted.is_none() {
        record::record_refused_alone("", &text::current(), None, refusal);
    }
}

/// What is left of each limit, by name; `None` where nothing is limited.
pub fn left() -> Option<serde_json::Map<String, serde_json::Value>> {
    let account = account()?;
    let mut left = serde_json::Map::new();
    for meter in Meter::ALL {
        if let Some(amount) = account.left(meter) {
            left.insert(meter.word().to_owned(), amount.into());
        }
    }
    if let Some(limit) = account.rows_per_statement {
        left.insert("rows_per_statement".to_owned(), limit.into());
    }
    if let Some(limit) = account.statement_timeout {
        left.insert("statement_timeout".to_owned(), crate::limit::span::text(limit / 1000).into());
    }
    Some(left)
}
