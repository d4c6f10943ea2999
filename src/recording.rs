//! What a policy records of the results that agents receive, and how much of them.

#![forbid(unsafe_code)]

use crate::limit;

/// What is kept of the rows that leave for the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kept {
    /// Nothing but their number in the statement's own event.
    #[default]
    Nothing,
    /// Their number, bytes and SHA-256.
    Digest,
    /// The rows, up to the limits.
    Rows,
}

impl Kept {
    /// The word stored and shown.
    pub fn word(self) -> &'static str {
        match self {
            Kept::Nothing => "none",
            Kept::Digest => "digest",
            Kept::Rows => "rows",
        }
    }

    /// What a word means; `None` for none of them.
    pub fn of_word(word: &str) -> Option<Kept> {
        [Kept::Nothing, Kept::Digest, Kept::Rows].into_iter().find(|kept| kept.word() == word)
    }
}

/// Rows kept of one statement where the policy says nothing else.
pub const ROWS: u64 = 10_000;
/// Bytes kept of one statement where the policy says nothing else.
pub const BYTES: u64 = 1024 * 1024;

/// What a policy records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// What is kept.
    pub results: Kept,
    /// The most rows kept of one statement; `None` for `ROWS`.
    pub max_rows: Option<u64>,
    /// The most bytes kept of one statement, as they were sent; `None` for `BYTES`.
    pub max_bytes: Option<u64>,
}

impl Recording {
    /// Whether anything is recorded beside the statement's own event.
    pub fn wanted(&self) -> bool {
        self.results != Kept::Nothing
    }

    /// The most rows kept of one statement.
    pub fn rows(&self) -> u64 {
        if self.results == Kept::Rows { self.max_rows.unwrap_or(ROWS) } else { 0 }
    }

    /// The most bytes kept of one statement.
    pub fn bytes(&self) -> u64 {
        if self.results == Kept::Rows { self.max_bytes.unwrap_or(BYTES) } else { 0 }
    }

    /// Proves that the limits fit what is kept.
    ///
    /// # Errors
    /// The name of the limit and what is wrong with it.
    pub fn proper(&self) -> Result<(), (&'static str, &'static str)> {
        for (name, value) in [("max_rows", self.max_rows), ("max_bytes", self.max_bytes)] {
            match value {
                Some(_) if self.results != Kept::Rows => return Err((name, "is for recorded rows only")),
                Some(value) if !(1..=limit::MAX_LIMIT).contains(&value) => {
                    return Err((name, "must be a whole number from 1 to 9007199254740991"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// On one line, for the lists of what changed.
    pub fn text(&self) -> String {
        match self.results {
            Kept::Rows => format!("rows, at most {} in {} bytes", self.rows(), self.bytes()),
            kept => kept.word().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back() {
        for kept in [Kept::Nothing, Kept::Digest, Kept::Rows] {
            assert_eq!(Kept::of_word(kept.word()), Some(kept));
        }
        assert_eq!(Kept::of_word("all"), None);
    }

    #[test]
    fn limits_are_for_rows_and_have_defaults() {
        let rows = Recording { results: Kept::Rows, ..Recording::default() };
        assert_eq!((rows.rows(), rows.bytes(), rows.wanted()), (ROWS, BYTES, true));
        assert_eq!(rows.proper(), Ok(()));
        assert_eq!(rows.text(), "rows, at most 10000 in 1048576 bytes");
        let digest = Recording { results: Kept::Digest, max_rows: Some(1), max_bytes: None };
        assert_eq!((digest.rows(), digest.bytes()), (0, 0));
        assert_eq!(digest.proper(), Err(("max_rows", "is for recorded rows only")));
        let none = Recording { max_bytes: Some(0), ..rows };
        assert!(none.proper().is_err());
        assert!(!Recording::default().wanted());
    }
}
