//! The accesses of an event as the JSON that the trail shows.

#![forbid(unsafe_code)]

use serde_json::{Map, Value};

use crate::audit::event::class_word;
use crate::audit::record::OwnedAccess;
use crate::request::Action;

/// A JSON array with one object for each access; keys that have nothing to say are left out.
pub fn accesses(accesses: &[OwnedAccess], clean: impl Fn(&str) -> String) -> String {
    let list = accesses
        .iter()
        .map(|access| {
            let mut object = Map::new();
            let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
            put("action", Action { verb: access.verb, kind: access.kind }.to_string().into());
            if !access.name.is_empty() || access.oid != 0 {
                put("class", class_word(access.class).into());
                put("object", clean(&access.name).into());
                put("oid", access.oid.into());
            }
            if !access.columns.is_empty() {
                put("columns", clean(&access.columns).into());
            }
            if let Some(word) = access.decision.word() {
                put("decision", word.into());
            }
            if let Some(rule) = access.rule {
                put("rule", rule.into());
            }
            Value::Object(object)
        })
        .collect();
    Value::Array(list).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::event::AuditDecision;
    use crate::request::{Kind, ObjectClass, Verb};

    #[test]
    fn an_access_is_one_object() {
        let access = OwnedAccess {
            verb: Verb::Drop,
            kind: Some(Kind::Table),
            class: ObjectClass::Relation,
            oid: 7,
            name: "public.\"a\"".to_owned(),
            columns: String::new(),
            decision: AuditDecision::Deny,
            rule: Some(3),
        };
        assert_eq!(
            accesses(&[access], str::to_owned),
            r#"[{"action":"drop table","class":"relation","object":"public.\"a\"","oid":7,"decision":"deny","rule":3}]"#
        );
        assert_eq!(accesses(&[], str::to_owned), "[]");
    }
}
