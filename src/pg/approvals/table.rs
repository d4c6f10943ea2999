//! The table approval_request from the agent's side: found by its hash, and marked as used by the agent's own transaction.
//!
//! Past SPI and the transaction's snapshot, as `scan` says. The mark is an ordinary update of the row: a rolled back
//! transaction or savepoint gives the approval back, a committed one has used it up, and a crash leaves one of the two.

use std::time::Duration;

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::prelude::*;

use super::super::own;
use super::super::scan::{self, Key, POSTGRES_EPOCH_MICROS, Row};
use super::super::session::Session;
use crate::approval::Known;
use crate::token::hex;

/// The columns of approval_request (sql/approvals.sql).
mod column {
    /// As keys.
    pub const ID_KEY: i16 = 1;
    pub const KEY: i16 = 2;
    pub const WINDOW: i16 = 10;
    pub const ID: usize = 1;
    pub const FINGERPRINT: usize = 3;
    pub const STATE: usize = 4;
    pub const REQUESTED_AT: usize = 5;
    pub const EXPIRES_AT: usize = 6;
    pub const USED_AT: usize = 7;
    pub const OBJECTS: usize = 8;
    pub const FOUND: usize = 9;
    pub const BLOCK_ID: usize = 11;
    pub const STATEMENT: usize = 12;
    pub const GIVEN: usize = 13;
    pub const NEEDED: usize = 14;
    pub const DECIDED_AT: usize = 15;
    pub const COMMENT: usize = 16;
    pub const USED_BY: usize = 31;
    pub const MAX_WAIT: usize = 32;
}

/// A request that was found.
pub struct Found {
    /// Its id.
    pub id: [u8; 16],
    /// What it means.
    pub known: Known,
    /// How many people have agreed.
    pub given: i32,
    /// How many have to.
    pub needed: i32,
    /// What somebody said.
    pub comment: Option<String>,
    /// How long a session may wait for it, as far as the rules say.
    pub max_wait: Option<Duration>,
}

/// The key that requests of one hash are looked for by.
pub fn key(fingerprint: &[u8; 32]) -> [u8; 16] {
    let mut key = [0; 16];
    key.iter_mut().zip(fingerprint).for_each(|(to, from)| *to = *from);
    key
}

/// The newest request of this hash, as it is committed now or was changed by this transaction.
pub fn newest(fingerprint: &[u8; 32]) -> Option<Found> {
    let own = own::own()?;
    let mut newest: Option<(i64, Found)> = None;
    let by = (own.approval_request_by_key, column::KEY, Key::Uuid(key(fingerprint)));
    scan::rows(own.approval_request, Some(by), |row| {
        if row.column::<Vec<u8>>(column::FINGERPRINT).as_deref() != Some(fingerprint) {
            return;
        }
        let at = row.unix_micros(column::REQUESTED_AT).unwrap_or(i64::MIN);
        if newest.as_ref().is_none_or(|(before, _)| *before < at) {
            newest = found(row).map(|found| (at, found));
        }
    });
    newest.map(|(_, found)| found)
}

fn found(row: &Row<'_>) -> Option<Found> {
    Some(Found {
        id: uuid_of(row, column::ID)?,
        known: Known {
            state: row.column(column::STATE)?,
            expires_at: row.unix_micros(column::EXPIRES_AT),
            objects: row.texts(column::OBJECTS),
            found: row.texts(column::FOUND),
        },
        given: row.column(column::GIVEN)?,
        needed: row.column(column::NEEDED)?,
        comment: row.column(column::COMMENT),
        max_wait: row
            .column::<Interval>(column::MAX_WAIT)
            .map(|wait| Duration::from_micros(u64::try_from(wait.as_micros()).unwrap_or(0))),
    })
}

fn uuid_of(row: &Row<'_>, column: usize) -> Option<[u8; 16]> {
    row.column::<pgrx::datum::Uuid>(column).map(|uuid| *uuid.as_bytes())
}

/// Whether a request is still to be decided.
pub fn is_pending(request: &[u8; 16]) -> bool {
    let Some(own) = own::own() else { return false };
    let mut pending = false;
    let by = (own.approval_request_pkey, column::ID_KEY, Key::Uuid(*request));
    scan::rows(own.approval_request, Some(by), |row| {
        pending |= row.column::<String>(column::STATE).as_deref() == Some("pending");
    });
    pending
}

/// What the agent is shown of a request of its own.
pub struct Listed {
    pub id: [u8; 16],
    pub state: String,
    pub statement: String,
    pub objects: Vec<String>,
    pub given: i32,
    pub needed: i32,
    pub requested_at: Option<TimestampWithTimeZone>,
    pub decided_at: Option<TimestampWithTimeZone>,
    pub expires_at: Option<TimestampWithTimeZone>,
    pub used_at: Option<TimestampWithTimeZone>,
    pub comment: Option<String>,
}

/// The requests of a session's own block, newest first.
pub fn listed(session: &Session, now: i64) -> Vec<Listed> {
    let Some(own) = own::own() else { return Vec::new() };
    let block = session.token.block_ids().last().map(|id| hex(id)).unwrap_or_default();
    let mut list: Vec<(i64, Listed)> = Vec::new();
    let by = (own.approval_request_by_window, column::WINDOW, Key::Uuid(*session.token.window()));
    scan::rows(own.approval_request, Some(by), |row| {
        if row.column::<String>(column::BLOCK_ID).as_deref() != Some(&block) {
            return;
        }
        let Some(found) = found(row) else { return };
        let over = found.known.state == "approved" && found.known.expires_at.is_none_or(|end| end <= now);
        let one = Listed {
            id: found.id,
            state: if over { "expired".to_owned() } else { found.known.state },
            statement: row.column(column::STATEMENT).unwrap_or_default(),
            objects: found.known.objects,
            given: found.given,
            needed: found.needed,
            requested_at: row.column(column::REQUESTED_AT),
            decided_at: row.column(column::DECIDED_AT),
            expires_at: row.column(column::EXPIRES_AT),
            used_at: row.column(column::USED_AT),
            comment: found.comment,
        };
        list.push((row.unix_micros(column::REQUESTED_AT).unwrap_or(i64::MIN), one));
    });
    list.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    list.into_iter().map(|(_, one)| one).collect()
}

/// How often a row that changes while it is looked at is looked at again.
const ATTEMPTS: usize = 3;

/// Marks an approved request as used by this transaction. False where that is not possible at this moment: another session
/// is using it, or it is no longer approved. Never waits.
pub fn claim(request: &[u8; 16], session: &[u8; 16], now: i64) -> bool {
    let Some(own) = own::own() else { return false };
    (0..ATTEMPTS).find_map(|_| attempt(&own, request, session, now)).unwrap_or(false)
}

/// `None` where the row was changed by somebody in between.
fn attempt(own: &own::Own, request: &[u8; 16], session: &[u8; 16], now: i64) -> Option<bool> {
    const ROW_EXCLUSIVE: i32 = 3;
    let mut place = None;
    let key = [(column::ID_KEY, Key::Uuid(*request))];
    scan::tuples(own.approval_request, Some((own.approval_request_pkey, &key)), |tid, _| place = Some(tid));
    let place = place?;
    // SAFETY: the relation stays locked until the transaction ends. heap_lock_tuple pins the buffer that it leaves the
    // tuple's data in; the pin is given back after the last look at them. The new tuple is a copy.
    unsafe {
        let relation = pg_sys::table_open(own.approval_request, ROW_EXCLUSIVE);
        let mut tuple = pg_sys::HeapTupleData { t_self: place, ..Default::default() };
        let mut buffer: pg_sys::Buffer = 0;
        let mut failure = pg_sys::TM_FailureData::default();
        let outcome = pg_sys::heap_lock_tuple(
            relation,
            &raw mut tuple,
            pg_sys::GetCurrentCommandId(true),
            pg_sys::LockTupleMode::LockTupleExclusive,
            pg_sys::LockWaitPolicy::LockWaitSkip,
            false,
            &raw mut buffer,
            &raw mut failure,
        );
        let marked = match outcome {
            pg_sys::TM_Result::TM_Ok => Some(mark(relation, &raw mut tuple, session, now)),
            pg_sys::TM_Result::TM_Updated => None,
            _ => Some(false),
        };
        if buffer != 0 {
            pg_sys::ReleaseBuffer(buffer);
        }
        pg_sys::table_close(relation, 0);
        marked
    }
}

/// Writes the mark, if the row that is now locked still says approved.
///
/// # Safety
/// The relation is open and the tuple locked.
unsafe fn mark(relation: pg_sys::Relation, tuple: pg_sys::HeapTuple, session: &[u8; 16], now: i64) -> bool {
    // SAFETY: the arrays have as many entries as the descriptor; datums outlive the copy that is made of them.
    unsafe {
        let descriptor = (*relation).rd_att;
        let natts = usize::try_from((*descriptor).natts).unwrap_or(0);
        let mut values = vec![pg_sys::Datum::from(0_usize); natts];
        let mut nulls = vec![true; natts];
        pg_sys::heap_deform_tuple(tuple, descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        let row = Row::new(&values, &nulls);
        let good = row.column::<String>(column::STATE).as_deref() == Some("approved")
            && row.unix_micros(column::EXPIRES_AT).is_some_and(|end| now < end);
        if !good {
            return false;
        }
        let mut replaced = vec![false; natts];
        let mut put = |column: usize, datum: Option<pg_sys::Datum>| {
            let at = column.saturating_sub(1);
            if let (Some(value), Some(null), Some(replace)) =
                (values.get_mut(at), nulls.get_mut(at), replaced.get_mut(at))
            {
                *null = datum.is_none();
                *value = datum.unwrap_or(pg_sys::Datum::from(0_usize));
                *replace = true;
            }
        };
        put(column::STATE, "used".into_datum());
        put(column::USED_AT, Some(pg_sys::Datum::from(now.saturating_sub(POSTGRES_EPOCH_MICROS))));
        put(column::USED_BY, pgrx::datum::Uuid::from_bytes(*session).into_datum());
        let changed = pg_sys::heap_modify_tuple(
            tuple,
            descriptor,
            values.as_mut_ptr(),
            nulls.as_mut_ptr(),
            replaced.as_mut_ptr(),
        );
        pg_sys::CatalogTupleUpdate(relation, &raw mut (*tuple).t_self, changed);
        true
    }
}

unsafe extern "C-unwind" {
    fn pg_notify(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
}

/// NOTIFY of this transaction, past every check: the guard's own.
pub fn notify(channel: &str, payload: &str) {
    if let (Some(channel), Some(payload)) = (channel.into_datum(), payload.into_datum()) {
        // SAFETY: pg_notify(text, text) looks at nothing but its arguments.
        unsafe {
            pg_sys::DirectFunctionCall2Coll(Some(pg_notify), pg_sys::InvalidOid, channel, payload);
        }
    }
}
