//! list_sessions: the bindings in shared memory, as the view `sessions` reads them.

use pgrx::datum::{TimestampWithTimeZone, Uuid};
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::agent::timestamp;
use crate::pg::bindings::{self, Ended, Slot};
use crate::pg::text_datum::Texts;
use crate::token::hex;

type Listed = (
    Uuid,
    Uuid,
    i32,
    pg_sys::Oid,
    String,
    Texts,
    Vec<String>,
    Option<TimestampWithTimeZone>,
    Option<TimestampWithTimeZone>,
);

/// The sessions of this database that are bound now, also those whose token has come to its end.
#[pg_extern(sql = false)]
#[expect(clippy::type_complexity, reason = "the columns of the function's result")]
fn list_sessions() -> TableIterator<
    'static,
    (
        name!(session_id, Uuid),
        name!(window_id, Uuid),
        name!(pid, i32),
        name!(role, pg_sys::Oid),
        name!(state, String),
        name!(lineage, Texts),
        name!(block_ids, Vec<String>),
        name!(bound_at, Option<TimestampWithTimeZone>),
        name!(expires_at, Option<TimestampWithTimeZone>),
    ),
> {
    // SAFETY: a plain value of this process.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    let mut rows: Vec<Listed> = Vec::new();
    bindings::each(|slot| {
        if let Some(pid) = slot.pid().filter(|_| slot.database == database) {
            rows.push(listed(slot, pid));
        }
    });
    TableIterator::new(rows)
}

fn listed(slot: &Slot, pid: i32) -> Listed {
    let state = match slot.ended() {
        None => "bound",
        Some(Ended::Revoked) => "revoked",
        Some(Ended::Expired) => "expired",
    };
    (
        Uuid::from_bytes(slot.session),
        Uuid::from_bytes(slot.hold.window),
        pid,
        pg_sys::Oid::from(slot.role),
        state.to_owned(),
        slot.lineage().into(),
        slot.hold.blocks().iter().map(|block| hex(block)).collect(),
        timestamp(slot.bound_at),
        timestamp(slot.hold.expires_at),
    )
}
