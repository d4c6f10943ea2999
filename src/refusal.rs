//! The catalogue of refusals: one value per reason, with the SQLSTATE, message, DETAIL and HINT that the agent sees.
//!
//! It raises nothing; the server side turns a `Refusal` into an ereport. No text here may carry a token, a key
//! or a value of a row.

#![forbid(unsafe_code)]

/// The SQLSTATEs that refusals use (docs/errors.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SqlState {
    /// 42501: denied by policy.
    InsufficientPrivilege,
    /// 28000: no token, or a token that is not accepted.
    InvalidAuthorization,
    /// 53400: a limit is reached.
    ConfigurationLimitExceeded,
    /// 57014: the window closed while the statement ran.
    QueryCanceled,
    /// 53100: the audit trail cannot take the event.
    DiskFull,
    /// PGA01: people have to agree first.
    ApprovalRequired,
    /// PGA02: somebody has rejected it.
    ApprovalRejected,
    /// XX000: a fault of the guard itself; the statement is denied.
    InternalError,
}

impl SqlState {
    /// The five characters.
    pub fn code(self) -> &'static str {
        match self {
            SqlState::InsufficientPrivilege => "42501",
            SqlState::InvalidAuthorization => "28000",
            SqlState::ConfigurationLimitExceeded => "53400",
            SqlState::QueryCanceled => "57014",
            SqlState::DiskFull => "53100",
            SqlState::ApprovalRequired => "PGA01",
            SqlState::ApprovalRejected => "PGA02",
            SqlState::InternalError => "XX000",
        }
    }
}

/// Why a statement or a handshake is refused, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The SQLSTATE.
    pub sqlstate: SqlState,
    /// The stable word that DETAIL begins with (`reason=<word>`).
    pub reason: &'static str,
    /// A lower-case fact without a period.
    pub message: String,
    /// Which rule, which object; follows the reason word in DETAIL.
    pub detail: String,
    /// One sentence with the next step; may be empty.
    pub hint: String,
    /// The rule that decided, where one did.
    pub rule: Option<i64>,
    /// Which part of the token decided, where it was the token that did.
    pub decided_by: Option<Decider>,
    /// The token that was refused, where its signature was right.
    pub token: Option<Box<RefusedToken>>,
    /// Schema, table and column of the object, for the error's own fields; empty where there are none.
    pub place: Place,
}

/// What of a token decided: the window's row or one of its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decider {
    /// The row of the window.
    Window,
    /// The block with this index; 0 is the one that the server minted.
    Block(usize),
}

/// A token that was signed and is refused all the same: what the record names it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedToken {
    /// Its window.
    pub window: [u8; 16],
    /// Its blocks, the root's first.
    pub blocks: Vec<[u8; 16]>,
}

/// The schema, relation and column that an error is about; empty strings where there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The schema's name.
    pub schema: String,
    /// The relation's name.
    pub table: String,
    /// The column's name.
    pub column: String,
}

impl Refusal {
    /// A refusal with no rule and no place.
    #[cold]
    pub fn new(
        sqlstate: SqlState,
        reason: &'static str,
        message: impl Into<String>,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Refusal {
        Refusal {
            sqlstate,
            reason,
            message: message.into(),
            detail: detail.into(),
            hint: hint.into(),
            rule: None,
            decided_by: None,
            token: None,
            place: Place::default(),
        }
    }

    /// The same, decided by a part of the token.
    #[must_use]
    pub fn by(self, decider: Decider) -> Refusal {
        Refusal { decided_by: Some(decider), ..self }
    }

    /// A handshake refusal (28000).
    #[cold]
    pub fn handshake(
        reason: &'static str,
        message: impl Into<String>,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Refusal {
        Refusal::new(SqlState::InvalidAuthorization, reason, message, detail, hint)
    }

    /// The DETAIL text: `reason=<word>` and then the plain words.
    pub fn full_detail(&self) -> String {
        if self.detail.is_empty() {
            format!("reason={}", self.reason)
        } else {
            format!("reason={} {}", self.reason, self.detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detail_begins_with_the_reason_word() {
        let refusal = Refusal::handshake("expired", "the token has expired", "block 0", "");
        assert_eq!(refusal.full_detail(), "reason=expired block 0");
        assert_eq!(refusal.sqlstate.code(), "28000");
        let bare = Refusal::handshake("token_refused", "the token is refused", "", "");
        assert_eq!(bare.full_detail(), "reason=token_refused");
    }
}
