//! An event as one line of JSON, for the server's log: the keys are the columns of the view `audit`.
//!
//! ASCII alone, secrets taken out as in the table: no text of an agent ends the line, starts another one, or reads
//! otherwise than it stands.

#![forbid(unsafe_code)]

use std::fmt::Write;

use crate::ascii_json::push_string;
use crate::audit::event::{AccessRecord, EventKind, class_word};
use crate::audit::record::OwnedEvent;
use crate::audit::redact::redact;
use crate::token::hex;

/// The line, without an end of line. Keys that have nothing to say are left out.
pub fn line(seq: u64, database: &str, event: &OwnedEvent) -> String {
    let mut line = String::with_capacity(event.statement().len().saturating_add(512));
    // Writing to a String cannot fail.
    let _ = write!(line, "{{\"seq\":{seq},\"at\":{}", Seconds(event.at));
    let mut word = |key: &str, value: &str| {
        if !value.is_empty() {
            let _ = write!(line, ",\"{key}\":");
            push_string(value, &mut line);
        }
    };
    word("event", event.kind.word().unwrap_or(""));
    word("database", database);
    if event.session_id != [0; 16] {
        word("session_id", &uuid(&event.session_id));
    }
    if let Some(window) = &event.window_id {
        word("window_id", &uuid(window));
    }
    word("role", event.role());
    word("client_addr", event.client_addr());
    word("application_name", &redact(event.application_name()));
    word("command", event.command());
    match event.kind {
        // It was read with the whole text, before it was cut.
        EventKind::Text => word("text", event.statement()),
        _ => word("statement", &redact(event.statement())),
    }
    if let Some(digest) = &event.statement_sha256 {
        word("statement_sha256", &hex(digest));
    }
    word("decision", event.decision.word().unwrap_or(""));
    word("sqlstate", event.sqlstate.as_ref().and_then(|code| std::str::from_utf8(code).ok()).unwrap_or(""));
    word("message", &redact(event.message()));
    let mut number = |key: &str, value: Option<i64>| {
        if let Some(value) = value {
            let _ = write!(line, ",\"{key}\":{value}");
        }
    };
    let known = |value: i64| (value >= 0).then_some(value);
    number("pid", Some(i64::from(event.pid)));
    number("level", Some(i64::from(event.level)));
    number("rule_id", event.rule_id);
    number("rows", known(event.rows));
    number("duration_us", known(event.duration_us));
    number("policy_version", known(event.policy_version).filter(|version| *version > 0));
    if event.statement_sha256.is_some() {
        number("statement_length", i64::try_from(event.statement_len).ok());
    }
    if event.xid != 0 {
        let _ = write!(line, ",\"xid\":\"{}\"", event.xid);
    }
    list("lineage", event.lineage().map(Some), &mut line);
    if let Some(parameters) = event.parameters() {
        list("parameters", parameters, &mut line);
    }
    for (n, oid) in event.parameter_types.iter().enumerate() {
        let _ = write!(line, "{}{oid}", if n == 0 { ",\"parameter_types\":[" } else { "," });
    }
    if !event.parameter_types.is_empty() {
        line.push(']');
    }
    for (n, access) in event.accesses().enumerate() {
        line.push_str(if n == 0 { ",\"accesses\":[" } else { "," });
        push_access(access, &mut line);
    }
    if event.accesses().len() > 0 {
        line.push(']');
    }
    line.push('}');
    line
}

/// Microseconds as seconds with six decimals: a JSON number that loses nothing.
struct Seconds(i64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let micros = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}

fn list<'a>(key: &str, items: impl ExactSizeIterator<Item = Option<&'a str>>, line: &mut String) {
    if items.len() == 0 {
        return;
    }
    let _ = write!(line, ",\"{key}\":[");
    for (n, item) in items.enumerate() {
        if n > 0 {
            line.push(',');
        }
        match item {
            Some(text) => push_string(&redact(text), line),
            None => line.push_str("null"),
        }
    }
    line.push(']');
}

/// An access with the keys of the trail's column `accesses`, those left out that have nothing to say.
fn push_access(access: AccessRecord, line: &mut String) {
    let kind = access.kind.map_or(String::new(), |kind| format!(" {}", kind.word()));
    let _ = write!(line, "{{\"action\":\"{}{kind}\"", access.verb.word());
    if !access.name.is_empty() || access.oid != 0 {
        let _ =
            write!(line, ",\"class\":\"{}\",\"oid\":{},\"object\":", class_word(access.class), access.oid);
        push_string(access.name, line);
    }
    if !access.columns.is_empty() {
        line.push_str(",\"columns\":");
        push_string(access.columns, line);
    }
    if let Some(rule) = access.rule {
        let _ = write!(line, ",\"rule\":{rule}");
    }
    if let Some(word) = access.decision.word() {
        let _ = write!(line, ",\"decision\":\"{word}\"");
    }
    line.push('}');
}

fn uuid(bytes: &[u8; 16]) -> String {
    let digits = hex(bytes);
    let part = |range: std::ops::Range<usize>| digits.get(range).unwrap_or("");
    format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::audit::event::{AuditDecision, AuditEvent, EventKind};
    use crate::audit::record;
    use crate::request::{ObjectClass, Verb};

    fn written(text: &str) -> String {
        let lineage = [text.to_owned()];
        let parameters = [Some(text.to_owned()), None];
        let accesses = [AccessRecord {
            verb: Verb::Select,
            kind: None,
            class: ObjectClass::Relation,
            oid: 7,
            name: text,
            columns: text,
            decision: AuditDecision::Deny,
            rule: Some(3),
        }];
        let event = AuditEvent {
            window_id: Some([0x1b; 16]),
            lineage: &lineage,
            role: text,
            client_addr: text,
            application_name: text,
            command: text,
            statement: text,
            statement_len: 3,
            parameters: Some(&parameters),
            accesses: &accesses,
            decision: AuditDecision::Deny,
            sqlstate: Some(*b"42501"),
            message: text,
            xid: 9,
            ..AuditEvent::bare(EventKind::Statement, 1_500_000, [0xab; 16])
        };
        let mut bytes = Vec::new();
        record::encode(&event, &mut bytes);
        line(42, text, &record::decode(&bytes).unwrap())
    }

    #[test]
    fn an_event_is_one_object() {
        let line = written("t");
        let json: Value = serde_json::from_str(&line).unwrap();
        assert!(line.starts_with("{\"seq\":42,\"at\":1.500000,\"event\":\"statement\""), "{line}");
        assert_eq!(json["session_id"], "abababab-abab-abab-abab-abababababab");
        assert_eq!(json["accesses"][0]["object"], "t");
        assert_eq!(json["parameters"], serde_json::json!(["t", null]));
        assert_eq!(json["xid"], "9");
        assert!(json.get("rows").is_none() && json.get("statement_length").is_none());
    }

    #[test]
    fn secrets_are_taken_out() {
        let line = written("alter role a password 's3cret'");
        let json: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["statement"], "alter role a password '<redacted>'");
        assert_eq!(json["parameters"][0], "alter role a password '<redacted>'");
    }

    #[test]
    fn times_before_the_epoch_are_numbers_too() {
        assert_eq!(Seconds(-1).to_string(), "-0.000001");
        assert_eq!(Seconds(1_000_001).to_string(), "1.000001");
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_line(text in "(?s)(.|[\"\\\\\n\r{}:,\u{0}-\u{1f}\u{2028}]){0,40}") {
            let line = written(&text);
            prop_assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            let json: Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(json["accesses"][0]["object"].as_str(), Some(text.as_str()));
            if !text.is_empty() {
                prop_assert_eq!(json["role"].as_str(), Some(text.as_str()));
            }
        }
    }
}
