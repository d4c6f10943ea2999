//! Limits: what may be used up under a window, a policy or a block of a token, in total and by one statement.
//!
//! It says which limits there are, how two of them combine and which values are proper. What is used up of them is
//! `counter`'s, what a refusal says `refusal`'s; who counts where is the server side's.

#![forbid(unsafe_code)]

pub mod counter;
pub mod refusal;
pub mod span;

use crate::token::{BlockId, Claims};

/// The largest limit: every JSON implementation keeps it exact, in a token's block and in a policy's document.
pub const MAX_LIMIT: u64 = (1 << 53) - 1;

/// What is counted in total, over all sessions and children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Meter {
    /// Rows that left for the client.
    RowsRead,
    /// Rows inserted, updated, deleted, merged or copied in.
    RowsWritten,
    /// Bytes that left for the client.
    BytesRead,
    /// Statements of the client.
    Statements,
    /// Activations: bindings of a session to a token.
    Uses,
}

/// How many meters there are.
pub const METERS: usize = 5;

impl Meter {
    /// All of them, in the order of the ledger's columns.
    pub const ALL: [Meter; METERS] =
        [Meter::RowsRead, Meter::RowsWritten, Meter::BytesRead, Meter::Statements, Meter::Uses];

    /// Its place in arrays of all meters.
    pub fn index(self) -> usize {
        match self {
            Meter::RowsRead => 0,
            Meter::RowsWritten => 1,
            Meter::BytesRead => 2,
            Meter::Statements => 3,
            Meter::Uses => 4,
        }
    }

    /// The name in SQL, in policy documents and in refusals.
    pub fn word(self) -> &'static str {
        match self {
            Meter::RowsRead => "rows_read",
            Meter::RowsWritten => "rows_written",
            Meter::BytesRead => "bytes_read",
            Meter::Statements => "statements",
            Meter::Uses => "uses",
        }
    }

    /// What a block of a token says of it. `rows` is a limit for the rows read and, apart from that, for the rows written.
    pub fn claimed(self, claims: &Claims) -> Option<u64> {
        match self {
            Meter::RowsRead | Meter::RowsWritten => claims.rows,
            Meter::BytesRead => claims.bytes,
            Meter::Statements => claims.stmts,
            Meter::Uses => claims.uses,
        }
    }

    /// How far a counter's durable mark runs ahead of it, for a limit: what a crash may count too much.
    pub fn chunk(self, limit: u64) -> u64 {
        // An error's text has to find its bytes paid for: it cannot wait for them.
        let least = if self == Meter::BytesRead { 1024 } else { 1 };
        (limit / 16).max(least)
    }
}

/// One total for each meter; `None` is no limit.
pub type Totals = [Option<u64>; METERS];

/// What a window or a policy limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Over all sessions and children.
    pub totals: Totals,
    /// Rows returned or changed by one statement of the client.
    pub rows_per_statement: Option<u64>,
    /// The time of one statement of the client, in microseconds.
    pub statement_timeout: Option<u64>,
}

/// The tighter of two limits.
fn tighter(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl Limits {
    /// Both together: the tighter of each.
    pub fn and(&self, other: &Limits) -> Limits {
        let mut totals = self.totals;
        for (total, other) in totals.iter_mut().zip(other.totals) {
            *total = tighter(*total, other);
        }
        Limits {
            totals,
            rows_per_statement: tighter(self.rows_per_statement, other.rows_per_statement),
            statement_timeout: tighter(self.statement_timeout, other.statement_timeout),
        }
    }

    /// The total of a meter.
    pub fn total(&self, meter: Meter) -> Option<u64> {
        self.totals.get(meter.index()).copied().flatten()
    }

    /// Whether anything is counted in total.
    pub fn has_totals(&self) -> bool {
        self.totals.iter().any(Option::is_some)
    }

    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Limits::default()
    }
}

/// The totals that one block declares.
pub fn totals_of(claims: &Claims) -> Totals {
    Meter::ALL.map(|meter| meter.claimed(claims))
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The window's own, or its policy's.
    Window,
    /// The block with this index and id.
    Block(usize, BlockId),
}

/// A limit as SQL and documents give it.
///
/// # Errors
/// What is wrong with it: below 1, or beyond what JSON keeps exact.
pub fn proper(value: i64) -> Result<u64, &'static str> {
    match u64::try_from(value) {
        Ok(0) | Err(_) => Err("must be at least 1"),
        Ok(value) if value > MAX_LIMIT => Err("must be below 2^53"),
        Ok(value) => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tighter_limit_wins_and_none_is_no_limit() {
        let window = Limits { totals: [Some(10), None, Some(5), None, Some(1)], ..Limits::default() };
        let policy = Limits {
            totals: [Some(7), Some(3), None, None, None],
            rows_per_statement: Some(9),
            statement_timeout: None,
        };
        let both = window.and(&policy);
        assert_eq!(both.totals, [Some(7), Some(3), Some(5), None, Some(1)]);
        assert_eq!(both, policy.and(&window));
        assert_eq!(both.rows_per_statement, Some(9));
        assert!(both.has_totals() && !Limits::default().has_totals());
        assert!(Limits::default().is_none() && !both.is_none());
    }

    #[test]
    fn a_blocks_rows_limit_reading_and_writing_apart() {
        let mut claims = Claims::new("", "", 0);
        claims.rows = Some(4);
        claims.stmts = Some(2);
        assert_eq!(totals_of(&claims), [Some(4), Some(4), None, Some(2), None]);
    }

    #[test]
    fn improper_limits_are_told_apart() {
        assert_eq!(proper(1), Ok(1));
        assert_eq!(proper(9_007_199_254_740_991), Ok(MAX_LIMIT));
        for value in [0, -1, i64::MIN] {
            assert_eq!(proper(value), Err("must be at least 1"));
        }
        for value in [1 << 53, i64::MAX] {
            assert_eq!(proper(value), Err("must be below 2^53"));
        }
    }

    #[test]
    fn meters_stand_where_their_index_says() {
        for (place, meter) in Meter::ALL.into_iter().enumerate() {
            assert_eq!(meter.index(), place);
        }
        assert_eq!(Meter::RowsRead.chunk(1600), 100);
        assert_eq!(Meter::Uses.chunk(1), 1);
        assert_eq!(Meter::BytesRead.chunk(1), 1024);
    }
}
