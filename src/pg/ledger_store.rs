//! The writer's part of the ledger: stores marks in the table agent_guard.ledger, durably, before anybody charges beyond
//! them, and exact numbers when it is about to leave.
//!
//! One writer serves a database, so nobody else moves its marks. A mark is raised in memory after its row is committed and
//! lowered before: at every moment the row is at least the mark. A crash may so count too much, never too little.

use std::sync::atomic::Ordering;

use pgrx::datum::{TimestampWithTimeZone, Uuid};
use pgrx::prelude::*;

use super::ledger::{self, Marks};
use super::scan::POSTGRES_EPOCH_MICROS;
use super::slot::Slot;
use super::writer_transaction::{Trouble, in_transaction, set};

/// Rows of what is over stay for a day more: the clock may be set back.
const FORGET: &str = "DELETE FROM agent_guard.ledger WHERE id OPERATOR(pg_catalog.<>) pg_catalog.uuid_send(window_id)
    AND expires_at OPERATOR(pg_catalog.<) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '1 day'::pg_catalog.interval)";

const RAISE: &str = "INSERT INTO agent_guard.ledger AS l
        (id, window_id, expires_at, rows_read, rows_written, bytes_read, statements, uses)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (id) DO UPDATE SET rows_read = GREATEST(l.rows_read, EXCLUDED.rows_read),
        rows_written = GREATEST(l.rows_written, EXCLUDED.rows_written),
        bytes_read = GREATEST(l.bytes_read, EXCLUDED.bytes_read),
        statements = GREATEST(l.statements, EXCLUDED.statements), uses = GREATEST(l.uses, EXCLUDED.uses)";

const LOWER: &str = "UPDATE agent_guard.ledger SET rows_read = $2, rows_written = $3, bytes_read = $4, statements = $5, uses = $6
    WHERE id OPERATOR(pg_catalog.=) $1";

/// Whether somebody waits for marks.
pub fn is_due(slot: &Slot) -> bool {
    slot.ledger_due.load(Ordering::SeqCst) != 0
}

/// Raises every mark that is wanted in the writer's database.
pub fn serve(slot: &Slot) {
    // Cleared before the look: what is wanted after it sets it again.
    slot.ledger_due.store(0, Ordering::SeqCst);
    let wanted = ledger::wanted(slot.database.load(Ordering::SeqCst));
    if wanted.is_empty() {
        return;
    }
    match durably(|| wanted.iter().try_for_each(raise)) {
        Ok(()) => ledger::raise(&wanted),
        // Whoever waits asks again, and is refused in the end.
        Err(why) => warning!("marks of limits cannot be stored, agents under a limit wait: {why}"),
    }
}

/// Stores the exact numbers of what nobody is charging, and forgets what has long been over.
pub fn settle(slot: &Slot) {
    let lowered = ledger::lower(slot.database.load(Ordering::SeqCst));
    if lowered.is_empty() {
        return;
    }
    let stored = durably(|| {
        lowered.iter().try_for_each(lower)?;
        Spi::run(FORGET)
    });
    if let Err(why) = stored {
        // The rows are higher than the marks, which is what a crash would leave.
        log!("exact numbers of limits are not stored: {why}");
    }
}

fn number(mark: u64) -> i64 {
    i64::try_from(mark).unwrap_or(i64::MAX)
}

fn raise(marks: &Marks) -> Result<(), pgrx::spi::Error> {
    let [rows_read, rows_written, bytes_read, statements, uses] = marks.marks.map(number);
    let ends = TimestampWithTimeZone::try_from(marks.label.ends.saturating_sub(POSTGRES_EPOCH_MICROS)).ok();
    Spi::run_with_args(
        RAISE,
        &[
            marks.label.id.to_vec().into(),
            Uuid::from_bytes(marks.label.window).into(),
            ends.into(),
            rows_read.into(),
            rows_written.into(),
            bytes_read.into(),
            statements.into(),
            uses.into(),
        ],
    )
}

fn lower(marks: &Marks) -> Result<(), pgrx::spi::Error> {
    let [rows_read, rows_written, bytes_read, statements, uses] = marks.marks.map(number);
    Spi::run_with_args(
        LOWER,
        &[
            marks.label.id.to_vec().into(),
            rows_read.into(),
            rows_written.into(),
            bytes_read.into(),
            statements.into(),
            uses.into(),
        ],
    )
}

/// Runs `work` in a transaction that is on disk when it is over, and that waits for no lock for long: the trail waits
/// behind it.
fn durably(work: impl FnOnce() -> Result<(), pgrx::spi::Error>) -> Result<(), String> {
    set(c"synchronous_commit", c"local");
    set(c"lock_timeout", c"500ms");
    let outcome = in_transaction(|| work().map_err(|error| Trouble::Outside(error.to_string())));
    set(c"synchronous_commit", c"off");
    set(c"lock_timeout", c"0");
    outcome.map_err(|trouble| match trouble {
        Trouble::Outside(why) | Trouble::Event(why) => why,
        Trouble::Gone => "the extension is gone".to_owned(),
    })
}
