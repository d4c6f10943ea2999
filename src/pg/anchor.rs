//! The event that the trail's table begins behind: one row of a logged table, for segments that have been emptied.

use pgrx::prelude::*;

use crate::audit::chain::Head;

/// The anchor; `None` where nothing has set one. Inside a transaction with a snapshot.
pub fn read() -> Result<Option<Head>, pgrx::spi::SpiError> {
    Spi::connect(|client| {
        let query = "SELECT seq, hash FROM agent_guard.audit_anchor ORDER BY seq DESC LIMIT 1";
        let rows = client.select(query, Some(1), &[])?;
        if rows.is_empty() {
            return Ok(None);
        }
        let row = rows.first();
        let seq = row.get::<i64>(1)?.and_then(|seq| u64::try_from(seq).ok());
        let hash = row.get::<Vec<u8>>(2)?.and_then(|hash| hash.try_into().ok());
        Ok(seq.zip(hash).map(|(seq, hash)| Head { seq, hash }))
    })
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
