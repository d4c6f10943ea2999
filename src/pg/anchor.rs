//! The event that the trail's table begins behind: one row of a logged table, for segments that have been emptied.

use pgrx::prelude::*;

use super::{own, scan};
use crate::audit::chain::Head;

/// The anchor as it is now, whatever the transaction's isolation; `None` where nothing has set one. Inside a transaction.
pub fn read() -> Option<Head> {
    let mut last = None;
    scan::rows(own::table(c"audit_anchor")?, None, |row| {
        let seq = row.column::<i64>(1).and_then(|seq| u64::try_from(seq).ok());
        let hash = row.column::<Vec<u8>>(2).and_then(|hash| hash.try_into().ok());
        let found = seq.zip(hash).map(|(seq, hash)| Head { seq, hash });
        if found.map(|head| head.seq) > last.map(|head: Head| head.seq) {
            last = found;
        }
    });
    last
}

/// Sets the anchor, in the caller's transaction. Raises where that is not possible, which ends the transaction.
pub fn set(head: Head) {
    let seq = i64::try_from(head.seq).unwrap_or(i64::MAX);
    let outcome = Spi::run("DELETE FROM agent_guard.audit_anchor").and_then(|()| {
        let values = [seq.into(), head.hash.to_vec().into()];
        Spi::run_with_args("INSERT INTO agent_guard.audit_anchor (seq, hash) VALUES ($1, $2)", &values)
    });
    if let Err(error) = outcome {
        error!("the anchor of the audit trail cannot be set: {error}");
    }
}
