//! The audit trail, as the administrative functions read it.

use pgrx::datum::DatumWithOid;
use pgrx::spi::Spi;

use crate::pg::admin_error::AdminResult;
use crate::pg::store::Row;

/// A recorded statement, as far as deciding it again needs it.
pub struct RecordedStatement {
    /// The event's number.
    pub seq: i64,
    /// The nesting level.
    pub level: i32,
    /// Rows returned or changed.
    pub rows: Option<i64>,
    /// The text as it was kept.
    pub statement: Option<String>,
    /// The column `accesses` as text.
    pub accesses: String,
}

/// As many rows are read at a time.
const BATCH: i64 = 1000;

/// Visits the statements that needed anything, in order. The arguments are the earliest and the latest time and the
/// session, each NULL for no bound.
///
/// # Errors
/// Those of `visit`.
pub fn each_statement(
    bounds: [DatumWithOid<'_>; 3],
    mut visit: impl FnMut(RecordedStatement) -> AdminResult<()>,
) -> AdminResult<()> {
    Spi::connect_mut(|client| {
        let mut cursor = client.try_open_cursor(
            "SELECT a.seq, a.level, a.rows, pg_catalog.convert_to(a.statement, 'UTF8'),
                 pg_catalog.convert_to(a.accesses::pg_catalog.text, 'UTF8')
             FROM agent_guard.audit a
             WHERE a.event OPERATOR(pg_catalog.=) 'statement' AND a.accesses IS NOT NULL
               AND ($1 IS NULL OR a.at OPERATOR(pg_catalog.>=) $1)
               AND ($2 IS NULL OR a.at OPERATOR(pg_catalog.<) $2)
               AND ($3 IS NULL OR a.session_id OPERATOR(pg_catalog.=) $3)
             ORDER BY a.seq",
            &bounds,
        )?;
        loop {
            let table = cursor.fetch(BATCH)?;
            if table.is_empty() {
                return Ok(());
            }
            for row in table {
                let row = Row(row);
                visit(RecordedStatement {
                    seq: row.need(1)?,
                    level: row.need(2)?,
                    rows: row.may(3)?,
                    statement: row.may(4)?.map(text),
                    accesses: text(row.need(5)?),
                })?;
            }
        }
    })
}

/// A text that SQL has made UTF-8 of, whatever the database's encoding.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
