//! The accesses of an event as the JSON that the trail shows.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt::Write;

use crate::audit::event::class_word;
use crate::audit::record::OwnedAccess;

/// A JSON array with one object for each access; keys that have nothing to say are left out. The keys come in the
/// order in which jsonb keeps them (by length, then by bytes), which spares it the sorting.
pub fn accesses<'a>(accesses: &'a [OwnedAccess], clean: impl Fn(&'a str) -> Cow<'a, str>) -> String {
    let mut json = String::with_capacity(accesses.len().saturating_mul(160).saturating_add(2));
    json.push('[');
    for (n, access) in accesses.iter().enumerate() {
        json.push_str(if n == 0 { "{" } else { ",{" });
        let has_object = !access.name.is_empty() || access.oid != 0;
        if has_object {
            let _ = write!(json, "\"oid\":{},", access.oid);
        }
        if let Some(rule) = access.rule {
            let _ = write!(json, "\"rule\":{rule},");
        }
        if has_object {
            let _ = write!(json, "\"class\":\"{}\",", class_word(access.class));
        }
        let _ = write!(json, "\"action\":\"{}", access.verb.word());
        if let Some(kind) = access.kind {
            let _ = write!(json, " {}", kind.word());
        }
        json.push('"');
        if has_object {
            json.push_str(",\"object\":");
            push_string(&clean(&access.name), &mut json);
        }
        if !access.columns.is_empty() {
            json.push_str(",\"columns\":");
            push_string(&clean(&access.columns), &mut json);
        }
        if let Some(word) = access.decision.word() {
            let _ = write!(json, ",\"decision\":\"{word}\"");
        }
        json.push('}');
    }
    json.push(']');
    json
}

fn push_string(text: &str, json: &mut String) {
    json.push('"');
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c < ' ' || c == '"' || c == '\\') {
        let (plain, behind) = rest.split_at_checked(at).unwrap_or((rest, ""));
        json.push_str(plain);
        let mut chars = behind.chars();
        if let Some(c) = chars.next() {
            let _ = match c {
                '"' | '\\' => write!(json, "\\{c}"),
                _ => write!(json, "\\u{:04x}", u32::from(c)),
            };
        }
        rest = chars.as_str();
    }
    json.push_str(rest);
    json.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::audit::event::AuditDecision;
    use crate::request::{Kind, ObjectClass, Verb};

    fn access(name: &str) -> OwnedAccess {
        OwnedAccess {
            verb: Verb::Drop,
            kind: Some(Kind::Table),
            class: ObjectClass::Relation,
            oid: 7,
            name: name.to_owned(),
            columns: String::new(),
            decision: AuditDecision::Deny,
            rule: Some(3),
        }
    }

    #[test]
    fn an_access_is_one_object() {
        assert_eq!(
            accesses(&[access("public.\"a\"")], |name| name.into()),
            r#"[{"oid":7,"rule":3,"class":"relation","action":"drop table","object":"public.\"a\"","decision":"deny"}]"#
        );
        let bare =
            OwnedAccess { kind: None, oid: 0, decision: AuditDecision::None, rule: None, ..access("") };
        assert_eq!(
            accesses(&[bare.clone(), bare], |name| name.into()),
            r#"[{"action":"drop"},{"action":"drop"}]"#
        );
        assert_eq!(accesses(&[], |name| name.into()), "[]");
    }

    proptest! {
        #[test]
        fn any_name_comes_back(name in "(?s).{1,30}") {
            let json: Value = serde_json::from_str(&accesses(&[access(&name)], |name| name.into())).unwrap();
            prop_assert_eq!(json[0]["object"].as_str(), Some(name.as_str()));
        }
    }
}
