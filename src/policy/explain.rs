//! Words for a denial: what an agent reads before it tries again.

#![forbid(unsafe_code)]

use crate::decision::Denial;
use crate::refusal::{Decider, Place, Refusal, SqlState};
use crate::request::{Action, Object, ObjectClass, Oid};

/// What a denial is about.
pub struct Denied<'a> {
    /// The policy's name.
    pub policy: &'a str,
    /// The action.
    pub action: Action,
    /// The object, where the action has one.
    pub object: Option<&'a Object>,
    /// Why.
    pub denial: Denial,
    /// The column that decided, by name; empty for none.
    pub column: &'a str,
    /// The actions that the policy does allow on the object: on the data of a relation, or execution of a function.
    pub allowed: &'a [Action],
}

/// The refusal of a denied access.
pub fn refusal(denied: &Denied<'_>) -> Refusal {
    let Denied { policy, action, object, denial, column, allowed } = denied;
    let on = object.map_or_else(String::new, |object| format!(" on {} {object}", class_word(object.class)));
    let (reason, message, why) = match denial {
        Denial::Rule(rule) => {
            ("denied_by_rule", format!("policy \"{policy}\" denies {action}{on}"), format!("rule={rule}"))
        }
        Denial::Column(rule, _) => (
            "denied_by_rule",
            format!("policy \"{policy}\" denies {action} of column \"{column}\"{on}"),
            format!("rule={rule} column={column}"),
        ),
        Denial::NoAllow => (
            "no_rule",
            format!("policy \"{policy}\" does not allow {action}{on}"),
            "No rule allows it".to_owned(),
        ),
        Denial::ColumnNotAllowed(_) => (
            "column_not_allowed",
            format!("policy \"{policy}\" does not allow {action} of column \"{column}\"{on}"),
            format!("column={column} No rule allows it"),
        ),
        Denial::PatternMismatch(rule) => (
            "statement_pattern",
            format!("policy \"{policy}\" allows {action}{on} only for statements of another form"),
            format!("rule={rule} The statement does not match its statement_pattern"),
        ),
        Denial::OutOfScope(block) => (
            "out_of_scope",
            format!("the token does not cover {action}{on}"),
            format!("block={block} This block of the token leaves it out"),
        ),
        Denial::Unapproved(rule) => (
            "needs_approval",
            format!("policy \"{policy}\" lets {action}{on} pass only with approval"),
            format!("rule={rule} People have to agree to it first"),
        ),
        Denial::Never => ("never", format!("no agent may {action}{on}"), "No rule can allow it".to_owned()),
    };
    let object_word = object.map(|object| format!(" object={object}")).unwrap_or_default();
    Refusal {
        sqlstate: SqlState::InsufficientPrivilege,
        reason,
        message,
        detail: format!("action={action}{object_word} policy={policy} {why}."),
        hint: hint(denied, allowed),
        rule: match denial {
            Denial::Rule(rule)
            | Denial::Column(rule, _)
            | Denial::PatternMismatch(rule)
            | Denial::Unapproved(rule) => Some(*rule),
            _ => None,
        },
        decided_by: match denial {
            Denial::OutOfScope(block) => Some(Decider::Block(*block)),
            _ => None,
        },
        token: None,
        place: match object {
            Some(object) if object.class == ObjectClass::Relation => Place {
                schema: object.schema.clone(),
                table: object.name.clone(),
                column: (*column).to_owned(),
            },
            Some(object) => Place { schema: object.schema.clone(), ..Place::default() },
            None => Place::default(),
        },
    }
}

fn hint(denied: &Denied<'_>, allowed: &[Action]) -> String {
    let all = "SELECT * FROM agent_guard.session_policy lists what this session may do.";
    if let Denial::OutOfScope(_) = denied.denial {
        return "Ask the agent that derived this token, or stay within its scope; SELECT * FROM agent_guard.whoami() shows it.".to_owned();
    }
    if let Denial::PatternMismatch(rule) = denied.denial {
        return format!(
            "SELECT statement_pattern FROM agent_guard.session_policy WHERE rule_id = {rule} tells the form."
        );
    }
    match denied.object {
        Some(object) if !allowed.is_empty() => {
            let words: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            format!("On {object} this session may: {}. {all}", words.join(", "))
        }
        // Said of data alone, because that is what was asked: other rules may allow to alter it, say.
        Some(object) if object.class == ObjectClass::Relation && object.oid != Oid(0) => {
            format!("Nothing is allowed with the data of {object}. {all}")
        }
        _ => all.to_owned(),
    }
}

fn class_word(class: ObjectClass) -> &'static str {
    match class {
        ObjectClass::Relation => "relation",
        ObjectClass::Function => "function",
        ObjectClass::Schema => "schema",
        ObjectClass::Role => "role",
        ObjectClass::Other => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Kind, Verb};

    #[test]
    fn a_denial_tells_rule_action_object_and_what_is_allowed() {
        let object = Object {
            class: ObjectClass::Relation,
            oid: Oid(5),
            schema: "shop".into(),
            name: "orders".into(),
            args: None,
        };
        let denied = Denied {
            policy: "shop",
            action: Action::on(Verb::Drop, Kind::Table),
            object: Some(&object),
            denial: Denial::Rule(7),
            column: "",
            allowed: &[Action::plain(Verb::Select), Action::plain(Verb::Insert)],
        };
        let refusal = refusal(&denied);
        assert_eq!(refusal.message, "policy \"shop\" denies drop table on relation shop.orders");
        assert!(
            refusal.full_detail().starts_with("reason=denied_by_rule action=drop table object=shop.orders")
        );
        assert!(refusal.full_detail().contains("rule=7"));
        assert!(refusal.hint.contains("select, insert"));
        assert_eq!((refusal.place.schema.as_str(), refusal.place.table.as_str()), ("shop", "orders"));
        assert_eq!(refusal.rule, Some(7));
    }

    fn hint_of(class: ObjectClass, denial: Denial, allowed: &[Action]) -> String {
        let object = Object { class, oid: Oid(5), schema: "shop".into(), name: "x".into(), args: None };
        let action = Action::on(Verb::Drop, Kind::Function);
        refusal(&Denied { policy: "p", action, object: Some(&object), denial, column: "", allowed }).hint
    }

    #[test]
    fn a_hint_claims_no_more_than_was_asked() {
        let executes = hint_of(ObjectClass::Function, Denial::Rule(7), &[Action::plain(Verb::Execute)]);
        assert!(executes.contains("may: execute."), "{executes}");
        // Whether other rules let it be altered, created in or granted was not asked.
        for class in [ObjectClass::Function, ObjectClass::Schema, ObjectClass::Role, ObjectClass::Other] {
            let hint = hint_of(class, Denial::NoAllow, &[]);
            assert!(!hint.contains("Nothing is allowed"), "{hint}");
        }
        assert!(
            hint_of(ObjectClass::Relation, Denial::NoAllow, &[])
                .starts_with("Nothing is allowed with the data of shop.x.")
        );
    }

    #[test]
    fn a_statement_of_another_form_is_told_where_the_form_is() {
        let hint = hint_of(ObjectClass::Relation, Denial::PatternMismatch(9), &[]);
        assert!(hint.contains("statement_pattern") && hint.contains("rule_id = 9"), "{hint}");
    }
}
