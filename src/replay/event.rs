//! An event of the trail as the SQL functions hand it over: the columns of the view `audit`, as one JSON object.

#![forbid(unsafe_code)]

use serde::Deserialize;
use serde_json::Value;

/// An event. Times are microseconds since the Unix epoch.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are the columns of the view audit")]
pub struct Event {
    pub seq: i64,
    pub at: i64,
    pub duration: Option<i64>,
    pub level: i64,
    pub event: String,
    pub command: Option<String>,
    pub statement: Option<String>,
    pub statement_length: Option<i64>,
    pub parameters: Option<Vec<Option<String>>>,
    pub accesses: Option<Vec<Access>>,
    pub decision: Option<String>,
    pub rule_id: Option<i64>,
    pub rows: Option<i64>,
    pub sqlstate: Option<String>,
    pub message: Option<String>,
    pub xid: Option<String>,
    /// What pg_xact_status says of the transaction: `committed`, `aborted`, `in progress`; `None` where it is too old.
    pub xact: Option<String>,
    pub truncated: Option<Vec<String>>,
    pub results: Option<Results>,
}

/// What a statement returned, as the view `audit_results` has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are the columns of the view audit_results")]
pub struct Results {
    pub row_count: i64,
    pub byte_count: i64,
    pub recorded: i64,
    pub state: String,
    pub sha256: Option<String>,
    pub shape: Option<String>,
    pub columns: Option<Vec<Column>>,
    pub rows: Option<Vec<Vec<Value>>>,
}

/// A column of a result.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are the keys of the column columns")]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub of_type: String,
}

impl Column {
    /// Whether psql sets its values to the right.
    pub fn is_number(&self) -> bool {
        let numbers = [
            "smallint",
            "integer",
            "bigint",
            "oid",
            "real",
            "double precision",
            "numeric",
            "money",
            "xid",
            "cid",
        ];
        numbers.contains(&self.of_type.as_str())
    }
}

impl Results {
    /// The rows that are kept, each value as text; `None` for NULL.
    pub fn rows(&self) -> impl Iterator<Item = Vec<Option<String>>> {
        self.rows.iter().flatten().map(|row| row.iter().map(shown).collect())
    }

    /// What is to be told of the result beside its rows; nothing where all of it is there.
    pub fn remark(&self) -> Option<String> {
        let bytes = self.byte_count;
        match (&self.sha256, self.state.as_str()) {
            (Some(digest), _) => Some(format!("{} rows, {bytes} bytes, SHA-256 {digest}", self.row_count)),
            (None, "complete") if self.recorded == self.row_count => None,
            (None, state) => {
                let kept =
                    format!("{} of {} rows recorded, {bytes} bytes in all", self.recorded, self.row_count);
                Some(if state == "complete" { kept } else { format!("{kept}, {state}") })
            }
        }
    }
}

/// A recorded value as text.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Object(map) => Some(match (map.get("hex"), map.get("cut"), map.get("sha256")) {
            (Some(Value::String(hex)), ..) => format!("(binary) \\x{hex}"),
            (_, Some(length), Some(Value::String(digest))) => {
                format!("(cut here; {length} bytes in all, SHA-256 {digest})")
            }
            _ => value.to_string(),
        }),
        other => Some(other.to_string()),
    }
}

/// One access of a statement.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are the keys of the column accesses")]
pub struct Access {
    pub action: String,
    pub class: Option<String>,
    pub oid: Option<u32>,
    pub object: Option<String>,
    pub columns: Option<String>,
    pub decision: Option<String>,
    pub rule: Option<i64>,
}

impl Event {
    /// Whether it is a statement, as opposed to news of the session.
    pub fn is_statement(&self) -> bool {
        self.event == "statement"
    }

    /// Whether it was refused.
    pub fn is_denied(&self) -> bool {
        self.decision.as_deref() == Some("deny")
    }

    /// Whether it is a command that begins, divides or ends transactions.
    pub fn controls_transactions(&self) -> bool {
        let command = self.command.as_deref().unwrap_or("");
        let whole = ["BEGIN", "START TRANSACTION", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE"];
        whole.contains(&command)
    }

    /// Whether it is a COMMIT of what was not committed: the transaction had failed, or failed at its end.
    pub fn fails_to_commit(&self) -> bool {
        self.command.as_deref() == Some("COMMIT") && self.xact.as_deref() == Some("aborted")
    }

    /// When it ended, as far as that is known.
    pub fn ended_at(&self) -> i64 {
        self.at.saturating_add(self.duration.unwrap_or(0).max(0))
    }

    /// The statement's text without the semicolon behind it.
    pub fn text(&self) -> &str {
        self.statement
            .as_deref()
            .unwrap_or("")
            .trim_end_matches(|c: char| c == ';' || c.is_ascii_whitespace())
    }

    /// The command's tag with its number of rows, as psql prints it.
    pub fn tag(&self) -> String {
        let command = self.command.as_deref().unwrap_or("");
        match (command, self.rows) {
            ("INSERT", Some(rows)) => format!("INSERT 0 {rows}"),
            ("SELECT" | "FETCH" | "SHOW" | "EXPLAIN" | "FASTPATH", Some(1)) => "(1 row)".to_owned(),
            ("SELECT" | "FETCH" | "SHOW" | "EXPLAIN" | "FASTPATH", Some(rows)) => {
                format!("({rows} rows)")
            }
            ("CREATE TABLE AS" | "SELECT INTO", Some(rows)) => format!("SELECT {rows}"),
            ("UPDATE" | "DELETE" | "MERGE" | "COPY" | "MOVE" | "EXECUTE", Some(rows)) => {
                format!("{command} {rows}")
            }
            _ => command.to_owned(),
        }
    }

    /// The accesses that were refused, or would have been, each on a line.
    pub fn refused_accesses(&self) -> Vec<String> {
        let refused = |access: &&Access| matches!(access.decision.as_deref(), Some("deny" | "observe"));
        self.accesses.iter().flatten().filter(refused).map(Access::line).collect()
    }
}

impl Access {
    /// The access in words: `select public.t(a,b), rule 3`.
    pub fn line(&self) -> String {
        let mut line = self.action.clone();
        if let Some(object) = &self.object {
            line.push(' ');
            line.push_str(object);
        }
        if let Some(columns) = &self.columns {
            line.push_str(&format!("({columns})"));
        }
        match self.rule {
            Some(rule) => line.push_str(&format!(", rule {rule}")),
            None if self.decision.as_deref() == Some("deny") => line.push_str(", no rule allows it"),
            None => {}
        }
        line
    }
}
