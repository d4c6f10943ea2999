//! The words of a refusal by a limit (SQLSTATE 53400): which limit, whose, what it was and what to do next.

use super::{Holder, Meter};
use crate::refusal::{Refusal, SqlState};
use crate::token::hex;

fn held_by(holder: Holder) -> String {
    match holder {
        Holder::Window => "window".to_owned(),
        Holder::Block(index, id) => format!("block={index}/{}", hex(&id)),
    }
}

fn ask(holder: Holder) -> String {
    match holder {
        Holder::Window | Holder::Block(0, _) => "ask a DBA for a new window".to_owned(),
        Holder::Block(index, _) => format!("ask the agent that derived block {index} for a new token"),
    }
}

/// The sentence about what is left, where it is a part of what was wanted.
fn left_over(meter: Meter, left: u64) -> String {
    let (one, many) = match meter {
        Meter::RowsRead | Meter::RowsWritten => ("row is", "rows are"),
        Meter::BytesRead => ("byte is", "bytes are"),
        Meter::Statements => ("statement is", "statements are"),
        Meter::Uses => ("use is", "uses are"),
    };
    match left {
        0 => "Nothing of it is left".to_owned(),
        1 => format!("1 {one} left"),
        _ => format!("{left} {many} left"),
    }
}

/// A total that is used up, or of which less is left than was wanted.
pub fn exhausted(meter: Meter, limit: u64, used: u64, holder: Holder) -> Refusal {
    let left = left_over(meter, limit.saturating_sub(used));
    Refusal::new(
        SqlState::ConfigurationLimitExceeded,
        "limit_exhausted",
        format!("the limit of {limit} {} is reached", meter.word()),
        format!("limit={} value={limit} {}", meter.word(), held_by(holder)),
        format!("{left}, and a used limit is never refilled: {}.", ask(holder)),
    )
}

/// One session more than a block allows.
pub fn sessions(limit: u64, holder: Holder) -> Refusal {
    Refusal::new(
        SqlState::ConfigurationLimitExceeded,
        "limit_exhausted",
        format!("the limit of {limit} sessions is reached"),
        format!("limit=sessions value={limit} {}", held_by(holder)),
        format!("End another session under the same token, or {}.", ask(holder)),
    )
}

/// More rows than one statement may return or change.
pub fn rows_per_statement(limit: u64) -> Refusal {
    Refusal::new(
        SqlState::ConfigurationLimitExceeded,
        "limit_exhausted",
        format!("the statement reaches the limit of {limit} rows"),
        format!("limit=rows_per_statement value={limit} Rows returned or changed by one statement."),
        "Ask for fewer rows with a narrower condition, or with LIMIT.",
    )
}

/// A change whose rows the server does not count, under a limit of rows.
pub fn uncounted(limit: &'static str, value: u64, what: &str) -> Refusal {
    Refusal::new(
        SqlState::ConfigurationLimitExceeded,
        "limit_uncounted",
        format!("{what} where a limit counts the rows written"),
        format!("limit={limit} value={value} The server does not tell how many rows that changes."),
        "Run the change as an INSERT, UPDATE, DELETE or MERGE of its own.",
    )
}

/// More time than one statement may take (57014: it was cancelled in the middle).
pub fn statement_timeout(microseconds: u64) -> Refusal {
    let limit = super::span::text(microseconds / 1000);
    Refusal::new(
        SqlState::QueryCanceled,
        "limit_exhausted",
        format!("canceling statement because it reaches the limit of {limit}"),
        format!("limit=statement_timeout value={}ms Time that one statement may take.", microseconds / 1000),
        "Ask for less in one statement; the limit is the window's or its policy's.",
    )
}

/// A call by the wire protocol's own message, which no timer could end in time.
pub fn untimed(microseconds: u64) -> Refusal {
    Refusal::new(
        SqlState::ConfigurationLimitExceeded,
        "limit_uncounted",
        "a function cannot be called past SQL where a limit holds the time of a statement",
        format!(
            "limit=statement_timeout value={}ms The end of such a call is not seen.",
            microseconds / 1000
        ),
        "Call it by SELECT.",
    )
}

/// No room for another counter.
pub fn no_room(detail: String) -> Refusal {
    Refusal::new(
        SqlState::ConfigurationLimitExceeded,
        "resource_limit",
        "the server has no room to count the limits of this token",
        detail,
        "Use the parent's token, or derive without \"rows\", \"bytes\", \"stmts\" and \"uses\"; counters are freed when their window is over.",
    )
}

/// A mark that could not be made durable in time.
pub fn not_durable(detail: &str) -> Refusal {
    Refusal::new(
        SqlState::DiskFull,
        "ledger_unavailable",
        "what is used of a limit cannot be stored",
        detail,
        "Try again; if it stays so, a DBA finds the audit writer's messages in the server log.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_limit_and_its_holder() {
        let refusal = exhausted(Meter::RowsRead, 1000, 998, Holder::Block(1, [0xab; 16]));
        assert_eq!(refusal.sqlstate.code(), "53400");
        assert_eq!(
            refusal.full_detail(),
            "reason=limit_exhausted limit=rows_read value=1000 block=1/abababababababababababababababab"
        );
        assert!(refusal.hint.starts_with("2 rows are left") && refusal.hint.contains("derived block 1"));
        let refusal = exhausted(Meter::Uses, 1, 1, Holder::Window);
        assert_eq!(refusal.full_detail(), "reason=limit_exhausted limit=uses value=1 window");
        assert!(refusal.hint.contains("DBA"));
    }
}
