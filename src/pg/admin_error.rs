//! What an administrative function answers when it refuses: PostgreSQL's own SQLSTATE, DETAIL and HINT.
//!
//! Refusals of agents' statements are another type (`refusal`): those leave through hooks and carry a reason word.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::pg::encoding;
use crate::policy::rule::RuleError;
use crate::refusal::Refusal;

/// A refusal of an administrative function.
#[derive(Debug)]
pub struct AdminError {
    code: PgSqlErrorCode,
    message: String,
    detail: String,
    hint: String,
}

/// What the functions here return inside.
pub type AdminResult<T> = Result<T, AdminError>;

impl AdminError {
    /// A refusal with any SQLSTATE.
    pub fn new(code: PgSqlErrorCode, message: impl Into<String>) -> AdminError {
        AdminError { code, message: message.into(), detail: String::new(), hint: String::new() }
    }

    /// 22023: an argument that cannot be accepted.
    pub fn invalid(message: impl Into<String>) -> AdminError {
        AdminError::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message)
    }

    /// 42704: something named does not exist.
    pub fn undefined(message: impl Into<String>) -> AdminError {
        AdminError::new(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, message)
    }

    /// 55000: not in this state.
    pub fn state(message: impl Into<String>) -> AdminError {
        AdminError::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
    }

    /// 42501: not to this user.
    pub fn forbidden(message: impl Into<String>) -> AdminError {
        AdminError::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
    }

    /// The same with a DETAIL.
    pub fn detail(mut self, detail: impl Into<String>) -> AdminError {
        self.detail = detail.into();
        self
    }

    /// The same with a HINT.
    pub fn hint(mut self, hint: impl Into<String>) -> AdminError {
        self.hint = hint.into();
        self
    }

    /// The same about a part of the argument, which is named first.
    pub fn at(mut self, path: &str) -> AdminError {
        self.message = format!("{path}: {}", self.message);
        self
    }

    /// The lower-case fact.
    pub fn message(&self) -> &str {
        &self.message
    }

    fn report(self) -> ErrorReport {
        let mut report = ErrorReport::new(self.code, printable(self.message), "agent_guard");
        if !self.detail.is_empty() {
            report = report.set_detail(printable(self.detail));
        }
        if !self.hint.is_empty() {
            report = report.set_hint(printable(self.hint));
        }
        report
    }

    /// Tells the client without ending the statement.
    pub fn tell(self, level: PgLogLevel) {
        self.report().report(level);
    }
}

/// pgrx hands texts to the server as UTF-8; where they are not, what is not ASCII is told by number.
fn printable(text: String) -> String {
    if text.is_ascii() || encoding::is_utf8() {
        return text;
    }
    let each = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\u{{{:x}}}", u32::from(c)) };
    text.chars().map(each).collect()
}

impl From<AdminError> for ErrorReport {
    fn from(error: AdminError) -> ErrorReport {
        error.report()
    }
}

impl From<RuleError> for AdminError {
    fn from(error: RuleError) -> AdminError {
        let message =
            if error.path.is_empty() { error.message } else { format!("{}: {}", error.path, error.message) };
        AdminError::invalid(message).hint(error.hint)
    }
}

impl From<Refusal> for AdminError {
    fn from(refusal: Refusal) -> AdminError {
        let detail = refusal.full_detail();
        AdminError::state(refusal.message).detail(detail).hint(refusal.hint)
    }
}

impl From<pgrx::spi::Error> for AdminError {
    fn from(error: pgrx::spi::Error) -> AdminError {
        AdminError::new(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("agent_guard could not read its tables: {error}"),
        )
    }
}

/// The argument, or 22004 with its name where it is NULL.
pub fn given<T>(argument: Option<T>, name: &str) -> AdminResult<T> {
    argument.ok_or_else(|| {
        AdminError::new(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, format!("{name} must not be NULL"))
            .hint(format!("Pass a value for the parameter {name}."))
    })
}
