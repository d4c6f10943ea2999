//! decide_accesses and function_action: what a policy leaves of what a role could do, for blast_radius.

use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde::Deserialize;

use crate::pg::admin_error::{AdminError, AdminResult, given};
use crate::pg::catalog;
use crate::pg::enforce::{self, Target, Wanted};
use crate::pg::functions::replay::document;
use crate::pg::functions::{Untouched, administrator};
use crate::pg::policies::{self, Policy};
use crate::pg::redecide::{self, Told};
use crate::pg::text_datum::Text;
use crate::request::{Action, Form, Verb, Voice};

/// number, allowed, rule, reason.
type Answer = (i32, bool, Option<i64>, Option<Text>);

/// An access to be decided. One document for all of them, because texts as such come in the database's encoding.
#[derive(Deserialize)]
struct Asked {
    action: String,
    class: String,
    oid: u32,
    name: String,
    columns: String,
}

/// Decides accesses, a list of objects with action, class, oid, name and columns; answers have their numbers, from 1.
#[pg_extern(sql = false)]
#[expect(clippy::type_complexity, reason = "the columns of the function's result")]
fn decide_accesses(
    policy: Option<Text>,
    accesses: Option<Untouched>,
) -> Result<
    TableIterator<
        'static,
        (name!(number, i32), name!(allowed, bool), name!(rule_id, Option<i64>), name!(reason, Option<Text>)),
    >,
    ErrorReport,
> {
    let policy = policy.as_deref();
    let decide = || -> AdminResult<Vec<Answer>> {
        administrator()?;
        let policy = redecide::stored(given(policy, "policy")?)?;
        let asked: Vec<Asked> = document(accesses, "accesses")?;
        let answers = (1..).zip(&asked).map(|(number, asked)| {
            let Asked { action, class, oid, name, columns } = asked;
            let told = Told { action, class, oid: *oid, name, columns, voice: Voice::Named };
            answer(number, &told, &policy)
        });
        answers.collect()
    };
    let answers = decide();
    policies::forget();
    Ok(TableIterator::new(answers?))
}

fn answer(number: i32, told: &Told<'_>, policy: &Policy) -> AdminResult<Answer> {
    if redecide::action(told.action).is_none() {
        return Err(AdminError::invalid(format!("unknown action \"{}\"", told.action)));
    }
    let Some(wanted) = redecide::wanted(told, policy) else {
        return Ok((number, true, None, Some("needs no rule".into())));
    };
    let mut outcome = enforce::decide_under(None, policy, &wanted, Form::Plain, "");
    // What is kept elsewhere takes an allow of its own (gather::relations).
    if let (Target::Relation(relid), None) = (&wanted.target, &outcome.refusal)
        && catalog::relation_facts(*relid).is_some_and(|facts| facts.kind == b'f')
    {
        let elsewhere = Wanted::named(Action::plain(Verb::Foreign), wanted.target.clone());
        outcome = enforce::decide_under(None, policy, &elsewhere, Form::Plain, "");
    }
    let mut obligations = Vec::new();
    if outcome.obligations.require_where.is_some() {
        obligations.push("with a condition".to_owned());
    }
    if let Some((limit, _)) = outcome.obligations.max_rows {
        obligations.push(format!("at most {limit} rows at a time"));
    }
    let conditions = (!obligations.is_empty()).then(|| obligations.join(", "));
    let allowed = outcome.refusal.is_none();
    let reason = outcome.refusal.map(|refusal| refusal.message).or(conditions).map(Text);
    Ok((number, allowed, outcome.decided.rule, reason))
}

/// The action that running a function asks for: `file`, `inspect`, `system`, `execute`, …; NULL where it needs no rule.
#[pg_extern(sql = false)]
fn function_action(function: Option<pg_sys::Oid>) -> Result<Option<String>, ErrorReport> {
    let look_up = || -> AdminResult<Option<String>> {
        administrator()?;
        Ok(redecide::action_of_function(given(function, "function")?).map(str::to_owned))
    };
    Ok(look_up()?)
}
